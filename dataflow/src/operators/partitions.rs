//! The partitions and blocks that one worker reads, and which of them is next.
//!
//! Invariant: the updates of a commit describe exactly the records read up to its end.

mod rotation;

use std::collections::BTreeSet;
use std::sync::Arc;

use schemas::control::Control;
use schemas::log_time::LogTime;
use schemas::manifest::{Counters, Partition, Position};
use schemas::planted::{Bug, planted};
use schemas::rows::DeadLetters;
use schemas::segment::Rows;
use schemas::tags::TagRules;

use super::controls::Controls;
use super::intake::{Feed, Intake};
use super::last_line::LastLine;
use crate::context::Context;
use crate::error::RunError;
use crate::largest::{Largest, latest_clock_ms};
use crate::low_watermark::{Aligned, AlignedPartition, Alignment, align};
use crate::plan::{BlockPart, OrderedPart, Unfinished};
use crate::records::{Order, PartitionProgress, PartitionUpdate, PostBatches, Route};
use crate::settings::Input;
use crate::sources::{LogError, Next, Reader};
use crate::worker_id::WorkerId;

/// A partition being read in order.
struct Ordered {
    part: OrderedPart,
    salt: u64,
    reader: Box<dyn Reader>,
    log_time: LogTime,
    largest: Option<Largest>,
    /// What the last read returned, until it is time to look again.
    next: Next,
    last_line: LastLine,
    /// Its end when the commit before ended.
    end_before: Option<u64>,
    alignment: Alignment,
    /// Set once it has lost its name.
    rotated: Option<Rotated>,
}

/// A followed file that has lost its name.
struct Rotated {
    /// Its end when it was last looked at.
    end: Option<u64>,
    /// When it lost its name or was last seen to have grown, by the monotonic clock.
    since_us: u64,
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
    /// Blocks finished since the last commit ended.
    finished: Vec<BlockPart>,
    /// Whether the last turn was that of a block. Blocks and partitions take turns.
    blocks_turn: bool,
    worker: WorkerId,
    /// When it last looked for new partitions of topics.
    discovered_us: u64,
    /// What the metrics show of paused partitions.
    aligned: Aligned,
    /// Control records; only the first worker takes them.
    controls: Option<Controls>,
    /// Partitions that have lost their names in this commit: input, name, and what they are called
    /// now.
    rotated: Vec<(usize, String, String)>,
    /// Names of the plan that belong to other partitions now, or to none, by input.
    freed: BTreeSet<(usize, String)>,
    /// Files that have lost their names and were read to their ends, by input.
    ended: BTreeSet<(usize, String)>,
    /// How many files of the plan were truncated, until a commit counts them.
    truncations: u64,
}

/// What one worker read in a commit.
pub(crate) struct Ended {
    /// How far its partitions were read.
    pub(crate) updates: Vec<PartitionUpdate>,
    /// What it counted.
    pub(crate) counters: Counters,
    /// The records that it refused.
    pub(crate) dead: Rows<DeadLetters>,
    /// The first file of control records that it has not taken. `None` but for the first worker.
    pub(crate) control: Option<u64>,
}

/// What a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is more to read now.
    More,
    /// There is nothing to read now.
    Wait,
    /// There will never be anything to read.
    End,
}

