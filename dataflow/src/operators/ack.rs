//! Acknowledging a commit: an operator holds a capability at the commit's end until what it wrote
//! for it is durable, so the frontier of acknowledgements *is* the durable frontier.

use std::sync::mpsc::{Receiver, Sender, channel};

use schemas::hash::BINS;
use schemas::manifest::{Counters, SegmentMeta};
use schemas::rows::Table;
use schemas::segment::Rows;
use sinks::commits::{WriteJob, Written, segment_name};
use timely::dataflow::operators::Capability;
use timely::scheduling::SyncActivator;

use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::records::Ack;

/// One operator's acknowledgements.
pub(crate) struct Acker {
    context: Context,
    capability: Option<Capability<Epoch>>,
    /// Tells apart the files of this operator from others of the same commit.
    part: String,
    wake: std::sync::Arc<SyncActivator>,
    replies: (Sender<Written>, Receiver<Written>),
    waiting: usize,
    closing: Option<Closing>,
}

struct Closing {
    commit: u64,
    last: bool,
    acks: Vec<Ack>,
}

impl Acker {
    /// The acknowledgements of one operator of worker `index`, with the capability of the output
    /// that they go to. `operator` is a letter for file names.
    pub(crate) fn new(
        context: &Context,
        mut capability: Capability<Epoch>,
        operator: char,
        index: usize,
        wake: SyncActivator,
    ) -> Self {
        capability.downgrade(&close_of(context.start.header.commit + 1));
        Self {
            context: context.clone(),
            capability: Some(capability),
            part: format!("{operator}{index}"),
            wake: wake.into(),
            replies: channel(),
            waiting: 0,
            closing: None,
        }
    }

    /// Begins to acknowledge a commit in which `counters` were counted.
    pub(crate) fn begin(&mut self, commit: u64, last: bool, counters: Counters) {
        debug_assert!(self.closing.is_none(), "one commit is written at a time");
        self.closing = Some(Closing { commit, last, acks: vec![Ack::Counters(counters)] });
    }

    /// Adds to the acknowledgements of the commit.
    pub(crate) fn add(&mut self, ack: Ack) {
        self.acks().push(ack);
    }

    /// Hands rows of the commit over to the writer.
    pub(crate) fn write<T: Table>(&mut self, rows: Rows<T>) {
        let Some(closing) = self.closing.as_ref().filter(|_| !rows.is_empty()) else { return };
        let header = &self.context.start.header;
        let name = segment_name(header, closing.commit, T::NAME, &self.part);
        let (reply, wake) = (self.replies.0.clone(), self.wake.clone());
        let job = WriteJob::new(name, closing.commit, rows, move |written| {
            // Nobody listens any more when the job is ending on an error.
            let _ = reply.send(written);
            let _ = wake.activate();
        });
        if self.context.writer.send(job).is_ok() {
            self.waiting += 1;
        }
    }

    /// Collects what has become durable. Once everything has, the capability to send the
    /// acknowledgements with, and they themselves.
    pub(crate) fn poll(&mut self) -> Option<(Capability<Epoch>, Vec<Ack>)> {
        while let Ok(written) = self.replies.1.try_recv() {
            self.waiting -= 1;
            match written {
                Ok(meta) => self.acks().push(Ack::Segment(meta)),
                Err(error) => self.context.failure.set(error),
            }
        }
        if self.waiting > 0 || self.context.failure.is_set() {
            return None;
        }
        let closing = self.closing.take()?;
        let mut next = self.capability.take()?;
        let now = next.clone();
        if !closing.last {
            next.downgrade(&close_of(closing.commit + 1));
            self.capability = Some(next);
        }
        Some((now, closing.acks))
    }

    fn acks(&mut self) -> &mut Vec<Ack> {
        let empty = || Closing { commit: 0, last: false, acks: Vec::new() };
        &mut self.closing.get_or_insert_with(empty).acks
    }
}

/// Whether a worker owns the keys of `bin`.
pub(crate) fn owns(index: usize, peers: usize, bin: u64) -> bool {
    debug_assert!(bin < BINS);
    bin % peers as u64 == index as u64
}

/// The segments among acknowledgements.
pub(crate) fn segments(acks: &[Ack]) -> impl Iterator<Item = &SegmentMeta> {
    acks.iter().filter_map(|ack| match ack {
        Ack::Segment(meta) => Some(meta),
        _ => None,
    })
}
