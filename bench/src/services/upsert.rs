//! Upserts per second: publishing a whole state, beside a bare loop that writes the same rows.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::config::StoreUri;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::CqlTimestamp;
use sinks::commits::{Follower, Snapshot};
use sinks::storage::DiskStorage;

use super::servers::Servers;
use crate::measure::{measure, now};
use crate::paths::Paths;

/// The numbers of requests in flight to try; the best counts.
const IN_FLIGHT: [usize; 4] = [128, 256, 512, 1024];
/// The bare loop writes at most this many rows, to keep the comparison short.
const ROWS_MAX: usize = 300_000;

/// Prints both rates.
pub(super) fn print(paths: &Paths, servers: &Servers, state: &Path) -> Result<(), Box<dyn Error>> {
    let storage = DiskStorage::open_existing(state).map_err(|_| "no state to publish")?;
    let follower = Follower::new(Arc::new(storage));
    follower.step()?;
    let snapshot = follower.current().ok_or("no commit to publish")?;
    let rows = snapshot.tags_changed(0, None).count();
    let mut best: Option<(usize, f64)> = None;
    for in_flight in IN_FLIGHT {
        let store = servers.keyspace(&paths.tagflow, &format!("bare{in_flight}"))?;
        let rate = bare(&store, &snapshot, in_flight)?;
        eprintln!("bare loop, {in_flight} in flight: {rate:.0} rows/s");
        if best.is_none_or(|(_, known)| rate > known) {
            best = Some((in_flight, rate));
        }
    }
    let store = servers.keyspace(&paths.tagflow, "rebuilt")?;
    let mut rebuild = Command::new(&paths.tagflow);
    rebuild.args(["store", "rebuild", "--store", &store, "--state"]).arg(state);
    let (_, cost) = measure(&mut rebuild)?;
    let (in_flight, bare) = best.ok_or("the bare loop did not run")?;
    let rate = rows as f64 / cost.seconds;
    println!("\nUpserts of {rows} rows to one node\n");
    println!("| program | rows/s | speed / bare loop |");
    println!("| --- | ---: | ---: |");
    println!("| bare loop, {in_flight} in flight (the best of {IN_FLIGHT:?}) | {bare:.0} | 1.00 |");
    println!("| tagflow store rebuild, including startup | {rate:.0} | {:.2} |", rate / bare);
    Ok(())
}

/// Rows per second of a loop without retries, versions or limits.
fn bare(store: &str, snapshot: &Arc<Snapshot>, in_flight: usize) -> Result<f64, Box<dyn Error>> {
    let uri: StoreUri = store.parse()?;
    let keyspace = uri.keyspace;
    let nodes: Vec<String> = uri.nodes.iter().map(ToString::to_string).collect();
    let text = format!(
        "INSERT INTO \"{keyspace}\".tag (scope, tag, display, total, recent, first_seen, last_seen, \
         as_of, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
    );
    let version = snapshot.manifest.header.version;
    let rows: Vec<_> = snapshot
        .tags_changed(0, None)
        .take(ROWS_MAX)
        .map(|(_, row)| {
            (
                (row.scope.to_owned(), row.tag.to_owned(), row.display.to_owned(), row.total),
                (row.recent.to_vec(), CqlTimestamp(row.first_seen), CqlTimestamp(row.last_seen)),
                CqlTimestamp(row.as_of),
            )
        })
        .collect();
    let number = rows.len();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let session = Arc::new(SessionBuilder::new().known_nodes(nodes).build().await?);
        let statement = Arc::new(session.prepare(text).await?);
        let (rows, next) = (Arc::new(rows), Arc::new(AtomicUsize::new(0)));
        let start = now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let (session, statement) = (Arc::clone(&session), Arc::clone(&statement));
            let (rows, next) = (Arc::clone(&rows), Arc::clone(&next));
            tasks.spawn(async move {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ((scope, tag, display, total), (recent, first, last), as_of) = row;
                    let values =
                        (scope, tag, display, total, recent, first, last, as_of, version, version);
                    session.execute_unpaged(&statement, values).await?;
                }
                Ok::<_, scylla::errors::ExecutionError>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(number as f64 / start.elapsed().as_secs_f64())
    })
}
