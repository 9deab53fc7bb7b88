//! Stream time: from how far partitions were read to `as_of` and the floor of remembered ids.
//!
//! It is a function of the log, except that a live job that has caught up follows the wall clock
//! while the clocks agree. Invariants: there is no `as_of` before the first event; `as_of` and the
//! floor never decrease; the positions of a cut belong together.

use std::collections::BTreeSet;

use schemas::manifest::{Blocks, Body, Partition, Position};
use schemas::planted::{Bug, planted};

use crate::largest::Largest;
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
    /// An event further ahead of log time than this, the longest window, has a wrong clock.
    pub(crate) ahead_ms: i64,
}

/// The stream time of a job, and the positions that it belongs to.
pub(crate) struct StreamTime {
    rules: TimeRules,
    inputs: Inputs,
    /// The inputs that are read now. Others no longer hold anything back.
    read: BTreeSet<String>,
    as_of_ms: Option<i64>,
    floor_ms: Option<i64>,
    /// The largest event time. That of a bounded run, which accepts events of any time, is the
    /// last plausible one.
    largest: Option<Largest>,
    clocks_agree: bool,
}

impl StreamTime {
    /// Continues from a commit, whose largest event time is `largest`, with the partitions of
    /// `inputs`. The inputs that are read now are `read`.
    pub(crate) fn new(
        rules: TimeRules,
        from: &Body,
        inputs: Inputs,
        read: impl IntoIterator<Item = String>,
        largest: Option<Largest>,
    ) -> Self {
        Self {
            rules,
            inputs,
            read: read.into_iter().collect(),
            as_of_ms: from.as_of_ms,
            floor_ms: from.floor_ms,
            largest,
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
                if self.rules.live {
                    self.observe(largest);
                }
            }
            PartitionProgress::Block { number, state } => {
                let mut blocks = take_blocks(&mut partition.position);
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

    /// Among equal times the one read first counts, as time has passed since then.
    fn observe(&mut self, read: Option<Largest>) {
        if let Some(read) = read
            && self.largest.is_none_or(|known| read.ts_ms > known.ts_ms)
        {
            self.largest = Some(read);
        }
    }

    /// Cuts the stream at the end of a commit.
    pub(crate) fn close(&mut self, tick: Tick) -> Cut {
        if !self.rules.live {
            let read_us = tick.mono_us.cast_signed();
            self.observe(self.last_plausible().map(|ts_ms| Largest { ts_ms, read_us }));
        }
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
            largest_ts_ms: self.largest.map(|largest| largest.ts_ms),
            largest_read_ms: self.largest.map(|l| tick.wall_ms - l.since_ms(tick.mono_us)),
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

    /// The largest event time that is not too far ahead of log time. Partitions remember enough of
    /// their times for it: no more than 63 of them lie ahead of their log time.
    fn last_plausible(&self) -> Option<i64> {
        let log_time = self.largest_log_time()?;
        let end = log_time.saturating_add(self.rules.ahead_ms);
        let kept = self.partitions().flat_map(|p| p.log_time.largest());
        kept.filter(|ts| *ts <= end).max().max(Some(log_time))
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
            None if self.rules.live => self.corrected_clock(tick),
            None => self.last_plausible(),
        }
    }

    /// The wall clock, unless event times show that it is wrong. Without any event nothing shows
    /// that it is right.
    fn corrected_clock(&mut self, tick: &Tick) -> Option<i64> {
        if self.largest.is_none() && planted(Bug::AsOfBeforeFirstEvent) {
            return Some(tick.wall_ms);
        }
        let expected = self.largest?.now_ms(tick.mono_us);
        self.clocks_agree = (tick.wall_ms - expected).abs() <= AGREE_MS;
        Some(if self.clocks_agree { tick.wall_ms } else { expected })
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

    fn body() -> Body {
        Body {
            as_of_ms: None,
            floor_ms: None,
            largest_ts_ms: None,
            largest_read_ms: None,
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
        }
    }

    fn with(rules: TimeRules, inputs: Inputs) -> StreamTime {
        StreamTime::new(rules, &body(), inputs, ["i".to_owned()], None)
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
        let largest = times.iter().max().map(|ts| Largest { ts_ms: *ts, read_us: 0 });
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
    fn there_is_no_time_before_the_first_event() {
        let mut live = time(TimeRules { live: true, ..TimeRules::default() });
        for minutes in 0..3 {
            let cut = live.close(tick(NOW + 48 * HOUR + minutes * 60_000, 0, None));
            assert_eq!((cut.as_of_ms, cut.largest_read_ms, cut.clocks_agree), (None, None, true));
        }
        live.apply(ordered("a", &[], true));
        assert_eq!(live.close(tick(NOW + 48 * HOUR, 0, None)).as_of_ms, None);
        live.apply(ordered("a", &[NOW], true));
        assert_eq!(live.close(tick(NOW + 48 * HOUR, 0, None)).as_of_ms, Some(NOW));
    }

    #[test]
    fn time_of_an_idle_job_goes_on_over_a_restart() {
        let live = TimeRules { live: true, ..TimeRules::default() };
        let mut before = time(live);
        before.apply(ordered("a", &[NOW], true));
        let cut = before.close(tick(NOW + 1000, 61_000, None));
        assert_eq!(cut.largest_read_ms, Some(NOW - 60_000), "read a minute before");
        // Stopped for half an hour, started again when the monotonic clock shows 7 s.
        let commit = Body { largest_ts_ms: Some(NOW), largest_read_ms: Some(NOW), ..body() };
        let (now, start_us) = (NOW + HOUR / 2, 7_000_000);
        let largest = Largest::of(&commit, now, start_us);
        let inputs = Inputs::new();
        let mut after = StreamTime::new(live, &commit, inputs, ["i".to_owned()], largest);
        let cut = after.close(tick(now + 1000, 8000, None));
        assert_eq!((cut.as_of_ms, cut.clocks_agree), (Some(now + 1000), true));
        assert_eq!(cut.largest_read_ms, Some(NOW), "also after the next restart");
        // A clock that was set back does not make time go back.
        let largest = Largest::of(&commit, NOW - HOUR, start_us);
        assert_eq!(largest.map(|l| l.now_ms(start_us)), Some(NOW));
    }

    #[test]
    fn bounded_run_ends_at_its_last_plausible_post_or_until() {
        let ahead_ms = 24 * HOUR;
        let mut run = time(TimeRules { ahead_ms, ..TimeRules::default() });
        // Twenty posts, of which the log time is the eleventh last.
        let posts: Vec<i64> = (1..=20).map(|i| NOW + i * 60_000).collect();
        run.apply(ordered("a", &posts, true));
        let last = Some(Last::Finished);
        let end = run.close(tick(0, 0, last)).as_of_ms;
        assert_eq!(end, Some(NOW + 20 * 60_000));
        // Nine of them with wrong clocks move nothing.
        let mut wrong = posts.clone();
        wrong[11..].iter_mut().for_each(|ts| *ts += 25 * HOUR);
        let mut run = time(TimeRules { ahead_ms, ..TimeRules::default() });
        run.apply(ordered("a", &wrong, true));
        let cut = run.close(tick(0, 0, last));
        assert_eq!(
            (cut.as_of_ms, cut.largest_ts_ms),
            (Some(NOW + 11 * 60_000), Some(NOW + 11 * 60_000))
        );
        // The end is that of all partitions, as far as their posts are plausible for the latest.
        let mut run = time(TimeRules { ahead_ms, ..TimeRules::default() });
        run.apply(ordered("a", &[NOW], true));
        run.apply(ordered("b", &[NOW + 5, NOW - HOUR, NOW + 30 * HOUR], true));
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
