//! The oracle: counts the retained input by itself, event by event, into one map.
//!
//! It shares record types and tag rules with the product, and no other code.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use schemas::event::{Decoder, Event, Kind};
use schemas::mapping::Mapping;
use schemas::tags::Extractor;

use super::harness::{Row, Summary};

const MINUTE: i64 = 60_000;
const TEN_MINUTES: i64 = 600_000;

/// What is to be counted.
pub(crate) struct Input<'a> {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) mapping: &'a str,
    /// Attributes and their allowed values.
    pub(crate) scopes: &'a [(&'a str, &'a [&'a str])],
    pub(crate) until: i64,
}

impl Input<'static> {
    /// All of one file of Tagflow's own records.
    pub(crate) fn file(path: &Path) -> Self {
        Self { paths: vec![path.to_owned()], mapping: "", scopes: &[], until: i64::MAX }
    }
}

/// What an input counts to at one instant.
#[derive(Default)]
pub(crate) struct Recount {
    pub(crate) rows: BTreeMap<(String, String), Row>,
    pub(crate) events: u64,
    duplicates: u64,
    unsupported: u64,
    dead_letters: u64,
    times: Vec<i64>,
}

/// Calls `each` with every first-time event; counts the rest.
fn events(input: &Input<'_>, count: &mut Recount, mut each: impl FnMut(&mut Recount, &Event<'_>)) {
    let attributes: Vec<String> = input.scopes.iter().map(|(name, _)| (*name).into()).collect();
    let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
    let decoder = Decoder::new(Mapping::parse(input.mapping, &names).unwrap(), &attributes);
    let mut seen: HashSet<String> = HashSet::new();
    let lines =
        input.paths.iter().flat_map(|p| BufReader::new(File::open(p).unwrap()).split(b'\n'));
    for line in lines.map(Result::unwrap).filter(|line| !line.trim_ascii().is_empty()) {
        match decoder.decode(&line) {
            Err(_) => count.dead_letters += 1,
            Ok(event) if event.kind != Kind::PostPublished => count.unsupported += 1,
            Ok(event) if event.ts_ms > input.until => {}
            Ok(event) => {
                count.times.push(event.ts_ms);
                if seen.contains(&*event.event_id) {
                    count.duplicates += 1;
                } else {
                    seen.insert(event.event_id.to_string());
                    count.events += 1;
                    each(count, &event);
                }
            }
        }
    }
}

/// The (scope, key)s of an event, each with its least spelling.
fn tags(input: &Input<'_>, event: &Event<'_>) -> Vec<(String, String, String)> {
    let mut in_scopes = vec![String::new()];
    for (value, (name, allowed)) in event.attributes.iter().zip(input.scopes) {
        let value = value.as_deref().filter(|v| allowed.contains(v));
        in_scopes.extend(value.map(|v| format!("{name}={v}")));
    }
    let mut spelled: BTreeMap<String, &str> = BTreeMap::new();
    Extractor::default().each(&event.caption, |o, key, _| {
        let kept = spelled.entry(key.to_owned()).or_insert(o.tag);
        *kept = (*kept).min(o.tag);
    });
    let in_scope = |scope: &String| {
        let tag = |(key, spelling): (&String, &&str)| {
            (scope.clone(), key.clone(), (*spelling).to_owned())
        };
        spelled.iter().map(tag).collect::<Vec<_>>()
    };
    in_scopes.iter().flat_map(in_scope).collect()
}

fn within(ts: i64, as_of: i64, width: i64, buckets: i64) -> i64 {
    let (bucket, last) = (ts.div_euclid(width), as_of.div_euclid(width));
    i64::from(bucket <= last && bucket > last - buckets)
}

impl Recount {
    /// Counts `input`, with windows at `as_of`.
    pub(crate) fn of(input: &Input<'_>, as_of: i64) -> Self {
        let mut count = Self::default();
        events(input, &mut count, |count, event| {
            let ts = event.ts_ms;
            for (scope, key, spelling) in tags(input, event) {
                let at = (scope.clone(), key.clone());
                let row = count.rows.entry(at).or_insert_with(|| Row {
                    scope,
                    key,
                    display: spelling.clone(),
                    total: 0,
                    first_seen: ts,
                    last_seen: ts,
                    c1h: 0,
                    c24h: 0,
                });
                if (ts, &spelling) < (row.first_seen, &row.display) {
                    row.display = spelling;
                }
                row.total += 1;
                row.first_seen = row.first_seen.min(ts);
                row.last_seen = row.last_seen.max(ts);
                row.c1h += within(ts, as_of, MINUTE, 60);
                row.c24h += within(ts, as_of, TEN_MINUTES, 144);
            }
        });
        count
    }

    /// The k-th largest event time, from 1.
    pub(crate) fn largest(&self, k: usize) -> i64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() - k]
    }
}

/// The keys of which an export and a count say different things.
pub(crate) fn differing<'c>(
    count: &'c Recount,
    rows: &'c BTreeMap<(String, String), Row>,
) -> impl Iterator<Item = &'c (String, String)> {
    let unknown = rows.keys().filter(|key| !count.rows.contains_key(*key));
    count.rows.keys().chain(unknown).filter(|key| count.rows.get(*key) != rows.get(*key))
}

/// Holds an export against a count of `input`; names the first key that differs, with its events.
pub(crate) fn check(
    input: &Input<'_>,
    rows: &BTreeMap<(String, String), Row>,
    summary: &Summary,
) -> Recount {
    let count = Recount::of(input, summary.as_of.unwrap_or_default());
    if let Some(key) = differing(&count, rows).next() {
        let (want, got) = (count.rows.get(key), rows.get(key));
        let mut with = Vec::new();
        events(input, &mut Recount::default(), |_, event| {
            if tags(input, event).iter().any(|(s, k, _)| (s, k) == (&key.0, &key.1)) {
                with.push((event.event_id.to_string(), event.ts_ms));
            }
        });
        panic!("{key:?}\nwant {want:?}\ngot  {got:?}\nas of {:?}, events {with:?}", summary.as_of);
    }
    let want = (count.events, count.duplicates, count.unsupported, count.dead_letters);
    let got = (summary.events, summary.duplicates, summary.unsupported, summary.dead_letters);
    assert_eq!(want, got, "events, duplicates, unsupported, dead letters");
    count
}
