//! The job between a real Kafka and a real database, each side beside a program that does just
//! that one thing: a bare consumer that decodes, and a bare loop of upserts.
//!
//! `scripts/bench --services` runs it on the servers of `TAGFLOW_TEST_KAFKA` and
//! `TAGFLOW_TEST_CQL`. Topics and keyspaces are new ones, and stay.

mod consume;
mod load;
mod upsert;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

pub(crate) use consume::consume;

use crate::Place;
use crate::measure::{Cost, Rates, measure};
use crate::workload::Shape;

/// The partitions of a topic.
const PARTITIONS: u32 = 6;

/// The servers and what was made on them.
struct Servers {
    kafka: String,
    cql: String,
    /// Makes names new.
    stamp: u128,
}

/// What is measured, and how much of it.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) posts: u64,
    pub(crate) runs: u64,
    /// How long each rate of the curve lasts.
    pub(crate) seconds: u64,
}

impl Servers {
    #[allow(clippy::disallowed_methods, reason = "servers outlive a run")]
    fn find() -> Result<Self, Box<dyn Error>> {
        let named = |variable: &str| {
            std::env::var(variable).map_err(|_| {
                format!("{variable} names no servers; `scripts/services up`, then its `env`, do")
            })
        };
        let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
        Ok(Self { kafka: named("TAGFLOW_TEST_KAFKA")?, cql: named("TAGFLOW_TEST_CQL")?, stamp })
    }

    fn topic(&self, name: &str) -> String {
        format!("kafka://{}/bench_{name}_{}", self.kafka, self.stamp)
    }

    /// A new keyspace with its tables.
    fn keyspace(&self, tagflow: &Path, name: &str) -> Result<String, Box<dyn Error>> {
        let store = format!("cql://{}/bench_{name}_{}", self.cql, self.stamp);
        measure(Command::new(tagflow).args(["store", "init", "--store", &store]))?;
        Ok(store)
    }
}

/// Measures all of it.
pub(crate) fn run(place: &Place, sizes: Sizes) -> Result<(), Box<dyn Error>> {
    let servers = Servers::find()?;
    let topic = servers.topic("w1");
    eprintln!("producing {} posts to {topic}", sizes.posts);
    let mut generate = Shape::W1.generate(&place.tagflow, sizes.posts, Path::new(&topic));
    measure(generate.args(["--partitions", &PARTITIONS.to_string()]))?;
    let (state, top) = reading(place, &topic, sizes)?;
    upsert::print(place, &servers, &state)?;
    fs::remove_dir_all(&state)?;
    load::print(place, &servers, sizes.seconds, top)
}

/// From a topic to durable counts; the state of the last run, and one worker's posts a second.
fn reading(place: &Place, topic: &str, sizes: Sizes) -> Result<(PathBuf, f64), Box<dyn Error>> {
    let Sizes { posts, runs, .. } = sizes;
    let state = place.data.join("bench-kafka");
    let fresh = || if state.exists() { fs::remove_dir_all(&state) } else { Ok(()) };
    let mut costs: [(&str, Vec<Cost>); 3] =
        ["bare consumer", "tagflow, 1 worker", "tagflow, 2 workers"].map(|name| (name, Vec::new()));
    for _ in 0..runs {
        for (workers, (name, costs)) in costs.iter_mut().enumerate() {
            let (text, cost) = if workers == 0 {
                measure(Command::new(&place.this).args(["--consume", topic]))?
            } else {
                fresh()?;
                let mut run = Command::new(&place.tagflow);
                run.args(["run", "--bounded", "--json", "--workers", &workers.to_string()]);
                measure(run.args(["--input", topic, "--state"]).arg(&state))?
            };
            let told: serde_json::Value = serde_json::from_str(&text)?;
            let number = |name: &str| told[name].as_u64().unwrap_or_default();
            let read = number("events") + number("duplicates");
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
