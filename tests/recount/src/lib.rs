//! The oracle: counts an input record by record, in one thread and one map.
//!
//! It shares only the mapping and the tag rules with the job, and reads records itself. Two
//! decisions about an event do not follow from the input, because they depend on a clock and on
//! when commits end. The oracle takes them from the dead letters and checks that they are possible.

mod json;
mod log_time;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use log_time::LogTime;
pub use record::{Event, Reader};
use schemas::tags::{key, limited};
use serde::{Deserialize, Serialize};

const MINUTE_MS: i64 = 60_000;

/// Where a record is: a partition, and the position in it.
pub type RecordPosition = (String, u64);
/// The refused records, and why.
pub type Refused = BTreeMap<RecordPosition, String>;
/// A scope and the key of a tag.
pub type Key = (String, String);

/// The settings of the job.
pub struct Rules<'r> {
    /// Reads records, with the attributes of `scopes` in their order.
    pub reader: &'r Reader,
    /// The attributes by which counts are grouped, and their allowed values.
    pub scopes: &'r [(String, Vec<String>)],
    /// How long ids are remembered; `None` means for ever.
    pub horizon_ms: Option<i64>,
    /// Whether events beyond the horizon are counted, without a check for duplicates.
    pub count_beyond: bool,
    /// Later events are skipped.
    pub until_ms: i64,
    /// The records that the job refused, if they are known.
    pub refused: Option<&'r Refused>,
}

/// The counts of a tag in a scope: a line of `tagflow checkpoint export`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "docs/operations.md has the fields")]
pub struct Row {
    pub scope: String,
    pub key: String,
    pub display: String,
    pub total: i64,
    pub first_seen: i64,
    pub last_seen: i64,
    pub c1h: i64,
    pub c24h: i64,
}

/// The counts of an input: the rows of an export, and the counters of its last line.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "docs/operations.md has the counters")]
pub struct Counted {
    pub rows: BTreeMap<Key, Row>,
    pub events: u64,
    pub duplicates: u64,
    pub beyond_horizon: u64,
    pub unsupported: u64,
    pub dead_letters: u64,
    /// The events of the requested key: where, id and time.
    pub evidence: Vec<(RecordPosition, String, i64)>,
    /// The times of all posts.
    pub times: Vec<i64>,
}

/// Counts `records` (partition, position, bytes), which are in order within each partition, with
/// windows at `as_of_ms`. Collects the events of key `of`. An error names an impossible decision.
pub fn recount<'l, R: AsRef<[u8]>>(
    records: impl Iterator<Item = (&'l str, u64, R)>,
    rules: &Rules<'_>,
    as_of_ms: i64,
    of: Option<&Key>,
) -> Result<Counted, String> {
    let mut counted = Counted::default();
    let (mut seen, mut used) = (HashSet::<String>::new(), BTreeSet::<RecordPosition>::new());
    let mut log_times: HashMap<&str, LogTime> = HashMap::new();
    for (partition, position, record) in records {
        let at = (partition.to_owned(), position);
        let reason = rules.refused.and_then(|refused| refused.get(&at)).map(String::as_str);
        used.extend(reason.map(|_| at.clone()));
        let event = match rules.reader.read(record.as_ref()) {
            Err(code) if rules.refused.is_some() && reason != Some(code) => {
                return Err(format!("{partition}@{position}: {code}, but refused as {reason:?}"));
            }
            Ok(event) if event.counts && reason != Some("future") => event,
            Ok(event) if !event.counts => {
                counted.unsupported += 1;
                continue;
            }
            _ => {
                counted.dead_letters += 1;
                continue;
            }
        };
        if event.ts_ms > rules.until_ms {
            continue;
        }
        let log_time = log_times.entry(partition).or_default();
        let horizon_ms = rules.horizon_ms.zip(log_time.value_ms).map(|(long, now)| now - long);
        let late = horizon_ms.is_some_and(|horizon_ms| event.ts_ms < horizon_ms);
        log_time.observe(event.ts_ms);
        counted.times.push(event.ts_ms);
        if late || reason == Some("beyond_horizon") {
            counted.beyond_horizon += 1;
            match (rules.count_beyond, rules.refused, reason) {
                (true, ..) => {}
                (false, Some(_), None) => {
                    return Err(format!("{partition}@{position} is too late, but was not refused"));
                }
                _ => continue,
            }
        } else if !seen.insert(event.event_id.clone()) {
            counted.duplicates += 1;
            continue;
        } else {
            counted.events += 1;
        }
        for key in count(&mut counted.rows, &event, rules, as_of_ms) {
            if of == Some(&key) {
                counted.evidence.push((at.clone(), event.event_id.clone(), event.ts_ms));
            }
        }
    }
    let mut refused = rules.refused.into_iter().flat_map(BTreeMap::keys);
    let unread = refused.find(|at| !used.contains(*at));
    unread.map_or(Ok(counted), |(partition, at)| Err(format!("{partition}@{at} refused unread")))
}

/// Adds an event to the rows of its tags; returns their keys.
fn count(
    rows: &mut BTreeMap<Key, Row>,
    event: &Event,
    rules: &Rules<'_>,
    as_of_ms: i64,
) -> Vec<Key> {
    let mut scopes = vec![String::new()];
    for (value, (attribute, allowed)) in event.values.iter().zip(rules.scopes) {
        let value = value.as_deref().filter(|value| allowed.iter().any(|a| a == value));
        scopes.extend(value.map(|value| format!("{attribute}={value}")));
    }
    let mut spelled: BTreeMap<String, String> = BTreeMap::new();
    limited(&event.caption, key, |occurrence, key, _| {
        let tag = occurrence.tag.to_owned();
        let kept = spelled.entry(key.to_string()).or_insert_with(|| tag.clone());
        *kept = tag.min(kept.clone());
    });
    let ts = event.ts_ms;
    let within = |width: i64, buckets: i64| {
        let (bucket, last) = (ts.div_euclid(width), as_of_ms.div_euclid(width));
        i64::from(bucket <= last && bucket > last - buckets)
    };
    let keyed = |scope: &String| spelled.keys().map(|key| (scope.clone(), key.clone())).collect();
    let keys: Vec<Key> = scopes.iter().flat_map::<Vec<_>, _>(keyed).collect();
    for (scope, key) in &keys {
        let display = spelled[key].clone();
        let row = rows.entry((scope.clone(), key.clone())).or_insert_with(|| {
            let (scope, key) = (scope.clone(), key.clone());
            Row { scope, key, first_seen: i64::MAX, last_seen: i64::MIN, ..Row::default() }
        });
        if (ts, &display) < (row.first_seen, &row.display) {
            row.display = display;
        }
        row.total += 1;
        (row.first_seen, row.last_seen) = (row.first_seen.min(ts), row.last_seen.max(ts));
        row.c1h += within(MINUTE_MS, 60);
        row.c24h += within(10 * MINUTE_MS, 144);
    }
    keys
}

/// The keys whose rows differ.
pub fn differing<'c>(
    want: &'c BTreeMap<Key, Row>,
    got: &'c BTreeMap<Key, Row>,
) -> impl Iterator<Item = &'c Key> {
    let keys: BTreeSet<&Key> = want.keys().chain(got.keys()).collect();
    keys.into_iter().filter(|key| want.get(*key) != got.get(*key))
}
