//! When commits end and when a run ends: the whole job on simulated time, one step per millisecond.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dataflow::clock::{Clock, RandomError, SystemClock};
use dataflow::lockstep::Lockstep;
use dataflow::sources::{Discovered, Log, LogError, Mode, Next, Reader, Record, Shape};
use dataflow::{InputSpec, JobSpec, Origin, Settings, Started, StateAt};
use schemas::config::{FileOptions, Follow, LogTimeSource};
use schemas::manifest::{Fingerprint, Manifest, Position};
use schemas::mapping::Mapping;
use sinks::commits::newest;
use sinks::storage::{MemoryStorage, Storage};

const START_MS: i64 = 1_700_000_000_000;
const EVERY_MS: u64 = 200;

#[derive(Clone, Default)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        START_MS.saturating_add_unsigned(self.ms())
    }

    fn mono_us(&self) -> u64 {
        self.ms() * 1000
    }

    fn pause(&self, _: Duration) -> Option<Duration> {
        None
    }

    fn random(&self) -> Result<u128, RandomError> {
        Ok(7)
    }
}

/// How records arrive in a partition.
#[derive(Clone, Copy, Debug)]
enum Flow {
    /// There is always another record.
    Endless,
    /// One record per millisecond: every read finds one, and then none.
    Trickle,
    /// None.
    Silent,
}

/// A topic in memory, with one partition per flow.
struct Flows(Vec<Flow>, TestClock);

impl Log for Flows {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let found = |share: usize| Discovered {
            partition: share.to_string(),
            share: share as u64,
            shape: Shape::Ordered { bytes: None },
        };
        Ok((0..self.0.len()).map(found).collect())
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        let flow = self.0[partition.parse::<usize>().unwrap()];
        Ok(Box::new(FlowReader { flow, clock: self.1.clone(), next: position }))
    }

    fn is_bounded(&self) -> bool {
        false
    }
}

struct FlowReader {
    flow: Flow,
    clock: TestClock,
    next: u64,
}

impl Reader for FlowReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let end = match self.flow {
            Flow::Endless => self.next + 3,
            Flow::Trickle => self.clock.ms(),
            Flow::Silent => 0,
        };
        for _ in 0..limit {
            if self.next >= end {
                break;
            }
            let (position, ts) = (self.next, self.clock.wall_ms());
            let record = format!("{{\"event_id\":{position},\"ts\":{ts},\"caption\":\"#a\"}}");
            let (bytes, size) = (record.as_bytes(), record.len() as u64);
            each(Record { position, bytes, size, is_null: false, stamp_ms: None });
            self.next += 1;
        }
        let is_more = matches!(self.flow, Flow::Endless) || self.next < end;
        Ok(if is_more { Next::More } else { Next::Wait })
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}

fn start(origin: Origin, settings: Settings, workers: usize, clock: &TestClock) -> Lockstep {
    let (clock, storage) = (Arc::new(clock.clone()), Arc::new(MemoryStorage::default()));
    Lockstep::start(spec(origin, settings, workers, clock, storage)).unwrap().unwrap()
}

fn spec(
    origin: Origin,
    settings: Settings,
    workers: usize,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
) -> JobSpec {
    let input = InputSpec {
        name: "input".to_owned(),
        origin,
        mapping: Mapping::default(),
        log_time: Some(LogTimeSource::Event),
        span: None,
    };
    JobSpec {
        settings,
        inputs: vec![input],
        state: StateAt::Storage(storage),
        workers,
        take_over: true,
        clock,
        host: "test".to_owned(),
        publisher: None,
    }
}

/// Runs everything for one millisecond.
fn pass(job: &mut Lockstep, clock: &TestClock) {
    clock.0.fetch_add(1, Ordering::Relaxed);
    for task in job.tasks() {
        job.step(task).unwrap();
    }
}

