//! W1 beside a general database that counts it in one batch: `DuckDB` in Python.
//!
//! `bench/peers/duckdb_w1.py` counts the same file, each event once, with a regular expression for
//! the tags and totals in memory. It has no windows, spellings, times or commits. Its tag rules
//! differ, so different counts are printed and are not an error.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::measure::{Cost, Rates, measure};
use crate::paths::Paths;
use crate::sums::Sums;
use crate::workload::{Program, Workload};

/// Its threads, as many as Tagflow's workers.
const THREADS: [u8; 2] = [1, 2];

#[derive(Deserialize)]
struct Peer {
    version: String,
    events: u64,
    duplicates: u64,
    tags: u64,
    uses: i64,
    /// The sum of the squares of all tags' uses.
    squares: i64,
    top: Vec<(String, i64)>,
}

/// Runs all programs in turn; prints a table, and how the counts differ.
pub(crate) fn run(
    paths: &Paths,
    python: &Path,
    (posts, runs): (u64, u64),
) -> Result<(), Box<dyn Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join("duckdb_w1.py");
    let mut w1 = Workload::w1(paths, posts)?;
    let mut costs: [Vec<Cost>; THREADS.len()] = Default::default();
    let mut peer: Option<Peer> = None;
    for run in 1..=runs {
        eprintln!("run {run}/{runs}");
        w1.round(paths)?;
        for (threads, costs) in THREADS.iter().zip(&mut costs) {
            let mut command = Command::new(python);
            command.arg(&script).arg(&w1.input).arg(threads.to_string());
            let (out, cost) = measure(&mut command)?;
            eprintln!("DuckDB, {threads} threads     {:6.2} s", cost.seconds);
            costs.push(cost);
            peer = Some(serde_json::from_str(&out)?);
        }
    }
    let peer = peer.ok_or("there were no runs")?;
    let cores = std::thread::available_parallelism()?;
    println!("W1 of {posts} posts, {runs} runs of each, {cores} cores\n");
    println!("| program | posts/s (median) | min | max | peak MiB | speed / DuckDB, 1 thread |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut lines = Vec::new();
    for (threads, costs) in THREADS.iter().zip(&costs) {
        let name = format!("DuckDB {}, {threads} thread{}", peer.version, plural(*threads));
        lines.push((name, Rates::of(posts, costs)?));
    }
    lines.extend(Program::ALL.map(Program::name).into_iter().zip(w1.rates()?));
    for (name, rates) in &lines {
        println!("| {name} | {rates} | {:.2} |", rates.median / lines[0].1.median);
    }
    print_sums(&peer, w1.sums.as_ref().ok_or("nothing was counted")?);
    Ok(())
}

/// What the peer counted, beside ours.
fn print_sums(peer: &Peer, ours: &Sums) {
    println!("\n| counted | DuckDB | tagflow | difference |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, theirs, ours) in [
        ("events", peer.events as f64, ours.events as f64),
        ("duplicates", peer.duplicates as f64, ours.duplicates as f64),
        ("different tags", peer.tags as f64, ours.keys as f64),
        ("uses", peer.uses as f64, ours.total as f64),
        ("sum of the squares of uses", peer.squares as f64, ours.squares as f64),
    ] {
        let percent = (theirs - ours) / ours.max(1.0) * 100.0;
        println!("| {name} | {theirs} | {ours} | {percent:.4} % |");
    }
    if let (Some((tag, uses)), Some((_, least))) = (peer.top.first(), peer.top.last()) {
        println!("\nTop {}: from #{tag} with {uses} uses to {least}.", peer.top.len());
    }
}

fn plural(number: u8) -> &'static str {
    if number == 1 { "" } else { "s" }
}
