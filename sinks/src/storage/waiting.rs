//! Waiting for what the storage lacks: space, file handles, a device that answers.
//!
//! Invariant: [`lack`] alone decides which errors are waited out; every other one ends the job. A
//! task that waits repeats its work from the beginning, since the outcome of the failed call is
//! unknown, and gives up once the job is to end.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::backoff::Backoff;

/// What a storage may lack for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Space, or the user's share of it.
    Space,
    /// Handles of open files.
    Handles,
    /// A device that answers without errors.
    Device,
}

impl Lack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Space, Self::Handles, Self::Device];

    /// What it is, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Space => "space on the disk",
            Self::Handles => "free file handles",
            Self::Device => "a disk that answers",
        }
    }
}

// The numbers that Linux, macOS and the BSDs share.
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// What the storage lacks if this error passes by itself. `None` if waiting does not help: damage,
/// the fence, missing permissions, a read-only disk.
pub fn lack(error: &(dyn Error + 'static)) -> Option<Lack> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Some(Lack::Space),
                (_, Some(EMFILE | ENFILE)) => Some(Lack::Handles),
                (_, Some(EIO)) => Some(Lack::Device),
                _ => None,
            };
        }
        cause = error.source();
    }
    None
}

/// How often a task tries again once the job is to end.
const LAST_TRIES: u32 = 5;

/// What the tasks of one job wait for.
pub struct Waiting {
    state: Mutex<State>,
    ending: Condvar,
    /// Whether tasks really wait. In a simulation they try again at their next step.
    sleeps: bool,
    tell: Box<dyn Fn(Lack, bool) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// How many tasks lack each.
    tasks: [i32; Lack::ALL.len()],
    end: End,
}

/// Whether the job is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    #[default]
    No,
    /// After a last commit, if it can be made.
    Soon,
    /// Nothing that a task waits for is needed any more.
    Now,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new(true, |_, _| ())
    }
}

impl Waiting {
    /// Nothing is lacking yet. `sleeps`: tasks wait in real time. `tell` is called when something
    /// begins or ceases to be lacking.
    pub fn new(sleeps: bool, tell: impl Fn(Lack, bool) + Send + Sync + 'static) -> Self {
        let (state, ending) = (Mutex::default(), Condvar::new());
        Self { state, ending, sleeps, tell: Box::new(tell) }
    }

    /// The job is to end: tasks try a few times more.
    pub fn end_soon(&self) {
        self.end(End::Soon);
    }

    /// The job has ended: tasks try no more.
    pub fn end_now(&self) {
        self.end(End::Now);
    }

    fn end(&self, end: End) {
        let mut state = self.state.lock();
        state.end = state.end.max(end);
        self.ending.notify_all();
    }

    /// Whether any task waits.
    pub fn lacks_any(&self) -> bool {
        self.state.lock().tasks.iter().any(|tasks| *tasks > 0)
    }

    fn lacks(&self, lack: Lack, error: &dyn Error) {
        if self.count(lack, 1) {
            let name = lack.name();
            tracing::warn!(
                "waiting for {name}: {error}. Nothing is lost; the job goes on by itself as soon \
                 as it can"
            );
        }
    }

    fn has(&self, lack: Lack, goes_on: bool) {
        if self.count(lack, -1) && goes_on {
            tracing::warn!("no longer waiting for {}; the job goes on", lack.name());
        }
    }

    /// Counts a task that begins or ceases to wait. Returns whether it is the first or the last.
    fn count(&self, lack: Lack, change: i32) -> bool {
        let mut state = self.state.lock();
        let tasks = &mut state.tasks[lack as usize];
        *tasks += change;
        assert!(*tasks >= 0, "only a task that waits goes on");
        let begins = change > 0;
        let is_change = *tasks == i32::from(begins);
        if is_change {
            (self.tell)(lack, begins);
        }
        is_change
    }
}

/// How one task waits.
pub struct Patience {
    waiting: Arc<Waiting>,
    /// What it waits for.
    lack: Option<Lack>,
    backoff: Backoff,
    /// How often it still tries although the job is to end.
    tries: u32,
}

impl Patience {
    /// A task that does not wait yet.
    pub fn new(waiting: &Arc<Waiting>) -> Self {
        let (waiting, backoff) = (Arc::clone(waiting), Backoff::default());
        Self { waiting, lack: None, backoff, tries: LAST_TRIES }
    }

