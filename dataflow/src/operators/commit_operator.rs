//! The timely code shared by the operators that work commit by commit: `close`, `dedup`, `tags` and
//! `boards`. Each of them is a plain state that implements [`PerCommit`].
//!
//! Records of the commit under way are applied as they arrive; those of later commits are stashed.
//! Once the end of a commit and all its records have arrived, the state closes the commit, and the
//! next one begins with what was stashed for it. The acknowledgements of the closed commit are sent
//! when everything it wrote is durable. Invariant: what a state has applied when it closes a commit
//! belongs to that commit or to an earlier one.

use timely::ExchangeData;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

use super::ack::{Acker, Out};
use super::stash::Stash;
use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::error::RunError;
use crate::records::{Ack, Close, Tick};
use crate::status::Status;

/// What tells an operator that a commit ends.
pub(crate) trait CommitEnd: ExchangeData {
    /// The commit.
    fn commit(&self) -> u64;
    /// The worker that this copy is for.
    fn worker(&self) -> u64;
    /// Whether it is the last commit of the run.
    fn is_last(&self) -> bool;
}

impl CommitEnd for Tick {
    fn commit(&self) -> u64 {
        self.commit
    }

    fn worker(&self) -> u64 {
        0
    }

    fn is_last(&self) -> bool {
        self.last.is_some()
    }
}

impl CommitEnd for Close {
    fn commit(&self) -> u64 {
        self.commit
    }

    fn worker(&self) -> u64 {
        self.worker
    }

    fn is_last(&self) -> bool {
        self.last
    }
}

/// The state of an operator that works commit by commit.
pub(crate) trait PerCommit: 'static {
    /// What it applies.
    type Record: ExchangeData;
    /// What ends its commits.
    type End: CommitEnd;
    /// What it emits for records, in their own slices.
    type Emitted: ExchangeData;
    /// What it emits at the end of a commit.
    type Closed: ExchangeData;

    /// The operator's name. Its first letter is in the names of its files, so no two operators
    /// that write share it.
    const NAME: &'static str;
    /// Whether its records come at the ends of commits, and not in their slices.
    const RECORDS_AT_END: bool;

    /// The worker that a record goes to, modulo the number of workers.
    fn worker_of(record: &Self::Record) -> u64;
    /// Applies records of the commit under way or of an earlier one.
    fn apply(&mut self, batch: Vec<Self::Record>) -> Result<Vec<Self::Emitted>, RunError>;
    /// Closes the commit under way, and hands `acker` what must become durable.
    fn close(&mut self, end: Self::End, acker: &mut Acker) -> Vec<Self::Closed>;
    /// Reports the size of the state after a commit.
    fn report(&mut self, _status: &Status) {}
}

/// The outputs of an operator that works commit by commit.
pub(crate) struct Outputs<'s, S: PerCommit> {
    /// What it emits for records. This stream does not wait for commits to end.
    pub(crate) emitted: StreamVec<'s, Epoch, S::Emitted>,
    /// What it emits at the ends of commits.
    pub(crate) closed: StreamVec<'s, Epoch, S::Closed>,
    /// Its acknowledgements; their frontier is that of its durable commits.
    pub(crate) acks: StreamVec<'s, Epoch, Ack>,
}

/// One such operator: its state and its handles of timely.
struct Operator<S: PerCommit> {
    state: S,
    context: Context,
    stash: Stash<S::Record>,
    acker: Acker,
    /// At the end of the commit under way. `None` after the last one.
    closed_cap: Option<Capability<Epoch>>,
    closed_out: Out<S::Closed>,
}

impl<S: PerCommit> Operator<S> {
    fn apply(&mut self, batch: Vec<S::Record>) -> Vec<S::Emitted> {
        self.state.apply(batch).unwrap_or_else(|error| {
            self.context.process.failure.set(error);
            Vec::new()
        })
    }

    /// The end of the commit under way, once it and all records of the commit have arrived.
    fn next_end(
        &self,
        ending: &mut Vec<S::End>,
        records: &MutableAntichain<Epoch>,
    ) -> Option<S::End> {
        let commit = self.stash.commit();
        let last = close_of(commit) - u64::from(!S::RECORDS_AT_END);
        let at = ending.iter().position(|end| end.commit() == commit)?;
        (!records.less_equal(&last)).then(|| ending.swap_remove(at))
    }

