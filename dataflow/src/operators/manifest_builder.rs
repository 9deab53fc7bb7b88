//! The manifests of commits, each made from the one before and from what the operators
//! acknowledged.
//!
//! Invariant: manifests are built one by one, in the order of their commits.

use std::collections::BTreeMap;

use schemas::manifest::{Body, Counters, Finished, Header, Manifest, SegmentMeta};
use schemas::mapping::differing;
use schemas::rows::hour_of;
use sinks::commits::Merged;

use crate::context::Context;
use crate::records::{Ack, Cut, Last};
use crate::settings::{self, Input, Settings};

/// How records are read, by input, and the commits up to which they were read otherwise.
type Reading = (BTreeMap<String, BTreeMap<String, String>>, BTreeMap<String, u64>);

/// Builds the manifests of a run.
pub(super) struct ManifestBuilder {
    /// The manifest of the commit before.
    last: Manifest,
    /// How records are read now. Goes into the first manifest with records that were read this way.
    reading: Option<Reading>,
    /// The wall clock at the start of the run, and the monotonic one: versions follow both.
    start_us: (i64, u64),
    /// How the run is finished once it has read everything.
    finished: Option<Finished>,
}

impl ManifestBuilder {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            last: (*context.start).clone(),
            reading: Some(reading(context)),
            start_us: (context.start.header.wall_ms * 1000, context.started_us),
            finished: context.finish(),
        }
    }

    /// The manifest of the next commit. `merged` are merges of older segments.
    pub(super) fn next(&mut self, acknowledged: Acknowledged, merged: Vec<Merged>) -> Manifest {
        let Acknowledged { cut, counters, control, mut segments } = acknowledged;
        let before = &self.last;
        let commit = before.header.commit + 1;
        assert_eq!(cut.tick.commit, commit, "commits are cut and acknowledged in order");
        let since_us = cut.tick.mono_us.saturating_sub(self.start_us.1);
        let clock_us = self.start_us.0.saturating_add_unsigned(since_us);
        let header = Header {
            commit,
            takeover: false,
            version: clock_us.max(before.header.version + 1),
            wall_ms: cut.tick.wall_ms,
            ..before.header.clone()
        };
        let mut total = before.body.counters;
        counters.into_iter().for_each(|more| total += more);
        let has_read = total.records() > before.body.counters.records();
        let (mappings, read_otherwise) = self
            .reading
            .take_if(|_| has_read)
            .unwrap_or_else(|| (before.body.mappings.clone(), before.body.read_otherwise.clone()));
        let mut kept = before.body.segments.clone();
        for merge in merged {
            if !merge.apply(&mut kept) {
                tracing::debug!(file = merge.output.name, "a merge finished too late");
            }
        }
        let floor_hour = cut.floor_ms.map_or(0, hour_of);
        kept.retain(|s| s.last_hour.is_none_or(|hour| hour >= floor_hour));
        // Workers acknowledge in any order; equal commits list their files in the same one.
        segments.sort_by(|a, b| a.name.cmp(&b.name));
        kept.extend(segments);
        let finished = self.finished.clone().filter(|_| cut.tick.last == Some(Last::Finished));
        let body = Body {
            as_of_ms: cut.as_of_ms,
            floor_ms: cut.floor_ms,
            largest_ts_ms: cut.largest_ts_ms,
            largest_read_ms: cut.largest_read_ms,
            mappings,
            read_otherwise,
            finished,
            clean: cut.tick.last.is_some(),
            inputs: cut.inputs,
            control: control.unwrap_or(before.body.control),
            counters: total,
            segments: kept,
            ..before.body.clone()
        };
        self.last = Manifest { header, body };
        self.last.clone()
    }
}

/// What all operators together acknowledged of a commit.
pub(super) struct Acknowledged {
    pub(super) cut: Cut,
    counters: Vec<Counters>,
    control: Option<u64>,
    segments: Vec<SegmentMeta>,
}

impl Acknowledged {
    /// `None` without a cut, which `close` acknowledges every commit with.
    pub(super) fn new(acks: Vec<Ack>) -> Option<Self> {
        let (mut cut, mut counters, mut control) = (None, Vec::new(), None);
        let mut segments = Vec::new();
        for ack in acks {
            match ack {
                Ack::Segment(meta) => segments.push(meta),
                Ack::Counters(more) => counters.push(more),
                Ack::Control(next) => control = Some(next),
                Ack::Cut(of_commit) => cut = Some(*of_commit),
            }
        }
        Some(Self { cut: cut?, counters, control, segments })
    }
}

