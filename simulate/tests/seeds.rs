//! Many seeds: every check holds, every fault strikes often, and a run follows from its seed.
//!
//! `TAGFLOW_SEEDS` sets the number of seeds, `TAGFLOW_SEED` the first one. The seeds that failed
//! once (`seeds.txt`) run as well.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use simulate::checks::Check;
use simulate::outcome::Outcome;
use simulate::plan::Plan;
use simulate::run::run;
use simulate::seed::seeds;
use simulate::seeds::each_seed;

/// The seeds of a full run, and what must happen in it.
const SEEDS: u64 = 3000;
const FAULTS_MIN: u64 = 100;
/// The number of kinds of faults. A kind that never strikes would be missing in the sums.
const FAULT_KINDS: usize = 33;
const CHECKS_MIN: u64 = 1000;
/// Per seed: kills, records, and writes to the store that go wrong.
const KILLS_MIN: f64 = 1.5;
const RECORDS_MIN: f64 = 300.0;
const STORE_FAULTS_MIN: f64 = 10.0;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sums of many outcomes.
#[derive(Debug, Default)]
struct Sums {
    kills: u64,
    records: u64,
    store_faults: u64,
    faults: BTreeMap<&'static str, u64>,
    checks: BTreeMap<Check, u64>,
    work: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

impl Sums {
    fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        self.kills += outcome.kills;
        self.records += outcome.records;
        self.store_faults += outcome.store_faults();
        outcome.faults.iter().for_each(|(name, n)| *self.faults.entry(name).or_default() += n);
        outcome.work.iter().for_each(|(name, n)| *self.work.entry(name).or_default() += n);
        let checks = outcome.checks.0.iter();
        checks.for_each(|(check, n)| *self.checks.entry(*check).or_default() += n);
        if let Some(violation) = &outcome.violation {
            let what = format!("{} {}", violation.invariant, violation.what);
            self.failures.push(format!("scripts/simulate {0}..{0}: {what}", plan.seed));
        }
    }

    fn of(seeds: RangeInclusive<u64>) -> Self {
        let mut sums = Self::default();
        each_seed(seeds, |plan, outcome| sums.add(plan, outcome));
        sums
    }
}

/// Fails with everything that happened fewer than `least` times.
fn all_reach<K: Debug>(what: &str, found: impl IntoIterator<Item = (K, u64)>, least: u64) {
    let rare: Vec<_> = found.into_iter().filter(|(_, n)| *n < least).collect();
    assert!(rare.is_empty(), "{what} fewer than {least} times: {rare:?}");
}

#[test]
fn checks_hold_under_all_faults() {
    let seeds = seeds(SEEDS);
    let sums = Sums::of(seeds.clone());
    let seeds = seeds.count() as u64;
    println!("{seeds} seeds: {sums:?}");
    assert!(sums.failures.is_empty(), "{}", sums.failures.join("\n"));
    if seeds >= SEEDS {
        let per_seed = |n: u64| n as f64 / seeds as f64;
        assert!(per_seed(sums.kills) >= KILLS_MIN, "{} kills", sums.kills);
        assert!(per_seed(sums.records) >= RECORDS_MIN, "{} records", sums.records);
        assert!(
            per_seed(sums.store_faults) >= STORE_FAULTS_MIN,
            "{} at the store",
            sums.store_faults
        );
        assert_eq!(sums.faults.len(), FAULT_KINDS, "{:?}", sums.faults.keys());
        all_reach("faults that struck", sums.faults, FAULTS_MIN);
        all_reach("kinds of upkeep", sums.work, FAULTS_MIN);
        let checks = |check| (check, sums.checks.get(&check).copied().unwrap_or(0));
        all_reach("checks made", Check::ALL.map(checks), CHECKS_MIN);
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<u64> = lines.map(|l| l.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        let sums = Sums::of(seed..=seed);
        assert_eq!(sums.failures, [""; 0]);
    }
}

#[test]
fn runs_follow_from_their_seed() {
    for seed in 1..=50 {
        let plan = Plan::of(seed);
        assert_eq!(run(&plan).trace, run(&plan).trace, "seed {seed}");
    }
}
