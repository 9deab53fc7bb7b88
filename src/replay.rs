//! `tagflow replay`: counts the log again next to the running job, with other rules or settings.
//!
//! It is `run` with another start, another end, and the recorded decisions of another state.
//! Invariant: the result of a replay that ends does not depend on when it runs, and it touches
//! nothing of the job's: not its state, its store or its offsets.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dataflow::sources::{Beginning, Span};
use dataflow::{Decisions, Settings};
use schemas::config::{Position, SourceUri};
use schemas::manifest::Manifest;
use schemas::printable::shown;

use crate::arguments::path_or;
use crate::error::CliError;
use crate::job::Job;
use crate::run::{Args as RunArgs, go, job};
use crate::state::{CommitAt, manifest, open};

/// Count the log again next to the job, into a new state
#[derive(clap::Args)]
#[group(skip)]
#[command(
    after_help = "Takes the arguments of run, and ignores state, sinks and serve in a dataflow.yaml. Without
--bounded and --until-commit it catches up and follows.

Examples:
  tagflow replay --input ./posts --state ./again --until-commit ./state --decisions-from ./state
  tagflow replay dataflow.yaml --state ./new --store cql://127.0.0.1:9042/tags_new
  tagflow replay dataflow.yaml --state ./new --from 2026-05-01T00:00:00Z --bounded"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Where a new state begins: with the oldest record, the first record at or after a TIME, or
    /// the positions of a commit of another STATE; by default where the state of --until-commit or
    /// --decisions-from began, or else with the oldest record
    #[arg(long, value_name = "beginning|TIME|STATE[@COMMIT]", help_heading = "Replay")]
    #[arg(value_parser = path_or(str::parse, Start::of_state))]
    from: Option<Start>,
    /// End exactly at the positions of this commit of the job's state, and at its stream time; by
    /// default the visible commit
    #[arg(long, value_name = "STATE[@COMMIT]", conflicts_with_all = ["bounded", "until"])]
    #[arg(help_heading = "Replay")]
    #[arg(value_parser = path_or(str::parse, |state| StateCommit { state, at: None }))]
    until_commit: Option<StateCommit>,
    /// Follow the decisions that this state made by its clock and its floor, and use its hash key
    #[arg(long, value_name = "STATE", help_heading = "Replay")]
    decisions_from: Option<PathBuf>,
}

/// A state folder, and a commit of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StateCommit {
    state: PathBuf,
    at: Option<CommitAt>,
}

impl FromStr for StateCommit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (state, at) = match text.rsplit_once('@') {
            // The name of a folder may contain an @.
            Some((state, at)) if !Path::new(text).exists() => (state, Some(at.parse()?)),
            _ => (text, None),
        };
        Ok(Self { state: PathBuf::from(state), at })
    }
}

impl StateCommit {
    fn manifest(&self) -> Result<Manifest, CliError> {
        manifest(&*open(&self.state)?, self.at)
    }
}

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    Beginning,
    Time(i64),
    State(StateCommit),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "beginning" => Ok(Self::Beginning),
            Ok(CommitAt::Time(ms)) => Ok(Self::Time(ms)),
            _ => text.parse().map(Self::State),
        }
    }
}

impl Start {
    fn of_state(state: PathBuf) -> Self {
        Self::State(StateCommit { state, at: None })
    }
}

/// The commits of other states that the arguments name.
struct Commits {
    from: Option<Manifest>,
    until: Option<Manifest>,
    decisions: Option<Manifest>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let Some(state) = &args.run.state else {
        let what = "a replay needs a state folder of its own; name one with --state";
        return Err(CliError::Usage(what.to_owned()));
    };
    for other in args.states() {
        if is_same(state, other) {
            let what =
                format!("{} is the job's state; name a new folder with --state", shown(other));
            return Err(CliError::Usage(what));
        }
    }
    let named = args.named()?;
    let ends = args.run.bounded || named.until.is_some();
    let mut job = job(&args.run, ends)?;
    if args.run.config.is_some() {
        // The configuration names the job's store and listener.
        (job.store, job.listen) = (args.run.store.settings(), None);
    }
    args.set(&mut job, &named, ends)?;
    go(&job, &args.run, ends)
}

/// Whether two paths name the same folder.
fn is_same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

impl Args {
    /// The states that the arguments name.
    fn states(&self) -> impl Iterator<Item = &PathBuf> {
        let from = match &self.from {
            Some(Start::State(from)) => Some(&from.state),
            _ => None,
        };
        from.into_iter()
            .chain(self.until_commit.iter().map(|until| &until.state))
            .chain(&self.decisions_from)
    }

