//! The partitions and blocks that one worker reads, and whose turn it is.
//!
//! Invariant: the facts of a commit describe exactly the records read up to its end.

use std::sync::Arc;

use schemas::control::Control;
use schemas::log_time::LogTime;
use schemas::manifest::{Counters, Partition, Position};
use schemas::planted::{Bug, planted};
use schemas::rows::DeadLetters;
use schemas::segment::Rows;

use super::controls::Controls;
use super::read::{Feed, Intake};
use crate::context::Context;
use crate::error::JobError;
use crate::low_watermark::{Aligned, AlignedPartition, Alignment, align};
use crate::plan::{BlockPart, OrderedPart};
use crate::records::{Fact, News, Order, Outbox, Route};
use crate::sources::{LogError, Next, Reader};
use crate::stream_time::AGREE_MS;
use schemas::config::LogTimeSource;

/// A partition being read in order.
struct Ordered {
    part: OrderedPart,
    salt: u64,
    reader: Box<dyn Reader>,
    log_time: LogTime,
    /// The largest accepted time, and the monotonic time of its reading.
    largest: Option<(i64, u64)>,
    /// What the last read said.
    next: Next,
    /// The end seen as the commit before closed.
    end_before: Option<u64>,
    at_end: bool,
    alignment: Alignment,
}

/// A block being read.
struct Block {
    part: BlockPart,
    salt: u64,
    reader: Box<dyn Reader>,
}

/// What one worker reads.
pub(crate) struct Partitions {
    context: Context,
    intake: Intake,
    ordered: Vec<Ordered>,
    block: Option<Block>,
    /// Blocks finished since the last facts.
    finished: Vec<BlockPart>,
    /// Whose turn it is, where there are blocks and ordered partitions.
    blocks_turn: bool,
    index: usize,
    peers: usize,
    /// What the metrics show of paused partitions.
    aligned: Aligned,
    /// What the job is asked to do; of the first worker.
    controls: Option<Controls>,
}

/// What one worker read in a commit.
pub(crate) struct Ended {
    /// What is true of its partitions at the end.
    pub(crate) facts: Vec<Fact>,
    /// What it counted.
    pub(crate) counters: Counters,
    /// What it refused.
    pub(crate) dead: Rows<DeadLetters>,
    /// The first file of control records that it has not taken; of the first worker.
    pub(crate) control: Option<u64>,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is more to read.
    More,
    /// There is nothing now.
    Wait,
    /// There will never be more.
    End,
}

impl Partitions {
    /// Opens what the plan gives to worker `index`.
    pub(crate) fn new(context: &Context, index: usize, peers: usize) -> Result<Self, JobError> {
        let start = &context.start;
        let hasher = start.body.hash_key.hasher();
        let first = start.header.commit + 1;
        let mut partitions = Self {
            context: context.clone(),
            intake: Intake::new(Arc::clone(&context.settings), hasher, first),
            ordered: Vec::new(),
            block: None,
            finished: Vec::new(),
            blocks_turn: false,
            index,
            peers,
            aligned: Aligned::default(),
            controls: (index == 0).then(|| Controls::new(context)).transpose()?,
        };
        for part in &context.plan.ordered {
            if part.share % peers as u64 == index as u64 {
                partitions.open(part.clone())?;
            }
        }
        Ok(partitions)
    }

    fn salt(&self, input: usize) -> u64 {
        let name = &self.context.inputs[input].name;
        self.context.start.body.hash_key.hasher().input_salt(name)
    }

    fn open(&mut self, part: OrderedPart) -> Result<(), LogError> {
        let skip = u64::from(part.offset > 0 && planted(Bug::OffsetByOne));
        let log = &self.context.inputs[part.input].log;
        let reader = log.open_on(self.index, &part.partition, part.offset + skip)?;
        let start = &self.context.start;
        self.ordered.push(Ordered {
            salt: self.salt(part.input),
            log_time: part.log_time.clone(),
            part,
            reader,
            largest: start.body.largest_ts_ms.map(|ts| (ts, self.context.started_us)),
            next: Next::More,
            end_before: None,
            at_end: false,
            alignment: Alignment::default(),
        });
        Ok(())
    }

