//! What is left of a check where retention has overtaken the log: what came after the oldest kept
//! commit that the log still reaches back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::reconcile::{Found, Progress, ReconcileError, Report, Request, reconcile};
use schemas::manifest::{Manifest, Position};
use sinks::commits::{CommitError, Snapshot, list_commits, load};

use super::output::{tell, with};
use crate::error::CliError;
use crate::progress::LiveLine;

/// Where the log of each partition begins, as far as that was met.
type Begins = BTreeMap<String, u64>;

/// Counts the log afresh, with a line that tells how far that is.
pub(super) fn check(request: Request) -> Result<Found, CliError> {
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let found = reconcile(request, &progress);
    drop(live);
    Ok(found?)
}

/// Checks what can be checked, and tells it; how many values differ, those that are `served`
/// included. Where none does the answer is still that it cannot be told: the content of the earlier
/// commit was taken on trust.
pub(super) fn check_after_retention(
    request: Request,
    overtaken: ReconcileError,
    served: &Report,
    json: bool,
) -> Result<u64, CliError> {
    let Some((since, found)) = from_oldest_commit(request, &overtaken)? else {
        return Err(overtaken.into());
    };
    let report = with(&found.report, served);
    tell(&found.values, Some(&report), "the log", json)?;
    let told = format!("{overtaken}; what came after commit {since} was checked instead");
    if report.drift > 0 {
        eprintln!("{told}");
        return Ok(report.drift);
    }
    Err(CliError::CannotTell(format!("{told}, and nothing of that differs")))
}

/// The check from the oldest commit on that allows one; none where none does.
fn from_oldest_commit(
    mut request: Request,
    overtaken: &ReconcileError,
) -> Result<Option<(u64, Found)>, CliError> {
    let mut begins = Begins::new();
    note(overtaken, &mut begins);
    let storage = Arc::clone(&request.storage);
    for commit in list_commits(&*storage)? {
        if commit >= request.snapshot.manifest.header.commit {
            break;
        }
        let since = match load(&*storage, commit) {
            // It went meanwhile, or only its header is left.
            Err(CommitError::Missing(_)) => continue,
            other => other?,
        };
        if !is_reached(&since, &begins) {
            continue;
        }
        request.since = Some(Arc::new(Snapshot::open(&*storage, since, None)?));
        match check(request.clone()) {
            Ok(found) => return Ok(Some((commit, found))),
            Err(CliError::Untold(error @ ReconcileError::Overtaken { .. })) => {
                note(&error, &mut begins);
            }
            Err(CliError::Untold(ReconcileError::Since { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn note(error: &ReconcileError, begins: &mut Begins) {
    if let ReconcileError::Overtaken { partition, begins: at, .. } = error {
        let known = begins.entry(partition.clone()).or_default();
        *known = (*known).max(*at);
    }
}

/// Whether all that came after a commit can be in the log.
fn is_reached(commit: &Manifest, begins: &Begins) -> bool {
    begins.iter().all(|(partition, begins)| {
        let mut inputs = commit.body.inputs.values();
        let state = inputs.find_map(|partitions| partitions.get(partition));
        state.is_some_and(
            |state| matches!(state.position, Position::Offset(read) if read >= *begins),
        )
    })
}
