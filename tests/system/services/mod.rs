//! Tests against a real Kafka and a real Cassandra or ScyllaDB. They run where
//! `TAGFLOW_TEST_KAFKA` and `TAGFLOW_TEST_CQL` name servers, and say that they are skipped where
//! not. Every test has topics and keyspaces of its own. A test that stops a server has all servers
//! to itself, and leaves them running.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::harness::skip;

mod chain;
mod cql;
mod doctor;
mod flaky_database;
mod kafka;
mod leaders;
mod produce;
mod promotion;
mod reconcile;
mod recreated_topic;
mod store_repair;
mod tables;
mod topics;

/// Held for writing by the test that stops servers.
static SERVERS: RwLock<()> = RwLock::new(());

/// A variable that names servers. Says that a test is left out where it is unset.
fn named(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        skipped(1, &format!("{variable} is unset"));
    }
    value
}

/// The brokers, as `HOST:PORT,HOST:PORT`. Says that a test is left out where there are none.
pub(crate) fn kafka() -> Option<String> {
    named("TAGFLOW_TEST_KAFKA")
}

/// The nodes of the database, as `HOST:PORT,HOST:PORT`. Says that a test is left out where there
/// are none.
pub(crate) fn cql() -> Option<String> {
    named("TAGFLOW_TEST_CQL")
}

/// Says that `tests` are left out, or fails where that is not allowed.
pub(crate) fn skipped(tests: usize, why: &str) {
    assert!(std::env::var_os("TAGFLOW_REQUIRE_SERVICES").is_none(), "services: {why}");
    skip(tests, &format!("services: {why}"));
}

/// Servers that run as long as this is held. Every test that stops none holds it.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    SERVERS.read().unwrap_or_else(PoisonError::into_inner)
}

/// All servers, for one test to stop and start.
pub(crate) struct Alone {
    _servers: RwLockWriteGuard<'static, ()>,
    script: String,
    touched: RefCell<BTreeSet<String>>,
}

/// Waits until no other test uses the servers. Says that a test is left out where the servers are a
/// user's own, which nobody here may stop.
pub(crate) fn alone() -> Option<Alone> {
    let script = named("TAGFLOW_TEST_SERVICES")?;
    let servers = SERVERS.write().unwrap_or_else(PoisonError::into_inner);
    Some(Alone { _servers: servers, script, touched: RefCell::default() })
}

impl Alone {
    /// Does `action` (kill, start, stop, pause, resume, restart) to a node such as `kafka-1`.
    pub(crate) fn node(&self, action: &str, name: &str) {
        self.touched.borrow_mut().insert(name.to_owned());
        let output = self.call(action, name);
        assert!(output.status.success(), "{action} {name}: {output:?}");
    }

    fn call(&self, action: &str, name: &str) -> std::process::Output {
        Command::new(&self.script).args([action, name]).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Alone {
    /// What a test left stopped would fail all others.
    fn drop(&mut self) {
        for name in self.touched.borrow().iter() {
            // A node that does not run cannot go on, and starts.
            let _ = self.call("resume", name);
            let started = self.call("start", name);
            assert!(std::thread::panicking() || started.status.success(), "{started:?}");
        }
    }
}

/// A name that no topic and no keyspace has had.
pub(crate) fn fresh(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    #[allow(clippy::disallowed_methods, reason = "servers outlive a run of the tests")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}_{now:x}_{:x}_{next}", std::process::id())
}

/// Waits for `future`, on a runtime of this thread's.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The first key of which two maps say different things, and what they say.
pub(crate) fn difference<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    want: &BTreeMap<K, V>,
    got: &BTreeMap<K, V>,
) -> Option<String> {
    let keys: BTreeSet<&K> = want.keys().chain(got.keys()).collect();
    let different: Vec<&K> =
        keys.into_iter().filter(|key| want.get(*key) != got.get(*key)).collect();
    let key = different.first()?;
    let (want, got) = (want.get(*key), got.get(*key));
    Some(format!("{} differ; {key:?}\nwant {want:?}\ngot  {got:?}", different.len()))
}
