//! Close: turns what the sources report at the end of a commit into the cut that every operator
//! closes it by; worker 0 only.

use super::ack::Acker;
use super::commit_operator::PerCommit;
use crate::context::Context;
use crate::error::RunError;
use crate::records::{Ack, Close, PartitionUpdate, Tick};
use crate::stream_time::StreamTime;

/// Cuts the stream at the ends of commits.
pub(crate) struct Cuts {
    time: StreamTime,
    workers: u64,
}

impl Cuts {
    /// Continues from the commit that the job starts with, for so many workers.
    pub(crate) fn new(context: &Context, workers: usize) -> Self {
        let time = StreamTime::new(
            context.settings.time_rules(),
            &context.start.body,
            context.plan.inputs.clone(),
            context.read_inputs().iter().map(|input| input.name.clone()),
            context.largest(),
        );
        Self { time, workers: workers as u64 }
    }
}

impl PerCommit for Cuts {
    type Record = PartitionUpdate;
    type End = Tick;
    type Emitted = ();
    /// One copy for each worker.
    type Closed = Close;

    const NAME: &'static str = "close";
    const RECORDS_AT_END: bool = true;

    fn worker_of(_: &PartitionUpdate) -> u64 {
        0
    }

    fn apply(&mut self, updates: Vec<PartitionUpdate>) -> Result<Vec<()>, RunError> {
        updates.into_iter().for_each(|update| self.time.apply(update));
        Ok(Vec::new())
    }

    fn close(&mut self, tick: Tick, acker: &mut Acker) -> Vec<Close> {
        let cut = self.time.close(tick);
        let (commit, last) = (tick.commit, tick.last.is_some());
        let (as_of_ms, floor_ms) = (cut.as_of_ms, cut.floor_ms);
        acker.add(Ack::Cut(Box::new(cut)));
        let copy = |worker| Close { worker, commit, as_of_ms, floor_ms, last };
        (0..self.workers).map(copy).collect()
    }
}
