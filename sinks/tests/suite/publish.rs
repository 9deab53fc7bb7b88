//! Publishing over a network that loses, delays and repeats calls, with kills between any steps.
//!
//! The oracle is the content of each commit, in plain maps: the database must show nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{Batch, Content, Faults, Job, Repeat, Rng, Wire, Write, memory, seeds, start};
use schemas::manifest::{Header, Manifest};
use sinks::commits::{MergeTask, Snapshot, create, make_visible, rollback};
use sinks::publish::{
    Content as Columns, JobRow, MemoryStore, Outcome, PublishError, PublishRow, PublishTask,
    Publisher,
};
use sinks::storage::MemoryStorage;

/// Worlds, each with a seed of its own.
const SEEDS: u64 = 300;

/// Table, scope, and tag or window.
type Key = (bool, String, String);

/// The columns of a key in a content, and the commit that last changed them.
fn columns(of: &Content, key: &Key) -> Option<(Columns, u64)> {
    let (is_tag, scope, name) = key.clone();
    let names = (scope.clone(), name.clone());
    if is_tag {
        let tag = of.tags.get(&names)?;
        let display = name.to_uppercase();
        let (total, recent, as_of) = (tag.total, tag.recent.clone(), tag.as_of);
        let (first_seen, last_seen) = (1, as_of);
        let tag_row =
            Columns::Tag { scope, tag: name, display, total, recent, first_seen, last_seen, as_of };
        return Some((tag_row, tag.commit));
    }
    let (doc, as_of, commit) = of.boards.get(&names)?.clone();
    Some((Columns::Board { scope, window: name, doc, as_of }, commit))
}

fn keys(of: &Content) -> impl Iterator<Item = Key> {
    let tags = of.tags.keys().map(|(scope, tag)| (true, scope.clone(), tag.clone()));
    tags.chain(of.boards.keys().map(|(scope, window)| (false, scope.clone(), window.clone())))
}

fn key_of(row: &PublishRow) -> Key {
    match &row.content {
        Columns::Tag { scope, tag, .. } => (true, scope.clone(), tag.clone()),
        Columns::Board { scope, window, .. } => (false, scope.clone(), window.clone()),
    }
}

