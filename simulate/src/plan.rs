//! The plan of a simulation: a list of actions that follows from a seed.
//!
//! Invariant: each action has a seed of its own, so that removing one does not change the others.

use std::ops::Range;

use crate::rng::Rng;

/// Partitions that are written to.
const PARTITIONS: u64 = 3;
/// Kinds of actions.
const KINDS: u64 = 15;

/// Something that happens to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Records are produced to a partition.
    Produce {
        /// Which partition.
        partition: usize,
        /// How many.
        records: u64,
    },
    /// The job is killed before one of its next effects, and restarted.
    Kill {
        /// How many effects it still has.
        effects: u64,
    },
    /// The power fails: what was not synced may be lost, wholly or in part.
    PowerLoss,
    /// Another job takes the state over while the first one keeps running.
    TakeOver,
    /// The disk is full for the job, for a while.
    DiskFull,
    /// Syncing files fails, a few times.
    SyncFails,
    /// A segment cannot be opened.
    OpenFails,
    /// Reading the log fails.
    ReadFails,
    /// Reading the log is slow.
    SlowReads {
        /// How many reads return nothing.
        reads: u64,
    },
    /// A bit of a file of the newest commit flips, or its end is cut off. The job must refuse the
    /// file, which is then restored.
    Damage,
    /// The wall clock jumps.
    Jump {
        /// How far it is off afterwards.
        wrong_ms: i64,
    },
    /// The connection to the store loses, delays and repeats writes.
    BadWire {
        /// The percentage of writes for each of these.
        percent: u64,
    },
    /// The next change of a file name fails, before it is made or after.
    NameFails {
        /// Whether it is made anyway.
        made: bool,
    },
    /// Nothing happens for hours.
    Idle {
        /// How many.
        hours: u64,
    },
    /// The connection and the clock are well again.
    Calm,
    /// A row or an id of the newest commit is changed behind the job's back, and a correction is
    /// requested.
    Repair,
    /// The redelivery of some refused records is requested.
    Redeliver,
    /// The other keyspace is promoted; the second one is filled first.
    Promote,
    /// The topic is recreated and filled beyond what the job has read. The job must end, and the
    /// next one must refuse to start, until the topic is there again.
    Recreate,
}

/// An action, after some steps of the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The steps before it.
    pub steps: u64,
    /// The seed of the action and of the steps before it.
    pub seed: u64,
    /// What happens.
    pub act: Act,
}

/// A whole simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed that it follows from.
    pub seed: u64,
    /// Whether events beyond the horizon are counted.
    pub count_beyond: bool,
    /// Whether the clock of each process is a little off.
    pub skewed: bool,
    /// Whether slices and commits end because of what they hold.
    pub tight: bool,
    /// What happens, in order.
    pub actions: Vec<Action>,
}

impl Plan {
    /// The plan of a seed: each kind of fault occurs often, rarely or never.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let (count_beyond, skewed) = (rng.chance(20), rng.chance(50));
        let mut kinds = vec![(100, 0)];
        for kind in 1..KINDS {
            if rng.chance(50) {
                kinds.push((1 + rng.below(8), kind));
            }
        }
        // Kills matter most, so every seed has some.
        kinds.push((6, 1));
        let weight: u64 = kinds.iter().map(|(weight, _)| weight).sum();
        let mut actions = Vec::new();
        let mut produced = 0;
        while produced < 320 {
            let mut at = rng.below(weight);
            let kind = kinds.iter().find_map(|(weight, kind)| {
                let hit = at < *weight;
                at = at.saturating_sub(*weight);
                hit.then_some(*kind)
            });
            let kind = kind.unwrap_or_else(|| unreachable!("the number is below the sum"));
            let act = act(kind, &mut rng);
            if let Act::Produce { records, .. } = act {
                produced += records;
            }
            actions.push(Action { steps: rng.below(50), seed: rng.bits(), act });
        }
        add(Act::Repair, &mut actions, &mut Rng(seed ^ REPAIRS));
        add(Act::Redeliver, &mut actions, &mut Rng(seed ^ REDELIVERIES));
        add(Act::Promote, &mut actions, &mut Rng(seed ^ PROMOTIONS));
        add(Act::Recreate, &mut actions, &mut Rng(seed ^ RECREATIONS));
        let tight = Rng(seed ^ MEMORY).chance(50);
        Self { seed, count_beyond, skewed, tight, actions }
    }
}

