//! What the workers of a check share: the commit, open, and the log, read by the job's rules.
//!
//! Invariant: `look_up` shows exactly the events that the passes count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use schemas::hash::{Hasher, KeyHash};
use schemas::mapping::Mapping;
use schemas::rows::{DeadLetters, Ids, Redelivery, Repairs};
use schemas::tags::TagRules;
use sinks::commits::{OpenSegment, Snapshot, open_table};
use sinks::difference::RecordPosition;

use super::accept::{Accept, Accepted, Decisions, Rules, decisions, redelivered_event};
use super::compatibility::{check_inputs, check_mappings, check_partitions};
use super::program::{Fact, Kept};
use super::since::Since;
use super::splits::Split;
use super::{PARTS, Part, Progress, ReconcileError, Request, since, stored};
use crate::clock::{Clock, SystemClock};
use crate::failure::Failure;
use crate::inputs::InputSpec;
use crate::rate_limiter::RateLimiter;
use crate::settings::{Settings, scopes};
use crate::sources::Log;

/// The records to read before the operators run again.
const TURN_RECORDS: usize = 4096;

/// A check fails if a partition delivers nothing for this long.
const SILENCE_US: u64 = 60_000_000;

/// How long a reader sleeps when it may not, or cannot, read.
const NAP: Duration = Duration::from_millis(5);

/// What the workers of a check share.
pub(super) struct Check {
    pub(super) splits: Vec<Split>,
    /// The earlier commit that the splits begin at.
    pub(super) since: Option<Since>,
    logs: Vec<(Arc<dyn Log>, Rules)>,
    pub(super) request: Request,
    pub(super) ids: Vec<OpenSegment<Ids>>,
    /// Refused records that were delivered again and counted.
    pub(super) redeliveries: Vec<(Accepted, RecordPosition)>,
    pub(super) kept: Kept,
    pace: RateLimiter,
    clock: SystemClock,
    progress: Arc<Progress>,
    pub(super) found: Mutex<Vec<(Fact, isize)>>,
    pub(super) checked: AtomicU64,
    /// The number of records, copies included, that were events that count, in all passes.
    accepted: AtomicU64,
    pub(super) failure: Failure<ReconcileError>,
}

