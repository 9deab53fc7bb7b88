//! The benchmark: posts a second and peak memory for the workload W1 beside a plain program that
//! counts in memory, and how soon another process serves a commit. `scripts/bench` runs it.
//!
//! A package of its own and no `cargo bench` target: benches unwind where the release binary
//! aborts, so cargo would build every dependency a second time for them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it finds")]

mod baseline;
mod follow;
mod measure;
mod reconcile;
mod services;
mod sums;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use measure::{Cost, measure};
use sums::Sums;

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
    /// Measure between a real Kafka and a real database instead
    #[arg(long)]
    services: bool,
    /// With --services, how long each rate of the load lasts
    #[arg(long, default_value_t = 30, value_name = "N")]
    seconds: u64,
    /// Be the bare consumer of this topic
    #[arg(long, hide = true)]
    consume: Option<String>,
    /// Be the baseline program for this file
    #[arg(long, hide = true)]
    baseline: Option<PathBuf>,
}

/// What is measured, in the order of a round.
#[derive(Clone, Copy)]
enum Program {
    Baseline,
    Tagflow { workers: u8 },
}

impl Program {
    const ALL: [Self; 3] =
        [Self::Baseline, Self::Tagflow { workers: 1 }, Self::Tagflow { workers: 2 }];

    fn name(self) -> String {
        match self {
            Self::Baseline => "baseline, one thread".to_owned(),
            Self::Tagflow { workers: 1 } => "tagflow, 1 worker".to_owned(),
            Self::Tagflow { workers } => format!("tagflow, {workers} workers"),
        }
    }
}

/// Where things are.
struct Place {
    /// This program, which is the baseline as well.
    this: PathBuf,
    tagflow: PathBuf,
    data: PathBuf,
    input: PathBuf,
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
    let place = Place::find(args.posts)?;
    if args.services {
        let Args { posts, runs, seconds, .. } = *args;
        return services::run(&place, services::Sizes { posts, runs, seconds });
    }
    place.generate(args.posts)?;
    let cores = std::thread::available_parallelism()?;
    println!("W1 of {} posts, {} runs of each, {cores} cores\n", args.posts, args.runs);
    let costs = place.rounds(args.runs)?;
    print_table(args.posts, &costs);
    if args.commits > 0 {
        let state = place.fresh_state()?;
        let size = (args.posts, args.commits);
        let lags = follow::lags(&place.tagflow, &place.input, &state, size)?;
        fs::remove_dir_all(state)?;
        print_lags(&lags)?;
    }
    if args.reconcile {
        let state = place.fresh_state()?;
        reconcile::print(&place.tagflow, &place.input, &state, args.posts)?;
        fs::remove_dir_all(state)?;
    }
    Ok(())
}

impl Place {
    fn find(posts: u64) -> Result<Self, Box<dyn Error>> {
        let this = std::env::current_exe()?;
        let tagflow = this.with_file_name("tagflow");
        if !tagflow.is_file() {
            return Err(format!("{} is not built; scripts/bench does", tagflow.display()).into());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no folder above")?;
        let data = root.join("data");
        let input = data.join(format!("w1-{posts}.ndjson"));
        Ok(Self { this, tagflow, data, input })
    }

    /// Makes the workload where it is not there.
    fn generate(&self, posts: u64) -> Result<(), Box<dyn Error>> {
        if self.input.is_file() {
            return Ok(());
        }
        fs::create_dir_all(&self.data)?;
        eprintln!("generating {}", self.input.display());
        // Renamed when it is whole, so that half a file is never taken for one.
        let partial = self.input.with_extension("partial");
        let words = "--seed 1 --tags-mean 7 --vocabulary 1000000 --zipf 1.05 --duplicates 0.02";
        let mut generate = Command::new(&self.tagflow);
        generate.args(["generate", "--posts", &posts.to_string()]);
        generate.args(words.split(' ')).arg("--out").arg(&partial);
        measure(&mut generate)?;
        Ok(fs::rename(partial, &self.input)?)
    }

    /// The programs take turns, so that a slow spell of the machine meets them all.
    fn rounds(&self, runs: u64) -> Result<Vec<(Program, Vec<Cost>)>, Box<dyn Error>> {
        let mut costs = Program::ALL.map(|program| (program, Vec::new())).to_vec();
        let mut first: Option<Sums> = None;
        for run in 1..=runs {
            for (program, costs) in &mut costs {
                let (sums, cost) = self.run(*program)?;
                let name = program.name();
                eprintln!("run {run}/{runs}: {name:<20} {:6.2} s", cost.seconds);
                costs.push(cost);
                let first = first.get_or_insert_with(|| {
                    println!("{}\n", sums.told());
                    sums.clone()
                });
                if *first != sums {
                    return Err(format!("{name} counted {sums:?}, the baseline {first:?}").into());
                }
            }
        }
        Ok(costs)
    }

    fn run(&self, program: Program) -> Result<(Sums, Cost), Box<dyn Error>> {
        let Program::Tagflow { workers } = program else {
            let (out, cost) = measure(Command::new(&self.this).arg("--baseline").arg(&self.input))?;
            return Ok((serde_json::from_str(&out)?, cost));
        };
        let state = self.fresh_state()?;
        let mut command = Command::new(&self.tagflow);
        command.args(["run", "--bounded", "--workers", &workers.to_string(), "--input"]);
        let (_, cost) = measure(command.arg(&self.input).arg("--state").arg(&state))?;
        let sums = Sums::of_state(&self.tagflow, &state)?;
        fs::remove_dir_all(state)?;
        Ok((sums, cost))
    }

    fn fresh_state(&self) -> Result<PathBuf, Box<dyn Error>> {
        let state = self.data.join("bench-state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        Ok(state)
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

fn print_table(posts: u64, costs: &[(Program, Vec<Cost>)]) {
    println!("| program | posts/s (median) | min | max | peak MiB | speed / baseline |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut baseline = None;
    for (program, costs) in costs {
        let mut rates: Vec<f64> = costs.iter().map(|cost| posts as f64 / cost.seconds).collect();
        rates.sort_by(f64::total_cmp);
        let rate = median(&rates);
        let ratio = rate / *baseline.get_or_insert(rate);
        let peak = costs.iter().filter_map(|cost| cost.peak_kib).max();
        let peak = peak.map_or_else(|| "-".to_owned(), |kib| (kib >> 10).to_string());
        println!(
            "| {} | {rate:.0} | {:.0} | {:.0} | {peak} | {ratio:.2} |",
            program.name(),
            rates[0],
            rates[rates.len() - 1],
        );
    }
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
