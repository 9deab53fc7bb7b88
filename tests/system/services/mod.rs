//! Tests against a real Kafka and a real Cassandra or ScyllaDB, named by `TAGFLOW_TEST_KAFKA` and
//! `TAGFLOW_TEST_CQL`. Without servers they are skipped, and say so. Every test has its own topics
//! and keyspaces. A test that stops a server runs alone and leaves all servers running.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

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
mod unreadable;

/// Locked for writing by a test that stops servers.
static SERVERS: RwLock<()> = RwLock::new(());

/// A variable that names servers. If it is unset, a test is reported as skipped.
fn named(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        skipped(1, &format!("{variable} is unset"));
    }
    value
}

/// The brokers, as `HOST:PORT,HOST:PORT`. Without any, a test is reported as skipped.
pub(crate) fn kafka() -> Option<String> {
    named("TAGFLOW_TEST_KAFKA")
}

/// The database nodes, as `HOST:PORT,HOST:PORT`. Without any, a test is reported as skipped.
pub(crate) fn cql() -> Option<String> {
    named("TAGFLOW_TEST_CQL")
}

/// Reports `tests` as skipped, or fails if services are required.
pub(crate) fn skipped(tests: usize, why: &str) {
    assert!(std::env::var_os("TAGFLOW_REQUIRE_SERVICES").is_none(), "services: {why}");
    skip(tests, &format!("services: {why}"));
}

/// Keeps the servers running while held. Every test holds it that stops none.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    SERVERS.read()
}

/// Exclusive use of all servers, to stop and start them.
pub(crate) struct Alone {
    _servers: RwLockWriteGuard<'static, ()>,
    script: String,
    touched: RefCell<BTreeSet<String>>,
}

/// Waits until no other test uses the servers. If they are a user's own, which tests may not stop,
/// a test is reported as skipped.
pub(crate) fn alone() -> Option<Alone> {
    let script = named("TAGFLOW_TEST_SERVICES")?;
    let servers = SERVERS.write();
    Some(Alone { _servers: servers, script, touched: RefCell::default() })
}

impl Alone {
    /// Applies `action` (kill, start, stop, pause, resume, restart) to a node such as `kafka-1`.
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
    /// Restarts what the test stopped: other tests need it.
    fn drop(&mut self) {
        for name in self.touched.borrow().iter() {
            // A node that is not running cannot be resumed, and is started.
            let _ = self.call("resume", name);
            let started = self.call("start", name);
            assert!(std::thread::panicking() || started.status.success(), "{started:?}");
        }
    }
}

/// A name that no topic or keyspace has had before.
pub(crate) fn fresh(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    #[allow(clippy::disallowed_methods, reason = "servers outlive a run of the tests")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}_{now:x}_{:x}_{next}", std::process::id())
}

/// Blocks on `future`, on a runtime of this thread.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The first key that differs between two maps, with both values.
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