impl Check {
    pub(super) fn new(request: Request, progress: Arc<Progress>) -> Result<Self, ReconcileError> {
        let manifest = &request.snapshot.manifest;
        let body = &manifest.body;
        assert!(request.workers > 0, "a check without workers");
        check_inputs(&request)?;
        let settings = Settings {
            scopes: scopes(body.scopes.as_deref().unwrap_or(&[])),
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
        let logs = open_logs(&request, &settings, &shared, &decisions)?;
        check_mappings(&logs, manifest)?;
        let canonical = settings.decoder(&Mapping::default());
        let counted = redelivered.iter().filter_map(|r| {
            let skip_dedup = r.skip_dedup.filter(|_| r.commit > after)?;
            let rules = &input(&logs, &r.position.input).1;
            let event = redelivered_event(rules, &canonical, r.record, skip_dedup)?;
            Some((event, r.position.clone()))
        });
        let redeliveries = counted.collect();
        let since = request.since.clone().map(|snapshot| Since::open(&*request.storage, snapshot));
        let since = since.transpose()?;
        let splits = since::splits(manifest, since.as_ref())?;
        check_partitions(&logs, body, &splits)?;
        let kept = Kept {
            windows: body.windows.clone(),
            // Before the first event there is no bucket.
            as_of_ms: body.as_of_ms.unwrap_or(0),
            first_hour: stored::first_hour(body),
            part: Part::Bins(0..PARTS),
        };
        Ok(Self {
            splits,
            since,
            ids: open_table::<Ids>(&*request.storage, manifest)?,
            redeliveries,
            pace: RateLimiter::new(request.limit_rate, clock.mono_us()),
            logs,
            kept,
            clock,
            progress,
            request,
            found: Mutex::default(),
            checked: AtomicU64::default(),
            accepted: AtomicU64::default(),
            failure: Failure::default(),
        })
    }

    /// Fails if no record is an event though the commit counts some: with another mapping than the
    /// job's, everything that the commit holds would differ.
    pub(super) fn require_events(&self) -> Result<(), ReconcileError> {
        let events = |snapshot: &Snapshot| snapshot.manifest.body.counters.events;
        let before = self.request.since.as_deref().map_or(0, events);
        let counted = events(&self.request.snapshot).saturating_sub(before);
        let records = self.progress.records.load(Ordering::Relaxed);
        if counted == 0 || records == 0 || self.accepted.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(ReconcileError::NoEvents { records, counted })
    }

    /// How much there is to read, in the unit of [`Progress::read`].
    pub(super) fn span(&self) -> u64 {
        self.splits.iter().map(|split| split.end.saturating_sub(split.begin)).sum()
    }

    /// The hour until which the earlier commit remembers the id of this event.
    pub(super) fn hour_before(&self, event: &Accepted) -> Option<i64> {
        self.since.as_ref()?.hour_of(event.id?)
    }

    /// Whether the earlier commit has counted this event.
    pub(super) fn is_known(&self, event: &Accepted) -> bool {
        self.hour_before(event).is_some()
    }

    /// How the records of an input are read.
    pub(super) fn rules(&self, name: &str) -> &Rules {
        &input(&self.logs, name).1
    }

    /// Reads a split. `each` gets the events that count; `turn` is called between reads.
    pub(super) fn read(
        &self,
        split: &Split,
        mut each: impl FnMut(Accepted, u64),
        mut turn: impl FnMut(),
    ) -> Result<(), ReconcileError> {
        let (log, rules) = input(&self.logs, &split.input);
        let mut accept = Accept::new(rules.clone(), split);
        let mut reader = split.open(&**log)?;
        let (mut more, mut moved_us) = (true, self.clock.mono_us());
        while more && !self.failure.is_set() {
            let limit = self.pace.grant(TURN_RECORDS, self.clock.mono_us());
            if limit == 0 {
                turn();
                moved_us = self.clock.mono_us();
                std::thread::park_timeout(NAP);
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
            assert!(read <= limit, "{read} records read, of {limit}");
            self.pace.refund(limit - read);
            let now_us = self.clock.mono_us();
            if reader.position() > before {
                moved_us = now_us;
            } else if more && now_us - moved_us > SILENCE_US {
                let (partition, position) = (split.partition.clone(), reader.position());
                return Err(ReconcileError::Silent { partition, position, end: split.end });
            } else if more {
                std::thread::park_timeout(NAP);
            }
            self.progress.records.fetch_add(read as u64, Ordering::Relaxed);
            let forward = reader.position().saturating_sub(before);
            self.progress.read.fetch_add(forward, Ordering::Relaxed);
            turn();
        }
        Ok(())
    }

    /// Reads the log once more. `each` gets every event that counts, its position and the hasher of
    /// its input.
    pub(super) fn look_up(
        &self,
        mut each: impl FnMut(&Accepted, &dyn Fn() -> RecordPosition, &Hasher),
    ) -> Result<(), ReconcileError> {
        for split in &self.splits {
            let rules = self.rules(&split.input);
            let counted = |event: Accepted, position| {
                if self.is_known(&event) {
                    return;
                }
                let (input, partition) = (&split.input, &split.partition);
                let position = || RecordPosition {
                    input: input.clone(),
                    partition: partition.clone(),
                    position,
                };
                each(&event, &position, &rules.hasher);
            };
            self.read(split, counted, || ())?;
        }
        for (event, position) in self.redeliveries.iter().filter(|(event, _)| !self.is_known(event))
        {
            each(event, &|| position.clone(), &self.rules(&position.input).hasher);
        }
        Ok(())
    }
}

/// Opens the log of every input, with the rules by which the job read it.
fn open_logs(
    request: &Request,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    decisions: &Arc<Decisions>,
) -> Result<Vec<(Arc<dyn Log>, Rules)>, ReconcileError> {
    let manifest = &request.snapshot.manifest;
    let body = &manifest.body;
    let open = |input: &InputSpec| {
        let opened = input.open(manifest.header.generation, settings, clock)?;
        let rules = Rules {
            input: input.name.clone(),
            decoder: opened.decoder,
            log_time: opened.log_time,
            tags: TagRules::of(body.rules).ok_or(ReconcileError::Rules {
                commit: manifest.header.commit,
                rules: body.rules,
            })?,
            hasher: body.hash_key.hasher(),
            scopes: settings.scopes.clone().into(),
            // A state without a floor never had a horizon.
            horizon_ms: request.horizon_ms.filter(|_| body.floor_ms.is_some()),
            beyond: request.beyond,
            until_ms: body.finished.as_ref().and_then(|finished| finished.until_ms),
            floor_ms: body.floor_ms,
            decisions: Arc::clone(decisions),
        };
        Ok((opened.log, rules))
    };
    request.inputs.iter().map(open).collect()
}

fn input<'l>(logs: &'l [(Arc<dyn Log>, Rules)], name: &str) -> &'l (Arc<dyn Log>, Rules) {
    logs.iter()
        .find(|(_, rules)| rules.input == name)
        .unwrap_or_else(|| unreachable!("input {name:?} was not named: checked by check_inputs"))
}

/// A refused record that was delivered again.
struct Redelivered<'s> {
    /// The key of its dead letter.
    key: KeyHash,
    position: RecordPosition,
    record: &'s str,
    /// The commit that counted it.
    commit: u64,
    /// Whether it counts without deduplication; `None` if it was a duplicate.
    skip_dedup: Option<bool>,
}

fn redelivered(segments: &[OpenSegment<Repairs>]) -> Vec<Redelivered<'_>> {
    let rows = segments.iter().flat_map(|segment| segment.rows.iter());
    let redelivered = rows.filter_map(|(hash, row)| {
        let skip_dedup = match Redelivery::parse(row.kind)? {
            Redelivery::Counted => Some(false),
            Redelivery::Duplicate => None,
            Redelivery::CountedBelowFloor => Some(true),
        };
        let (input, partition) = (row.scope.to_owned(), row.key.to_owned());
        let position = RecordPosition { input, partition, position: row.lo };
        let (key, commit) = (row.changed(hash), row.commit);
        Some(Redelivered { key, position, record: row.after, commit, skip_dedup })
    });
    redelivered.collect()
}
