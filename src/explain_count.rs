//! `tagflow explain-count`: the events behind a tag's number.

use std::sync::Arc;

use dataflow::reconcile::{EventCount, ExplainedEvent, Progress, Which, explain};
use schemas::tags::Name;
use serde::Serialize;
use sinks::store::CommitView;

use crate::error::CliError;
use crate::log_args::LogArgs;
use crate::output::{Output, unless_closed};
use crate::progress::LiveLine;

/// List the events behind a tag's number
#[derive(clap::Args)]
#[command(after_help = "Example:
  tagflow explain-count sunset --input ./posts --state ./state")]
pub(crate) struct Args {
    /// The tag, in any spelling, with or without its sign
    name: String,
    #[command(flatten)]
    log: LogArgs,
    /// Within a scope such as region=eu
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// One JSON object an event, then one for the tag
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explained<'a> {
    commit: u64,
    scope: &'a str,
    key: &'a str,
    /// What the commit says.
    stored: i64,
    /// How many events count.
    recomputed: i64,
    /// Events of which copies differ, so that any may count.
    #[serde(skip_serializing_if = "Option::is_none")]
    ambiguous: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let Args { name, log, scope, json } = args;
    let parsed = Name::parse(name).map_err(|error| CliError::Name { name: name.clone(), error })?;
    let key = parsed.key();
    let request = log.request(Which::Tags([key.to_owned()].into()), 1)?;
    if let Some(scopes) = &request.snapshot.manifest.body.scopes
        && !scope.is_empty()
        && !scopes.contains(scope)
    {
        let what = format!("the state has no scope {scope:?}; it has {scopes:?}");
        return Err(CliError::Usage(what));
    }
    let view = CommitView::new(Arc::clone(&request.snapshot));
    let stored = view.tag(scope, key)?.map_or(0, |tag| tag.total);
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let mut output = Output::new();
    let each = |event: ExplainedEvent| {
        unless_closed(if *json { output.json(&event) } else { tell(&mut output, &event) })
    };
    let counted = explain(request, (scope, key), stored, &progress, each);
    drop(live);
    let commit = view.as_of().commit;
    let EventCount { total: recomputed, ambiguous } = counted?;
    let ambiguous = Some(ambiguous).filter(|ambiguous| *ambiguous > 0);
    let explained = Explained { commit, scope, key, stored, recomputed, ambiguous };
    let told = if *json {
        output.json(&explained)
    } else {
        let copies = ambiguous.map_or_else(String::new, |copies| {
            format!("; {copies} events came in copies that differ: any may count")
        });
        output.line(format!("{recomputed} posts; commit {commit} says {stored}{copies}"))
    };
    unless_closed(told.and_then(|()| output.flush()))?;
    if recomputed == stored { Ok(()) } else { Err(CliError::Drift(1)) }
}

fn tell(output: &mut Output, event: &ExplainedEvent) -> Result<(), CliError> {
    let ExplainedEvent { place, event_id, ts, spelling, counts, windows } = event;
    let what = if *counts { windows.join(" ") } else { "delivered again".to_owned() };
    let (input, partition, position) = (&place.input, &place.partition, place.position);
    output.line(format!("{input}/{partition}\t{position}\t{event_id}\t{ts}\t#{spelling}\t{what}"))
}
