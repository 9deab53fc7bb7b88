//! A job without operators: a test drives the real writer and commit task.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use parking_lot::Mutex;
use schemas::hash::{HashKey, KeyHash};
use schemas::manifest::{Header, Manifest, SegmentMeta};
use schemas::rows::{
    BoardRow, Boards, DeadLetterRow, DeadLetters, IdRow, Ids, Table, TagRow, Tags, board_hash,
    partition_hash, record_hash,
};
use schemas::segment::Rows;
use sinks::commits::{
    Claimant, CommitError, CommitQueue, CommitTask, Latest, MergeQueue, SegmentWriter, Snapshot,
    TakeoverError, Verdict, WriteError, WriteJob, make_visible, segment_name, take_over,
};
use sinks::storage::{Patience, Storage, Waiting};

use super::model::{Batch, Content, Tag, id_hash, key_of, windows};

/// A run by owner number `owner`.
pub(crate) fn start(owner: u64, wall_ms: i64) -> Claimant {
    Claimant {
        owner: format!("{owner:08x}{owner:024x}"),
        hash_key: HashKey::new(u128::from(owner) + 1),
        windows: windows(),
        scopes: None,
        wall_ms,
    }
}

/// More steps than a task needs to wait for anything.
const STEPS_MAX: usize = 1000;

/// A job that has taken over a state.
pub(crate) struct Job {
    pub(crate) storage: Arc<dyn Storage>,
    /// The takeover.
    pub(crate) start: Header,
    /// The newest manifest of this job.
    pub(crate) last: Manifest,
    pub(crate) latest: Arc<Latest>,
    pub(crate) merges: Arc<MergeQueue>,
    pub(crate) workers: u64,
    /// The order in which segments reach the writer, and how many it writes in its first step.
    pub(crate) order: Option<(Vec<usize>, usize)>,
    writer: SegmentWriter,
    jobs: Sender<WriteJob>,
    task: CommitTask,
    commits: CommitQueue,
}

fn storage_error(error: WriteError) -> CommitError {
    match error {
        WriteError::Storage(error) => CommitError::Storage(error),
        WriteError::Encode { name, error } => panic!("cannot encode {name}: {error}"),
    }
}

impl Job {
    /// Takes over `storage` as owner number `owner`, makes the takeover visible and opens it.
    pub(crate) fn start(
        storage: Arc<dyn Storage>,
        owner: u64,
        wall_ms: i64,
    ) -> Result<Self, CommitError> {
        // What passes is tried again, by tasks at their next step.
        let waiting = Arc::new(Waiting::new(false, |_, _| ()));
        let mut patience = Patience::new(&waiting);
        let claimant = start(owner, wall_ms);
        let takeover = match patience.insist(|| take_over(&*storage, &claimant, |_| None)) {
            Ok(takeover) => takeover,
            Err(TakeoverError::Commit(error)) => return Err(error),
            Err(other) => panic!("{other}"),
        };
        patience.insist(|| make_visible(&*storage, &takeover.header))?;
        let first = patience.insist(|| Snapshot::open(&*storage, takeover.clone(), None))?;
        let latest = Arc::new(Latest::new(Arc::new(first)));
        let (writer, jobs) = SegmentWriter::new(Arc::clone(&storage), &waiting);
        let (task, commits) = CommitTask::new(Arc::clone(&storage), Arc::clone(&latest), &waiting);
        let (start, merges) = (takeover.header.clone(), Arc::default());
        let (last, workers) = (takeover, 1);
        let order = None;
        Ok(Self {
            storage,
            start,
            last,
            latest,
            merges,
            workers,
            order,
            writer,
            jobs,
            task,
            commits,
        })
    }

    /// The number of the newest commit.
    pub(crate) fn commit_number(&self) -> u64 {
        self.last.header.commit
    }

