//! Running a plan: the jobs that live, the disk, the store, the topic and a reader, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataflow::lockstep::{Lockstep, Task};
use dataflow::{Idle, InputSpec, JobError, JobSpec, Origin, Settings, StateAt, Status, Work};
use recount::{Refused, Rules};
use schemas::config::{Beyond, LogTimeSource, Scope};
use schemas::event::Decoder;
use schemas::manifest::{Header, Manifest};
use schemas::mapping::Mapping;
use sinks::commits::{CommitError, Follower, Retention, list_commits, manifest_name, newest};
use sinks::publish::PublishError;

use crate::again::Again;
use crate::checks::{At, Check, HORIZON_MS, Shown, TOP_K, Violation, violated};
use crate::clock::{SimClock, Time};
use crate::disk::{Choices, PowerDisk};
use crate::events::Producer;
use crate::log::{Retained, Subscribed, Topic};
use crate::outcome::{Outcome, STORE_FAULTS};
use crate::plan::{Act, Action, Plan};
use crate::process::{Connected, Mounted, Probe, Process, Side};
use crate::promotions::Promotions;
use crate::repairs::Asked;
use crate::rng::Rng;
use crate::wire::{Faults, Wire};

const REGIONS: [&str; 2] = ["us", "eu"];
/// How far the clock of a process may be off.
const SKEW_MS: i64 = 60_000;

pub(crate) struct Job {
    pub(crate) lockstep: Lockstep,
    pub(crate) process: Arc<Process>,
}

