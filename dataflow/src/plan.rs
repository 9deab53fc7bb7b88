//! What there is to read when a job starts: the partitions that exist, and how far the newest
//! commit has read them.
//!
//! Invariant: every record is read once, whether its file is read in order or by blocks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use schemas::log_time::LogTime;
use schemas::manifest::{BLOCK_BYTES, Block, Blocks, Fingerprint, Partition, Position};

use crate::records::Inputs;
use crate::settings::Input;
use crate::sources::{Discovered, LogError, Moved, Shape};

/// A partition that one worker reads in order.
#[derive(Clone, Debug)]
pub(crate) struct OrderedPart {
    /// Index of its input.
    pub(crate) input: usize,
    /// Its name in the input.
    pub(crate) partition: String,
    /// Decides which worker reads it.
    pub(crate) share: u64,
    /// Where reading continues.
    pub(crate) offset: u64,
    /// The log time up to there.
    pub(crate) log_time: LogTime,
    /// The first position that counts.
    pub(crate) begin: u64,
    /// What to recognize it by.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The name it has lost, if it was rotated.
    pub(crate) former_name: Option<String>,
}

/// What a job will read.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Partitions to read in order.
    pub(crate) ordered: Vec<OrderedPart>,
    /// All partitions, as they are before anything is read.
    pub(crate) inputs: Inputs,
    /// Files that are no longer under the names that the commit has them under.
    pub(crate) moved: Vec<Moved>,
    /// Last lines that are left for the next run, since they are not whole.
    pub(crate) unfinished: Vec<Unfinished>,
}

/// A last line that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// Its input.
    pub(crate) input: String,
    /// Its partition.
    pub(crate) partition: String,
    /// Where it begins.
    pub(crate) position: u64,
    /// How long it is now.
    pub(crate) bytes: u64,
}

impl Plan {
    /// Finds the partitions of `inputs` and continues those that are `known`. Files that are read
    /// block by block come beside the plan, since workers take their blocks as they go.
    pub(crate) fn new(inputs: &[Input], known: &Inputs) -> Result<(Self, BlockQueue), LogError> {
        let mut plan = Self { inputs: known.clone(), ..Self::default() };
        let mut files = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let states = plan.inputs.entry(input.name.clone()).or_default();
            let moved = input.log.locate(states, false)?;
            moved.iter().for_each(|moved| moved.apply(states));
            plan.moved.extend(moved);
            let discovered = input.log.discover()?;
            let is_new = states.is_empty();
            end_missing(input, &discovered, states)?;
            for found in discovered {
                let state = match resume_or_begin(input, &found.partition, is_new, states) {
                    // It is discovered again once it is complete.
                    Err(LogError::Arriving(_)) => continue,
                    state => state?,
                };
                let size = input.log.size(&found.partition)?;
                plan.unfinished.extend(unfinished(input, &found, size));
                match &found.shape {
                    Shape::Ordered { bytes } => {
                        check_size(&found.partition, state, size.max(*bytes))?;
                        let offset = continue_in_order(&found.partition, state)?;
                        let grown = bytes.is_some_and(|bytes| bytes > offset);
                        let knows_more = bytes.is_some() || input.log.is_topic();
                        let grows = !input.log.is_bounded() && knows_more;
                        let packed = input.log.packed(&found.partition)?;
                        let regrown = state.packed > 0 && packed > state.packed;
                        if !state.done || grown || grows || regrown {
                            state.done = false;
                            plan.ordered.push(ordered(index, found, offset, state));
                        }
                    }
                    Shape::Blocks { bytes, fingerprint, tail } => {
                        check_size(&found.partition, state, size.max(Some(*bytes)))?;
                        state.fingerprint = Some(fingerprint.clone());
                        state.tail = Some(tail.clone());
                        let blocks = continue_blocks(state, *bytes);
                        state.done = blocks.are_done();
                        state.position = Position::Blocks(blocks.clone());
                        files.push(FileBlocks::new(index, found.partition, &blocks));
                    }
                }
            }
        }
        Ok((plan, BlockQueue { files: Mutex::new(files) }))
    }
}

/// The last line of a bounded file of `size` bytes that is left for the next run, if one is.
fn unfinished(input: &Input, found: &Discovered, size: Option<u64>) -> Option<Unfinished> {
    let (Shape::Ordered { bytes: Some(end) } | Shape::Blocks { bytes: end, .. }) = &found.shape
    else {
        return None;
    };
    let bytes = size.filter(|_| input.log.is_bounded())?.checked_sub(*end).filter(|n| *n > 0)?;
    let (input, partition) = (input.name.clone(), found.partition.clone());
    Some(Unfinished { input, partition, position: *end, bytes })
}