    /// Makes the next commit with `batch` and the finished merges.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<&Manifest, CommitError> {
        let manifest = self.prepare(batch)?;
        self.create(manifest)
    }

    /// Creates a manifest through the commit task.
    pub(crate) fn create(&mut self, manifest: Manifest) -> Result<&Manifest, CommitError> {
        let (reply, done) = channel();
        let check = || Verdict::Create;
        self.commits.send(manifest.clone(), check, move |result| reply.send(result).unwrap());
        let replied = (0..STEPS_MAX).find_map(|_| {
            self.task.step();
            done.try_recv().ok()
        });
        replied.expect("the commit task replies")?;
        self.last = manifest;
        Ok(&self.last)
    }

    /// Writes the segments of the next commit and returns its manifest.
    pub(crate) fn prepare(&mut self, batch: &Batch) -> Result<Manifest, CommitError> {
        let commit = self.commit_number() + 1;
        let new = self.write(commit, batch)?;
        let mut next = self.last.clone();
        next.header = Header {
            commit,
            takeover: false,
            version: next.header.version + 1000,
            wall_ms: next.header.wall_ms + 1000,
            ..next.header
        };
        for merged in self.merges.take() {
            merged.apply(&mut next.body.segments);
        }
        if let Some(floor) = batch.floor_hour {
            next.body.floor_ms = next.body.floor_ms.max(Some(i64::from(floor) * 3_600_000));
            next.body.segments.retain(|s| s.last_hour.is_none_or(|hour| hour >= floor));
        }
        next.body.as_of_ms = next.body.as_of_ms.max(Some(batch.as_of));
        next.body.counters.events += 1;
        next.body.segments.extend(new);
        Ok(next)
    }

    fn write(&mut self, commit: u64, batch: &Batch) -> Result<Vec<SegmentMeta>, CommitError> {
        let replies = Arc::new(Mutex::new(Vec::new()));
        let key = self.last.body.hash_key.clone();
        let mut jobs = Vec::new();
        for worker in 0..self.workers {
            let mine = |hash: KeyHash| hash.bin() % self.workers == worker;
            let tags = tag_rows(&key, commit, batch, mine);
            jobs.extend(self.job(commit, worker, tags, &replies));
            jobs.extend(self.job(commit, worker, id_rows(&key, batch, mine), &replies));
        }
        jobs.extend(self.job(commit, 0, board_rows(commit, batch), &replies));
        jobs.extend(self.job(commit, 0, dead_rows(commit, batch), &replies));
        let sent = jobs.len();
        let (order, first) = self.order.clone().unwrap_or_else(|| ((0..sent).collect(), sent));
        assert_eq!(order.len(), sent, "an order of all segments");
        let mut jobs: Vec<Option<WriteJob>> = jobs.into_iter().map(Some).collect();
        for (turn, job) in order.into_iter().enumerate() {
            if turn == first {
                self.writer.step();
            }
            self.jobs.send(jobs[job].take().unwrap()).unwrap();
        }
        // It has nothing left to do once all segments are written, or one has failed.
        assert!((0..STEPS_MAX).any(|_| !self.writer.step()), "the writer ends");
        let replies = std::mem::take(&mut *replies.lock());
        let answered = replies.len();
        let mut metas: Vec<SegmentMeta> =
            replies.into_iter().collect::<Result<_, _>>().map_err(storage_error)?;
        assert_eq!(answered, sent, "every job is answered unless one fails");
        metas.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(metas)
    }

    fn job<T: Table>(
        &self,
        commit: u64,
        worker: u64,
        rows: Rows<T>,
        replies: &Arc<Mutex<Vec<Result<SegmentMeta, WriteError>>>>,
    ) -> Option<WriteJob> {
        if rows.is_empty() {
            return None;
        }
        let name = segment_name(&self.start, commit, T::NAME, &format!("t{worker}"));
        let replies = Arc::clone(replies);
        let reply = move |written| replies.lock().push(written);
        Some(WriteJob::new(name, commit, rows, reply))
    }
}

fn tag_rows(
    key: &HashKey,
    commit: u64,
    batch: &Batch,
    mine: impl Fn(KeyHash) -> bool,
) -> Rows<Tags> {
    let hasher = key.hasher();
    let mut rows = Rows::default();
    for (k, total) in &batch.tags {
        let (scope, name) = key_of(*k);
        let tag = Tag::new(*total, batch.as_of, commit);
        let row = TagRow {
            scope: &scope,
            tag: &name,
            display: &name.to_uppercase(),
            total: tag.total,
            recent: &tag.recent,
            first_seen: 1,
            last_seen: batch.as_of,
            as_of: batch.as_of,
            commit,
        };
        let hash = hasher.scoped(&scope, hasher.tag(&name));
        if mine(hash) {
            rows.push(hash, &row);
        }
    }
    rows
}

fn id_rows(key: &HashKey, batch: &Batch, mine: impl Fn(KeyHash) -> bool) -> Rows<Ids> {
    let mut rows = Rows::default();
    for (id, hour) in &batch.ids {
        let hash = id_hash(key, *id);
        if mine(hash) {
            rows.push(hash, &IdRow { hash, hour: *hour, forgotten: false });
        }
    }
    rows
}

fn board_rows(commit: u64, batch: &Batch) -> Rows<Boards> {
    let mut rows = Rows::default();
    let boards = Content::default().after(commit, batch).boards;
    for ((scope, window), (doc, as_of, commit)) in &boards {
        let row = BoardRow { scope, window, doc, as_of: *as_of, commit: *commit };
        rows.push(board_hash(scope, window), &row);
    }
    rows
}

fn dead_rows(commit: u64, batch: &Batch) -> Rows<DeadLetters> {
    let mut rows = Rows::default();
    let partition = partition_hash("posts", "a.ndjson");
    for position in &batch.dead {
        let row = DeadLetterRow {
            input: "posts",
            partition: "a.ndjson",
            position: *position,
            reason: "bad",
            detail: "worse",
            raw: b"{",
            commit,
            bytes: 1,
        };
        rows.push(record_hash(partition, *position), &row);
    }
    rows
}
