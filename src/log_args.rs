//! The arguments of `reconcile` and `explain-count` that name a commit and its log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataflow::reconcile::{Request, Selection};
use dataflow::{InputSpec, Settings};
use schemas::config::{
    Beyond, FileOptions, Follow, HORIZON_MS, OnLost, OnOpenTransaction, Position, SourceUri, Topic,
};
use schemas::manifest::Manifest;
use schemas::mapping::Mapping;
use schemas::tags::TagRules;
use schemas::time::Millis;
use sinks::commits::Snapshot;

use crate::arguments::source;
use crate::error::CliError;
use crate::inputs::{JobInput, properties};
use crate::job::Job;
use crate::repairs::Requester;
use crate::state::{CommitAt, folder, manifest, open};

/// A commit, and the log that it counts.
#[derive(clap::Args)]
#[command(next_help_heading = "State and log")]
pub(crate) struct LogArgs {
    /// The dataflow.yaml of the job
    #[arg(value_name = "CONFIG", help_heading = None::<&'static str>)]
    config: Option<PathBuf>,
    /// The input of the job
    #[arg(long, value_name = "INPUT", conflicts_with = "config", value_parser = source())]
    input: Option<SourceUri>,
    /// A property of the Kafka client, as for `run`
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "config")]
    kafka: Vec<String>,
    #[command(flatten)]
    files: FileOptions,
    /// The names that the records give to the fields of an event, as for `run`
    #[arg(long, value_name = "FIELD=NAME,…", default_value = "", hide_default_value = true)]
    #[arg(conflicts_with = "config")]
    map: String,
    /// How long the job remembers event ids, if it forgets any
    #[arg(long, value_name = "DURATION", default_value_t = Millis(HORIZON_MS))]
    #[arg(conflicts_with = "config")]
    horizon: Millis,
    /// The job counts events beyond the horizon
    #[arg(long, conflicts_with = "config")]
    count_beyond: bool,
    /// The job's state folder [default: that of the dataflow.yaml, or the variable `TAGFLOW_STATE`]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The commit, or the last commit at a time; by default the visible one
    #[arg(long, value_name = "COMMIT|TIME")]
    pub(crate) at: Option<CommitAt>,
    /// Read at most N records per second, all workers together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit_rate: Option<u64>,
}

impl LogArgs {
    /// Whether they name a log.
    pub(crate) fn names_a_log(&self) -> bool {
        self.config.is_some() || self.input.is_some()
    }

    /// The check of the commit that is named.
    pub(crate) fn request(
        &self,
        selection: Selection,
        workers: usize,
    ) -> Result<Request, CliError> {
        let storage = open(&self.job()?.1)?;
        self.request_at(manifest(&*storage, self.at)?, selection, workers)
    }

    /// The rules by which names of tags are read in the commit that is named.
    pub(crate) fn rules(&self) -> Result<TagRules, CliError> {
        let manifest = manifest(&*open(&self.job()?.1)?, self.at)?;
        Ok(TagRules::for_names(manifest.body.rules))
    }

    /// The check of `manifest`.
    pub(crate) fn request_at(
        &self,
        manifest: Manifest,
        selection: Selection,
        workers: usize,
    ) -> Result<Request, CliError> {
        let (job, state) = self.job()?;
        let storage = open(&state)?;
        let snapshot = Arc::new(Snapshot::open(&*storage, manifest, None)?);
        let Settings { horizon_ms, beyond, .. } = self.settings(job.as_ref());
        let inputs = self.inputs(job.as_ref(), &state, &snapshot.manifest)?;
        let limit_rate = self.limit_rate;
        Ok(Request {
            inputs,
            storage,
            snapshot,
            since: None,
            horizon_ms,
            beyond,
            selection,
            workers,
            limit_rate,
        })
    }

    /// The job of the dataflow.yaml, if one is named, and the state folder.
    pub(crate) fn job(&self) -> Result<(Option<Job>, PathBuf), CliError> {
        let job = self.config.as_deref().map(|file| Job::read(file, false)).transpose()?;
        let state = folder(self.state.as_deref(), job.as_ref().map(|job| job.state.as_path()))?;
        Ok((job, state))
    }

    fn settings(&self, job: Option<&Job>) -> Settings {
        let beyond = if self.count_beyond { Beyond::Count } else { Beyond::DeadLetter };
        let asked = Settings { horizon_ms: Some(self.horizon.0), beyond, ..Settings::default() };
        job.map_or(asked, |job| job.settings.clone())
    }

    /// Who requests repairs of the job, and for which reason.
    pub(crate) fn requester(&self, why: String) -> Result<Requester, CliError> {
        let (job, state) = self.job()?;
        let (settings, mappings) = (self.settings(job.as_ref()), BTreeMap::new());
        Ok(Requester { state, mappings, settings, why })
    }

    /// The inputs of the job.
    fn inputs(
        &self,
        job: Option<&Job>,
        state: &Path,
        manifest: &Manifest,
    ) -> Result<Vec<InputSpec>, CliError> {
        // Files are read in order, to their present end.
        let spec = |input: &JobInput| -> Result<_, CliError> {
            if input.topic.source == SourceUri::Stdin {
                let what = "standard input cannot be read again; name the file it came from";
                return Err(CliError::Usage(what.to_owned()));
            }
            let settings = Settings {
                live: matches!(input.topic.source, SourceUri::Generator(_)),
                horizon_ms: Some(self.horizon.0),
                ..Settings::default()
            };
            input.spec(&settings, state)
        };
        match (job, &self.input) {
            (Some(job), _) => job.inputs.iter().map(spec).collect(),
            (None, Some(input)) => Ok(vec![spec(&self.topic(input, manifest)?)?]),
            (None, None) => Err(CliError::Usage("name a dataflow.yaml or an --input".into())),
        }
    }

    /// The input on the command line, with the scopes of the commit.
    fn topic(&self, input: &SourceUri, manifest: &Manifest) -> Result<JobInput, CliError> {
        let scopes = manifest.body.scopes.iter().flatten();
        let mut attributes: Vec<&str> =
            scopes.filter_map(|name| name.split_once('=')).map(|(a, _)| a).collect();
        attributes.dedup();
        let mapping = Mapping::parse(&self.map, &attributes);
        let topic = Topic {
            name: "input".to_owned(),
            source: input.clone(),
            mapping: mapping.map_err(|error| CliError::Usage(format!("--map: {error}")))?,
            start: Position::Beginning,
            on_lost: OnLost::Error,
            on_open_transaction: OnOpenTransaction::Wait,
            follow: Follow::default(),
            properties: properties(&self.kafka)?,
            log_time: None,
            files: self.files,
        };
        // Kafka clients that read need a group, though no offsets are committed.
        Ok(JobInput { topic, group: "tagflow-reconcile".to_owned(), span: None })
    }
}
