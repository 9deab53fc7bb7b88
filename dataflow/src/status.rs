//! What a job is doing, for metrics and the live line.
//!
//! Invariant: nothing that a job decides depends on it.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use schemas::event::{Decoder, Remark, Survey};
use schemas::manifest::{Counters, Manifest};
use serde::Serialize;
use sinks::commits::Housekeeping;
use sinks::publish::{Published, WaitingRows};
use sinks::storage::Lack;

use crate::plan::{Unfinished, bytes_read};
use crate::reasons::Reasons;
use crate::records::Cut;

/// The size of one worker's state.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    ids: (usize, usize),
    tags: (usize, usize),
    /// Partitions that are paused, and that are silent.
    aligned: (usize, usize),
}

/// The newest durable commit in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its number.
    pub commit: u64,
    /// Its stream time.
    pub as_of_ms: Option<i64>,
    /// What has been counted since the state began.
    pub counters: Counters,
    /// How many bytes of bounded files have been read, and how many there are. Zeros without files.
    pub bytes: (u64, u64),
}

/// How far publishing has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Publishing {
    /// The last commit that the store has in full.
    pub commit: u64,
    /// Commits made since.
    pub lag_commits: u64,
    /// How old that commit is while there are newer ones, in milliseconds.
    pub lag_ms: u64,
    /// Rows acknowledged by the store.
    pub rows: u64,
    /// Writes that were sent again because their outcome was unknown.
    pub resent: u64,
    /// Rows that the store will never accept.
    pub refused: u64,
    /// Whether rows wait because the store does not take them.
    pub waiting: bool,
    /// For how long, in milliseconds.
    pub waiting_ms: u64,
    /// How many rows were sent and wait for an answer.
    pub waiting_rows: u64,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How large a job's state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateSize {
    /// Event ids in memory.
    pub ids: u64,
    /// Their memory.
    pub id_bytes: u64,
    /// Tags in memory, once for each scope.
    pub tags: u64,
    /// Their memory.
    pub tag_bytes: u64,
    /// Files of the newest commit.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
}

/// The work of keeping hot state over cold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tags read back from segments.
    pub cold_reads: u64,
    /// Tags evicted from memory.
    pub evicted: u64,
    /// Scans of all tags because a board had too few candidates.
    pub board_scans: u64,
}

/// The metrics of a job, shared by all its threads and cheap to update.
#[derive(Debug, Default)]
pub struct Status {
    progress: Mutex<Progress>,
    sizes: Mutex<Vec<Sizes>>,
    records: Counter,
    commit: Gauge,
    as_of_seconds: Gauge,
    clocks_disagree: Gauge,
    ids: Gauge,
    id_bytes: Gauge,
    tags: Gauge,
    tag_bytes: Gauge,
    segments: Gauge,
    segment_bytes: Gauge,
    commit_milliseconds: Gauge,
    merges: Counter,
    removed_files: Counter,
    cold_reads: Counter,
    evicted: Counter,
    board_scans: Counter,
    publishing: Mutex<Option<Publishing>>,
    published: Gauge,
    publish_lag_commits: Gauge,
    publish_lag_seconds: Gauge,
    publish_waiting: Gauge,
    publish_waiting_seconds: Gauge,
    publish_waiting_rows: Gauge,
    publish_rows: Counter,
    publish_resent: Counter,
    publish_refused: Counter,
    held_partitions: Gauge,
    silent_partitions: Gauge,
    input_troubles: Gauge,
    unfinished: Mutex<Vec<Unfinished>>,
    unfinished_lines: Gauge,
    waiting: Family<[(&'static str, &'static str); 1], Gauge>,
    blocked_partitions: Gauge,
    counted: Counted,
    /// What had been counted when this run began.
    before: Mutex<Counters>,
    reasons: Mutex<Reasons>,
    surveys: Mutex<BTreeMap<String, Surveyed>>,
}

/// What the first records of an input show of its mapping.
#[derive(Debug)]
struct Surveyed {
    decoder: Decoder,
    survey: Survey,
    /// The fields that a remark was made about.
    told: BTreeSet<String>,
}

