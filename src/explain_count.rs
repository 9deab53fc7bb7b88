//! `tagflow explain-count`: the events behind a tag's count.

use std::sync::Arc;

use dataflow::reconcile::{EventCount, ExplainedEvent, Progress, Selection, explain};
use schemas::printable::{counted, printable};
use schemas::tags::Name;
use serde::Serialize;
use sinks::difference::RecordPosition;
use sinks::store::{CommitView, StoreError, UnknownScope};

use crate::error::CliError;
use crate::log_args::LogArgs;
use crate::printer::{Print, Printer, ambiguous};
use crate::progress::LiveLine;

/// List the events behind a tag's count
#[derive(clap::Args)]
#[command(after_help = "Example:
  tagflow explain-count sunset --input ./posts --state ./state")]
pub(crate) struct Args {
    /// The tag, in any spelling, with or without the #
    name: String,
    /// Count within a scope, such as region=eu
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// Print one JSON object for each event, then one for the tag
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
struct Explained<'a> {
    commit: u64,
    scope: &'a str,
    key: &'a str,
    /// The commit's count.
    stored: i64,
    /// The number of events that count.
    recomputed: i64,
    /// The events whose copies differ, so that any copy may count.
    #[serde(skip_serializing_if = "Option::is_none")]
    ambiguous: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let Args { name, log, scope, json } = args;
    let parsed = Name::parse(name, log.rules()?)
        .map_err(|error| CliError::Name { name: name.clone(), error })?;
    let key = parsed.key();
    let request = log.request(Selection::Tags([key.to_owned()].into()), 1)?;
    UnknownScope::check(scope, request.snapshot.manifest.body.scopes.as_deref())
        .map_err(StoreError::from)?;
    let view = CommitView::new(Arc::clone(&request.snapshot));
    let stored = view.tag(scope, key)?.map_or(0, |tag| tag.total);
    let progress = Arc::new(Progress::default());
    let live = LiveLine::reconciling(Arc::clone(&progress));
    let mut printer = Printer::new(*json);
    let each = |event: ExplainedEvent| printer.print(&event);
    let counted = explain(request, (scope, key), stored, &progress, each);
    drop(live);
    let commit = view.as_of().commit;
    let EventCount { total: recomputed, ambiguous } = counted?;
    let ambiguous = (ambiguous > 0).then_some(ambiguous);
    let explained = Explained { commit, scope, key, stored, recomputed, ambiguous };
    printer.print(&explained)?;
    printer.flush()?;
    if recomputed == stored { Ok(()) } else { Err(CliError::Drift(1)) }
}

impl Print for Explained<'_> {
    fn lines(&self) -> Vec<String> {
        let Self { commit, stored, recomputed, .. } = self;
        let copies = self.ambiguous.map_or_else(String::new, |n| format!("; {}", ambiguous(n)));
        let posts = counted(recomputed, "post", "posts");
        vec![format!("{posts}; commit {commit} says {stored}{copies}")]
    }
}

impl Print for ExplainedEvent {
    fn lines(&self) -> Vec<String> {
        let Self { at, event_id, ts, spelling, counts, windows } = self;
        let RecordPosition { input, partition, position } = at;
        let what = if *counts { windows.join(" ") } else { "delivered again".to_owned() };
        let place = format!("{input}/{partition}");
        // A tab or a line break in a name would look like the end of a field.
        let [place, event_id] = [&place, event_id].map(|text| printable(text));
        vec![format!("{place}\t{position}\t{event_id}\t{ts}\t#{spelling}\t{what}")]
    }
}