    /// Takes what the job has been asked to do since the last look.
    pub(crate) fn take_controls(&mut self, outbox: &mut Outbox) -> Result<(), JobError> {
        let Some(mut controls) = self.controls.take() else { return Ok(()) };
        let taken = controls.take(outbox, |order, outbox| self.again(order, outbox));
        self.controls = Some(controls);
        Ok(taken?)
    }

    /// Sends the event of a record that is delivered again, unless it is refused again; whether it
    /// was sent.
    fn again(&mut self, mut order: Order, outbox: &mut Outbox) -> bool {
        let Control::Redeliver { input, partition, position, record, .. } = &mut order.control
        else {
            return false;
        };
        let delivered = std::mem::take(record);
        let index = self.context.inputs.iter().position(|known| known.name == *input);
        let again = index.ok_or_else(|| "the job reads no such input".to_owned());
        let (salt, wall_ms) = (index.map(|at| self.salt(at)), self.context.clock.wall_ms());
        let again = again.and_then(|at| {
            self.intake.again(&self.context.inputs[at], delivered.as_bytes(), wall_ms)
        });
        match again {
            Ok((event, plain)) => {
                *record = plain;
                let route = Route::Asked(Box::new(order));
                self.intake.send(&event, salt.unwrap_or_default(), route, outbox);
                true
            }
            Err(why) => {
                tracing::warn!(input, partition, position, why, "a record is refused again");
                false
            }
        }
    }

    /// Reads up to `limit` records.
    pub(crate) fn read(
        &mut self,
        limit: usize,
        outbox: &mut Outbox,
    ) -> Result<(usize, Turn), LogError> {
        if self.block.is_none()
            && let Some(part) = self.context.plan.blocks.take()
        {
            let input = &self.context.inputs[part.input];
            let (name, offset) = (&part.partition, part.state.offset);
            let reader = input.log.open_block(name, part.bytes, part.number, offset)?;
            self.block = Some(Block { salt: self.salt(part.input), part, reader });
        }
        self.align()?;
        let ready = self.ordered.iter().any(Ordered::is_ready);
        self.blocks_turn = self.block.is_some() && !(self.blocks_turn && ready);
        if self.blocks_turn {
            return Ok((self.read_block(limit, outbox)?, Turn::More));
        }
        if !ready {
            // Look again at what had nothing.
            let waiting = |o: &&mut Ordered| o.next == Next::Wait && !o.alignment.paused;
            for ordered in self.ordered.iter_mut().filter(waiting) {
                ordered.next = Next::More;
            }
        }
        let ready = self.ordered.iter_mut().filter(|o| o.is_ready());
        let Some(ordered) = ready.min_by_key(|o| o.log_time.value_ms()) else {
            return Ok((0, self.at_rest()));
        };
        let read = read_ordered(&self.context, &mut self.intake, ordered, limit, outbox)?;
        Ok((read, if read == 0 { self.at_rest() } else { Turn::More }))
    }

    /// Pauses partitions of topics that run ahead.
    fn align(&mut self) -> Result<(), LogError> {
        let Self { context, ordered, index, .. } = self;
        let mut partitions = Vec::new();
        for o in ordered.iter_mut().filter(|o| context.inputs[o.part.input].log.is_topic()) {
            let end = o.reader.end()?;
            let is_behind = o.next != Next::End && end.is_some_and(|end| end > o.reader.position());
            let log_time_ms = o.log_time.value_ms();
            partitions.push(AlignedPartition {
                log_time_ms,
                is_behind,
                alignment: &mut o.alignment,
            });
        }
        if partitions.is_empty() {
            return Ok(());
        }
        let (max_skew_ms, now_us) = (context.settings.max_skew_ms, context.clock.mono_us());
        let aligned = align(&mut partitions, *index, &context.low_watermark, max_skew_ms, now_us);
        if self.aligned != aligned {
            self.aligned = aligned;
            self.context.status.aligned(self.index, aligned.paused, aligned.silent);
        }
        Ok(())
    }

