//! `tagflow reconcile`: whether a commit holds what the log comes to, and what differs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use dataflow::reconcile::{Found, PARTS, ReconcileError, Report, Which};
use schemas::manifest::Manifest;
use schemas::tags::Name;
use sinks::commits::Snapshot;

use crate::error::CliError;
use crate::host::worker_default;
use crate::log_args::LogArgs;
use crate::repairs::repair;
use crate::served::Claim;
use crate::state::{At, manifest};
use crate::store_args::StoreArgs;

mod after_retention;
mod output;

use after_retention::{check, check_after_retention};
use output::{tell, tell_repairs, with};

/// Count the log afresh, and print what a commit holds otherwise
#[derive(clap::Args)]
#[command(
    after_help = "With --store, the rows of a store are held against the commit that they claim to show, and that
commit against the log where one is named.
Exit code: 0 nothing differs, 1 something does, 2 it cannot be told.

Examples:
  tagflow reconcile --input ./posts --state ./state
  tagflow reconcile dataflow.yaml --at 120 --passes 8 --json
  tagflow reconcile --input ./posts --state ./state --tags sunset,beach
  tagflow reconcile --input ./posts --state ./state --since 2026-05-01T12:00:00Z
  tagflow reconcile --input ./posts --state ./state --repair --why 'disk was changed'
  tagflow reconcile --state ./state --store cql://127.0.0.1:9042/tags --repair"
)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Read the log so many times, with a share of the keys in memory each time; by default as
    /// many as keep that below about 2 GiB
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=PARTS))]
    passes: Option<u64>,
    /// Check these of 128 parts of the keys
    #[arg(long, value_name = "A..B", value_parser = parse_bins, default_value = "0..128")]
    bins: Range<u64>,
    /// Check one key in so many
    #[arg(long, value_name = "1/N", value_parser = parse_sample)]
    #[arg(conflicts_with_all = ["bins", "passes"])]
    sample: Option<u64>,
    /// Check these tags, in every scope
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    #[arg(conflicts_with_all = ["bins", "passes", "sample"])]
    tags: Vec<String>,
    /// Worker threads; one less than there are cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Take this earlier commit on trust, and check what came after it
    #[arg(long, value_name = "COMMIT|TIME", conflicts_with_all = ["repair", "store"])]
    since: Option<At>,
    /// Correct what differs through the job, and check it again
    #[arg(long)]
    repair: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", requires = "repair", default_value = "")]
    #[arg(hide_default_value = true)]
    why: String,
    /// One JSON object for every value that differs, then one for the result
    #[arg(long)]
    json: bool,
}

/// The events of one pass, unless `--passes` says otherwise: they take about 1.2 KiB each
/// (docs/reconcile.md).
const EVENTS_PER_PASS: u64 = 1_500_000;

