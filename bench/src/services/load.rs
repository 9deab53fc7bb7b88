//! How soon a produced post is a visible row, at fractions of the rate that the job reaches without
//! a database.
//!
//! Marker posts, each with a unique tag, are added to the load at fixed intervals, no matter how
//! long earlier ones take, so that slow periods are not underrepresented.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, SystemTimeError, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use schemas::config::{SourceUri, StoreUri};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;

use super::servers::{PARTITIONS, Servers};
use crate::measure::{KilledOnDrop, measure, median, now, peak};
use crate::paths::Paths;
use crate::workload::Shape;

/// Fractions of the top rate, in percent.
const SHARES: [u64; 3] = [10, 50, 80];
/// The highest rate that `tagflow generate --rate` accepts.
const RATE_MAX: u64 = 1_000_000;
/// How long to wait for a row.
const PATIENCE: Duration = Duration::from_mins(5);
/// The time between markers.
const EVERY: Duration = Duration::from_millis(500);
/// How often to look for rows.
const LOOK: Duration = Duration::from_millis(5);

/// The process that produces the posts, and when it ended.
struct Load {
    child: KilledOnDrop,
    ended: Option<Instant>,
}

impl Load {
    fn look(&mut self) -> Result<(), Box<dyn Error>> {
        if self.ended.is_none()
            && let Some(status) = self.child.0.try_wait()?
        {
            if !status.success() {
                return Err(format!("the generator failed with {status}").into());
            }
            self.ended = Some(now());
        }
        Ok(())
    }
}

/// The results of one rate.
struct Latency {
    /// From produced to visible, in ascending seconds.
    seconds: Vec<f64>,
    /// Posts per second that were produced; fewer than requested if the machine is too slow.
    produced: f64,
    /// From the end of the load until its last post was visible.
    after_s: f64,
    /// Peak memory of the job; `None` if the system does not report it.
    peak_mib: Option<u64>,
    /// Writes per row that published commits had changed.
    writes: f64,
}

/// Measures and prints each share of `top`, the posts per second from a topic to durable counts.
pub(super) fn print(
    paths: &Paths,
    servers: &Servers,
    seconds: u64,
    top: f64,
) -> Result<(), Box<dyn Error>> {
    println!(
        "\nFrom produced to visible in the database, {seconds} s of each rate, 1 worker, at shares \
         of {top:.0} posts/s\n"
    );
    println!(
        "| share | posts/s | produced | markers | p50 s | p99 s | max s | caught up after s \
         | peak MiB | writes / row |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for share in SHARES {
        let rate = ((top * share as f64 / 100.0) as u64).clamp(1, RATE_MAX);
        let latency = at_rate(paths, servers, rate, seconds)?;
        let Latency { seconds, produced, after_s, peak_mib, writes } = latency;
        let peak_mib = peak_mib.map_or_else(|| "-".to_owned(), |mib| mib.to_string());
        let last = seconds.len().checked_sub(1).ok_or("no marker was seen")?;
        let p99 = seconds[(seconds.len() * 99).div_ceil(100) - 1];
        println!(
            "| {share} % | {rate} | {produced:.0} | {} | {:.2} | {p99:.2} | {:.2} | {after_s:.1} \
             | {peak_mib} | {writes:.3} |",
            seconds.len(),
            median(&seconds),
            seconds[last],
        );
    }
    Ok(())
}