    /// Whether everything was read that there is: no block is left, and each partition had nothing
    /// behind the records last read of it, or waits for others.
    ///
    /// What a topic's client has not fetched yet is not there.
    pub(crate) fn are_read(&self) -> bool {
        let blocks = self.block.is_some() || !self.context.plan.blocks.is_empty();
        !blocks && !self.ordered.iter().any(Ordered::is_ready)
    }

    /// What is to come where a turn read nothing.
    fn at_rest(&self) -> Turn {
        let bounded = self.context.settings.repair_only
            || self.context.inputs.iter().all(|input| input.log.is_bounded());
        let end = bounded && self.ordered.iter().all(|o| o.next == Next::End);
        match self.are_read() {
            false => Turn::More,
            true if end => Turn::End,
            true => Turn::Wait,
        }
    }

    fn read_block(&mut self, limit: usize, outbox: &mut Outbox) -> Result<usize, LogError> {
        let Some(block) = &mut self.block else { return Ok(0) };
        let decisions = self.context.settings.decisions.as_deref();
        let input = &self.context.inputs[block.part.input];
        let mut feed = Feed {
            input,
            salt: block.salt,
            partition: &block.part.partition,
            log_time: &mut block.part.state.times,
            ordered: false,
            latest_ms: i64::MAX,
            decisions: decisions.and_then(|d| d.partition(&input.name, &block.part.partition)),
        };
        let mut read = 0;
        let next = block.reader.read(limit, &mut |record| {
            read += 1;
            self.intake.take(record, &mut feed, outbox);
        })?;
        block.part.state.offset = block.reader.position();
        if next == Next::End {
            block.part.state.done = true;
            self.finished.extend(self.block.take().map(|block| block.part));
        }
        Ok(read)
    }

    /// Ends `commit`: what was read in it. Later records belong to the next one.
    pub(crate) fn end_commit(&mut self, commit: u64) -> Result<Ended, LogError> {
        let inputs = &self.context.inputs;
        let fact = |input: usize, partition: &str, news| Fact {
            commit,
            input: inputs[input].name.clone(),
            partition: partition.to_owned(),
            news,
        };
        let mut facts = Vec::new();
        let mut lost = 0;
        for o in &mut self.ordered {
            lost += o.reader.lost();
            let end = o.reader.end()?;
            let read = o.reader.position();
            o.at_end = match o.end_before {
                Some(before) => read >= before,
                None => o.next != Next::More && end.is_none_or(|end| read >= end),
            };
            o.end_before = end;
            let state = Partition {
                position: Position::Offset(read),
                begin: o.part.begin,
                log_time: o.log_time.clone(),
                at_end: o.at_end,
                done: o.next == Next::End,
                fingerprint: o.reader.fingerprint().or_else(|| o.part.fingerprint.clone()),
            };
            let news = News::Ordered { state, largest: o.largest };
            facts.push(fact(o.part.input, &o.part.partition, news));
        }
        let open = self.block.as_ref().map(|block| block.part.clone());
        for part in self.finished.drain(..).chain(open) {
            let news = News::Block { number: part.number, state: part.state };
            facts.push(fact(part.input, &part.partition, news));
        }
        self.intake.commit = commit + 1;
        let mut counters = std::mem::take(&mut self.intake.counters);
        counters.lost_records += lost;
        let taken = self.controls.as_mut().map(Controls::close);
        counters.superseded += taken.map_or(0, |(_, superseded)| superseded);
        let control = taken.map(|(next, _)| next);
        self.tell_troubles();
        Ok(Ended { facts, counters, dead: std::mem::take(&mut self.intake.dead), control })
    }

    fn tell_troubles(&self) {
        if self.index == 0 {
            let troubles = self.context.inputs.iter().map(|input| input.log.troubles()).sum();
            self.context.status.troubles(troubles);
        }
    }