/// Everything there is.
pub(crate) struct World<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) decoder: Decoder,
    pub(crate) scopes: Vec<(String, Vec<String>)>,
    pub(crate) time: Time,
    pub(crate) topic: Topic,
    pub(crate) producer: Producer,
    pub(crate) disk: Arc<PowerDisk>,
    pub(crate) wire: Wire,
    pub(crate) probe: Arc<Probe>,
    pub(crate) job: Option<Job>,
    /// Of the last start.
    pub(crate) workers: usize,
    /// Jobs that another one has taken over from and that do not know yet.
    pub(crate) zombies: Vec<Job>,
    pub(crate) follower: Follower,
    /// The newest commit that the reader has seen.
    pub(crate) seen: Option<Header>,
    /// The newest generation of which a commit has been recounted.
    pub(crate) generation: u64,
    /// How far clocks have been off so far: the slowest, and the fastest.
    pub(crate) clocks_off_ms: (i64, i64),
    /// What the jobs so far are doing, or did.
    pub(crate) statuses: Vec<Arc<Status>>,
    /// Every manifest that exists, or did before it was removed.
    pub(crate) manifests: BTreeMap<u64, Manifest>,
    pub(crate) versions: BTreeMap<i64, u64>,
    pub(crate) asked: Option<Asked>,
    /// Refused records that were asked for, by where they were read.
    pub(crate) again: BTreeMap<At, Again>,
    pub(crate) promotions: Promotions,
    pub(crate) outcome: Outcome,
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
    for work in world.statuses.iter().map(|status| status.work()) {
        let Work { cold_reads, evicted, board_scans } = work;
        for (name, n) in
            [("cold read", cold_reads), ("tag let go", evicted), ("board scan", board_scans)]
        {
            *outcome.work.entry(name).or_default() += n;
        }
    }
    outcome.work.insert("full call to the store", world.wire.line().full_calls);
    outcome
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan) -> Self {
        let disk = Arc::new(PowerDisk::default());
        let probe = Arc::new(Probe::default());
        let follower = Follower::new(Arc::clone(&disk) as _);
        let [wire, new] = [0, 1].map(|i| Wire::new(Faults::default(), plan.seed ^ i << 60));
        Self {
            plan,
            decoder: Decoder::new(Mapping::default(), &["region".to_owned()]),
            scopes: vec![("region".to_owned(), REGIONS.map(str::to_owned).to_vec())],
            time: Time::default(),
            topic: Topic::default(),
            producer: Producer::default(),
            disk,
            promotions: Promotions::new(wire.clone(), new),
            wire,
            probe,
            job: None,
            workers: 0,
            zombies: Vec::new(),
            follower,
            seen: None,
            generation: 0,
            clocks_off_ms: (0, 0),
            statuses: Vec::new(),
            manifests: BTreeMap::new(),
            versions: BTreeMap::new(),
            asked: None,
            again: BTreeMap::new(),
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

    pub(crate) fn count(&mut self, fault: &'static str) {
        *self.outcome.faults.entry(fault).or_default() += 1;
    }

    fn act(&mut self, action: &Action, rng: &mut Rng) -> Result<(), Violation> {
        match action.act {
            Act::Produce { partition, records } => {
                for _ in 0..records {
                    let at_ms = self.time.now_ms();
                    let (made, wrong) = self.producer.record(rng, at_ms);
                    wrong.into_iter().for_each(|wrong| self.count(wrong));
                    self.topic.produce(partition, Retained { made, at_ms });
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
                self.clock_is_off(wrong_ms);
            }
            Act::BadWire { percent } => {
                let [lost, unanswered, late, twice] = [percent; 4];
                let faults = Faults { lost, unanswered, late, twice, silent: 0 };
                self.promotions.wires().iter().for_each(|wire| wire.line().faults = faults);
            }
            Act::NameFails { made } => {
                let side = if made { Side::After } else { Side::Before };
                self.afflict(|ills| ills.names_fail = Some(side));
            }
            Act::Idle { hours } => {
                self.count("idle hours");
                self.time.pass(hours * 3_600_000_000);
            }
            Act::Repair => self.repair(rng)?,
            Act::Redeliver => self.redeliver(rng)?,
            Act::Promote => self.promote(rng),
            Act::Calm => {
                self.count("calm");
                self.calm();
            }
        }
        Ok(())
    }

    /// Remembers how far clocks have been off.
    fn clock_is_off(&mut self, by_ms: i64) {
        let (slowest, fastest) = self.clocks_off_ms;
        self.clocks_off_ms = (slowest.min(by_ms - SKEW_MS), fastest.max(by_ms + SKEW_MS));
    }

    pub(crate) fn calm(&mut self) {
        self.time.jump(0);
        let faults = Faults::default();
        self.promotions.wires().iter().for_each(|wire| wire.line().faults = faults);
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
            idle: Idle { commits: 1, parts: 1 },
            ..Settings::default()
        }
    }

    pub(crate) fn rules<'r>(&'r self, refused: &'r Refused) -> Rules<'r> {
        Rules {
            decoder: &self.decoder,
            scopes: &self.scopes,
            horizon_ms: Some(HORIZON_MS),
            count_beyond: self.plan.count_beyond,
            until_ms: i64::MAX,
            refused: Some(refused),
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
            log_time: Some(LogTimeSource::Event),
            span: None,
        };
        let workers = 1 + rng.below(rng.clone().below(8) + 1) as usize;
        let before = std::mem::replace(&mut self.workers, workers);
        if before != 0 && before != workers {
            self.count("rescale");
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
        let lockstep = started?.unwrap_or_else(|| unreachable!("an endless run is never finished"));
        self.statuses.push(lockstep.status());
        Ok(lockstep)
    }

    fn restart(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let process = Process::new(Arc::clone(&self.probe));
        let before = newest(&*self.disk).ok().flatten();
        let before = before.map(|manifest| Shown::read(&*self.disk, &manifest));
        match self.start(rng, &process) {
            Ok(lockstep) => {
                let takeover = lockstep.takeover().clone();
                self.look(rng)?;
                self.job = Some(Job { lockstep, process });
                let Some(before) = before else { return Ok(()) };
                let shows = |shown: Result<Shown, String>| {
                    shown.map_err(|what| Violation { invariant: Check::Sums, what })
                };
                let (before, now) = (shows(before)?, shows(Shown::read(&*self.disk, &takeover))?);
                match before.differs(&now) {
                    Some(what) => violated(Check::Sums, format!("a takeover changed {what}")),
                    None => Ok(()),
                }
            }
            Err(error) => violated(Check::Caused, format!("a start failed: {error}")),
        }
    }

    /// Somebody has a turn.
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
            self.promotions_step(rng)?;
        }
        if !self.zombies.is_empty() && rng.chance(30) {
            let which = rng.below(self.zombies.len() as u64) as usize;
            if let Err(error) = turn(&mut self.zombies[which], rng) {
                let zombie = self.zombies.swap_remove(which);
                broken(&error)?;
                self.outcome.checks.count(Check::Caused);
                if !error.is_fenced() && !zombie.process.ills().struck {
                    let what = format!("a job that was taken over from ended with: {error}");
                    return violated(Check::Caused, what);
                }
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

    fn lose_power(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.count("power loss");
        self.promotions.lose_power();
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
}

/// No trouble excuses a job that has found an invariant broken.
fn broken(error: &JobError) -> Result<(), Violation> {
    match error {
        JobError::Commit(CommitError::Broken(broken))
        | JobError::Publish(PublishError::Broken(broken)) => Err(broken.clone()),
        JobError::Worker(what) => violated(Check::Caused, format!("a worker panicked: {what}")),
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
