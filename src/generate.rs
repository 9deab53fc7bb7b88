//! `tagflow generate`: writes posts shaped like real ones to files, standard output or a topic.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataflow::InputError;
use dataflow::clock::{Clock, SystemClock};
use dataflow::generator::{Generator, GeneratorSpec};
use kafka::{Created, KafkaOptions, TopicError, TopicWriter, WriterError};
use schemas::config::{PostShape, SourceUri};
use schemas::printable::{counted, shown};
use schemas::time::Millis;

use crate::error::CliError;
use crate::inputs::{kafka_settings, properties, refused};
use crate::say;

/// Generate posts shaped like a real stream's, from a seed
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow generate --posts 100000 --seed 1 --out posts.ndjson
  tagflow generate --posts 100000 --out kafka://127.0.0.1:9092/posts --partitions 6")]
pub(crate) struct Args {
    #[command(flatten)]
    shape: PostShape,
    /// The event time of the first record
    #[arg(long, value_name = "MS", default_value_t = GeneratorSpec::default().start_ms)]
    start_ms: i64,
    /// The number of records
    #[arg(long, value_name = "N")]
    posts: u64,
    /// The event time from the first record to the last
    #[arg(long, default_value_t = Millis(30 * 3_600_000))]
    span: Millis,
    /// A file, a folder (one file per partition), `kafka://HOST:PORT[,HOST:PORT]/TOPIC`, or - for
    /// standard output
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Write a folder of P files, or create the topic with P partitions
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    partitions: Option<u16>,
    /// Write N posts per second, dated now
    #[arg(long, value_name = "N", conflicts_with_all = ["span", "start_ms"])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// A property of the Kafka client, by its librdkafka name; pass secrets in variables such as
    /// `TAGFLOW_KAFKA_SASL_PASSWORD`
    #[arg(long, value_name = "KEY=VALUE")]
    kafka: Vec<String>,
}

/// Where records go.
enum Sink {
    /// Files, each in turn.
    Files(Vec<Box<dyn Write>>, PathBuf),
    /// A topic, partitioned by user.
    Topic(Box<TopicWriter>),
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let clock = SystemClock::default();
    let (start_ms, step_us) = match args.rate {
        Some(rate) => (clock.wall_ms(), 1_000_000 / rate),
        None => (args.start_ms, args.span.0.unsigned_abs() * 1000 / args.posts.max(1)),
    };
    let (posts, shape) = (Some(args.posts), args.shape.clone());
    let spec = GeneratorSpec { posts, shape, start_ms, step_us, partitions: 1 };
    let start_us = clock.mono_us();
    let generator = Generator::new(spec).map_err(InputError::from)?;
    let mut sink = sink(&args)?;
    let mut record = String::new();
    for index in 0..args.posts {
        if let Some(rate) = args.rate {
            // Not from the step: it is whole microseconds, so 300,000 a second would be 333,333.
            let due_us = start_us + index.saturating_mul(1_000_000) / rate;
            while let Some(wait) = due_us.checked_sub(clock.mono_us()).filter(|us| *us > 1000) {
                sink.flush()?;
                std::thread::park_timeout(Duration::from_micros(wait));
            }
        }
        generator.record(index, &mut record);
        sink.write(index, &mut record)?;
    }
    sink.finish()
}

