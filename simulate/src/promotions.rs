//! Promotions: a second keyspace is filled beside the live one and promoted, then the first one
//! again. The process that promotes may be killed between any two effects. A reader keeps asking.
//!
//! The product decides which keyspace readers use (`sinks::active`). Only the requests are
//! simulated, each as a turn of its own, so that anything may happen between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use schemas::hash::KeyHash;
use sinks::active::{ActiveKeyspace, Keyspaces, Pointer, Promoter, promote};
use sinks::commits::{Snapshot, load, visible};
use sinks::publish::{Content, JobRow, Outcome, PublishTask};

use crate::checks::{Check, Tally, Violation, violated};
use crate::clock::Time;
use crate::disk::PowerDisk;
use crate::process::{Connected, Mounted, Probe, Process};
use crate::rng::Rng;
use crate::wire::{Wire, Write};

/// The keyspace that readers are configured with, and the second one.
const KEYSPACES: [&str; 2] = ["live", "new"];
/// Turns in which a promotion without faults must end.
const TURNS_MAX: usize = 20_000;
/// Turns in which a reader without faults must follow and answer.
const FOLLOW_TURNS: usize = 100;

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Ready at the second poll: others may have turns before a request is made.
#[derive(Default)]
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Gives a task a turn; returns its result when it ends.
fn poll<T>(task: &mut Option<Task<T>>) -> Option<T> {
    let done = task.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(done) = done else { return None };
    *task = None;
    Some(done)
}

/// The database as a reader sees it.
#[derive(Clone)]
struct Cluster([Wire; 2]);

impl Cluster {
    fn wire(&self, keyspace: &str) -> &Wire {
        &self.0[usize::from(keyspace != KEYSPACES[0])]
    }

    /// A request, which may remain unanswered.
    async fn ask(&self, wire: &Wire) -> Result<(), String> {
        Turn::default().await;
        if wire.line().is_unanswered() { Err("no answer".to_owned()) } else { Ok(()) }
    }
}

impl Keyspaces for Cluster {
    type Connection = Wire;
    type Error = String;

    fn given(&self) -> &str {
        KEYSPACES[0]
    }

    async fn connect(&self, keyspace: &str) -> Result<Wire, String> {
        let wire = self.wire(keyspace);
        self.ask(wire).await.map(|()| wire.clone())
    }

    async fn pointer(&self, connection: &Wire) -> Result<Option<Pointer>, String> {
        self.ask(connection).await?;
        Ok(self.0[0].line().lagging_pointer())
    }

    async fn job(&self, connection: &Wire, _: Option<&str>) -> Result<Option<JobRow>, String> {
        self.ask(connection).await?;
        Ok(connection.line().job())
    }

    fn temporary(what: String) -> String {
        what
    }
}

/// The process that promotes.
struct SimPromoter {
    cluster: Cluster,
    process: Arc<Process>,
}

impl SimPromoter {
    async fn effect(&self, doing: &str, keyspace: &str) -> Result<(), String> {
        Turn::default().await;
        self.process.effect(doing, keyspace, b"").map_err(|error| error.to_string())
    }
}

impl Promoter for SimPromoter {
    type Error = String;

    async fn verify(&self, keyspace: &str) -> Result<(), String> {
        self.effect("verify", keyspace).await
    }

    async fn job(&self, keyspace: &str) -> Result<Option<JobRow>, String> {
        self.effect("ask", keyspace).await?;
        Ok(self.cluster.wire(keyspace).line().job())
    }

    async fn pointer(&self, given: &str) -> Result<Option<Pointer>, String> {
        self.effect("ask", given).await?;
        Ok(self.cluster.wire(given).line().pointer())
    }

    async fn point(&self, given: &str, to: &Pointer) -> Result<(), String> {
        self.effect("point", &format!("{to:?}")).await?;
        match self.cluster.wire(given).line().send(Write::Pointer(to.clone())) {
            Outcome::Acknowledged => Ok(()),
            _ => Err("the outcome is unknown".to_owned()),
        }
    }

    fn permanent(what: String) -> String {
        what
    }
}

/// A promotion: promotes the second keyspace after filling it, or the first one again.
struct Promotion {
    cluster: Cluster,
    disk: Arc<PowerDisk>,
    snapshot: Arc<Snapshot>,
    keyspace: &'static str,
    wall_ms: i64,
}

