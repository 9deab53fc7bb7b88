//! The part of `tagflow reconcile` that looks at a store: its rows against the commit they claim to
//! show.

use std::path::Path;
use std::sync::Arc;

use dataflow::reconcile::{Drift, Which};
use sinks::commits::{CommitError, Snapshot};
use sinks::compare::Difference;
use sinks::cql::{CqlError, CqlScan, CqlSettings};
use sinks::publish::JobRow;
use sinks::served::{Check, ServedError, claimed};
use sinks::storage::Storage;

use crate::error::CliError;
use crate::signals::runtime;
use crate::state::open;

/// A store, and the commit that it claims to show.
pub(crate) struct Claim {
    settings: CqlSettings,
    storage: Arc<dyn Storage>,
    job: JobRow,
    snapshot: Arc<Snapshot>,
}

/// What it cannot be told without.
fn untold(error: impl std::fmt::Display) -> CliError {
    CliError::CannotTell(error.to_string())
}

impl Claim {
    /// Asks a store which commit it shows, and opens that one of the state.
    pub(crate) fn read(settings: CqlSettings, state: &Path) -> Result<Self, CliError> {
        let storage = open(state).map_err(untold)?;
        let runtime = runtime().map_err(untold)?;
        let job = runtime.block_on(async { CqlScan::open(&settings).await?.job().await });
        let job = job.map_err(untold)?;
        let manifest = claimed(&*storage, &job).map_err(untold)?;
        let snapshot = Snapshot::open(&*storage, manifest, None).map_err(untold)?;
        Ok(Self { settings, storage, job, snapshot: Arc::new(snapshot) })
    }

    /// The commit.
    pub(crate) fn commit(&self) -> u64 {
        self.job.published
    }

    /// Holds the rows that `which` chooses against it: how many, and what differs.
    pub(crate) fn check(&self, which: &Which) -> Result<(u64, Vec<Drift>), CliError> {
        let mine = |key, name: &str| which.has(key, name);
        let mut check = Check::new(&*self.storage, Arc::clone(&self.snapshot), &mine);
        let runtime = runtime().map_err(untold)?;
        let mut failed = Ok(());
        let mut note = |held: Result<(), CommitError>| {
            if failed.is_ok() {
                failed = held;
            }
        };
        runtime
            .block_on(async {
                let scan = CqlScan::open(&self.settings).await?;
                scan.tags(|row| note(check.tag(&row))).await?;
                if which.is_all() {
                    check.job(&self.job);
                    scan.boards(|row| note(check.board(&row))).await?;
                }
                Ok::<_, CqlError>(())
            })
            .map_err(untold)?;
        failed.map_err(ServedError::from).map_err(untold)?;
        let (checked, found) = check.end(which.is_all());
        Ok((checked, found.into_iter().map(drift).collect()))
    }
}

fn drift(difference: Difference) -> Drift {
    let Difference { scope, key, field, a: stored, b: recomputed, .. } = difference;
    Drift { scope, key, field, stored, recomputed, events: Vec::new() }
}