/// Opens what `--out` names.
fn sink(args: &Args) -> Result<Sink, CliError> {
    let text = args.out.to_string_lossy();
    if !text.starts_with("kafka:") {
        if !args.kafka.is_empty() {
            let what = "--kafka applies to kafka: outputs only; leave it out";
            return Err(CliError::Usage(what.to_owned()));
        }
        return Ok(Sink::Files(open(&args.out, args.partitions, args.force)?, args.out.clone()));
    }
    let source = text.parse().map_err(|error| CliError::Usage(format!("--out: {error}")))?;
    let SourceUri::Kafka { brokers, topic } = source else {
        return Err(CliError::Usage(format!("--out: {text:?} is not a Kafka topic")));
    };
    let properties = properties(&args.kafka)?;
    let options = KafkaOptions { properties: properties.clone(), ..KafkaOptions::default() };
    let opened = TopicWriter::open(kafka_settings(&brokers, &topic, options), args.partitions);
    let (writer, created) = opened.map_err(|error| match error {
        WriterError::Property(error) => refused(&error, &properties),
        WriterError::Topic(error) => CliError::Failed(error.to_string()),
    })?;
    match created {
        Created::New(partitions) => {
            let partitions = counted(partitions, "partition", "partitions");
            say::note(format!("created topic {topic} with {partitions}"));
        }
        Created::Existing(there) if args.partitions.is_some_and(|p| usize::from(p) != there) => {
            let there = counted(there, "partition", "partitions");
            say::warning(format!("topic {topic} already has {there}; --partitions was ignored"));
        }
        Created::Existing(_) => {}
    }
    Ok(Sink::Topic(Box::new(writer)))
}

impl Sink {
    fn write(&mut self, index: u64, record: &mut String) -> Result<(), CliError> {
        match self {
            Self::Files(files, out) => {
                record.push('\n');
                let file = (index % files.len() as u64) as usize;
                files[file].write_all(record.as_bytes()).map_err(cannot_write(out))
            }
            Self::Topic(writer) => writer.write(user(record), record).map_err(failed),
        }
    }

    /// Makes what was written visible to others soon.
    fn flush(&mut self) -> Result<(), CliError> {
        match self {
            Self::Files(files, out) => {
                files.iter_mut().try_for_each(Write::flush).map_err(cannot_write(out))
            }
            Self::Topic(writer) => writer.poll().map_err(failed),
        }
    }

    fn finish(mut self) -> Result<(), CliError> {
        self.flush()?;
        if let Self::Topic(writer) = self {
            let written = writer.finish().map_err(failed)?;
            say::note(format!("{} acknowledged", counted(written, "record", "records")));
        }
        Ok(())
    }
}

fn failed(error: TopicError) -> CliError {
    CliError::Failed(error.to_string())
}

/// The user of a generated record, by which records are partitioned.
fn user(record: &str) -> &str {
    let rest = record.split_once("\"user_id\":\"").map(|(_, rest)| rest);
    let user = rest.and_then(|rest| rest.split_once('"')).map(|(user, _)| user);
    let Some(user) = user else { unreachable!("{record}: every generated record has a user_id") };
    user
}

fn cannot_write(out: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    CliError::io(format!("cannot write {}", shown(out)))
}

/// Opens the files that `out` stands for. Without `force` none of them may exist, but a device or a
/// pipe, which has nothing to lose.
fn open(out: &Path, partitions: Option<u16>, force: bool) -> Result<Vec<Box<dyn Write>>, CliError> {
    let create = |path: &Path| -> Result<Box<dyn Write>, CliError> {
        let is_special = fs::metadata(path).is_ok_and(|found| !found.is_file());
        let file = if force || is_special { File::create(path) } else { File::create_new(path) };
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                let path = shown(path);
                CliError::Failed(format!("{path} exists; --force replaces it"))
            }
            _ => cannot_write(path)(error),
        })?;
        Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
    };
    match partitions {
        _ if out == Path::new("-") => {
            Ok(vec![Box::new(BufWriter::with_capacity(1 << 16, std::io::stdout().lock()))])
        }
        None if !out.is_dir() => Ok(vec![create(out)?]),
        partitions => {
            fs::create_dir_all(out).map_err(cannot_write(out))?;
            let numbers = 0..partitions.unwrap_or(1);
            let paths: Vec<PathBuf> =
                numbers.map(|p| out.join(format!("posts-{p:03}.ndjson"))).collect();
            if let Some(path) = paths.iter().find(|path| !force && path.exists()) {
                // Before any other is created.
                let path = shown(path);
                return Err(CliError::Failed(format!("{path} exists; --force replaces it")));
            }
            paths.iter().map(|path| create(path)).collect()
        }
    }
}