    /// For another task of the same job.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(&self.waiting)
    }

    /// Whether to try again after `error`, once [`Self::pause`] returns: the error passes, and the
    /// job is not at its end.
    pub fn outlasts(&mut self, error: &(dyn Error + 'static)) -> bool {
        let ended = match self.waiting.state.lock().end {
            End::No => false,
            End::Soon => self.tries == 0,
            End::Now => true,
        };
        !ended && self.leaves(error)
    }

    /// Whether a task that other tasks do not need can leave its work for another time.
    pub fn leaves(&mut self, error: &(dyn Error + 'static)) -> bool {
        let Some(lack) = lack(error) else { return false };
        if self.lack != Some(lack) {
            self.goes_on();
            self.waiting.lacks(lack, error);
            self.lack = Some(lack);
        }
        true
    }

    /// Waits before another try, twice as long each time.
    pub fn pause(&mut self) {
        if !self.waiting.sleeps {
            return;
        }
        let mut state = self.waiting.state.lock();
        if state.end == End::Soon {
            if self.tries == LAST_TRIES {
                self.backoff.reset();
            }
            self.tries = self.tries.saturating_sub(1);
        }
        let (before, wait) = (state.end, self.backoff.next_wait());
        self.waiting.ending.wait_while_for(&mut state, |state| state.end == before, wait);
    }

    /// A try has succeeded.
    pub fn goes_on(&mut self) {
        self.waits_no_more(true);
    }

    /// It no longer waits: as a try has succeeded, which is said, or since its work has failed.
    pub(crate) fn waits_no_more(&mut self, goes_on: bool) {
        if let Some(lack) = self.lack.take() {
            self.waiting.has(lack, goes_on);
            self.backoff.reset();
        }
    }

    /// How long to leave the work, for a task that does not sleep.
    pub fn next_wait(&mut self) -> Duration {
        self.backoff.next_wait()
    }

    /// Repeats `attempt` until it succeeds, or fails with an error that does not pass.
    pub fn insist<T, E: Error + 'static>(
        &mut self,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            match attempt() {
                Err(error) if self.outlasts(&error) => self.pause(),
                done => {
                    self.waits_no_more(done.is_ok());
                    return done;
                }
            }
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        // The error that ends a task is told instead.
        self.waits_no_more(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commits::CommitError;
    use crate::storage::StorageError;

    fn error(number: i32) -> CommitError {
        let source = io::Error::from_raw_os_error(number);
        CommitError::Storage(StorageError { doing: "write", name: "segments/a".into(), source })
    }

    #[test]
    fn lack_of_space_handles_or_an_answer_passes_and_nothing_else() {
        let lacks = [28, 122, 24, 23, 5].map(|number| lack(&error(number)));
        let [space, handles, device] = Lack::ALL.map(Some);
        assert_eq!(lacks, [space, space, handles, handles, device]);
        for lasting in [1, 2, 13, 17, 20, 30] {
            assert_eq!(lack(&error(lasting)), None, "error {lasting}");
        }
        assert_eq!(lack(&CommitError::Fenced { commit: 1 }), None);
    }

    #[test]
    fn what_is_lacking_is_told_once_for_all_tasks() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&told);
        let waiting = Arc::new(Waiting::new(false, move |lack, begins| {
            note.lock().push((lack, begins));
        }));
        let [mut one, mut other] = [Patience::new(&waiting), Patience::new(&waiting)];
        assert!(one.outlasts(&error(28)) && one.outlasts(&error(28)) && other.outlasts(&error(28)));
        one.goes_on();
        assert_eq!(*told.lock(), [(Lack::Space, true)]);
        assert!(other.outlasts(&error(24)));
        drop(other);
        let all = [(Lack::Space, true), (Lack::Space, false), (Lack::Handles, true)];
        assert_eq!(told.lock()[..3], all);
        assert_eq!(told.lock()[3], (Lack::Handles, false));
    }

    #[test]
    fn task_of_a_job_that_is_to_end_tries_a_few_times_more() {
        let waiting = Arc::new(Waiting::default());
        let mut patience = Patience::new(&waiting);
        waiting.end_soon();
        let mut tries = 0;
        let ended = patience.insist(|| {
            tries += 1;
            Err::<(), _>(error(28))
        });
        assert!(ended.is_err());
        assert_eq!(tries, LAST_TRIES + 1);
        waiting.end_now();
        assert!(!Patience::new(&waiting).outlasts(&error(28)));
    }
}
