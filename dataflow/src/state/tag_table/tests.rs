//! Tests of the table of tags: against rows, and against maps.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::hash::HashKey;
use schemas::rows::Tags;
use schemas::segment::{Rows, Segment};
use schemas::windows::Windows;

use super::table::{LOOKED_UP_AHEAD, TagTable};
use super::tag::Tag;
use crate::records::{Mention, Mentions};
use crate::settings::Idle;

pub(super) fn table() -> TagTable {
    TagTable::new(Windows::default().tiers(), vec![String::new()], 1, Idle::default())
}

pub(super) fn mention(tag: &str, ts_ms: i64) -> Mentions {
    let mut batch = Mentions::default();
    batch.mentions.push(Mention {
        tag: HashKey::new(1).hasher().tag(&schemas::tags::key(tag)),
        slot: Windows::default().tiers().slot(ts_ms),
        count: 1,
        first_ms: ts_ms,
        last_ms: ts_ms,
        spelling: batch.spellings.push(tag),
        scope: 0,
    });
    batch
}

pub(super) fn segment(rows: Rows<Tags>) -> Segment<Tags> {
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    Segment::open(Bytes::from(out)).unwrap()
}

#[test]
fn display_is_the_spelling_of_the_least_time_and_bytes() {
    let mut table = table();
    for (tag, ts) in [("Sunset", 50), ("sunset", 40), ("SUNSET", 40), ("sunSet", 60)] {
        table.apply(&mention(tag, ts), |_| None).unwrap();
    }
    let mut seen = Vec::new();
    let rows = segment(table.close(100, |v| seen.push(v.display.to_owned())));
    let (_, row) = rows.iter().next().unwrap();
    assert_eq!((row.display, row.total, row.first_seen, row.last_seen), ("SUNSET", 4, 40, 60));
    assert_eq!(seen, ["SUNSET"]);
}

#[test]
fn cold_committed_tags_are_evicted_and_load_again() {
    let day = 86_400_000;
    let start = 1_700_000_000_000;
    let mut table = table();
    table.apply(&mention("old", start), |_| None).unwrap();
    table.apply(&mention("Old", start + 1), |_| None).unwrap();
    let rows = segment(table.close(start, |_| ()));
    table.commit += table.idle.commits;
    let sweep_all = |table: &mut TagTable, as_of, read_set| {
        (0..table.idle.parts).for_each(|_| table.sweep(as_of, read_set));
        table.len()
    };
    assert_eq!(sweep_all(&mut table, start, 1), 1, "its buckets are live");
    assert_eq!(sweep_all(&mut table, start + 2 * day, 0), 1, "the read set is older");
    assert_eq!(sweep_all(&mut table, start + 2 * day, 1), 0);
    table.apply(&mention("old", start + 2 * day), |hash| rows.get(hash)).unwrap();
    let rows = segment(table.close(start + 2 * day, |_| ()));
    let (_, row) = rows.iter().next().unwrap();
    assert_eq!((row.tag, row.display, row.total, row.first_seen), ("old", "old", 3, start));
    assert_eq!(table.insert_reuses_slots(), 0);
}

impl TagTable {
    fn insert_reuses_slots(&self) -> usize {
        self.slab.free_places()
    }
}

#[test]
fn many_tags_are_counted_in_known_memory() {
    let mut table = table();
    let mut want = BTreeMap::new();
    for i in 0..20_000_i64 {
        let tag = format!("tag{}", i % 7000);
        *want.entry(tag.clone()).or_insert(0) += 1;
        table.apply(&mention(&tag, 1_700_000_000_000 + i * 1000), |_| None).unwrap();
    }
    let rows = segment(table.close(1_700_020_000_000, |_| ()));
    let got: BTreeMap<String, i64> =
        rows.iter().map(|(_, row)| (row.tag.to_owned(), row.total)).collect();
    assert_eq!(got, want);
    (0..table.idle.parts).for_each(|_| table.sweep(1_700_020_000_000, 0));
    assert!(size_of::<Option<Tag>>() <= 104);
    let each = table.bytes() / table.len();
    assert!((100..260).contains(&each), "{each} bytes a tag");
}

