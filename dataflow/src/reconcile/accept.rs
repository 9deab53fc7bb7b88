//! Which records of a partition count: the rules of the horizon, written a second time.
//!
//! Invariant: whether a record counts depends only on the records before it in its partition, and
//! on the decisions that the commit recorded (future events, and ids below the floor).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use schemas::event::{Decoder, Event, Kind, RECORD_BYTES_MAX};
use schemas::hash::{Hasher, KeyHash};
use schemas::log_time;
use schemas::rows::{BEYOND_HORIZON, DeadLetters, FUTURE, partition_hash, record_hash};
use schemas::segment::Segment;
use schemas::tags::{TagRules, key};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::splits::Split;
use crate::sources::Record;
use schemas::config::{Beyond, LogTimeSource, Scope};

/// A decision about a record that is not a function of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Its event is dated too far ahead of the clock.
    Future,
    /// Its event is below the floor.
    Beyond,
    /// Refused for another reason and delivered again; that record counts instead.
    Redelivered,
}

/// The recorded decisions of a commit, by the keys of its dead letters.
pub(super) type Decisions = HashMap<KeyHash, Decision>;

/// Reads the decisions from the dead letters.
pub(super) fn decisions<'s>(
    segments: impl Iterator<Item = &'s Segment<DeadLetters>>,
    redelivered: &HashSet<KeyHash>,
) -> Decisions {
    let rows = segments.flat_map(Segment::iter);
    rows.filter_map(|(hash, row)| match row.reason {
        FUTURE => Some((hash, Decision::Future)),
        BEYOND_HORIZON => Some((hash, Decision::Beyond)),
        _ => redelivered.contains(&hash).then_some((hash, Decision::Redelivered)),
    })
    .collect()
}

/// The clock of a partition: the k-th largest of the n times so far, k = 1 + min(63, n / 2), or the
/// largest append time if the log stamps its records.
#[derive(Debug, Default)]
struct LogTime {
    largest: BTreeMap<i64, u64>,
    kept: u64,
    seen: u64,
    value_ms: Option<i64>,
}

impl LogTime {
    /// Continues from what a commit recorded about a partition.
    fn from(then: &log_time::LogTime) -> Self {
        let mut largest = BTreeMap::new();
        then.largest().for_each(|ts_ms| *largest.entry(ts_ms).or_insert(0) += 1);
        let kept = largest.values().sum();
        Self { largest, kept, seen: then.events(), value_ms: then.value_ms() }
    }

    fn observe(&mut self, ts_ms: i64) {
        self.seen += 1;
        self.kept += 1;
        *self.largest.entry(ts_ms).or_insert(0) += 1;
        if self.kept > 64
            && let Some(mut least) = self.largest.first_entry()
        {
            self.kept -= 1;
            *least.get_mut() -= 1;
            if *least.get() == 0 {
                least.remove();
            }
        }
        debug_assert_eq!(self.kept, self.largest.values().sum::<u64>(), "times kept");
        let mut left = 1 + (self.seen / 2).min(63);
        for (ts_ms, number) in self.largest.iter().rev() {
            if *number >= left {
                self.value_ms = self.value_ms.max(Some(*ts_ms));
                return;
            }
            left -= number;
        }
    }

    fn observe_append(&mut self, stamp_ms: i64) {
        self.value_ms = self.value_ms.max(Some(stamp_ms));
    }
}

/// How the records of an input are read.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) input: String,
    pub(super) decoder: Decoder,
    pub(super) log_time: Option<LogTimeSource>,
    /// Those of the commit.
    pub(super) tags: TagRules,
    pub(super) hasher: Hasher,
    pub(super) scopes: Arc<[Scope]>,
    pub(super) horizon_ms: Option<i64>,
    pub(super) beyond: Beyond,
    pub(super) until_ms: Option<i64>,
    /// The commit's floor. It never falls, so an event above it was never below it.
    pub(super) floor_ms: Option<i64>,
    pub(super) decisions: Arc<Decisions>,
}

/// An event that counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The hash of its id; `None` if it counts without deduplication.
    pub(super) id: Option<KeyHash>,
    pub(super) event_id: String,
    pub(super) ts_ms: i64,
    /// The key and spelling of each of its tags.
    pub(super) tags: Vec<(String, String)>,
    /// Its scopes: `""` for the whole stream, and those of its attributes.
    pub(super) scopes: Vec<String>,
}

