//! The row of a control record that was applied: the audit. Its key begins with the high word of
//! what it changed, so that the worker that owns that loads it.

use std::sync::Arc;

use arrow_array::builder::{StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow_schema::{DataType, Field};
use xxhash_rust::xxh3::xxh3_64;

use super::tag::{time_field, times};
use crate::hash::KeyHash;
use crate::segment::Table;

/// The table of applied control records.
pub struct Repairs;

/// One control record that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairRow<'a> {
    /// The number of the file it came in.
    pub request: u64,
    /// What was done: `correct`, `remember`, `forget`, `republish`, or what came of a record that
    /// was delivered again.
    pub kind: &'a str,
    /// The scope of a tag; the input of a record.
    pub scope: &'a str,
    /// The key of a tag, an event id, or the partition of a record.
    pub key: &'a str,
    /// The low word of the key's hash; the position of a record.
    pub lo: u64,
    /// What was there before: a JSON object of fields, or the record that was refused.
    pub before: &'a str,
    /// What is there now: the same fields, or the record that was counted.
    pub after: &'a str,
    /// Who asked for it.
    pub who: &'a str,
    /// Why.
    pub why: &'a str,
    /// When, in milliseconds.
    pub when_ms: i64,
    /// The commit it was made from.
    pub base: u64,
    /// The commit it was applied in.
    pub commit: u64,
}

impl RepairRow<'_> {
    /// The hash of what it changed, given the row's own key.
    pub fn changed(&self, hash: KeyHash) -> KeyHash {
        KeyHash { hi: hash.hi, lo: self.lo }
    }
}

/// The key of the row about what file `request` did to `changed`.
pub fn repair_hash(changed: KeyHash, request: u64) -> KeyHash {
    let bytes = [changed.lo.to_le_bytes(), request.to_le_bytes()].concat();
    KeyHash { hi: changed.hi, lo: xxh3_64(&bytes) }
}

/// Typed columns of applied control records.
pub struct Columns {
    words: [UInt64Array; 4],
    texts: [StringArray; 7],
    when: TimestampMillisecondArray,
}

/// Collects applied control records.
#[derive(Default)]
pub struct Builder {
    words: [UInt64Builder; 4],
    texts: [StringBuilder; 7],
    when: Vec<i64>,
}

impl Table for Repairs {
    type Columns = Columns;
    type Row<'a> = RepairRow<'a>;
    type Builder = Builder;

    fn fields() -> Vec<Field> {
        let word = |name: &&str| Field::new(*name, DataType::UInt64, false);
        let text = |name: &&str| Field::new(*name, DataType::Utf8, false);
        let words = ["request", "lo", "base", "commit"];
        let texts = ["kind", "scope", "key", "before", "after", "who", "why"];
        let columns = words.iter().map(word).chain(texts.iter().map(text));
        columns.chain([time_field("when")]).collect()
    }

    fn columns(batch: &RecordBatch) -> Columns {
        let word = |i: usize| batch.column(2 + i).as_primitive::<UInt64Type>().clone();
        let text = |i: usize| batch.column(6 + i).as_string().clone();
        Columns {
            words: std::array::from_fn(word),
            texts: std::array::from_fn(text),
            when: batch.column(13).as_primitive::<TimestampMillisecondType>().clone(),
        }
    }

    fn row(columns: &Columns, _: KeyHash, i: usize) -> RepairRow<'_> {
        let [request, lo, base, commit] = columns.words.each_ref().map(|word| word.value(i));
        let [kind, scope, key, before, after, who, why] =
            columns.texts.each_ref().map(|text| text.value(i));
        let when_ms = columns.when.value(i);
        RepairRow { request, kind, scope, key, lo, before, after, who, why, when_ms, base, commit }
    }

    fn push(builder: &mut Builder, row: &RepairRow<'_>) {
        let words = [row.request, row.lo, row.base, row.commit];
        builder.words.iter_mut().zip(words).for_each(|(column, word)| column.append_value(word));
        let texts = [row.kind, row.scope, row.key, row.before, row.after, row.who, row.why];
        builder.texts.iter_mut().zip(texts).for_each(|(column, text)| column.append_value(text));
        builder.when.push(row.when_ms);
    }

    fn finish(mut builder: Builder) -> Vec<ArrayRef> {
        let words = builder.words.iter_mut().map(|word| Arc::new(word.finish()) as ArrayRef);
        let texts = builder.texts.iter_mut().map(|text| Arc::new(text.finish()) as ArrayRef);
        words.chain(texts).chain([times(builder.when)]).collect()
    }
}