/// One batch of the mentions of several tags.
fn together(tags: &[(&str, i64)]) -> Mentions {
    let mut batch = Mentions::default();
    for (tag, ts_ms) in tags {
        let spelling = batch.spellings.push(tag);
        let one = mention(tag, *ts_ms).mentions.remove(0);
        batch.mentions.push(Mention { spelling, ..one });
    }
    batch
}

#[test]
fn tag_counts_every_mention_of_a_batch() {
    let start = 1_700_000_000_000;
    let names: Vec<String> = (0..3 * LOOKED_UP_AHEAD).map(|i| format!("tag{i}")).collect();
    // New tags: one twice among those looked up together, and one on either side of a border.
    let mut mentions: Vec<(&str, i64)> = names.iter().map(|name| (&**name, start)).collect();
    mentions[4] = ("Twice", start + 1);
    mentions[9] = ("twice", start);
    mentions[LOOKED_UP_AHEAD - 1] = ("border", start);
    mentions[LOOKED_UP_AHEAD] = ("border", start);
    let (mut table, asked) = (table(), Cell::new(0));
    let none = |_| {
        asked.set(asked.get() + 1);
        None
    };
    table.apply(&together(&mentions), none).unwrap();
    assert_eq!((table.len(), asked.get()), (3 * LOOKED_UP_AHEAD - 2, 3 * LOOKED_UP_AHEAD - 2));
    let rows = segment(table.close(start, |_| ()));
    let total = |name: &str| rows.iter().find(|(_, row)| row.tag == name).unwrap().1.total;
    assert_eq!((total("twice"), total("border"), total("tag0")), (2, 2, 1));
    let all: i64 = rows.iter().map(|(_, row)| row.total).sum();
    assert_eq!(all, 3 * LOOKED_UP_AHEAD as i64);
    assert_eq!(table.work.cold_reads, 0);

    // Cold tags: each is read once.
    for places in [[4, 9], [LOOKED_UP_AHEAD - 1, LOOKED_UP_AHEAD]] {
        let mut table = self::table();
        table.commit = 2;
        let mut mentions: Vec<(String, i64)> =
            (0..2 * LOOKED_UP_AHEAD).map(|i| (format!("new{i}"), start)).collect();
        places.iter().for_each(|place| "twice".clone_into(&mut mentions[*place].0));
        let mentions: Vec<(&str, i64)> = mentions.iter().map(|(n, ts)| (&**n, *ts)).collect();
        table.apply(&together(&mentions), |hash| rows.get(hash)).unwrap();
        assert_eq!(table.work.cold_reads, 1, "{places:?}");
        let rows = segment(table.close(start, |_| ()));
        let row = rows.iter().find(|(_, row)| row.tag == "twice").unwrap().1;
        assert_eq!((row.total, row.display), (4, "twice"), "{places:?}");
    }
}

#[test]
fn memory_is_the_sum_over_tags_even_when_lists_shrink() {
    let (minute, start) = (60_000, 1_700_000_000_000);
    let mut table = table();
    let sum = |table: &TagTable| -> usize { table.slab.iter().map(Tag::heap_bytes).sum() };
    for i in 0..1200 {
        let names = [format!("Tag{}", i % 3), format!("tag{}", i % 7)];
        let batch = names.each_ref().map(|name| (&**name, start + i * minute));
        table.apply(&together(&batch), |_| None).unwrap();
    }
    assert_eq!(table.heap_bytes, sum(&table));
    let before = table.heap_bytes;
    table.close(start + 1200 * minute, |_| ());
    assert_eq!(table.heap_bytes, sum(&table));
    assert!(table.heap_bytes < before / 2, "{} of {before} bytes", table.heap_bytes);
    // Two days later a post finds nothing but itself.
    let later = start + 4000 * minute;
    table.apply(&together(&[("tag0", later), ("tag1", later)]), |_| None).unwrap();
    table.close(later, |_| ());
    assert_eq!(table.heap_bytes, sum(&table));
    table.commit += table.idle.commits;
    (0..table.idle.parts).for_each(|_| table.sweep(later + 4000 * minute, table.commit));
    assert_eq!((table.len(), table.heap_bytes), (0, 0));
}
