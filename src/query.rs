//! `tagflow query`: the counts of a tag or the boards, from a state folder or a database.
//! Invariant: a tag's JSON is the same as the API's.

use std::path::PathBuf;

use api::{BoardsAnswer, TagAnswer};
use schemas::printable::counted;
use schemas::tags::{Name, TagRules};
use schemas::time::format_ms;
use sinks::cql::CqlReader;
use sinks::store::{AsOf, Board, CommitView, Store, Tag};

use crate::error::CliError;
use crate::output::Output;
use crate::signals::runtime;
use crate::state::{CommitAt, folder, open, snapshot};
use crate::store_args::StoreArgs;

/// Query a state folder or a store for a tag or the top tags
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tagflow query tag sunset --state ./state --json
  tagflow query top --store cql://127.0.0.1:9042/tags")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show the counts of a tag
    Tag {
        /// The tag, in any spelling, with or without the sign
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Show the top tags of every window
    Top {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Show counts within a scope, such as region=eu
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// The job's state folder [default: the variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    state: Option<PathBuf>,
    /// The commit to query, or the last one at a time; by default the visible one
    #[arg(long, value_name = "COMMIT|TIME", conflicts_with = "store")]
    at: Option<CommitAt>,
    /// Print one JSON object; a tag's is the same as the API's
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl Options {
    /// Queries the store if one is given, and otherwise the commit.
    fn query<T>(
        &self,
        store: impl AsyncFnOnce(&dyn Store) -> Result<T, CliError>,
        view: impl FnOnce(&CommitView) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        match self.store.settings() {
            Some(settings) => {
                let settings = settings.with_environment()?;
                let runtime = runtime().map_err(CliError::io("cannot start"))?;
                runtime.block_on(async {
                    let reader = CqlReader::open(settings).await?;
                    store(&reader).await
                })
            }
            None => {
                let state = folder(self.state.as_deref(), None)?;
                view(&CommitView::new(snapshot(&*open(&state)?, self.at)?))
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    let mut output = Output::new();
    match args.what {
        What::Tag { name, options } => {
            let scope = &options.scope;
            let parse = |rules: TagRules| {
                let parsed = Name::parse(&name, rules);
                parsed.map_err(|error| CliError::Name { name: name.clone(), error })
            };
            // What is a name by no rules is a mistake in the command line, whatever state is asked.
            // The first rules take every name that later ones take.
            parse(TagRules::First)?;
            let (parsed, (at, tag)) = options.query(
                async |store| {
                    let parsed = parse(store.rules())?;
                    let found = store.tag(scope, parsed.key()).await?;
                    Ok((parsed, found))
                },
                |view| {
                    let parsed = parse(view.rules())?;
                    let found = (view.as_of(), view.tag(scope, parsed.key())?);
                    Ok((parsed, found))
                },
            )?;
            let tag = tag.ok_or_else(|| not_found(parsed.key(), scope))?;
            if options.json {
                output.json(&TagAnswer::new(tag, &at))?;
            } else {
                print_tag(&mut output, &tag, &at)?;
            }
        }
        What::Top { options } => {
            let scope = &options.scope;
            let (at, boards) = options.query(
                async |store| Ok(store.boards(scope).await?),
                |view| Ok((view.as_of(), view.boards(scope)?)),
            )?;
            if options.json {
                output.json(&BoardsAnswer::new(options.scope, boards, &at))?;
            } else {
                print_boards(&mut output, &boards, &at)?;
            }
        }
    }
    output.flush()
}

fn not_found(key: &str, scope: &str) -> CliError {
    let within = if scope.is_empty() { String::new() } else { format!(" in {scope}") };
    CliError::Failed(format!("no post{within} carries #{key}"))
}

fn print_as_of(output: &mut Output, at: &AsOf) -> Result<(), CliError> {
    let as_of = |ms| format!("as of {}", format_ms(ms));
    let time = at.as_of_ms.map_or_else(|| "no event yet".to_owned(), as_of);
    output.line(format!("{time}, commit {}", at.commit))
}

fn print_tag(output: &mut Output, tag: &Tag, at: &AsOf) -> Result<(), CliError> {
    let within = if tag.scope.is_empty() { String::new() } else { format!(" in {}", tag.scope) };
    let posts = counted(tag.total, "post", "posts");
    output.line(format!("#{}{within}: {posts}", tag.display))?;
    for (window, count) in &tag.windows {
        output.line(format!("  last {window:<5} {count:>12}"))?;
    }
    output.line(format!("  first seen {}", format_ms(tag.first_seen_ms)))?;
    output.line(format!("  last seen  {}", format_ms(tag.last_seen_ms)))?;
    print_as_of(output, at)
}

fn print_boards(output: &mut Output, boards: &[Board], at: &AsOf) -> Result<(), CliError> {
    for board in boards {
        output.line(format!("top of {}", board.window))?;
        for (entry, rank) in board.entries.iter().zip(1..).take(20) {
            output.line(format!("{rank:>4} {:>12}  #{}", entry.count, entry.display))?;
        }
    }
    print_as_of(output, at)
}
