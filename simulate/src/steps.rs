//! The steps of a simulation: actions of the plan, and turns of the jobs between them.

use std::sync::Arc;

use dataflow::lockstep::{Lockstep, Task};
use dataflow::{Idle, InputSpec, JobSpec, Memory, Origin, RunError, Settings, StartError, StateAt};
use schemas::config::{Beyond, LogTimeSource, Scope};
use schemas::mapping::Mapping;
use schemas::rows::{Boards, Ids, Table, Tags};
use sinks::commits::{CommitError, Follower, Retention, list_commits, manifest_name, newest};
use sinks::publish::PublishError;

use crate::checks::{Check, CommitContent, HORIZON_MS, TOP_K, Violation, violated};
use crate::clock::SimClock;
use crate::disk::Choices;
use crate::log::{Retained, Subscribed, offset};
use crate::plan::{Act, Action};
use crate::process::{Connected, Mounted, NameFault, Process, ProcessFaults};
use crate::rng::Rng;
use crate::wire::Faults;
use crate::world::{Job, World};

/// Memory for a few events, so that slices and commits end because of what they hold.
const TIGHT: Memory = Memory { slice_bytes: 2000, commit_bytes: 3000, raw_bytes: 100 };
/// How far the clock of a process may be off.
const SKEW_MS: i64 = 60_000;
/// How often a job may find the disk full, and a sync may fail, before it works again.
const FULL_TIMES: u64 = 30;
const SYNC_FAILS: u64 = 3;

