//! Damaged segments of every table give an error or other rows, never a panic.

use bytes::Bytes;
use schemas::hash::KeyHash;
use schemas::rows::{
    BoardRow, Boards, DeadLetterRow, DeadLetters, IdRow, Ids, TagRow, Tags, record_hash,
};
use schemas::segment::{Rows, Segment, Table};

fn encode<T: Table>(rows: Rows<T>) -> Vec<u8> {
    let mut out = Vec::new();
    rows.encode(&mut out).unwrap();
    out
}

/// Opens the file with one bit changed, for every bit, and reads whatever opens.
fn read_flipped<T: Table>(whole: Vec<u8>, read: impl Fn(KeyHash, T::Row<'_>) -> usize) {
    let mut bytes = whole;
    assert!(Segment::<T>::open(Bytes::from(bytes.clone())).is_ok());
    let (mut opened, mut sum) = (0, 0);
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(segment) = Segment::<T>::open(Bytes::from(bytes.clone())) {
            opened += 1;
            sum += segment.iter().map(|(hash, row)| read(hash, row)).sum::<usize>();
            segment.hashes().for_each(|hash| drop(segment.get(hash)));
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(opened > 0 && sum > 0, "some bits are of no account, or change a value");
}

#[test]
fn every_flip_in_a_segment_of_tags() {
    let mut rows = Rows::<Tags>::default();
    for i in 0..3 {
        let row = TagRow {
            scope: "region=eu",
            tag: "çok",
            display: "Çok",
            total: i,
            recent: &[1, 2, 3],
            first_seen: 1,
            last_seen: 2,
            as_of: 3,
            commit: 4,
        };
        rows.push(KeyHash { hi: i as u64, lo: 2 }, &row);
    }
    read_flipped::<Tags>(encode(rows), |_, row| {
        row.scope.len() + row.tag.chars().count() + row.display.len() + row.recent.len()
    });
}

#[test]
fn every_flip_in_a_segment_of_boards() {
    let mut rows = Rows::<Boards>::default();
    for i in 0..3 {
        let row = BoardRow { scope: "", window: "1h", doc: "[]", as_of: 1, commit: i };
        rows.push(KeyHash { hi: i, lo: 2 }, &row);
    }
    read_flipped::<Boards>(encode(rows), |_, row| {
        row.scope.len() + row.window.chars().count() + row.doc.len()
    });
}

#[test]
fn every_flip_in_a_segment_of_ids() {
    let mut rows = Rows::<Ids>::default();
    for i in 0..3 {
        let hash = KeyHash { hi: i, lo: 2 };
        rows.push(hash, &IdRow { hash, hour: 7, forgotten: false });
    }
    read_flipped::<Ids>(encode(rows), |hash, row| usize::from(hash == row.hash));
}

#[test]
fn every_flip_in_a_segment_of_dead_letters() {
    let mut rows = Rows::<DeadLetters>::default();
    for position in 0..3 {
        let row = DeadLetterRow {
            input: "posts",
            partition: "a",
            position,
            reason: "bad",
            detail: "",
            raw: b"{",
            commit: 4,
        };
        rows.push(record_hash(1, position), &row);
    }
    read_flipped::<DeadLetters>(encode(rows), |_, row| {
        row.input.len() + row.partition.len() + row.reason.len() + row.detail.len() + row.raw.len()
    });
}
