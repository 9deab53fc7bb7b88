//! Ticker: advances time, slice by slice and commit by commit; worker 0 only.
//!
//! This is the only back-pressure, since timely's queues are unbounded: no new slice while so many
//! are between source and tags, and no new commit while the one before is being written.

use std::collections::VecDeque;
use std::time::Duration;

use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

use crate::context::Context;
use crate::epoch::{Epoch, SLICES_MAX, close_of, commit_of, first_of};
use crate::limits::{SLICE_RECORDS, SLICE_US, SLICES_IN_FLIGHT};
use crate::records::{Last, Tick};
use crate::settings::Settings;

/// What the ticker looks at.
#[derive(Clone, Copy, Debug)]
struct Observation {
    now_us: u64,
    /// Records read in the present slice.
    records: u64,
    /// Whether the commit before is durable.
    durable: bool,
    /// Whether the source of every worker has come to the end of what it could read, in this
    /// commit. One that lags keeps the commits of all long.
    caught_up: bool,
    /// Slices that tags have not finished, the present one included.
    in_flight: usize,
    /// Set when the run should end.
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing now.
    Hold,
    /// The next slice.
    Slice,
    /// The next commit.
    Commit,
    /// End the run with this commit.
    End(Last),
}

/// When the present slice and commit began.
#[derive(Clone, Copy, Debug)]
struct Ticker {
    /// How long a commit lasts, while the job keeps up and while it is behind.
    every_us: u64,
    stretched_us: u64,
    /// How long it takes records at most.
    commit_us_max: u64,
    commit_since_us: u64,
    slice_since_us: u64,
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
        if commit_us >= self.due_us(seen) && seen.durable {
            return Step::Commit;
        }
        let slice_us = seen.now_us.saturating_sub(self.slice_since_us);
        let full = seen.records >= SLICE_RECORDS || (slice_us >= SLICE_US && seen.records > 0);
        let room = seen.in_flight < SLICES_IN_FLIGHT
            && commit_us < self.commit_us_max
            && self.slices < SLICES_MAX;
        if full && room { Step::Slice } else { Step::Hold }
    }

    /// How long the present commit is to last.
    fn due_us(&self, seen: Observation) -> u64 {
        if seen.caught_up { self.every_us } else { self.stretched_us }
    }

    /// How long nothing but progress elsewhere can change the decision.
    fn pause(&self, seen: Observation) -> Duration {
        if seen.records > 0 || seen.in_flight > 1 || !seen.durable {
            return Duration::from_millis(1);
        }
        let due = self.commit_since_us + self.due_us(seen);
        Duration::from_micros(due.saturating_sub(seen.now_us).clamp(500, 10_000))
    }
}

/// The handles by which the ticker sees how far others are.
pub(crate) struct Probes {
    /// Tags have finished a slice.
    pub(crate) passed: ProbeHandle<Epoch>,
    /// A commit is durable.
    pub(crate) durable: ProbeHandle<Epoch>,
    /// Sources still have something to read, or may get it.
    pub(crate) reading: ProbeHandle<Epoch>,
}

/// The stream of commit ends; its frontier is the present slice.
pub(crate) fn ticker<'s>(
    scope: Scope<'s, Epoch>,
    context: &Context,
    probes: Probes,
) -> StreamVec<'s, Epoch, Tick> {
    let context = context.clone();
    source(scope, "ticker", move |capability, info| {
        let activator = scope.activator_for(info.address.clone());
        context.slice.wake_by(scope.worker().sync_activator_for(info.address.to_vec()));
        let first = context.start.header.commit + 1;
        let mut capability = (scope.index() == 0).then_some(capability);
        if let Some(capability) = &mut capability {
            capability.downgrade(&first_of(first));
        }
        let mut ticker = Ticker::new(&context.settings, context.clock.mono_us());
        let mut in_flight: VecDeque<Epoch> = [first_of(first)].into();
        move |output| {
            let Some(present) = capability.as_mut() else { return };
            let epoch = *present.time();
            let commit = commit_of(epoch);
            while in_flight.front().is_some_and(|slice| !probes.passed.less_equal(slice)) {
                in_flight.pop_front();
            }
            let seen = Observation {
                now_us: context.clock.mono_us(),
                records: context.slice.records(),
                durable: !probes.durable.less_than(&first_of(commit)),
                caught_up: context.slice.is_caught_up(commit),
                in_flight: in_flight.len(),
                last: if context.stop.is_set() {
                    Some(Last::Stopped)
                } else {
                    probes.reading.done().then_some(Last::Finished)
                },
            };
            let step = ticker.decide(seen);
            let next = match step {
                Step::Hold => None,
                Step::Slice => Some(epoch + 1),
                Step::Commit | Step::End(_) => Some(first_of(commit + 1)),
            };
            if matches!(step, Step::Commit | Step::End(_)) {
                let last = if let Step::End(last) = step { Some(last) } else { None };
                let (wall_ms, mono_us) = (context.clock.wall_ms(), seen.now_us);
                let end = present.delayed(&close_of(commit));
                output.session(&end).give(Tick { commit, wall_ms, mono_us, last });
                (ticker.commit_since_us, ticker.slices) = (seen.now_us, 0);
            }
            if let Some(next) = next {
                context.slice.begin();
                (ticker.slice_since_us, ticker.slices) = (seen.now_us, ticker.slices + 1);
                in_flight.push_back(next);
                present.downgrade(&next);
            }
            if matches!(step, Step::End(_)) {
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
    fn slices_end_by_records_or_by_age_and_the_window_holds_them() {
        assert_eq!(decide(|_| ()), Step::Hold);
        assert_eq!(decide(|s| s.records = SLICE_RECORDS), Step::Slice);
        assert_eq!(decide(|s| (s.records, s.now_us) = (1, SLICE_US)), Step::Slice);
        assert_eq!(decide(|s| s.now_us = SLICE_US), Step::Hold, "an empty slice goes on");
        let full =
            |s: &mut Observation| (s.records, s.in_flight) = (SLICE_RECORDS, SLICES_IN_FLIGHT);
        assert_eq!(decide(full), Step::Hold);
    }

    #[test]
    fn a_commit_ends_when_it_is_due_and_the_one_before_is_durable() {
        assert_eq!(decide(|s| s.now_us = 1_000_000), Step::Commit);
        let behind = |s: &mut Observation| (s.now_us, s.caught_up) = (4_999_999, false);
        assert_eq!(decide(behind), Step::Hold, "a commit stretches while there is more to read");
        assert_eq!(decide(|s| (s.now_us, s.caught_up) = (5_000_000, false)), Step::Commit);
        let late = |s: &mut Observation| (s.now_us, s.durable) = (1_000_000, false);
        assert_eq!(decide(late), Step::Hold);
        let busy = |s: &mut Observation| {
            (s.now_us, s.durable, s.records) = (4_900_000, false, SLICE_RECORDS);
        };
        assert_eq!(decide(busy), Step::Slice, "the commit stretches");
        let too_long = |s: &mut Observation| {
            (s.now_us, s.durable, s.records) = (5_000_000, false, SLICE_RECORDS);
        };
        assert_eq!(decide(too_long), Step::Hold, "then the source waits");
    }

    #[test]
    fn the_run_ends_once_the_commit_before_is_durable() {
        assert_eq!(decide(|s| s.last = Some(Last::Stopped)), Step::End(Last::Stopped));
        let early = |s: &mut Observation| (s.last, s.durable) = (Some(Last::Finished), false);
        assert_eq!(decide(early), Step::Hold);
    }
}
