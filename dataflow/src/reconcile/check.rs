//! What the workers of a check share: the commit, open, and the log as the rules read it.
//!
//! Invariant: every event that `look_up` shows counts, by the same rules as in a pass.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use schemas::hash::{Hasher, KeyHash};
use schemas::mapping::Mapping;
use schemas::rows::{DeadLetters, Ids, Repairs};
use sinks::commits::{OpenSegment, Snapshot, open_table};

use super::accept::{Accept, Accepted, Rules, again, decisions};
use super::compatibility::{check_inputs, check_mappings, check_partitions};
use super::difference::Place;
use super::program::{Fact, Kept};
use super::since::Since;
use super::splits::Split;
use super::{PARTS, Part, Progress, ReconcileError, Request, since, stored};
use crate::clock::{Clock, SystemClock};
use crate::context::Pace;
use crate::operators::controls::REDELIVERED;
use crate::settings::{Settings, scopes};
use crate::sources::Log;

/// The records read before the other operators have their turn.
const TURN_RECORDS: usize = 4096;

/// A partition that delivers nothing for so long ends a check.
const SILENCE_US: u64 = 60_000_000;

/// What the workers of a check share.
pub(super) struct Check {
    pub(super) splits: Vec<Split>,
    /// The commit that the splits come on top of.
    pub(super) since: Option<Since>,
    /// By input name.
    pub(super) logs: Vec<(Arc<dyn Log>, Rules)>,
    pub(super) request: Request,
    pub(super) ids: Vec<OpenSegment<Ids>>,
    /// Refused records that were delivered again and counted.
    pub(super) again: Vec<(Accepted, Place)>,
    pub(super) kept: Kept,
    pace: Pace,
    clock: SystemClock,
    pub(super) progress: Arc<Progress>,
    pub(super) found: Mutex<Vec<(Fact, isize)>>,
    pub(super) checked: Mutex<u64>,
    /// How many records were taken for events that count, copies included, in all passes.
    pub(super) accepted: AtomicU64,
    pub(super) failure: Mutex<Option<ReconcileError>>,
    pub(super) failed: AtomicBool,
}

