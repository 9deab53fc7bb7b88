//! Planted bugs: each is caught within 300 seeds and shown by few actions.
//!
//! This is a binary of its own because a planted bug affects the whole process.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use schemas::planted::{Bug, plant};
use simulate::plan::{Plan, shorten};
use simulate::run::run;

const SEEDS: u64 = 300;
const ACTIONS_MAX: usize = 20;

#[test]
fn planted_bugs_are_caught_and_shown_by_few_actions() {
    assert!(Bug::ALL.len() >= 12);
    for bug in Bug::ALL {
        plant(Some(bug));
        let violation = |plan: &Plan| run(plan).violation;
        let caught = (1..=SEEDS).find_map(|seed| {
            let plan = Plan::of(seed);
            violation(&plan).map(|violation| (plan, violation.invariant))
        });
        let (plan, check) = caught.unwrap_or_else(|| panic!("{} is not caught", bug.name()));
        let fails = |plan: &Plan| violation(plan).is_some_and(|found| found.invariant == check);
        let short = shorten(&plan, fails);
        let (seed, actions) = (plan.seed, short.actions.len());
        println!("{}: seed {seed}, {check}, {actions} actions", bug.name());
        assert!(actions <= ACTIONS_MAX, "{}: {short:?}", bug.name());
    }
    plant(None);
}
