//! Asking the job of a state for something: control records that a living job takes in one of its
//! next commits, or that are taken in a commit of their own where no job lives.
//!
//! Invariant: what is asked for is durable before anybody is waited for, so that a command which is
//! killed loses nothing but its report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemas::control::{Asker, Control};
use schemas::manifest::{Fingerprint, Manifest};
use schemas::mapping::Mapping;
use schemas::rows::Repairs;
use serde::Serialize;
use sinks::commits::{CommitError, load, newest, open_table, queue, visible};
use sinks::storage::{DiskStorage, Storage};

use crate::acquire::{lives, owner};
use crate::clock::Clock;
use crate::error::JobError;
use crate::inputs::{InputSpec, Origin};
use crate::operators::controls::REDELIVERED;
use crate::run::{Started, start};
use crate::settings::{Settings, scopes};
use crate::sources::{Found, Log, LogError, Reader};
use crate::spec::{JobSpec, StateAt};

/// A living job commits within seconds; one that has not for so long is stuck.
const COMMIT_WAIT_US: u64 = 60_000_000;

/// Whose job is asked.
pub struct Ask {
    /// The state folder, which exists.
    pub state: PathBuf,
    /// What the records of the job's inputs call the fields of an event, by the names of the
    /// inputs, where refused ones are delivered again.
    pub mappings: BTreeMap<String, Mapping>,
    /// The job's settings; scopes and windows are those of the state.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A name for this host, for messages.
    pub host: String,
}

/// Something that was done on somebody's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// The number of the request.
    pub request: u64,
    /// The commit it was done in.
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
    /// What was there before: an object of fields, or the record that was refused.
    pub before: serde_json::Value,
    /// What is there since.
    pub after: serde_json::Value,
    /// Who asked for it.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, in milliseconds.
    pub when: i64,
    /// The commit it was made from.
    pub base: u64,
}

/// Asks for `records`: a visible commit that has taken all of them, and the number of the first
/// request that may be theirs.
pub fn ask(spec: &Ask, asker: &Asker, records: &[Control]) -> Result<(Manifest, u64), JobError> {
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::create(&spec.state)?);
    let before = newest(&*storage)?.ok_or(CommitError::Missing(0))?;
    let id = owner(&spec.host, &*spec.clock)?.id;
    let last = queue(&*storage, &id, asker, records)?;
    Ok((taken(spec, &*storage, last)?, before.body.control))
}

/// Waits for a visible commit that has taken file `number`.
fn taken(spec: &Ask, storage: &dyn Storage, number: u64) -> Result<Manifest, JobError> {
    let began_us = spec.clock.mono_us();
    while spec.clock.mono_us() - began_us < COMMIT_WAIT_US {
        if let Some(shown) = visible(storage)? {
            let shown = load(storage, shown)?;
            if shown.body.control > number {
                return Ok(shown);
            }
        }
        let last = newest(storage)?.ok_or(CommitError::Missing(0))?;
        if !lives(&spec.state, &last) {
            mend(spec, last)?;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Err(JobError::Stuck)
}

/// Takes the control records of a state where no job lives, in a commit of their own.
fn mend(spec: &Ask, last: Manifest) -> Result<(), JobError> {
    let settings = Settings {
        scopes: scopes(last.body.scopes.as_deref().unwrap_or_default()),
        windows: last.body.windows,
        live: false,
        until_ms: None,
        repair_only: true,
        ..spec.settings.clone()
    };
    let started = start(JobSpec {
        settings,
        inputs: spec.mappings.iter().map(silent).collect(),
        state: StateAt::Folder(spec.state.clone()),
        workers: 1,
        take_over: false,
        clock: Arc::clone(&spec.clock),
        host: spec.host.clone(),
        publisher: None,
    });
    match started {
        Ok(Started::Running(job)) => job.wait().map(drop),
        Ok(Started::Finished(_) | Started::Publishing(..)) => Ok(()),
        // A job has been started meanwhile, and takes them itself.
        Err(error) if error.is_fenced() => Ok(()),
        Err(error) => Err(error),
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
    fn discover(&self) -> Result<Vec<Found>, LogError> {
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

/// What was done on somebody's word up to a commit, in its order.
pub fn repairs(storage: &dyn Storage, manifest: &Manifest) -> Result<Vec<Repair>, CommitError> {
    let segments = open_table::<Repairs>(storage, manifest)?;
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    let mut all: Vec<Repair> = rows
        .map(|(_, row)| {
            let is_record = REDELIVERED.contains(&row.kind);
            // A record is shown as it is, JSON or not.
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