/// Seeds of the requests in a plan. Requests were added later than the other actions and must not
/// change their random numbers.
const REPAIRS: u64 = 0x7e9a_1f5c;
const REDELIVERIES: u64 = 0x2c81_d03b;
const PROMOTIONS: u64 = 0x51e6_9a27;
const RECREATIONS: u64 = 0x3b07_c4e9;
/// The same for how much memory there is.
const MEMORY: u64 = 0x0b5f_62c1;

/// In half of the plans, adds a request up to three times; in half of these cases the job is killed
/// soon after.
fn add(act: Act, actions: &mut Vec<Action>, rng: &mut Rng) {
    let times = if rng.chance(50) { 1 + rng.below(3) } else { 0 };
    for _ in 0..times {
        let at = rng.below(actions.len() as u64 + 1) as usize;
        if rng.chance(50) {
            let kill = Act::Kill { effects: rng.below(40) };
            let (steps, seed) = (1 + rng.below(9), rng.bits());
            actions.insert(at, Action { steps, seed, act: kill });
        }
        let (steps, seed) = (rng.below(50), rng.bits());
        actions.insert(at, Action { steps, seed, act });
    }
}

fn act(kind: u64, rng: &mut Rng) -> Act {
    match kind {
        0 => Act::Produce { partition: rng.below(PARTITIONS) as usize, records: 1 + rng.below(12) },
        1 => Act::Kill { effects: rng.below(60) },
        2 => Act::PowerLoss,
        3 => Act::TakeOver,
        4 => Act::DiskFull,
        5 => Act::SyncFails,
        6 => Act::OpenFails,
        7 => Act::ReadFails,
        8 => Act::SlowReads { reads: 1 + rng.below(40) },
        9 => Act::Damage,
        10 => Act::Jump { wrong_ms: rng.below(7_200_000).cast_signed() - 3_600_000 },
        11 => Act::BadWire { percent: 1 + rng.below(20) },
        12 => Act::NameFails { made: rng.chance(50) },
        13 => Act::Idle { hours: 1 + rng.below(30) },
        _ => Act::Calm,
    }
}

/// Shortens a failing plan by removing actions that it fails without (delta debugging, Zeller and
/// Hildebrandt 2002). `fails` runs a plan.
pub fn shorten(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut chunk = best.actions.len().div_ceil(2);
    loop {
        let (mut from, mut shorter) = (0, false);
        while from < best.actions.len() {
            let to = (from + chunk).min(best.actions.len());
            match [true, false].map(|keep| without(&best, from..to, keep)).into_iter().find(&fails)
            {
                Some(candidate) => (best, shorter) = (candidate, true),
                None => from = to,
            }
        }
        match chunk {
            1 if !shorter => break,
            _ => chunk = chunk.div_ceil(2).max(1),
        }
        if chunk == 1 && best.actions.len() <= 1 {
            break;
        }
    }
    join(best, fails)
}

/// Merges neighbouring actions that produce, if the plan still fails.
fn join(mut best: Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut at = 0;
    while at + 1 < best.actions.len() {
        let (one, two) = (best.actions[at], best.actions[at + 1]);
        if let (Act::Produce { partition, records }, Act::Produce { records: more, .. }) =
            (one.act, two.act)
        {
            let mut candidate = best.clone();
            candidate.actions.remove(at);
            let act = Act::Produce { partition, records: records + more };
            candidate.actions[at] = Action { steps: one.steps + two.steps, seed: one.seed, act };
            if fails(&candidate) {
                best = candidate;
                continue;
            }
        }
        at += 1;
    }
    best
}

/// The plan without some actions; their steps are dropped, or kept for the next action.
fn without(plan: &Plan, which: Range<usize>, keep_steps: bool) -> Plan {
    let mut shorter = plan.clone();
    let left_out = shorter.actions.drain(which.clone());
    let steps: u64 = left_out.map(|action| action.steps).sum();
    if keep_steps && let Some(next) = shorter.actions.get_mut(which.start) {
        next.steps += steps;
    }
    shorter
}
