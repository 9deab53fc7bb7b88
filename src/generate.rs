//! `tagflow generate`: posts shaped like real ones, to files or standard output.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use dataflow::InputError;
use dataflow::log::generator::{Generator, GeneratorSpec};
use schemas::time::parse_duration_ms;

use crate::error::CliError;

/// Generate posts shaped like a real stream's, reproducibly from a seed
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow generate --posts 100000 --seed 1 --out posts.ndjson")]
pub(crate) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// The number of records
    #[arg(long, value_name = "N")]
    posts: u64,
    /// Event time from the first record to the last
    #[arg(long, default_value = "30h", value_parser = parse_duration_ms)]
    span: i64,
    /// A file, or a folder for one file each partition; - is standard output
    #[arg(long, value_name = "FILE_OR_DIR")]
    out: PathBuf,
    /// Write a folder of so many files
    #[arg(long, value_name = "P")]
    partitions: Option<u64>,
}

/// What generated posts look like.
#[derive(clap::Args)]
pub(crate) struct Shape {
    /// All randomness comes from this number
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// The mean number of tags of a post
    #[arg(long, default_value_t = 7.0, value_name = "M")]
    tags_mean: f64,
    /// The number of different tags
    #[arg(long, default_value_t = 1_000_000, value_name = "V")]
    vocabulary: u64,
    /// Popularity by Zipf with this exponent instead of a double power law
    #[arg(long, value_name = "S")]
    zipf: Option<f64>,
    /// The share of records that deliver an earlier event again
    #[arg(long, default_value_t = 0.02, value_name = "SHARE")]
    duplicates: f64,
    /// The share of events that are late, by up to an hour
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    late: f64,
    /// The share of events dated an hour into the future
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    future: f64,
    /// Let a tag burst every ten minutes of event time
    #[arg(long)]
    bursts: bool,
    /// The event time of the first record
    #[arg(long, default_value_t = 1_700_000_000_000, value_name = "MS")]
    start_ms: i64,
}

impl Shape {
    /// The specification of `posts` records over `span_ms` of event time.
    pub(crate) fn spec(&self, posts: Option<u64>, step_us: u64) -> GeneratorSpec {
        GeneratorSpec {
            posts,
            seed: self.seed,
            tags_mean: self.tags_mean,
            vocabulary: self.vocabulary,
            zipf: self.zipf,
            duplicates: self.duplicates,
            late: self.late,
            future: self.future,
            bursts: self.bursts,
            start_ms: self.start_ms,
            step_us,
            partitions: 1,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let step_us = (args.span.unsigned_abs() * 1000).checked_div(args.posts).unwrap_or(0);
    let spec = args.shape.spec(Some(args.posts), step_us);
    let generator = Generator::new(spec).map_err(InputError::from)?;
    let mut files = open(&args.out, args.partitions)?;
    let mut record = String::new();
    let count = files.len() as u64;
    for index in 0..args.posts {
        generator.record(index, &mut record);
        record.push('\n');
        let file = &mut files[(index % count) as usize];
        file.write_all(record.as_bytes()).map_err(cannot_write(&args.out))?;
    }
    files.iter_mut().try_for_each(Write::flush).map_err(cannot_write(&args.out))
}

fn cannot_write(out: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    CliError::io(format!("cannot write {}", out.display()))
}

fn open(out: &Path, partitions: Option<u64>) -> Result<Vec<Box<dyn Write>>, CliError> {
    let create = |path: &Path| -> Result<Box<dyn Write>, CliError> {
        let file = File::create(path).map_err(cannot_write(path))?;
        Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
    };
    match partitions {
        _ if out == Path::new("-") => {
            Ok(vec![Box::new(BufWriter::with_capacity(1 << 16, std::io::stdout().lock()))])
        }
        None if !out.is_dir() => Ok(vec![create(out)?]),
        partitions => {
            fs::create_dir_all(out).map_err(cannot_write(out))?;
            let file = |p| create(&out.join(format!("posts-{p:03}.ndjson")));
            (0..partitions.unwrap_or(1)).map(file).collect()
        }
    }
}
