//! `tagflow extract`: applies the tag rules to texts from standard input.

use std::io::BufRead;

use schemas::tags::{Occurrence, key, limited, occurrences};
use serde::Serialize;

use crate::error::CliError;
use crate::output::Output;

/// Print the hashtags of texts from standard input, one a line
///
/// Prints one JSON array per line, with every occurrence as {"tag","key","start","end"}. Start and
/// end are in code points, from the hash sign to the end of the tag.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo 'Good #Morning' | tagflow extract")]
pub(crate) struct Args {
    /// Read each line as a JSON string, for texts with line breaks
    #[arg(long)]
    json: bool,
    /// Lift the limits on the length of a tag, the length of a text and the number of tags
    #[arg(long)]
    no_limits: bool,
}

#[derive(Serialize)]
struct Extracted {
    tag: String,
    key: String,
    start: usize,
    end: usize,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut output = Output::new();
    for (number, line) in std::io::stdin().lock().split(b'\n').enumerate() {
        let line = line.map_err(CliError::io("cannot read standard input"))?;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let wrong = |why: &dyn std::fmt::Display| {
            CliError::Failed(format!("standard input, line {}: {why}", number + 1))
        };
        let text: String = if args.json {
            serde_json::from_slice(line).map_err(|e| wrong(&e))?
        } else {
            std::str::from_utf8(line).map_err(|e| wrong(&e))?.to_owned()
        };
        let mut found = Vec::new();
        // Where the last occurrence ended, in bytes and code points.
        let mut at = (0, 0);
        let mut add = |o: Occurrence<'_>, key: String| {
            let start = at.1 + text[at.0..o.start].chars().count();
            let end = start + text[o.start..o.end].chars().count();
            at = (o.end, end);
            found.push(Extracted { tag: o.tag.to_owned(), key, start, end });
        };
        if args.no_limits {
            occurrences(&text, |o| add(o, key(o.tag).into_owned()));
        } else {
            limited(&text, key, |o, key, _| add(o, key.to_string()));
        }
        output.json(&found)?;
    }
    output.flush()
}
