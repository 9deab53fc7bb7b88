//! The benchmark: posts per second and peak memory for the workload W1, beside a plain program that
//! counts in memory, and how soon another process serves a commit. `scripts/bench` runs it.
//!
//! It is a package and not a `cargo bench` target: benches unwind while the release binary aborts,
//! so cargo would build every dependency twice.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its results")]

mod baseline;
mod follow;
mod measure;
mod paths;
mod peers;
mod plot;
mod reconcile;
mod services;
mod shapes;
mod slow;
mod sums;
mod workload;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

use measure::median;
use paths::Paths;
use workload::{Program, Workload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure posts/s and peak memory for W1, and how soon commits are served
#[derive(Parser)]
struct Args {
    /// Posts in the workload
    #[arg(long, default_value_t = 2_000_000)]
    posts: u64,
    /// Runs of each program
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Commits to follow; 0 skips this part
    #[arg(long, default_value_t = 20)]
    commits: usize,
    /// Measure replays and checks of the workload as well
    #[arg(long)]
    reconcile: bool,
    /// Measure how speed depends on the load instead, and draw charts
    #[arg(long, conflicts_with_all = ["services", "reconcile"])]
    shapes: bool,
    /// The folder for the charts of --shapes; data/plots by default
    #[arg(long, value_name = "DIR", requires = "shapes")]
    plots: Option<PathBuf>,
    /// Measure with a real Kafka and a real database instead
    #[arg(long)]
    services: bool,
    /// Measure how long a good client waits beside this many slow ones instead
    #[arg(long, value_name = "N", conflicts_with_all = ["services", "reconcile", "shapes"])]
    slow_clients: Option<usize>,
    /// How long each rate of --services lasts
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Compare with `DuckDB` in this Python instead; see `scripts/bench-peers`
    #[arg(long, hide = true, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Run as the bare consumer of this topic
    #[arg(long, hide = true)]
    consume: Option<String>,
    /// Run as the baseline for this file
    #[arg(long, hide = true)]
    baseline: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.baseline, &args.consume) {
        (Some(input), _) => baseline::run(input),
        (None, Some(topic)) => services::consume(topic),
        (None, None) => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<(), Box<dyn Error>> {
    let paths = Paths::find()?;
    let Args { posts, runs, seconds, .. } = *args;
    if args.services {
        return services::run(&paths, services::Sizes { posts, runs, seconds });
    }
    if args.shapes {
        let plots = args.plots.clone().unwrap_or_else(|| paths.data.join("plots"));
        return shapes::run(&paths, (posts, runs), &plots);
    }
    if let Some(python) = &args.peers {
        return peers::run(&paths, python, (posts, runs));
    }
    if let Some(slow) = args.slow_clients {
        return slow_clients(&paths, posts, slow);
    }
    let mut w1 = Workload::w1(&paths, posts)?;
    let cores = std::thread::available_parallelism()?;
    println!("W1 of {posts} posts, {runs} runs of each, {cores} cores\n");
    for run in 1..=runs {
        eprintln!("run {run}/{runs}");
        w1.round(&paths)?;
    }
    println!("{}\n", w1.sums.as_ref().ok_or("nothing was counted")?.summary());
    print_table(&w1)?;
    if args.commits > 0 {
        let state = paths.fresh_state()?;
        let size = (posts, args.commits);
        let lags = follow::lags(&paths.tagflow, &w1.input, &state, size)?;
        fs::remove_dir_all(state)?;
        print_lags(&lags)?;
    }
    if args.reconcile {
        reconcile::print(&paths, &w1.input, (posts, runs))?;
    }
    Ok(())
}

fn slow_clients(paths: &Paths, posts: u64, slow: usize) -> Result<(), Box<dyn Error>> {
    let (w1, state) = (Workload::w1(paths, posts)?, paths.fresh_state()?);
    let mut run = Command::new(&paths.tagflow);
    run.args(["run", "--bounded", "--input"]).arg(&w1.input).arg("--state").arg(&state);
    if !run.stderr(Stdio::null()).stdout(Stdio::null()).status()?.success() {
        return Err("the job failed".into());
    }
    slow::print(&paths.tagflow, &state, slow)?;
    fs::remove_dir_all(state)?;
    Ok(())
}

fn print_table(w1: &Workload) -> Result<(), Box<dyn Error>> {
    println!("| program | posts/s (median) | min | max | peak MiB | speed / baseline |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let rates = w1.rates()?;
    for (rate, program) in rates.iter().zip(Program::ALL) {
        println!("| {} | {rate} | {:.2} |", program.name(), rate.median / rates[0].median);
    }
    Ok(())
}

fn print_lags(lags: &[f64]) -> Result<(), Box<dyn Error>> {
    let last = lags.len().checked_sub(1).ok_or("no commit was followed")?;
    // The smallest value that 99 of 100 do not exceed.
    let p99 = lags[(lags.len() * 99).div_ceil(100) - 1];
    println!(
        "\nFrom visible to served by another process, over {} commits: p50 {:.1} ms, \
         p99 {p99:.1} ms, max {:.1} ms (bar: 100 ms)",
        lags.len(),
        median(lags),
        lags[last],
    );
    Ok(())
}
