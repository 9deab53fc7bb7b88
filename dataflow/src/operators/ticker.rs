//! Ticker: advances time, slice by slice and commit by commit; worker 0 only.
//!
//! This is the only backpressure, since timely's queues are unbounded. Invariants: no slice begins
//! while too many are between source and tags; no commit ends before the previous one is durable.

use std::collections::VecDeque;
use std::time::Duration;

use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

use crate::context::Context;
use crate::epoch::{Epoch, SLICES_MAX, close_of, commit_of, first_of};
use crate::limits::{SLICE_US, SLICES_IN_FLIGHT};
use crate::records::{Last, Tick};
use crate::settings::Settings;

/// What the ticker bases a decision on.
#[derive(Clone, Copy, Debug)]
struct Observation {
    now_us: u64,
    /// Records read in the present slice.
    records: u64,
    /// Whether the present slice has enough records or bytes.
    slice_is_full: bool,
    /// Whether the present commit must not take more records: it has enough to write.
    commit_is_full: bool,
    /// Whether the previous commit is durable.
    durable: bool,
    /// Whether the source of every worker has reached the end of what it could read in this commit.
    /// One that lags makes the commits of all longer.
    caught_up: bool,
    /// Slices that tags have not finished, including the present one.
    in_flight: usize,
    /// Why the run should end, if it should.
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing now.
    Hold,
    /// Begin the next slice.
    Slice,
    /// Begin the next commit.
    Commit,
    /// End the run with this commit.
    End(Last),
}

/// Decides when slices and commits end.
#[derive(Clone, Copy, Debug)]
struct Ticker {
    /// How long a commit lasts while the job keeps up.
    every_us: u64,
    /// How long it lasts while the job is behind.
    stretched_us: u64,
    /// The longest time for which a commit takes records.
    commit_us_max: u64,
    commit_since_us: u64,
    slice_since_us: u64,
    /// The slices of the present commit.
    slices: u64,
}

impl Ticker {
    fn new(settings: &Settings, now_us: u64) -> Self {
        Self {
            every_us: settings.every_ms * 1000,
            stretched_us: settings.stretched_ms() * 1000,
            commit_us_max: settings.commit_ms_max() * 1000,
            commit_since_us: now_us,
            slice_since_us: now_us,
            slices: 1,
        }
    }

    fn decide(&self, seen: Observation) -> Step {
        if let Some(last) = seen.last.filter(|_| seen.durable) {
            return Step::End(last);
        }
        let commit_us = seen.now_us.saturating_sub(self.commit_since_us);
        if (commit_us >= self.due_us(seen) || seen.commit_is_full) && seen.durable {
            return Step::Commit;
        }
        let slice_us = seen.now_us.saturating_sub(self.slice_since_us);
        let full = seen.slice_is_full || (slice_us >= SLICE_US && seen.records > 0);
        let room = seen.in_flight < SLICES_IN_FLIGHT
            && !seen.commit_is_full
            && commit_us < self.commit_us_max
            && self.slices < SLICES_MAX;
        if full && room { Step::Slice } else { Step::Hold }
    }

    /// How long the present commit should last.
    fn due_us(&self, seen: Observation) -> u64 {
        if seen.caught_up { self.every_us } else { self.stretched_us }
    }

    /// How long only progress elsewhere can change the decision.
    fn pause(&self, seen: Observation) -> Duration {
        if seen.records > 0 || seen.in_flight > 1 || !seen.durable {
            return Duration::from_millis(1);
        }
        let due_us = self.commit_since_us + self.due_us(seen);
        Duration::from_micros(due_us.saturating_sub(seen.now_us).clamp(500, 10_000))
    }

    /// Notes that a slice began, in the next commit if `commit_ended`.
    fn began(&mut self, now_us: u64, commit_ended: bool) {
        self.slice_since_us = now_us;
        self.slices += 1;
        if commit_ended {
            (self.commit_since_us, self.slices) = (now_us, 1);
        }
    }
}

/// How the ticker observes the progress of other operators.
#[derive(Clone, Default)]
pub(crate) struct Probes {
    /// Tags have finished a slice.
    pub(crate) passed: ProbeHandle<Epoch>,
    /// A commit is durable.
    pub(crate) durable: ProbeHandle<Epoch>,
    /// Sources still have something to read, or may get it.
    pub(crate) reading: ProbeHandle<Epoch>,
}

impl Probes {
    /// The present observation, in `commit`.
    fn observe(&self, context: &Context, commit: u64, in_flight: usize) -> Observation {
        let process = &context.process;
        Observation {
            now_us: context.clock.mono_us(),
            records: process.slice.records(),
            slice_is_full: process.slice.is_full(),
            commit_is_full: process.budget.is_full(commit),
            durable: !self.durable.less_than(&first_of(commit)),
            caught_up: process.slice.is_caught_up(commit),
            in_flight,
            last: if process.stop.is_set() {
                Some(Last::Stopped)
            } else {
                self.reading.done().then_some(Last::Finished)
            },
        }
    }
}