impl Accepted {
    /// For each tag in each scope: the key of the row, the scope, the tag and the spelling.
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

/// Decides which records of a split count, in their order.
pub(super) struct Accept {
    rules: Rules,
    partition: u64,
    salt: u64,
    /// Whether the horizon applies; blocks are read out of order, so it does not there.
    ordered: bool,
    log_time: LogTime,
}

impl Accept {
    pub(super) fn new(rules: Rules, split: &Split) -> Self {
        assert_eq!(rules.input, split.input, "the rules of another input");
        Self {
            partition: partition_hash(&rules.input, &split.partition),
            salt: rules.hasher.input_salt(&rules.input),
            rules,
            ordered: split.block.is_none(),
            log_time: LogTime::from(&split.log_time),
        }
    }

    /// The event in `record`, if it counts.
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
        if matches!(decision, Some(Decision::Future | Decision::Redelivered)) {
            return None;
        }
        let behind = match (rules.horizon_ms, self.log_time.value_ms) {
            (Some(horizon_ms), Some(now_ms)) => self.ordered && event.ts_ms < now_ms - horizon_ms,
            _ => false,
        };
        match record.stamp_ms.filter(|_| rules.log_time != Some(LogTimeSource::Event)) {
            Some(stamp_ms) => self.log_time.observe_append(stamp_ms),
            None => self.log_time.observe(event.ts_ms),
        }
        let below = rules.floor_ms.is_some_and(|floor_ms| event.ts_ms < floor_ms);
        let beyond = behind || (below && decision == Some(&Decision::Beyond));
        if beyond && rules.beyond == Beyond::DeadLetter {
            return None;
        }
        Some(accepted(&self.rules, self.salt, event, beyond))
    }
}

/// The event of a refused record that was delivered again and counted. `canonical` decodes it: the
/// record was stored without the job's mapping.
pub(super) fn redelivered_event(
    rules: &Rules,
    canonical: &Decoder,
    record: &str,
    skip_dedup: bool,
) -> Option<Accepted> {
    let event = canonical.decode(record.as_bytes()).ok()?;
    let salt = rules.hasher.input_salt(&rules.input);
    Some(accepted(rules, salt, event, skip_dedup))
}

fn accepted(rules: &Rules, salt: u64, event: Event<'_>, skip_dedup: bool) -> Accepted {
    let mut tags: Vec<(String, String)> = Vec::new();
    rules.tags.limited(&event.caption, key, |o, key, _| {
        match tags.iter_mut().find(|(known, _)| *known == *key) {
            Some((_, least)) if o.tag < least.as_str() => o.tag.clone_into(least),
            Some(_) => {}
            None => tags.push((key.to_string(), o.tag.to_owned())),
        }
    });
    let values = rules.scopes.iter().zip(&event.attributes);
    let scopes = values.filter_map(|(scope, value)| {
        let value = value.as_ref()?.text().filter(|v| scope.allow.iter().any(|a| a == v))?;
        Some(format!("{}={value}", scope.attribute))
    });
    Accepted {
        id: (!skip_dedup).then(|| rules.hasher.event(salt, &event.event_id)),
        ts_ms: event.ts_ms,
        tags,
        scopes: std::iter::once(String::new()).chain(scopes).collect(),
        event_id: event.event_id.into_owned(),
    }
}

/// Adds a tag to the digest of an event's tags, by which copies of it are compared.
pub(super) fn digest(before: u64, key: KeyHash, spelling: &str) -> u64 {
    xxh3_64_with_seed(spelling.as_bytes(), before ^ key.lo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_is_the_kth_largest_time() {
        let mut clock = LogTime::default();
        let mut all = Vec::new();
        for i in 0..500_i64 {
            let ts_ms = i * 7919 % 1009;
            clock.observe(ts_ms);
            all.push(ts_ms);
            all.sort_unstable_by(|a, b| b.cmp(a));
            let k = 1 + (all.len() / 2).min(63);
            assert!(clock.value_ms >= Some(all[k - 1]), "after {i}");
        }
        assert_eq!(clock.value_ms, Some(all[63]));
        clock.observe_append(2000);
        assert_eq!(clock.value_ms, Some(2000));
    }
}