impl Partitions {
    /// Opens what the plan gives to `worker`.
    pub(crate) fn new(context: &Context, worker: WorkerId) -> Result<Self, RunError> {
        let start = &context.start;
        let hasher = start.body.hash_key.hasher();
        let first = context.first_commit();
        let Some(tags) = TagRules::of(start.body.rules) else {
            unreachable!("tag rules {}: checked by the takeover", start.body.rules);
        };
        let mut partitions = Self {
            context: context.clone(),
            intake: Intake::new(
                Arc::clone(&context.settings),
                hasher,
                tags,
                Arc::clone(&context.process),
                first,
                context.inputs.len(),
            ),
            ordered: Vec::new(),
            block: None,
            finished: Vec::new(),
            blocks_turn: false,
            worker,
            discovered_us: context.started_us,
            aligned: Aligned::default(),
            controls: worker.is_first().then(|| Controls::new(context)).transpose()?,
            rotated: Vec::new(),
            freed: BTreeSet::new(),
            ended: BTreeSet::new(),
            truncations: 0,
        };
        if worker.is_first() {
            partitions.report_moved();
        }
        for part in &context.plan.ordered {
            if worker.reads(part.share) {
                partitions.open(part.clone())?;
            }
        }
        Ok(partitions)
    }

    fn salt(&self, input: usize) -> u64 {
        let name = &self.context.inputs[input].name;
        self.context.start.body.hash_key.hasher().input_salt(name)
    }

    /// Takes the control records that have arrived, in `commit`.
    pub(crate) fn take_controls(
        &mut self,
        commit: u64,
        batches: &mut PostBatches,
    ) -> Result<(), RunError> {
        let Some(mut controls) = self.controls.take() else { return Ok(()) };
        let taken = controls.take(batches, |order, batches| self.redeliver(order, batches));
        self.controls = Some(controls);
        // Each leaves a row that says what it was.
        self.context.process.budget.hold(commit, taken?);
        Ok(())
    }

    /// Sends the event of a redelivered record, unless it is refused again. Returns whether it was
    /// sent.
    fn redeliver(&mut self, mut order: Order, batches: &mut PostBatches) -> bool {
        let Control::Redeliver { input, partition, position, record, .. } = &mut order.control
        else {
            unreachable!("only redeliveries come here: checked by `Controls::take`");
        };
        let delivered = std::mem::take(record);
        let index = self.context.inputs.iter().position(|known| known.name == *input);
        let wall_ms = self.context.clock.wall_ms();
        let redelivered = match index {
            None => Err("the job reads no such input".to_owned()),
            Some(at) => {
                let input = &self.context.inputs[at];
                let decoded = self.intake.redeliver(input, delivered.as_bytes(), wall_ms);
                decoded.map(|(event, plain)| (event, plain, self.salt(at)))
            }
        };
        match redelivered {
            Ok((event, plain, salt)) => {
                *record = plain;
                let route = Route::Order(Box::new(order));
                self.intake.send(&event, salt, route, batches);
                true
            }
            Err(why) => {
                tracing::warn!(input, partition, position, why, "a record is refused again");
                false
            }
        }
    }

    /// Reads up to `limit` records. Returns how many it read, and what follows.
    pub(crate) fn read(
        &mut self,
        limit: usize,
        batches: &mut PostBatches,
    ) -> Result<(usize, Turn), LogError> {
        if self.block.is_none()
            && let Some(part) = self.context.process.blocks.take()
        {
            let input = &self.context.inputs[part.input];
            let (name, offset) = (&part.partition, part.state.offset);
            let reader = input.log.open_block(name, part.bytes, part.number, offset)?;
            self.block = Some(Block { salt: self.salt(part.input), part, reader });
        }
        self.align()?;
        let is_ready = self.ordered.iter().any(Ordered::is_ready);
        let block = self.block.take_if(|_| !(self.blocks_turn && is_ready));
        self.blocks_turn = block.is_some();
        if let Some(block) = block {
            return Ok((self.read_block(block, limit, batches)?, Turn::More));
        }
        if !is_ready {
            // Nothing had records; look again.
            let waiting = |o: &&mut Ordered| o.next == Next::Wait && !o.alignment.paused;
            for ordered in self.ordered.iter_mut().filter(waiting) {
                ordered.next = Next::More;
            }
        }
        let ready = self.ordered.iter_mut().filter(|o| o.is_ready());
        let Some(ordered) = ready.min_by_key(|o| o.log_time.value_ms()) else {
            return Ok((0, self.turn_without_records()));
        };
        let read = read_ordered(&self.context, &mut self.intake, ordered, limit, batches)?;
        Ok((read, if read == 0 { self.turn_without_records() } else { Turn::More }))
    }