/// Ends the partitions that no longer exist, unless that means that records are lost.
fn end_missing(
    input: &Input,
    discovered: &[Discovered],
    states: &mut BTreeMap<String, Partition>,
) -> Result<(), LogError> {
    for (name, state) in states {
        if discovered.iter().any(|found| found.partition == *name) {
            continue;
        }
        if let Some(error) = input.log.missing(name) {
            return Err(error);
        }
        if state.done {
            continue;
        }
        if input.log.is_bounded() && input.log.is_repeatable() {
            return Err(LogError::Gone(name.clone()));
        }
        if input.log.is_repeatable() {
            tracing::warn!(
                partition = name,
                "an input partition is gone; lines that were not read of it are missing"
            );
        }
        state.done = true;
    }
    Ok(())
}

/// The state of a partition: checked if it is known, else at its beginning. `is_new`: no partition
/// of the input is known.
fn resume_or_begin<'s>(
    input: &Input,
    partition: &str,
    is_new: bool,
    states: &'s mut BTreeMap<String, Partition>,
) -> Result<&'s mut Partition, LogError> {
    Ok(match states.entry(partition.to_owned()) {
        Entry::Occupied(known) => {
            input.log.resume(partition, known.get())?;
            known.into_mut()
        }
        Entry::Vacant(new) => {
            let begin = input.log.beginning(partition, is_new)?;
            let position = Position::Offset(begin);
            let former_name = input.log.former_name(partition);
            new.insert(Partition { position, begin, former_name, ..Partition::default() })
        }
    })
}

/// Where a partition continues in order. A file that was read by blocks continues after them all.
fn continue_in_order(name: &str, state: &mut Partition) -> Result<u64, LogError> {
    let offset = match &state.position {
        Position::Offset(offset) => *offset,
        Position::Blocks(blocks) if blocks.are_done() => blocks.bytes,
        Position::Blocks(_) => return Err(LogError::ResumedInOrder(name.to_owned())),
    };
    state.position = Position::Offset(offset);
    Ok(offset)
}

fn ordered(input: usize, found: Discovered, offset: u64, state: &Partition) -> OrderedPart {
    let Discovered { partition, share, .. } = found;
    OrderedPart {
        input,
        partition,
        share,
        offset,
        log_time: state.log_time.clone(),
        begin: state.begin,
        fingerprint: state.fingerprint.clone(),
        former_name: state.former_name.clone(),
    }
}

/// Fails if a partition has only `bytes` bytes, and more were read.
fn check_size(name: &str, state: &Partition, bytes: Option<u64>) -> Result<(), LogError> {
    let Some(bytes) = bytes else { return Ok(()) };
    let read = match &state.position {
        Position::Blocks(blocks) => blocks.bytes,
        Position::Offset(read) => *read,
    };
    if bytes < read {
        return Err(LogError::Shorter { file: name.to_owned(), bytes, read });
    }
    Ok(())
}

/// The blocks of a file whose whole records end at `bytes` now. If it has grown, the new bytes
/// begin in its former last block, which is opened again at the former end.
fn continue_blocks(state: &Partition, bytes: u64) -> Blocks {
    let mut blocks = match &state.position {
        Position::Blocks(blocks) => blocks.clone(),
        // Read in order so far: the blocks before the offset are done.
        Position::Offset(read) => {
            Blocks { bytes: *read, done: read.div_ceil(BLOCK_BYTES), ..Blocks::default() }
        }
    };
    let before = blocks.bytes;
    // Builds before this one took the beginning of a line for a record.
    let bytes = bytes.max(before);
    let last = before / BLOCK_BYTES;
    if bytes > before && !before.is_multiple_of(BLOCK_BYTES) {
        if last < blocks.done {
            blocks.done = last;
            blocks.open.insert(last, Block { offset: before, ..Block::default() });
        } else if let Some(block) = blocks.open.get_mut(&last).filter(|b| b.done) {
            (block.done, block.offset) = (false, before);
        }
    }
    blocks.bytes = bytes;
    blocks
}

/// A block for one worker to read.
#[derive(Clone, Debug)]
pub(crate) struct BlockPart {
    /// Index of its input.
    pub(crate) input: usize,
    /// Its file.
    pub(crate) partition: String,
    /// The size of the file.
    pub(crate) bytes: u64,
    /// Its number.
    pub(crate) number: u64,
    /// How far it has been read.
    pub(crate) state: Block,
}

/// The blocks of a file that no worker has taken yet.
#[derive(Debug)]
struct FileBlocks {
    input: usize,
    partition: String,
    bytes: u64,
    count: u64,
    waiting: VecDeque<(u64, Block)>,
}

impl FileBlocks {
    fn new(input: usize, partition: String, blocks: &Blocks) -> Self {
        let fresh = |number| Block { offset: number * BLOCK_BYTES, ..Block::default() };
        let state = |number| blocks.open.get(&number).cloned().unwrap_or_else(|| fresh(number));
        let all = (blocks.done..blocks.count()).map(|number| (number, state(number)));
        let waiting = all.filter(|(_, block)| !block.done).collect();
        Self { input, partition, bytes: blocks.bytes, count: blocks.count(), waiting }
    }

