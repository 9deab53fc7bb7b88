//! What of the log a commit covers: pieces of partitions, each read in order by one worker.
//!
//! Invariant: every record before the commit's positions lies in exactly one piece.

use schemas::manifest::{BLOCK_BYTES, Body, Position};

use super::ReconcileError;
use crate::log::kafka::TopicError;
use crate::log::{Log, LogError, Next, Reader, Record};

/// A part of a partition that is read in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The input's name.
    pub(super) input: String,
    /// The partition's identity.
    pub(super) partition: String,
    /// The block it is, of a file of so many bytes; none for a whole partition.
    pub(super) block: Option<(u64, u64)>,
    /// The first position that the commit counts.
    pub(super) begin: u64,
    /// The first position that the commit does not cover.
    pub(super) end: u64,
}

/// The pieces of a commit.
pub(super) fn pieces(body: &Body) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (input, partitions) in &body.inputs {
        for (partition, state) in partitions {
            let mut piece = |block: Option<(u64, u64)>, end| {
                let (input, partition) = (input.clone(), partition.clone());
                let first = block.map_or(0, |(number, _)| number * BLOCK_BYTES);
                let begin = first.max(state.begin);
                pieces.push(Piece { input, partition, block, begin, end });
            };
            match &state.position {
                Position::Offset(end) => piece(None, *end),
                Position::Blocks(blocks) => {
                    for number in state.begin / BLOCK_BYTES..blocks.count() {
                        let end = ((number + 1) * BLOCK_BYTES).min(blocks.bytes);
                        let block = Some((number, blocks.bytes));
                        match blocks.open.get(&number) {
                            _ if number < blocks.done => piece(block, end),
                            Some(open) if open.done => piece(block, end),
                            Some(open) => piece(block, open.offset),
                            None => {}
                        }
                    }
                }
            }
        }
    }
    pieces
}

impl Piece {
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
