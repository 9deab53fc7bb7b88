//! The tags of one worker's bins: hot ones in memory, cold ones in the segments of the read set,
//! and the boards over both.
//!
//! Invariant: the rows of a commit are exactly the tags that changed in it, as they are at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::rows::Tags;
use schemas::segment::{Merge, Rows};
use schemas::windows::{Buckets, Tiers};
use sinks::commits::Snapshot;

use super::ack::owns;
use crate::context::Context;
use crate::records::{Close, Mention, Ranked};
use crate::run::JobError;
use crate::state::board::{Board, Standing};
use crate::state::tag_table::{TagError, TagTable, View};
use crate::status::Work;

/// The tags of one worker's bins.
pub(crate) struct TagState {
    table: TagTable,
    tiers: Tiers,
    /// By (scope, window); the index behind the last window is all time.
    boards: BTreeMap<(u16, u16), Board>,
    /// The segments that cold tags are read from: those of a durable commit.
    read_set: Arc<Snapshot>,
    commit: u64,
}

impl TagState {
    /// Loads the tags with live buckets of the bins that worker `index` of `peers` owns.
    pub(crate) fn load(context: &Context, index: usize, peers: usize) -> Result<Self, JobError> {
        let snapshot = context.latest.current();
        let body = &snapshot.manifest.body;
        let (tiers, scopes) = (context.settings.windows.tiers(), context.settings.scope_names());
        let commit = snapshot.manifest.header.commit + 1;
        let windows = tiers.len() as u16;
        let board = || Board::new(context.settings.top_k);
        let keys = (0..scopes.len() as u16).flat_map(|s| (0..=windows).map(move |w| (s, w)));
        let mut state = Self {
            table: TagTable::new(tiers.clone(), scopes.to_vec(), commit, context.settings.idle),
            boards: keys.map(|key| (key, board())).collect(),
            tiers,
            read_set: Arc::clone(&snapshot),
            commit,
        };
        let as_of = state.tiers.slot(body.as_of_ms.unwrap_or_default());
        let all = Merge::new(snapshot.tags.iter().map(|s| &s.rows).collect());
        for (hash, row) in all.filter(|(hash, _)| owns(index, peers, hash.bin())) {
            let buckets = Buckets::decode(state.tiers.slot(row.as_of), row.recent)
                .map_err(|_| TagError::Row(row.tag.to_owned()))?;
            if buckets.is_live(&state.tiers, as_of) {
                state.table.load(hash, &row)?;
            }
            if let Some(scope) = scopes.iter().position(|scope| scope == row.scope) {
                let all_time = state.boards.get_mut(&(scope as u16, windows));
                let standing = Standing { count: row.total, most: row.total };
                all_time.into_iter().for_each(|b| b.offer(hash, standing, row.tag, row.display));
            }
        }
        for view in state.table.views() {
            offer(&mut state.boards, &state.tiers, as_of, view);
        }
        Ok(state)
    }

    /// Counts mentions.
    pub(crate) fn apply(&mut self, mentions: &[Mention]) -> Result<(), TagError> {
        for mention in mentions {
            self.table.apply(mention, |hash| self.read_set.tag_filtered(hash))?;
        }
        Ok(())
    }

    /// Ends a commit: its rows, and this worker's boards.
    pub(crate) fn close(&mut self, close: Close) -> Result<(Rows<Tags>, Vec<Ranked>), TagError> {
        let as_of_ms = close.as_of_ms.unwrap_or_default();
        let as_of = self.tiers.slot(as_of_ms);
        let Self { table, tiers, boards, .. } = self;
        let rows = table.close(as_of_ms, |view| offer(boards, tiers, as_of, view))?;
        let ranked = self.rank(close.commit, as_of);
        self.commit = close.commit + 1;
        Ok((rows, ranked))
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

    fn rank(&mut self, commit: u64, as_of: u32) -> Vec<Ranked> {
        let Self { table, tiers, boards, .. } = self;
        let windows = tiers.len();
        // Boards that have to be scanned for, each with one for this commit alone.
        let mut short = BTreeMap::new();
        for ((scope, window), board) in boards.iter_mut() {
            let index = usize::from(*window);
            let of = |hash| table.view(hash).map(|view| view.standing(tiers, index, as_of));
            // Totals do not change as time passes, so the board of all time need not be recounted.
            if index < windows && !board.recount(|hash| of(hash).unwrap_or_default()) {
                short.insert((*scope, *window), board.refill());
            }
        }
        if !short.is_empty() {
            table.work.board_scans += 1;
            for view in table.views() {
                for ((_, window), now) in short.range_mut((view.scope, 0)..=(view.scope, u16::MAX))
                {
                    let standing = view.standing(tiers, usize::from(*window), as_of);
                    now.offer(view.hash, standing.now(), view.key, view.display);
                    if let Some(board) = boards.get_mut(&(view.scope, *window)) {
                        board.offer(view.hash, standing, view.key, view.display);
                    }
                }
            }
        }
        let ranked = boards.iter().flat_map(|(key @ (scope, window), board)| {
            short.get(key).unwrap_or(board).top().into_iter().map(|c| Ranked {
                commit,
                scope: *scope,
                window: *window,
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

fn offer(boards: &mut BTreeMap<(u16, u16), Board>, tiers: &Tiers, as_of: u32, view: View<'_>) {
    for (key, board) in boards.range_mut((view.scope, 0)..=(view.scope, u16::MAX)) {
        let standing = view.standing(tiers, usize::from(key.1), as_of);
        board.offer(view.hash, standing, view.key, view.display);
    }
}
