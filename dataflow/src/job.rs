//! The whole graph on one screen, one call per operator.
//!
//! ```text
//! ticker ─ticks─► source ─posts⟲id─► dedup ─► combine ─mentions⟲tag─► tags ─ranked─► boards
//!   ▲               │ updates          │ acks                           │ acks          │ acks
//!   │               └────────► close ──┴── closes, to every worker ─────┘               │
//!   │                            └ cut ──► commit ◄── acknowledgements ─────────────────┘
//!   └─ probes: slices that tags have passed, durable commits, sources that still read
//! ```

use timely::dataflow::Scope;
use timely::dataflow::operators::core::{Concatenate, Probe};

use crate::context::Context;
use crate::epoch::Epoch;
use crate::error::RunError;
use crate::operators::boards::BoardDocs;
use crate::operators::close::Cuts;
use crate::operators::combine::{Combine, combine};
use crate::operators::commit::commit;
use crate::operators::commit_operator::commit_operator;
use crate::operators::dedup::Dedup;
use crate::operators::partitions::Partitions;
use crate::operators::source::source;
use crate::operators::tags::TagState;
use crate::operators::ticker::{Probes, ticker};
use crate::worker_id::WorkerId;

/// The state of one worker's operators.
pub(crate) struct State {
    partitions: Partitions,
    combine: Combine,
    dedup: Dedup,
    tags: TagState,
    /// What only the first worker does.
    first: Option<(Cuts, BoardDocs)>,
}

impl State {
    /// Loads what `worker` owns from the commit that the job starts with.
    pub(crate) fn load(context: &Context, worker: WorkerId) -> Result<Self, RunError> {
        let first = || (Cuts::new(context, worker.peers()), BoardDocs::new(context));
        Ok(Self {
            partitions: Partitions::new(context, worker)?,
            combine: Combine::new(context, worker.peers()),
            dedup: Dedup::load(context, worker)?,
            tags: TagState::load(context, worker)?,
            first: worker.is_first().then(first),
        })
    }
}

/// Builds the graph of one worker around its state.
pub(crate) fn build(scope: Scope<'_, Epoch>, state: State, context: &Context) {
    let State { partitions, combine: sums, dedup, tags, first } = state;
    let (cuts, boards) = first.unzip();
    let probes = Probes::default();

    let ticks = ticker(scope, context, probes.clone());
    let source = source(ticks.clone(), partitions, context);
    let close = commit_operator(source.updates, ticks, cuts, context);
    let dedup = commit_operator(source.posts, close.closed.clone(), Some(dedup), context);
    let mentions = combine(dedup.emitted, sums);
    let tags = commit_operator(mentions, close.closed.clone(), Some(tags), context);
    let boards = commit_operator(tags.closed, close.closed, boards, context);
    let acks = scope.concatenate([close.acks, source.acks, dedup.acks, tags.acks, boards.acks]);
    let durable = commit(acks, context);

    source.reading.probe_with(&probes.reading);
    tags.emitted.probe_with(&probes.passed);
    durable.probe_with(&probes.durable);
}
