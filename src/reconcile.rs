//! `tagflow reconcile`: counts the log again and prints where a commit, or a store, differs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use dataflow::reconcile::{Findings, PARTS, ReconcileError, Report, Selection};
use schemas::manifest::Manifest;
use schemas::tags::Name;
use sinks::commits::Snapshot;

use crate::error::CliError;
use crate::host::worker_default;
use crate::log_args::LogArgs;
use crate::printer::ambiguous;
use crate::repairs::repair;
use crate::say;
use crate::state::{CommitAt, manifest};
use crate::store_args::StoreArgs;

mod after_retention;
mod claim;
mod output;

use after_retention::{check, check_after_retention};
use claim::Claim;
use output::{combined, print, print_repairs};

/// Count the log again, and print where a commit differs
#[derive(clap::Args)]
#[command(
    after_help = "With --store, the rows of a store are checked against the commit that they claim to show, and
that commit against the log if one is named.
Exit code: 0 if nothing differs, 1 if something differs, 2 if the check is not possible.

Examples:
  tagflow reconcile --input ./posts --state ./state
  tagflow reconcile dataflow.yaml --at 120 --passes 8 --json
  tagflow reconcile --input ./posts --state ./state --tags sunset,beach
  tagflow reconcile --input ./posts --state ./state --since 2026-05-01T12:00:00Z
  tagflow reconcile --input ./posts --state ./state --repair --why 'disk was changed'
  tagflow reconcile --state ./state --store cql://127.0.0.1:9042/tags --repair"
)]
pub(crate) struct Args {
    /// Read the log N times, each time with a share of the keys in memory; by default as often as
    /// keeps memory below about 2 GiB
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PARTS))]
    passes: Option<u64>,
    /// Check only these of the 128 parts of the key space
    #[arg(long, value_name = "A..B", value_parser = parse_bins, default_value = "0..128")]
    bins: Range<u64>,
    /// Check only one key in N
    #[arg(long, value_name = "1/N", value_parser = parse_sample)]
    #[arg(conflicts_with_all = ["bins", "passes"])]
    sample: Option<u64>,
    /// Check only these tags, in every scope
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["bins", "passes", "sample"])]
    tags: Vec<String>,
    /// Worker threads; by default one less than there are cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Trust this earlier commit, and check only what came after it
    #[arg(long, value_name = "COMMIT|TIME", conflicts_with_all = ["repair", "store"])]
    since: Option<CommitAt>,
    /// Have the job repair what differs, then check it again
    #[arg(long)]
    repair: bool,
    /// The reason, for the list of repairs
    #[arg(long, value_name = "TEXT", requires = "repair", default_value = "")]
    #[arg(hide_default_value = true)]
    why: String,
    /// Print one JSON object for each value that differs, then one for the result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// The events in memory at a time, without `--passes`: each takes about 1.2 KiB
/// (docs/reconcile.md).
const EVENTS_PER_PASS: u64 = 1_500_000;

fn parse_bins(text: &str) -> Result<Range<u64>, String> {
    let (begin, end) = text.split_once("..").ok_or("write two numbers, as in 0..32")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    let bins = number(begin)?..number(end)?;
    if bins.is_empty() || bins.end > PARTS {
        return Err(format!("write a range A..B, not empty, within 0..{PARTS}"));
    }
    Ok(bins)
}

