//! `tagflow query`: a tag's counts or the boards, from a state folder.

use schemas::tags::Name;
use sinks::store::CommitView;

use crate::error::CliError;
use crate::output::Output;
use crate::state::{StateArg, open, snapshot};

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
        /// Count within a scope such as region=eu
        #[arg(long, default_value = "")]
        scope: String,
        #[command(flatten)]
        state: StateArg,
        /// The answer as one JSON object, the same as the API's
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut output = Output::new();
    match args.what {
        What::Tag { name, scope, state, json: _ } => {
            let parsed = Name::parse(&name).map_err(|error| CliError::Name { name, error })?;
            let view = CommitView::new(snapshot(&*open(&state.state)?, None)?);
            let tag = view.tag(&scope, parsed.key())?;
            output.line(format!("{tag:?}"))?;
        }
    }
    output.flush()
}
