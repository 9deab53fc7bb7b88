//! A store and the commit that it claims to show: the check of one against the other, and the
//! repair of the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataflow::clock::{Clock, SystemClock};
use dataflow::reconcile::Selection;
use dataflow::{Repair, publish_rest};
use schemas::control::Control;
use sinks::commits::{CommitError, Snapshot};
use sinks::cql::{CqlPublisher, CqlScan, CqlSettings};
use sinks::difference::{Difference, RowKey, RowKind};
use sinks::publish::JobRow;
use sinks::storage::Storage;
use sinks::store_check::{ClaimError, StoreCheck, Unresolved, claimed};

use crate::error::CliError;
use crate::repairs::Requester;
use crate::signals::runtime;
use crate::state::open;

/// How long publishing a commit may take.
const PUBLISH_WAIT_US: u64 = 60_000_000;

/// How many times to read rows again if their commit is no longer kept.
const ROUNDS: u32 = 5;
/// How long to wait for the store to show another commit.
const RETRY_WAIT: Duration = Duration::from_millis(300);

/// A store, and the commit that it claims to show.
pub(crate) struct Claim {
    settings: CqlSettings,
    state: PathBuf,
    storage: Arc<dyn Storage>,
    job: JobRow,
    snapshot: Arc<Snapshot>,
}

/// The error of a check that cannot be made.
fn cannot_tell(error: impl std::fmt::Display) -> CliError {
    CliError::CannotTell(error.to_string())
}

impl Claim {
    /// Reads which commit a store shows, and opens that commit of the state.
    pub(crate) fn read(settings: CqlSettings, state: &Path) -> Result<Self, CliError> {
        let storage = open(state).map_err(cannot_tell)?;
        let runtime = runtime().map_err(cannot_tell)?;
        let claim = runtime.block_on(async {
            let scan = CqlScan::open(&settings).await.map_err(cannot_tell)?;
            claim_of(&scan, &*storage).await
        });
        let (job, snapshot) = claim?;
        let state = state.to_owned();
        Ok(Self { settings, state, storage, job, snapshot })
    }

    /// The commit.
    pub(crate) fn commit(&self) -> u64 {
        self.job.published
    }

    /// The events that the commit counts.
    pub(crate) fn events(&self) -> u64 {
        self.snapshot.manifest.body.counters.events
    }

    /// Checks the selected rows of the store: how many they are, and what differs.
    pub(crate) fn check(&self, selection: &Selection) -> Result<(u64, Vec<Difference>), CliError> {
        let selects = |key, name: &str| selection.selects(key, name);
        let mut check = StoreCheck::new(&*self.storage, Arc::clone(&self.snapshot), &selects);
        let runtime = runtime().map_err(cannot_tell)?;
        runtime.block_on(self.scan(&mut check, selection.is_all()))?;
        Ok(check.finish(selection.is_all()))
    }
}

impl Claim {
    /// Has the differing tags published again, and with them all boards and the row of the job: by
    /// the job, or by this process if no job is running. Then reads the claim again. Returns what
    /// was done.
    pub(crate) fn repair(
        &mut self,
        requester: &Requester,
        differences: &[Difference],
    ) -> Result<Vec<Repair>, CliError> {
        let (taken, done) =
            requester.ask(&self.snapshot.manifest.header, &republish(differences))?;
        let wanted = taken.header.commit;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let began_us = clock.mono_us();
        while self.job.published < wanted {
            let publisher = Box::new(CqlPublisher::new(self.settings.clone())?);
            let (job, wait) = (self.job.name.clone(), PUBLISH_WAIT_US / 1000);
            if let Some(rest) = publish_rest(&self.state, job, publisher, &clock, wait)? {
                rest.wait()?;
            }
            let runtime = runtime().map_err(cannot_tell)?;
            let job = runtime.block_on(async { CqlScan::open(&self.settings).await?.job().await });
            self.job = job.map_err(cannot_tell)?;
            if clock.mono_us() - began_us > PUBLISH_WAIT_US && self.job.published < wanted {
                let has = self.job.published;
                return Err(CliError::Failed(format!(
                    "the rows to write again are in commit {wanted}, but the store only has commit \
                     {has}: its publisher is behind, or not running"
                )));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        *self = Self::read(self.settings.clone(), &self.state)?;
        Ok(done)
    }
}

/// The requests to write the tags of `differences` again, one for each row.
fn republish(differences: &[Difference]) -> Vec<Control> {
    let mut rows: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for Difference { row: RowKey { scope, key, kind }, field, left, .. } in differences {
        // Boards and the row of the job are written with every repair.
        if *kind != RowKind::Tag {
            continue;
        }
        let display = rows.entry((scope, key)).or_insert(key);
        if let ("display", Some(served)) = (field.as_str(), left.as_str()) {
            *display = served;
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
    async fn scan(&self, check: &mut StoreCheck<'_>, boards: bool) -> Result<(), CliError> {
        let scan = CqlScan::open(&self.settings).await.map_err(cannot_tell)?;
        let mut first = FirstError(Ok(()));
        scan.tags(|row| first.note(check.check_tag(&row))).await.map_err(cannot_tell)?;
        if boards {
            check.check_job(&self.job);
            scan.boards(|row| first.note(check.check_board(&row))).await.map_err(cannot_tell)?;
        }
        for round in 1..=ROUNDS {
            let unresolved = check.take_unresolved();
            if unresolved.is_empty() {
                break;
            }
            let Unresolved { tags, boards } = unresolved;
            let (_, snapshot) = claim_of(&scan, &*self.storage).await?;
            check.retry(snapshot, round == ROUNDS);
            for (scope, tag) in tags {
                let row = scan.tag(&scope, &tag).await.map_err(cannot_tell)?;
                row.iter().for_each(|row| first.note(check.check_tag(row)));
            }
            if boards {
                scan.boards(|row| first.note(check.check_board(&row)))
                    .await
                    .map_err(cannot_tell)?;
            }
        }
        first.0.map_err(cannot_tell)
    }
}

/// The first error of many rows.
struct FirstError(Result<(), CommitError>);

impl FirstError {
    fn note(&mut self, checked: Result<(), CommitError>) {
        if self.0.is_ok() {
            self.0 = checked;
        }
    }
}

/// The row of the job in the store, and the commit that it claims to show.
async fn claim_of(
    scan: &CqlScan,
    storage: &dyn Storage,
) -> Result<(JobRow, Arc<Snapshot>), CliError> {
    let mut rounds = 0;
    loop {
        let job = scan.job().await.map_err(cannot_tell)?;
        let opened = claimed(storage, &job)
            .and_then(|manifest| Ok(Arc::new(Snapshot::open(storage, manifest, None)?)));
        match opened {
            // A running job removes old commits; the store shows a newer one by now.
            Err(ClaimError::NotKept { .. } | ClaimError::Commit(_)) if rounds < ROUNDS => {
                rounds += 1;
                tokio::time::sleep(RETRY_WAIT).await;
            }
            other => return Ok((job, other.map_err(cannot_tell)?)),
        }
    }
}