/// A state, the process that uses it, superseded processes, and the database.
struct World {
    rng: Rng,
    storage: Arc<MemoryStorage>,
    job: Job,
    merger: MergeTask,
    task: PublishTask<Wire>,
    zombies: Vec<(PublishTask<Wire>, Arc<Snapshot>)>,
    wire: Wire,
    owners: u64,
    kills: u64,
    contents: BTreeMap<u64, Content>,
    /// The headers of visible commits, by version.
    visible: BTreeMap<i64, Header>,
    /// What the database showed at the last check.
    seen: BTreeMap<Key, i64>,
    published: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let mut rate = || if rng.chance(50) { rng.below(20) } else { 0 };
        let (lost, unanswered, late, twice) = (rate(), rate(), rate(), rate());
        let wire = Wire::new(Faults { lost, unanswered, late, twice, silent: rate() }, !seed);
        let storage = memory();
        let job = Job::start(storage.clone(), 1, 0).unwrap();
        Self {
            rng,
            merger: MergeTask::new(storage.clone(), job.start.clone()),
            visible: [(job.start.version, job.start.clone())].into(),
            task: PublishTask::new("job".into(), wire.clone(), storage.clone()),
            storage,
            job,
            zombies: Vec::new(),
            wire,
            owners: 1,
            kills: 0,
            contents: [(1, Content::default())].into(),
            seen: BTreeMap::new(),
            published: 0,
        }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..20 => self.commit(),
            20..25 => {
                if let Some(merged) = self.merger.step(&self.job.last).unwrap() {
                    self.job.merges.push(merged);
                }
            }
            25..80 => drop(self.task.step(&self.job.latest.current()).unwrap()),
            80..90 => {
                let mut line = self.wire.line();
                let late = line.late.len() as u64;
                (late > 0).then(|| line.deliver(self.rng.below(late) as usize));
            }
            90..96 if !self.zombies.is_empty() => {
                let which = self.rng.below(self.zombies.len() as u64) as usize;
                let (task, newest) = &mut self.zombies[which];
                match task.step(newest) {
                    Ok(_) => {}
                    Err(PublishError::StoreAhead { .. }) => drop(self.zombies.remove(which)),
                    Err(error) => panic!("{error}"),
                }
            }
            96..100 => self.kill(),
            _ => {}
        }
    }

    fn batch(&mut self) -> Batch {
        let rng = &mut self.rng;
        let tags = (0..rng.below(6)).map(|_| (rng.below(30) as u32, rng.below(99) as i64));
        let tags = tags.collect();
        let boards = (0..rng.below(3)).map(|_| (rng.below(5) as u32, rng.below(99) as u32));
        Batch { tags, boards: boards.collect(), as_of: rng.below(1000) as i64, ..Batch::default() }
    }

    /// Records the content that the next commit has after `batch`.
    fn add(&mut self, batch: &Batch) {
        let (last, content) = self.contents.last_key_value().unwrap();
        let (next, content) = (last + 1, content.after(last + 1, batch));
        self.contents.insert(next, content);
    }

    fn show(&mut self, manifest: &Manifest) {
        self.visible.insert(manifest.header.version, manifest.header.clone());
    }

    fn commit(&mut self) {
        let batch = self.batch();
        self.job.workers = 1 + self.rng.below(3);
        self.add(&batch);
        let manifest = self.job.commit(&batch).unwrap().clone();
        self.show(&manifest);
    }

    /// Kills the process between two steps and starts the next one, whose clock may be wrong.
    fn kill(&mut self) {
        self.kills += 1;
        let wall_ms = self.rng.below(200) as i64;
        self.owners += 1;
        match self.rng.below(4) {
            // It dies after creating a commit and before making it visible.
            dies @ 0..2 => {
                let batch = self.batch();
                let manifest = self.job.prepare(&batch).unwrap();
                create(&*self.storage, &manifest).unwrap();
                self.add(&batch);
                if dies == 1 {
                    make_visible(&*self.storage, &manifest.header).unwrap();
                    self.show(&manifest);
                }
            }
            2 if self.job.commit_number() > 1 => {
                let last = self.job.commit_number();
                let to = 1 + self.rng.below(last - 1);
                let (made, _) = rollback(&*self.storage, to, &start(self.owners, wall_ms)).unwrap();
                let back = self.contents[&last].rolled_back(to, &self.contents[&to], last + 1);
                self.contents.insert(last + 1, back);
                self.show(&made);
                self.owners += 1;
            }
            _ => {}
        }
        let before = self.job.latest.current();
        self.job = Job::start(self.storage.clone(), self.owners, wall_ms).unwrap();
        self.add(&Batch::default());
        self.merger = MergeTask::new(self.storage.clone(), self.job.start.clone());
        let takeover = self.job.last.clone();
        self.show(&takeover);
        let task = PublishTask::new("job".into(), self.wire.clone(), self.storage.clone());
        // The old process may not be dead.
        self.zombies.push((std::mem::replace(&mut self.task, task), before));
        self.zombies.truncate(3);
    }

    /// Checks everything that was sent and everything in the database.
    fn check(&mut self) {
        let mut line = self.wire.line();
        for write in std::mem::take(&mut line.sent) {
            match write {
                Write::Row(row) => {
                    let header = self.visible.get(&row.version).expect("of a visible commit");
                    let want = columns(&self.contents[&header.commit], &key_of(&row));
                    assert_eq!(Some(row.content), want.map(|(columns, _)| columns), "{header:?}");
                }
                Write::Job(row) => {
                    let header = &self.visible[&row.version];
                    let told = (row.published, row.history, row.generation);
                    assert_eq!(told, (header.commit, header.history, header.generation));
                }
                Write::Pointer(_) => panic!("a job promotes nothing"),
            }
        }
        let mut shown = BTreeMap::new();
        for row in line.store.rows() {
            let before = self.seen.get(&key_of(row)).copied();
            assert!(Some(row.version) >= before, "{row:?} was at version {before:?}");
            shown.insert(key_of(row), row.version);
        }
        assert!(self.seen.keys().all(|key| shown.contains_key(key)), "a row is never deleted");
        let Some(job) = line.job() else { return self.seen = shown };
        assert!(job.published >= self.published, "{job:?} after {}", self.published);
        // The database has all rows up to `published`, or newer ones.
        let content = &self.contents[&job.published];
        for key in keys(content) {
            let version = shown.get(&key).unwrap_or_else(|| panic!("{key:?} is not published"));
            let shows = &self.contents[&self.visible[version].commit];
            let changed = |of| columns(of, &key).unwrap().1;
            assert!(changed(shows) >= changed(content), "{key:?} is older than {job:?}");
        }
        (self.seen, self.published) = (shown, job.published);
    }

    /// Ends the faults. Everything must then be published soon.
    fn settle(&mut self) {
        self.wire.line().faults = Faults::default();
        let newest = self.job.latest.current();
        let mut steps = 0;
        while self.task.step(&newest).unwrap() {
            steps += 1;
            assert!(steps < 20, "publishing does not end");
            self.check();
        }
        self.check();
        let last = self.job.commit_number();
        assert_eq!((self.published, self.task.done().commit), (last, last));
        while !self.wire.line().late.is_empty() {
            self.wire.line().deliver(0);
        }
        self.check();
        let line = self.wire.line();
        let rows: BTreeMap<Key, &Columns> =
            line.store.rows().map(|row| (key_of(row), &row.content)).collect();
        let want = &self.contents[&last];
        assert_eq!(rows.len(), keys(want).count(), "the keys that are shown");
        for (key, row) in rows {
            assert_eq!(Some(row), columns(want, &key).as_ref().map(|(columns, _)| columns));
        }
    }
}

