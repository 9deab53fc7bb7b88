//! Source: reads the partitions of one worker, slice by slice, and reports at the end of a commit
//! how far.
//!
//! Invariants: a record is sent in the slice in which it was read; the updates of a commit are sent
//! at its end, after its records.

use sinks::storage::Patience;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::Activator;

use super::ack::{Acker, Out};
use super::partitions::{Partitions, Turn};
use crate::context::Context;
use crate::epoch::{Epoch, close_of, commit_of};
use crate::error::RunError;
use crate::limits::{IDLE_WAIT, TURN_BYTES, TURN_RECORDS};
use crate::records::{Ack, PartitionUpdate, PostBatches, Posts, Tick};
use crate::sources::LogError;

/// However large records are, this many are read at once.
const TURN_RECORDS_MIN: usize = 16;

/// The operator's state and its handles of timely.
struct Source {
    context: Context,
    partitions: Partitions,
    activator: Activator,
    worker: usize,
    acker: Acker,
    /// What is held while there may be something to read. `None` once reading has ended.
    reading: Option<Reading>,
    /// At the end of the commit under way. `None` after the last one.
    updates_cap: Option<Capability<Epoch>>,
    posts_out: Out<Posts>,
    updates_out: Out<PartitionUpdate>,
    commit: u64,
    /// The last commit that control records were taken for.
    controlled: u64,
    /// Records that this worker may still read in the present slice.
    left: usize,
    /// Records that may be read at once, so that they take about [`TURN_BYTES`].
    turn: usize,
    batches: PostBatches,
    /// That of reading control records.
    patience: Patience,
}

/// The capabilities of a source that still reads.
struct Reading {
    /// At the present slice.
    posts_cap: Capability<Epoch>,
    /// Shows that there may be something to read. `None` once everything was read.
    reading_cap: Option<Capability<Epoch>>,
}

impl Source {
    /// Does what can be done now that the ticker has reached `present`. `None` if it has ended.
    fn step(&mut self, present: Option<Epoch>) -> Result<(), RunError> {
        while present.is_none_or(|epoch| commit_of(epoch) > self.commit)
            && self.updates_cap.is_some()
        {
            self.end_commit(present.is_none())?;
        }
        self.acker.send();
        match present {
            // Before the first slice of the first commit there is nothing to do.
            Some(epoch) if commit_of(epoch) < self.commit => {}
            Some(epoch) => self.read(epoch)?,
            None => self.reading = None,
        }
        Ok(())
    }

    /// Reports how far the partitions were read, and begins the next commit unless this is the
    /// last.
    fn end_commit(&mut self, is_last: bool) -> Result<(), LogError> {
        let Some(capability) = self.updates_cap.as_mut() else {
            unreachable!("commit {} ends after the last one: checked by the caller", self.commit);
        };
        let ended = self.partitions.end_commit(self.commit)?;
        let updates = ended.updates.into_iter();
        self.updates_out.activate().session(&*capability).give_iterator(updates);
        self.acker.begin(self.commit, is_last);
        self.acker.count(ended.counters);
        ended.control.into_iter().for_each(|next| self.acker.add(Ack::Control(next)));
        self.acker.write(ended.dead);
        self.commit += 1;
        capability.downgrade(&close_of(self.commit));
        if is_last {
            self.updates_cap = None;
            return Ok(());
        }
        self.partitions.discover(true)
    }

