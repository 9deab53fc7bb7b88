//! What of the log a commit covers: splits of partitions, each read in order by one worker.
//!
//! Invariant: every record before the commit's positions lies in exactly one split.

use schemas::log_time::LogTime;
use schemas::manifest::{BLOCK_BYTES, Blocks, Body, Partition, Position};

use super::ReconcileError;
use crate::sources::{Log, LogError, Next, Reader, Record};
use kafka::TopicError;

/// A part of a partition that is read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// The input's name.
    pub(super) input: String,
    /// The partition's identity.
    pub(super) partition: String,
    /// The block it is, of a file of so many bytes; none for a whole partition.
    pub(super) block: Option<(u64, u64)>,
    /// The first position to read.
    pub(super) begin: u64,
    /// The first position that the commit does not cover.
    pub(super) end: u64,
    /// The partition's log time there.
    pub(super) log_time: LogTime,
}

/// The splits of a commit; those that `since`, an earlier one, has not read.
pub(super) fn splits(body: &Body, since: Option<&Body>) -> Result<Vec<Split>, String> {
    let mut splits = Vec::new();
    for (input, partitions) in &body.inputs {
        for (partition, state) in partitions {
            let before = since.and_then(|since| since.inputs.get(input)?.get(partition));
            let begins = before.map_or(Ok(Begin::At(state.begin)), |before| {
                begin(before, state).ok_or_else(|| format!("{partition} was read in another way"))
            })?;
            let log_time = match (&begins, before) {
                (Begin::At(_), Some(before)) => before.log_time.clone(),
                _ => LogTime::default(),
            };
            let mut split = |block: Option<(u64, u64)>, begin, end| {
                let (input, partition) = (input.clone(), partition.clone());
                let log_time = log_time.clone();
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

/// Where what is to be read of a partition begins.
#[derive(Clone, Copy)]
enum Begin<'b> {
    /// At a position.
    At(u64),
    /// Behind what of these blocks has been read.
    Blocks(&'b Blocks),
}

/// Where a partition goes on that an earlier commit has read to `before`; none where that cannot be
/// told, since it is read in another way by now.
fn begin<'b>(before: &'b Partition, now: &Partition) -> Option<Begin<'b>> {
    match (&before.position, &now.position) {
        (Position::Offset(end), Position::Offset(_)) => Some(Begin::At(*end)),
        (Position::Blocks(blocks), Position::Offset(_)) if blocks.are_done() => {
            Some(Begin::At(blocks.bytes))
        }
        // A file that has grown: its last block is longer by now, and is read on.
        (Position::Blocks(blocks), Position::Blocks(_)) => Some(Begin::Blocks(blocks)),
        _ => None,
    }
}

/// Where block `number`, which begins at `first`, goes on; none where all of it had been read.
fn unread(before: &Blocks, number: u64, first: u64) -> Option<u64> {
    let done = match before.open.get(&number) {
        Some(open) if !open.done => return Some(open.offset),
        open => open.is_some() || number < before.done,
    };
    let whole = first + BLOCK_BYTES;
    if done { Some(before.bytes).filter(|end| *end < whole) } else { Some(first) }
}

impl Split {
    /// Opens it.
    pub(super) fn open(&self, log: &dyn Log) -> Result<Box<dyn Reader>, ReconcileError> {
        let opened = match self.block {
            None => log.open(&self.partition, self.begin),
            Some((number, bytes)) => log.open_block(&self.partition, bytes, number, self.begin),
        };
        opened.map_err(|error| self.told(error))
    }

    /// Reads at most `limit` records; whether there is more.
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
        let next = next.map_err(|error| self.told(error))?;
        let position = reader.position();
        if position < self.end && next == Next::End {
            let (partition, end) = (self.partition.clone(), position);
            return Err(ReconcileError::Short { partition, end, position: self.end });
        }
        let done = if self.block.is_none() { position >= self.end } else { next == Next::End };
        Ok(!done)
    }

    /// What an error of its log means to a check.
    fn told(&self, error: LogError) -> ReconcileError {
        match error {
            LogError::Topic(TopicError::Lost { to, .. }) => ReconcileError::Overtaken {
                partition: self.partition.clone(),
                begins: to + 1,
                from: self.begin,
            },
            error => error.into(),
        }
    }

    /// A block's last record may end behind it, and an open one is covered up to its offset.
    fn is_covered(&self, position: u64) -> bool {
        position < self.end
    }
}
