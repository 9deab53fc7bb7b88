//! The tags of one worker's bins: hot ones in memory, cold ones in the segments of the read set,
//! and the boards over both.
//!
//! Invariant: the rows of a commit are exactly the tags that changed in it, as they are at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::control::Control;
use schemas::hash::{BINS, KeyHash};
use schemas::planted::{Bug, planted};
use schemas::rows::Tags;
use schemas::segment::Rows;
use schemas::windows::Tiers;
use sinks::commits::Snapshot;

use super::ack::owns;
use super::audit::{Audit, Done, REPUBLISH};
use crate::context::Context;
use crate::error::JobError;
use crate::records::{Close, Mentions, Order, Ranked};
use crate::state::board::{Board, Standing};
use crate::state::tag_table::{Change, TagError, TagTable, View};
use crate::status::Work;

/// The tags of one worker's bins.
pub(crate) struct TagState {
    table: TagTable,
    tiers: Tiers,
    /// By scope, then window; the index behind the last window is all time.
    boards: Vec<Vec<Board>>,
    /// The segments that cold tags are read from: those of a durable commit.
    read_set: Arc<Snapshot>,
    commit: u64,
    /// What was done on somebody's word.
    pub(crate) audit: Audit,
    /// Whether the total of a tag has fallen in the commit under way.
    fell: bool,
    /// Which worker it belongs to, of how many.
    worker: (usize, usize),
}

impl TagState {
    /// Loads the tags with live buckets of the bins that worker `index` of `peers` owns.
    pub(crate) fn load(context: &Context, index: usize, peers: usize) -> Result<Self, JobError> {
        let snapshot = context.latest.current();
        let body = &snapshot.manifest.body;
        let (tiers, scopes) = (context.settings.windows.tiers(), context.settings.scope_names());
        let commit = snapshot.manifest.header.commit + 1;
        let windows = tiers.len();
        let board = |_| Board::new(context.settings.top_k);
        let mut state = Self {
            table: TagTable::new(tiers.clone(), scopes.to_vec(), commit, context.settings.idle),
            boards: scopes.iter().map(|_| (0..=windows).map(board).collect()).collect(),
            tiers,
            read_set: Arc::clone(&snapshot),
            commit,
            audit: Audit::load(context, index, peers)?,
            fell: false,
            worker: (index, peers),
        };
        let as_of = state.tiers.slot(body.as_of_ms.unwrap_or_default());
        for bin in (0..BINS).filter(|bin| owns(index, peers, *bin)) {
            for (hash, row) in snapshot.rows::<Tags>().bin(bin) {
                state.table.load_live(hash, &row, as_of)?;
                if let Some(scope) = scopes.iter().position(|scope| scope == row.scope) {
                    let standing = Standing { count: row.total, most: row.total };
                    state.boards[scope][windows].offer(hash, standing, row.tag, row.display);
                }
            }
        }
        for view in state.table.views() {
            offer(&mut state.boards, &state.tiers, as_of, view);
        }
        Ok(state)
    }

    /// Counts mentions, and does what was asked for about tags.
    pub(crate) fn apply(&mut self, batches: &[Mentions]) -> Result<(), TagError> {
        for batch in batches {
            let Self { table, read_set, .. } = self;
            table.apply(batch, |hash| read_set.tag_filtered(hash))?;
            batch.orders.iter().try_for_each(|(tag, order)| self.apply_order(*tag, order))?;
        }
        Ok(())
    }

    /// Does what somebody asked for about a tag.
    fn apply_order(&mut self, hash: KeyHash, order: &Order) -> Result<(), TagError> {
        let Self { table, audit, read_set, commit, boards, .. } = self;
        let cold = |hash| read_set.tag_filtered(hash);
        match &order.control {
            Control::Correct(correction) => {
                if audit.is_superseded(hash, order) && !planted(Bug::CorrectedTwice) {
                    return Ok(());
                }
                let Some(change) = table.correct(correction, cold)? else { return Ok(()) };
                // It may have had another name, which other boards know it by.
                boards.iter_mut().flatten().for_each(|board| board.forget(hash));
                let Change { before, after, fell } = change;
                let (scope, name) = (&*correction.scope, &*correction.key);
                let (before, after, kind) = (&*before, &*after, "correct");
                audit.note(hash, order, Done { kind, scope, name, before, after }, *commit);
                audit.counters.corrected += 1;
                self.fell |= fell;
            }
            Control::Republish { scope, key, display } => {
                if table.republish(hash, [scope, key, display], cold)? {
                    let (kind, name, before, after) = (REPUBLISH, key.as_str(), "{}", "{}");
                    audit.note(hash, order, Done { kind, scope, name, before, after }, *commit);
                    audit.counters.republished += 1;
                }
            }
            Control::Remember(_) | Control::Forget(_) | Control::Redeliver { .. } => {}
        }
        Ok(())
    }