/// The stream of commit ends. Its frontier is the present slice.
pub(crate) fn ticker<'s>(
    scope: Scope<'s, Epoch>,
    context: &Context,
    probes: Probes,
) -> StreamVec<'s, Epoch, Tick> {
    let context = context.clone();
    source(scope, "ticker", move |capability, info| {
        let activator = scope.activator_for(info.address.clone());
        context.process.slice.wake(scope.worker().sync_activator_for(info.address.to_vec()));
        let first = first_of(context.first_commit());
        let mut capability = (scope.index() == 0).then_some(capability);
        capability.iter_mut().for_each(|capability| capability.downgrade(&first));
        let mut ticker = Ticker::new(&context.settings, context.clock.mono_us());
        let mut in_flight: VecDeque<Epoch> = [first].into();
        move |output| {
            // Only worker 0 has one, and only until the last commit.
            let Some(present) = capability.as_mut() else { return };
            let epoch = *present.time();
            let commit = commit_of(epoch);
            while in_flight.front().is_some_and(|slice| !probes.passed.less_equal(slice)) {
                in_flight.pop_front();
            }
            let seen = probes.observe(&context, commit, in_flight.len());
            let (next, end) = match ticker.decide(seen) {
                Step::Hold => (None, None),
                Step::Slice => (Some(epoch + 1), None),
                Step::Commit => (Some(first_of(commit + 1)), Some(None)),
                Step::End(last) => (Some(first_of(commit + 1)), Some(Some(last))),
            };
            if let Some(last) = end {
                let (wall_ms, mono_us) = (context.clock.wall_ms(), seen.now_us);
                let at_end = present.delayed(&close_of(commit));
                output.session(&at_end).give(Tick { commit, wall_ms, mono_us, last });
            }
            if let Some(next) = next {
                assert!(next > epoch && next != close_of(commit), "slice {next} after {epoch}");
                if end.is_some() {
                    context.process.budget.begin(commit + 1);
                }
                context.process.slice.begin();
                ticker.began(seen.now_us, end.is_some());
                in_flight.push_back(next);
                present.downgrade(&next);
            }
            if end.is_some_and(|last| last.is_some()) {
                capability = None;
                return;
            }
            match context.clock.pause(ticker.pause(seen)) {
                Some(pause) => activator.activate_after(pause),
                None => activator.activate(),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_NEW: Observation = Observation {
        now_us: 0,
        records: 0,
        slice_is_full: false,
        commit_is_full: false,
        durable: true,
        caught_up: true,
        in_flight: 1,
        last: None,
    };

    fn decide(change: impl FnOnce(&mut Observation)) -> Step {
        let mut seen = NOTHING_NEW;
        change(&mut seen);
        Ticker::new(&Settings::default(), 0).decide(seen)
    }

    #[test]
    fn slices_end_by_records_or_age_unless_too_many_are_in_flight() {
        assert_eq!(decide(|_| ()), Step::Hold);
        assert_eq!(decide(|s| s.slice_is_full = true), Step::Slice);
        assert_eq!(decide(|s| (s.records, s.now_us) = (1, SLICE_US)), Step::Slice);
        assert_eq!(decide(|s| s.now_us = SLICE_US), Step::Hold, "an empty slice continues");
        let full = |s: &mut Observation| (s.slice_is_full, s.in_flight) = (true, SLICES_IN_FLIGHT);
        assert_eq!(decide(full), Step::Hold);
    }

    #[test]
    fn commit_ends_when_it_is_due_and_the_previous_one_is_durable() {
        assert_eq!(decide(|s| s.now_us = 1_000_000), Step::Commit);
        let behind = |s: &mut Observation| (s.now_us, s.caught_up) = (4_999_999, false);
        assert_eq!(decide(behind), Step::Hold, "a commit stretches while there is more to read");
        assert_eq!(decide(|s| (s.now_us, s.caught_up) = (5_000_000, false)), Step::Commit);
        let late = |s: &mut Observation| (s.now_us, s.durable) = (1_000_000, false);
        assert_eq!(decide(late), Step::Hold);
        let busy = |s: &mut Observation| {
            (s.now_us, s.durable, s.slice_is_full) = (4_900_000, false, true);
        };
        assert_eq!(decide(busy), Step::Slice, "the commit stretches");
        let too_long = |s: &mut Observation| {
            (s.now_us, s.durable, s.slice_is_full) = (5_000_000, false, true);
        };
        assert_eq!(decide(too_long), Step::Hold, "then the source waits");
    }

    #[test]
    fn commit_with_enough_to_write_ends_early_and_takes_no_more() {
        let full = |s: &mut Observation| (s.slice_is_full, s.commit_is_full) = (true, true);
        assert_eq!(decide(full), Step::Commit);
        let waits = |s: &mut Observation| {
            full(s);
            s.durable = false;
        };
        assert_eq!(decide(waits), Step::Hold);
    }

    #[test]
    fn run_ends_once_the_previous_commit_is_durable() {
        assert_eq!(decide(|s| s.last = Some(Last::Stopped)), Step::End(Last::Stopped));
        let early = |s: &mut Observation| (s.last, s.durable) = (Some(Last::Finished), false);
        assert_eq!(decide(early), Step::Hold);
    }
}
