//! What a caller provides to start a job.

use std::path::PathBuf;
use std::sync::Arc;

use sinks::publish::Publisher;
use sinks::storage::Storage;

use crate::clock::Clock;
use crate::inputs::InputSpec;
use crate::settings::Settings;

/// Where a job keeps its state.
#[derive(Clone)]
pub enum StateAt {
    /// In a folder.
    Folder(PathBuf),
    /// In a storage that nobody else uses.
    Storage(Arc<dyn Storage>),
}

/// A job to start.
pub struct JobSpec {
    /// How it counts.
    pub settings: Settings,
    /// What it reads.
    pub inputs: Vec<InputSpec>,
    /// Where it keeps its state.
    pub state: StateAt,
    /// The number of worker threads, at least one.
    pub workers: usize,
    /// Whether to supersede an owner of the state that is still running.
    pub take_over: bool,
    /// Where it gets the time from.
    pub clock: Arc<dyn Clock>,
    /// The name of this host, for messages.
    pub host: String,
    /// The store to publish to, and the job's name there.
    pub publisher: Option<(String, Box<dyn Publisher>)>,
}
