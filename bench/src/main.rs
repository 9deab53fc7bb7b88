//! The benchmark: posts a second and peak memory for the workload W1 beside a plain program that
//! counts in memory, and how soon another process serves a commit. `scripts/bench` runs it.
//!
//! A package of its own and no `cargo bench` target: benches unwind where the release binary
//! aborts, so cargo would build every dependency a second time for them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it finds")]

mod baseline;
mod follow;
mod measure;
mod peers;
mod plot;
mod reconcile;
mod services;
mod shapes;
mod sums;
mod workload;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use measure::median;
use workload::{Program, Workload};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure posts/s and peak memory for W1, and how soon a commit is served
#[derive(Parser)]
struct Args {
    /// Records of the workload
    #[arg(long, default_value_t = 2_000_000)]
    posts: u64,
    /// Runs of each program
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Commits to follow; 0 leaves this out
    #[arg(long, default_value_t = 20)]
    commits: usize,
    /// Measure checks of the workload as well
    #[arg(long)]
    reconcile: bool,
    /// Measure how speed changes with the load instead, and draw it
    #[arg(long, conflicts_with_all = ["services", "reconcile"])]
    shapes: bool,
    /// With --shapes, the folder for the charts; data/plots by default
    #[arg(long, value_name = "DIR", requires = "shapes")]
    plots: Option<PathBuf>,
    /// Measure between a real Kafka and a real database instead
    #[arg(long)]
    services: bool,
    /// With --services, how long each rate of the load lasts
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Measure beside `DuckDB` in this Python instead; `scripts/bench-peers` does
    #[arg(long, hide = true, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Be the bare consumer of this topic
    #[arg(long, hide = true)]
    consume: Option<String>,
    /// Be the baseline program for this file
    #[arg(long, hide = true)]
    baseline: Option<PathBuf>,
}

/// Where things are.
struct Place {
    /// This program, which is the baseline as well.
    this: PathBuf,
    tagflow: PathBuf,
    data: PathBuf,
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
    let place = Place::find()?;
    let Args { posts, runs, seconds, .. } = *args;
    if args.services {
        return services::run(&place, services::Sizes { posts, runs, seconds });
    }
    if args.shapes {
        let plots = args.plots.clone().unwrap_or_else(|| place.data.join("plots"));
        return shapes::run(&place, (posts, runs), &plots);
    }
    if let Some(python) = &args.peers {
        return peers::run(&place, python, (posts, runs));
    }
    let mut w1 = Workload::w1(&place, posts)?;
    let cores = std::thread::available_parallelism()?;
    println!("W1 of {posts} posts, {runs} runs of each, {cores} cores\n");
    for run in 1..=runs {
        eprintln!("run {run}/{runs}");
        w1.round(&place)?;
    }
    println!("{}\n", w1.sums.as_ref().ok_or("nothing was counted")?.told());
    print_table(&w1)?;
    if args.commits > 0 {
        let state = place.fresh_state()?;
        let size = (posts, args.commits);
        let lags = follow::lags(&place.tagflow, &w1.input, &state, size)?;
        fs::remove_dir_all(state)?;
        print_lags(&lags)?;
    }
    if args.reconcile {
        reconcile::print(&place, &w1.input, (posts, runs))?;
    }
    Ok(())
}

impl Place {
    fn find() -> Result<Self, Box<dyn Error>> {
        let this = std::env::current_exe()?;
        let tagflow = this.with_file_name("tagflow");
        if !tagflow.is_file() {
            return Err(format!("{} is not built; scripts/bench does", tagflow.display()).into());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder above")?;
        let data = root.join("data");
        Ok(Self { this, tagflow, data })
    }

    fn fresh_state(&self) -> Result<PathBuf, Box<dyn Error>> {
        let state = self.data.join("bench-state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        Ok(state)
    }
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
    // The least value that 99 of 100 do not exceed.
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
