//! The job's results in a real Cassandra or ScyllaDB.

use super::tables::Database;
use super::{cql, fresh, shared};

#[test]
fn a_fresh_keyspace_does_not_exist() {
    let Some(nodes) = cql() else { return };
    let _servers = shared();
    assert!(!Database::open(&nodes).keyspaces().contains(&fresh("none")));
}