    /// Opens partitions that have appeared since the last look.
    pub(crate) fn discover(&mut self) -> Result<(), LogError> {
        if self.context.settings.repair_only {
            return Ok(());
        }
        for input in 0..self.context.inputs.len() {
            if self.context.inputs[input].log.is_bounded() {
                continue;
            }
            for found in self.context.inputs[input].log.discover()? {
                let known = self.context.plan.inputs.get(&self.context.inputs[input].name);
                let known = known.is_some_and(|p| p.contains_key(&found.partition));
                let open =
                    |o: &Ordered| o.part.input == input && o.part.partition == found.partition;
                let mine = found.share % self.peers as u64 == self.index as u64;
                if mine && !known && !self.ordered.iter().any(open) {
                    tracing::info!(partition = found.partition, "a new input partition");
                    let begin =
                        self.context.inputs[input].log.beginning(&found.partition, false)?;
                    self.open(OrderedPart {
                        input,
                        partition: found.partition,
                        share: found.share,
                        offset: begin,
                        begin,
                        log_time: LogTime::default(),
                        fingerprint: None,
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl Ordered {
    /// Whether it may have records, and need not wait for others.
    fn is_ready(&self) -> bool {
        self.next == Next::More && !self.alignment.paused
    }
}

fn read_ordered(
    context: &Context,
    intake: &mut Intake,
    ordered: &mut Ordered,
    limit: usize,
    outbox: &mut Outbox,
) -> Result<usize, LogError> {
    let mono_us = context.clock.mono_us();
    let max_future_ms = context.settings.max_future_ms.filter(|_| !planted(Bug::FutureAccepted));
    let latest_ms = max_future_ms.map_or(i64::MAX, |ahead| {
        latest_clock_ms(context.clock.wall_ms(), ordered.largest, mono_us).saturating_add(ahead)
    });
    let (decisions, input) =
        (context.settings.decisions.as_deref(), &context.inputs[ordered.part.input]);
    let mut feed = Feed {
        input,
        salt: ordered.salt,
        partition: &ordered.part.partition,
        log_time: &mut ordered.log_time,
        ordered: true,
        latest_ms,
        decisions: decisions.and_then(|d| d.partition(&input.name, &ordered.part.partition)),
    };
    let (mut read, mut largest) = (0, None);
    ordered.next = ordered.reader.read(limit, &mut |record| {
        read += 1;
        let stamp_ms =
            record.stamp_ms.filter(|_| feed.input.log_time != Some(LogTimeSource::Event));
        if let Some(ts_ms) = intake.take(record, &mut feed, outbox) {
            largest = largest.max(Some(stamp_ms.unwrap_or(ts_ms)));
        }
    })?;
    if limit > 0 {
        ordered.alignment.was_read(read, mono_us);
    }
    if let Some(ts) = largest
        && ordered.largest.is_none_or(|(known, _)| ts > known)
    {
        ordered.largest = Some((ts, mono_us));
    }
    Ok(read)
}

/// What time it is at most: the wall clock's word, unless events say that it has fallen behind.
///
/// While both agree the wall clock alone counts, so that events each a little ahead of the one
/// before cannot pull the limit along.
fn latest_clock_ms(wall_ms: i64, largest: Option<(i64, u64)>, mono_us: u64) -> i64 {
    let by_events = largest
        .map(|(ts, at)| ts.saturating_add_unsigned(mono_us.saturating_sub(at) / 1000))
        .filter(|by_events| *by_events > wall_ms.saturating_add(AGREE_MS));
    by_events.unwrap_or(wall_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_counts_unless_it_has_fallen_behind() {
        let minute = 60_000;
        let now = 1_700_000_000_000;
        assert_eq!(latest_clock_ms(now, None, 0), now);
        assert_eq!(latest_clock_ms(now, Some((now + 5 * minute, 7)), 7), now);
        assert_eq!(latest_clock_ms(now, Some((now - 60 * minute, 7)), 7), now);
        let ahead = now + 6 * minute;
        assert_eq!(latest_clock_ms(now, Some((ahead, 1_000_000)), 3_000_000), ahead + 2000);
    }
}
