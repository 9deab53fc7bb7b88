//! The oracle: what a retained log counts to, record by record, into plain maps.
//!
//! It shares record types and tag rules with the job, and no other code. Two decisions about an
//! event are not functions of the log, since they hang on a clock and on when commits end; they
//! are taken from the rows that they leave, and held against what such a decision may be.

use std::collections::{BTreeMap, BTreeSet};

use schemas::event::{Decoder, Event, Kind};
use schemas::tags::Extractor;

const MINUTE_MS: i64 = 60_000;

/// The retained records, by partition, and how many of each were read.
pub type Read<'l> = BTreeMap<String, &'l [Vec<u8>]>;
/// The reasons of refused records, by partition and position.
pub type Refused = BTreeMap<(String, u64), String>;

/// What the job was told.
pub struct Rules<'r> {
    /// How records are decoded.
    pub decoder: &'r Decoder,
    /// The one attribute that counts are grouped by, and its allowed values.
    pub scope: (&'r str, &'r [&'r str]),
    /// How long ids are remembered.
    pub horizon_ms: i64,
    /// Whether older events are counted as they are.
    pub count_beyond: bool,
}

/// A tag in a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its spelling in the earliest event.
    pub display: String,
    /// Posts.
    pub total: i64,
    /// The earliest of them.
    pub first_ms: i64,
    /// The latest.
    pub last_ms: i64,
    /// Posts in the last hour and in the last 24 hours.
    pub windows: [i64; 2],
}

/// What a log counts to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By scope and key.
    pub rows: BTreeMap<(String, String), Row>,
    /// Accepted events.
    pub events: u64,
    /// Repeated ones.
    pub duplicates: u64,
    /// Those beyond the horizon.
    pub beyond_horizon: u64,
    /// Those of other types.
    pub unsupported: u64,
    /// Refused records, except those beyond the horizon.
    pub dead_letters: u64,
}

/// The log time of a partition: the k-th largest time so far, k = 1 + min(63, n / 2).
#[derive(Default)]
struct LogTime {
    times: Vec<i64>,
    value_ms: Option<i64>,
}

impl LogTime {
    fn observe(&mut self, ts_ms: i64) {
        let at = self.times.partition_point(|time| *time <= ts_ms);
        self.times.insert(at, ts_ms);
        let n = self.times.len();
        let kth = n.checked_sub(1 + (n / 2).min(63)).map(|i| self.times[i]);
        self.value_ms = self.value_ms.max(kth);
    }
}

/// What becomes of an event.
#[derive(PartialEq, Eq)]
enum Fate {
    Once,
    AsItIs,
    Refused,
}

/// Counts `read`, with windows at `as_of_ms`. An error names the first decision that cannot be.
pub fn recount(
    read: &Read<'_>,
    refused: &Refused,
    rules: &Rules<'_>,
    as_of_ms: i64,
) -> Result<Counted, String> {
    let mut counted = Counted::default();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (partition, records) in read {
        let mut log_time = LogTime::default();
        for (position, record) in records.iter().enumerate() {
            let at = (partition.clone(), position as u64);
            let reason = refused.get(&at).map(String::as_str);
            used.extend(reason.map(|_| at));
            let event = match rules.decoder.decode(record) {
                Ok(event) if event.kind == Kind::PostPublished => event,
                Ok(_) => {
                    counted.unsupported += 1;
                    continue;
                }
                Err(reject) => {
                    counted.dead_letters += 1;
                    let wrong = || format!("{partition}@{position}: {reason:?}, not {reject}");
                    (reason == Some(reject.code())).then_some(()).ok_or_else(wrong)?;
                    continue;
                }
            };
            if reason == Some("future") {
                counted.dead_letters += 1;
                continue;
            }
            let late = log_time.value_ms.is_some_and(|now| event.ts_ms < now - rules.horizon_ms);
            log_time.observe(event.ts_ms);
            let fate = match (late || reason == Some("beyond_horizon"), rules.count_beyond) {
                (false, _) => Fate::Once,
                (true, true) => Fate::AsItIs,
                (true, false) => Fate::Refused,
            };
            if late && !rules.count_beyond && reason != Some("beyond_horizon") {
                return Err(format!("{partition}@{position} is beyond the horizon, not refused"));
            }
            counted.beyond_horizon += u64::from(fate != Fate::Once);
            let first = fate == Fate::Once && seen.insert(event.event_id.to_string());
            counted.events += u64::from(first);
            counted.duplicates += u64::from(fate == Fate::Once && !first);
            if first || fate == Fate::AsItIs {
                count(&mut counted.rows, &event, rules, as_of_ms);
            }
        }
    }
    match refused.keys().find(|at| !used.contains(*at)) {
        Some((partition, position)) => Err(format!("{partition}@{position} was refused unread")),
        None => Ok(counted),
    }
}

/// Adds an event to the rows of its tags.
fn count(
    rows: &mut BTreeMap<(String, String), Row>,
    event: &Event<'_>,
    rules: &Rules<'_>,
    as_of_ms: i64,
) {
    let (attribute, allowed) = rules.scope;
    let value = event.attributes.first().and_then(Option::as_deref);
    let value = value.filter(|value| allowed.contains(value));
    let scopes = [Some(String::new()), value.map(|value| format!("{attribute}={value}"))];
    let mut spelled: BTreeMap<String, String> = BTreeMap::new();
    Extractor::default().each(&event.caption, |occurrence, key, _| {
        let tag = occurrence.tag.to_owned();
        let kept = spelled.entry(key.to_owned()).or_insert_with(|| tag.clone());
        *kept = tag.min(kept.clone());
    });
    let within = |width: i64, buckets: i64| {
        let (bucket, last) = (event.ts_ms.div_euclid(width), as_of_ms.div_euclid(width));
        i64::from(bucket <= last && bucket > last - buckets)
    };
    let ts = event.ts_ms;
    for scope in scopes.into_iter().flatten() {
        for (key, spelling) in &spelled {
            let row = rows.entry((scope.clone(), key.clone())).or_insert_with(|| Row {
                display: spelling.clone(),
                total: 0,
                first_ms: ts,
                last_ms: ts,
                windows: [0, 0],
            });
            if (ts, spelling) < (row.first_ms, &row.display) {
                row.display.clone_from(spelling);
            }
            row.total += 1;
            (row.first_ms, row.last_ms) = (row.first_ms.min(ts), row.last_ms.max(ts));
            row.windows[0] += within(MINUTE_MS, 60);
            row.windows[1] += within(10 * MINUTE_MS, 144);
        }
    }
}
