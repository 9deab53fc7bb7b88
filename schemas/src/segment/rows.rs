//! Rows on their way into a segment: collected in any order, sorted and written in batches.
//!
//! Invariant: neither the rows that wait nor a batch that is written has more texts than 32-bit
//! offsets can address.

use std::io::Write;
use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;

use super::batches::{LIMITS, Limits, assert_addressable};
use super::format::{SegmentError, schema_of};
use crate::hash::KeyHash;
use crate::rows::Table;

/// Rows to write as a segment, in any order.
pub struct Rows<T: Table> {
    hi: Vec<u64>,
    lo: Vec<u64>,
    /// How many bytes of texts each row has; rows at the end without any may be left out.
    sizes: Vec<u32>,
    /// The columns of the rows before those in `builder`.
    parts: Vec<Vec<ArrayRef>>,
    builder: T::Builder,
    last_hour: Option<u32>,
    text_bytes: usize,
    /// How much memory a row takes besides its texts: its key, its numbers and its offsets.
    row_bytes: usize,
    limits: Limits,
}

impl<T: Table> Default for Rows<T> {
    fn default() -> Self {
        Self::limited(LIMITS)
    }
}

impl<T: Table> Rows<T> {
    pub(super) fn limited(limits: Limits) -> Self {
        Self {
            hi: Vec::new(),
            lo: Vec::new(),
            sizes: Vec::new(),
            parts: Vec::new(),
            builder: T::builder(),
            last_hour: None,
            text_bytes: 0,
            row_bytes: size_of::<KeyHash>() + T::fields().len() * size_of::<u64>(),
            limits,
        }
    }

    /// Appends a row.
    pub fn push(&mut self, hash: KeyHash, row: &T::Row<'_>) {
        self.hi.push(hash.hi);
        self.lo.push(hash.lo);
        self.last_hour = self.last_hour.max(T::expires(row));
        let before = T::text_bytes(&self.builder);
        T::push(&mut self.builder, row);
        let bytes = T::text_bytes(&self.builder);
        if bytes > before {
            self.sizes.resize(self.hi.len() - 1, 0);
            self.sizes.push((bytes - before) as u32);
            self.text_bytes += bytes - before;
        }
        if bytes >= self.limits.part_bytes {
            assert_addressable(bytes);
            self.parts.push(T::finish(std::mem::replace(&mut self.builder, T::builder())));
        }
    }

    /// The last hour that any of the rows expires with.
    pub fn last_hour(&self) -> Option<u32> {
        self.last_hour
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.hi.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.hi.is_empty()
    }

    /// About how much memory the rows take.
    pub fn bytes(&self) -> usize {
        self.text_bytes + self.len() * self.row_bytes
    }

    /// Sorts the rows by key and writes them as a segment.
    pub fn encode(self, out: impl Write) -> Result<(), SegmentError> {
        self.seal()?.encode(out)
    }

    /// Sorts the rows by key.
    pub fn seal(mut self) -> Result<SealedRows, SegmentError> {
        // Keys, indices and sizes lie together, so that comparisons stay in the cache.
        let keys = self.hi.iter().zip(&self.lo).zip(0..);
        let sizes = self.sizes.iter().copied().chain(std::iter::repeat(0));
        let mut order: Vec<Place> =
            keys.zip(sizes).map(|(((hi, lo), i), size)| (*hi, *lo, i, size)).collect();
        order.sort_unstable();
        self.parts.push(T::finish(self.builder));
        let parts = Parts::new(&schema_of::<T>(), [self.hi, self.lo], self.parts)?;
        Ok(SealedRows { parts, order, limits: self.limits })
    }
}

impl<T: Table<Builder = Vec<u32>>> Rows<T> {
    /// Removes the rows of some keys. For a table of one column of numbers.
    pub fn remove(&mut self, is_removed: impl Fn(KeyHash) -> bool) {
        let Self { hi, lo, builder, .. } = self;
        let mut kept = 0;
        for i in 0..hi.len() {
            if !is_removed(KeyHash { hi: hi[i], lo: lo[i] }) {
                (hi[kept], lo[kept], builder[kept]) = (hi[i], lo[i], builder[i]);
                kept += 1;
            }
        }
        hi.truncate(kept);
        lo.truncate(kept);
        builder.truncate(kept);
    }
}

/// Rows in their final order, which can be written more than once: a disk may be full at first.
pub struct SealedRows {
    parts: Parts,
    order: Vec<Place>,
    limits: Limits,
}

impl SealedRows {
    /// Writes the rows as a segment.
    pub fn encode(&self, out: impl Write) -> Result<(), SegmentError> {
        let Self { parts, order, limits } = self;
        let mut writer = FileWriter::try_new(out, parts.schema())?;
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (one, more) = rest.split_at(first_batch(rest, *limits));
            let (other, more) = more.split_at(first_batch(more, *limits));
            rest = more;
            // Gathering rows waits for memory, so two batches in parallel take hardly longer than
            // one.
            let (one, other) = std::thread::scope(|scope| {
                let gather = || Builder::new().spawn_scoped(scope, || parts.gather(other));
                let other = (!other.is_empty()).then(gather).transpose()?;
                Ok::<_, std::io::Error>((parts.gather(one), other.map(ScopedJoinHandle::join)))
            })?;
            writer.write(&one?)?;
            match other {
                Some(Ok(other)) => writer.write(&other?)?,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => {}
            }
        }
        Ok(writer.finish()?)
    }
}

/// A row's key, index, and bytes of texts.
type Place = (u64, u64, u32, u32);

/// How many of the next rows make one batch.
fn first_batch(rows: &[Place], limits: Limits) -> usize {
    let mut bytes = 0;
    let fits = |(n, (.., size)): &(usize, &Place)| {
        let size = *size as usize;
        let fits = limits.has_room(*n, bytes, size);
        bytes += size;
        fits
    };
    rows.iter().enumerate().take_while(fits).count()
}

/// Rows in the order in which they were pushed, in several parts.
struct Parts {
    records: Vec<RecordBatch>,
    /// The index of each part's first row.
    starts: Vec<u32>,
}

impl Parts {
    fn new(
        schema: &SchemaRef,
        keys: [Vec<u64>; 2],
        parts: Vec<Vec<ArrayRef>>,
    ) -> Result<Self, SegmentError> {
        let keys = keys.map(UInt64Array::from);
        let (mut records, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
        for columns in parts {
            let rows = columns.first().map_or(keys[0].len(), Array::len);
            let of_part = keys.iter().map(|words| Arc::new(words.slice(start, rows)) as ArrayRef);
            let columns = of_part.chain(columns).collect();
            records.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
            starts.push(start as u32);
            start += rows;
        }
        assert_eq!(start, keys[0].len(), "the parts hold every row");
        Ok(Self { records, starts })
    }

    fn schema(&self) -> &SchemaRef {
        match self.records.first() {
            Some(record) => record.schema_ref(),
            None => unreachable!("there is a part even without rows"),
        }
    }

    /// The record batch of these rows.
    fn gather(&self, rows: &[Place]) -> Result<RecordBatch, ArrowError> {
        if let [only] = self.records.as_slice() {
            let indices = UInt32Array::from_iter_values(rows.iter().map(|(_, _, i, _)| *i));
            return take_record_batch(only, &indices);
        }
        let places = rows.iter().map(|(_, _, i, _)| {
            let part = self.starts.partition_point(|start| start <= i) - 1;
            (part, (i - self.starts[part]) as usize)
        });
        let records: Vec<&RecordBatch> = self.records.iter().collect();
        interleave_record_batch(&records, &places.collect::<Vec<_>>())
    }
}
