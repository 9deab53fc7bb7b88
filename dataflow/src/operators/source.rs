//! Source: reads the partitions of one worker, slice by slice, and says at the end of a commit how
//! far.
//!
//! Invariants: a record is sent at the slice in which it was read; the facts of a commit are sent
//! at its end, behind its records.

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::Activator;

use super::Out;
use super::ack::Acker;
use super::partitions::{Partitions, Turn};
use crate::context::Context;
use crate::epoch::{Epoch, close_of, commit_of};
use crate::error::JobError;
use crate::limits::{IDLE_WAIT, TURN_RECORDS};
use crate::records::{Ack, Fact, Outbox, Posts, Tick};
use crate::sources::LogError;

/// The source's capabilities and outputs: what is timely about it.
struct Source {
    context: Context,
    partitions: Partitions,
    activator: Activator,
    /// Its worker.
    index: usize,
    acker: Acker,
    /// At the slice that is read now.
    posts_cap: Option<Capability<Epoch>>,
    /// At the end of the present commit.
    facts_cap: Option<Capability<Epoch>>,
    /// Held for as long as there may be something to read.
    reading_cap: Option<Capability<Epoch>>,
    posts_out: Out<Posts>,
    facts_out: Out<Fact>,
    acks_out: Out<Ack>,
    commit: u64,
    /// The last commit that control records were taken for.
    controlled: u64,
    /// Records that this worker may still read in the present slice.
    left: usize,
    outbox: Outbox,
}

impl Source {
    /// Does what can be done now that the ticker has reached `present`; none when it has ended.
    fn step(&mut self, present: Option<Epoch>) -> Result<(), JobError> {
        while present.is_none_or(|epoch| commit_of(epoch) > self.commit) && self.facts_cap.is_some()
        {
            self.end_commit(present.is_none())?;
        }
        if let Some((capability, acks)) = self.acker.poll() {
            self.acks_out.activate().session(&capability).give_iterator(acks.into_iter());
        }
        match present {
            // Before the first commit's first slice there is nothing to do.
            Some(epoch) if commit_of(epoch) == self.commit => self.read(epoch)?,
            Some(_) => {}
            None => {
                self.posts_cap = None;
                self.reading_cap = None;
            }
        }
        Ok(())
    }

    /// Says how far the present commit got, and begins the next one unless it was the `last`.
    fn end_commit(&mut self, last: bool) -> Result<(), LogError> {
        let Some(capability) = self.facts_cap.as_mut() else { return Ok(()) };
        let ended = self.partitions.end_commit(self.commit)?;
        let facts = ended.facts.into_iter();
        self.facts_out.activate().session(&*capability).give_iterator(facts);
        self.acker.begin(self.commit, last, ended.counters);
        ended.control.into_iter().for_each(|next| self.acker.add(Ack::Control(next)));
        self.acker.write(ended.dead);
        self.commit += 1;
        capability.downgrade(&close_of(self.commit));
        if last {
            self.facts_cap = None;
            return Ok(());
        }
        self.partitions.discover()
    }

    /// Reads a turn's records at slice `epoch`.
    fn read(&mut self, epoch: Epoch) -> Result<(), JobError> {
        let Some(capability) = self.posts_cap.as_mut() else { return Ok(()) };
        if *capability.time() < epoch {
            capability.downgrade(&epoch);
            self.left = self.context.slice.share();
        }
        if self.controlled < self.commit {
            self.controlled = self.commit;
            self.partitions.take_controls(&mut self.outbox)?;
        }
        let now_us = self.context.clock.mono_us();
        let wanted = self.left.min(TURN_RECORDS);
        let limit = self.context.pace.grant(wanted, now_us);
        let (read, turn) = self.partitions.read(limit, &mut self.outbox)?;
        self.left -= read;
        self.context.slice.read(read);
        self.context.status.read(read);
        self.context.pace.give_back(limit - read);
        let posts = self.outbox.take(&self.context.spare.posts);
        self.posts_out.activate().session(&*capability).give_iterator(posts);
        // A source that is paced reads no faster in longer commits.
        if limit < wanted || (limit > 0 && self.partitions.are_read()) {
            self.context.slice.catch_up(self.index, self.commit);
        }
        if turn == Turn::End && limit > 0 {
            self.reading_cap = None;
        } else if turn == Turn::More && limit > 0 && self.left > 0 {
            self.activator.activate();
        } else if self.left > 0 {
            match self.context.clock.pause(IDLE_WAIT) {
                Some(pause) => self.activator.activate_after(pause),
                None => self.activator.activate(),
            }
        }
        Ok(())
    }
}

/// Posts, facts, acknowledgements, and a stream that ends when nothing is left to read.
pub(crate) type Outputs<'s> = (
    StreamVec<'s, Epoch, Posts>,
    StreamVec<'s, Epoch, Fact>,
    StreamVec<'s, Epoch, Ack>,
    StreamVec<'s, Epoch, ()>,
);

/// The source of one worker, which reads in the slice that `ticks` has reached.
pub(crate) fn source<'s>(
    ticks: StreamVec<'s, Epoch, Tick>,
    partitions: Partitions,
    context: &Context,
) -> Outputs<'s> {
    let scope = ticks.scope();
    let (index, peers) = (scope.index(), scope.peers());
    let mut builder = OperatorBuilder::new("source".into(), scope);
    let mut ticks = builder.new_input(ticks, Pipeline);
    let (posts_out, posts) = builder.new_output::<Vec<Posts>>();
    let (facts_out, facts) = builder.new_output::<Vec<Fact>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    // Not connected to the ticks: it ends when reading does.
    let (_, reading) = builder.new_output_connection::<Vec<()>, _>([]);
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let context = context.clone();
    builder.build(move |capabilities| {
        let commit = context.start.header.commit + 1;
        let mut source = <[_; 4]>::try_from(capabilities).ok().map(|capabilities| {
            let [posts_cap, mut facts_cap, acks_cap, reading_cap] = capabilities;
            facts_cap.downgrade(&close_of(commit));
            Source {
                acker: Acker::new(&context, acks_cap, 's', index, wake),
                partitions,
                activator,
                index,
                posts_cap: Some(posts_cap),
                facts_cap: Some(facts_cap),
                reading_cap: Some(reading_cap),
                posts_out: OutputBuilder::from(posts_out),
                facts_out: OutputBuilder::from(facts_out),
                acks_out: OutputBuilder::from(acks_out),
                commit,
                controlled: 0,
                left: 0,
                outbox: Outbox::new(peers),
                context: context.clone(),
            }
        });
        move |frontiers| {
            ticks.for_each(|_, _| ());
            let present = frontiers[0].frontier().first().copied();
            if let Some(Err(error)) = source.as_mut().map(|source| source.step(present)) {
                context.failure.set(error);
            }
        }
    });
    (posts, facts, acks, reading)
}
