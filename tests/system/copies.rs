//! Copies of an event that claim different times.

use std::fs;

use super::harness::{append, export, folder, ok, post, run};
use super::reconcile::findings;

const HOUR_MS: i64 = 3_600_000;
const START_MS: i64 = 1_700_000_000_000;

#[test]
fn copies_in_other_hours_count_once_across_restarts_and_are_ambiguous() {
    for options in ["--horizon 24h", "--horizon 24h --workers 3", ""] {
        let folder = folder();
        let (input, state) = (folder.path().join("a.ndjson"), folder.path().join("state"));
        let line = format!("run --bounded --input {} --state {}", input.display(), state.display());
        let copy = |id, hour: i64| post(id, START_MS + hour * HOUR_MS, "x");
        append(&input, copy(1, 0) + &copy(2, 0) + &copy(1, 2) + &copy(1, 1));
        if options.contains("horizon") {
            ok(&format!("{line} {options}"));
            let (_, summary) = export(&state, "");
            assert_eq!((summary.events, summary.duplicates), (2, 2), "{options}");
            // The ids are read back.
            append(&input, copy(1, 5) + &copy(2, 20));
            ok(&format!("{line} {options}"));
            append(&input, copy(3, 27) + &copy(3, 27));
            ok(&format!("{line} {options}"));
            append(&input, copy(1, 26) + &copy(2, 26) + &copy(3, 28));
        } else {
            append(&input, copy(3, 30) + &copy(1, 500) + &copy(2, 1000) + &copy(3, 31));
        }
        ok(&format!("{line} {options}"));
        let (rows, summary) = export(&state, "");
        let records = fs::read_to_string(&input).unwrap().lines().count() as u64;
        assert_eq!(summary.events, 3, "{options}");
        assert_eq!(summary.duplicates, records - 3, "{options}");
        assert_eq!(rows[&(String::new(), "x".to_owned())].total, 3);

        let line = format!("reconcile --input {} --state {}", input.display(), state.display());
        let horizon = options.replace(" --workers 3", "");
        let (differences, report) = findings(&format!("{line} {horizon} --json"));
        assert_eq!((differences.len(), report["ambiguous"].as_u64()), (0, Some(3)), "{report}");
        let repaired = run(&format!("{line} {horizon} --repair --why none"));
        assert_eq!(repaired.status.code(), Some(0), "nothing differs, so nothing is repaired");
    }
}
