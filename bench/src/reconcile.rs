//! What a replay and a check of the whole workload cost beside the job that made the commit.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::measure::{Cost, measure};

/// Runs the job, a replay into a state of its own, and each kind of check, on two workers, and
/// prints a table. Fails where a check finds drift.
pub(crate) fn print(
    tagflow: &Path,
    input: &Path,
    state: &Path,
    posts: u64,
) -> Result<(), Box<dyn Error>> {
    let again = state.with_extension("again");
    if again.exists() {
        fs::remove_dir_all(&again)?;
    }
    let command = |words: &str| {
        let mut command = Command::new(tagflow);
        let state = if words.starts_with("replay") { &again } else { state };
        command.args(words.split(' ')).arg("--input").arg(input).arg("--state").arg(state);
        command
    };
    println!("\n| program, 2 workers | seconds | posts/s | peak MiB | speed / job |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut job = None;
    for (name, words) in [
        ("job", "run --bounded --workers 2"),
        ("replay", "replay --from beginning --bounded --workers 2"),
        ("reconcile", "reconcile --workers 2"),
        ("reconcile in 4 passes", "reconcile --workers 2 --passes 4"),
        ("reconcile of 1/64", "reconcile --workers 2 --sample 1/64"),
    ] {
        eprintln!("{name}");
        let (_, Cost { seconds, peak_kib }) = measure(&mut command(words))?;
        let ratio = *job.get_or_insert(seconds) / seconds;
        let peak = peak_kib.map_or_else(|| "-".to_owned(), |kib| (kib >> 10).to_string());
        let rate = posts as f64 / seconds;
        println!("| {name} | {seconds:.1} | {rate:.0} | {peak} | {ratio:.2} |");
    }
    fs::remove_dir_all(again)?;
    Ok(())
}
