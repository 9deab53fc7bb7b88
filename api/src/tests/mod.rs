//! The service over real sockets, on a store in memory.
//!
//! Invariant: what these tests send and read are bytes, which no code of the service made.

mod answers;
mod connections;
mod hostile;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use schemas::rows::BoardEntry;
use schemas::tags::TagRules;
use sinks::store::{Answer, AsOf, Board, Store, StoreError, Tag, UnknownScope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::{Limits, Metrics, serve};

/// Tests fail after this time instead of hanging.
const DEADLINE: Duration = Duration::from_mins(1);

/// A store of a few tags.
pub(super) struct Memory {
    tags: BTreeMap<(&'static str, String), (String, i64)>,
    empty: AtomicBool,
    /// While it is set, no question is answered.
    pub(super) stuck: AtomicBool,
    /// How many questions came meanwhile.
    pub(super) waiting: AtomicUsize,
}

const SCOPES: [&str; 3] = ["region=New York", "region=a+b", "region=eu"];

impl Memory {
    pub(super) fn new() -> Arc<Self> {
        let posts = ["Sunset", "日本", &"ß".repeat(60), &"ﷺ".repeat(30)];
        let tag = |scope, name: &str| {
            ((scope, schemas::tags::key(name).into_owned()), (name.to_owned(), 3))
        };
        let scopes = [""].into_iter().chain(SCOPES);
        let tags = scopes.flat_map(|scope| posts.map(|name| tag(scope, name))).collect();
        let (empty, stuck) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { tags, empty, stuck, waiting: AtomicUsize::new(0) })
    }

    fn at() -> AsOf {
        AsOf { commit: 7, version: 9, as_of_ms: Some(1_700_000_000_000), wall_ms: 0 }
    }

    async fn ready(&self, scope: &str) -> Result<(), StoreError> {
        if self.stuck.load(Ordering::Relaxed) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        while self.stuck.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.empty.load(Ordering::Relaxed) {
            return Err(StoreError::Empty);
        }
        if scope.is_empty() || SCOPES.contains(&scope) {
            return Ok(());
        }
        let known = SCOPES.map(str::to_owned).to_vec();
        Err(UnknownScope { asked: scope.to_owned(), known }.into())
    }
}

impl Store for Memory {
    fn tag<'a>(&'a self, scope: &'a str, key: &'a str) -> Answer<'a, (AsOf, Option<Tag>)> {
        Box::pin(async move {
            self.ready(scope).await?;
            let mut found = self.tags.iter().filter(|((s, k), _)| (*s, k.as_str()) == (scope, key));
            let tag = found.next().map(|((scope, key), (display, total))| Tag {
                name: key.clone(),
                display: display.clone(),
                scope: (*scope).to_owned(),
                total: *total,
                windows: vec![("1h".into(), 1)],
                first_seen_ms: 0,
                last_seen_ms: 1,
            });
            Ok((Self::at(), tag))
        })
    }

    fn boards<'a>(&'a self, scope: &'a str) -> Answer<'a, (AsOf, Vec<Board>)> {
        Box::pin(async move {
            self.ready(scope).await?;
            let tags = self.tags.iter().filter(|((s, _), _)| *s == scope);
            let entry = |((_, tag), (display, count)): (&(_, String), &(String, i64))| BoardEntry {
                tag: tag.clone(),
                display: display.clone(),
                count: *count,
            };
            Ok((
                Self::at(),
                vec![Board { window: "1h".into(), entries: tags.map(entry).collect() }],
            ))
        })
    }

    fn rules(&self) -> TagRules {
        TagRules::NEWEST
    }

    fn as_of(&self) -> Answer<'_, AsOf> {
        Box::pin(async move {
            if self.empty.load(Ordering::Relaxed) {
                return Err(StoreError::Empty);
            }
            Ok(Self::at())
        })
    }
}

/// A service in this process.
pub(super) struct Served {
    pub(super) at: SocketAddr,
    pub(super) store: Arc<Memory>,
}

pub(super) async fn served(limits: Limits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, store) = (listener.local_addr().unwrap(), Memory::new());
    let read = Arc::clone(&store);
    tokio::spawn(serve(listener, read, limits, Metrics::default(), std::future::pending()));
    Served { at, store }
}

/// What a server sent.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// 0 if it closed the connection without an answer.
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        if text.is_empty() {
            return Self::default();
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Sends bytes, and reads until the server closes the connection.
pub(super) async fn raw(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // A server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        reply
    };
    timeout(DEADLINE, exchange).await.expect("the server neither answers nor closes")
}

/// Asks for a path. `headers` are whole lines.
pub(super) async fn ask(at: SocketAddr, method: &str, path: &str, headers: &str) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    Reply::parse(&raw(at, head.as_bytes()).await)
}

pub(super) async fn get(at: SocketAddr, path: &str) -> Reply {
    ask(at, "GET", path, "").await
}
