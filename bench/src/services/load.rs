//! How soon a produced post is a visible row, at rates up to and beyond what the database takes.
//!
//! One marker post after the other, each with a tag of its own, is produced into the load and
//! looked for in the table.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use schemas::config::{SourceUri, StoreUri};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;

use super::{PARTITIONS, Servers};
use crate::Place;
use crate::measure::{measure, median, now, peak};

/// Posts a second: the seeds' own load, and beyond what the database takes.
const RATES: [u64; 4] = [2000, 5000, 20_000, 80_000];
/// How long a row is waited for at most.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often a row is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A child that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What came of one rate.
struct Found {
    /// From produced to visible, in seconds, sorted.
    seconds: Vec<f64>,
    /// From the end of the load to the visibility of its last post.
    after_s: f64,
    peak_mib: u64,
    /// Writes for each row that a published commit had changed.
    writes: f64,
}

/// Measures and prints every rate.
pub(super) fn print(place: &Place, servers: &Servers, seconds: u64) -> Result<(), Box<dyn Error>> {
    println!("\nFrom produced to visible in the database, {seconds} s of each rate, 1 worker\n");
    println!("| posts/s | p50 s | p99 s | max s | caught up after s | peak MiB | writes / row |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for rate in RATES {
        let Found { seconds, after_s, peak_mib, writes } = at(place, servers, rate, seconds)?;
        let last = seconds.len().checked_sub(1).ok_or("no marker was seen")?;
        let p99 = seconds[(seconds.len() * 99).div_ceil(100) - 1];
        println!(
            "| {rate} | {:.2} | {p99:.2} | {:.2} | {after_s:.1} | {peak_mib} | {writes:.3} |",
            median(&seconds),
            seconds[last],
        );
    }
    Ok(())
}

fn at(place: &Place, servers: &Servers, rate: u64, seconds: u64) -> Result<Found, Box<dyn Error>> {
    let topic = servers.topic(&format!("rate{rate}"));
    let store = servers.keyspace(&place.tagflow, &format!("rate{rate}"))?;
    let state = place.data.join("bench-load");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    let generate = |posts: u64| {
        let mut command = Command::new(&place.tagflow);
        command.args(["generate", "--zipf", "1.05", "--out", &topic]);
        command.args(["--partitions", &PARTITIONS.to_string(), "--posts", &posts.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Makes the topic.
    measure(generate(1).args(["--rate", "1000"]))?;
    let job = start_job(place, &topic, &store, &state)?;
    let load = generate(rate * seconds).args(["--rate", &rate.to_string()]).spawn()?;
    let mut load = Running(load);
    let probe = Probe::new(&topic, &store)?;
    let (mut found, status) = (Vec::new(), format!("/proc/{}/status", job.0.id()));
    let mut ended = None;
    loop {
        let number = found.len();
        found.push(probe.marker(&format!("marker{rate}x{number}"))?);
        if ended.is_none() && load.0.try_wait()?.is_some() {
            ended = Some(now());
        } else if ended.is_some() {
            break;
        }
    }
    // Markers go to every partition in turn: the last ones stand behind all of the load.
    for extra in 0..PARTITIONS {
        found.push(probe.marker(&format!("marker{rate}e{extra}"))?);
    }
    let after_s = ended.map_or(0.0, |ended| ended.elapsed().as_secs_f64());
    found.sort_by(f64::total_cmp);
    let peak_mib = peak(&status).unwrap_or_default() >> 10;
    let writes = writes_per_row(job)?;
    fs::remove_dir_all(&state)?;
    Ok(Found { seconds: found, after_s, peak_mib, writes })
}

fn start_job(
    place: &Place,
    topic: &str,
    store: &str,
    state: &PathBuf,
) -> Result<Running, Box<dyn Error>> {
    let mut job = Command::new(&place.tagflow);
    job.args(["run", "--json", "--workers", "1", "--input", topic, "--store", store]);
    job.arg("--state").arg(state).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(Running(job.stderr(Stdio::null()).spawn()?))
}

/// Ends a job, which tells how many rows it has published and how many writes it had to repeat.
fn writes_per_row(mut job: Running) -> Result<f64, Box<dyn Error>> {
    Command::new("kill").args(["-TERM", &job.0.id().to_string()]).status()?;
    let mut told = String::new();
    job.0.stdout.take().ok_or("no standard output")?.read_to_string(&mut told)?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let number = |field: &str| told["store"][field].as_f64().ok_or("the job tells no rows");
    let rows = number("rows")?;
    Ok((rows + number("resent")?) / rows)
}

/// Produces marker posts and looks for their rows.
struct Probe {
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    topic: String,
    runtime: tokio::runtime::Runtime,
    session: Session,
    select: PreparedStatement,
}

impl Probe {
    fn new(topic: &str, store: &str) -> Result<Self, Box<dyn Error>> {
        let SourceUri::Kafka { brokers, topic } = topic.parse()? else {
            return Err("name a topic".into());
        };
        let brokers: Vec<String> = brokers.iter().map(ToString::to_string).collect();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers.join(","))
            .set("linger.ms", "0")
            .create()?;
        let uri: StoreUri = store.parse()?;
        let nodes: Vec<String> = uri.nodes.iter().map(ToString::to_string).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let text =
            format!("SELECT total FROM \"{}\".tag WHERE scope = '' AND tag = ?", uri.keyspace);
        let (session, select) = runtime.block_on(async {
            let session = SessionBuilder::new().known_nodes(nodes).build().await?;
            let select = session.prepare(text).await?;
            Ok::<_, Box<dyn Error>>((session, select))
        })?;
        Ok(Self { producer, topic, runtime, session, select })
    }

    /// Seconds from producing a post with this tag to its being in the table.
    fn marker(&self, tag: &str) -> Result<f64, Box<dyn Error>> {
        let start = now();
        let ts = wall_ms();
        let record = format!(r##"{{"event_id":"{tag}","ts":{ts},"caption":"#{tag}"}}"##);
        let record = BaseRecord::<(), _>::to(&self.topic).payload(&record);
        self.producer.send(record).map_err(|(error, _)| error)?;
        self.producer.flush(Duration::from_secs(20))?;
        while start.elapsed() < PATIENCE {
            let rows = self.runtime.block_on(self.session.execute_unpaged(&self.select, (tag,)))?;
            if rows.into_rows_result()?.rows_num() > 0 {
                return Ok(start.elapsed().as_secs_f64());
            }
            std::thread::park_timeout(LOOK);
        }
        Err(format!("no row of #{tag} within {} s", PATIENCE.as_secs()).into())
    }
}

#[allow(clippy::disallowed_methods, reason = "events carry the real time")]
fn wall_ms() -> u128 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis()
}
