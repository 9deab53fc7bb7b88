//! What `reconcile` does if retention has removed a part of the log that the commit counts: it
//! checks what came after the oldest kept commit that the log still reaches back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::reconcile::{Findings, Progress, ReconcileError, Report, Request, reconcile};
use schemas::manifest::{Manifest, Position};
use sinks::commits::{CommitError, Snapshot, list_commits, load};

use super::output::{combined, print};
use crate::error::CliError;
use crate::progress::LiveLine;
use crate::say;

/// Where the log of each partition begins, as far as a check has run into it.
type Begins = BTreeMap<String, u64>;

/// Counts the log again, showing progress.
pub(super) fn check(request: Request) -> Result<Findings, CliError> {
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let found = reconcile(request, &progress);
    drop(live);
    Ok(found?)
}

/// Checks what can be checked, and prints the result. Returns the number of values that differ,
/// including those that differ in the store. If none do, that is still an error: the content of the
/// earlier commit was not checked.
pub(super) fn check_after_retention(
    request: Request,
    overtaken: ReconcileError,
    served: &Report,
    json: bool,
) -> Result<u64, CliError> {
    let Some((since, found)) = from_oldest_commit(request, &overtaken)? else {
        return Err(overtaken.into());
    };
    let report = combined(&found.report, served);
    print(&found.differences, Some(&report), "the log", json)?;
    let note = format!("{overtaken}; what came after commit {since} was checked instead");
    if report.drift > 0 {
        say::warning(note);
        return Ok(report.drift);
    }
    Err(CliError::CannotTell(format!("{note}, and nothing of it differs")))
}

/// A check since the oldest commit that allows it; `None` if there is no such commit.
fn from_oldest_commit(
    mut request: Request,
    overtaken: &ReconcileError,
) -> Result<Option<(u64, Findings)>, CliError> {
    let mut begins = Begins::new();
    note(overtaken, &mut begins);
    let storage = Arc::clone(&request.storage);
    for commit in list_commits(&*storage)? {
        if commit >= request.snapshot.manifest.header.commit {
            break;
        }
        let since = match load(&*storage, commit) {
            // Retention has removed the commit, or all but its header.
            Err(CommitError::Missing(_)) => continue,
            other => other?,
        };
        if !is_reached(&since, &begins) {
            continue;
        }
        request.since = Some(Arc::new(Snapshot::open(&*storage, since, None)?));
        match check(request.clone()) {
            Ok(found) => return Ok(Some((commit, found))),
            Err(CliError::Reconcile(error @ ReconcileError::Overtaken { .. })) => {
                note(&error, &mut begins);
            }
            Err(CliError::Reconcile(ReconcileError::Since { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn note(error: &ReconcileError, begins: &mut Begins) {
    if let ReconcileError::Overtaken { partition, begins: at, .. } = error {
        let known = begins.entry(partition.clone()).or_insert(0);
        *known = (*known).max(*at);
    }
}

/// Whether everything after a commit may still be in the log.
fn is_reached(commit: &Manifest, begins: &Begins) -> bool {
    begins.iter().all(|(partition, begins)| {
        let mut inputs = commit.body.inputs.values();
        let state = inputs.find_map(|partitions| partitions.get(partition));
        state.is_some_and(
            |state| matches!(state.position, Position::Offset(read) if read >= *begins),
        )
    })
}
