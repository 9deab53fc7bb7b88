//! Segments: immutable Arrow IPC files with the rows of one table, sorted by key hash.
//!
//! Segments are read in place: columns point into the bytes of the file. Any Arrow tool can read
//! them. Invariant: keys ascend within a segment, and none occurs twice; a batch has at most
//! [`BATCH_ROWS`] rows and [`BATCH_BYTES`] bytes of texts, or one row. Bytes that are not a valid
//! segment give an error, never a panic.

use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::root_as_footer;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Schema};
use arrow_select::interleave::interleave_record_batch;
use bytes::Bytes;

pub use self::batches::{BATCH_BYTES, BATCH_ROWS};
use self::batches::{LIMITS, Limits, TextSizes, assert_addressable};
pub use self::format::SegmentError;
use self::format::schema_of;
pub use self::rows::{Rows, SealedRows};
use crate::hash::KeyHash;
use crate::planted::{Bug, planted};
use crate::rows::Table;

mod batches;
mod format;
mod rows;

struct Batch<T: Table> {
    hi: ScalarBuffer<u64>,
    lo: ScalarBuffer<u64>,
    columns: T::Columns,
    record: RecordBatch,
}

impl<T: Table> Batch<T> {
    fn hash(&self, i: usize) -> KeyHash {
        KeyHash { hi: self.hi[i], lo: self.lo[i] }
    }
}

/// Checks that the buffers of a record batch lie inside its bytes, and that offset buffers hold
/// whole offsets. The decoder relies on both.
fn check_message(bytes: &[u8], metadata: i32, schema: &Schema) -> Result<(), SegmentError> {
    let metadata = usize::try_from(metadata).map_err(|_| SegmentError::Bounds)?;
    let (head, body) = bytes.split_at_checked(metadata).ok_or(SegmentError::Bounds)?;
    // A message begins with its length, after a marker of four 0xff in all but the oldest files.
    let skip = if head.starts_with(&[0xff; 4]) { 8 } else { 4 };
    let message = head.get(skip..).and_then(|m| arrow_ipc::root_as_message(m).ok());
    let batch = message.as_ref().and_then(arrow_ipc::Message::header_as_record_batch);
    let batch = batch.filter(|b| b.length() >= 0).ok_or(SegmentError::Bounds)?;
    let inside = |offset: i64, length: i64| {
        let end = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        end.and_then(|(o, l)| o.checked_add(l)).is_some_and(|end| end <= body.len())
    };
    let mut buffers = batch.buffers().into_iter().flatten();
    let buffers_fit = buffers.clone().all(|b| inside(b.offset(), b.length()));
    // A column has a buffer of nulls, one of values or offsets and, after offsets, one of bytes.
    let offsets_fit = schema.fields().iter().all(|field| match field.data_type() {
        DataType::Utf8 | DataType::Binary => {
            buffers.nth(1).is_some_and(|b| b.length() % 4 == 0) && buffers.next().is_some()
        }
        _ => buffers.nth(1).is_some(),
    });
    if buffers_fit && offsets_fit { Ok(()) } else { Err(SegmentError::Bounds) }
}

/// An open segment.
pub struct Segment<T: Table> {
    batches: Vec<Batch<T>>,
    rows: usize,
}

impl<T: Table> Segment<T> {
    /// Opens a segment, without copying its bytes if they are aligned.
    pub fn open(bytes: Bytes) -> Result<Self, SegmentError> {
        let buffer = Buffer::from(bytes);
        let size = buffer.len();
        let tail = size.checked_sub(10).ok_or(SegmentError::Bounds)?;
        let trailer: [u8; 10] = buffer[tail..].try_into().map_err(|_| SegmentError::Bounds)?;
        let footer_bytes = read_footer_length(trailer)?;
        let start = tail.checked_sub(footer_bytes).ok_or(SegmentError::Bounds)?;
        let footer = root_as_footer(&buffer[start..tail]).map_err(|_| SegmentError::Bounds)?;
        let schema = try_fb_to_schema(footer.schema().ok_or(SegmentError::Schema)?)?;
        let expected = schema_of::<T>();
        let lacking = expected.fields().len().checked_sub(schema.fields().len());
        let lacking = lacking.filter(|lacking| *lacking <= T::added(0).len());
        let is_known = schema.fields().iter().zip(expected.fields()).all(|(is, want)| is == want);
        let lacking = lacking.filter(|_| is_known).ok_or(SegmentError::Schema)?;
        let stored = Arc::new(schema);
        let decoder = FileDecoder::new(Arc::clone(&stored), footer.version());
        let mut segment = Self { batches: Vec::new(), rows: 0 };
        for block in footer.recordBatches().into_iter().flatten() {
            let offset = usize::try_from(block.offset()).map_err(|_| SegmentError::Bounds)?;
            let length = usize::try_from(block.bodyLength() + i64::from(block.metaDataLength()))
                .map_err(|_| SegmentError::Bounds)?;
            if offset.checked_add(length).is_none_or(|end| end > start) {
                return Err(SegmentError::Bounds);
            }
            let bytes = buffer.slice_with_length(offset, length);
            check_message(&bytes, block.metaDataLength(), &stored)?;
            let Some(record) = decoder.read_record_batch(block, &bytes)? else { continue };
            let added = T::added(record.num_rows());
            let added = added.iter().skip(added.len() - lacking).cloned();
            let columns = record.columns().iter().cloned().chain(added).collect();
            segment.push(RecordBatch::try_new(Arc::clone(&expected), columns)?)?;
        }
        Ok(segment)
    }

