//! Which records of a partition count, by the rules of the horizon, restated.
//!
//! Invariant: what is decided about a record depends on the records before it in its partition and
//! on the decisions that the commit recorded (future events, and ids below the floor) alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use schemas::event::{Decoder, Event, Kind, RECORD_BYTES_MAX};
use schemas::hash::{Hasher, KeyHash};
use schemas::log_time;
use schemas::rows::{BEYOND_HORIZON, DeadLetters, FUTURE, partition_hash, record_hash};
use schemas::segment::Segment;
use schemas::tags::{key, limited};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::splits::Split;
use crate::sources::Record;
use schemas::config::{Beyond, LogTimeSource, Scope};

/// A decision about a record that the log alone does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Dated too far ahead of the clock.
    Future,
    /// Below the floor.
    Beyond,
    /// Refused for another reason, and delivered again: another record stands for it.
    Again,
}

/// The decisions that a commit recorded, by the keys of its dead letters.
pub(super) type Decisions = HashMap<KeyHash, Decision>;

/// Reads the decisions out of the dead letters.
pub(super) fn decisions<'s>(
    segments: impl Iterator<Item = &'s Segment<DeadLetters>>,
    again: &HashSet<KeyHash>,
) -> Decisions {
    let rows = segments.flat_map(Segment::iter);
    rows.filter_map(|(hash, row)| match row.reason {
        FUTURE => Some((hash, Decision::Future)),
        BEYOND_HORIZON => Some((hash, Decision::Beyond)),
        _ => again.contains(&hash).then_some((hash, Decision::Again)),
    })
    .collect()
}

/// The clock of a partition: the k-th largest time so far, k = 1 + min(63, n / 2) of n, or the
/// largest stamp where the log stamps its records.
#[derive(Debug, Default)]
struct LogTime {
    largest: BTreeMap<i64, u64>,
    kept: u64,
    seen: u64,
    value_ms: Option<i64>,
}

impl LogTime {
    /// Goes on from what a commit says of a partition.
    fn from(then: &log_time::LogTime) -> Self {
        let mut largest = BTreeMap::new();
        then.largest().for_each(|ts_ms| *largest.entry(ts_ms).or_default() += 1);
        let kept = largest.values().sum();
        Self { largest, kept, seen: then.events(), value_ms: then.value_ms() }
    }

    fn see(&mut self, ts_ms: i64) {
        self.seen += 1;
        self.kept += 1;
        *self.largest.entry(ts_ms).or_default() += 1;
        if self.kept > 64
            && let Some(mut least) = self.largest.first_entry()
        {
            self.kept -= 1;
            *least.get_mut() -= 1;
            if *least.get() == 0 {
                least.remove();
            }
        }
        let mut left = 1 + (self.seen / 2).min(63);
        for (ts_ms, number) in self.largest.iter().rev() {
            if *number >= left {
                self.value_ms = self.value_ms.max(Some(*ts_ms));
                return;
            }
            left -= number;
        }
    }

    fn see_stamp(&mut self, stamp_ms: i64) {
        self.value_ms = self.value_ms.max(Some(stamp_ms));
    }
}

/// How the records of an input are read.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) input: String,
    pub(super) decoder: Decoder,
    pub(super) log_time: Option<LogTimeSource>,
    pub(super) hasher: Hasher,
    pub(super) scopes: Arc<[Scope]>,
    pub(super) horizon_ms: Option<i64>,
    pub(super) beyond: Beyond,
    pub(super) until_ms: Option<i64>,
    /// The commit's floor: no event at or above it can have been below an earlier one.
    pub(super) floor_ms: Option<i64>,
    pub(super) decisions: Arc<Decisions>,
}

/// An event that counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The hash of its id; none where it counts as it is.
    pub(super) id: Option<KeyHash>,
    pub(super) event_id: String,
    pub(super) ts_ms: i64,
    /// Key and spelling of each of its tags.
    pub(super) tags: Vec<(String, String)>,
    /// Its scopes: the whole stream `""`, and those of its attributes.
    pub(super) scopes: Vec<String>,
}

impl Accepted {
    /// The key of each tag in each scope, with scope, tag and spelling.
    pub(super) fn uses<'a>(
        &'a self,
        hasher: &'a Hasher,
    ) -> impl Iterator<Item = (KeyHash, &'a str, &'a str, &'a str)> {
        self.tags.iter().flat_map(move |(key, spelling)| {
            let tag = hasher.tag(key);
            let of = move |scope: &'a String| {
                (hasher.scoped(scope, tag), scope.as_str(), key.as_str(), spelling.as_str())
            };
            self.scopes.iter().map(of)
        })
    }
}

