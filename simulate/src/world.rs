//! Running a plan: the jobs that live, the disk, the store, the topic and a reader, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::lockstep::{Lockstep, Task};
use dataflow::{
    Beyond, InputSpec, JobError, JobSpec, LogTimeKind, Origin, Scope, Settings, StateAt,
};
use recount::Rules;
use schemas::event::Decoder;
use schemas::manifest::{Header, Manifest};
use schemas::mapping::Mapping;
use sinks::commits::{
    CommitError, Follower, Retention, list_commits, load, manifest_name, newest, visible,
};
use sinks::invariants::{monotone, reached, rises};
use sinks::publish::PublishError;

use crate::checks::{Check, Shown, TOP_K, Violation, counts, held_back, stored, violated};
use crate::clock::{SimClock, Time};
use crate::disk::{Choices, PowerDisk};
use crate::events::Producer;
use crate::log::{Subscribed, Topic, partition_name};
use crate::outcome::{Outcome, STORE_FAULTS};
use crate::plan::{Act, Action, Plan};
use crate::process::{Connected, Mounted, Probe, Process};
use crate::rng::Rng;
use crate::wire::{Faults, Wire, Write};

const HORIZON_MS: i64 = 2 * 3_600_000;
const REGIONS: [&str; 2] = ["us", "eu"];
/// Steps that a world without trouble may take to catch up, and to end.
const STEPS_MAX: u64 = 10_000;

struct Job {
    lockstep: Lockstep,
    process: Arc<Process>,
}

/// Everything there is.
struct World<'p> {
    plan: &'p Plan,
    decoder: Decoder,
    scopes: Vec<(String, Vec<String>)>,
    time: Time,
    topic: Topic,
    producer: Producer,
    disk: Arc<PowerDisk>,
    wire: Wire,
    probe: Arc<Probe>,
    job: Option<Job>,
    /// Of the last start.
    workers: usize,
    /// Jobs that another one has taken over from and that do not know yet.
    zombies: Vec<Job>,
    follower: Follower,
    /// The newest commit that the reader has seen.
    seen: Option<Header>,
    /// Every manifest that exists, or did before it was removed.
    manifests: BTreeMap<u64, Manifest>,
    versions: BTreeMap<i64, u64>,
    outcome: Outcome,
}

