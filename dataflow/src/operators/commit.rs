//! Commit: creates the manifest of a commit once all operators have acknowledged it; worker 0 only.
//!
//! Invariants: manifests are created one by one, in order, each once its inputs have confirmed what
//! was read; a capability at a commit's end is held until its manifest is durable, so the frontier
//! of this stream is that of durable commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use schemas::manifest::Manifest;
use sinks::commits::CommitError;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;

use super::manifest_builder::{Acknowledged, ManifestBuilder};
use super::stash::epoch_of;
use crate::confirm::Confirmation;
use crate::context::Context;
use crate::epoch::{Epoch, close_of, commit_of};
use crate::error::RunError;
use crate::records::Ack;
use crate::settings::Input;

/// What became of a manifest.
type Created = Result<(), CommitError>;

/// The operator's state and its handles of timely.
struct Committer {
    context: Context,
    manifests: ManifestBuilder,
    commit: u64,
    /// At the end of `commit`. `None` after the last one.
    capability: Option<Capability<Epoch>>,
    acks: BTreeMap<u64, Vec<Ack>>,
    /// While the manifest of `commit` is being created: whether it is the last one.
    creating: Option<bool>,
    replies: (Sender<Created>, Receiver<Created>),
    wake: Arc<SyncActivator>,
}

impl Committer {
    fn step(&mut self, acks: &MutableAntichain<Epoch>) {
        if let Ok(created) = self.replies.1.try_recv() {
            self.end(created);
        }
        let acknowledged = !acks.less_equal(&close_of(self.commit));
        let failed = self.context.process.failure.is_set();
        if acknowledged && self.creating.is_none() && self.capability.is_some() && !failed {
            self.create();
        }
    }

    /// Has the manifest of `commit` created. All operators have acknowledged the commit.
    fn create(&mut self) {
        assert!(self.creating.is_none(), "manifests are created one by one");
        let acks = self.acks.remove(&self.commit).into_iter().flatten();
        let Some(acknowledged) = Acknowledged::new(acks.collect()) else {
            return self.context.process.failure.set(RunError::NoCut(self.commit));
        };
        let (is_last, cut_us) =
            (acknowledged.cut.tick.last.is_some(), acknowledged.cut.tick.mono_us);
        self.context.status.cut(&acknowledged.cut);
        let manifest = self.manifests.next(acknowledged, self.context.merges.take());
        self.creating = Some(is_last);
        let (reply, wake) = (self.replies.0.clone(), Arc::clone(&self.wake));
        let (status, clock) = (Arc::clone(&self.context.status), Arc::clone(&self.context.clock));
        let (inputs, made) = (Arc::clone(&self.context.inputs), manifest.clone());
        let mut confirmation = Confirmation::new(&self.context);
        self.context.commits.send(
            manifest,
            move || confirmation.ask(),
            move |created| {
                let took_us = clock.mono_us().saturating_sub(cut_us);
                if created.is_ok() {
                    status.committed(&made, took_us / 1000);
                    notify_inputs(&inputs, &made);
                }
                // After an error the graph may be gone, and with it the receiver.
                let _ = reply.send(created);
                let _ = wake.activate();
            },
        );
    }

    /// The manifest of `commit` is durable, or could not be created.
    fn end(&mut self, created: Created) {
        let (Some(is_last), Some(capability)) = (self.creating.take(), self.capability.as_mut())
        else {
            unreachable!("a manifest is created for a commit whose capability is held");
        };
        if let Err(error) = created {
            return self.context.process.failure.set(error);
        }
        self.commit += 1;
        capability.downgrade(&close_of(self.commit));
        if is_last {
            self.capability = None;
        }
    }
}

/// Tells the inputs what has become durable.
fn notify_inputs(inputs: &[Input], made: &Manifest) {
    for input in inputs {
        if let Some(partitions) = made.body.inputs.get(&input.name) {
            input.log.committed(partitions);
        }
    }
}

/// The stream whose frontier tells which commits are durable.
pub(crate) fn commit<'s>(
    acks: StreamVec<'s, Epoch, Ack>,
    context: &Context,
) -> StreamVec<'s, Epoch, ()> {
    let scope = acks.scope();
    let is_first = scope.index() == 0;
    let mut builder = OperatorBuilder::new("commit".into(), scope);
    let mut acks = builder.new_input(acks, Exchange::new(|_: &Ack| 0));
    let (_, durable) = builder.new_output::<Vec<()>>();
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let context = context.clone();
    builder.build(move |mut capabilities| {
        let commit = context.first_commit();
        let capability = capabilities.pop().filter(|_| is_first);
        let mut committer = capability.map(|mut capability| {
            capability.downgrade(&close_of(commit));
            Committer {
                manifests: ManifestBuilder::new(&context),
                commit,
                capability: Some(capability),
                acks: BTreeMap::new(),
                creating: None,
                replies: channel(),
                wake: Arc::new(wake),
                context,
            }
        });
        move |frontiers| {
            let Some(committer) = &mut committer else {
                return acks.for_each(|_, _| unreachable!("all acknowledgements go to worker 0"));
            };
            acks.for_each(|stamp, batch| {
                committer.acks.entry(commit_of(epoch_of(&stamp))).or_default().append(batch);
            });
            committer.step(&frontiers[0]);
        }
    });
    durable
}
