//! Promotions: a second keyspace is filled beside the live one, readers are shown that one and the
//! first one again, by somebody who may be killed between any two effects; a reader asks
//! throughout.
//!
//! Which keyspace is active is decided by the product's own code (`sinks::active`); only the
//! requests are simulated, each a turn of its own, so that anything may happen between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use schemas::hash::KeyHash;
use sinks::active::{ActiveKeyspace, Keyspaces, Pointer, Promoter, promote};
use sinks::commits::{Snapshot, load, visible};
use sinks::publish::{Content, JobRow, Outcome, PublishTask};

use crate::checks::{Check, Violation, violated};
use crate::disk::PowerDisk;
use crate::process::{Connected, Mounted, Process};
use crate::rng::Rng;
use crate::wire::{Wire, Write};
use crate::world::World;

/// The keyspace that readers were given, and the one beside it.
const KEYSPACES: [&str; 2] = ["live", "new"];
/// Turns that a promotion may need where nothing goes wrong.
const TURNS_MAX: usize = 20_000;
/// Turns in which a reader follows, and answers, where nothing goes wrong.
const FOLLOW_TURNS: usize = 100;

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A request: others may have turns before it is made.
#[derive(Default)]
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Gives a task a turn; what it came to, where it has ended.
fn poll<T>(task: &mut Option<Task<T>>) -> Option<T> {
    let done = task.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(done) = done else { return None };
    *task = None;
    Some(done)
}

/// The database, as a reader sees it.
#[derive(Clone)]
struct Cluster([Wire; 2]);

impl Cluster {
    fn wire(&self, keyspace: &str) -> &Wire {
        &self.0[usize::from(keyspace != KEYSPACES[0])]
    }

    /// A request that may go unanswered.
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

/// Somebody who promotes.
struct Operator {
    cluster: Cluster,
    process: Arc<Process>,
}

impl Operator {
    async fn effect(&self, doing: &str, keyspace: &str) -> Result<(), String> {
        Turn::default().await;
        self.process.effect(doing, keyspace, b"").map_err(|error| error.to_string())
    }
}

impl Promoter for Operator {
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
            _ => Err("whether it happened is unknown".to_owned()),
        }
    }

    fn permanent(what: String) -> String {
        what
    }
}

/// What an operator does: fills the keyspace where that is the second one, and promotes it.
struct Errand {
    cluster: Cluster,
    disk: Arc<PowerDisk>,
    snapshot: Arc<Snapshot>,
    keyspace: &'static str,
    wall_ms: i64,
}