fn at_rate(
    paths: &Paths,
    servers: &Servers,
    rate: u64,
    seconds: u64,
) -> Result<Latency, Box<dyn Error>> {
    let topic = servers.topic(&format!("rate{rate}"));
    let store = servers.keyspace(&paths.tagflow, &format!("rate{rate}"))?;
    let state = paths.data.join("bench-load");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    let generate = |posts: u64| {
        let mut command = Shape::W1.generate(&paths.tagflow, posts, Path::new(&topic));
        command.args(["--partitions", &PARTITIONS.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Creates the topic.
    measure(generate(1).args(["--rate", "1000"]))?;
    let job = start_job(paths, &topic, &store, &state)?;
    let probe = Probe::new(&topic, &store)?;
    let (mut found, status) = (Vec::new(), format!("/proc/{}/status", job.0.id()));
    let (start, posts) = (now(), rate * seconds);
    let child = generate(posts).args(["--rate", &rate.to_string()]).spawn()?;
    let mut load = Load { child: KilledOnDrop(child), ended: None };
    let (mut waiting, mut sent, mut due) = (Vec::new(), 0, start);
    let ended = loop {
        load.look()?;
        if let Some(ended) = load.ended {
            break ended;
        }
        if now() >= due {
            waiting.push(probe.send(format!("marker{rate}x{sent}"), None)?);
            (sent, due) = (sent + 1, due + EVERY);
        }
        probe.collect(&mut waiting, &mut found)?;
    };
    // One in each partition, after the whole load.
    let last = |p| probe.send(format!("marker{rate}e{p}"), Some(p));
    let mut last = (0..PARTITIONS).map(last).collect::<Result<Vec<_>, _>>()?;
    while !waiting.is_empty() || !last.is_empty() {
        probe.collect(&mut waiting, &mut found)?;
        probe.collect(&mut last, &mut Vec::new())?;
    }
    let after_s = ended.elapsed().as_secs_f64();
    let produced = posts as f64 / ended.duration_since(start).as_secs_f64();
    found.sort_by(f64::total_cmp);
    let peak_mib = peak(&status).map(|kib| kib >> 10);
    let writes = writes_per_row(job)?;
    fs::remove_dir_all(&state)?;
    Ok(Latency { seconds: found, produced, after_s, peak_mib, writes })
}

fn start_job(
    paths: &Paths,
    topic: &str,
    store: &str,
    state: &PathBuf,
) -> Result<KilledOnDrop, Box<dyn Error>> {
    let mut job = Command::new(&paths.tagflow);
    job.args(["run", "--json", "--workers", "1", "--input", topic, "--store", store]);
    job.arg("--state").arg(state).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(KilledOnDrop(job.stderr(Stdio::null()).spawn()?))
}

/// Stops a job, and computes the writes per row from its summary.
fn writes_per_row(mut job: KilledOnDrop) -> Result<f64, Box<dyn Error>> {
    Command::new("kill").args(["-TERM", &job.0.id().to_string()]).status()?;
    let mut summary = String::new();
    job.0.stdout.take().ok_or("no standard output")?.read_to_string(&mut summary)?;
    let summary: serde_json::Value = serde_json::from_str(&summary)?;
    let number = |field: &str| summary["store"][field].as_f64().ok_or("the summary has no rows");
    let rows = number("rows")?;
    Ok((rows + number("resent")?) / rows)
}

/// A post that was produced.
struct Marker {
    tag: String,
    sent: Instant,
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
            return Err("not the URI of a topic".into());
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

    /// Produces a post with this tag to one partition, or to any.
    fn send(&self, tag: String, partition: Option<u32>) -> Result<Marker, Box<dyn Error>> {
        let (sent, ts) = (now(), wall_ms()?);
        let post = format!(r##"{{"event_id":"{tag}","ts":{ts},"caption":"#{tag}"}}"##);
        let mut record = BaseRecord::<(), _>::to(&self.topic).payload(&post);
        if let Some(partition) = partition {
            record = record.partition(partition as i32);
        }
        self.producer.send(record).map_err(|(error, _)| error)?;
        self.producer.flush(Duration::from_secs(20))?;
        Ok(Marker { tag, sent })
    }

    /// Moves markers whose rows are visible from `waiting` to `found`, as the seconds that they
    /// took, and sleeps briefly.
    fn collect(
        &self,
        waiting: &mut Vec<Marker>,
        found: &mut Vec<f64>,
    ) -> Result<(), Box<dyn Error>> {
        for marker in std::mem::take(waiting) {
            let select = self.session.execute_unpaged(&self.select, (&marker.tag,));
            let rows = self.runtime.block_on(select)?.into_rows_result()?.rows_num();
            let took = marker.sent.elapsed();
            if rows > 0 {
                found.push(took.as_secs_f64());
            } else if took > PATIENCE {
                return Err(format!("no row of #{} within {PATIENCE:?}", marker.tag).into());
            } else {
                waiting.push(marker);
            }
        }
        std::thread::park_timeout(LOOK);
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "events carry the real time")]
fn wall_ms() -> Result<u128, SystemTimeError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}