    fn push(&mut self, record: RecordBatch) -> Result<(), SegmentError> {
        if record.num_rows() == 0 {
            return Ok(());
        }
        let words = |i: usize| record.column(i).as_primitive_opt::<UInt64Type>();
        let hi = words(0).ok_or(SegmentError::Schema)?.values().clone();
        let lo = words(1).ok_or(SegmentError::Schema)?.values().clone();
        self.rows += record.num_rows();
        self.batches.push(Batch { hi, lo, columns: T::columns(&record), record });
        Ok(())
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The row of a key, found by binary search.
    pub fn get(&self, hash: KeyHash) -> Option<T::Row<'_>> {
        let index = self.batches.partition_point(|b| b.hash(0) <= hash).checked_sub(1)?;
        let batch = &self.batches[index];
        let mut i = batch.hi.partition_point(|hi| *hi < hash.hi);
        while batch.hi.get(i) == Some(&hash.hi) {
            if batch.lo[i] == hash.lo {
                return Some(T::row(&batch.columns, hash, i));
            }
            i += 1;
        }
        None
    }

    /// Every row with its key, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, T::Row<'_>)> {
        self.batches.iter().flat_map(|batch| {
            (0..batch.hi.len()).map(move |i| {
                let hash = batch.hash(i);
                (hash, T::row(&batch.columns, hash, i))
            })
        })
    }

    /// The rows of one bin, in key order.
    pub fn bin(&self, bin: u64) -> impl Iterator<Item = (KeyHash, T::Row<'_>)> {
        let first = self.batches.partition_point(|b| b.hash(b.hi.len() - 1).bin() < bin);
        let here = self.batches[first..].iter().take_while(move |b| b.hash(0).bin() <= bin);
        here.flat_map(move |batch| {
            let bin_of = |hi: u64| KeyHash { hi, lo: 0 }.bin();
            let rows = batch.hi.partition_point(|hi| bin_of(*hi) < bin)
                ..batch.hi.partition_point(|hi| bin_of(*hi) <= bin);
            rows.map(move |i| {
                let hash = batch.hash(i);
                (hash, T::row(&batch.columns, hash, i))
            })
        })
    }

    /// Every key, in order.
    pub fn hashes(&self) -> impl Iterator<Item = KeyHash> + '_ {
        self.batches.iter().flat_map(|batch| (0..batch.hi.len()).map(move |i| batch.hash(i)))
    }
}

/// A position in a segment.
#[derive(Clone, Copy)]
struct Cursor {
    batch: usize,
    row: usize,
}

/// Iterates over the rows of several segments of one table in key order, the newest row of each
/// key.
pub struct Merge<'s, T: Table> {
    /// From the oldest to the newest.
    segments: Vec<&'s Segment<T>>,
    cursors: Vec<Cursor>,
    limits: Limits,
}

/// A row in one of several segments.
#[derive(Clone, Copy)]
struct RowIndex {
    segment: usize,
    cursor: Cursor,
}

impl<'s, T: Table> Merge<'s, T> {
    /// Merges `segments`, ordered from the oldest to the newest.
    pub fn new(segments: Vec<&'s Segment<T>>) -> Self {
        let cursors = vec![Cursor { batch: 0, row: 0 }; segments.len()];
        Self { segments, cursors, limits: LIMITS }
    }

    /// Only the rows with keys greater than `key`.
    #[must_use]
    pub fn after(self, key: KeyHash) -> Self {
        self.skip_to(key.hi, |hash| hash <= key)
    }

    /// Only the rows of one bin.
    pub fn bin(self, bin: u64) -> impl Iterator<Item = (KeyHash, T::Row<'s>)> {
        let first = KeyHash::first_of_bin(bin);
        self.skip_to(first.hi, |hash| hash < first).take_while(move |(hash, _)| hash.bin() == bin)
    }

