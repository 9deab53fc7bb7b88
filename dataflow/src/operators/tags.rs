//! Tags: counts the mentions of one worker's bins. Hot tags are in memory, cold ones in the
//! segments of the read set, and boards rank both.
//!
//! Invariant: the rows of a commit are exactly the tags that changed in it, as they are at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::control::Control;
use schemas::hash::{BINS, KeyHash};
use schemas::planted::{Bug, planted};
use schemas::rows::Tags;
use schemas::windows::Tiers;
use sinks::commits::{Latest, Snapshot};

use super::ack::Acker;
use super::audit::{Audit, Done, REPUBLISH};
use super::commit_operator::PerCommit;
use crate::context::Context;
use crate::error::RunError;
use crate::process::ProcessShared;
use crate::records::{Close, Mentions, Order, Ranked};
use crate::state::board::{Board, Score};
use crate::state::tag_table::{Change, TagError, TagTable, View};
use crate::status::Status;
use crate::worker_id::WorkerId;

/// Stream time before the first event, when all windows are empty.
const NO_TIME_MS: i64 = 0;

/// The tags of one worker's bins.
pub(crate) struct TagState {
    table: TagTable,
    tiers: Tiers,
    /// By scope, then window. The index after the last window is all time.
    boards: Vec<Vec<Board>>,
    /// The segments that cold tags are read from: those of a durable commit.
    read_set: Arc<Snapshot>,
    commit: u64,
    audit: Audit,
    /// Whether a repair has lowered the total of a tag in the commit under way.
    total_fell: bool,
    worker: WorkerId,
    /// The newest durable commit.
    latest: Arc<Latest>,
    /// Where emptied batches go.
    process: Arc<ProcessShared>,
}

impl TagState {
    /// Loads the tags with live buckets of the bins that `worker` owns.
    pub(crate) fn load(context: &Context, worker: WorkerId) -> Result<Self, RunError> {
        let snapshot = context.latest.current();
        let body = &snapshot.manifest.body;
        let (tiers, scopes) = (context.settings.windows.tiers(), context.settings.scope_names());
        let commit = context.first_commit();
        let newest = snapshot.manifest.header.commit;
        assert!(newest < commit, "commit {newest} was made before all workers had loaded");
        let windows = tiers.len();
        let board = |_| Board::new(context.settings.top_k);
        let mut state = Self {
            table: TagTable::new(tiers.clone(), scopes.to_vec(), commit, context.settings.idle),
            boards: scopes.iter().map(|_| (0..=windows).map(board).collect()).collect(),
            tiers,
            read_set: Arc::clone(&snapshot),
            commit,
            audit: Audit::load(context, worker)?,
            total_fell: false,
            worker,
            latest: Arc::clone(&context.latest),
            process: Arc::clone(&context.process),
        };
        let as_of = state.tiers.slot(body.as_of_ms.unwrap_or(NO_TIME_MS));
        for bin in (0..BINS).filter(|bin| worker.owns(*bin)) {
            for (hash, row) in snapshot.rows::<Tags>().bin(bin) {
                state.table.load_live(hash, &row, as_of)?;
                if let Some(scope) = scopes.iter().position(|scope| scope == row.scope) {
                    let score = Score { count: row.total, bound: row.total };
                    state.boards[scope][windows].offer(hash, score, row.tag, row.display);
                }
            }
        }
        for view in state.table.views() {
            offer(&mut state.boards, &state.tiers, as_of, view);
        }
        Ok(state)
    }

    /// Applies a repair of a tag.
    fn apply_order(&mut self, hash: KeyHash, order: &Order) -> Result<(), TagError> {
        let Self { table, audit, read_set, commit, boards, .. } = self;
        let cold = |hash| read_set.tag_filtered(hash);
        match &order.control {
            Control::Correct(correction) => {
                if audit.is_superseded(hash, order) && !planted(Bug::CorrectedTwice) {
                    return Ok(());
                }
                let Some(change) = table.correct(correction, cold)? else { return Ok(()) };
                // Other boards may know it by another name.
                boards.iter_mut().flatten().for_each(|board| board.forget(hash));
                let Change { before, after, total_fell } = change;
                let (scope, name) = (&*correction.scope, &*correction.key);
                let (before, after, kind) = (&*before, &*after, "correct");
                audit.record(hash, order, Done { kind, scope, name, before, after }, *commit);
                audit.counters.corrected += 1;
                self.total_fell |= total_fell;
            }
            Control::Republish { scope, key, display } => {
                if table.republish(hash, [scope, key, display], cold)? {
                    let (kind, name, before, after) = (REPUBLISH, key.as_str(), "{}", "{}");
                    audit.record(hash, order, Done { kind, scope, name, before, after }, *commit);
                    audit.counters.republished += 1;
                }
            }
            Control::Remember(_) | Control::Forget(_) | Control::Redeliver { .. } => {
                unreachable!("dedup applies orders about ids and records")
            }
        }
        Ok(())
    }