/// How records are read from now on.
fn reading(context: &Context) -> Reading {
    let Manifest { header, body } = &*context.start;
    let (mut mappings, mut read_otherwise) = (body.mappings.clone(), body.read_otherwise.clone());
    let Settings { horizon_ms, beyond, .. } = *context.settings;
    // If only repairs are applied, a redelivery may use a mapping that no input is read with.
    for Input { name, decoder, log_time, .. } in context.read_inputs() {
        let now = settings::read_with(decoder, *log_time, horizon_ms, beyond);
        let before = mappings.insert(name.clone(), now.clone());
        // An older build may have read the input without saying how.
        let before = before.or_else(|| body.inputs.contains_key(name).then(BTreeMap::new));
        let Some(before) = before else { continue };
        let mut other = differing(&before, &now);
        if other.is_empty() && settings::decoded_otherwise(&before) {
            "an older version, which refused other records".clone_into(&mut other);
        }
        if !other.is_empty() {
            read_otherwise.insert(name.clone(), header.commit);
            tracing::warn!(
                input = name,
                "earlier records were read with {other}; they stay as they were counted"
            );
        }
    }
    (mappings, read_otherwise)
}

#[cfg(test)]
mod tests {
    use schemas::hash::HashKey;
    use schemas::rows::{Ids, Table};
    use schemas::windows::Windows;

    use super::*;
    use crate::records::{Inputs, Tick};

    fn segment(name: &str, last_hour: Option<u32>) -> SegmentMeta {
        SegmentMeta {
            name: name.to_owned(),
            table: Ids::NAME,
            first_commit: 1,
            last_commit: 1,
            rows: 1,
            bytes: 1,
            xxh3: String::new(),
            last_hour,
        }
    }

    fn builder(segments: Vec<SegmentMeta>) -> ManifestBuilder {
        let header = Header {
            commit: 7,
            history: 0,
            generation: 7,
            owner: String::new(),
            takeover: true,
            version: 1_000_000,
            wall_ms: 1000,
        };
        let body = Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            largest_read_ms: None,
            hash_key: HashKey::new(0),
            rules: 1,
            windows: Windows::default(),
            scopes: None,
            mappings: BTreeMap::new(),
            read_otherwise: BTreeMap::new(),
            finished: None,
            clean: true,
            inputs: Inputs::new(),
            control: 3,
            counters: Counters { events: 5, ..Counters::default() },
            segments,
        };
        let last = Manifest { header, body };
        let reading = [("i".to_owned(), BTreeMap::new())].into();
        let reading = Some((reading, BTreeMap::new()));
        let finished = Some(Finished { until_ms: None });
        ManifestBuilder { last, reading, start_us: (1_000_000, 0), finished }
    }

    fn cut(commit: u64, floor_ms: Option<i64>, last: Option<Last>) -> Ack {
        let tick = Tick { commit, wall_ms: 2000, mono_us: 5, last };
        Ack::Cut(Box::new(Cut {
            tick,
            as_of_ms: Some(9),
            floor_ms,
            largest_ts_ms: Some(9),
            largest_read_ms: Some(2000),
            clocks_agree: true,
            inputs: Inputs::new(),
        }))
    }

    #[test]
    fn acknowledgements_of_all_workers_add_up_in_any_order() {
        let mut builder = builder(vec![segment("old", Some(9)), segment("kept", None)]);
        let counters = |events| Ack::Counters(Counters { events, ..Counters::default() });
        let acks = vec![
            Ack::Segment(segment("b", Some(12))),
            counters(1),
            cut(8, Some(36_000_000), None),
            Ack::Segment(segment("a", None)),
            Ack::Control(4),
            counters(2),
        ];
        assert!(Acknowledged::new(vec![counters(1)]).is_none(), "a commit has a cut");
        let made = builder.next(Acknowledged::new(acks).unwrap(), Vec::new());
        let names: Vec<_> = made.body.segments.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["kept", "a", "b"], "the ids of `old` lie below the floor");
        assert_eq!((made.body.counters.events, made.body.control), (8, 4));
        assert_eq!((made.header.commit, made.header.version), (8, 1_000_005));
        assert!(!made.header.takeover && !made.body.clean && made.body.finished.is_none());
        assert!(made.body.mappings.contains_key("i"), "records were read");

        let last = Acknowledged::new(vec![cut(9, None, Some(Last::Finished))]).unwrap();
        let made = builder.next(last, vec![]);
        assert_eq!((made.header.commit, made.body.control), (9, 4));
        assert_eq!(made.header.version, 1_000_006, "versions rise while the clock stands still");
        assert!(made.body.clean && made.body.finished.is_some());
    }
}
