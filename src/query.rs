//! `tagflow query`: a tag's counts or the boards, from a state folder.

use api::{Boards, TagAnswer};
use schemas::tags::Name;
use schemas::time::format_ms;
use sinks::store::{AsOf, Board, CommitView, Tag};

use crate::error::CliError;
use crate::output::Output;
use crate::state::{At, StateArg, open, snapshot};

/// Ask a state folder for a tag or for the top tags
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tagflow query tag sunset --state ./state --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The counts of one tag
    Tag {
        /// The tag, in any spelling, with or without its sign
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// The top tags of every window
    Top {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Count within a scope such as region=eu
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    #[command(flatten)]
    state: StateArg,
    /// The commit to ask, or the last one at a time; the visible one by default
    #[arg(long, value_name = "COMMIT|TIME")]
    at: Option<At>,
    /// The answer as one JSON object; a tag's is the same as the API's
    #[arg(long)]
    json: bool,
}

impl Options {
    fn view(&self) -> Result<CommitView, CliError> {
        Ok(CommitView::new(snapshot(&*open(&self.state.state)?, self.at)?))
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut output = Output::new();
    match args.what {
        What::Tag { name, options } => {
            let parsed = Name::parse(&name).map_err(|error| CliError::Name { name, error })?;
            let view = options.view()?;
            let tag = view
                .tag(&options.scope, parsed.key())?
                .ok_or_else(|| none(parsed.key(), &options.scope))?;
            if options.json {
                output.json(&TagAnswer::new(tag, &view.as_of()))?;
            } else {
                tell_tag(&mut output, &tag, &view.as_of())?;
            }
        }
        What::Top { options } => {
            let view = options.view()?;
            let boards = view.boards(&options.scope)?;
            if options.json {
                output.json(&Boards::new(options.scope, boards, &view.as_of()))?;
            } else {
                tell_boards(&mut output, &boards, &view.as_of())?;
            }
        }
    }
    output.flush()
}

fn none(key: &str, scope: &str) -> CliError {
    let place = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
    CliError::Failed(format!("no post{place} carries #{key}"))
}

fn tell_as_of(output: &mut Output, at: &AsOf) -> Result<(), CliError> {
    let time = at.as_of_ms.map_or_else(|| "no event yet".to_owned(), format_ms);
    output.line(format!("as of {time}, commit {}", at.commit))
}

fn tell_tag(output: &mut Output, tag: &Tag, at: &AsOf) -> Result<(), CliError> {
    let place = if tag.scope.is_empty() { String::new() } else { format!(" in {}", tag.scope) };
    output.line(format!("#{}{place}: {} posts", tag.display, tag.total))?;
    for (window, count) in &tag.windows {
        output.line(format!("  last {window:<5} {count:>12}"))?;
    }
    output.line(format!("  first seen {}", format_ms(tag.first_seen_ms)))?;
    output.line(format!("  last seen  {}", format_ms(tag.last_seen_ms)))?;
    tell_as_of(output, at)
}

fn tell_boards(output: &mut Output, boards: &[Board], at: &AsOf) -> Result<(), CliError> {
    for board in boards {
        output.line(format!("top of {}", board.window))?;
        for (place, entry) in board.entries.iter().enumerate().take(20) {
            output.line(format!("{:>4} {:>12}  #{}", place + 1, entry.count, entry.display))?;
        }
    }
    tell_as_of(output, at)
}
