//! Acknowledging a commit: an operator holds a capability at the commit's end until what it wrote
//! for it is durable, so the frontier of acknowledgements *is* the durable frontier.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use schemas::manifest::Counters;
use schemas::rows::Table;
use schemas::segment::Rows;
use sinks::commits::{WriteJob, Written, segment_name};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::scheduling::SyncActivator;

use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::error::RunError;
use crate::records::Ack;

/// An output of records of one kind.
pub(super) type Out<D> = OutputBuilder<Epoch, CapacityContainerBuilder<Vec<D>>>;

/// One operator's acknowledgements.
pub(crate) struct Acker {
    context: Context,
    output: Out<Ack>,
    /// At the end of the commit under way. `None` after the last one.
    capability: Option<Capability<Epoch>>,
    /// Keeps this operator's files apart from others of the same commit.
    part: String,
    wake: Arc<SyncActivator>,
    replies: (Sender<Written>, Receiver<Written>),
    /// Segments that are not durable yet.
    pending: usize,
    closing: Option<Closing>,
}

/// A commit that is being written.
struct Closing {
    commit: u64,
    is_last: bool,
    acks: Vec<Ack>,
}

impl Acker {
    /// The acknowledgements of one operator, which go to `output`. `part` becomes part of the names
    /// of its files; `wake` activates the operator when a file is durable.
    pub(crate) fn new(
        context: &Context,
        mut capability: Capability<Epoch>,
        output: Out<Ack>,
        part: String,
        wake: SyncActivator,
    ) -> Self {
        capability.downgrade(&close_of(context.first_commit()));
        Self {
            context: context.clone(),
            output,
            capability: Some(capability),
            part,
            wake: wake.into(),
            replies: channel(),
            pending: 0,
            closing: None,
        }
    }

    /// Begins to acknowledge a commit.
    pub(crate) fn begin(&mut self, commit: u64, is_last: bool) {
        assert!(self.closing.is_none(), "a commit ends only when the one before is durable");
        self.closing = Some(Closing { commit, is_last, acks: Vec::new() });
    }

    /// Adds to the acknowledgements of the commit.
    pub(crate) fn add(&mut self, ack: Ack) {
        self.closing().acks.push(ack);
    }

    /// Adds what was counted in the commit.
    pub(crate) fn count(&mut self, counters: Counters) {
        self.add(Ack::Counters(counters));
    }

    /// Hands rows of the commit over to the writer of segments.
    pub(crate) fn write<T: Table>(&mut self, rows: Rows<T>) {
        let commit = self.closing().commit;
        if rows.is_empty() {
            return;
        }
        let name = segment_name(&self.context.start.header, commit, T::NAME, &self.part);
        let (reply, wake) = (self.replies.0.clone(), Arc::clone(&self.wake));
        let job = WriteJob::new(name, commit, rows, move |written| {
            // After an error the graph may be gone, and with it the receiver.
            let _ = reply.send(written);
            let _ = wake.activate();
        });
        self.pending += 1;
        if self.context.writer.send(job).is_err() {
            let stopped = "the writer of segments has stopped";
            self.context.process.failure.set(RunError::Worker(stopped.to_owned()));
        }
    }

    /// Sends the acknowledgements of the commit once everything written for it is durable.
    pub(crate) fn send(&mut self) {
        while let Ok(written) = self.replies.1.try_recv() {
            self.pending -= 1;
            match written {
                Ok(meta) => self.add(Ack::Segment(meta)),
                Err(error) => self.context.process.failure.set(error),
            }
        }
        if self.pending > 0 || self.context.process.failure.is_set() {
            return;
        }
        let Some(Closing { commit, is_last, acks }) = self.closing.take() else { return };
        let Some(capability) = self.capability.as_mut() else {
            unreachable!("commit {commit} ends after the last one: the ticker ends with that");
        };
        self.output.activate().session(&*capability).give_iterator(acks.into_iter());
        capability.downgrade(&close_of(commit + 1));
        if is_last {
            self.capability = None;
        }
    }

    fn closing(&mut self) -> &mut Closing {
        let Some(closing) = &mut self.closing else {
            unreachable!("nothing is written between commits: `begin` comes first");
        };
        closing
    }
}
