//! The cost of replaying and checking the whole workload, beside the job that made the commit.
//!
//! Each is compared with a job that reads in the same way: with a horizon, one worker reads the
//! file in order; without one, all workers read it in blocks.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::measure::{Rates, measure};
use crate::paths::Paths;
use crate::sums::Sums;

/// The name, arguments and state of each run, in the order of a round. The runs after a job are
/// compared with it. JOB stands for the state of the first one.
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

/// Runs each in turn on two workers and prints a table. Fails if a check finds drift, or if a state
/// differs from that of the first job.
pub(crate) fn print(
    paths: &Paths,
    input: &Path,
    (posts, runs): (u64, u64),
) -> Result<(), Box<dyn Error>> {
    let mut costs = LINES.map(|_| Vec::new());
    for run in 1..=runs {
        let states = paths.fresh_state()?;
        fs::create_dir_all(&states)?;
        let mut first: Option<Sums> = None;
        for ((name, words, state), costs) in LINES.iter().zip(&mut costs) {
            let (fresh, state) = (!states.join(state).exists(), states.join(state));
            let mut command = Command::new(&paths.tagflow);
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
                let sums = Sums::of_state(&paths.tagflow, &state)?;
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