    fn named(&self) -> Result<Commits, CliError> {
        let from = match &self.from {
            Some(Start::State(from)) => Some(from.manifest()?),
            _ => None,
        };
        let until = self.until_commit.as_ref().map(StateCommit::manifest).transpose()?;
        let newest = |state: &PathBuf| manifest(&*open(state)?, None);
        let decisions = self.decisions_from.as_ref().map(newest).transpose()?;
        Ok(Commits { from, until, decisions })
    }

    /// Turns a job into a replay.
    fn set(&self, job: &mut Job, named: &Commits, ends: bool) -> Result<(), CliError> {
        let Commits { from, until, decisions } = named;
        let settings = &mut job.settings;
        let beside = until.as_ref().or(decisions.as_ref()).or(from.as_ref());
        // A following job forgets ids anyway; a state without a floor has kept every id.
        if ends && beside.is_none_or(|manifest| manifest.body.floor_ms.is_some()) {
            settings.horizon_ms = settings.horizon_ms.or(Settings::default().horizon_ms);
        }
        if let Some(until) = until {
            let Some(as_of_ms) = until.body.as_of_ms else {
                let commit = until.header.commit;
                let what = format!("commit {commit} has no stream time yet; name a later one");
                return Err(CliError::Failed(what));
            };
            settings.ends_at_ms = Some(as_of_ms);
        }
        if let (Some(state), Some(manifest)) = (&self.decisions_from, decisions) {
            settings.decisions = Some(Decisions::read(&*open(state)?, manifest)?.into());
        }
        let began = until.as_ref().or(decisions.as_ref());
        for input in &mut job.inputs {
            if input.topic.source == SourceUri::Stdin {
                let what = "standard input cannot be read again; name the file it came from";
                return Err(CliError::Usage(what.to_owned()));
            }
            input.topic.start = Position::Beginning;
            input.group.push_str("-replay");
            let beginning = match (&self.from, from, began) {
                (Some(Start::Beginning), ..) => Beginning::Oldest,
                (Some(Start::Time(ms)), ..) => Beginning::Time(*ms),
                (_, Some(from), _) => {
                    let partitions = partitions(from, &input.topic.name)?;
                    Beginning::Positions(Span::positions(partitions)?)
                }
                (.., Some(began)) => {
                    let partitions = partitions(began, &input.topic.name)?.iter();
                    Beginning::Positions(
                        partitions.map(|(name, state)| (name.clone(), state.begin)).collect(),
                    )
                }
                _ => Beginning::Oldest,
            };
            let end = until
                .as_ref()
                .map(|until| partitions(until, &input.topic.name).cloned())
                .transpose()?;
            input.span = Some(Span { beginning, end });
        }
        Ok(())
    }
}

/// The partitions of an input in a commit.
fn partitions<'m>(
    manifest: &'m Manifest,
    input: &str,
) -> Result<&'m std::collections::BTreeMap<String, schemas::manifest::Partition>, CliError> {
    manifest.body.inputs.get(input).ok_or_else(|| {
        let (commit, known) = (manifest.header.commit, manifest.body.inputs.keys());
        let known = known.map(String::as_str).collect::<Vec<_>>().join(", ");
        let what = format!("commit {commit} counts no input {input:?}, only {known:?}");
        CliError::Failed(format!("{what}; the name of an input is part of its events' identity"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_commits_are_parsed() {
        let from = |text: &str| text.parse::<Start>();
        assert_eq!(from("beginning").unwrap(), Start::Beginning);
        assert_eq!(from("1970-01-01T00:00:01Z").unwrap(), Start::Time(1000));
        assert_eq!(from("1700000000000").unwrap(), Start::Time(1_700_000_000_000));
        let state = |state: &str, at| StateCommit { state: state.into(), at };
        assert_eq!(from("./live").unwrap(), Start::State(state("./live", None)));
        let commit = Some(CommitAt::Commit(7));
        assert_eq!(from("./live@7").unwrap(), Start::State(state("./live", commit)));
        assert_eq!("a@b@7".parse(), Ok(state("a@b", commit)));
        let time = Some(CommitAt::Time(1000));
        assert_eq!("a@1970-01-01T00:00:01Z".parse(), Ok(state("a", time)));
        assert!("a@b".parse::<StateCommit>().is_err());
    }
}
