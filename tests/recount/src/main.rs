//! `recount`: counts files of posts independently and compares an export of Tagflow.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to its user")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use recount::{Counted, Key, Reader, Refused, Row, Rules, differing, recount};
use schemas::mapping::Mapping;
use serde_json::{Value, json};

/// Count files of posts in one thread, and compare an export of Tagflow
#[derive(Parser)]
struct Args {
    /// A file with one record per line, or a folder of such files
    #[arg(long)]
    input: PathBuf,
    /// The names of the fields, as in `tagflow run --map`
    #[arg(long, default_value = "")]
    map: String,
    /// Group by the values of an attribute, as in `tagflow run --scope`: NAME=VALUE,VALUE
    #[arg(long)]
    scope: Vec<String>,
    /// Skip events after this time, in milliseconds
    #[arg(long, default_value_t = i64::MAX)]
    until: i64,
    /// How long ids are remembered, in milliseconds [default: for ever]
    #[arg(long)]
    horizon_ms: Option<i64>,
    /// Count events beyond the horizon without a check for duplicates
    #[arg(long)]
    count_beyond: bool,
    /// The records that the job refused: the output of `tagflow dead-letters ls --json`
    #[arg(long)]
    dead_letters: Option<PathBuf>,
    /// The time at which windows are evaluated, in milliseconds [default: that of the export]
    #[arg(long, required_unless_present = "against")]
    as_of: Option<i64>,
    /// The output of `tagflow checkpoint export`
    #[arg(long)]
    against: Option<PathBuf>,
}

/// Collects the file `path`, or all files in the folder `path` below `root`, with the partition
/// names that the job gives them.
fn files(path: &Path, root: &Path, into: &mut Vec<(String, PathBuf)>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::path);
        return entries.iter().try_for_each(|entry| files(&entry.path(), root, into));
    }
    let below = path.strip_prefix(root).ok().filter(|name| !name.as_os_str().is_empty());
    let name = below.or(path.file_name().map(Path::new)).unwrap_or(path);
    into.push((name.to_string_lossy().into_owned(), path.to_owned()));
    Ok(())
}

/// The lines of a file that are not empty, with their byte offsets. Stops at an error.
fn lines(file: File, failed: &Cell<Option<io::Error>>) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let lines = BufReader::new(file).split(b'\n');
    let read = lines.map_while(|line| line.map_err(|error| failed.set(Some(error))).ok());
    let placed = read.scan(0, |offset, line| {
        let at = *offset;
        *offset += line.len() as u64 + 1;
        Some((at, line))
    });
    placed.filter(|(_, line)| !line.trim_ascii().is_empty())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the counts, or compares them with an export; false if they differ.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let scopes = args.scope.iter().map(|scope| {
        let (name, values) = scope.split_once('=').ok_or("a scope is NAME=VALUE,VALUE")?;
        Ok((name.to_owned(), values.split(',').map(str::to_owned).collect()))
    });
    let scopes: Vec<(String, Vec<String>)> = scopes.collect::<Result<_, &str>>()?;
    let attributes: Vec<String> = scopes.iter().map(|(name, _)| name.clone()).collect();
    let names: Vec<&str> = attributes.iter().map(String::as_str).collect();
    let refused = args.dead_letters.as_deref().map(refused).transpose()?;
    let rules = Rules {
        reader: &Reader::new(&Mapping::parse(&args.map, &names)?, &attributes),
        scopes: &scopes,
        horizon_ms: args.horizon_ms,
        count_beyond: args.count_beyond,
        until_ms: args.until,
        refused: refused.as_ref(),
    };
    let mut inputs = Vec::new();
    files(&args.input, &args.input, &mut inputs)?;
    let count = |as_of_ms: i64, of: Option<&Key>| {
        let failed = Cell::new(None);
        let open = |(name, path): &'_ (String, PathBuf)| match File::open(path) {
            Ok(file) => Ok((name.clone(), file)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        let open = inputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (names, files): (Vec<String>, Vec<File>) = open.into_iter().unzip();
        let records = names.iter().zip(files).flat_map(|(name, file)| {
            lines(file, &failed).map(|(at, record)| (name.as_str(), at, record))
        });
        let counted = recount(records, &rules, as_of_ms, of);
        failed.take().map_or(counted, |error| Err(error.to_string()))
    };
    let Some(against) = &args.against else {
        let counted = count(args.as_of.ok_or("--as-of is required without --against")?, None)?;
        for row in counted.rows.values() {
            println!("{}", serde_json::to_string(row)?);
        }
        println!("{}", counters(&counted));
        return Ok(true);
    };
    let text = fs::read_to_string(against).map_err(|e| format!("{}: {e}", against.display()))?;
    let (rows, summary) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let rows = rows.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>()?;
    let keyed = rows.into_iter().map(|row| ((row.scope.clone(), row.key.clone()), row));
    let got: BTreeMap<Key, Row> = keyed.collect();
    let mut summary: Value = serde_json::from_str(summary)?;
    // An export has no time if it has no events.
    let as_of_ms = args.as_of.or(summary["as_of"].as_i64()).unwrap_or(0);
    let want = count(as_of_ms, None)?;
    let keys: Vec<&Key> = differing(&want.rows, &got).collect();
    if let Some(key) = keys.first() {
        println!("{key:?}\n  want {:?}\n  got  {:?}", want.rows.get(*key), got.get(*key));
        for ((partition, position), id, ts_ms) in count(as_of_ms, Some(key))?.evidence {
            println!("  {partition}@{position}: event {id} at {ts_ms}");
        }
    }
    summary.as_object_mut().map(|fields| (fields.remove("as_of"), fields.remove("commit")));
    let same = summary == counters(&want);
    if !same {
        println!("counters: want {}, got {summary}", counters(&want));
    }
    println!("{} keys, {} differ", want.rows.len().max(got.len()), keys.len());
    Ok(keys.is_empty() && same)
}

fn counters(counted: &Counted) -> Value {
    json!({
        "events": counted.events,
        "duplicates": counted.duplicates,
        "beyond_horizon": counted.beyond_horizon,
        "unsupported": counted.unsupported,
        "dead_letters": counted.dead_letters,
    })
}

/// Reads the refused records.
fn refused(path: &Path) -> Result<Refused, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let parsed = text.lines().map(|line| {
        let row: Value = serde_json::from_str(line)?;
        let missing = |name: &str| format!("{}: no {name} in {line}", path.display());
        let field = |name: &str| row[name].as_str().map(str::to_owned).ok_or_else(|| missing(name));
        let position = row["position"].as_u64().ok_or_else(|| missing("position"))?;
        Ok(((field("partition")?, position), field("reason")?))
    });
    parsed.collect()
}