    /// Scans all tags, in memory or not, if a board of all time may miss one because the total of
    /// another fell.
    fn scan_all_time(&mut self) {
        let Self { table, tiers, boards, read_set, worker, .. } = self;
        let windows = tiers.len();
        let are_exact = boards.iter().all(|boards| boards[windows].is_exact());
        if !std::mem::take(&mut self.total_fell) || are_exact {
            return;
        }
        table.work.board_scans += 1;
        boards.iter_mut().for_each(|boards| drop(boards[windows].refill()));
        let scopes = table.scopes().to_vec();
        for (hash, row) in read_set.rows::<Tags>() {
            let mine = worker.owns(hash.bin()) && table.view(hash).is_none();
            if mine && let Some(scope) = scopes.iter().position(|scope| scope == row.scope) {
                let score = Score { count: row.total, bound: row.total };
                boards[scope][windows].offer(hash, score, row.tag, row.display);
            }
        }
        for view in table.views() {
            let score = view.score(tiers, windows, 0);
            let board = &mut boards[usize::from(view.scope)][windows];
            board.offer(view.hash, score, view.key, view.display);
        }
    }

    /// The top tags of all boards.
    fn rank(&mut self, as_of: u32) -> Vec<Ranked> {
        self.scan_all_time();
        let Self { table, tiers, boards, .. } = self;
        let windows = tiers.len();
        // The present tops of boards that need a scan.
        let mut scanned = BTreeMap::new();
        for (scope, boards) in (0_u16..).zip(boards.iter_mut()) {
            // Totals do not change as time passes, so the board of all time stays exact.
            for (window, board) in boards[..windows].iter_mut().enumerate() {
                // A tag that is not in memory has no posts in any window.
                let score = |hash| table.view(hash).map(|view| view.score(tiers, window, as_of));
                if !board.refresh(|hash| score(hash).unwrap_or_default()) {
                    scanned.insert((scope, window), board.refill());
                }
            }
        }
        if !scanned.is_empty() {
            table.work.board_scans += 1;
            for view in table.views() {
                let of_scope = (view.scope, 0)..=(view.scope, windows);
                for ((_, window), now) in scanned.range_mut(of_scope) {
                    let score = view.score(tiers, *window, as_of);
                    now.offer(view.hash, score.now(), view.key, view.display);
                    let board = &mut boards[usize::from(view.scope)][*window];
                    board.offer(view.hash, score, view.key, view.display);
                }
            }
        }
        let boards = (0_u16..).zip(boards.iter()).flat_map(|(scope, boards)| {
            boards.iter().enumerate().map(move |(window, board)| (scope, window, board))
        });
        let ranked = boards.flat_map(|(scope, window, board)| {
            let board = scanned.get(&(scope, window)).unwrap_or(board);
            board.top().into_iter().map(move |c| Ranked {
                scope,
                window: window as u16,
                count: c.count,
                tag: c.tag.into(),
                display: c.display.into(),
            })
        });
        ranked.collect()
    }
}

impl PerCommit for TagState {
    type Record = Mentions;
    type End = Close;
    type Emitted = ();
    /// This worker's rankings.
    type Closed = Ranked;

    const NAME: &'static str = "tags";
    const RECORDS_AT_END: bool = false;

    fn worker_of(mentions: &Mentions) -> u64 {
        mentions.worker
    }

    fn apply(&mut self, batches: Vec<Mentions>) -> Result<Vec<()>, RunError> {
        for batch in batches {
            let Self { table, read_set, process, commit, .. } = self;
            let before = table.row_bytes;
            table.apply(&batch, |hash| read_set.tag_filtered(hash))?;
            process.budget.hold(*commit, table.row_bytes - before);
            batch.orders.iter().try_for_each(|(tag, order)| self.apply_order(*tag, order))?;
            self.process.spare.mentions.put(batch);
        }
        Ok(Vec::new())
    }

    fn close(&mut self, close: Close, acker: &mut Acker) -> Vec<Ranked> {
        let as_of_ms = close.as_of_ms.unwrap_or(NO_TIME_MS);
        let as_of = self.tiers.slot(as_of_ms);
        let Self { table, tiers, boards, .. } = self;
        let rows = table.close(as_of_ms, |view| offer(boards, tiers, as_of, view));
        let ranked = self.rank(as_of);
        let (repairs, counters) = self.audit.close();
        acker.count(counters);
        acker.write(rows);
        acker.write(repairs);
        self.commit = close.commit + 1;
        // Cold tags are read from the newest durable commit, so those it holds may leave memory.
        self.read_set = self.latest.current();
        self.table.sweep(as_of_ms, self.read_set.manifest.header.commit);
        ranked
    }

    fn report(&mut self, status: &Status) {
        status.tags(self.worker.index(), self.table.len(), self.table.bytes());
        status.add_work(std::mem::take(&mut self.table.work));
    }
}

fn offer(boards: &mut [Vec<Board>], tiers: &Tiers, as_of: u32, view: View<'_>) {
    for (window, board) in boards[usize::from(view.scope)].iter_mut().enumerate() {
        let score = view.score(tiers, window, as_of);
        board.offer(view.hash, score, view.key, view.display);
    }
}
