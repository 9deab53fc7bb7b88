//! Stream time: from how far partitions were read to `as_of` and the floor of remembered ids.
//!
//! It is a function of the log, except that a live job that has caught up follows the wall clock
//! while the clocks agree. Invariants: `as_of` and the floor never decrease; the positions of a cut
//! belong together.

use std::collections::BTreeSet;

use schemas::manifest::{Blocks, Body, Partition, Position};
use schemas::planted::{Bug, planted};

use crate::limits::AGREE_MS;
use crate::records::{Cut, Inputs, Last, PartitionProgress, PartitionUpdate, Tick};

/// What stream time depends on besides the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeRules {
    /// Whether a caught-up stream follows the wall clock. Not in bounded runs and replays.
    pub(crate) live: bool,
    /// Where a bounded run ends.
    pub(crate) until_ms: Option<i64>,
    /// The stream time of the commit that a replay ends with.
    pub(crate) ends_at_ms: Option<i64>,
    /// How long an event id is remembered. `None` means for ever.
    pub(crate) horizon_ms: Option<i64>,
}

/// The stream time of a job, and the positions that it belongs to.
pub(crate) struct StreamTime {
    rules: TimeRules,
    inputs: Inputs,
    /// The inputs that are read now. Others no longer hold anything back.
    read: BTreeSet<String>,
    as_of_ms: Option<i64>,
    floor_ms: Option<i64>,
    /// The largest event time, and the monotonic time when it was read in this run.
    largest: Option<(i64, u64)>,
    clocks_agree: bool,
}

impl StreamTime {
    /// Continues from a commit at time `mono_us`, with the partitions of `inputs`. The inputs that
    /// are read now are `read`.
    pub(crate) fn new(
        rules: TimeRules,
        from: &Body,
        inputs: Inputs,
        read: impl IntoIterator<Item = String>,
        mono_us: u64,
    ) -> Self {
        Self {
            rules,
            inputs,
            read: read.into_iter().collect(),
            as_of_ms: from.as_of_ms,
            floor_ms: from.floor_ms,
            largest: from.largest_ts_ms.map(|ts| (ts, mono_us)),
            clocks_agree: true,
        }
    }

    /// Takes into account how far a partition was read.
    pub(crate) fn apply(&mut self, update: PartitionUpdate) {
        let partitions = self.inputs.entry(update.input).or_default();
        if let PartitionProgress::Rotated(name) = update.progress {
            if let Some(state) = partitions.remove(&update.partition) {
                let former_name = Some(update.partition);
                let before = partitions.insert(name, Partition { former_name, ..state });
                assert!(before.is_none(), "a file that loses its name gets one of its own");
            }
            return;
        }
        let partition = partitions.entry(update.partition).or_default();
        match update.progress {
            PartitionProgress::Rotated(_) => unreachable!("handled above"),
            PartitionProgress::Ordered { state, largest } => {
                *partition = state;
                // Among equal times the one read first counts, as time has passed since then.
                if let Some((ts, at)) = largest
                    && self.largest.is_none_or(|(known, _)| ts > known)
                {
                    self.largest = Some((ts, at));
                }
            }
            PartitionProgress::Block { number, state } => {
                let mut blocks = take_blocks(&mut partition.position);
                if let Some(largest) = state.times.largest_ms() {
                    // When this was read does not matter: no run that reads blocks follows a clock.
                    let at = self.largest.map_or(0, |(_, at)| at);
                    self.largest = self.largest.max(Some((largest, at)));
                }
                blocks.open.insert(number, state);
                while let Some(next) = blocks.open.get(&blocks.done).filter(|b| b.done) {
                    partition.log_time.append(&next.times);
                    blocks.open.remove(&blocks.done);
                    blocks.done += 1;
                }
                partition.done = blocks.are_done();
                partition.at_end = partition.done;
                partition.position = Position::Blocks(blocks);
            }
        }
    }

    /// Cuts the stream at the end of a commit.
    pub(crate) fn close(&mut self, tick: Tick) -> Cut {
        let as_of_ms = self.as_of(&tick);
        self.as_of_ms = self.as_of_ms.max(match self.rules.ends_at_ms {
            Some(end) if tick.last == Some(Last::Finished) => Some(end),
            // The replay may read partitions in another order than the job did.
            Some(end) => as_of_ms.min(Some(end)),
            None => as_of_ms,
        });
        self.floor_ms = self.floor_ms.max(self.floor());
        Cut {
            tick,
            as_of_ms: self.as_of_ms,
            floor_ms: self.floor_ms,
            largest_ts_ms: self.largest.map(|(ts, _)| ts),
            clocks_agree: self.clocks_agree,
            inputs: self.inputs.clone(),
        }
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        let read = self.inputs.iter().filter(|(input, _)| self.read.contains(*input));
        read.flat_map(|(_, partitions)| partitions.values())
    }

    fn largest_log_time(&self) -> Option<i64> {
        self.partitions().filter_map(|p| p.log_time.value_ms()).max()
    }

