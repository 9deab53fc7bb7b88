//! Runs simulations of a range of seeds: `tagflow-simulate 1..1000`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::process::ExitCode;

use clap::Parser;
use schemas::planted::{Bug, plant};
use simulate::checks::{Check, Violation};
use simulate::plan::{Plan, shorten};
use simulate::run::run;
use simulate::seeds::each_seed;

/// Run simulations and report failures
#[derive(Parser)]
struct Args {
    /// The seeds, as FIRST..LAST, both included
    #[arg(required_unless_present = "plant", value_parser = seeds)]
    seeds: Option<RangeInclusive<u64>>,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
    /// Plant this bug and count the seeds that catch it; `list` lists the bugs
    #[arg(long, value_name = "BUG", conflicts_with = "twice")]
    plant: Option<String>,
    /// Print the outcome of each seed
    #[arg(long)]
    verbose: bool,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let range = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..=b.parse().ok()?));
    let range: RangeInclusive<u64> = range.ok_or("write the seeds as FIRST..LAST")?;
    if range.is_empty() { Err("the last seed comes before the first".into()) } else { Ok(range) }
}

fn count(seeds: &RangeInclusive<u64>) -> u64 {
    (seeds.end() - seeds.start()).saturating_add(1)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.plant.as_deref() == Some("list") {
        Bug::ALL.iter().for_each(|bug| println!("{}", bug.name()));
        return ExitCode::SUCCESS;
    }
    let Some(seeds) = args.seeds.clone() else {
        eprintln!("error: no seeds; write them as FIRST..LAST");
        return ExitCode::from(2);
    };
    match &args.plant {
        None => simulate(seeds, &args),
        Some(name) => match Bug::ALL.into_iter().find(|bug| bug.name() == *name) {
            Some(bug) => catch(bug, seeds),
            None => {
                eprintln!("error: unknown bug {name:?}; --plant list lists them all");
                ExitCode::from(2)
            }
        },
    }
}

fn simulate(seeds: RangeInclusive<u64>, args: &Args) -> ExitCode {
    let number = count(&seeds);
    let (mut kills, mut faults, mut failures) = (0, 0, 0);
    each_seed(seeds, |plan, outcome| {
        kills += outcome.kills;
        faults += outcome.faults.values().sum::<u64>();
        if args.verbose {
            println!("seed {}: {outcome:?}", plan.seed);
        }
        if args.twice && run(plan).trace != outcome.trace {
            println!("seed {0}: two runs differ: scripts/simulate {0}..{0} --twice", plan.seed);
            failures += 1;
        }
        if let Some(violation) = &outcome.violation {
            report(plan, violation);
            failures += 1;
        }
    });
    println!("{number} seeds, {kills} kills, {faults} faults, {failures} failures");
    if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints the failed check, the command that repeats it, and a short list of actions.
fn report(plan: &Plan, violation: &Violation) {
    let seed = plan.seed;
    println!("seed {seed}: {} failed: {}", violation.invariant, violation.what);
    println!("  repeat: scripts/simulate {seed}..{seed}");
    let short = shorten(plan, |plan| fails(plan, violation.invariant));
    println!("  {} of {} actions suffice:", short.actions.len(), plan.actions.len());
    for action in &short.actions {
        println!("    after {} steps {:?}", action.steps, action.act);
    }
}

fn fails(plan: &Plan, check: Check) -> bool {
    run(plan).violation.is_some_and(|violation| violation.invariant == check)
}

/// Counts the seeds that catch a planted bug.
fn catch(bug: Bug, seeds: RangeInclusive<u64>) -> ExitCode {
    let number = count(&seeds);
    plant(Some(bug));
    let mut caught = Vec::new();
    each_seed(seeds, |plan, outcome| {
        caught.extend(outcome.violation.clone().map(|violation| (plan.seed, violation)));
    });
    caught.sort_unstable_by_key(|(seed, _)| *seed);
    let Some((seed, violation)) = caught.first() else {
        println!("caught by 0 of {number} seeds");
        return ExitCode::FAILURE;
    };
    report(&Plan::of(*seed), violation);
    let checks: BTreeSet<String> = caught.iter().map(|(_, v)| v.invariant.id()).collect();
    let checks = checks.into_iter().collect::<Vec<_>>().join(" ");
    println!("caught by {} of {number} seeds, by {checks}, first {seed}", caught.len());
    ExitCode::SUCCESS
}