fn parse_sample(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("1/").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    number.ok_or_else(|| "write 1/N, as in 1/64".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<(), CliError> {
    match drift_of(args)? {
        0 => Ok(()),
        drift => Err(CliError::Drift(drift)),
    }
}

/// The number of values that differ.
fn drift_of(mut args: Args) -> Result<u64, CliError> {
    let selection = selection(&args)?;
    let mut served = Report::default();
    if let Some(store) = args.store.settings() {
        let mut claim = Claim::read(store.with_environment()?, &args.log.job()?.1)?;
        served = check_store(&args, &mut claim, &selection)?;
        // The log is checked against the same commit, unless another one was given.
        args.log.at = args.log.at.or(Some(CommitAt::Commit(claim.commit())));
    }
    if args.store.store.is_some() && !args.log.names_a_log() {
        return Ok(served.drift);
    }
    check_log(args, selection, &served)
}

/// Checks a store against the commit that it claims to show.
fn check_store(args: &Args, claim: &mut Claim, selection: &Selection) -> Result<Report, CliError> {
    let alone = !args.log.names_a_log();
    let look = |claim: &Claim| -> Result<_, CliError> {
        let (checked, differences) = claim.check(selection)?;
        let (commit, drift) = (claim.commit(), differences.len() as u64);
        let events = claim.events();
        let report = Report { commit, events, checked, drift, ..Report::default() };
        print(&differences, alone.then_some(&report), "the commit", args.json)?;
        Ok((differences, report))
    };
    let (differences, mut report) = look(claim)?;
    if alone {
        require_answer(&report, selection, "the store")?;
    }
    if args.repair && report.drift > 0 {
        let done = claim.repair(&args.log.requester(args.why.clone())?, &differences)?;
        print_repairs(&done, args.json)?;
        report = look(claim)?.1;
        if report.drift > 0 {
            say::note("`tagflow store rebuild` writes the whole store again and repairs the rest");
        }
    }
    Ok(report)
}

/// Checks a commit against the log. Returns the number of values that differ, including those that
/// differ in the store.
fn check_log(args: Args, selection: Selection, served: &Report) -> Result<u64, CliError> {
    let workers = args.workers.map_or_else(worker_default, usize::from);
    let whole = |report: &Report| combined(report, served);
    let mut request = args.log.request(selection.clone(), workers)?;
    if args.since.is_some() {
        let since = manifest(&*request.storage, args.since)?;
        request.since = Some(Arc::new(Snapshot::open(&*request.storage, since, None)?));
    }
    if let (Selection::Bins { passes, bins }, None) = (&mut request.selection, args.passes) {
        let events = request.snapshot.manifest.body.counters.records();
        *passes = (events * (bins.end - bins.start) / PARTS).div_ceil(EVENTS_PER_PASS).max(1);
    }
    let (storage, base) = (Arc::clone(&request.storage), request.snapshot.manifest.header.clone());
    let mut found = match check(request.clone()) {
        Err(CliError::Reconcile(overtaken @ ReconcileError::Overtaken { .. })) => {
            return check_after_retention(request, overtaken, served, args.json);
        }
        other => other?,
    };
    print(&found.differences, Some(&whole(&found.report)), "the log", args.json)?;
    require_answer(&whole(&found.report), &selection, "the log")?;
    if args.repair && found.report.drift > 0 {
        require_certainty(&found.report)?;
        let requester = args.log.requester(args.why)?;
        let check_again = |taken: Manifest, before: &Findings| {
            check(args.log.request_at(taken, Selection::Keys(before.keys.clone()), workers)?)
        };
        let (done, left) = repair(&requester, &*storage, base, found, check_again)?;
        print_repairs(&done, args.json)?;
        print(&left.differences, Some(&whole(&left.report)), "the log", args.json)?;
        found = left;
    }
    Ok(found.report.drift + served.drift)
}

/// Fails if nothing was compared. A commit without events has nothing to compare, there may be no
/// keys at all, and a tag may be on neither side: these are answers. But a part without keys says
/// nothing about any key.
fn require_answer(report: &Report, selection: &Selection, other: &str) -> Result<(), CliError> {
    let Report { commit, events, checked, drift, .. } = report;
    let is_by_name = matches!(selection, Selection::Tags(_));
    if *events == 0 || checked + drift > 0 || selection.is_all() || is_by_name {
        return Ok(());
    }
    Err(CliError::CannotTell(format!(
        "the selected part has no key of commit {commit} or of {other}, so nothing was compared; \
         select a larger part"
    )))
}

/// Fails if the state may be right where it differs from the log.
fn require_certainty(report: &Report) -> Result<(), CliError> {
    let why = match (report.ambiguous, report.read_otherwise) {
        (0, None) => return Ok(()),
        (0, Some(commit)) => format!(
            "records up to commit {commit} were read with another mapping or horizon, or by an \
             older version; --since \
             {commit} checks what came after, and `tagflow replay` counts all of it again"
        ),
        (copies, _) => {
            format!("{}; --tags repairs tags that none of them carries", ambiguous(copies))
        }
    };
    Err(CliError::CannotTell(format!("{why}; nothing was repaired")))
}

fn selection(args: &Args) -> Result<Selection, CliError> {
    if let Some(one_in) = args.sample {
        return Ok(Selection::Sample(one_in));
    }
    if args.tags.is_empty() {
        return Ok(Selection::Bins { bins: args.bins.clone(), passes: args.passes.unwrap_or(1) });
    }
    let rules = args.log.rules()?;
    let key = |name: &String| match Name::parse(name, rules) {
        Ok(parsed) => Ok(parsed.key().to_owned()),
        Err(error) => Err(CliError::Name { name: name.clone(), error }),
    };
    let tags = args.tags.iter().map(key).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(Selection::Tags(tags))
}
