//! The job between a real Kafka and a real database, each side compared with a program that does
//! only that: a bare consumer that decodes, and a bare loop of upserts.
//!
//! `scripts/bench --services` uses the servers of `TAGFLOW_TEST_KAFKA` and `TAGFLOW_TEST_CQL`. It
//! creates topics and keyspaces and does not remove them.

mod consume;
mod load;
mod servers;
mod upsert;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use consume::consume;

use crate::measure::{Cost, Rates, measure};
use crate::paths::Paths;
use crate::workload::Shape;
use servers::{PARTITIONS, Servers};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) posts: u64,
    pub(crate) runs: u64,
    /// How long each rate of the load lasts.
    pub(crate) seconds: u64,
}

/// Runs all measurements.
pub(crate) fn run(paths: &Paths, sizes: Sizes) -> Result<(), Box<dyn Error>> {
    let servers = Servers::find()?;
    let topic = servers.topic("w1");
    eprintln!("producing {} posts to {topic}", sizes.posts);
    let mut generate = Shape::W1.generate(&paths.tagflow, sizes.posts, Path::new(&topic));
    measure(generate.args(["--partitions", &PARTITIONS.to_string()]))?;
    let (state, top) = reading(paths, &topic, sizes)?;
    upsert::print(paths, &servers, &state)?;
    fs::remove_dir_all(&state)?;
    load::print(paths, &servers, sizes.seconds, top)
}

/// Measures from a topic to durable counts; returns the state of the last run, and the posts per
/// second of one worker.
fn reading(paths: &Paths, topic: &str, sizes: Sizes) -> Result<(PathBuf, f64), Box<dyn Error>> {
    let Sizes { posts, runs, .. } = sizes;
    let state = paths.data.join("bench-kafka");
    let fresh = || if state.exists() { fs::remove_dir_all(&state) } else { Ok(()) };
    let mut costs: [(&str, Vec<Cost>); 3] =
        ["bare consumer", "tagflow, 1 worker", "tagflow, 2 workers"].map(|name| (name, Vec::new()));
    for _ in 0..runs {
        for (workers, (name, costs)) in costs.iter_mut().enumerate() {
            let (text, cost) = if workers == 0 {
                measure(Command::new(&paths.this).args(["--consume", topic]))?
            } else {
                fresh()?;
                let mut run = Command::new(&paths.tagflow);
                run.args(["run", "--bounded", "--json", "--workers", &workers.to_string()]);
                measure(run.args(["--input", topic, "--state"]).arg(&state))?
            };
            let counted: serde_json::Value = serde_json::from_str(&text)?;
            let events = counted["events"].as_u64().ok_or("the summary has no events")?;
            // The bare consumer does not look for duplicates.
            let read = events + counted["duplicates"].as_u64().unwrap_or(0);
            if read != posts {
                return Err(format!("{name} read {read} of {posts} posts").into());
            }
            eprintln!("{name:<20} {:6.2} s", cost.seconds);
            costs.push(cost);
        }
    }
    println!("\nFrom a topic of {PARTITIONS} partitions to durable counts, {posts} posts\n");
    println!("| program | posts/s (median) | min | max | peak MiB | speed / bare consumer |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let rates = costs.iter().map(|(_, costs)| Rates::of(posts, costs));
    let rates = rates.collect::<Result<Vec<_>, _>>()?;
    for (rate, (name, _)) in rates.iter().zip(&costs) {
        println!("| {name} | {rate} | {:.2} |", rate.median / rates[0].median);
    }
    Ok((state, rates[1].median))
}