fn parse_bins(text: &str) -> Result<Range<u64>, String> {
    let (begin, end) = text.split_once("..").ok_or("write two numbers, as in 0..32")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let bins = number(begin)?..number(end)?;
    if bins.is_empty() || bins.end > PARTS {
        return Err(format!("the parts are those from 0 to below {PARTS}"));
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

/// How many values differ.
fn drift_of(mut args: Args) -> Result<u64, CliError> {
    let which = which(&args)?;
    let mut served = Report::default();
    if let Some(store) = args.store.settings() {
        let mut claim = Claim::read(store.with_environment()?, &args.log.job()?.1)?;
        served = hold(&args, &mut claim, &which)?;
        // The log is held against the same commit, unless another is asked for.
        args.log.at = args.log.at.or(Some(At::Commit(claim.commit())));
    }
    if args.store.store.is_some() && !args.log.names_a_log() {
        return Ok(served.drift);
    }
    count_afresh(args, which, &served)
}

/// Holds a store against the commit that it claims to show.
fn hold(args: &Args, claim: &mut Claim, which: &Which) -> Result<Report, CliError> {
    let alone = !args.log.names_a_log();
    let look = |claim: &Claim| -> Result<_, CliError> {
        let (checked, values) = claim.check(which)?;
        let (commit, drift) = (claim.commit(), values.len() as u64);
        let events = claim.events();
        let report = Report { commit, events, checked, drift, ..Report::default() };
        tell(&values, alone.then_some(&report), "the commit", args.json)?;
        Ok((values, report))
    };
    let (values, mut report) = look(claim)?;
    if alone {
        is_answer(&report, which, "the store")?;
    }
    if args.repair && report.drift > 0 {
        let done = claim.mend(&args.log.mender(args.why.clone())?, &values)?;
        tell_repairs(&done, args.json)?;
        report = look(claim)?.1;
        if report.drift > 0 {
            eprintln!(
                "`tagflow store rebuild` writes the whole store again, and ends what is left"
            );
        }
    }
    Ok(report)
}

/// Holds a commit against the log: how many values differ, those that are `served` included.
fn count_afresh(args: Args, which: Which, served: &Report) -> Result<u64, CliError> {
    let workers = args.workers.map_or_else(worker_default, usize::from);
    let whole = |report: &Report| with(report, served);
    let mut request = args.log.request(which.clone(), workers)?;
    if args.since.is_some() {
        let since = manifest(&*request.storage, args.since)?;
        request.since = Some(Arc::new(Snapshot::open(&*request.storage, since, None)?));
    }
    if let (Which::Bins { passes, bins }, None) = (&mut request.which, args.passes) {
        let events = request.snapshot.manifest.body.counters.records();
        *passes = (events * (bins.end - bins.start) / PARTS).div_ceil(EVENTS_PER_PASS).max(1);
    }
    let (storage, base) = (Arc::clone(&request.storage), request.snapshot.manifest.header.clone());
    let mut found = match check(request.clone()) {
        Err(CliError::Untold(overtaken @ ReconcileError::Overtaken { .. })) => {
            return check_after_retention(request, overtaken, served, args.json);
        }
        other => other?,
    };
    tell(&found.values, Some(&whole(&found.report)), "the log", args.json)?;
    is_answer(&whole(&found.report), &which, "the log")?;
    if args.repair && found.report.drift > 0 {
        is_sure(&found.report)?;
        let mender = args.log.mender(args.why)?;
        let again = |taken: Manifest, before: &Found| {
            check(args.log.request_at(taken, Which::Keys(before.keys.clone()), workers)?)
        };
        let (done, left) = repair(&mender, &*storage, base, found, again)?;
        tell_repairs(&done, args.json)?;
        tell(&left.values, Some(&whole(&left.report)), "the log", args.json)?;
        found = left;
    }
    Ok(found.report.drift + served.drift)
}

/// Whether something was compared. A commit that counts no event holds nothing, of all keys there
/// may be none left, and that a tag is nowhere is an answer; but a part in which no key lies says
/// nothing of any.
fn is_answer(report: &Report, which: &Which, other: &str) -> Result<(), CliError> {
    let Report { commit, events, checked, drift, .. } = report;
    let is_by_name = matches!(which, Which::Tags(_));
    if *events == 0 || checked + drift > 0 || which.is_all() || is_by_name {
        return Ok(());
    }
    Err(CliError::CannotTell(format!(
        "no key of commit {commit} or of {other} lies in the part that was asked for, so nothing \
         was compared; ask for a larger one"
    )))
}

/// Whether the state is at fault where it differs from the log.
fn is_sure(report: &Report) -> Result<(), CliError> {
    let why = match (report.ambiguous, report.read_otherwise) {
        (0, None) => return Ok(()),
        (0, Some(commit)) => format!(
            "up to commit {commit} records were read with another mapping or horizon; --since \
             {commit} checks what came after, and `tagflow replay` counts all of it afresh"
        ),
        (copies, _) => format!(
            "{copies} events came in copies that differ, and any may count; --tags repairs tags \
             that none of them carries"
        ),
    };
    Err(CliError::CannotTell(format!("{why}; nothing was corrected")))
}

fn which(args: &Args) -> Result<Which, CliError> {
    if let Some(one_in) = args.sample {
        return Ok(Which::Sample(one_in));
    }
    let key = |name: &String| match Name::parse(name) {
        Ok(parsed) => Ok(parsed.key().to_owned()),
        Err(error) => Err(CliError::Name { name: name.clone(), error }),
    };
    let tags = args.tags.iter().map(key).collect::<Result<BTreeSet<_>, _>>()?;
    if tags.is_empty() {
        return Ok(Which::Bins { bins: args.bins.clone(), passes: args.passes.unwrap_or(1) });
    }
    Ok(Which::Tags(tags))
}
