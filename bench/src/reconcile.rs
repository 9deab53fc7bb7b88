//! What a replay and a check of the whole workload cost beside the job that made the commit.
//!
//! Each is held against a job that reads in the same way: with a horizon a file is read in order,
//! by one worker; without one it is read in blocks, by all of them.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Place;
use crate::measure::{Rates, measure};
use crate::sums::Sums;

/// What is run, and on which state, in the order of a round. A job is what the lines up to the next
/// job are held against; JOB stands for the first one's state.
const LINES: [(&str, &str, &str); 7] = [
    ("job", "run --bounded", "job"),
    ("replay", "replay --until-commit JOB --decisions-from JOB", "replay"),
    ("reconcile, passes by default", "reconcile", "job"),
    ("reconcile in 8 passes", "reconcile --passes 8", "job"),
    ("reconcile of 1/64", "reconcile --sample 1/64", "job"),
    ("job with a horizon (in order)", "run --bounded --horizon 24h", "ordered"),
    (
        "replay with a horizon (in order)",
        "replay --from beginning --bounded --horizon 24h",
        "ordered-replay",
    ),
];

/// Runs all of it on two workers, in turn, and prints a table. Fails where a check finds drift, or
/// where a state does not hold the first job's counts.
pub(crate) fn print(
    place: &Place,
    input: &Path,
    (posts, runs): (u64, u64),
) -> Result<(), Box<dyn Error>> {
    let mut costs = LINES.map(|_| Vec::new());
    for run in 1..=runs {
        let states = place.fresh_state()?;
        fs::create_dir_all(&states)?;
        let mut first: Option<Sums> = None;
        for ((name, words, state), costs) in LINES.iter().zip(&mut costs) {
            let (fresh, state) = (!states.join(state).exists(), states.join(state));
            let mut command = Command::new(&place.tagflow);
            for word in words.split(' ') {
                if word == "JOB" {
                    command.arg(states.join("job"))
                } else {
                    command.arg(word)
                };
            }
            command.args(["--workers", "2", "--input"]).arg(input);
            let (_, cost) = measure(command.arg("--state").arg(&state))?;
            eprintln!("run {run}/{runs}: {name:<33} {:6.2} s", cost.seconds);
            costs.push(cost);
            if fresh {
                let sums = Sums::of_state(&place.tagflow, &state)?;
                let first = first.get_or_insert_with(|| sums.clone());
                if *first != sums {
                    return Err(format!("{name} counted {sums:?}, the job {first:?}").into());
                }
            }
        }
        fs::remove_dir_all(states)?;
    }
    println!(
        "\n| program, 2 workers | posts/s (median) | min | max | peak MiB | speed / its job |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut job = f64::NAN;
    for ((name, words, _), costs) in LINES.iter().zip(&costs) {
        let rates = Rates::of(posts, costs)?;
        if words.starts_with("run") {
            job = rates.median;
        }
        println!("| {name} | {rates} | {:.2} |", rates.median / job);
    }
    Ok(())
}