    /// Pauses partitions of topics that run ahead.
    fn align(&mut self) -> Result<(), LogError> {
        let Self { context, ordered, worker, .. } = self;
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
        let aligned = align(
            &mut partitions,
            worker.index(),
            &context.process.low_watermark,
            max_skew_ms,
            now_us,
        );
        if self.aligned != aligned {
            self.aligned = aligned;
            self.context.status.aligned(self.worker.index(), aligned.paused, aligned.silent);
        }
        Ok(())
    }

    /// Whether everything that is there has been read: no block is left, and each partition had
    /// nothing after the records last read of it, or is paused.
    ///
    /// Records that a topic's client has not fetched yet are not there.
    pub(crate) fn are_caught_up(&self) -> bool {
        let blocks = self.block.is_some() || !self.context.process.blocks.is_empty();
        !blocks && !self.ordered.iter().any(Ordered::is_ready)
    }

    /// What follows a turn that read nothing.
    fn turn_without_records(&self) -> Turn {
        let inputs = self.context.read_inputs();
        let is_bounded = inputs.iter().all(|input| input.log.is_bounded());
        let ended = is_bounded && self.ordered.iter().all(|o| o.next == Next::End);
        match self.are_caught_up() {
            false => Turn::More,
            true if ended => Turn::End,
            true => Turn::Wait,
        }
    }

    fn read_block(
        &mut self,
        mut block: Block,
        limit: usize,
        batches: &mut PostBatches,
    ) -> Result<usize, LogError> {
        let decisions = self.context.settings.decisions.as_deref();
        let input = &self.context.inputs[block.part.input];
        let mut feed = Feed {
            input,
            index: block.part.input,
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
            self.intake.take(record, &mut feed, batches);
        })?;
        block.part.state.offset = block.reader.position();
        if next == Next::End {
            block.part.state.done = true;
            self.finished.push(block.part);
        } else {
            self.block = Some(block);
        }
        Ok(read)
    }

    /// Ends `commit`: what was read in it. Records that are read later belong to the next one.
    pub(crate) fn end_commit(&mut self, commit: u64) -> Result<Ended, LogError> {
        let inputs = &self.context.inputs;
        let update = |input: usize, partition: &str, progress| PartitionUpdate {
            commit,
            input: inputs[input].name.clone(),
            partition: partition.to_owned(),
            progress,
        };
        let mut updates = Vec::new();
        for (input, from, to) in self.rotated.drain(..) {
            updates.push(update(input, &from, PartitionProgress::Rotated(to)));
        }
        let (mut lost, mut truncations) = (0, std::mem::take(&mut self.truncations));
        for o in &mut self.ordered {
            lost += o.reader.lost();
            truncations += o.reader.truncations();
            let end = o.reader.end()?;
            let read = o.reader.position();
            let at_end = match o.end_before {
                // Part of a line may be left, for which nobody waits.
                _ if o.rotated.is_some() && o.last_line.waits() => true,
                Some(before) => read >= before,
                None => {
                    (o.next == Next::End || o.last_line.waits())
                        && end.is_none_or(|end| read >= end)
                }
            };
            o.end_before = end;
            if o.next == Next::End && o.reader.goes_on() {
                o.next = Next::More;
            }
            let at_end = o.is_given_up(&self.context, at_end, end) || at_end;
            let state = Partition {
                position: Position::Offset(read),
                begin: o.part.begin,
                log_time: o.log_time.clone(),
                at_end,
                done: o.next == Next::End,
                packed: o.reader.packed(),
                fingerprint: o.reader.fingerprint().or_else(|| o.part.fingerprint.clone()),
                tail: o.reader.tail(),
                former_name: o.part.former_name.clone(),
            };
            let progress = PartitionProgress::Ordered { state, largest: o.largest };
            updates.push(update(o.part.input, &o.part.partition, progress));
        }
        // What is left of them is known to the commit.
        let has_ended = |o: &mut Ordered| o.rotated.is_some() && o.next == Next::End;
        let ended = self.ordered.extract_if(.., has_ended);
        self.ended.extend(ended.map(|o| (o.part.input, o.part.partition)));
        let open = self.block.as_ref().map(|block| block.part.clone());
        for part in self.finished.drain(..).chain(open) {
            let progress = PartitionProgress::Block { number: part.number, state: part.state };
            updates.push(update(part.input, &part.partition, progress));
        }
        let mut counters = std::mem::take(&mut self.intake.counters);
        counters.lost_records += lost;
        counters.truncations += truncations;
        let taken = self.controls.as_mut().map(Controls::close);
        counters.superseded += taken.map_or(0, |(_, superseded)| superseded);
        let control = taken.map(|(next, _)| next);
        self.report_records();
        self.report_troubles();
        Ok(Ended { updates, counters, dead: self.intake.dead.close(), control })
    }

    /// Reports what was refused, and what the first records show of their mapping.
    fn report_records(&mut self) {
        let Context { status, inputs, settings, .. } = &self.context;
        status.refused(std::mem::take(&mut self.intake.reasons));
        for (input, (_, survey)) in inputs.iter().zip(&mut self.intake.surveys) {
            if survey.records() == 0 {
                continue;
            }
            let remarks = status.surveyed(&input.name, &input.decoder, std::mem::take(survey));
            // A run that ends says so at its end.
            for remark in remarks.iter().filter(|_| settings.live) {
                tracing::warn!(input = input.name, "{remark}");
            }
        }
    }

    fn report_troubles(&self) {
        if self.worker.is_first() {
            self.context.inputs.iter().for_each(Input::tell_passed_over);
            let troubles = self.context.inputs.iter().map(|input| input.log.troubles()).sum();
            let blocked = self.context.inputs.iter().map(|input| input.log.blocked()).sum();
            self.context.status.troubles(troubles, blocked);
        }
    }
}