impl World<'_> {
    /// Carries out an action.
    pub(crate) fn act(&mut self, action: &Action, rng: &mut Rng) -> Result<(), Violation> {
        match action.act {
            Act::Produce { partition, records } => {
                for _ in 0..records {
                    let at_ms = self.time.now_ms();
                    let (record, wrong) = self.producer.record(rng, partition, at_ms);
                    wrong.into_iter().for_each(|wrong| self.count(wrong));
                    self.topic.produce(partition, Retained { record, at_ms });
                }
                self.outcome.records += records;
            }
            Act::Kill { effects } => self.inject(|faults| faults.effects_left = Some(effects)),
            Act::PowerLoss => self.lose_power(rng)?,
            Act::TakeOver => {
                if let Some(job) = self.job.take() {
                    self.count("takeover");
                    self.zombies.push(job);
                }
            }
            Act::DiskFull => {
                let times = 1 + rng.below(FULL_TIMES);
                self.inject(|faults| faults.full = times);
            }
            Act::SyncFails => {
                let times = 1 + rng.below(SYNC_FAILS);
                self.inject(|faults| faults.sync_fails = times);
            }
            Act::OpenFails => self.inject(|faults| faults.open_fails = true),
            Act::ReadFails => self.inject(|faults| faults.read_fails = true),
            Act::SlowReads { reads } => self.inject(|faults| faults.slow_reads = reads),
            Act::Damage => self.damage(rng)?,
            Act::Jump { wrong_ms } => {
                self.count("clock jump");
                self.time.jump(wrong_ms);
                self.clock_is_off(wrong_ms);
            }
            Act::BadWire { percent } => {
                let [lost, unanswered, late, twice] = [percent; 4];
                let faults = Faults { lost, unanswered, late, twice, silent: 0 };
                self.promotions.wires().iter().for_each(|wire| wire.line().faults = faults);
            }
            Act::NameFails { made } => {
                let fault = if made { NameFault::After } else { NameFault::Before };
                self.inject(|faults| faults.names_fail = Some(fault));
            }
            Act::Idle { hours } => {
                self.count("idle hours");
                self.time.pass(hours * 3_600_000_000);
            }
            Act::Repair => self.repair(rng)?,
            Act::Redeliver => self.redeliver(rng)?,
            Act::Promote => {
                if self.promotions.begin(rng, &self.disk, &self.time, &self.probe) {
                    self.count("promotion");
                }
            }
            Act::Recreate => self.recreate_topic(rng),
            Act::Calm => {
                self.count("calm");
                self.calm();
            }
        }
        Ok(())
    }

    /// Puts a longer topic in the place of the topic.
    fn recreate_topic(&mut self, rng: &mut Rng) {
        let lengths: Vec<usize> = self.topic.partitions().iter().map(Vec::len).collect();
        let at_ms = self.time.now_ms();
        let mut other = Vec::new();
        for length in lengths {
            let more = 1 + rng.below(12) as usize;
            // No copy in the topic follows one that is only here.
            let record = |_| {
                let (record, _) = self.producer.record(rng, usize::MAX, at_ms);
                Retained { record, at_ms }
            };
            other.push((0..length + more).map(record).collect());
        }
        self.topic.replace(other);
    }

    /// The topic is there again, once a job that had read it has refused the other one.
    fn restore_topic(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let before = newest(&*self.disk).ok().flatten();
        let mut partitions = before.iter().flat_map(|b| b.body.inputs.values().flatten());
        if self.topic.is_replaced() && partitions.any(|(_, known)| offset(&known.position) > 0) {
            self.outcome.checks.count(Check::Refused);
            let process = Process::new(Arc::clone(&self.probe));
            if self.start(rng, &process).is_ok() {
                return violated(Check::Refused, "a job continues with another topic");
            }
        }
        self.topic.restore();
        Ok(())
    }

    /// Remembers how far off clocks have been.
    fn clock_is_off(&mut self, by_ms: i64) {
        let (slowest, fastest) = self.clocks_off_ms;
        self.clocks_off_ms = (slowest.min(by_ms - SKEW_MS), fastest.max(by_ms + SKEW_MS));
    }

    /// Makes a fault due for the job; it is counted when it strikes.
    fn inject(&mut self, change: impl FnOnce(&mut ProcessFaults)) {
        if let Some(job) = &self.job {
            change(&mut job.process.faults());
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
            idle: Idle { commits: 1, parts: 1 },
            memory: if self.plan.tight { TIGHT } else { Memory::default() },
            ..Settings::default()
        }
    }

    /// Starts a job on a random number of workers.
    fn start(&mut self, rng: &mut Rng, process: &Arc<Process>) -> Result<Lockstep, StartError> {
        let log = Subscribed { topic: self.topic.clone(), process: Arc::clone(process) };
        let disk = Mounted { disk: Arc::clone(&self.disk), process: Arc::clone(process) };
        let wire = Connected { wire: self.wire.clone(), process: Arc::clone(process) };
        let input = InputSpec {
            name: "input".to_owned(),
            origin: Origin::Log(Arc::new(log)),
            mapping: Mapping::default(),
            log_time: Some(LogTimeSource::Event),
            span: None,
        };
        let workers = 1 + rng.below(rng.clone().below(8) + 1) as usize;
        let before = std::mem::replace(&mut self.workers, workers);
        if before != 0 && before != workers {
            self.count("rescale");
        }
        if self.plan.tight {
            self.count("tight memory");
        }
        let mut skew_ms = 0;
        if self.plan.skewed {
            self.count("clock skew");
            skew_ms = rng.below(2 * SKEW_MS as u64).cast_signed() - SKEW_MS;
            self.clock_is_off(0);
        }
        let started = Lockstep::start(JobSpec {
            settings: self.settings(),
            inputs: vec![input],
            state: StateAt::Storage(Arc::new(disk)),
            workers,
            take_over: true,
            clock: Arc::new(SimClock::new(&self.time, skew_ms, rng.bits())),
            host: "sim".to_owned(),
            publisher: Some(("job".to_owned(), Box::new(wire))),
        });
        let lockstep = started?.unwrap_or_else(|| unreachable!("an endless job is never complete"));
        self.statuses.push(lockstep.status());
        Ok(lockstep)
    }

    fn restart(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.restore_topic(rng)?;
        let process = Process::new(Arc::clone(&self.probe));
        // Some jobs find the disk full or failing when they start.
        let mut own = Rng(rng.clone().bits() ^ 0x5_7a27);
        if own.chance(10) {
            let mut faults = process.faults();
            (faults.full, faults.sync_fails) = (own.below(FULL_TIMES), own.below(SYNC_FAILS));
            faults.open_fails = own.chance(50);
        }
        let before = newest(&*self.disk).ok().flatten();
        let before = before.map(|manifest| CommitContent::read(&*self.disk, &manifest));
        match self.start(rng, &process) {
            Ok(lockstep) => {
                let takeover = lockstep.takeover().clone();
                self.look(rng)?;
                self.job = Some(Job { lockstep, process });
                let Some(before) = before else { return Ok(()) };
                let readable = |content: Result<CommitContent, String>| {
                    content.map_err(|what| Violation { invariant: Check::Sums, what })
                };
                let (before, now) =
                    (readable(before)?, readable(CommitContent::read(&*self.disk, &takeover))?);
                match before.differs(&now) {
                    Some(what) => violated(Check::Sums, format!("a takeover changed {what}")),
                    None => Ok(()),
                }
            }
            Err(error) => violated(Check::Caused, format!("a job failed to start: {error}")),
        }
    }

    /// Gives a job, the reader or a promotion a turn.
    pub(crate) fn step(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.outcome.steps += 1;
        self.time.pass(rng.below(12_000_000));
        for wire in self.promotions.wires() {
            let late = wire.line().late.len() as u64;
            if late > 0 && rng.chance(3) {
                wire.line().deliver(rng.below(late) as usize);
            }
        }
        if rng.chance(20) {
            self.promotions.step(rng, &mut self.outcome.checks)?;
        }
        if !self.zombies.is_empty() && rng.chance(30) {
            let which = rng.below(self.zombies.len() as u64) as usize;
            if let Err(error) = turn(&mut self.zombies[which], rng) {
                let zombie = self.zombies.swap_remove(which);
                broken(&error)?;
                self.outcome.checks.count(Check::Caused);
                if !error.is_fenced() && !zombie.process.faults().struck {
                    let what = format!("a superseded job ended with: {error}");
                    return violated(Check::Caused, what);
                }
            }
            return self.look(rng);
        }
        let Some(job) = &mut self.job else { return self.restart(rng) };
        if let Err(error) = turn(job, rng) {
            let struck = job.process.faults().struck;
            self.outcome.kills += u64::from(job.process.faults().dead);
            self.job = None;
            broken(&error)?;
            self.outcome.checks.count(Check::Caused);
            if !struck {
                return violated(Check::Caused, format!("the job failed without a fault: {error}"));
            }
        }
        self.look(rng)
    }

    fn lose_power(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.count("power loss");
        self.promotions.lose_power();
        self.outcome.kills += u64::from(self.job.is_some());
        (self.job, self.zombies) = (None, Vec::new());
        self.look(rng)?;
        self.disk = self.disk.after_loss(&mut Choices::random(rng.bits()));
        self.follower = Follower::new(Arc::clone(&self.disk) as _);
        let left = list_commits(&*self.disk);
        let left = left.unwrap_or_else(|error| unreachable!("the disk has power again: {error}"));
        let newest = left.last().copied().unwrap_or(0);
        // A commit that was not synced may be gone; its number is free again.
        let gone = self.manifests.split_off(&(newest + 1));
        self.versions.retain(|_, commit| !gone.contains_key(commit));
        self.outcome.checks.count(Check::Durable);
        let published = self.wire.line().job().map_or(0, |row| row.published);
        let known = self.seen.as_ref().map_or(0, |header| header.commit).max(published);
        if known > newest {
            let what =
                format!("commit {known} had been seen; after the loss of power {newest} is newest");
            return violated(Check::Durable, what);
        }
        Ok(())
    }

    /// Damages the newest commit while no job runs: the next job must refuse it.
    fn damage(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        (self.job, self.zombies) = (None, Vec::new());
        self.topic.restore();
        let Ok(Some(manifest)) = newest(&*self.disk) else { return Ok(()) };
        let mut files = vec![manifest_name(manifest.header.commit)];
        let loaded = [Ids::NAME, Tags::NAME, Boards::NAME];
        let segments = manifest.body.segments.iter();
        let segments = segments.filter(|segment| loaded.contains(&segment.table));
        files.extend(segments.map(|segment| segment.name.clone()));
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
            Err(error) => Some(error.to_string()),
            // Some files are read at the first turns of the workers.
            Ok(mut lockstep) => (0..64).find_map(|_| {
                let task = *rng.pick(&lockstep.tasks());
                lockstep.step(task).err().map(|error| error.to_string())
            }),
        };
        self.disk.overwrite(&file, |bytes| *bytes = before);
        self.look(rng)?;
        let base = file.rsplit_once('/').map_or(file.as_str(), |(_, base)| base);
        if refused.as_ref().is_some_and(|error| error.contains(base)) {
            return Ok(());
        }
        violated(Check::Refused, format!("{file} was damaged, and the job said {refused:?}"))
    }
}

/// No fault excuses a broken invariant.
fn broken(error: &RunError) -> Result<(), Violation> {
    match error {
        RunError::Commit(CommitError::Broken(broken))
        | RunError::Publish(PublishError::Broken(broken)) => Err(broken.clone()),
        RunError::Worker(what) => violated(Check::Caused, format!("a worker panicked: {what}")),
        _ => Ok(()),
    }
}

/// Gives a task of `job` a turn, most often a worker.
fn turn(job: &mut Job, rng: &mut Rng) -> Result<bool, RunError> {
    let mut tasks = job.lockstep.tasks();
    if !rng.chance(15) {
        tasks.retain(|task| *task != Task::Housekeeper);
    }
    let task = *rng.pick(&tasks);
    job.lockstep.step(task)
}
