//! Runs that meet a file at any point of its growth.

use std::fs;

use proptest::prelude::*;
use schemas::config::FileOptions;

use super::super::{FileLog, Log, Mode, Next, Reader, Record, Shape};

/// The records of a reader.
fn records(mut reader: Box<dyn Reader>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut each = |record: Record<'_>| {
        texts.push(String::from_utf8_lossy(record.bytes).trim().to_owned());
    };
    while reader.read(2, &mut each).unwrap() != Next::End {}
    texts
}

fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => (0..999_u32).prop_map(|n| format!("{{\"n\":[{n},\"}}\\\\\\\"\"]}}")),
        1 => Just(String::new()),
        1 => Just("  ".to_owned()),
        1 => Just("\u{feff}{\"a\":{}}".to_owned()),
        1 => Just("not json".to_owned()),
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n")];
    let lines = proptest::collection::vec((line, end), 0..9);
    lines.prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
}

proptest! {
    /// Bounded runs, in order or by blocks, one after the other while the file grows, read the
    /// records that one run reads at the end: none twice, none in halves.
    #[test]
    fn runs_over_a_file_that_grows_read_what_one_run_reads(
        text in lines(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        in_order: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ndjson");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let (mut read, mut position) = (Vec::new(), 0);
        for cut in cuts {
            fs::write(&path, &text.as_bytes()[..cut]).unwrap();
            let mode = if in_order { Mode::Ordered } else { Mode::Blocks };
            let log = FileLog::new(&path, mode, FileOptions::default()).unwrap();
            let found = log.discover().unwrap();
            let end = match &found[0].shape {
                Shape::Ordered { bytes } => bytes.unwrap(),
                Shape::Blocks { bytes, .. } => *bytes,
            };
            prop_assert!(end <= cut as u64);
            let end = end.max(position);
            // The same part, as a replay and a check read it.
            let part = records(log.open_part(0, "a.ndjson", position, end).unwrap());
            let now = match in_order {
                true => records(log.open("a.ndjson", position).unwrap()),
                false if end > position => {
                    records(log.open_block("a.ndjson", end, 0, position).unwrap())
                }
                false => Vec::new(),
            };
            prop_assert_eq!(&now, &part);
            read.extend(now);
            position = end;
        }
        let log = FileLog::new(&path, Mode::Ordered, FileOptions::default()).unwrap();
        prop_assert_eq!(read, records(log.open("a.ndjson", 0).unwrap()));
        prop_assert_eq!(position, text.len() as u64);
    }
}
