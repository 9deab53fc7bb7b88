//! Compares exports with the oracle's count of the input (`tests/recount`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use recount::{Counted, Key, Reader, Row, Rules, differing, recount};
use schemas::mapping::Mapping;

use super::harness::Summary;

/// What to count.
pub(crate) struct Input<'a> {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) mapping: &'a str,
    /// Attributes and their allowed values.
    pub(crate) scopes: &'a [(&'a str, &'a [&'a str])],
    pub(crate) until: i64,
}

impl Input<'static> {
    /// One file of records in the default format.
    pub(crate) fn file(path: &Path) -> Self {
        Self { paths: vec![path.to_owned()], mapping: "", scopes: &[], until: i64::MAX }
    }
}

/// Counts `input`, with windows at `as_of`. Collects the events behind one key.
pub(crate) fn count(input: &Input<'_>, as_of: i64, of: Option<&Key>) -> Counted {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let scopes: Vec<(String, Vec<String>)> =
        input.scopes.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect();
    let attributes: Vec<String> = scopes.iter().map(|(name, _)| name.clone()).collect();
    let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
    let rules = Rules {
        reader: &Reader::new(&Mapping::parse(input.mapping, &names).unwrap(), &attributes),
        scopes: &scopes,
        horizon_ms: None,
        count_beyond: false,
        until_ms: input.until,
        refused: None,
    };
    let lines = |path: &PathBuf| BufReader::new(File::open(path).unwrap()).split(b'\n');
    let lines = input.paths.iter().flat_map(lines).map(Result::unwrap);
    let records = lines.filter(|line| !line.trim_ascii().is_empty()).zip(0..);
    recount(records.map(|(line, at)| ("input", at, line)), &rules, as_of, of).unwrap()
}

/// Counts records in the default format, given with their partitions and positions, without a
/// horizon.
pub(crate) fn count_records<'l>(
    records: impl Iterator<Item = (&'l str, u64, Vec<u8>)>,
    as_of: i64,
) -> Counted {
    let rules = Rules {
        reader: &Reader::new(&Mapping::parse("", &[]).unwrap(), &[]),
        scopes: &[],
        horizon_ms: None,
        count_beyond: false,
        until_ms: i64::MAX,
        refused: None,
    };
    recount(records, &rules, as_of, None).unwrap()
}

/// The k-th largest event time, counting from 1.
fn largest(counted: &Counted, k: usize) -> i64 {
    let mut times = counted.times.clone();
    times.sort_unstable();
    times[times.len() - k]
}

/// Where the windows of a bounded run end if its log time is the k-th largest event time: at the
/// largest that lies no more than a day ahead of it.
pub(crate) fn last_plausible(counted: &Counted, k: usize) -> i64 {
    let log_time = largest(counted, k);
    let plausible = counted.times.iter().filter(|ts| **ts - log_time <= 86_400_000);
    *plausible.max().unwrap()
}

/// Compares an export with a count of `input`. Names the first key that differs, with its events.
pub(crate) fn check(input: &Input<'_>, rows: &BTreeMap<Key, Row>, summary: &Summary) -> Counted {
    let as_of = summary.as_of.unwrap_or_default();
    let counted = count(input, as_of, None);
    if let Some(key) = differing(&counted.rows, rows).next() {
        let (want, got) = (counted.rows.get(key), rows.get(key));
        let events = count(input, as_of, Some(key)).evidence;
        panic!("{key:?}\nwant {want:?}\ngot  {got:?}\nas of {as_of}, events {events:?}");
    }
    let c = &counted;
    let want = (c.events, c.duplicates, c.unsupported, c.dead_letters);
    let got = (summary.events, summary.duplicates, summary.unsupported, summary.dead_letters);
    assert_eq!(want, got, "events, duplicates, unsupported, dead letters");
    counted
}