impl Check {
    pub(super) fn new(request: Request, progress: Arc<Progress>) -> Result<Self, ReconcileError> {
        let manifest = &request.snapshot.manifest;
        let body = &manifest.body;
        check_inputs(&request)?;
        let settings = Settings {
            scopes: scopes(body.scopes.as_deref().unwrap_or_default()),
            ..Settings::default()
        };
        let dead = open_table::<DeadLetters>(&*request.storage, manifest)?;
        let repairs = open_table::<Repairs>(&*request.storage, manifest)?;
        let after = request.since.as_ref().map_or(0, |since| since.manifest.header.commit);
        let redelivered = redelivered(&repairs);
        let keys = redelivered.iter().map(|r| r.key).collect();
        let decisions = Arc::new(decisions(dead.iter().map(|segment| &segment.rows), &keys));
        let clock = SystemClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock);
        let mut logs = Vec::new();
        for input in &request.inputs {
            let opened = input.open(manifest.header.generation, &settings, &shared)?;
            let rules = Rules {
                input: input.name.clone(),
                decoder: opened.decoder,
                log_time: opened.log_time,
                hasher: body.hash_key.hasher(),
                scopes: settings.scopes.clone().into(),
                // Blocks have no order; a state without a floor has had no horizon.
                horizon_ms: request.horizon_ms.filter(|_| body.floor_ms.is_some()),
                beyond: request.beyond,
                until_ms: body.finished.as_ref().and_then(|finished| finished.until_ms),
                floor_ms: body.floor_ms,
                decisions: Arc::clone(&decisions),
            };
            logs.push((opened.log, rules));
        }
        check_mappings(&logs, manifest)?;
        let plain = settings.decoder(&Mapping::default());
        let counted = redelivered.iter().filter_map(|r| {
            let (_, rules) = logs.iter().find(|(_, rules)| rules.input == r.place.input)?;
            let as_it_is = r.as_it_is.filter(|_| r.commit > after)?;
            Some((again(rules, &plain, r.record, as_it_is)?, r.place.clone()))
        });
        let again = counted.collect();
        let since = request.since.clone().map(|snapshot| Since::open(&*request.storage, snapshot));
        let since = since.transpose()?;
        let splits = since::splits(manifest, since.as_ref())?;
        check_partitions(&logs, body, &splits)?;
        let kept = Kept {
            windows: body.windows.clone(),
            as_of_ms: body.as_of_ms.unwrap_or_default(),
            first_hour: stored::first_hour(body),
            part: Part::Bins(0..PARTS),
        };
        Ok(Self {
            splits,
            since,
            ids: open_table::<Ids>(&*request.storage, manifest)?,
            again,
            pace: Pace::new(request.limit_rate, clock.mono_us()),
            logs,
            kept,
            clock,
            progress,
            request,
            found: Mutex::default(),
            checked: Mutex::default(),
            accepted: AtomicU64::default(),
            failure: Mutex::default(),
            failed: AtomicBool::default(),
        })
    }

    /// Whether what was read can be what the commit counted: with another mapping than the job's
    /// there are no events, and all the commit holds would be drift.
    pub(super) fn is_the_log(&self) -> Result<(), ReconcileError> {
        let events = |snapshot: &Snapshot| snapshot.manifest.body.counters.events;
        let before = self.request.since.as_deref().map_or(0, events);
        let counted = events(&self.request.snapshot).saturating_sub(before);
        let records = self.progress.records.load(Ordering::Relaxed);
        if counted == 0 || records == 0 || self.accepted.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(ReconcileError::NoEvents { records, counted })
    }

    /// How much there is to read, in the units of [`Progress`].
    pub(super) fn span(&self) -> u64 {
        self.splits.iter().map(|split| split.end.saturating_sub(split.begin)).sum()
    }

    /// Whether the earlier commit has counted this event.
    pub(super) fn is_known(&self, event: &Accepted) -> bool {
        self.since.as_ref().zip(event.id).is_some_and(|(since, id)| since.remembers(id))
    }

    pub(super) fn input(&self, split: &Split) -> Option<&(Arc<dyn Log>, Rules)> {
        self.logs.iter().find(|(_, rules)| rules.input == split.input)
    }

    /// Reads a split; `each` gets the events that count, and `turn` is called now and then.
    pub(super) fn read(
        &self,
        split: &Split,
        mut each: impl FnMut(Accepted, u64),
        mut turn: impl FnMut(),
    ) -> Result<(), ReconcileError> {
        let Some((log, rules)) = self.input(split) else { return Ok(()) };
        let mut accept = Accept::new(rules.clone(), split);
        let mut reader = split.open(&**log)?;
        let (mut more, mut moved_us) = (true, self.clock.mono_us());
        while more && !self.failed.load(Ordering::Relaxed) {
            let limit = self.pace.grant(TURN_RECORDS, self.clock.mono_us());
            if limit == 0 {
                turn();
                moved_us = self.clock.mono_us();
                std::thread::park_timeout(std::time::Duration::from_millis(5));
                continue;
            }
            let (mut read, mut accepted, before) = (0, 0, reader.position());
            more = split.read(&mut *reader, limit, &mut |record| {
                read += 1;
                let position = record.position;
                let event = accept.take(record);
                accepted += u64::from(event.is_some());
                event.into_iter().for_each(|event| each(event, position));
            })?;
            self.accepted.fetch_add(accepted, Ordering::Relaxed);
            self.pace.give_back(limit - read);
            let now_us = self.clock.mono_us();
            if reader.position() > before {
                moved_us = now_us;
            } else if more && now_us - moved_us > SILENCE_US {
                let (partition, position) = (split.partition.clone(), reader.position());
                return Err(ReconcileError::Silent { partition, position, end: split.end });
            } else if more {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            self.progress.records.fetch_add(read as u64, Ordering::Relaxed);
            let forward = reader.position().saturating_sub(before);
            self.progress.read.fetch_add(forward, Ordering::Relaxed);
            turn();
        }
        Ok(())
    }

    /// Reads the log once more, for names and places.
    pub(super) fn look_up(
        &self,
        mut each: impl FnMut(&Accepted, &dyn Fn() -> Place, &Hasher),
    ) -> Result<(), ReconcileError> {
        for split in &self.splits {
            let Some((_, rules)) = self.input(split) else { continue };
            let of = |accepted: Accepted, position| {
                if self.is_known(&accepted) {
                    return;
                }
                let (input, partition) = (split.input.clone(), split.partition.clone());
                let place =
                    || Place { input: input.clone(), partition: partition.clone(), position };
                each(&accepted, &place, &rules.hasher);
            };
            self.read(split, of, || ())?;
        }
        for (accepted, place) in self.again.iter().filter(|(again, _)| !self.is_known(again)) {
            let rules = self.logs.iter().find(|(_, rules)| rules.input == place.input);
            if let Some((_, rules)) = rules {
                each(accepted, &|| place.clone(), &rules.hasher);
            }
        }
        Ok(())
    }

    pub(super) fn fail(&self, error: ReconcileError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// A refused record that was delivered again.
struct Redelivered<'s> {
    /// The key of its dead letter.
    key: KeyHash,
    place: Place,
    record: &'s str,
    /// The commit that counted it.
    commit: u64,
    /// Whether it counts without a look at its id; none where it was a duplicate.
    as_it_is: Option<bool>,
}

fn redelivered(segments: &[OpenSegment<Repairs>]) -> Vec<Redelivered<'_>> {
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    let [counted, duplicate, as_it_is] = REDELIVERED;
    let redelivered = rows.filter_map(|(hash, row)| {
        let kinds = [(counted, Some(false)), (duplicate, None), (as_it_is, Some(true))];
        let (_, as_it_is) = kinds.into_iter().find(|(kind, _)| *kind == row.kind)?;
        let (input, partition) = (row.scope.to_owned(), row.key.to_owned());
        let place = Place { input, partition, position: row.lo };
        let (key, commit) = (row.changed(hash), row.commit);
        Some(Redelivered { key, place, record: row.after, commit, as_it_is })
    });
    redelivered.collect()
}
