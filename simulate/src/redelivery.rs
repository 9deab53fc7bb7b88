//! Redelivery: the job is asked, running or not, to count records that it refused, repaired or
//! unchanged. Every request is made at least twice, because the first process may be killed.
//!
//! The requests say what must have become of each record. Two facts depend on when a commit took
//! it: whether it came before other copies of its event, and whether it lay below the floor. They
//! are read from the audit and checked against what is possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::control::{Author, Control};
use schemas::manifest::Manifest;
use schemas::rows::{BelowFloor, DeadLetterRow, DeadLetters, Repairs};
use sinks::commits::{load, open_table, queue, visible};

use crate::checks::{Check, FUTURE_MS, RecordPosition, Refused, Violation, violated};
use crate::events::ProducedRecord;
use crate::events::VARIED;
use crate::log::{partition_number, read_records};
use crate::process::{Mounted, Process};
use crate::requests::{Redelivered, RedeliveryRequest};
use crate::rng::Rng;
use crate::world::World;

/// What the audit says about a redelivered record.
struct Audited {
    kind: String,
    commit: u64,
    record: String,
}

impl World<'_> {
    /// Requests the redelivery of some refused records.
    pub(crate) fn redeliver(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let visible = visible(&*self.disk).ok().flatten();
        let Some(Ok(manifest)) = visible.map(|commit| load(&*self.disk, commit)) else {
            return Ok(());
        };
        let segments = open_table::<DeadLetters>(&*self.disk, &manifest);
        let Ok(segments) = segments else { return violated(Check::Redelivered, "no dead letters") };
        let rows = segments.iter().flat_map(|segment| segment.rows.iter()).map(|(_, row)| row);
        // Redelivered, one of several different copies would count in no certain order.
        let is_varied = |row: &DeadLetterRow<'_>| {
            String::from_utf8_lossy(row.raw).contains(&format!("\"event_id\":\"{VARIED}"))
        };
        let is_open = |row: &DeadLetterRow<'_>| {
            row.detail.parse() != Ok(BelowFloor::Counted) && !is_varied(row)
        };
        let rows: Vec<_> = rows.filter(is_open).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let is_known = |at: RecordPosition| self.redeliveries.contains_key(&at);
        let known = rows.iter().filter(|row| is_known((row.partition.to_owned(), row.position)));
        let known: Vec<_> = known.copied().collect();
        let (mut controls, mut requested) = (Vec::new(), BTreeMap::new());
        for _ in 0..=rng.below(4) {
            let anew = known.is_empty() || rng.chance(50);
            let row = *rng.pick(if anew { &rows } else { &known });
            let at: RecordPosition = (row.partition.to_owned(), row.position);
            // A second request with another record would have no effect.
            let earlier = self.redeliveries.get(&at).map(|request| &request.record);
            let earlier = earlier.or(requested.get(&at)).cloned();
            let record = earlier.unwrap_or_else(|| self.replacement(&at, rng));
            controls.push(Control::Redeliver {
                input: row.input.to_owned(),
                partition: row.partition.to_owned(),
                position: row.position,
                refused: String::from_utf8_lossy(row.raw).into_owned(),
                record: String::from_utf8_lossy(&record.bytes).into_owned(),
            });
            requested.insert(at, record);
        }
        self.count("record delivered again");
        let (base, history) = (manifest.header.commit, manifest.header.history);
        let author = Author { who: "sim".into(), base, history, ..Author::default() };
        let killed = Process::new(Arc::clone(&self.probe));
        killed.faults().effects_left = Some(rng.below(12));
        for process in [killed, Process::new(Arc::clone(&self.probe))] {
            let disk = Mounted { disk: Arc::clone(&self.disk), process };
            // A file whose number was not returned may exist, or not.
            let number = queue(&disk, "sim", &author, &controls).unwrap_or(u64::MAX);
            for (at, record) in &requested {
                let request =
                    RedeliveryRequest { record: record.clone(), number, at_ms: self.time.now_ms() };
                let known = self.redeliveries.entry(at.clone()).or_insert(request);
                known.number = known.number.min(number);
            }
        }
        Ok(())
    }

    /// What to count in place of a refused record: itself, an event that was sent as well, or a new
    /// one.
    fn replacement(&mut self, at: &RecordPosition, rng: &mut Rng) -> ProducedRecord {
        let topic = self.topic.partitions();
        let partition = partition_number(&at.0).and_then(|number| topic.get(number));
        let refused = partition.and_then(|partition| partition.get(at.1 as usize));
        match refused {
            Some(refused) if rng.chance(50) => refused.record.clone(),
            _ => self.producer.repaired(rng, self.time.now_ms()),
        }
    }

    /// Whether a requested record is not yet in this commit.
    pub(crate) fn redelivery_pending(&self, manifest: &Manifest) -> bool {
        let numbers = self.redeliveries.values().map(|request| request.number);
        numbers.filter(|n| *n < u64::MAX).any(|number| manifest.body.control <= number)
    }

    /// C13: each requested record is counted at most once, with an audit row; one that could not be
    /// refused again is counted.
    pub(crate) fn redelivered(
        &mut self,
        manifest: &Manifest,
        refused: &Refused,
    ) -> Result<Redelivered, Violation> {
        if self.redeliveries.is_empty() {
            return Ok(Redelivered::default());
        }
        self.outcome.checks.count(Check::Redelivered);
        let audit = self.audited(manifest)?;
        let (mut redelivered, mut duplicates) = (Redelivered::default(), Vec::new());
        for (at, request) in &self.redeliveries {
            let ts_ms = request.record.ts_ms;
            let clock_ms = request.at_ms + self.clocks_off_ms.0 + FUTURE_MS;
            let counts = ts_ms.is_some_and(|ts_ms| ts_ms <= clock_ms);
            let Some(audited) = audit.get(at) else {
                if counts && request.number < manifest.body.control {
                    let file = request.number;
                    let what = format!("{at:?} was requested in file {file} and is not counted");
                    return violated(Check::Redelivered, what);
                }
                continue;
            };
            let below_floor = ts_ms < self.floor_before(audited.commit);
            let unchecked = audited.kind == "counted_as_it_is";
            let event = self.same_event(request, &audited.record);
            let Some(event) = event.filter(|_| unchecked == below_floor) else {
                let Audited { kind, record, .. } = audited;
                let what = format!("{at:?}: {kind} as {record}, below the floor: {below_floor}");
                return violated(Check::Redelivered, what);
            };
            redelivered.all += 1;
            redelivered.elsewhere += u64::from(request.record.elsewhere);
            if audited.kind == "duplicate" {
                duplicates.push((at, event));
                continue;
            }
            let partition = format!("redelivered {at:?}");
            // Below the floor a record counts even if its event was counted before.
            let id = if unchecked { partition.clone() } else { event };
            redelivered.records.push((partition, with_id(&request.record, &id)));
        }
        for (at, event) in duplicates {
            if !self.is_known(&event, manifest, refused, &redelivered) {
                return violated(Check::Redelivered, format!("{at:?} is the only copy of {event}"));
            }
        }
        if manifest.body.counters.redelivered != redelivered.all {
            let what = format!("{} audit rows, {:?}", redelivered.all, manifest.body.counters);
            return violated(Check::Redelivered, what);
        }
        Ok(redelivered)
    }

    /// The audit row of each redelivered record: at most one.
    fn audited(&self, manifest: &Manifest) -> Result<BTreeMap<RecordPosition, Audited>, Violation> {
        let fail = |what: String| Violation { invariant: Check::Redelivered, what };
        let segments = open_table::<Repairs>(&*self.disk, manifest);
        let segments = segments.map_err(|error| fail(error.to_string()))?;
        let mut audit: BTreeMap<RecordPosition, Audited> = BTreeMap::new();
        for (_, row) in segments.iter().flat_map(|segment| segment.rows.iter()) {
            if !matches!(row.kind, "counted" | "duplicate" | "counted_as_it_is") {
                continue;
            }
            let (kind, record) = (row.kind.to_owned(), row.after.to_owned());
            let audited = Audited { kind, commit: row.commit, record };
            let at = (row.key.to_owned(), row.lo);
            if let Some(before) = audit.insert(at.clone(), audited) {
                let commits = (before.commit, row.commit);
                return Err(fail(format!("{at:?} was redelivered in commits {commits:?}")));
            }
            if !self.redeliveries.contains_key(&at) {
                return Err(fail(format!("{at:?} was redelivered without a request")));
            }
        }
        Ok(audit)
    }

    /// The floor in effect during a commit.
    fn floor_before(&self, commit: u64) -> Option<i64> {
        let before = self.manifests.range(..commit).next_back();
        before.and_then(|(_, before)| before.body.floor_ms)
    }

    /// The id of the requested event, if that is the event that was counted.
    fn same_event(&self, request: &RedeliveryRequest, counted: &str) -> Option<String> {
        let requested = self.reader.read(&request.record.bytes).ok()?;
        let counted = self.reader.read(counted.as_bytes()).ok()?;
        (requested == counted).then_some(requested.event_id)
    }

    /// Whether a copy of an event was accepted, from the log or by redelivery.
    fn is_known(
        &self,
        event: &str,
        manifest: &Manifest,
        refused: &Refused,
        redelivered: &Redelivered,
    ) -> bool {
        let is_it = |bytes: &[u8]| self.reader.read(bytes).is_ok_and(|e| e.event_id == event);
        let topic = self.topic.partitions();
        let read = |(name, partition): (&String, &schemas::manifest::Partition)| {
            let Some(records) = read_records(&topic, name, &partition.position) else {
                return false;
            };
            records.iter().enumerate().any(|(at, retained)| {
                !refused.contains_key(&(name.clone(), at as u64)) && is_it(&retained.record.bytes)
            })
        };
        redelivered.records.iter().any(|(_, bytes)| is_it(bytes))
            || manifest.body.inputs.values().flatten().any(read)
    }
}

/// The record of another event with the same content.
fn with_id(record: &ProducedRecord, id: &str) -> Vec<u8> {
    let Some(end) = record.bytes.iter().position(|byte| *byte == b',') else {
        unreachable!("only events are redelivered, which begin with their ids");
    };
    let begin = format!("{{\"event_id\":{}", serde_json::Value::from(id));
    [begin.as_bytes(), &record.bytes[end..]].concat()
}