    fn as_of(&mut self, tick: &Tick) -> Option<i64> {
        if tick.last == Some(Last::Finished) && self.rules.until_ms.is_some() {
            return self.rules.until_ms;
        }
        let behind = self.partitions().filter(|p| !p.done && !p.at_end);
        let least = behind.map(|p| p.log_time.value_ms()).reduce(Option::min);
        match least {
            Some(_) if planted(Bug::AsOfFromWallClock) => Some(tick.wall_ms),
            Some(least) => least,
            None if self.rules.live => Some(self.corrected_clock(tick)),
            None => self.largest_log_time(),
        }
    }

    /// The wall clock, unless event times show that it is wrong.
    fn corrected_clock(&mut self, tick: &Tick) -> i64 {
        let Some((ts, at)) = self.largest else { return tick.wall_ms };
        let expected = ts.saturating_add_unsigned(tick.mono_us.saturating_sub(at) / 1000);
        self.clocks_agree = (tick.wall_ms - expected).abs() <= AGREE_MS;
        if self.clocks_agree { tick.wall_ms } else { expected }
    }

    fn floor(&self) -> Option<i64> {
        let horizon = self.rules.horizon_ms?;
        let largest = self.largest_log_time()?;
        let unfinished = self.partitions().filter(|p| !p.done);
        let log_time = |p: &Partition| if p.at_end { Some(largest) } else { p.log_time.value_ms() };
        let least = unfinished.map(log_time).reduce(Option::min).unwrap_or(Some(largest));
        least.map(|least| least - horizon)
    }
}