    /// The fraction that has been taken, from 0 to 1.
    fn taken(&self) -> f64 {
        debug_assert!(self.waiting.len() as u64 <= self.count, "more blocks than the file has");
        1.0 - self.waiting.len() as f64 / self.count.max(1) as f64
    }
}

/// The blocks of all files, shared by the workers of a process.
#[derive(Debug, Default)]
pub(crate) struct BlockQueue {
    files: Mutex<Vec<FileBlocks>>,
}

impl BlockQueue {
    /// Takes the next block of the least advanced file.
    pub(crate) fn take(&self) -> Option<BlockPart> {
        let mut files = self.files.lock();
        let waiting = files.iter_mut().filter(|file| !file.waiting.is_empty());
        let file = waiting.min_by(|a, b| a.taken().total_cmp(&b.taken()))?;
        let (number, state) = file.waiting.pop_front()?;
        let FileBlocks { input, bytes, ref partition, .. } = *file;
        Some(BlockPart { input, partition: partition.clone(), bytes, number, state })
    }

    /// Whether every block has been taken.
    pub(crate) fn is_empty(&self) -> bool {
        let files = self.files.lock();
        files.iter().all(|file| file.waiting.is_empty())
    }
}

/// How many bytes of files that are read by blocks have been read, and how many there are.
pub(crate) fn bytes_read(inputs: &BTreeMap<String, BTreeMap<String, Partition>>) -> (u64, u64) {
    let mut sum = (0, 0);
    for partition in inputs.values().flat_map(BTreeMap::values) {
        if let Position::Blocks(blocks) = &partition.position {
            let open: u64 = blocks
                .open
                .iter()
                .map(|(number, b)| b.offset.saturating_sub(number * BLOCK_BYTES))
                .sum();
            sum.0 += (blocks.done * BLOCK_BYTES + open).min(blocks.bytes);
            sum.1 += blocks.bytes;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_advanced_file_is_read_next() {
        let blocks = |n: u64| Blocks { bytes: n * BLOCK_BYTES, ..Blocks::default() };
        let files = vec![
            FileBlocks::new(0, "a".into(), &blocks(2)),
            FileBlocks::new(0, "b".into(), &blocks(4)),
        ];
        let queue = BlockQueue { files: Mutex::new(files) };
        let order: Vec<_> =
            std::iter::from_fn(|| queue.take()).map(|b| (b.partition, b.number)).collect();
        let want = [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("b", 3)];
        assert_eq!(order, want.map(|(file, number)| (file.to_owned(), number)));
        assert!(queue.is_empty());
    }

    #[test]
    fn file_changes_between_blocks_and_order_without_gap_or_overlap() {
        let at = |position| Partition { position, ..Partition::default() };
        let read = 2 * BLOCK_BYTES + 10;
        let blocks = continue_blocks(&at(Position::Offset(read)), read + BLOCK_BYTES);
        let waiting = FileBlocks::new(0, "a".into(), &blocks).waiting;
        let offsets: Vec<_> = waiting.iter().map(|(n, b)| (*n, b.offset)).collect();
        assert_eq!(offsets, [(2, read), (3, 3 * BLOCK_BYTES)]);
        assert!(continue_blocks(&at(Position::Offset(read)), read).are_done());
        let shrunk = continue_blocks(&at(Position::Offset(read)), read - 5);
        assert!(shrunk.are_done(), "what was read stays read");
        assert_eq!(shrunk.bytes, read);

        let done = Blocks { bytes: read, done: 3, ..Blocks::default() };
        let mut all = at(Position::Blocks(done.clone()));
        assert_eq!(continue_in_order("a", &mut all).unwrap(), read);
        let mut half = at(Position::Blocks(Blocks { done: 2, ..done }));
        assert!(matches!(continue_in_order("a", &mut half), Err(LogError::ResumedInOrder(_))));
    }

    #[test]
    fn file_continues_in_open_blocks_and_after_its_former_end() {
        let block = Block { offset: BLOCK_BYTES + 77, ..Block::default() };
        let position = Position::Blocks(Blocks {
            bytes: 2 * BLOCK_BYTES + 10,
            done: 1,
            open: [(1, block), (2, Block { done: true, ..Block::default() })].into(),
        });
        let state = Partition { position, ..Partition::default() };
        let same = continue_blocks(&state, 2 * BLOCK_BYTES + 10);
        let waiting = FileBlocks::new(0, "a".into(), &same).waiting;
        assert_eq!(
            waiting.iter().map(|(n, b)| (*n, b.offset)).collect::<Vec<_>>(),
            [(1, BLOCK_BYTES + 77)]
        );
        let grown = continue_blocks(&state, 3 * BLOCK_BYTES + 1);
        let waiting = FileBlocks::new(0, "a".into(), &grown).waiting;
        let offsets: Vec<_> = waiting.iter().map(|(n, b)| (*n, b.offset)).collect();
        assert_eq!(
            offsets,
            [(1, BLOCK_BYTES + 77), (2, 2 * BLOCK_BYTES + 10), (3, 3 * BLOCK_BYTES)]
        );
    }
}
