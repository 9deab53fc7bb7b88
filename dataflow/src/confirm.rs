//! What stands between a cut and its manifest: whether the topics behind its records are still the
//! ones that were read. It is asked once a commit, by the thread that creates manifests.
//!
//! Invariant: no manifest is created with records of a topic that was recreated, however fast that
//! happened.

use std::sync::Arc;

use schemas::planted::{Bug, planted};
use sinks::commits::Verdict;

use crate::clock::Clock;
use crate::context::Context;
use crate::limits::CONFIRM_WAIT_US;
use crate::process::ProcessShared;
use crate::settings::Input;
use crate::sources::LogError;

/// Asks the inputs of one commit.
pub(crate) struct Confirmation {
    inputs: Arc<[Input]>,
    /// The first input that has not confirmed.
    next: usize,
    process: Arc<ProcessShared>,
    clock: Arc<dyn Clock>,
    /// When the job was first seen to stop while an input did not answer.
    stopping_us: Option<u64>,
}

impl Confirmation {
    /// For the records that the inputs have handed out until now.
    pub(crate) fn new(context: &Context) -> Self {
        let (inputs, process) = (Arc::clone(&context.inputs), Arc::clone(&context.process));
        let clock = Arc::clone(&context.clock);
        Self { inputs, next: 0, process, clock, stopping_us: None }
    }

    /// Whether the manifest may be created now. An error ends the job.
    pub(crate) fn ask(&mut self) -> Verdict {
        if self.process.failure.is_set() {
            return Verdict::Never;
        }
        while self.next < self.inputs.len() && !planted(Bug::Unconfirmed) {
            match self.inputs[self.next].log.confirm() {
                Ok(true) => self.next += 1,
                Ok(false) if self.gives_up() => {
                    let name = self.inputs[self.next].name.clone();
                    return self.fail(LogError::Unconfirmed(name));
                }
                Ok(false) => return Verdict::Wait,
                Err(error) => return self.fail(error),
            }
        }
        Verdict::Create
    }

    /// Whether a job that was asked to stop has waited long enough.
    fn gives_up(&mut self) -> bool {
        if !self.process.stop.is_set() {
            return false;
        }
        assert!(self.next < self.inputs.len(), "an input that has confirmed is not asked again");
        let now_us = self.clock.mono_us();
        now_us.saturating_sub(*self.stopping_us.get_or_insert(now_us)) >= CONFIRM_WAIT_US
    }

    fn fail(&self, error: LogError) -> Verdict {
        self.process.failure.set(error);
        Verdict::Never
    }
}