fn take_blocks(position: &mut Position) -> Blocks {
    match std::mem::take(position) {
        Position::Blocks(blocks) => blocks,
        Position::Offset(offset) => {
            unreachable!("a file read by blocks is at offset {offset}: checked by the plan")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemas::hash::HashKey;
    use schemas::log_time::LogTime;
    use schemas::manifest::{Block, Counters};
    use schemas::windows::Windows;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_700_000_000_000;

    fn time(rules: TimeRules) -> StreamTime {
        with(rules, BTreeMap::new())
    }

    fn with(rules: TimeRules, inputs: Inputs) -> StreamTime {
        let body = Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            hash_key: HashKey::new(0),
            rules: 1,
            windows: Windows::default(),
            scopes: None,
            mappings: BTreeMap::new(),
            read_otherwise: BTreeMap::new(),
            finished: None,
            clean: false,
            inputs: BTreeMap::new(),
            control: 0,
            counters: Counters::default(),
            segments: Vec::new(),
        };
        StreamTime::new(rules, &body, inputs, ["i".to_owned()], 0)
    }

    #[test]
    fn input_that_is_no_longer_read_holds_nothing_back() {
        let half_read = Partition { log_time: LogTime::default(), ..Partition::default() };
        let gone = [("f".to_owned(), half_read)].into();
        let mut time = with(TimeRules::default(), [("gone".to_owned(), gone)].into());
        time.apply(ordered("p", &[5, 5, 5], true));
        assert_eq!(time.close(tick(1, 0, None)).as_of_ms, Some(5));
    }

    fn ordered(name: &str, times: &[i64], at_end: bool) -> PartitionUpdate {
        let mut log_time = LogTime::default();
        times.iter().for_each(|ts| log_time.observe(*ts));
        let largest = times.iter().max().map(|ts| (*ts, 0));
        let state = Partition { log_time, at_end, ..Partition::default() };
        let progress = PartitionProgress::Ordered { state, largest };
        PartitionUpdate { commit: 1, input: "i".into(), partition: name.into(), progress }
    }

    fn tick(wall_ms: i64, mono_ms: u64, last: Option<Last>) -> Tick {
        Tick { commit: 1, wall_ms, mono_us: mono_ms * 1000, last }
    }

    #[test]
    fn as_of_of_a_job_that_is_behind_follows_the_slowest_partition() {
        let mut time = time(TimeRules { live: true, ..TimeRules::default() });
        time.apply(ordered("a", &[NOW - HOUR], false));
        time.apply(ordered("b", &[], false));
        assert_eq!(time.close(tick(NOW, 0, None)).as_of_ms, None, "b has not begun");
        time.apply(ordered("b", &[NOW - 2 * HOUR], false));
        assert_eq!(time.close(tick(NOW, 0, None)).as_of_ms, Some(NOW - 2 * HOUR));
        time.apply(ordered("b", &[NOW - 2 * HOUR], true));
        assert_eq!(time.close(tick(NOW, 0, None)).as_of_ms, Some(NOW - HOUR), "b is at its end");
        time.apply(ordered("a", &[NOW - 3 * HOUR], false));
        assert_eq!(time.close(tick(NOW, 0, None)).as_of_ms, Some(NOW - HOUR), "never back");
    }

    #[test]
    fn as_of_of_a_caught_up_job_follows_the_clock_while_events_agree() {
        let mut live = time(TimeRules { live: true, ..TimeRules::default() });
        live.apply(ordered("a", &[NOW], true));
        let cut = live.close(tick(NOW + 60_000, 60_000, None));
        assert_eq!((cut.as_of_ms, cut.clocks_agree), (Some(NOW + 60_000), true));
        let cut = live.close(tick(NOW + 2 * HOUR, 120_000, None));
        assert_eq!((cut.as_of_ms, cut.clocks_agree), (Some(NOW + 120_000), false));
        let mut old = time(TimeRules { live: true, ..TimeRules::default() });
        old.apply(ordered("a", &[NOW - 9000 * HOUR], true));
        assert_eq!(old.close(tick(NOW, 5, None)).as_of_ms, Some(NOW - 9000 * HOUR + 5));
    }

    #[test]
    fn bounded_run_ends_at_its_largest_log_time_or_until() {
        let mut run = time(TimeRules::default());
        run.apply(ordered("a", &[NOW], true));
        run.apply(ordered("b", &[NOW + 5], true));
        let last = Some(Last::Finished);
        assert_eq!(run.close(tick(NOW + HOUR, 0, last)).as_of_ms, Some(NOW + 5));
        let mut until = time(TimeRules { until_ms: Some(NOW + 9), ..TimeRules::default() });
        until.apply(ordered("a", &[NOW], true));
        assert_eq!(until.close(tick(0, 0, None)).as_of_ms, Some(NOW));
        assert_eq!(until.close(tick(0, 0, last)).as_of_ms, Some(NOW + 9));
    }

    #[test]
    fn replay_of_a_commit_ends_at_its_stream_time() {
        let rules = TimeRules { ends_at_ms: Some(NOW + 9), ..TimeRules::default() };
        let mut replay = time(rules);
        replay.apply(ordered("a", &[], false));
        assert_eq!(replay.close(tick(0, 0, None)).as_of_ms, None);
        replay.apply(ordered("a", &[NOW], false));
        assert_eq!(replay.close(tick(0, 0, None)).as_of_ms, Some(NOW));
        replay.apply(ordered("a", &[NOW + HOUR; 3], false));
        assert_eq!(replay.close(tick(0, 0, None)).as_of_ms, Some(NOW + 9));
        let mut early = time(rules);
        early.apply(ordered("a", &[NOW], true));
        let last = Some(Last::Finished);
        assert_eq!(early.close(tick(NOW + HOUR, 0, last)).as_of_ms, Some(NOW + 9));
    }

    #[test]
    fn floor_lies_a_horizon_behind_the_slowest_unfinished_partition() {
        let mut time = time(TimeRules { horizon_ms: Some(HOUR), ..TimeRules::default() });
        time.apply(ordered("a", &[NOW], false));
        time.apply(ordered("b", &[NOW - HOUR], false));
        assert_eq!(time.close(tick(0, 0, None)).floor_ms, Some(NOW - 2 * HOUR));
        time.apply(ordered("b", &[NOW - HOUR], true));
        assert_eq!(time.close(tick(0, 0, None)).floor_ms, Some(NOW - HOUR));
        time.apply(ordered("c", &[], false));
        assert_eq!(time.close(tick(0, 0, None)).floor_ms, Some(NOW - HOUR), "c has not begun");
    }

    #[test]
    fn log_time_advances_over_blocks_in_order() {
        let bytes = 3 * crate::sources::BLOCK_BYTES - 1;
        let position = Position::Blocks(Blocks { bytes, ..Blocks::default() });
        let file = Partition { position, ..Partition::default() };
        let inputs = [("i".to_owned(), [("f".to_owned(), file)].into())].into();
        let mut time = with(TimeRules::default(), inputs);
        let update = |progress| PartitionUpdate {
            commit: 1,
            input: "i".into(),
            partition: "f".into(),
            progress,
        };
        let block = |ts: i64, done| {
            let mut times = LogTime::default();
            times.observe(ts);
            Block { offset: 0, done, times }
        };
        time.apply(update(PartitionProgress::Block { number: 1, state: block(NOW + 10, true) }));
        assert_eq!(time.close(tick(0, 0, None)).as_of_ms, None);
        time.apply(update(PartitionProgress::Block { number: 0, state: block(NOW, false) }));
        assert_eq!(time.close(tick(0, 0, None)).as_of_ms, None);
        time.apply(update(PartitionProgress::Block { number: 0, state: block(NOW, true) }));
        assert!(time.close(tick(0, 0, None)).as_of_ms >= Some(NOW));
        time.apply(update(PartitionProgress::Block { number: 2, state: block(NOW + 20, true) }));
        let cut = time.close(tick(0, 0, Some(Last::Finished)));
        let file = &cut.inputs["i"]["f"];
        assert!(file.done && file.at_end);
        let Position::Blocks(blocks) = &file.position else { panic!() };
        assert_eq!((blocks.done, blocks.open.len()), (3, 0));
    }
}