/// Decides about the records of one partition, in their order.
pub(super) struct Accept {
    rules: Rules,
    partition: u64,
    salt: u64,
    /// Whether events are held against the partition's log time. Not in blocks.
    ordered: bool,
    log_time: LogTime,
}

impl Accept {
    pub(super) fn new(rules: Rules, split: &Split) -> Self {
        Self {
            partition: partition_hash(&rules.input, &split.partition),
            salt: rules.hasher.input_salt(&rules.input),
            rules,
            ordered: split.block.is_none(),
            log_time: LogTime::from(&split.log_time),
        }
    }

    /// The event that `record` holds, if it counts.
    pub(super) fn take(&mut self, record: Record<'_>) -> Option<Accepted> {
        let rules = &self.rules;
        if record.size > RECORD_BYTES_MAX as u64 {
            return None;
        }
        let event = rules.decoder.decode(record.bytes).ok()?;
        if event.kind != Kind::PostPublished || rules.until_ms.is_some_and(|u| event.ts_ms > u) {
            return None;
        }
        let decision = rules.decisions.get(&record_hash(self.partition, record.position));
        if matches!(decision, Some(Decision::Future | Decision::Again)) {
            return None;
        }
        let behind = match (rules.horizon_ms, self.log_time.value_ms) {
            (Some(horizon_ms), Some(now_ms)) => self.ordered && event.ts_ms < now_ms - horizon_ms,
            _ => false,
        };
        match record.stamp_ms.filter(|_| rules.log_time != Some(LogTimeSource::Event)) {
            Some(stamp_ms) => self.log_time.see_stamp(stamp_ms),
            None => self.log_time.see(event.ts_ms),
        }
        let below = rules.floor_ms.is_some_and(|floor_ms| event.ts_ms < floor_ms);
        let beyond = behind || (below && decision == Some(&Decision::Beyond));
        if beyond && rules.beyond == Beyond::DeadLetter {
            return None;
        }
        Some(accepted(&self.rules, self.salt, event, beyond))
    }
}

/// The event of a refused record that was delivered again, and counted; `plain` reads it as it was
/// written down, without a mapping.
pub(super) fn again(
    rules: &Rules,
    plain: &Decoder,
    record: &str,
    as_it_is: bool,
) -> Option<Accepted> {
    let event = plain.decode(record.as_bytes()).ok()?;
    let salt = rules.hasher.input_salt(&rules.input);
    Some(accepted(rules, salt, event, as_it_is))
}

fn accepted(rules: &Rules, salt: u64, event: Event<'_>, as_it_is: bool) -> Accepted {
    let mut tags: Vec<(String, String)> = Vec::new();
    limited(&event.caption, key, |o, key, _| {
        match tags.iter_mut().find(|(known, _)| *known == *key) {
            Some((_, least)) if o.tag < least.as_str() => o.tag.clone_into(least),
            Some(_) => {}
            None => tags.push((key.to_string(), o.tag.to_owned())),
        }
    });
    let values = rules.scopes.iter().zip(&event.attributes);
    let scopes = values.filter_map(|(scope, value)| {
        let value = value.as_deref().filter(|v| scope.allow.iter().any(|a| a == v))?;
        Some(format!("{}={value}", scope.attribute))
    });
    Accepted {
        id: (!as_it_is).then(|| rules.hasher.event(salt, &event.event_id)),
        ts_ms: event.ts_ms,
        tags,
        scopes: std::iter::once(String::new()).chain(scopes).collect(),
        event_id: event.event_id.into_owned(),
    }
}

/// What copies of an event have in common where they are alike, apart from their time: a digest of
/// all tags, one after the other.
pub(super) fn digest(before: u64, key: KeyHash, spelling: &str) -> u64 {
    xxh3_64_with_seed(spelling.as_bytes(), before ^ key.lo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_is_the_kth_largest() {
        let mut clock = LogTime::default();
        let mut all = Vec::new();
        for i in 0..500_i64 {
            let ts_ms = i * 7919 % 1009;
            clock.see(ts_ms);
            all.push(ts_ms);
            all.sort_unstable_by(|a, b| b.cmp(a));
            let k = 1 + (all.len() / 2).min(63);
            assert!(clock.value_ms >= Some(all[k - 1]), "after {i}");
        }
        assert_eq!(clock.value_ms, Some(all[63]));
        clock.see_stamp(2000);
        assert_eq!(clock.value_ms, Some(2000));
    }
}