/// Runs a plan to its end, or to the first check that does not hold.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan);
    let ended = world.run();
    let mut outcome = std::mem::take(&mut world.outcome);
    outcome.violation = ended.err();
    outcome.trace = world.probe.seen().trace;
    for (fault, struck) in STORE_FAULTS.iter().zip(world.wire.line().struck) {
        *outcome.faults.entry(fault).or_default() += struck;
    }
    outcome.faults.append(&mut world.probe.seen().struck);
    outcome
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan) -> Self {
        let disk = Arc::new(PowerDisk::default());
        let probe = Arc::new(Probe::default());
        let follower = Follower::new(Arc::clone(&disk) as _);
        Self {
            plan,
            decoder: Decoder::new(Mapping::default(), &["region".to_owned()]),
            scopes: vec![("region".to_owned(), REGIONS.map(str::to_owned).to_vec())],
            time: Time::default(),
            topic: Topic::default(),
            producer: Producer::default(),
            disk,
            wire: Wire::new(Faults::default(), plan.seed),
            probe,
            job: None,
            workers: 0,
            zombies: Vec::new(),
            follower,
            seen: None,
            manifests: BTreeMap::new(),
            versions: BTreeMap::new(),
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        for action in &self.plan.actions {
            let mut rng = Rng(action.seed);
            for _ in 0..action.steps {
                self.step(&mut rng)?;
            }
            self.act(action, &mut rng)?;
        }
        self.drain(&mut Rng(self.plan.seed ^ 0x5eed))
    }

    fn count(&mut self, fault: &'static str) {
        *self.outcome.faults.entry(fault).or_default() += 1;
    }

    fn act(&mut self, action: &Action, rng: &mut Rng) -> Result<(), Violation> {
        match action.act {
            Act::Produce { partition, records } => {
                for _ in 0..records {
                    let (record, wrong) = self.producer.record(rng, self.time.now_ms());
                    wrong.into_iter().for_each(|wrong| self.count(wrong));
                    self.topic.produce(partition, record);
                }
                self.outcome.records += records;
            }
            Act::Kill { effects } => self.afflict(|ills| ills.left = Some(effects)),
            Act::PowerLoss => self.lose_power(rng)?,
            Act::TakeOver => {
                if let Some(job) = self.job.take() {
                    self.count("takeover");
                    self.zombies.push(job);
                }
            }
            Act::DiskFull => self.afflict(|ills| ills.full = true),
            Act::SyncFails => self.afflict(|ills| ills.sync_fails = true),
            Act::OpenFails => self.afflict(|ills| ills.open_fails = true),
            Act::ReadFails => self.afflict(|ills| ills.read_fails = true),
            Act::SlowReads { reads } => self.afflict(|ills| ills.slow_reads = reads),
            Act::Damage => self.damage(rng)?,
            Act::Jump { wrong_ms } => {
                self.count("clock jump");
                self.time.jump(wrong_ms);
            }
            Act::BadWire { percent } => {
                let [lost, unanswered, late, twice] = [percent; 4];
                self.wire.line().faults = Faults { lost, unanswered, late, twice, silent: 0 };
            }
            Act::Calm => self.calm(),
        }
        Ok(())
    }

    fn calm(&mut self) {
        self.time.jump(0);
        self.wire.line().faults = Faults::default();
    }

    /// Makes something go wrong for the job soon; it counts once it does.
    fn afflict(&mut self, change: impl FnOnce(&mut crate::process::Ills)) {
        if let Some(job) = &self.job {
            change(&mut job.process.ills());
        }
    }

    fn settings(&self) -> Settings {
        let scope = |(attribute, allow): &(String, Vec<String>)| Scope {
            attribute: attribute.clone(),
            allow: allow.clone(),
        };
        Settings {
            every_ms: 900_000,
            horizon_ms: Some(HORIZON_MS),
            beyond: if self.plan.count_beyond { Beyond::Count } else { Beyond::DeadLetter },
            scopes: self.scopes.iter().map(scope).collect(),
            top_k: TOP_K,
            retention: Retention { keep_ms: 1_800_000, bytes: None, grace_ms: 600_000 },
            ..Settings::default()
        }
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            decoder: &self.decoder,
            scopes: &self.scopes,
            horizon_ms: Some(HORIZON_MS),
            count_beyond: self.plan.count_beyond,
            until_ms: i64::MAX,
            refused: None,
        }
    }

    /// Starts a job on some number of workers, in a process of its own.
    fn start(&mut self, rng: &mut Rng, process: &Arc<Process>) -> Result<Lockstep, JobError> {
        let log = Subscribed { topic: self.topic.clone(), process: Arc::clone(process) };
        let disk = Mounted { disk: Arc::clone(&self.disk), process: Arc::clone(process) };
        let wire = Connected { wire: self.wire.clone(), process: Arc::clone(process) };
        let input = InputSpec {
            name: "input".to_owned(),
            origin: Origin::Log(Arc::new(log)),
            mapping: Mapping::default(),
            log_time: LogTimeKind::Event,
        };
        let workers = 1 + rng.below(rng.clone().below(8) + 1) as usize;
        let before = std::mem::replace(&mut self.workers, workers);
        if before != 0 && before != workers {
            self.count("rescale");
        }
        let started = Lockstep::start(JobSpec {
            settings: self.settings(),
            inputs: vec![input],
            state: StateAt::Storage(Arc::new(disk)),
            workers,
            take_over: true,
            clock: Arc::new(SimClock::new(&self.time, rng.bits())),
            host: "sim".to_owned(),
            publisher: Some(("job".to_owned(), Box::new(wire))),
        });
        Ok(started?.unwrap_or_else(|| unreachable!("an endless run is never finished")))
    }

    fn restart(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let process = Process::new(Arc::clone(&self.probe));
        let before = newest(&*self.disk).ok().flatten();
        let before = before.map(|manifest| Shown::read(&*self.disk, &manifest));
        match self.start(rng, &process) {
            Ok(lockstep) => {
                let takeover = lockstep.takeover().clone();
                self.look(rng)?;
                let shown = self.recount(&takeover)?;
                self.job = Some(Job { lockstep, process });
                self.outcome.checks.count(Check::Sums);
                match before {
                    Some(Err(what)) => violated(Check::Sums, what),
                    Some(Ok(before)) if before.sums() != shown.sums() => violated(
                        Check::Sums,
                        format!("{:?} before a start, {:?} after", before.sums(), shown.sums()),
                    ),
                    _ => Ok(()),
                }
            }
            Err(error) => violated(Check::Caused, format!("a start failed: {error}")),
        }
    }

    /// C1 and C10 for one commit.
    fn recount(&mut self, manifest: &Manifest) -> Result<Shown, Violation> {
        self.outcome.checks.count(Check::Recount);
        self.outcome.checks.count(Check::Boards);
        let topic = self.topic.partitions();
        counts(&*self.disk, manifest, &topic, &self.rules())
    }

    /// Somebody has a turn.
    fn step(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.outcome.steps += 1;
        self.time.pass(rng.below(12_000_000));
        let late = self.wire.line().late.len() as u64;
        if late > 0 && rng.chance(3) {
            self.wire.line().deliver(rng.below(late) as usize);
        }
        if !self.zombies.is_empty() && rng.chance(30) {
            let which = rng.below(self.zombies.len() as u64) as usize;
            if let Err(error) = turn(&mut self.zombies[which], rng) {
                self.zombies.swap_remove(which);
                broken(&error)?;
            }
            return self.look(rng);
        }
        let Some(job) = &mut self.job else { return self.restart(rng) };
        if let Err(error) = turn(job, rng) {
            let struck = job.process.ills().struck;
            self.outcome.kills += u64::from(job.process.ills().dead);
            self.job = None;
            broken(&error)?;
            self.outcome.checks.count(Check::Caused);
            if !struck {
                return violated(Check::Caused, format!("the job ended by itself: {error}"));
            }
        }
        self.look(rng)
    }

    /// Checks what has happened at the edges since the last look.
    fn look(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let created = std::mem::take(&mut self.probe.seen().created);
        for header in created {
            let manifest = match load(&*self.disk, header.commit) {
                Ok(manifest) => manifest,
                // It has been removed since, or shrunk.
                Err(CommitError::Missing(_)) => continue,
                Err(error) => return violated(Check::Refused, error.to_string()),
            };
            self.outcome.checks.count(Check::Rises);
            if self.manifests.contains_key(&header.commit) {
                let what = format!("commit {} was created twice", header.commit);
                return violated(Check::Rises, what);
            }
            if let Some((_, before)) = self.manifests.range(..header.commit).next_back() {
                rises(before, &manifest)?;
                held_back(before, &manifest)?;
            }
            self.versions.insert(header.version, header.commit);
            self.manifests.insert(header.commit, manifest);
        }
        let sent = std::mem::take(&mut self.wire.line().sent);
        let shown = if sent.is_empty() { None } else { visible(&*self.disk).ok().flatten() };
        for write in sent {
            let version = match write {
                Write::Row(row) => row.version,
                Write::Job(row) => row.version,
            };
            self.outcome.checks.count(Check::Committed);
            if self.versions.get(&version).is_none_or(|commit| Some(*commit) > shown) {
                let what = format!("a row of version {version}, which no visible commit has");
                return violated(Check::Committed, what);
            }
        }
        if rng.chance(10) { self.read() } else { Ok(()) }
    }

    /// The reader looks at what is visible.
    fn read(&mut self) -> Result<(), Violation> {
        self.outcome.checks.count(Check::Monotone);
        match self.follower.step() {
            Ok(_) => {}
            Err(error) => return violated(Check::Monotone, format!("the reader: {error}")),
        }
        if let Some(snapshot) = self.follower.current() {
            let header = &snapshot.manifest.header;
            self.seen.as_ref().map_or(Ok(()), |seen| monotone(seen, header))?;
            self.seen = Some(header.clone());
        }
        Ok(())
    }

    fn lose_power(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.count("power loss");
        self.outcome.kills += u64::from(self.job.is_some());
        (self.job, self.zombies) = (None, Vec::new());
        self.look(rng)?;
        self.disk = self.disk.after_loss(&mut Choices::random(rng.bits()));
        self.follower = Follower::new(Arc::clone(&self.disk) as _);
        let left = list_commits(&*self.disk).unwrap_or_default();
        let newest = left.last().copied().unwrap_or_default();
        // A commit that was created but not synced may be gone: its number is free again.
        let gone = self.manifests.split_off(&(newest + 1));
        self.versions.retain(|_, commit| !gone.contains_key(commit));
        self.outcome.checks.count(Check::Durable);
        let published = self.wire.line().job().map_or(0, |row| row.published);
        let known = self.seen.as_ref().map_or(0, |header| header.commit).max(published);
        if known > newest {
            let what =
                format!("commit {known} had been seen; after a loss of power {newest} is newest");
            return violated(Check::Durable, what);
        }
        Ok(())
    }

    /// Damages the newest commit while no job lives: a start must refuse it.
    fn damage(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        (self.job, self.zombies) = (None, Vec::new());
        let Ok(Some(manifest)) = newest(&*self.disk) else { return Ok(()) };
        let mut files = vec![manifest_name(manifest.header.commit)];
        let tables = ["ids", "tags", "boards"];
        let segments = manifest.body.segments.iter();
        let loaded = segments.filter(|s| tables.contains(&s.table.as_str()));
        files.extend(loaded.map(|segment| segment.name.clone()));
        let (file, bits) = (rng.pick(&files).clone(), rng.bits() >> 16);
        let cut = rng.chance(50);
        self.count(if cut { "file cut off" } else { "bit flip" });
        self.outcome.checks.count(Check::Refused);
        let before = self.disk.overwrite(&file, |bytes| {
            let bit = bits as usize % (bytes.len() * 8).max(1);
            if cut {
                bytes.truncate(bit / 8);
            } else {
                bytes.iter_mut().skip(bit / 8).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
            }
        });
        let process = Process::new(Arc::clone(&self.probe));
        let refused = match self.start(rng, &process) {
            Err(error) => error.to_string(),
            // What the graph loads it reads at the workers' first turns.
            Ok(mut lockstep) => (0..64)
                .find_map(|_| {
                    let task = *rng.pick(&lockstep.tasks());
                    lockstep.step(task).err().map(|error| error.to_string())
                })
                .unwrap_or_default(),
        };
        self.disk.overwrite(&file, |bytes| *bytes = before);
        self.look(rng)?;
        if refused.contains(&file) || refused.contains(file.rsplit('/').next().unwrap_or(&file)) {
            return Ok(());
        }
        violated(Check::Refused, format!("{file} was damaged, and the job said {refused:?}"))
    }

    /// All trouble has ended: the job must catch up with the log, publish it and end.
    fn drain(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.calm();
        let limit = self.outcome.steps + STEPS_MAX;
        self.outcome.checks.count(Check::Drains);
        let mut healed = false;
        let last = loop {
            if self.outcome.steps > limit {
                return violated(Check::Drains, format!("not caught up in {STEPS_MAX} steps"));
            }
            self.step(rng)?;
            if let Some(job) = &self.job {
                if !healed {
                    // What was on its way may still strike once.
                    healed = true;
                    let mut ills = job.process.ills();
                    (ills.slow_reads, ills.left) = (0, ills.left.filter(|_| ills.dead));
                }
                let latest = job.lockstep.latest().current();
                let published = job.lockstep.published().map_or(0, |done| done.commit);
                if self.caught_up(&latest.manifest) && published >= latest.manifest.header.commit {
                    break self.end(rng, limit)?;
                }
            }
        };
        self.recount(&last)?;
        let late = self.wire.line().late.len();
        (0..late).for_each(|_| self.wire.line().deliver(0));
        self.outcome.checks.count(Check::Stored);
        let opened = sinks::commits::Snapshot::open(&*self.disk, last, None);
        let Ok(snapshot) = opened else {
            return violated(Check::Stored, "the last commit cannot be opened");
        };
        stored(&snapshot, self.wire.line().store.rows())?;
        self.read()
    }

    fn caught_up(&self, manifest: &Manifest) -> bool {
        let topic = self.topic.partitions();
        let read = |partition: usize| {
            let name = partition_name(partition);
            let known = manifest.body.inputs.values().find_map(|p| p.get(&name));
            known.map_or(0, |known| reached(&known.position))
        };
        topic.iter().enumerate().all(|(i, records)| read(i) == records.len() as u64)
    }

    /// Asks the job to end; its last commit.
    fn end(&mut self, rng: &mut Rng, limit: u64) -> Result<Manifest, Violation> {
        self.zombies.clear();
        if let Some(job) = &self.job {
            job.lockstep.stop();
        }
        loop {
            if self.outcome.steps > limit {
                return violated(Check::Drains, format!("not ended in {STEPS_MAX} steps"));
            }
            self.step(rng)?;
            let Some(job) = &self.job else {
                return violated(Check::Drains, "the job failed while it was to end");
            };
            let latest = job.lockstep.latest().current();
            let published = job.lockstep.published().map_or(0, |done| done.commit);
            if job.lockstep.is_done() && published >= latest.manifest.header.commit {
                return Ok(latest.manifest.clone());
            }
        }
    }
}

/// No trouble excuses a job that has found an invariant broken.
fn broken(error: &JobError) -> Result<(), Violation> {
    match error {
        JobError::Commit(CommitError::Broken(broken))
        | JobError::Publish(PublishError::Broken(broken)) => Err(broken.clone()),
        _ => Ok(()),
    }
}

/// Gives a task of `job` a turn; the workers most often.
fn turn(job: &mut Job, rng: &mut Rng) -> Result<bool, JobError> {
    let mut tasks = job.lockstep.tasks();
    if !rng.chance(15) {
        tasks.retain(|task| *task != Task::Housekeeper);
    }
    let task = *rng.pick(&tasks);
    job.lockstep.step(task)
}
