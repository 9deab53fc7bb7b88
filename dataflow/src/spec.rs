//! What it takes to start a job.

use std::path::PathBuf;
use std::sync::Arc;

use sinks::publish::Publisher;
use sinks::storage::Storage;

use crate::clock::Clock;
use crate::inputs::InputSpec;
use crate::settings::Settings;

/// Where a job's state is.
#[derive(Clone)]
pub enum StateAt {
    /// In a folder.
    Folder(PathBuf),
    /// In a storage that nobody else uses.
    Storage(Arc<dyn Storage>),
}

/// What is needed to start a job.
pub struct JobSpec {
    /// What to do.
    pub settings: Settings,
    /// What to read.
    pub inputs: Vec<InputSpec>,
    /// Where the state is.
    pub state: StateAt,
    /// The number of worker threads.
    pub workers: usize,
    /// Whether to supersede a living owner.
    pub take_over: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A name for this host, for messages.
    pub host: String,
    /// Where to publish, and the job's name there.
    pub publisher: Option<(String, Box<dyn Publisher>)>,
}