impl Ordered {
    /// Whether it may have records to read, and is not paused.
    fn is_ready(&self) -> bool {
        self.next == Next::More && !self.alignment.paused
    }

    /// Whether it ends with a line that nobody waits for any more.
    fn is_given_up(&mut self, context: &Context, at_end: bool, end: Option<u64>) -> bool {
        let input = &context.inputs[self.part.input];
        let now_us = context.clock.mono_us();
        let is_given_up = !at_end && !input.log.is_topic() && self.last_line.is_given_up(now_us);
        let (position, left) = (self.reader.position(), self.reader.left());
        let line = || Unfinished {
            input: input.name.clone(),
            partition: self.part.partition.clone(),
            position,
            bytes: end.map_or(left, |end| end.saturating_sub(position)),
        };
        self.last_line.tell(is_given_up || left > 0, line, &context.status);
        is_given_up
    }
}

fn read_ordered(
    context: &Context,
    intake: &mut Intake,
    ordered: &mut Ordered,
    limit: usize,
    batches: &mut PostBatches,
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
        index: ordered.part.input,
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
        let stamp_ms = feed.stamp_ms(record);
        if let Some(ts_ms) = intake.take(record, &mut feed, batches) {
            largest = largest.max(Some(stamp_ms.unwrap_or(ts_ms)));
        }
    })?;
    if limit > 0 {
        ordered.alignment.was_read(read, mono_us);
        ordered.last_line.was_read(read, ordered.next, mono_us);
    }
    if let Some(ts) = largest
        && ordered.largest.is_none_or(|known| ts > known.ts_ms)
    {
        ordered.largest = Some(Largest { ts_ms: ts, read_us: mono_us.cast_signed() });
    }
    Ok(read)
}