    /// Ends a commit: its rows, and this worker's boards.
    pub(crate) fn close(&mut self, close: Close) -> (Rows<Tags>, Vec<Ranked>) {
        let as_of_ms = close.as_of_ms.unwrap_or_default();
        let as_of = self.tiers.slot(as_of_ms);
        let Self { table, tiers, boards, .. } = self;
        let rows = table.close(as_of_ms, |view| offer(boards, tiers, as_of, view));
        let ranked = self.rank(close.commit, as_of);
        self.commit = close.commit + 1;
        (rows, ranked)
    }

    /// The commit under way.
    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    /// The number of tags in memory, and the bytes they take.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.table.len(), self.table.bytes())
    }

    /// What was done since this was last asked.
    pub(crate) fn work(&mut self) -> Work {
        std::mem::take(&mut self.table.work)
    }

    /// Looks through all tags, in memory or not, where a board of all time may lack one since
    /// another's total fell.
    fn scan_all_time(&mut self) {
        let Self { table, tiers, boards, read_set, worker, .. } = self;
        let windows = tiers.len();
        let sure = boards.iter().all(|boards| boards[windows].is_sure());
        if !std::mem::take(&mut self.fell) || sure {
            return;
        }
        table.work.board_scans += 1;
        boards.iter_mut().for_each(|boards| drop(boards[windows].refill()));
        let scopes = table.scopes().to_vec();
        for (hash, row) in read_set.rows::<Tags>() {
            let mine = owns(worker.0, worker.1, hash.bin()) && table.view(hash).is_none();
            if mine && let Some(scope) = scopes.iter().position(|scope| scope == row.scope) {
                let standing = Standing { count: row.total, most: row.total };
                boards[scope][windows].offer(hash, standing, row.tag, row.display);
            }
        }
        for view in table.views() {
            let standing = view.standing(tiers, windows, 0);
            let board = &mut boards[usize::from(view.scope)][windows];
            board.offer(view.hash, standing, view.key, view.display);
        }
    }

    fn rank(&mut self, commit: u64, as_of: u32) -> Vec<Ranked> {
        self.scan_all_time();
        let Self { table, tiers, boards, .. } = self;
        let windows = tiers.len();
        // Boards that have to be scanned for, each with one for this commit alone.
        let mut short = BTreeMap::new();
        for (scope, boards) in (0_u16..).zip(boards.iter_mut()) {
            // Totals do not change as time passes, so the board of all time need not be recounted.
            for (window, board) in boards[..windows].iter_mut().enumerate() {
                let of = |hash| table.view(hash).map(|view| view.standing(tiers, window, as_of));
                if !board.recount(|hash| of(hash).unwrap_or_default()) {
                    short.insert((scope, window), board.refill());
                }
            }
        }
        if !short.is_empty() {
            table.work.board_scans += 1;
            for view in table.views() {
                for ((_, window), now) in short.range_mut((view.scope, 0)..=(view.scope, windows)) {
                    let standing = view.standing(tiers, *window, as_of);
                    now.offer(view.hash, standing.now(), view.key, view.display);
                    let board = &mut boards[usize::from(view.scope)][*window];
                    board.offer(view.hash, standing, view.key, view.display);
                }
            }
        }
        let boards = (0_u16..).zip(boards.iter()).flat_map(|(scope, boards)| {
            boards.iter().enumerate().map(move |(window, board)| (scope, window, board))
        });
        let ranked = boards.flat_map(|(scope, window, board)| {
            let board = short.get(&(scope, window)).unwrap_or(board);
            board.top().into_iter().map(move |c| Ranked {
                commit,
                scope,
                window: window as u16,
                count: c.count,
                tag: c.tag.into(),
                display: c.display.into(),
            })
        });
        ranked.collect()
    }

    /// Reads cold tags from the newest durable commit from now on, and lets go of tags that are
    /// cold themselves.
    pub(crate) fn renew(&mut self, newest: Arc<Snapshot>, as_of_ms: i64) {
        self.read_set = newest;
        self.table.sweep(as_of_ms, self.read_set.manifest.header.commit);
    }
}

fn offer(boards: &mut [Vec<Board>], tiers: &Tiers, as_of: u32, view: View<'_>) {
    for (window, board) in boards[usize::from(view.scope)].iter_mut().enumerate() {
        let standing = view.standing(tiers, window, as_of);
        board.offer(view.hash, standing, view.key, view.display);
    }
}
