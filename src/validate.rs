//! `tagflow validate`: whether a `dataflow.yaml` is valid and this build can run it.

use std::path::PathBuf;

use schemas::config::Finding;
use schemas::printable::shown;
use serde::Serialize;

use crate::error::CliError;
use crate::job::{Job, load};
use crate::output::Output;

/// Check a dataflow.yaml without running anything
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow validate dataflow.yaml
  tagflow validate --schema > dataflow.schema.json")]
pub(crate) struct Args {
    /// The dataflow.yaml
    #[arg(value_name = "CONFIG", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Print the findings as one JSON object
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of dataflow.yaml, for editors
    #[arg(long, conflicts_with_all = ["config", "json"])]
    schema: bool,
}

#[derive(Serialize)]
struct Findings {
    file: String,
    valid: bool,
    mistakes: Vec<Entry>,
    missing: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    line: u64,
    column: u64,
    what: String,
}

impl From<&Finding> for Entry {
    fn from(Finding { at, what }: &Finding) -> Self {
        Self { line: at.line, column: at.column, what: what.clone() }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let mut output = Output::new();
    let Some(config) = &args.config else {
        let schema = format!("{:#}", schemas::config::json_schema());
        schema.lines().try_for_each(|line| output.line(line))?;
        return output.flush();
    };
    let file = shown(config);
    let loaded = load(config);
    if args.json {
        let (mistakes, missing) = match &loaded {
            Ok(config) => (Vec::new(), entries(config.missing_parts())),
            Err(CliError::Config(error)) => (entries(&error.mistakes), Vec::new()),
            Err(_) => (Vec::new(), Vec::new()),
        };
        if matches!(loaded, Ok(_) | Err(CliError::Config(_))) {
            let valid = mistakes.is_empty();
            output.json(&Findings { file: file.clone(), valid, mistakes, missing })?;
            output.flush()?;
        }
    }
    let config = loaded?;
    if !config.missing_parts().is_empty() {
        return Err(CliError::missing(&file, &config));
    }
    Job::of(&config, false).check()?;
    if !args.json {
        output.line(format!("{file} is valid"))?;
    }
    output.flush()
}

fn entries(findings: &[Finding]) -> Vec<Entry> {
    findings.iter().map(Entry::from).collect()
}
