//! Refused records that are delivered again, repaired or as they are, whether a job
//! lives or not. Each is asked for twice at least: whoever asks first may be killed.
//!
//! What must come of them is known from what was asked for. From the audit is taken what hangs on
//! when a commit took a record: whether it came before other copies of its event, and whether it
//! lay below the floor. Invariant: both are held against what they may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::control::{Asker, Control};
use schemas::manifest::Manifest;
use schemas::rows::{BelowFloor, DeadLetters, Repairs};
use serde_json::Value;
use sinks::commits::{load, open_table, queue, visible};

use crate::checks::{At, Check, FUTURE_MS, Refused, Violation, offset, violated};
use crate::events::Made;
use crate::log::partition_name;
use crate::process::{Mounted, Process};
use crate::rng::Rng;
use crate::world::World;

/// A refused record that was asked for.
pub(crate) struct Again {
    /// What to count in its place.
    made: Made,
    /// The first file that is known to hold it.
    number: u64,
    /// When that was written.
    asked_ms: i64,
}

/// What an audit says about one of them.
struct Said {
    kind: String,
    commit: u64,
    record: String,
}

/// What came of them up to a commit, for a count of everything.
#[derive(Default)]
pub(crate) struct Delivered {
    /// The records that count besides those of the log, each in a partition of its own.
    pub(crate) records: Vec<(String, Vec<u8>)>,
    /// Those of a region that is not counted by itself, counted or not.
    pub(crate) elsewhere: u64,
    /// All of them.
    pub(crate) all: u64,
}