/// Counts the commits of twenty intervals, without the takeover.
fn commits(flows: &[Flow], workers: usize, limit_rate: Option<u64>) -> u64 {
    let clock = TestClock::default();
    let log = Flows(flows.to_vec(), clock.clone());
    let settings = Settings { every_ms: EVERY_MS, limit_rate, ..Settings::default() };
    let mut job = start(Origin::Log(Arc::new(log)), settings, workers, &clock);
    (0..20 * EVERY_MS).for_each(|_| pass(&mut job, &clock));
    job.latest().current().manifest.header.commit - job.takeover().header.commit
}

#[test]
fn lagging_job_commits_every_fifth_interval() {
    use Flow::{Endless, Silent, Trickle};
    let often = 15..=20;
    let seldom = 3..=4;
    for (flows, workers, limit_rate, want) in [
        (&[][..], 1, None, &often),
        (&[Silent], 1, None, &often),
        // Every read finds a record.
        (&[Trickle], 1, None, &often),
        (&[Trickle, Trickle, Silent], 2, None, &often),
        (&[Endless], 1, None, &seldom),
        (&[Endless, Silent], 1, None, &seldom),
        (&[Trickle, Endless], 2, None, &seldom),
        // Longer commits would not let it read faster.
        (&[Endless], 1, Some(100), &often),
    ] {
        let made = commits(flows, workers, limit_rate);
        assert!(want.contains(&made), "{made} commits of {flows:?} on {workers} workers");
    }
}

/// A topic to which a partition is added.
struct Growing(Flows, TestClock, u64);

impl Log for Growing {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let mut found = self.0.discover()?;
        if self.1.ms() < self.2 {
            found.pop();
        }
        Ok(found)
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.0.open(partition, position)
    }

    fn is_bounded(&self) -> bool {
        false
    }

    fn is_topic(&self) -> bool {
        true
    }
}

#[test]
fn new_partition_of_a_topic_is_read_although_the_commit_lasts() {
    let clock = TestClock::default();
    let flows = Flows(vec![Flow::Trickle, Flow::Trickle], clock.clone());
    let log = Growing(flows, clock.clone(), 10_000);
    let settings = Settings { every_ms: 60_000, ..Settings::default() };
    let mut job = start(Origin::Log(Arc::new(log)), settings, 1, &clock);
    let read = |job: &mut Lockstep, until_ms: u64| {
        (clock.ms()..until_ms).for_each(|_| pass(job, &clock));
        job.status().records()
    };
    let before = read(&mut job, 9_000);
    assert!((8_900..=9_000).contains(&before), "{before}");
    // Both partitions hold a record for every millisecond.
    let after = read(&mut job, 12_000);
    assert!((23_500..=24_000).contains(&after), "{after}");
    assert_eq!(job.latest().current().manifest.header.commit, job.takeover().header.commit);
}

/// The last commit of a bounded run over files.
fn counted(files: &BTreeMap<&str, Vec<u8>>, workers: usize) -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let clock = TestClock::default();
    let options = FileOptions::default();
    let origin = Origin::Files { path: folder.path().to_owned(), mode: Mode::Blocks, options };
    let mut job = start(origin, Settings::default().bounded(), workers, &clock);
    while !job.is_done() {
        assert!(clock.ms() < 600_000, "the run does not end");
        pass(&mut job, &clock);
    }
    job.latest().current().manifest.clone()
}

#[test]
fn run_continues_until_every_file_is_read() {
    let lines = |from: i64, count: i64| -> Vec<u8> {
        let line = |i| format!("{{\"event_id\":{i},\"ts\":{},\"caption\":\"#a\"}}\n", START_MS + i);
        (from..from + count).map(line).collect::<String>().into_bytes()
    };
    let zip = |bytes: &[u8]| {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap()
    };
    // After one turn of 1024 records the next turn finds nothing.
    for small in [0, 1, 1024, 2048] {
        for workers in [1, 2] {
            let zipped = zip(&lines(1_000_000, small));
            let files = BTreeMap::from([("a.ndjson", lines(0, 9000)), ("b.ndjson.gz", zipped)]);
            let manifest = counted(&files, workers);
            let events = manifest.body.counters.events;
            assert_eq!(events, 9000 + small.unsigned_abs(), "{small} on {workers} workers");
        }
    }
}