#[test]
fn newest_commit_is_published_whatever_happens() {
    let (mut struck, mut kills) = ([0; 5], 0);
    let seeds = seeds(SEEDS);
    for seed in seeds.clone() {
        let _repeat = Repeat(seed);
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.act();
            world.check();
        }
        world.settle();
        kills += world.kills;
        let line = world.wire.line();
        struck.iter_mut().zip(line.struck).for_each(|(all, new)| *all += new);
    }
    let enough = kills > 500 && struck.iter().all(|n| *n > 500);
    assert!(enough || seeds.count() < SEEDS as usize, "{kills} kills, faults {struck:?}");
}

/// A job with one commit of `tags` tags and `boards` boards.
fn job_with(tags: u32, boards: u32) -> (Job, Content) {
    let mut job = Job::start(memory(), 1, 1000).unwrap();
    let tags = (0..tags).map(|k| (k, i64::from(k))).collect();
    let boards = (0..boards).map(|board| (board, board)).collect();
    let batch = Batch { tags, boards, as_of: 7, ..Batch::default() };
    job.workers = 3;
    job.commit(&batch).unwrap();
    (job, Content::default().after(2, &batch))
}

fn task_on(wire: &Wire, job: &Job) -> PublishTask<Wire> {
    PublishTask::new("job".into(), wire.clone(), job.storage.clone())
}

#[test]
fn all_rows_arrive_in_bounded_calls() {
    let sizes = [(0, 1), (1, 0), (4095, 2), (4096, 0), (4097, 4096), (9000, 5000)];
    for (tags, boards) in sizes {
        let (job, content) = job_with(tags, boards);
        let wire = Wire::new(Faults { lost: 10, late: 10, ..Faults::default() }, 5);
        let mut task = task_on(&wire, &job);
        // A step without an acknowledgement reports that, and the next one retries.
        let ends = (0..300).any(|_| {
            task.step(&job.latest.current()).unwrap();
            task.done().commit == 2
        });
        assert!(ends, "{tags} tags, {boards} boards");
        let line = wire.line();
        assert_eq!(line.store.rows().count(), keys(&content).count(), "{tags} and {boards}");
        assert!(line.most_rows <= 4096, "{} rows at once", line.most_rows);
        assert_eq!(task.done().rows, u64::from(tags + boards), "each is acknowledged once");
    }
}