/// With fewer records, a remark is made at the end of a run only.
const REMARKED: u64 = 100;

/// A gauge for each counter of the manifest, since those continue over restarts.
#[derive(Debug, Default)]
struct Counted([Gauge; 17]);

impl Status {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        gauge("commit", "Number of the newest durable commit", &self.commit);
        gauge("as_of_seconds", "Stream time of the newest cut, since 1970", &self.as_of_seconds);
        gauge(
            "clocks_disagree",
            "1 while event times contradict the wall clock",
            &self.clocks_disagree,
        );
        gauge("state_ids", "Event ids in memory", &self.ids);
        gauge("state_id_bytes", "Memory of event ids", &self.id_bytes);
        gauge("state_tags", "Tags in memory", &self.tags);
        gauge("state_tag_bytes", "Memory of tags", &self.tag_bytes);
        gauge("segments", "Files of the newest commit", &self.segments);
        gauge("segment_bytes", "Bytes of the newest commit's files", &self.segment_bytes);
        gauge(
            "commit_milliseconds",
            "From cut to durable, newest commit",
            &self.commit_milliseconds,
        );
        gauge("published_commit", "Newest commit the store has in full", &self.published);
        gauge("publish_lag_commits", "Commits newer than that", &self.publish_lag_commits);
        gauge("publish_lag_seconds", "Its age, 0 if it is the newest", &self.publish_lag_seconds);
        gauge("publish_waiting", "1 while the store takes no rows", &self.publish_waiting);
        let help = "How long the store has taken no rows";
        gauge("publish_waiting_seconds", help, &self.publish_waiting_seconds);
        let help = "Rows that the store has not acknowledged";
        gauge("publish_waiting_rows", help, &self.publish_waiting_rows);
        let help = "Partitions of topics that run ahead, and wait";
        gauge("held_partitions", help, &self.held_partitions);
        let help = "Partitions of topics that deliver nothing, though they should";
        gauge("silent_partitions", help, &self.silent_partitions);
        let help = "Partitions of topics that wait for an open transaction";
        gauge("blocked_partitions", help, &self.blocked_partitions);
        let help = "How often an input could not be reached, by this process";
        gauge("input_troubles", help, &self.input_troubles);
        let help = "Files whose last line has no newline, and waits for the rest";
        gauge("unfinished_lines", help, &self.unfinished_lines);
        let help = "1 while the job waits for something that its state lacks";
        Lack::ALL.iter().for_each(|lack| drop(self.waiting_for(*lack)));
        registry.register("waiting", help, self.waiting.clone());
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| {
            registry.register(name, help, gauge.clone());
        };
        let counters = Counters::default().named();
        assert_eq!(counters.len(), self.counted.0.len(), "there is a gauge for each counter");
        for ((name, _), value) in counters.iter().zip(&self.counted.0) {
            let help = "Records or occurrences since the state began, by the newest commit";
            gauge(&format!("committed_{name}"), help, value);
        }
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter("publish_rows", "Rows acknowledged by the store", &self.publish_rows);
        counter("publish_resent", "Writes sent again to the store", &self.publish_resent);
        counter("publish_refused", "Rows the store never takes", &self.publish_refused);
        registry.register("records", "Records read by this process", self.records.clone());
        registry.register("cold_reads", "Tags read from segments", self.cold_reads.clone());
        registry.register("evicted_tags", "Tags evicted from memory", self.evicted.clone());
        let help = "Scans of all tags in memory for a board";
        registry.register("board_scans", help, self.board_scans.clone());
        registry.register("merges", "Background merges of segments", self.merges.clone());
        registry.register(
            "removed_files",
            "Files that no kept commit needs",
            self.removed_files.clone(),
        );
    }

    /// The newest durable commit in numbers.
    pub fn progress(&self) -> Progress {
        *self.progress.lock()
    }

    fn waiting_for(&self, lack: Lack) -> Gauge {
        let label = match lack {
            Lack::Space => "space",
            Lack::Handles => "handles",
            Lack::Device => "device",
        };
        self.waiting.get_or_create(&[("for", label)]).clone()
    }

    /// What the job waits for, if its state lacks something.
    pub fn lacking(&self) -> Option<Lack> {
        Lack::ALL.into_iter().find(|lack| self.waiting_for(*lack).get() > 0)
    }

    /// The state begins or ceases to lack something.
    pub(crate) fn lacks(&self, lack: Lack, begins: bool) {
        self.waiting_for(lack).set(i64::from(begins));
    }

    /// Records read by this process.
    pub fn records(&self) -> u64 {
        self.records.get()
    }

    /// How large the state is.
    pub fn state_size(&self) -> StateSize {
        let number = |gauge: &Gauge| gauge.get().unsigned_abs();
        StateSize {
            ids: number(&self.ids),
            id_bytes: number(&self.id_bytes),
            tags: number(&self.tags),
            tag_bytes: number(&self.tag_bytes),
            segments: number(&self.segments),
            segment_bytes: number(&self.segment_bytes),
        }
    }

    pub(crate) fn read(&self, records: usize) {
        self.records.inc_by(records as u64);
    }

    pub(crate) fn dedup(&self, worker: usize, ids: usize, bytes: usize) {
        self.resize(worker, |sizes| sizes.ids = (ids, bytes));
    }

    pub(crate) fn tags(&self, worker: usize, tags: usize, bytes: usize) {
        self.resize(worker, |sizes| sizes.tags = (tags, bytes));
    }

    pub(crate) fn aligned(&self, worker: usize, paused: usize, silent: usize) {
        self.resize(worker, |sizes| sizes.aligned = (paused, silent));
    }

    pub(crate) fn troubles(&self, troubles: u64, blocked: u64) {
        self.input_troubles.set(troubles as i64);
        self.blocked_partitions.set(blocked as i64);
    }

    /// The last line of a file is not whole, or is no longer.
    pub(crate) fn unfinished(&self, line: Unfinished, is_unfinished: bool) {
        let mut lines = self.unfinished.lock();
        lines.retain(|known| (&known.input, &known.partition) != (&line.input, &line.partition));
        if is_unfinished {
            lines.push(line);
        }
        self.unfinished_lines.set(lines.len() as i64);
    }

    /// How many files end with a line that is not whole. It is in no counter.
    pub fn unfinished_lines(&self) -> u64 {
        self.unfinished.lock().len() as u64
    }

    /// A run begins with what has been counted before.
    pub(crate) fn begin(&self, takeover: &Manifest) {
        *self.before.lock() = takeover.body.counters;
        self.committed(takeover, 0);
    }

    /// What had been counted when this run began.
    pub fn before(&self) -> Counters {
        *self.before.lock()
    }

    pub(crate) fn refused(&self, reasons: Reasons) {
        self.reasons.lock().merge(reasons);
    }

    /// What this run has refused while it read.
    pub fn reasons(&self) -> Reasons {
        self.reasons.lock().clone()
    }

    /// Takes into account what a worker has seen of an input. Returns what is new about it.
    pub(crate) fn surveyed(&self, input: &str, decoder: &Decoder, more: Survey) -> Vec<Remark> {
        let mut surveys = self.surveys.lock();
        let known = surveys.entry(input.to_owned()).or_insert_with(|| Surveyed {
            decoder: decoder.clone(),
            survey: Survey::default(),
            told: BTreeSet::new(),
        });
        known.survey.merge(more);
        if known.survey.records() < REMARKED {
            return Vec::new();
        }
        let mut remarks = known.survey.remarks(&known.decoder);
        remarks.retain(|remark| known.told.insert(remark.field().to_owned()));
        remarks
    }

    /// What is probably wrong with the mappings of the inputs.
    pub fn remarks(&self) -> Vec<String> {
        let surveys = self.surveys.lock();
        let of = |(input, known): (&String, &Surveyed)| {
            let remarks = known.survey.remarks(&known.decoder).into_iter();
            remarks.map(|remark| format!("{input}: {remark}")).collect::<Vec<_>>()
        };
        surveys.iter().flat_map(of).collect()
    }

    fn resize(&self, worker: usize, change: impl FnOnce(&mut Sizes)) {
        let mut sizes = self.sizes.lock();
        if sizes.len() <= worker {
            sizes.resize(worker + 1, Sizes::default());
        }
        change(&mut sizes[worker]);
        let sum = |of: fn(&Sizes) -> usize| sizes.iter().map(of).sum::<usize>() as i64;
        self.ids.set(sum(|s| s.ids.0));
        self.id_bytes.set(sum(|s| s.ids.1));
        self.tags.set(sum(|s| s.tags.0));
        self.tag_bytes.set(sum(|s| s.tags.1));
        self.held_partitions.set(sum(|s| s.aligned.0));
        self.silent_partitions.set(sum(|s| s.aligned.1));
    }

    pub(crate) fn cut(&self, cut: &Cut) {
        // The gauge is 0 before the first event.
        self.as_of_seconds.set(cut.as_of_ms.unwrap_or(0) / 1000);
        self.clocks_disagree.set(i64::from(!cut.clocks_agree));
    }

    pub(crate) fn committed(&self, manifest: &Manifest, milliseconds: u64) {
        let body = &manifest.body;
        let mut progress = self.progress.lock();
        *progress = Progress {
            commit: manifest.header.commit,
            as_of_ms: body.as_of_ms,
            counters: body.counters,
            bytes: bytes_read(&body.inputs),
        };
        self.commit.set(manifest.header.commit as i64);
        self.segments.set(body.segments.len() as i64);
        self.segment_bytes.set(body.segments.iter().map(|s| s.bytes as i64).sum());
        self.commit_milliseconds.set(milliseconds as i64);
        for ((_, count), gauge) in body.counters.named().iter().zip(&self.counted.0) {
            gauge.set(*count as i64);
        }
    }

    /// The work of keeping hot state over cold in this process.
    pub fn work(&self) -> Work {
        Work {
            cold_reads: self.cold_reads.get(),
            evicted: self.evicted.get(),
            board_scans: self.board_scans.get(),
        }
    }

    pub(crate) fn add_work(&self, work: Work) {
        self.cold_reads.inc_by(work.cold_reads);
        self.evicted.inc_by(work.evicted);
        self.board_scans.inc_by(work.board_scans);
    }

    pub(crate) fn add_housekeeping(&self, done: Housekeeping) {
        self.merges.inc_by(done.merges);
        self.removed_files.inc_by(done.removed);
    }

    /// How far publishing has got. `None` without a store.
    pub fn publishing(&self) -> Option<Publishing> {
        self.publishing.lock().clone()
    }

    /// What the publisher has done, and since when it waits for the store, if it does.
    pub(crate) fn published(
        &self,
        done: Published,
        newest: &Manifest,
        wait: Option<(u64, WaitingRows)>,
        wall_ms: i64,
    ) {
        let lag_commits = newest.header.commit.saturating_sub(done.commit);
        // Before the first publication the age is that of the newest commit.
        let since_ms = if done.commit == 0 { newest.header.wall_ms } else { done.wall_ms };
        let lag_ms = if lag_commits == 0 { 0 } else { (wall_ms - since_ms).max(0).unsigned_abs() };
        let Published { commit, rows, resent, refused, .. } = done;
        self.published.set(commit as i64);
        self.publish_lag_commits.set(lag_commits as i64);
        self.publish_lag_seconds.set((lag_ms / 1000) as i64);
        let waiting = wait.is_some();
        let (waiting_ms, waiting_rows, why) =
            wait.map_or((0, 0, None), |(ms, WaitingRows { rows, why, .. })| (ms, rows as u64, why));
        self.publish_waiting.set(i64::from(waiting));
        self.publish_waiting_seconds.set((waiting_ms / 1000) as i64);
        self.publish_waiting_rows.set(waiting_rows as i64);
        for (counter, now) in [
            (&self.publish_rows, rows),
            (&self.publish_resent, resent),
            (&self.publish_refused, refused),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        let now = Publishing {
            commit,
            lag_commits,
            lag_ms,
            rows,
            resent,
            refused,
            waiting,
            waiting_ms,
            waiting_rows,
            why,
        };
        *self.publishing.lock() = Some(now);
    }
}