#[test]
fn followed_file_with_an_unfinished_last_line_holds_the_windows_back_for_half_a_minute() {
    let record =
        |id: &str, ts: i64| format!("{{\"event_id\":\"{id}\",\"ts\":{ts},\"caption\":\"#a\"}}");
    let old_ms = START_MS - 5 * 3_600_000;
    let [old, late] = ["old", "late"].map(|id| record(id, old_ms));
    // Half a record, and a whole one that may only lack its newline.
    for cut in [10, late.len()] {
        let folder = tempfile::tempdir().unwrap();
        let unfinished = folder.path().join("b.ndjson");
        let live = format!("{}\n", record("live", START_MS));
        fs::write(folder.path().join("a.ndjson"), live).unwrap();
        fs::write(&unfinished, format!("{old}\n{}", &late[..cut])).unwrap();
        let clock = TestClock::default();
        let options = FileOptions::default();
        let origin = Origin::Files {
            path: folder.path().to_owned(),
            mode: Mode::Follow(Follow::default()),
            options,
        };
        let mut job = start(origin, Settings::default(), 2, &clock);
        let mut body_at = |ms: u64| {
            while clock.ms() < ms {
                clock.0.fetch_add(19, Ordering::Relaxed);
                pass(&mut job, &clock);
            }
            job.latest().current().manifest.body.clone()
        };
        let before = body_at(29_000);
        assert_eq!((before.as_of_ms, before.counters.events), (Some(old_ms), 2));
        let after = body_at(36_000);
        assert!(after.as_of_ms >= Some(START_MS + 30_000), "{:?}", after.as_of_ms);
        let file = &after.inputs["input"]["b.ndjson"];
        assert_eq!(file.position, Position::Offset(old.len() as u64 + 1));
        let mut file = fs::OpenOptions::new().append(true).open(&unfinished).unwrap();
        writeln!(file, "{}", &late[cut..]).unwrap();
        let last = body_at(40_000);
        assert_eq!((last.counters.events, last.counters.dead_letters), (3, 0));
        assert!(last.as_of_ms >= after.as_of_ms);
    }
}

#[test]
fn threads_of_a_dropped_job_have_ended_and_its_last_commit_is_made() {
    let storage = Arc::new(MemoryStorage::default());
    let log = Flows(vec![Flow::Silent], TestClock::default());
    let (origin, clock) = (Origin::Log(Arc::new(log)), Arc::new(SystemClock::default()));
    let spec = spec(origin, Settings::default(), 2, clock, Arc::clone(&storage) as _);
    let Started::Running(job) = dataflow::start(spec).unwrap() else { panic!("it is endless") };
    drop(job);
    assert_eq!(Arc::strong_count(&storage), 1, "no thread holds the storage");
    assert!(newest(&*storage).unwrap().unwrap().body.clean);
}

#[test]
fn commit_with_enough_to_write_ends_before_its_interval() {
    let clock = TestClock::default();
    let log = Flows(vec![Flow::Endless], clock.clone());
    let memory = dataflow::Memory { commit_bytes: 3000, ..dataflow::Memory::default() };
    let settings = Settings { every_ms: EVERY_MS, memory, ..Settings::default() };
    let mut job = start(Origin::Log(Arc::new(log)), settings, 1, &clock);
    (0..10 * EVERY_MS).for_each(|_| pass(&mut job, &clock));
    let newest = job.latest().current().manifest.clone();
    let made = newest.header.commit - job.takeover().header.commit;
    let events = newest.body.counters.events;
    assert!(made > 20 && events > 50 * made, "{made} commits of {events} events");
}