    /// Skips the keys for which `is_before` holds: all with a high word below `hi`, and some of
    /// those with that word.
    fn skip_to(mut self, hi: u64, is_before: impl Fn(KeyHash) -> bool) -> Self {
        for (segment, cursor) in self.segments.iter().zip(&mut self.cursors) {
            let batch = segment.batches.partition_point(|b| is_before(b.hash(b.hi.len() - 1)));
            let row = segment.batches.get(batch).map_or(0, |b| {
                let mut row = b.hi.partition_point(|other| *other < hi);
                while is_before(b.hash(row)) {
                    row += 1;
                }
                row
            });
            *cursor = Cursor { batch, row };
        }
        self
    }

    fn peek(&self, segment: usize) -> Option<KeyHash> {
        let cursor = self.cursors[segment];
        self.segments[segment].batches.get(cursor.batch).map(|batch| batch.hash(cursor.row))
    }

    fn advance(&mut self, segment: usize) {
        let cursor = &mut self.cursors[segment];
        cursor.row += 1;
        if cursor.row == self.segments[segment].batches[cursor.batch].hi.len() {
            *cursor = Cursor { batch: cursor.batch + 1, row: 0 };
        }
    }

    fn next_index(&mut self) -> Option<(KeyHash, RowIndex)> {
        let mut least: Option<(KeyHash, usize)> = None;
        for segment in 0..self.segments.len() {
            if let Some(hash) = self.peek(segment)
                && least.is_none_or(|(found, _)| hash <= found)
            {
                // Skip an older row of the same key: the later segment wins, or hardly ever not.
                if let Some((found, older)) = least
                    && found == hash
                {
                    let row = |segment: usize| {
                        self.row(hash, RowIndex { segment, cursor: self.cursors[segment] })
                    };
                    let outlives = T::OUTLIVES.is_some_and(|is| is(&row(older), &row(segment)));
                    if outlives || planted(Bug::MergeKeepsOlder) {
                        self.advance(segment);
                        continue;
                    }
                    self.advance(older);
                }
                least = Some((hash, segment));
            }
        }
        let (hash, segment) = least?;
        let cursor = self.cursors[segment];
        self.advance(segment);
        Some((hash, RowIndex { segment, cursor }))
    }

    fn row(&self, hash: KeyHash, index: RowIndex) -> T::Row<'s> {
        let batch = &self.segments[index.segment].batches[index.cursor.batch];
        T::row(&batch.columns, hash, index.cursor.row)
    }

    /// Writes one segment with the newest row of every key, except those that expired before
    /// `floor_hour`. Returns the number of rows written.
    pub fn encode(mut self, floor_hour: u32, out: impl Write) -> Result<usize, SegmentError> {
        let mut writer = FileWriter::try_new(out, &schema_of::<T>())?;
        // The index of each segment's first batch among all batches.
        let bases: Vec<usize> = self
            .segments
            .iter()
            .scan(0, |next, segment| {
                let base = *next;
                *next += segment.batches.len();
                Some(base)
            })
            .collect();
        let all: Vec<&RecordBatch> =
            self.segments.iter().flat_map(|s| s.batches.iter().map(|b| &b.record)).collect();
        let sizes: Vec<TextSizes> = all.iter().map(|record| TextSizes::of(record)).collect();
        let (mut rows, mut bytes, mut chunk) = (0, 0, Vec::new());
        loop {
            let next = self.next_index();
            let kept = next.filter(|(hash, index)| {
                T::expires(&self.row(*hash, *index)).is_none_or(|hour| hour >= floor_hour)
            });
            let kept = kept.map(|(_, index)| {
                let batch = bases[index.segment] + index.cursor.batch;
                (sizes[batch].of_row(index.cursor.row), (batch, index.cursor.row))
            });
            let fits = kept.is_none_or(|(size, _)| self.limits.has_room(chunk.len(), bytes, size));
            if !chunk.is_empty() && (next.is_none() || !fits) {
                assert_addressable(bytes);
                writer.write(&interleave_record_batch(&all, &chunk)?)?;
                rows += chunk.len();
                (bytes, chunk) = (0, Vec::new());
            }
            if let Some((size, place)) = kept {
                bytes += size;
                chunk.push(place);
            }
            if next.is_none() {
                writer.finish()?;
                return Ok(rows);
            }
        }
    }
}

impl<'s, T: Table> Iterator for Merge<'s, T> {
    type Item = (KeyHash, T::Row<'s>);

    fn next(&mut self) -> Option<Self::Item> {
        let (hash, index) = self.next_index()?;
        Some((hash, self.row(hash, index)))
    }
}

#[cfg(test)]
mod tests;
