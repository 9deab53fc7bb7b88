//! Tags: owns totals and buckets of the tags in its bins, and ranks them.
//!
//! Invariant: the rows of a commit are exactly the tags that changed in it, as they are at its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::rows::Tags;
use schemas::segment::{Merge, Rows};
use schemas::windows::{Buckets, Tiers};
use sinks::commits::Snapshot;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;

use super::ack::{Acker, owns};
use super::held::Held;
use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::records::{Ack, Close, Mention, Ranked};
use crate::run::JobError;
use crate::state::board::Board;
use crate::state::tag_table::{TagError, TagTable, View};

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
            table: TagTable::new(tiers.clone(), scopes.to_vec(), commit),
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
                all_time.into_iter().for_each(|b| b.offer(hash, row.total, row.tag, row.display));
            }
        }
        for view in state.table.views() {
            offer(&mut state.boards, &state.tiers, as_of, view);
        }
        Ok(state)
    }

    fn apply(&mut self, mentions: &[Mention]) -> Result<(), TagError> {
        for mention in mentions {
            self.table.apply(mention, |hash| self.read_set.tag_filtered(hash))?;
        }
        Ok(())
    }

    /// Ends a commit: its rows, and this worker's boards.
    fn close(&mut self, close: Close) -> Result<(Rows<Tags>, Vec<Ranked>), TagError> {
        let as_of_ms = close.as_of_ms.unwrap_or_default();
        let as_of = self.tiers.slot(as_of_ms);
        let Self { table, tiers, boards, .. } = self;
        let rows = table.close(as_of_ms, |view| offer(boards, tiers, as_of, view))?;
        let ranked = self.rank(close.commit, as_of);
        self.commit = close.commit + 1;
        Ok((rows, ranked))
    }

    fn rank(&mut self, commit: u64, as_of: u32) -> Vec<Ranked> {
        let Self { table, tiers, boards, .. } = self;
        let windows = tiers.len();
        let mut short = Vec::new();
        for ((scope, window), board) in boards.iter_mut() {
            let index = usize::from(*window);
            let count = |hash| table.view(hash).map_or(0, |v| v.count(tiers, index, as_of));
            // Totals do not fall as time passes, so the board of all time need not be recounted.
            if index < windows && !board.recount(count) {
                board.refill();
                short.push((*scope, *window));
            }
        }
        if !short.is_empty() {
            for view in table.views() {
                for key in short.iter().filter(|(scope, _)| *scope == view.scope) {
                    let count = view.count(tiers, usize::from(key.1), as_of);
                    if let Some(board) = boards.get_mut(key) {
                        board.offer(view.hash, count, view.key, view.display);
                    }
                }
            }
        }
        let ranked = boards.iter().flat_map(|((scope, window), board)| {
            board.top().into_iter().map(|c| Ranked {
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
    fn renew(&mut self, newest: Arc<Snapshot>, as_of_ms: i64) {
        self.read_set = newest;
        self.table.sweep(as_of_ms, self.read_set.manifest.header.commit);
    }
}

fn offer(boards: &mut BTreeMap<(u16, u16), Board>, tiers: &Tiers, as_of: u32, view: View<'_>) {
    for (key, board) in boards.range_mut((view.scope, 0)..=(view.scope, u16::MAX)) {
        let count = view.count(tiers, usize::from(key.1), as_of);
        board.offer(view.hash, count, view.key, view.display);
    }
}

/// Each worker's ranking, acknowledgements, and a stream that is as far as tags are.
pub(crate) type Outputs<'s> =
    (StreamVec<'s, Epoch, Ranked>, StreamVec<'s, Epoch, Ack>, StreamVec<'s, Epoch, ()>);

/// Counts the mentions of one worker's bins.
pub(crate) fn tags<'s>(
    mentions: StreamVec<'s, Epoch, Mention>,
    closes: StreamVec<'s, Epoch, Close>,
    mut state: TagState,
    context: &Context,
) -> Outputs<'s> {
    let scope = mentions.scope();
    let index = scope.index();
    let mut builder = OperatorBuilder::new("tags".into(), scope);
    let (passed_out, passed) = builder.new_output::<Vec<()>>();
    let (ranked_out, ranked) = builder.new_output::<Vec<Ranked>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    let same = Antichain::from_elem(0);
    let all = [(0, same.clone()), (1, same.clone()), (2, same.clone())];
    let by_tag = Exchange::new(|mention: &Mention| mention.tag.bin());
    let mut mentions = builder.new_input_connection(mentions, by_tag, all);
    // The end of a commit holds back its acknowledgement, not what has passed.
    let by_worker = Exchange::new(|close: &Close| close.worker);
    let mut closes =
        builder.new_input_connection(closes, by_worker, [(1, same.clone()), (2, same)]);
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let context = context.clone();
    builder.build(move |capabilities| {
        let mut standing =
            <[_; 3]>::try_from(capabilities).ok().map(|[_, mut ranked_cap, acks]| {
                ranked_cap.downgrade(&close_of(state.commit));
                (ranked_cap, Acker::new(&context, acks, 't', index, wake))
            });
        let _passed_out = passed_out;
        let mut ranked_out = OutputBuilder::from(ranked_out);
        let mut acks_out = OutputBuilder::from(acks_out);
        let mut held = Held::new(state.commit);
        let mut ending = Vec::<Close>::new();
        let mut ended = false;
        move |frontiers| {
            let Some((ranked_cap, acker)) = standing.as_mut() else { return };
            closes.for_each(|_, batch| ending.append(batch));
            let mut applied = Ok(());
            mentions.for_each_stamp(|stamp, batches| {
                for batch in held.admit(&stamp, 0, batches).into_iter().flatten() {
                    applied =
                        std::mem::replace(&mut applied, Ok(())).and_then(|()| state.apply(&batch));
                }
            });
            while let Some(close) =
                held.next_close(&mut ending, frontiers).filter(|_| applied.is_ok())
            {
                applied = state.close(close).and_then(|(rows, ranked)| {
                    acker.begin(close.commit, close.last, schemas::manifest::Counters::default());
                    acker.write(rows, None);
                    ranked_out.activate().session(&*ranked_cap).give_iterator(ranked.into_iter());
                    let next = close.commit + 1;
                    ranked_cap.downgrade(&close_of(next));
                    ended = close.last;
                    state.renew(context.latest.current(), close.as_of_ms.unwrap_or_default());
                    context.status.tags(index, state.table.len(), state.table.bytes());
                    held.release(next).try_for_each(|(_, batch)| state.apply(&batch))
                });
            }
            if let Err(error) = applied {
                context.failure.set(error);
            }
            if let Some((capability, acks)) = acker.poll() {
                acks_out.activate().session(&capability).give_iterator(acks.into_iter());
                if ended {
                    standing = None;
                }
            }
        }
    });
    (ranked, acks, passed)
}
