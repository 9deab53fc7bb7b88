//! The part of the log that a commit covers, in splits: each is read in order by one worker.
//!
//! Invariant: every record before the commit's positions lies in exactly one split.

use schemas::log_time::LogTime;
use schemas::manifest::{BLOCK_BYTES, Blocks, Body, Partition, Position};
use schemas::rotation::name_before;

use super::{NotSince, ReconcileError};
use crate::sources::{Log, LogError, Next, Reader, Record};
use kafka::TopicError;

/// A part of a partition that is read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// The input's name.
    pub(super) input: String,
    /// The partition.
    pub(super) partition: String,
    /// The number of the block, and the size of its file; `None` for a whole partition.
    pub(super) block: Option<(u64, u64)>,
    /// The first position to read.
    pub(super) begin: u64,
    /// The first position that the commit does not cover.
    pub(super) end: u64,
    /// The partition's log time at `begin`.
    pub(super) log_time: LogTime,
}

/// The splits of a commit, without what `since`, an earlier commit, has read.
pub(super) fn splits(body: &Body, since: Option<&Body>) -> Result<Vec<Split>, NotSince> {
    let mut splits = Vec::new();
    for (input, partitions) in &body.inputs {
        for (partition, state) in partitions {
            let before = since
                .and_then(|since| since.inputs.get(input))
                .and_then(|before| before.get(name_before(partition, partitions, before)?));
            let begins = before.map_or(Ok(Begin::At(state.begin)), |before| {
                begin(before, state).ok_or_else(|| NotSince::OtherWay(partition.clone()))
            })?;
            let log_time = match (&begins, before) {
                (Begin::At(_), Some(before)) => before.log_time.clone(),
                _ => LogTime::default(),
            };
            let mut split = |block: Option<(u64, u64)>, begin, end| {
                let (input, partition) = (input.clone(), partition.clone());
                let log_time = log_time.clone();
                debug_assert!(begin <= end, "{partition} is covered from {begin} to {end}");
                splits.push(Split { input, partition, block, begin, end, log_time });
            };
            match (&state.position, begins) {
                (Position::Offset(end), Begin::At(begin)) => split(None, begin, *end),
                (Position::Blocks(blocks), begins) => {
                    for number in 0..blocks.count() {
                        let first = number * BLOCK_BYTES;
                        let end = (first + BLOCK_BYTES).min(blocks.bytes);
                        let end = match blocks.open.get(&number) {
                            _ if number < blocks.done => end,
                            Some(open) if open.done => end,
                            Some(open) => open.offset,
                            None => continue,
                        };
                        let begin = match begins {
                            Begin::At(begin) => Some(first.max(begin)),
                            Begin::Blocks(before) => unread(before, number, first),
                        };
                        let begin = begin.filter(|begin| *begin < end);
                        let block = Some((number, blocks.bytes));
                        begin.into_iter().for_each(|begin| split(block, begin, end));
                    }
                }
                (Position::Offset(_), Begin::Blocks(_)) => {}
            }
        }
    }
    Ok(splits)
}

/// Where to begin reading a partition.
#[derive(Clone, Copy)]
enum Begin<'b> {
    /// At a position.
    At(u64),
    /// After what has been read of these blocks.
    Blocks(&'b Blocks),
}

/// Where to continue a partition that an earlier commit has read to `before`; `None` if the
/// partition is now read in another way, so that it is not known.
fn begin<'b>(before: &'b Partition, now: &Partition) -> Option<Begin<'b>> {
    match (&before.position, &now.position) {
        (Position::Offset(end), Position::Offset(_)) => Some(Begin::At(*end)),
        (Position::Blocks(blocks), Position::Offset(_)) if blocks.are_done() => {
            Some(Begin::At(blocks.bytes))
        }
        // The file has grown, and with it the block that was its last.
        (Position::Blocks(blocks), Position::Blocks(_)) => Some(Begin::Blocks(blocks)),
        _ => None,
    }
}

/// Where to continue block `number`, which begins at `first`; `None` if it was read to its end.
fn unread(before: &Blocks, number: u64, first: u64) -> Option<u64> {
    let done = match before.open.get(&number) {
        Some(open) if !open.done => return Some(open.offset),
        open => open.is_some() || number < before.done,
    };
    let whole = first + BLOCK_BYTES;
    if done { Some(before.bytes).filter(|end| *end < whole) } else { Some(first) }
}

impl Split {
    /// Opens the split for reading.
    pub(super) fn open(&self, log: &dyn Log) -> Result<Box<dyn Reader>, ReconcileError> {
        let opened = match self.block {
            None => log.open_part(0, &self.partition, self.begin, self.end),
            Some((number, bytes)) => log.open_block(&self.partition, bytes, number, self.begin),
        };
        opened.map_err(|error| self.error(error))
    }

    /// Reads at most `limit` records; returns whether there are more.
    pub(super) fn read(
        &self,
        reader: &mut dyn Reader,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<bool, ReconcileError> {
        if self.block.is_none() && reader.position() >= self.end {
            return Ok(false);
        }
        let next = reader.read(limit, &mut |record| {
            if self.is_covered(record.position) {
                each(record);
            }
        });
        let next = next.map_err(|error| self.error(error))?;
        let position = reader.position();
        if position < self.end && next == Next::End {
            let (partition, end) = (self.partition.clone(), position);
            return Err(ReconcileError::Short { partition, end, position: self.end });
        }
        let done = if self.block.is_none() { position >= self.end } else { next == Next::End };
        Ok(!done)
    }

    /// What an error of the log means to a check.
    fn error(&self, error: LogError) -> ReconcileError {
        match error {
            LogError::Topic(TopicError::Lost { to, .. }) => ReconcileError::Overtaken {
                partition: self.partition.clone(),
                begins: to + 1,
                from: self.begin,
            },
            error => error.into(),
        }
    }

    /// A block's reader goes past its end, to the end of the last record that begins in it.
    fn is_covered(&self, position: u64) -> bool {
        position < self.end
    }
}
