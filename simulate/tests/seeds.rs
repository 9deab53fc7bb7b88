//! Seeds in numbers: every check holds, every fault strikes often, and a seed is a whole run.
//!
//! `TAGFLOW_SEEDS` says how many; the first ones are always the same, the others new by the day.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;

use simulate::checks::{Check, Tally};
use simulate::plan::Plan;
use simulate::world::{each_seed, run};

/// Faults of each kind that must have struck, and times that each check must have been made, in a
/// full run.
const SEEDS: u64 = 3000;
const FAULTS_MIN: u64 = 100;
const CHECKS_MIN: u64 = 1000;

#[test]
fn every_check_holds_whatever_goes_wrong() {
    let seeds = std::env::var("TAGFLOW_SEEDS").map_or(SEEDS, |text| text.parse().unwrap());
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut checks, mut kills, mut records) = (Tally::default(), 0, 0);
    let mut failures = Vec::new();
    each_seed(1..=seeds, |plan, outcome| {
        kills += outcome.kills;
        records += outcome.records;
        outcome.faults.iter().for_each(|(name, n)| *faults.entry(name).or_default() += n);
        outcome.checks.0.iter().for_each(|(check, n)| *checks.0.entry(*check).or_default() += n);
        if let Some(violation) = &outcome.violation {
            let what = format!("{} {}", violation.check, violation.what);
            failures.push(format!("scripts/simulate {0}..{0}: {what}", plan.seed));
        }
    });
    println!("{seeds} seeds, {kills} kills, {records} records, {faults:?}, {checks:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if seeds >= SEEDS {
        assert!(kills * 2 >= seeds * 3, "{kills} kills in {seeds} seeds");
        assert!(records >= 300 * seeds);
        assert!(faults.values().all(|n| *n >= FAULTS_MIN), "{faults:?}");
        let rare = |check: &Check| checks.0.get(check).is_none_or(|n| *n < CHECKS_MIN);
        assert!(!Check::ALL.iter().any(rare), "{checks:?}");
    }
}

#[test]
fn a_seed_is_a_whole_run() {
    for seed in 1..=50 {
        let plan = Plan::of(seed);
        assert_eq!(run(&plan).trace, run(&plan).trace, "seed {seed}");
    }
}