#[test]
fn key_is_sent_once_after_an_outage() {
    let (mut job, _) = job_with(50, 3);
    let wire = Wire::new(Faults::default(), 1);
    let mut task = task_on(&wire, &job);
    while task.step(&job.latest.current()).unwrap() {}
    wire.line().faults.lost = 100;
    for commit in 3..40 {
        job.commit(&Batch::of_tags(commit, &[(1, commit), (60, commit)])).unwrap();
        assert!(!task.step(&job.latest.current()).unwrap(), "the database is gone");
    }
    wire.line().faults.lost = 0;
    wire.line().sent.clear();
    while task.step(&job.latest.current()).unwrap() {}
    // The interrupted round, its job row, and one more round.
    let line = wire.line();
    let jobs = line.sent.iter().filter(|write| matches!(write, Write::Job(_))).count();
    assert_eq!((line.sent.len(), jobs, task.done().commit), (6, 2, 39));
}

#[test]
fn restart_resends_only_what_may_be_missing() {
    let (mut job, _) = job_with(500, 3);
    let wire = Wire::new(Faults::default(), 1);
    let mut task = task_on(&wire, &job);
    while task.step(&job.latest.current()).unwrap() {}
    job.commit(&Batch::of_tags(9, &[(3, 9), (4, 9)]).with_board(1, 9)).unwrap();
    // All rows of commit 3 arrive, but the process dies before it records that.
    task.step(&job.latest.current()).unwrap();
    task.step(&job.latest.current()).unwrap();
    let job = Job::start(job.storage.clone(), 2, 0).unwrap();
    let mut task = task_on(&wire, &job);
    wire.line().sent.clear();
    while task.step(&job.latest.current()).unwrap() {}
    let line = wire.line();
    let rows = line.sent.iter().filter(|write| matches!(write, Write::Row(_))).count();
    assert_eq!((rows, task.done().commit), (3, 4));
}

/// A publisher that refuses a certain tag and, optionally, the job's row.
struct Picky {
    store: MemoryStore,
    refuses_job: bool,
}

impl Publisher for Picky {
    fn job(&mut self, name: &str) -> Result<Option<Option<JobRow>>, PublishError> {
        self.store.job(name)
    }

    fn upsert(&mut self, rows: &[PublishRow]) -> Result<Vec<Outcome>, PublishError> {
        let outcome = |row: &PublishRow| match &row.content {
            Columns::Tag { tag, .. } if tag == "tag7" => Outcome::Refused("too long".into()),
            _ => self.store.upsert(std::slice::from_ref(row)).unwrap().remove(0),
        };
        Ok(rows.iter().map(outcome).collect())
    }

    fn older(&mut self, version: i64, most: usize) -> Result<Option<Vec<Columns>>, PublishError> {
        self.store.older(version, most)
    }

    fn set_job(&mut self, row: &JobRow) -> Result<Outcome, PublishError> {
        if self.refuses_job {
            return Ok(Outcome::Refused("no such table".into()));
        }
        self.store.set_job(row)
    }
}

#[test]
fn refused_row_is_counted_and_delays_nothing() {
    let (job, _) = job_with(10, 1);
    let newest = job.latest.current();
    for refuses_job in [false, true] {
        let store = MemoryStore::default();
        let mut task =
            PublishTask::new("job".into(), Picky { store, refuses_job }, job.storage.clone());
        let ended = (0..9).find_map(|_| match task.step(&newest) {
            Ok(true) => None,
            ended => Some(ended.map_err(|error| error.to_string())),
        });
        let done = task.done();
        assert_eq!((done.rows, done.refused), (10, 1));
        match ended.unwrap() {
            Ok(_) => assert_eq!((done.commit, refuses_job), (2, false)),
            Err(why) => assert!(refuses_job && why.contains("no such table"), "{why}"),
        }
    }
}

/// The row that the job of `header` would write.
fn row_of(header: &Header, published: u64, version: i64) -> JobRow {
    let (name, owner) = ("job".to_owned(), header.owner.clone());
    JobRow { name, generation: header.generation, owner, published, version, ..JobRow::default() }
}