impl Errand {
    async fn run(&self, process: Arc<Process>) -> Result<(), String> {
        if self.keyspace != KEYSPACES[0] {
            self.fill(&process).await?;
        }
        let operator = Operator { cluster: self.cluster.clone(), process };
        promote(&operator, KEYSPACES[0], self.keyspace, self.wall_ms).await.map(drop)
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

/// What a reader was told.
struct Told {
    keyspace: String,
    row: Arc<JobRow>,
    /// A tag of a commit, and what the store has of it.
    asked: Option<(KeyHash, u64)>,
    total: Option<i64>,
}

/// All that is about promotions.
pub(crate) struct Promotions {
    cluster: Cluster,
    shown: Arc<ActiveKeyspace<Wire>>,
    /// The reader's own look at the database, and an answer on its way.
    step: Option<Task<()>>,
    answer: Option<Task<Option<Told>>>,
    /// Whether the reader has ever answered, and the newest commit and version by keyspace.
    answered: bool,
    newest: BTreeMap<String, (u64, i64)>,
    /// Tags, and a commit that has them.
    tags: Arc<Mutex<Vec<(KeyHash, u64)>>>,
    /// A promotion that is under way; whether it was made.
    errand: Option<Task<bool>>,
    /// What the promotion under way shows, and what the last one did, while no other write that may
    /// come later was known.
    wanted: &'static str,
    last: Option<&'static str>,
    /// Keys that were changed behind the job's back.
    pub(crate) drifted: BTreeSet<KeyHash>,
}

impl Promotions {
    pub(crate) fn new(live: Wire, new: Wire) -> Self {
        Self {
            cluster: Cluster([live, new]),
            shown: Arc::default(),
            step: None,
            answer: None,
            answered: false,
            newest: BTreeMap::new(),
            tags: Arc::default(),
            errand: None,
            wanted: KEYSPACES[0],
            last: None,
            drifted: BTreeSet::new(),
        }
    }

    /// The wires of both keyspaces.
    pub(crate) fn wires(&self) -> &[Wire; 2] {
        &self.cluster.0
    }

    /// The host goes down that promotes.
    pub(crate) fn lose_power(&mut self) {
        if self.errand.take().is_some() {
            self.last = None;
        }
    }

    fn begin_answer(&self, rng: &mut Rng) -> Task<Option<Told>> {
        let tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = (!tags.is_empty()).then(|| *rng.pick(&tags));
        let shown = Arc::clone(&self.shown);
        Box::pin(async move {
            let (shown, row) = shown.current()?;
            let (keyspace, row) = (shown.name.clone(), row?);
            Turn::default().await;
            let line = shown.connection.line();
            let found = asked.and_then(|(hash, _)| line.store.row((false, hash)));
            let total = found.and_then(|row| match row.content {
                Content::Tag { total, .. } => Some(total),
                Content::Board { .. } => None,
            });
            Some(Told { keyspace, row, asked, total })
        })
    }

    /// C14: what a reader was told.
    fn told(&mut self, told: Option<Told>) -> Result<(), Violation> {
        let Some(Told { keyspace, row, asked, total }) = told else {
            if self.answered {
                return violated(Check::Shown, "the reader has no answer any more");
            }
            return Ok(());
        };
        self.answered = true;
        let now = (row.published, row.version);
        let before = self.newest.insert(keyspace.clone(), now);
        if before.is_some_and(|before| now < before) {
            let what = format!("{keyspace} showed {before:?}, then {now:?}");
            return violated(Check::Shown, what);
        }
        match asked {
            Some((hash, commit))
                if commit <= row.published
                    && total.is_none_or(|total| total <= 0)
                    && !self.drifted.contains(&hash) =>
            {
                let what = format!("tag {hash} of commit {commit} is not in {keyspace} at {now:?}");
                violated(Check::Shown, what)
            }
            _ => Ok(()),
        }
    }
}

impl World<'_> {
    /// Somebody promotes the keyspace that is not the last one promoted.
    pub(crate) fn promote(&mut self, rng: &mut Rng) {
        let shown = visible(&*self.disk).ok().flatten();
        let manifest = shown.and_then(|commit| load(&*self.disk, commit).ok());
        let snapshot = manifest.and_then(|m| Snapshot::open(&*self.disk, m, None).ok());
        let Some(snapshot) = snapshot.filter(|_| self.promotions.errand.is_none()) else { return };
        self.count("promotion");
        let rows = snapshot.tags_changed(0, None).filter(|(_, row)| row.total > 0);
        let rows: Vec<KeyHash> = rows.map(|(hash, _)| hash).collect();
        if !rows.is_empty() {
            let tags = (0..4).map(|_| (*rng.pick(&rows), snapshot.manifest.header.commit));
            self.promotions.tags.lock().unwrap_or_else(PoisonError::into_inner).extend(tags);
        }
        let to_new = self.promotions.wanted == KEYSPACES[0];
        let skew_ms = rng.below(120_000).cast_signed() - 60_000;
        let errand = Errand {
            cluster: self.promotions.cluster.clone(),
            disk: Arc::clone(&self.disk),
            snapshot: Arc::new(snapshot),
            keyspace: KEYSPACES[usize::from(to_new)],
            wall_ms: self.time.now_ms() + self.time.wrong_ms() + skew_ms,
        };
        let killed = Process::new(Arc::clone(&self.probe));
        killed.ills().left = Some(rng.below(if to_new { 300 } else { 6 }));
        let again = Process::new(Arc::clone(&self.probe));
        // A write that comes later may count from later, where clocks differ.
        let late = self.wire.line().late.iter().any(|write| matches!(write, Write::Pointer(_)));
        (self.promotions.wanted, self.promotions.last) = (errand.keyspace, None);
        self.promotions.errand = Some(Box::pin(async move {
            let mut made = errand.run(killed).await.is_ok();
            for _ in 0..20 {
                made = made || errand.run(Arc::clone(&again)).await.is_ok();
            }
            made && !late
        }));
    }

    /// Somebody who promotes has a turn, or a reader.
    pub(crate) fn promotions_step(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let promotions = &mut self.promotions;
        if let Some(made) = poll(&mut promotions.errand) {
            promotions.last = made.then_some(promotions.wanted);
        }
        if rng.chance(50) {
            let (shown, cluster) = (Arc::clone(&promotions.shown), promotions.cluster.clone());
            let anew = rng.chance(2);
            promotions.step.get_or_insert_with(|| {
                Box::pin(async move {
                    // Trouble passes: the reader looks again.
                    drop(shown.step(&cluster, anew).await);
                })
            });
            poll(&mut promotions.step);
            return Ok(());
        }
        if promotions.answer.is_none() {
            promotions.answer = Some(promotions.begin_answer(rng));
        }
        match poll(&mut promotions.answer) {
            Some(told) => {
                self.outcome.checks.count(Check::Shown);
                self.promotions.told(told)
            }
            None => Ok(()),
        }
    }

    /// C14, once all trouble has ended: readers see what was promoted last.
    pub(crate) fn shown_last(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        for _ in 0..TURNS_MAX {
            if self.promotions.errand.is_none() {
                break;
            }
            self.promotions_step(rng)?;
        }
        for _ in 0..FOLLOW_TURNS {
            self.promotions_step(rng)?;
        }
        let Promotions { shown, last, cluster, .. } = &self.promotions;
        let pointer = cluster.0[0].line().pointer();
        let pointed = pointer.as_ref().map_or(KEYSPACES[0], |pointer| &pointer.keyspace);
        let shown = shown.current().map(|(shown, _)| shown.name.clone());
        if shown.as_deref() == Some(pointed) && last.is_none_or(|last| last == pointed) {
            return Ok(());
        }
        let what = format!("readers see {shown:?}, {last:?} was promoted last, {pointer:?}");
        violated(Check::Shown, what)
    }
}
