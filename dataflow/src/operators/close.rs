//! Close: turns what the sources say at the end of a commit into the cut that everybody closes it
//! by; worker 0 only.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::records::{Ack, Close, Fact, Tick};
use crate::stream_time::StreamTime;

/// The ends of commits, one copy for each worker, and their cuts.
pub(crate) fn close<'s>(
    ticks: StreamVec<'s, Epoch, Tick>,
    facts: StreamVec<'s, Epoch, Fact>,
    mut time: StreamTime,
    context: &Context,
) -> (StreamVec<'s, Epoch, Close>, StreamVec<'s, Epoch, Ack>) {
    let scope = ticks.scope();
    let index = scope.index();
    let peers = scope.peers() as u64;
    let mut builder = OperatorBuilder::new("close".into(), scope);
    let mut ticks = builder.new_input(ticks, Exchange::new(|_: &Tick| 0));
    let mut facts = builder.new_input(facts, Exchange::new(|_: &Fact| 0));
    let (closes_out, closes) = builder.new_output::<Vec<Close>>();
    let (cuts_out, cuts) = builder.new_output::<Vec<Ack>>();
    let context = context.clone();
    builder.build(move |capabilities| {
        let mut commit = context.start.header.commit + 1;
        let mut capabilities = Some(capabilities).filter(|_| index == 0);
        for capability in capabilities.iter_mut().flatten() {
            capability.downgrade(&close_of(commit));
        }
        let mut closes_out = OutputBuilder::from(closes_out);
        let mut cuts_out = OutputBuilder::from(cuts_out);
        let (mut waiting, mut ended) = (Vec::<Fact>::new(), Vec::<Tick>::new());
        move |frontiers| {
            ticks.for_each(|_, batch| ended.append(batch));
            facts.for_each(|_, batch| waiting.append(batch));
            while capabilities.is_some()
                && !frontiers.iter().any(|f| f.less_equal(&close_of(commit)))
                && let Some(at) = ended.iter().position(|tick| tick.commit == commit)
            {
                let tick = ended.swap_remove(at);
                for fact in waiting.extract_if(.., |fact| fact.commit == commit) {
                    time.learn(fact);
                }
                let cut = time.close(tick);
                let last = tick.last.is_some();
                let Some([closes_cap, cuts_cap]) = capabilities.as_deref_mut() else { return };
                let copy = |worker| Close {
                    worker,
                    commit,
                    as_of_ms: cut.as_of_ms,
                    floor_ms: cut.floor_ms,
                    last,
                };
                let copies = (0..peers).map(copy);
                closes_out.activate().session(&*closes_cap).give_iterator(copies);
                let cut = Ack::Cut(Box::new(cut.clone()));
                cuts_out.activate().session(&*cuts_cap).give(cut);
                commit += 1;
                closes_cap.downgrade(&close_of(commit));
                cuts_cap.downgrade(&close_of(commit));
                if last {
                    capabilities = None;
                }
            }
        }
    });
    (closes, cuts)
}