fn refusal(row: &JobRow, job: &Job) -> Option<String> {
    let wire = Wire::new(Faults::default(), 1);
    wire.clone().set_job(row).unwrap();
    let error = task_on(&wire, job).step(&job.latest.current()).err()?;
    assert!(matches!(error, PublishError::StoreAhead { .. }), "{error}");
    assert_eq!(wire.line().store.rows().count(), 0);
    Some(error.to_string())
}

#[test]
fn store_of_another_state_is_refused() {
    let (job, _) = job_with(3, 1);
    let header = &job.latest.current().manifest.header;
    let ours = header.version;
    // It has no more commits, but versions that ours would never exceed; or our versions are
    // higher, but that state has as many commits.
    let others = [(3, ours + 1), (3, ours - 1), (2, ours + 1), (1, ours + 1), (1, ours), (2, 5)];
    for (published, version) in others {
        let refused = refusal(&row_of(header, published, version), &job);
        assert!(refused.is_some(), "{published} at {version}");
    }
    // A state with fewer commits than ours.
    let other = Header { owner: "0ther".to_owned(), ..header.clone() };
    assert!(refusal(&row_of(&other, 1, ours - 1000), &job).is_some());
    // Its own row is not refused, whatever it says.
    for (published, version) in [(1, ours - 1000), (2, ours)] {
        let wire = Wire::new(Faults::default(), 1);
        wire.clone().set_job(&row_of(header, published, version)).unwrap();
        let mut task = task_on(&wire, &job);
        while task.step(&job.latest.current()).unwrap() {}
        assert_eq!(task.done().commit, 2);
        assert_eq!(wire.line().store.rows().count(), if published == 1 { 4 } else { 0 });
    }
}

#[test]
fn diverged_backup_is_refused_by_the_store_of_its_original() {
    let (job, _) = job_with(3, 1);
    let header = job.latest.current().manifest.header.clone();
    // The original continued to commits 3 and 4; then the copy was started, at commit 3.
    let mut copy = Job::start(job.storage.clone(), 2, 2000).unwrap();
    copy.commit(&Batch::of_tags(9, &[(1, 9)])).unwrap();
    copy.commit(&Batch::of_tags(10, &[(2, 9)])).unwrap();
    let version = header.version + 5;
    assert!(refusal(&row_of(&header, 4, version), &copy).is_some());
    assert!(refusal(&row_of(&header, 3, version), &copy).is_some());
    assert!(refusal(&row_of(&header, 2, header.version), &copy).is_none());
}

#[test]
fn one_of_two_states_on_a_store_ends_and_rebuild_clears_it() {
    let wire = Wire::new(Faults::default(), 1);
    let (mut one, _) = job_with(30, 2);
    let mut other = Job::start(memory(), 7, 1_000_000).unwrap();
    other.commit(&Batch::of_tags(9, &[(25, 1), (26, 1), (77, 1)]).with_board(5, 1)).unwrap();
    let (mut first, mut second) = (task_on(&wire, &one), task_on(&wire, &other));
    let mut ended = None;
    for at in 10..30 {
        one.commit(&Batch::of_tags(at, &[(1, at)])).unwrap();
        other.commit(&Batch::of_tags(at, &[(77, at)])).unwrap();
        let steps = [first.step(&one.latest.current()), second.step(&other.latest.current())];
        ended = ended.or(steps.into_iter().find_map(Result::err));
    }
    assert!(matches!(ended, Some(PublishError::StoreAhead { .. })), "{ended:?}");
    let mut rebuild = task_on(&wire, &other).rebuilding();
    while rebuild.step(&other.latest.current()).unwrap() {}
    let line = wire.line();
    // The two states hash differently. This store goes by hashes, a database by texts.
    let mut newest = BTreeMap::new();
    for row in line.store.rows() {
        let is_live = match &row.content {
            Columns::Tag { total, .. } => *total != 0,
            Columns::Board { doc, .. } => doc != "[]",
        };
        let now = newest.entry(row.content.place()).or_insert((0, false));
        *now = (*now).max((row.version, is_live));
    }
    let live = newest.values().filter(|(_, is_live)| *is_live).count();
    assert_eq!((newest.len(), live), (34, 4), "three tags and a board");
}
