//! Sessions with a database, all made by the same rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use schemas::config::Consistency as Wanted;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileBuilder};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::metadata::Peer;
use scylla::policies::host_filter::HostFilter;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;

use super::{CqlError, CqlSettings, tls};

/// How long it may take to make one connection.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How long it may take until the first request can be sent.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long the driver waits for an answer; longer than the servers' own timeouts.
pub(super) const REQUEST_WAIT: Duration = Duration::from_millis(2500);

/// Without encryption, no password is sent to another machine, whatever peers a server names.
struct LoopbackOnly;

impl HostFilter for LoopbackOnly {
    fn accept(&self, peer: &Peer) -> bool {
        peer.address.ip().is_loopback()
    }
}

/// The driver's consistency for a configured one.
pub(super) fn consistency(wanted: Wanted) -> Consistency {
    match wanted {
        Wanted::One => Consistency::One,
        Wanted::LocalOne => Consistency::LocalOne,
        Wanted::Quorum => Consistency::Quorum,
        Wanted::LocalQuorum => Consistency::LocalQuorum,
        Wanted::All => Consistency::All,
    }
}

/// The execution profile of all requests.
pub(super) fn profile(settings: &CqlSettings) -> ExecutionProfileBuilder {
    let mut balancing = DefaultPolicy::builder();
    if let Some(datacenter) = &settings.datacenter {
        balancing = balancing.prefer_datacenter(datacenter.clone()).permit_dc_failover(false);
    }
    ExecutionProfile::builder()
        .request_timeout(Some(REQUEST_WAIT))
        .load_balancing_policy(balancing.build())
        .consistency(consistency(settings.consistency.read))
}

/// Connects; `profile` is the default for requests.
pub(super) async fn connect(
    settings: &CqlSettings,
    profile: ExecutionProfile,
) -> Result<Session, CqlError> {
    settings.check()?;
    let mut builder = SessionBuilder::new()
        .known_nodes(settings.nodes.iter().map(ToString::to_string))
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT_WAIT)
        .keyspaces_to_fetch([&settings.keyspace])
        .tcp_nodelay(true);
    if let Some(known) = &settings.credentials {
        builder = builder.user(&known.user, &known.password);
    }
    match &settings.tls {
        Some(encrypted) => builder = builder.tls_context(Some(tls::context(encrypted)?)),
        None if settings.credentials.is_some() => {
            builder = builder.host_filter(Arc::new(LoopbackOnly));
        }
        None => {}
    }
    let connected = tokio::time::timeout(OPEN_WAIT, builder.build()).await;
    let timed_out = |_| CqlError::silent(format!("no connection within {OPEN_WAIT:?}"));
    let session = connected.map_err(timed_out)??;
    datacenter(&session, settings)?;
    Ok(session)
}

/// The data centre that requests go to.
pub(super) fn datacenter(session: &Session, settings: &CqlSettings) -> Result<String, CqlError> {
    let state = session.get_cluster_state();
    let names = state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone());
    let names: BTreeSet<String> = names.collect();
    let listed = || names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match &settings.datacenter {
        Some(name) if names.contains(name) => Ok(name.clone()),
        Some(name) => Err(CqlError::Fatal(format!(
            "the cluster has no data centre {name:?}; --datacenter takes one of {}",
            listed()
        ))),
        None => match names.len() {
            1 => Ok(listed()),
            0 => Err(CqlError::unclear("no node names its data centre")),
            _ => Err(CqlError::Fatal(format!(
                "the cluster has the data centres {}; name the nearest one with --datacenter (in a \
                 dataflow.yaml: datacenter, at the sink)",
                listed()
            ))),
        },
    }
}

/// Whether the servers are ScyllaDB.
pub(super) fn is_scylla(session: &Session) -> bool {
    session.get_cluster_state().get_nodes_info().iter().any(|node| node.sharder().is_some())
}

/// The rows of a small query.
pub(super) async fn query_rows(
    session: &Session,
    statement: impl Into<Statement>,
    values: impl SerializeRow,
) -> Result<QueryRowsResult, CqlError> {
    let result = session.query_unpaged(statement, values).await?;
    result.into_rows_result().map_err(CqlError::unclear)
}
