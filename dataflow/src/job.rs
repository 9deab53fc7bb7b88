//! The whole graph on one screen, one call per operator.
//!
//! ```text
//! ticker ─ticks─► source ─posts⟲id─► dedup ─► combine ─mentions⟲tag─► tags ─ranked─► boards
//!   ▲               │ facts            │ acks                           │ acks          │ acks
//!   │               └────────► close ──┴── closes, to every worker ─────┘               │
//!   │                            └ cut ──► commit ◄── acknowledgements ─────────────────┘
//!   └─ probes: slices that tags have passed, durable commits, sources that still read
//! ```

use timely::dataflow::operators::core::{Concatenate, Probe};
use timely::dataflow::{ProbeHandle, Scope};

use crate::context::Context;
use crate::epoch::Epoch;
use crate::error::JobError;
use crate::operators::boards::{BoardDocs, boards};
use crate::operators::close::close;
use crate::operators::combine::{Combine, combine};
use crate::operators::commit::commit;
use crate::operators::dedup::{Dedup, dedup};
use crate::operators::partitions::Partitions;
use crate::operators::source::source;
use crate::operators::tag_state::TagState;
use crate::operators::tags::tags;
use crate::operators::ticker::{Probes, ticker};
use crate::stream_time::StreamTime;

/// The state of one worker's operators.
pub(crate) struct State {
    partitions: Partitions,
    time: StreamTime,
    dedup: Dedup,
    combine: Combine,
    tags: TagState,
    boards: BoardDocs,
}

impl State {
    /// Loads what worker `index` of `peers` owns from the commit that the job starts with.
    pub(crate) fn load(context: &Context, index: usize, peers: usize) -> Result<Self, JobError> {
        Ok(Self {
            partitions: Partitions::new(context, index, peers)?,
            time: StreamTime::new(
                context.settings.time_rules(),
                &context.start.body,
                context.plan.inputs.clone(),
                context.read_inputs(),
                context.started_us,
            ),
            dedup: Dedup::load(context, index, peers)?,
            combine: Combine::new(context, peers),
            tags: TagState::load(context, index, peers)?,
            boards: BoardDocs::new(context),
        })
    }
}

/// Builds the graph of one worker around its state.
pub(crate) fn build(scope: Scope<'_, Epoch>, state: State, context: &Context) {
    let (passed, durable, reading) = (ProbeHandle::new(), ProbeHandle::new(), ProbeHandle::new());
    let probes =
        Probes { passed: passed.clone(), durable: durable.clone(), reading: reading.clone() };

    let ticks = ticker(scope, context, probes);
    let (posts, facts, read, unread) = source(ticks.clone(), state.partitions, context);
    let (closes, cuts) = close(ticks, facts, state.time, context);
    let (fresh, deduped) = dedup(posts, closes.clone(), state.dedup, context);
    let mentions = combine(fresh, state.combine);
    let (ranked, counted, through) = tags(mentions, closes.clone(), state.tags, context);
    let boarded = boards(ranked, closes, state.boards, context);
    let acks = scope.concatenate([cuts, read, deduped, counted, boarded]);
    let committed = commit(acks, context);

    unread.probe_with(&reading);
    through.probe_with(&passed);
    committed.probe_with(&durable);
}
