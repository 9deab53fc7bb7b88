//! Requests to the job of a state: control records, which a running job takes in one of its next
//! commits, and which are taken in a commit of our own if no job is running.
//!
//! Invariant: a request is durable before anybody waits for it, so a command that is killed loses
//! only its report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemas::control::{Author, Control};
use schemas::manifest::{Fingerprint, Manifest};
use schemas::mapping::Mapping;
use schemas::rows::{Redelivery, RepairRow, Repairs};
use serde::Serialize;
use sinks::commits::{CommitError, QueueError, newest, open_table, queue};
use sinks::storage::{DiskStorage, Storage, StorageError};
use thiserror::Error;

use crate::acquire::owner;
use crate::clock::{Clock, RandomError};
use crate::error::{RunError, StartError};
use crate::inputs::{InputSpec, Origin};
use crate::next_commit::{Stuck, next_commit};
use crate::run::{Started, start};
use crate::settings::{Settings, scopes};
use crate::sources::{Discovered, Log, LogError, Reader};
use crate::spec::{JobSpec, StateAt};

/// The job to request repairs of.
pub struct RepairTarget {
    /// The state folder, which exists.
    pub state: PathBuf,
    /// The names that the records of each input give to the fields of an event, if refused records
    /// are delivered again.
    pub mappings: BTreeMap<String, Mapping>,
    /// The job's settings; scopes and windows are those of the state.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A name for this host, for messages.
    pub host: String,
}

/// Why repairs could not be requested, or were not made.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The state cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A commit cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The request cannot be written.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// There are no random bits for the name of the request.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The job that is running makes no commits.
    #[error(transparent)]
    Stuck(#[from] Stuck),
    /// No job is running, and one of our own could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No job is running, and one of our own failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl RepairError {
    /// Whether another job has taken over the state.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Start(error) => error.is_fenced(),
            Self::Run(error) => error.is_fenced(),
            Self::Commit(error) => matches!(error, CommitError::Fenced { .. }),
            _ => false,
        }
    }
}

/// A repair that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// The number of the request.
    pub request: u64,
    /// The commit that has it.
    pub commit: u64,
    /// What was done.
    pub kind: String,
    /// The scope of a tag; the input of a record.
    pub scope: String,
    /// The key of a tag, an event id, or the partition of a record.
    pub key: String,
    /// The position of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// What was there before: an object of fields, or the refused record.
    pub before: serde_json::Value,
    /// What is there since.
    pub after: serde_json::Value,
    /// Who requested it.
    pub who: String,
    /// The reason.
    pub why: String,
    /// When it was requested, in milliseconds.
    pub when: i64,
    /// The commit that it was made from.
    pub base: u64,
}

/// Requests `records`, and waits for a visible commit that has taken all of them. Returns that
/// commit, and the number of the first request that may be one of them.
pub fn request_repairs(
    target: &RepairTarget,
    author: &Author,
    records: &[Control],
) -> Result<(Manifest, u64), RepairError> {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(&target.state)?);
    let before = newest(&*storage)?.ok_or(CommitError::Missing(0))?;
    let id = owner(&target.host, &*target.clock)?.id;
    let last = queue(&*storage, &id, author, records)?;
    let has_taken = |manifest: &Manifest| manifest.body.control > last;
    let take = |newest| commit_controls(target, newest).map(|()| None);
    let taken = next_commit((&target.state, &*storage), &*target.clock, has_taken, take)?;
    assert!(
        taken.body.control > last,
        "request {last} is in no commit up to {}",
        taken.header.commit
    );
    Ok((taken, before.body.control))
}

/// Takes the control records of a state on which no job is running, in a commit of our own.
fn commit_controls(target: &RepairTarget, newest: Manifest) -> Result<(), RepairError> {
    let settings = Settings {
        scopes: scopes(newest.body.scopes.as_deref().unwrap_or(&[])),
        windows: newest.body.windows,
        live: false,
        until_ms: None,
        repair_only: true,
        ..target.settings.clone()
    };
    let started = start(JobSpec {
        settings,
        inputs: target.mappings.iter().map(silent).collect(),
        state: StateAt::Folder(target.state.clone()),
        workers: 1,
        take_over: false,
        clock: Arc::clone(&target.clock),
        host: target.host.clone(),
        publisher: None,
    });
    match started {
        Ok(Started::Running(job)) => Ok(job.wait().map(drop)?),
        Ok(Started::Finished(_) | Started::Publishing(..)) => Ok(()),
        // A job was started meanwhile and takes the records itself.
        Err(error) if error.is_fenced() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// An input that nothing is read from.
fn silent((name, mapping): (&String, &Mapping)) -> InputSpec {
    InputSpec {
        name: name.clone(),
        origin: Origin::Log(Arc::new(Silent)),
        mapping: mapping.clone(),
        log_time: None,
        span: None,
    }
}

struct Silent;

impl Log for Silent {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        Ok(Vec::new())
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, partition: &str, _: u64) -> Result<Box<dyn Reader>, LogError> {
        Err(LogError::Gone(partition.to_owned()))
    }

    fn is_bounded(&self) -> bool {
        true
    }
}

/// The repairs up to a commit that are `wanted`, in their order.
pub fn repairs(
    storage: &dyn Storage,
    manifest: &Manifest,
    wanted: impl Fn(&RepairRow<'_>) -> bool,
) -> Result<Vec<Repair>, CommitError> {
    let segments = open_table::<Repairs>(storage, manifest)?;
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    let mut all: Vec<Repair> = rows
        .filter(|(_, row)| wanted(row))
        .map(|(_, row)| {
            let is_record = Redelivery::parse(row.kind).is_some();
            // A record is shown unchanged, JSON or not.
            let value = |text: &str| match serde_json::from_str(text) {
                Ok(value) if !is_record => value,
                _ => serde_json::Value::from(text),
            };
            Repair {
                request: row.request,
                commit: row.commit,
                kind: row.kind.to_owned(),
                scope: row.scope.to_owned(),
                key: row.key.to_owned(),
                position: is_record.then_some(row.lo),
                before: value(row.before),
                after: value(row.after),
                who: row.who.to_owned(),
                why: row.why.to_owned(),
                when: row.when_ms,
                base: row.base,
            }
        })
        .collect();
    all.sort_by(|a, b| {
        let of = |r: &Repair| (r.commit, r.request, r.scope.clone(), r.key.clone(), r.position);
        of(a).cmp(&of(b))
    });
    Ok(all)
}