impl Promotion {
    async fn run(&self, process: Arc<Process>) -> Result<(), String> {
        if self.keyspace != KEYSPACES[0] {
            self.fill(&process).await?;
        }
        let promoter = SimPromoter { cluster: self.cluster.clone(), process };
        promote(&promoter, KEYSPACES[0], self.keyspace, self.wall_ms).await.map(drop)
    }

    async fn fill(&self, process: &Arc<Process>) -> Result<(), String> {
        let (wire, process) = (self.cluster.wire(self.keyspace).clone(), Arc::clone(process));
        let state = Mounted { disk: Arc::clone(&self.disk), process: Arc::clone(&process) };
        let mut task =
            PublishTask::new("job".to_owned(), Connected { wire, process }, Arc::new(state));
        while !task.has_published(&self.snapshot.manifest) {
            Turn::default().await;
            task.step(&self.snapshot).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// An answer to a reader.
struct Answer {
    keyspace: String,
    row: Arc<JobRow>,
    /// A tag, a commit that has it, and its total in the store.
    asked: Option<(KeyHash, u64)>,
    total: Option<i64>,
}

/// The promotions and the reader.
pub(crate) struct Promotions {
    cluster: Cluster,
    active: Arc<ActiveKeyspace<Wire>>,
    /// The reader's task that follows the database, and its request for a tag.
    step: Option<Task<()>>,
    answer: Option<Task<Option<Answer>>>,
    /// Whether there ever was an answer, and the newest commit and version by keyspace.
    answered: bool,
    newest: BTreeMap<String, (u64, i64)>,
    /// Tags, each with a commit that has it.
    tags: Vec<(KeyHash, u64)>,
    /// The promotion under way; returns whether it succeeded.
    promotion: Option<Task<bool>>,
    /// The keyspace of the latest promotion.
    wanted: &'static str,
    /// The same once that promotion has succeeded, unless an earlier write may still arrive late.
    last: Option<&'static str>,
    /// Keys that were changed behind the job's back.
    pub(crate) drifted: BTreeSet<KeyHash>,
}

impl Promotions {
    pub(crate) fn new(live: Wire, new: Wire) -> Self {
        Self {
            cluster: Cluster([live, new]),
            active: Arc::default(),
            step: None,
            answer: None,
            answered: false,
            newest: BTreeMap::new(),
            tags: Vec::new(),
            promotion: None,
            wanted: KEYSPACES[0],
            last: None,
            drifted: BTreeSet::new(),
        }
    }

    /// The connections to both keyspaces.
    pub(crate) fn wires(&self) -> &[Wire; 2] {
        &self.cluster.0
    }

    /// The host of the process that promotes loses power.
    pub(crate) fn lose_power(&mut self) {
        if self.promotion.take().is_some() {
            self.last = None;
        }
    }

    fn begin_answer(&self, rng: &mut Rng) -> Task<Option<Answer>> {
        let asked = (!self.tags.is_empty()).then(|| *rng.pick(&self.tags));
        let active = Arc::clone(&self.active);
        Box::pin(async move {
            let (active, row) = active.current()?;
            let (keyspace, row) = (active.name.clone(), row?);
            Turn::default().await;
            let line = active.connection.line();
            let found = asked.and_then(|(hash, _)| line.store.row((false, hash)));
            let total = found.and_then(|row| match row.content {
                Content::Tag { total, .. } => Some(total),
                Content::Board { .. } => None,
            });
            Some(Answer { keyspace, row, asked, total })
        })
    }

    /// C14 for one answer to the reader.
    fn check(&mut self, answer: Option<Answer>) -> Result<(), Violation> {
        let Some(Answer { keyspace, row, asked, total }) = answer else {
            if self.answered {
                return violated(Check::Active, "the reader got no answer after it had got some");
            }
            return Ok(());
        };
        self.answered = true;
        let now = (row.published, row.version);
        let before = self.newest.insert(keyspace.clone(), now);
        if before.is_some_and(|before| now < before) {
            let what = format!("{keyspace} showed {before:?}, then {now:?}");
            return violated(Check::Active, what);
        }
        match asked {
            Some((hash, commit))
                if commit <= row.published
                    && total.is_none_or(|total| total <= 0)
                    && !self.drifted.contains(&hash) =>
            {
                let what = format!("tag {hash} of commit {commit} is not in {keyspace} at {now:?}");
                violated(Check::Active, what)
            }
            _ => Ok(()),
        }
    }

    /// Begins to promote the keyspace that was not promoted last, unless a promotion is under way
    /// or there is no commit. Returns whether it began.
    pub(crate) fn begin(
        &mut self,
        rng: &mut Rng,
        disk: &Arc<PowerDisk>,
        time: &Time,
        probe: &Arc<Probe>,
    ) -> bool {
        let visible = visible(&**disk).ok().flatten();
        let manifest = visible.and_then(|commit| load(&**disk, commit).ok());
        let snapshot = manifest.and_then(|m| Snapshot::open(&**disk, m, None).ok());
        let Some(snapshot) = snapshot.filter(|_| self.promotion.is_none()) else { return false };
        let rows = snapshot.tags_changed(0, None).filter(|(_, row)| row.total > 0);
        let rows: Vec<KeyHash> = rows.map(|(hash, _)| hash).collect();
        if !rows.is_empty() {
            let commit = snapshot.manifest.header.commit;
            self.tags.extend((0..4).map(|_| (*rng.pick(&rows), commit)));
        }
        let to_new = self.wanted == KEYSPACES[0];
        let skew_ms = rng.below(120_000).cast_signed() - 60_000;
        let promotion = Promotion {
            cluster: self.cluster.clone(),
            disk: Arc::clone(disk),
            snapshot: Arc::new(snapshot),
            keyspace: KEYSPACES[usize::from(to_new)],
            wall_ms: time.now_ms() + time.wrong_ms() + skew_ms,
        };
        let killed = Process::new(Arc::clone(probe));
        killed.faults().effects_left = Some(rng.below(if to_new { 300 } else { 6 }));
        let healthy = Process::new(Arc::clone(probe));
        // With clocks that differ, an earlier write that arrives late may win.
        let live = self.cluster.wire(KEYSPACES[0]);
        let late = live.line().late.iter().any(|write| matches!(write, Write::Pointer(_)));
        (self.wanted, self.last) = (promotion.keyspace, None);
        self.promotion = Some(Box::pin(async move {
            let mut done = promotion.run(killed).await.is_ok();
            for _ in 0..20 {
                done = done || promotion.run(Arc::clone(&healthy)).await.is_ok();
            }
            done && !late
        }));
        true
    }

    /// Gives the promotion and the reader a turn.
    pub(crate) fn step(&mut self, rng: &mut Rng, checks: &mut Tally) -> Result<(), Violation> {
        if let Some(done) = poll(&mut self.promotion) {
            self.last = done.then_some(self.wanted);
        }
        if rng.chance(50) {
            let (active, cluster) = (Arc::clone(&self.active), self.cluster.clone());
            let anew = rng.chance(2);
            self.step.get_or_insert_with(|| {
                Box::pin(async move {
                    // Errors pass: the reader tries again.
                    drop(active.step(&cluster, anew).await);
                })
            });
            poll(&mut self.step);
            return Ok(());
        }
        if self.answer.is_none() {
            self.answer = Some(self.begin_answer(rng));
        }
        let Some(answer) = poll(&mut self.answer) else { return Ok(()) };
        checks.count(Check::Active);
        self.check(answer)
    }

    /// C14 without faults: readers see the keyspace that was promoted last.
    pub(crate) fn check_last(
        &mut self,
        rng: &mut Rng,
        checks: &mut Tally,
    ) -> Result<(), Violation> {
        for _ in 0..TURNS_MAX {
            if self.promotion.is_none() {
                break;
            }
            self.step(rng, checks)?;
        }
        for _ in 0..FOLLOW_TURNS {
            self.step(rng, checks)?;
        }
        let pointer = self.cluster.wire(KEYSPACES[0]).line().pointer();
        let pointed = pointer.as_ref().map_or(KEYSPACES[0], |pointer| &pointer.keyspace);
        let seen = self.active.current().map(|(active, _)| active.name.clone());
        let last = self.last;
        if seen.as_deref() == Some(pointed) && last.is_none_or(|last| last == pointed) {
            return Ok(());
        }
        let what = format!("readers see {seen:?}, {last:?} was promoted last, {pointer:?}");
        violated(Check::Active, what)
    }
}
