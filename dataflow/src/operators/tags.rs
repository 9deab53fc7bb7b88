//! Tags: counts the mentions of one worker's bins, and closes commits.
//!
//! Invariant: what is counted before a commit is closed belongs to it or to an earlier one.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;

use super::Out;
use super::ack::Acker;
use super::stash::Stash;
use super::tag_state::TagState;
use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::records::{Ack, Close, Mentions, Ranked};
use crate::state::tag_table::TagError;

/// What is timely about counting tags.
struct Operator {
    context: Context,
    index: usize,
    state: TagState,
    stash: Stash<Vec<Mentions>>,
    acker: Acker,
    /// At the end of the present commit.
    ranked_cap: Option<Capability<Epoch>>,
    ranked_out: Out<Ranked>,
    acks_out: Out<Ack>,
}

impl Operator {
    /// Ends a commit, and begins the next one with what was stashed for it.
    fn close(&mut self, close: Close) -> Result<(), TagError> {
        let (rows, ranked) = self.state.close(close);
        let (repairs, counters) = self.state.audit.close();
        self.acker.begin(close.commit, close.last, counters);
        self.acker.write(rows);
        self.acker.write(repairs);
        if let Some(capability) = self.ranked_cap.as_mut() {
            let mut out = self.ranked_out.activate();
            out.session(&*capability).give_iterator(ranked.into_iter());
            capability.downgrade(&close_of(close.commit + 1));
        }
        if close.last {
            self.ranked_cap = None;
        }
        let newest = self.context.latest.current();
        self.state.renew(newest, close.as_of_ms.unwrap_or_default());
        let (tags, bytes) = self.state.size();
        self.context.status.tags(self.index, tags, bytes);
        self.context.status.worked(self.state.work());
        let mut now = self.stash.release(close.commit + 1);
        now.try_for_each(|(_, batches)| self.count(batches))
    }

    /// Counts mentions, whose batches can be filled again.
    fn count(&mut self, batches: Vec<Mentions>) -> Result<(), TagError> {
        self.state.apply(&batches)?;
        batches.into_iter().for_each(|batch| self.context.spare.mentions.put(batch));
        Ok(())
    }

    fn acknowledge(&mut self) {
        if let Some((capability, acks)) = self.acker.poll() {
            self.acks_out.activate().session(&capability).give_iterator(acks.into_iter());
        }
    }
}

/// Each worker's ranking, acknowledgements, and a stream that is as far as tags are.
pub(crate) type Outputs<'s> =
    (StreamVec<'s, Epoch, Ranked>, StreamVec<'s, Epoch, Ack>, StreamVec<'s, Epoch, ()>);

/// Counts the mentions of one worker's bins.
pub(crate) fn tags<'s>(
    mentions: StreamVec<'s, Epoch, Mentions>,
    closes: StreamVec<'s, Epoch, Close>,
    state: TagState,
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
    let by_tag = Exchange::new(|mentions: &Mentions| mentions.worker);
    let mut mentions = builder.new_input_connection(mentions, by_tag, all);
    // The end of a commit holds back its acknowledgement, not what has passed.
    let by_worker = Exchange::new(|close: &Close| close.worker);
    let mut closes =
        builder.new_input_connection(closes, by_worker, [(1, same.clone()), (2, same)]);
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let context = context.clone();
    builder.build(move |capabilities| {
        let _passed_out = passed_out;
        let mut operator = <[_; 3]>::try_from(capabilities).ok().map(|capabilities| {
            // The first follows the mentions by itself.
            let [_, mut ranked_cap, acks_cap] = capabilities;
            ranked_cap.downgrade(&close_of(state.commit()));
            Operator {
                stash: Stash::new(state.commit()),
                acker: Acker::new(&context, acks_cap, 't', index, wake),
                ranked_cap: Some(ranked_cap),
                ranked_out: OutputBuilder::from(ranked_out),
                acks_out: OutputBuilder::from(acks_out),
                context: context.clone(),
                index,
                state,
            }
        });
        let mut ending = Vec::<Close>::new();
        move |frontiers| {
            let Some(operator) = operator.as_mut() else { return };
            closes.for_each(|_, batch| ending.append(batch));
            let mut done = Ok(());
            mentions.for_each_stamp(|stamp, batches| {
                let now = operator.stash.admit(&stamp, 0, batches);
                let mut now = now.into_iter().flatten();
                let applied = now.try_for_each(|batches| operator.count(batches));
                done = std::mem::replace(&mut done, Ok(())).and(applied);
            });
            while done.is_ok()
                && let Some(close) = operator.stash.next_close(&mut ending, frontiers)
            {
                done = operator.close(close);
            }
            operator.acknowledge();
            if let Err(error) = done {
                context.failure.set(error);
            }
        }
    });
    (ranked, acks, passed)
}