    /// Reads a turn's records in slice `epoch`.
    fn read(&mut self, epoch: Epoch) -> Result<(), RunError> {
        assert_eq!(commit_of(epoch), self.commit, "the ticker goes through commits one by one");
        // Control records come first in their commit, so others wait for them.
        let may_read = self.take_controls()?;
        let Some(Reading { posts_cap, reading_cap }) = self.reading.as_mut() else {
            unreachable!("a ticker that has ended does not come back");
        };
        let process = &self.context.process;
        if *posts_cap.time() < epoch {
            posts_cap.downgrade(&epoch);
            self.left = process.slice.share();
            self.partitions.discover(false)?;
        }
        // What is held must get on its way first: the ticker begins the next slice or commit.
        let holds_enough = process.slice.holds_enough() || process.budget.is_full(self.commit);
        let wanted = if holds_enough || !may_read { 0 } else { self.left.min(self.turn) };
        let limit = process.rate_limiter.grant(wanted, self.context.clock.mono_us());
        let (read, turn) = self.partitions.read(limit, &mut self.batches)?;
        assert!(read <= limit, "{read} records were read, though at most {limit} may be");
        self.left -= read;
        let bytes = self.batches.bytes();
        process.slice.add(read, bytes);
        if read > 0 {
            let fit = read * TURN_BYTES / bytes.max(1);
            self.turn = fit.clamp(TURN_RECORDS_MIN, 2 * self.turn).min(TURN_RECORDS);
        }
        self.context.status.read(read);
        process.rate_limiter.refund(limit - read);
        let posts = self.batches.take(&process.spare.posts);
        self.posts_out.activate().session(&*posts_cap).give_iterator(posts);
        // A source that is limited would read no faster in longer commits.
        if limit < wanted || (limit > 0 && self.partitions.are_caught_up()) {
            process.slice.catch_up(self.worker, self.commit);
        }
        if turn == Turn::End && limit > 0 {
            *reading_cap = None;
        } else if turn == Turn::More && limit > 0 && self.left > 0 {
            self.activator.activate();
        } else if self.left > 0 {
            self.rest();
        }
        Ok(())
    }

    /// Takes control records, once in a commit. Returns false if they cannot be read now.
    fn take_controls(&mut self) -> Result<bool, RunError> {
        if self.controlled < self.commit {
            match self.partitions.take_controls(self.commit, &mut self.batches) {
                Err(error) if self.patience.leaves(&error) => return Ok(false),
                taken => taken?,
            }
            self.patience.goes_on();
            self.controlled = self.commit;
        }
        Ok(true)
    }

    /// Looks again after a while.
    fn rest(&self) {
        match self.context.clock.pause(IDLE_WAIT) {
            Some(pause) => self.activator.activate_after(pause),
            None => self.activator.activate(),
        }
    }
}

/// The outputs of a source.
pub(crate) struct Outputs<'s> {
    pub(crate) posts: StreamVec<'s, Epoch, Posts>,
    /// How far its partitions were read, at the ends of commits.
    pub(crate) updates: StreamVec<'s, Epoch, PartitionUpdate>,
    pub(crate) acks: StreamVec<'s, Epoch, Ack>,
    /// Ends when nothing is left to read.
    pub(crate) reading: StreamVec<'s, Epoch, ()>,
}

/// The source of one worker, which reads in the slice that `ticks` has reached.
pub(crate) fn source<'s>(
    ticks: StreamVec<'s, Epoch, Tick>,
    partitions: Partitions,
    context: &Context,
) -> Outputs<'s> {
    let scope = ticks.scope();
    let (worker, peers) = (scope.index(), scope.peers());
    let mut builder = OperatorBuilder::new("source".into(), scope);
    let mut ticks = builder.new_input(ticks, Pipeline);
    let (posts_out, posts) = builder.new_output::<Vec<Posts>>();
    let (updates_out, updates) = builder.new_output::<Vec<PartitionUpdate>>();
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    // Not connected to the ticks, since it ends when reading does.
    let (_, reading) = builder.new_output_connection::<Vec<()>, _>([]);
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let context = context.clone();
    builder.build(move |capabilities| {
        let Ok([posts_cap, mut updates_cap, acks_cap, reading_cap]) =
            <[_; 4]>::try_from(capabilities)
        else {
            unreachable!("there is a capability for each of the four outputs");
        };
        let commit = context.first_commit();
        updates_cap.downgrade(&close_of(commit));
        let part = format!("s{worker}");
        let mut source = Source {
            acker: Acker::new(&context, acks_cap, OutputBuilder::from(acks_out), part, wake),
            partitions,
            activator,
            worker,
            reading: Some(Reading { posts_cap, reading_cap: Some(reading_cap) }),
            updates_cap: Some(updates_cap),
            posts_out: OutputBuilder::from(posts_out),
            updates_out: OutputBuilder::from(updates_out),
            commit,
            controlled: 0,
            left: 0,
            turn: TURN_RECORDS_MIN,
            batches: PostBatches::new(peers),
            patience: Patience::new(&context.process.waiting),
            context,
        };
        move |frontiers| {
            ticks.for_each(|_, _| ());
            let present = frontiers[0].frontier().first().copied();
            if let Err(error) = source.step(present) {
                source.context.process.failure.set(error);
            }
        }
    });
    Outputs { posts, updates, acks, reading }
}
