//! The part of `tagflow reconcile` that looks at a store: its rows against the commit they claim to
//! show.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::{Drift, Which};
use dataflow::{Repair, publish_rest};
use schemas::control::Control;
use sinks::commits::{CommitError, Snapshot};
use sinks::compare::Difference;
use sinks::cql::{CqlPublisher, CqlScan, CqlSettings};
use sinks::publish::JobRow;
use sinks::served::{Check, ServedError, claimed};
use sinks::storage::Storage;

use crate::error::CliError;
use crate::repairs::Mender;
use crate::signals::runtime;
use crate::state::open;

/// How long the rows of a commit may take to be in the store.
const PUBLISH_WAIT_US: u64 = 60_000_000;

/// How often rows are read again whose commit is not kept any more.
const ROUNDS: u32 = 5;
/// How long a store is given to show another commit.
const AGAIN: Duration = Duration::from_millis(300);

/// A store, and the commit that it claims to show.
pub(crate) struct Claim {
    settings: CqlSettings,
    state: PathBuf,
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
        let shown = runtime.block_on(async {
            let scan = CqlScan::open(&settings).await.map_err(untold)?;
            shown(&scan, &*storage).await
        });
        let (job, snapshot) = shown?;
        let state = state.to_owned();
        Ok(Self { settings, state, storage, job, snapshot })
    }

    /// The commit.
    pub(crate) fn commit(&self) -> u64 {
        self.job.published
    }

    /// The events that it counts.
    pub(crate) fn events(&self) -> u64 {
        self.snapshot.manifest.body.counters.events
    }

    /// Holds the rows that `which` chooses against it: how many, and what differs.
    pub(crate) fn check(&self, which: &Which) -> Result<(u64, Vec<Drift>), CliError> {
        let mine = |key, name: &str| which.has(key, name);
        let mut check = Check::new(&*self.storage, Arc::clone(&self.snapshot), &mine);
        let runtime = runtime().map_err(untold)?;
        runtime.block_on(self.hold(&mut check, which.is_all()))?;
        let (checked, found) = check.end(which.is_all());
        Ok((checked, found.into_iter().map(drift).collect()))
    }
}

impl Claim {
    /// Has the rows of `values` published again, through the job or, where none lives, by
    /// ourselves, and all boards and the row of the job with them; then reads the claim anew. What
    /// was done.
    pub(crate) fn mend(
        &mut self,
        mender: &Mender,
        values: &[Drift],
    ) -> Result<Vec<Repair>, CliError> {
        let (taken, done) = mender.ask(&self.snapshot.manifest.header, &again(values))?;
        let wanted = taken.header.commit;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let began_us = clock.mono_us();
        while self.job.published < wanted {
            let publisher = Box::new(CqlPublisher::new(self.settings.clone())?);
            let (job, wait) = (self.job.name.clone(), PUBLISH_WAIT_US / 1000);
            if let Some(rest) = publish_rest(&self.state, job, publisher, &clock, wait)? {
                rest.wait()?;
            }
            let runtime = runtime().map_err(untold)?;
            let job = runtime.block_on(async { CqlScan::open(&self.settings).await?.job().await });
            self.job = job.map_err(untold)?;
            if clock.mono_us() - began_us > PUBLISH_WAIT_US && self.job.published < wanted {
                let has = self.job.published;
                return Err(CliError::Failed(format!(
                    "commit {wanted} has the rows to be written again, and the store commit {has} \
                     only: whatever publishes to it is behind, or there is nobody"
                )));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        *self = Self::read(self.settings.clone(), &self.state)?;
        Ok(done)
    }
}

/// What has rows written again: one record a row.
fn again(values: &[Drift]) -> Vec<Control> {
    let tags = values.iter().filter(|value| !value.key.is_empty() && value.field != "board");
    let mut rows: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for Drift { scope, key, field, stored, .. } in tags {
        let display = rows.entry((scope, key)).or_insert(key);
        if let ("display", Some(shown)) = (field.as_str(), stored.as_str()) {
            *display = shown;
        }
    }
    let record = |((scope, key), display): ((&str, &str), &str)| Control::Republish {
        scope: scope.to_owned(),
        key: key.to_owned(),
        display: display.to_owned(),
    };
    rows.into_iter().map(record).collect()
}

impl Claim {
    async fn hold(&self, check: &mut Check<'_>, boards: bool) -> Result<(), CliError> {
        let scan = CqlScan::open(&self.settings).await.map_err(untold)?;
        let mut held = Held(Ok(()));
        scan.tags(|row| held.note(check.tag(&row))).await.map_err(untold)?;
        if boards {
            check.job(&self.job);
            scan.boards(|row| held.note(check.board(&row))).await.map_err(untold)?;
        }
        for round in 1..=ROUNDS {
            let (unsure, boards) = check.unsure();
            if unsure.is_empty() && !boards {
                break;
            }
            let (_, snapshot) = shown(&scan, &*self.storage).await?;
            check.go_on(snapshot, round == ROUNDS);
            for (scope, tag) in unsure {
                let row = scan.tag(&scope, &tag).await.map_err(untold)?;
                row.iter().for_each(|row| held.note(check.tag(row)));
            }
            if boards {
                scan.boards(|row| held.note(check.board(&row))).await.map_err(untold)?;
            }
        }
        held.0.map_err(untold)
    }
}

/// The first error of many rows.
struct Held(Result<(), CommitError>);

impl Held {
    fn note(&mut self, held: Result<(), CommitError>) {
        if self.0.is_ok() {
            self.0 = held;
        }
    }
}

/// What a store claims to show now, open.
async fn shown(scan: &CqlScan, storage: &dyn Storage) -> Result<(JobRow, Arc<Snapshot>), CliError> {
    let mut rounds = 0;
    loop {
        let job = scan.job().await.map_err(untold)?;
        let opened = claimed(storage, &job)
            .and_then(|manifest| Ok(Arc::new(Snapshot::open(storage, manifest, None)?)));
        match opened {
            // A living job's commits come and go: the store shows another one by now.
            Err(ServedError::NotKept { .. } | ServedError::Commit(_)) if rounds < ROUNDS => {
                rounds += 1;
                tokio::time::sleep(AGAIN).await;
            }
            other => return Ok((job, other.map_err(untold)?)),
        }
    }
}

fn drift(difference: Difference) -> Drift {
    let Difference { scope, key, field, a: stored, b: recomputed, .. } = difference;
    Drift { scope, key, field, stored, recomputed, events: Vec::new() }
}