    /// Whether the end of the commit under way will never come: `ends` has passed its time.
    fn lacks_end(&self, ending: &[S::End], ends: &MutableAntichain<Epoch>) -> bool {
        let commit = self.stash.commit();
        self.closed_cap.is_some()
            && !ends.less_equal(&close_of(commit))
            && ending.iter().all(|end| end.commit() != commit)
    }

    /// Closes the commit under way. Returns the stashed batches of the next one.
    fn close(
        &mut self,
        end: S::End,
    ) -> impl Iterator<Item = (Capability<Epoch>, Vec<S::Record>)> + use<S> {
        let (commit, is_last) = (end.commit(), end.is_last());
        let Some(capability) = self.closed_cap.as_mut() else {
            unreachable!("commit {commit} ends after the last one: the ticker ends with that");
        };
        self.acker.begin(commit, is_last);
        let closed = self.state.close(end, &mut self.acker);
        self.closed_out.activate().session(&*capability).give_iterator(closed.into_iter());
        capability.downgrade(&close_of(commit + 1));
        if is_last {
            self.closed_cap = None;
        }
        self.state.report(&self.context.status);
        self.stash.release(commit + 1)
    }
}

/// Runs `state` on records and on the ends of commits. A worker without a state takes no part.
pub(crate) fn commit_operator<'s, S: PerCommit>(
    records: StreamVec<'s, Epoch, S::Record>,
    ends: StreamVec<'s, Epoch, S::End>,
    state: Option<S>,
    context: &Context,
) -> Outputs<'s, S> {
    let scope = records.scope();
    let mut builder = OperatorBuilder::new(S::NAME.into(), scope);
    let (emitted_out, emitted) = builder.new_output::<Vec<S::Emitted>>();
    let (closed_out, closed) = builder.new_output::<Vec<S::Closed>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    let same = || Antichain::from_elem(0);
    let to_all = [(0, same()), (1, same()), (2, same())];
    let mut records = builder.new_input_connection(records, Exchange::new(S::worker_of), to_all);
    // The end of a commit holds back what comes with it, not what is emitted for records.
    let by_worker = Exchange::new(S::End::worker);
    let mut ends = builder.new_input_connection(ends, by_worker, [(1, same()), (2, same())]);
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let part = format!("{}{}", &S::NAME[..1], scope.index());
    let context = context.clone();
    builder.build(move |capabilities| {
        let Ok([_, mut closed_cap, acks_cap]) = <[_; 3]>::try_from(capabilities) else {
            unreachable!("there is a capability for each of the three outputs");
        };
        let first = context.first_commit();
        closed_cap.downgrade(&close_of(first));
        let mut emitted_out = OutputBuilder::from(emitted_out);
        let mut operator = state.map(|state| Operator {
            state,
            stash: Stash::new(first),
            acker: Acker::new(&context, acks_cap, OutputBuilder::from(acks_out), part, wake),
            closed_cap: Some(closed_cap),
            closed_out: OutputBuilder::from(closed_out),
            context,
        });
        let mut ending = Vec::new();
        move |frontiers| {
            ends.for_each(|_, batch| ending.append(batch));
            let Some(operator) = &mut operator else {
                records.for_each(|_, _| ());
                return ending.clear();
            };
            let mut emitted_out = emitted_out.activate();
            records.for_each_stamp(|stamp, batches| {
                for batch in operator.stash.admit(&stamp, batches).into_iter().flatten() {
                    emitted_out.session(&stamp).give_container(&mut operator.apply(batch));
                }
            });
            while !operator.context.process.failure.is_set()
                && let Some(end) = operator.next_end(&mut ending, &frontiers[0])
            {
                for (capability, batch) in operator.close(end) {
                    emitted_out.session(&capability).give_container(&mut operator.apply(batch));
                }
            }
            if operator.lacks_end(&ending, &frontiers[1]) {
                let error = RunError::NoCut(operator.stash.commit());
                operator.context.process.failure.set(error);
            }
            operator.acker.send();
        }
    });
    Outputs { emitted, closed, acks }
}
