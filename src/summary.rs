//! What a run says at its end about what it read: where windows end, what was refused and why, and
//! what is probably wrong with a mapping.
//!
//! Invariant: it only describes; the counts are in the commit.

use dataflow::{RefusedRecord, Status};
use schemas::event::guess;
use schemas::manifest::{Counters, Manifest};
use schemas::printable::{counted, printable, shortened};
use schemas::time::format_ms;
use serde::Serialize;

use crate::job::Job;

/// How much of a refused record's detail is shown.
const DETAIL_CHARS: usize = 160;

/// What a run says besides its counters.
#[derive(Default, Serialize)]
pub(crate) struct Summary {
    /// Records dated after the time at which windows are evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    dated_later: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
    /// What is probably wrong with a mapping.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
    #[serde(skip)]
    as_of_ms: Option<i64>,
}

/// The records that were refused in a run.
#[derive(Serialize)]
struct Refused {
    records: u64,
    /// The commonest reason, and its records.
    reason: &'static str,
    of_this_reason: u64,
    /// The first of them.
    input: String,
    partition: String,
    position: u64,
    detail: String,
    /// The mapping by which that record is an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<String>,
}

impl Summary {
    /// That of a run of `job` that ended with a commit.
    pub(crate) fn of(job: &Job, manifest: &Manifest, status: Option<&Status>) -> Self {
        let body = &manifest.body;
        // Only a bounded run ends at a time of its own.
        let as_of_ms = body.as_of_ms.filter(|_| body.finished.is_some());
        let partitions = body.inputs.values().flat_map(|partitions| partitions.values());
        let times = partitions.flat_map(|partition| partition.log_time.largest());
        let dated_later = as_of_ms.map(|as_of| times.filter(|ts| *ts > as_of).count() as u64);
        let reasons = status.map(Status::reasons);
        let refused = reasons.as_ref().and_then(|reasons| {
            let (reason, of_this_reason, first) = reasons.commonest()?;
            let RefusedRecord { input, partition, position, detail, raw } = first.clone();
            let of_input = job.inputs.iter().find(|known| known.topic.name == input);
            let map = of_input.and_then(|known| guess(&known.topic.mapping, &raw));
            let records = reasons.records();
            let detail = shortened(&detail, DETAIL_CHARS).into_owned();
            Some(Refused {
                records,
                reason,
                of_this_reason,
                input,
                partition,
                position,
                detail,
                map,
            })
        });
        let remarks = status.map_or_else(Vec::new, Status::remarks);
        Self { dated_later: dated_later.filter(|later| *later > 0), refused, remarks, as_of_ms }
    }

    /// As lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(as_of_ms) = self.as_of_ms {
            let later = self.dated_later.map_or_else(String::new, |later| {
                let later = counted(later, "record is", "records are");
                format!("; {later} dated later, too far ahead of all others")
            });
            lines.push(format!("windows end at {}{later}", format_ms(as_of_ms)));
        }
        if let Some(refused) = &self.refused {
            let Refused { records, reason, of_this_reason, partition, position, detail, .. } =
                refused;
            let why = match (records, of_this_reason) {
                (1, _) => format!("1, for {reason}"),
                (all, of) if all == of => format!("{all}, all for {reason}"),
                (all, of) => format!("{all}, most often for {reason} ({of})"),
            };
            lines.push(format!("refused in this run: {why}"));
            lines.push(printable(&format!("  {partition} at {position}: {detail}")).into_owned());
            lines.extend(refused.map.as_deref().map(|map| match map {
                "" => "  without --map that record is read".to_owned(),
                map => printable(&format!("  --map {map} reads that record")).into_owned(),
            }));
        }
        lines.extend(self.remarks.iter().map(|remark| printable(remark).into_owned()));
        lines
    }
}

/// What is wrong with a run that read everything and accepted nothing.
pub(crate) fn nothing_accepted(manifest: &Manifest, status: &Status) -> Option<String> {
    let reasons = status.reasons();
    let refused = reasons.records();
    let is_wrong = manifest.body.finished.is_some()
        && accepted_none(&status.before(), &manifest.body.counters)
        && refused > reasons.of(OF_THE_JOB);
    is_wrong.then(|| none_accepted(refused))
}

/// A record with a field twice is one of this job, and wrong by itself.
pub(crate) const OF_THE_JOB: &str = "duplicate_field";

/// Whether no record was accepted between two commits.
pub(crate) fn accepted_none(before: &Counters, now: &Counters) -> bool {
    let accepted = (now.events - before.events)
        + (now.duplicates - before.duplicates)
        + (now.unsupported - before.unsupported)
        + (now.after_until - before.after_until);
    accepted == 0
}

/// What is said of a run that accepted none of its records.
pub(crate) fn none_accepted(refused: u64) -> String {
    format!(
        "no record was accepted, {}; `tagflow dead-letters ls` lists them",
        counted(refused, "was refused", "were refused")
    )
}
