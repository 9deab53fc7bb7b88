//! The oracle: counts the retained input by itself, event by event, with nothing kept but maps.
//!
//! It shares record types and tag rules with the product, and no other code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemas::event::{Decoder, Kind};
use schemas::mapping::Mapping;
use schemas::tags::Extractor;

use super::harness::{Row, Summary};

const MINUTE: i64 = 60_000;
const TEN_MINUTES: i64 = 600_000;

/// What is counted of an input.
pub(crate) struct Recount {
    /// By (scope, key): every accepted event's time and spelling.
    posts: BTreeMap<(String, String), Vec<(i64, String)>>,
    /// By event id: which one counted.
    seen: BTreeSet<String>,
    times: Vec<i64>,
    pub(crate) duplicates: u64,
    pub(crate) unsupported: u64,
    pub(crate) dead_letters: u64,
}

impl Recount {
    /// Counts the files of `paths` up to `until`, also by the allowed values of attributes.
    pub(crate) fn of(paths: &[&Path], mapping: &str, scopes: &[(&str, &[&str])], until: i64) -> Self {
        let attributes: Vec<String> = scopes.iter().map(|(name, _)| (*name).to_owned()).collect();
        let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
        let decoder = Decoder::new(Mapping::parse(mapping, &names).unwrap(), &attributes);
        let mut extractor = Extractor::default();
        let mut count = Self {
            posts: BTreeMap::new(),
            seen: BTreeSet::new(),
            times: Vec::new(),
            duplicates: 0,
            unsupported: 0,
            dead_letters: 0,
        };
        for path in paths {
            let text = std::fs::read(path).unwrap();
            for line in text.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
                match decoder.decode(line) {
                    Err(_) => count.dead_letters += 1,
                    Ok(event) if event.kind != Kind::PostPublished => count.unsupported += 1,
                    Ok(event) if event.ts_ms > until => {}
                    Ok(event) => {
                        count.times.push(event.ts_ms);
                        if !count.seen.insert(event.event_id.to_string()) {
                            count.duplicates += 1;
                            continue;
                        }
                        let mut in_scopes = vec![String::new()];
                        for (value, (name, allowed)) in event.attributes.iter().zip(scopes) {
                            let value = value.as_deref().filter(|v| allowed.contains(v));
                            in_scopes.extend(value.map(|v| format!("{name}={v}")));
                        }
                        let mut spelled: BTreeMap<String, &str> = BTreeMap::new();
                        extractor.each(&event.caption, |o, key, _| {
                            let kept = spelled.entry(key.to_owned()).or_insert(o.tag);
                            *kept = (*kept).min(o.tag);
                        });
                        for (key, spelling) in spelled {
                            for scope in &in_scopes {
                                let posts = count.posts.entry((scope.clone(), key.clone()));
                                posts.or_default().push((event.ts_ms, spelling.to_owned()));
                            }
                        }
                    }
                }
            }
        }
        count
    }

    /// Accepted first-time events.
    pub(crate) fn events(&self) -> u64 {
        self.seen.len() as u64
    }

    /// The k-th largest event time, from 1.
    pub(crate) fn largest(&self, k: usize) -> i64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[times.len() - k]
    }

    /// The rows that an export at `as_of` must have.
    pub(crate) fn rows(&self, as_of: i64) -> BTreeMap<(String, String), Row> {
        let row = |((scope, key), posts): (&(String, String), &Vec<(i64, String)>)| {
            let earliest = posts.iter().min().unwrap();
            let within = |width: i64, buckets: i64| {
                let bucket = |ts: i64| ts.div_euclid(width);
                let last = bucket(as_of);
                let inside = |ts: i64| bucket(ts) <= last && bucket(ts) > last - buckets;
                posts.iter().filter(|(ts, _)| inside(*ts)).count() as i64
            };
            let row = Row {
                scope: scope.clone(),
                key: key.clone(),
                display: earliest.1.clone(),
                total: posts.len() as i64,
                first_seen: earliest.0,
                last_seen: posts.iter().map(|(ts, _)| *ts).max().unwrap(),
                c1h: within(MINUTE, 60),
                c24h: within(TEN_MINUTES, 144),
            };
            ((scope.clone(), key.clone()), row)
        };
        self.posts.iter().map(row).collect()
    }

    /// Holds an export against this count; names the first key that differs, with its events.
    pub(crate) fn check(&self, rows: &BTreeMap<(String, String), Row>, summary: &Summary) {
        let want = self.rows(summary.as_of.unwrap_or_default());
        for key in want.keys().chain(rows.keys()) {
            if want.get(key) != rows.get(key) {
                let (want, got) = (want.get(key), rows.get(key));
                let events = self.posts.get(key);
                panic!("{key:?}\nwant {want:?}\ngot  {got:?}\nas of {:?}\nevents {events:?}", summary.as_of);
            }
        }
        assert_eq!(summary.events, self.events());
        assert_eq!(summary.duplicates, self.duplicates);
        assert_eq!(summary.unsupported, self.unsupported);
        assert_eq!(summary.dead_letters, self.dead_letters);
    }
}