impl World<'_> {
    /// Asks for some refused records.
    pub(crate) fn redeliver(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let shown = visible(&*self.disk).ok().flatten();
        let Some(Ok(manifest)) = shown.map(|commit| load(&*self.disk, commit)) else {
            return Ok(());
        };
        let segments = open_table::<DeadLetters>(&*self.disk, &manifest);
        let Ok(segments) = segments else { return violated(Check::Again, "no dead letters") };
        let rows = segments.iter().flat_map(|segment| segment.rows.iter()).map(|(_, row)| row);
        let rows: Vec<_> =
            rows.filter(|row| row.detail.parse() != Ok(BelowFloor::Counted)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let is_known = |at: At| self.again.contains_key(&at);
        let known = rows.iter().filter(|row| is_known((row.partition.to_owned(), row.position)));
        let known: Vec<_> = known.copied().collect();
        let (mut controls, mut asked) = (Vec::new(), BTreeMap::new());
        for _ in 0..=rng.below(4) {
            let anew = known.is_empty() || rng.chance(50);
            let row = *rng.pick(if anew { &rows } else { &known });
            let at: At = (row.partition.to_owned(), row.position);
            // The second of two wishes for one record would be void.
            let before = self.again.get(&at).map(|again| &again.made).or(asked.get(&at));
            let made = before.cloned().unwrap_or_else(|| self.instead(&at, rng));
            controls.push(Control::Redeliver {
                input: row.input.to_owned(),
                partition: row.partition.to_owned(),
                position: row.position,
                refused: String::from_utf8_lossy(row.raw).into_owned(),
                record: String::from_utf8_lossy(&made.bytes).into_owned(),
            });
            asked.insert(at, made);
        }
        self.count("record delivered again");
        let (base, history) = (manifest.header.commit, manifest.header.history);
        let asker = Asker { who: "sim".into(), base, history, ..Asker::default() };
        let killed = Process::new(Arc::clone(&self.probe));
        killed.ills().left = Some(rng.below(12));
        for process in [killed, Process::new(Arc::clone(&self.probe))] {
            let disk = Mounted { disk: Arc::clone(&self.disk), process };
            let number = queue(&disk, "sim", &asker, &controls).ok();
            for (at, made) in &asked {
                let again = Again {
                    made: made.clone(),
                    // What nobody was told of may be taken, and need not.
                    number: number.unwrap_or(u64::MAX),
                    asked_ms: self.time.now_ms(),
                };
                let known = self.again.entry(at.clone()).or_insert(again);
                known.number = known.number.min(number.unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// What is asked for in place of a record: itself, an event that was sent, or one that was not.
    fn instead(&mut self, at: &At, rng: &mut Rng) -> Made {
        let topic = self.topic.partitions();
        let partition = (0..topic.len()).find(|i| partition_name(*i) == at.0);
        let record = partition.and_then(|i| topic[i].get(at.1 as usize));
        match record {
            Some(record) if rng.chance(50) => record.made.clone(),
            _ => self.producer.repaired(rng, self.time.now_ms()),
        }
    }

    /// Whether a commit has yet to take a record that was asked for.
    pub(crate) fn owes_records(&self, manifest: &Manifest) -> bool {
        let numbers = self.again.values().map(|again| again.number);
        numbers.filter(|n| *n < u64::MAX).any(|number| manifest.body.control <= number)
    }

    /// C13: what was asked for has been counted once at most, and a row says so; what could not be
    /// refused again has been.
    pub(crate) fn delivered(
        &mut self,
        manifest: &Manifest,
        refused: &Refused,
    ) -> Result<Delivered, Violation> {
        if self.again.is_empty() {
            return Ok(Delivered::default());
        }
        self.outcome.checks.count(Check::Again);
        let said = self.said(manifest)?;
        let (mut delivered, mut rest) = (Delivered::default(), Vec::new());
        for (at, again) in &self.again {
            let ts_ms = again.made.ts_ms;
            let clock_ms = again.asked_ms + self.clocks_off_ms.0 + FUTURE_MS;
            let counts = ts_ms.is_some_and(|ts_ms| ts_ms <= clock_ms);
            let Some(said) = said.get(at) else {
                if counts && again.number < manifest.body.control {
                    let what = format!("{at:?} was asked for in file {}, in vain", again.number);
                    return violated(Check::Again, what);
                }
                continue;
            };
            let below_floor = ts_ms < self.floor_before(said.commit);
            let event = self.same_event(again, &said.record);
            let as_it_is = said.kind == "counted_as_it_is";
            if event.is_none() || as_it_is != below_floor {
                let what = format!("{at:?}: {} as {}, floor {below_floor}", said.kind, said.record);
                return violated(Check::Again, what);
            }
            delivered.all += 1;
            delivered.elsewhere += u64::from(again.made.elsewhere);
            let event = event.unwrap_or_default();
            if said.kind == "duplicate" {
                rest.push((at, event));
                continue;
            }
            let partition = format!("again {at:?}");
            // One below the floor counts whether its event was counted or not.
            let id = if as_it_is { partition.clone() } else { event };
            delivered.records.push((partition, renamed(&again.made, &id)));
        }
        for (at, event) in rest {
            if !self.is_known(&event, manifest, refused, &delivered) {
                return violated(Check::Again, format!("{at:?} is the only copy of {event}"));
            }
        }
        if manifest.body.counters.redelivered != delivered.all {
            let what = format!("{} rows, {:?}", delivered.all, manifest.body.counters);
            return violated(Check::Again, what);
        }
        Ok(delivered)
    }

    /// What the audit of a commit says about each record: one row at most.
    fn said(&self, manifest: &Manifest) -> Result<BTreeMap<At, Said>, Violation> {
        let fail = |what: String| Violation { invariant: Check::Again, what };
        let segments = open_table::<Repairs>(&*self.disk, manifest);
        let segments = segments.map_err(|error| fail(error.to_string()))?;
        let mut said: BTreeMap<At, Said> = BTreeMap::new();
        for (_, row) in segments.iter().flat_map(|segment| segment.rows.iter()) {
            if !matches!(row.kind, "counted" | "duplicate" | "counted_as_it_is") {
                continue;
            }
            let (kind, record) = (row.kind.to_owned(), row.after.to_owned());
            let one = Said { kind, commit: row.commit, record };
            let at = (row.key.to_owned(), row.lo);
            if let Some(before) = said.insert(at.clone(), one) {
                let commits = (before.commit, row.commit);
                return Err(fail(format!("{at:?} was delivered again in commits {commits:?}")));
            }
            if !self.again.contains_key(&at) {
                return Err(fail(format!("nobody asked for {at:?}")));
            }
        }
        Ok(said)
    }

    /// The floor that a commit began with.
    fn floor_before(&self, commit: u64) -> Option<i64> {
        let before = self.manifests.range(..commit).next_back();
        before.and_then(|(_, before)| before.body.floor_ms)
    }

    /// The id of the event that was asked for, if that is what was counted.
    fn same_event(&self, again: &Again, counted: &str) -> Option<String> {
        let asked = self.decoder.decode(&again.made.bytes).ok()?;
        let counted = self.decoder.decode(counted.as_bytes()).ok()?;
        let same = asked.event_id == counted.event_id
            && asked.ts_ms == counted.ts_ms
            && asked.caption == counted.caption
            && asked.attributes == counted.attributes;
        same.then(|| asked.event_id.to_string())
    }

    /// Whether a copy of an event has been taken that was not refused.
    fn is_known(
        &self,
        event: &str,
        manifest: &Manifest,
        refused: &Refused,
        delivered: &Delivered,
    ) -> bool {
        let is_it = |bytes: &[u8]| self.decoder.decode(bytes).is_ok_and(|e| e.event_id == event);
        let topic = self.topic.partitions();
        let read = |(name, partition): (&String, &schemas::manifest::Partition)| {
            let known = (0..topic.len()).find(|i| partition_name(*i) == *name);
            let end = offset(&partition.position) as usize;
            let records = known.and_then(|i| topic[i].get(..end)).unwrap_or_default();
            let mut records = records.iter().enumerate();
            records.any(|(at, record)| {
                !refused.contains_key(&(name.clone(), at as u64)) && is_it(&record.made.bytes)
            })
        };
        delivered.records.iter().any(|(_, bytes)| is_it(bytes))
            || manifest.body.inputs.values().flatten().any(read)
    }
}

/// The record of another event with the same content.
fn renamed(made: &Made, id: &str) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(&made.bytes).unwrap_or_default();
    record["event_id"] = id.into();
    record.to_string().into_bytes()
}
