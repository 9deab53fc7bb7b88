//! Segments: any bytes, and whole segments with any bytes changed, open or are refused; and what
//! opens can be read.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use schemas::hash::KeyHash;
use schemas::rows::{
    BoardRow, Boards, DeadLetterRow, DeadLetters, IdRow, Ids, RepairRow, Repairs, TagRow, Tags,
    record_hash,
};
use schemas::segment::{Rows, Segment, Table};

static WHOLE: LazyLock<[Vec<u8>; 5]> = LazyLock::new(|| {
    let hash = |n: u64| KeyHash { hi: n << 54, lo: n };
    let mut tags = Rows::<Tags>::default();
    let mut boards = Rows::<Boards>::default();
    let mut ids = Rows::<Ids>::default();
    let mut dead = Rows::<DeadLetters>::default();
    let mut repairs = Rows::<Repairs>::default();
    for n in 1..9 {
        let text = format!("tag{n}");
        let (scope, tag, display) = ("region=eu", text.as_str(), text.as_str());
        let (total, first_seen, last_seen, as_of) = (7, 1, 2, 3);
        let (recent, commit): (&[u8], u64) = (&[1, 2, 3], n);
        tags.push(
            hash(n),
            &TagRow { scope, tag, display, total, recent, first_seen, last_seen, as_of, commit },
        );
        boards.push(hash(n), &BoardRow { scope, window: "1h", doc: "[]", as_of, commit });
        ids.push(hash(n), &IdRow { hash: hash(n), hour: 5, forgotten: false });
        let (input, partition, position) = ("input", "p0", n);
        let (reason, detail, raw): (&str, &str, &[u8]) = ("not_json", "not JSON", b"{");
        dead.push(
            record_hash(1, n),
            &DeadLetterRow { input, partition, position, reason, detail, raw, commit },
        );
        let row = RepairRow {
            request: n,
            kind: "correct",
            scope,
            key: tag,
            lo: n,
            before: "{}",
            after: "{}",
            who: "ann",
            why: "",
            when_ms: 1,
            base: n,
            commit,
        };
        repairs.push(hash(n), &row);
    }
    let mut all = [const { Vec::new() }; 5];
    tags.encode(&mut all[0]).expect("a segment");
    boards.encode(&mut all[1]).expect("a segment");
    ids.encode(&mut all[2]).expect("a segment");
    dead.encode(&mut all[3]).expect("a segment");
    repairs.encode(&mut all[4]).expect("a segment");
    all
});

fn read<T: Table>(bytes: Bytes) {
    if let Ok(segment) = Segment::<T>::open(bytes) {
        segment.iter().for_each(drop);
        let first = segment.hashes().next().unwrap_or_default();
        segment.get(first);
        segment.get(KeyHash { hi: u64::MAX, lo: 0 });
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let table = usize::from(first & 7) % 5;
    let bytes = if first & 8 == 0 {
        rest.to_vec()
    } else {
        // Three bytes are a place in a whole segment and what to change there.
        let mut whole = WHOLE[table].clone();
        for edit in rest.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % whole.len();
            whole[at] ^= edit[2];
        }
        whole
    };
    match table {
        0 => read::<Tags>(bytes.into()),
        1 => read::<Boards>(bytes.into()),
        2 => read::<Ids>(bytes.into()),
        3 => read::<DeadLetters>(bytes.into()),
        _ => read::<Repairs>(bytes.into()),
    }
});
