//! Decoding: from a partition's records to posts, dead letters and counters.
//!
//! Invariants: every record that is read is counted exactly once; what becomes of it is a function
//! of the log, except that the clock decides which events are in the future. Those leave a dead
//! letter.

use std::sync::Arc;

use schemas::config::{Beyond, LogTimeSource};
use schemas::event::{Attribute, Event, Kind, RECORD_BYTES_MAX, Reject, Survey};
use schemas::hash::Hasher;
use schemas::log_time::LogTime;
use schemas::manifest::Counters;
use schemas::rows::{BEYOND_HORIZON, BelowFloor, FUTURE};
use schemas::tags::TagRules;
use serde_json::json;
use smallvec::SmallVec;

use super::refusals::{Refusals, Refused};
use crate::budget::HEAD_BYTES;
use crate::decisions::{Decision, PartitionDecisions};
use crate::key_cache::KeyCache;
use crate::limits::{FLOOR_SLACK_MS, TURN_BYTES};
use crate::process::ProcessShared;
use crate::reasons::{Reasons, RefusedRecord};
use crate::records::{Origin, Post, PostBatches, Route, TagUse};
use crate::settings::{Input, Settings};
use crate::sources::Record;

/// Decodes the records of all inputs for one worker.
pub(crate) struct Intake {
    settings: Arc<Settings>,
    hasher: Hasher,
    tags: TagRules,
    keys: KeyCache,
    /// Whether it has warned that a log does not stamp its records.
    warned: bool,
    pub(crate) counters: Counters,
    pub(crate) dead: Refusals,
    /// What was refused since it was last taken, by reason.
    pub(crate) reasons: Reasons,
    /// By input, how many more records to look at, and what those looked at show.
    pub(crate) surveys: Vec<(u64, Survey)>,
}

/// The partition that a record comes from, as far as decoding depends on it.
pub(crate) struct Feed<'p> {
    pub(crate) input: &'p Input,
    /// The input's index.
    pub(crate) index: usize,
    pub(crate) salt: u64,
    pub(crate) partition: &'p str,
    pub(crate) log_time: &'p mut LogTime,
    /// Whether events are compared with its log time. Not in blocks, which are read in any order.
    pub(crate) ordered: bool,
    /// Events dated after this are refused.
    pub(crate) latest_ms: i64,
    /// What the job that a replay repeats decided about its records.
    pub(crate) decisions: Option<PartitionDecisions<'p>>,
}

impl Feed<'_> {
    /// When the log took a record in, unless its log time follows event times.
    pub(crate) fn stamp_ms(&self, record: Record<'_>) -> Option<i64> {
        record.stamp_ms.filter(|_| self.input.log_time != Some(LogTimeSource::Event))
    }
}

impl Intake {
    /// For the records of `commit` and later ones, of so many inputs.
    pub(crate) fn new(
        settings: Arc<Settings>,
        hasher: Hasher,
        tags: TagRules,
        process: Arc<ProcessShared>,
        commit: u64,
        inputs: usize,
    ) -> Self {
        Self {
            settings,
            keys: KeyCache::new(hasher.clone()),
            hasher,
            tags,
            warned: false,
            counters: Counters::default(),
            dead: Refusals::new(process, commit),
            reasons: Reasons::default(),
            surveys: vec![(Survey::RECORDS_MAX, Survey::default()); inputs],
        }
    }

    /// Decodes a record, and sends its post on unless it is refused. Returns the time of that post.
    pub(crate) fn take(
        &mut self,
        record: Record<'_>,
        feed: &mut Feed<'_>,
        batches: &mut PostBatches,
    ) -> Option<i64> {
        let decoded = if record.is_null {
            Err(Reject::Tombstone)
        } else if record.size > RECORD_BYTES_MAX as u64 {
            Err(Reject::TooLarge(record.size))
        } else {
            feed.input.decoder.decode(record.bytes)
        };
        let (left, survey) = &mut self.surveys[feed.index];
        if *left > 0 {
            *left -= 1;
            survey.add(&feed.input.decoder, record.bytes, &decoded);
        }
        let event = match decoded {
            Ok(event) if event.kind == Kind::PostPublished => event,
            Ok(_) => {
                self.counters.unsupported += 1;
                return None;
            }
            Err(reject) => {
                self.counters.dead_letters += 1;
                self.refuse(feed, record, reject.code(), &reject.to_string());
                return None;
            }
        };
        if self.settings.until_ms.is_some_and(|until| event.ts_ms > until) {
            self.counters.after_until += 1;
            return None;
        }
        let stamp_ms = feed.stamp_ms(record);
        let decided = feed.decisions.and_then(|decisions| decisions.at(record.position));
        // A stamp of the log decides what is in the future, and decides the same each time.
        let latest_ms = match (decided, stamp_ms, self.settings.max_future_ms) {
            (Some(Decision::Future), ..) => i64::MIN,
            (Some(_), ..) => i64::MAX,
            (None, Some(stamp), Some(ahead)) if feed.latest_ms < i64::MAX => {
                stamp.saturating_add(ahead)
            }
            _ => feed.latest_ms,
        };
        if event.ts_ms > latest_ms {
            self.counters.dead_letters += 1;
            let detail = match decided {
                Some(_) => format!("ts {}, as the state says that is replayed", event.ts_ms),
                None => format!("ts {} lies after {latest_ms}", event.ts_ms),
            };
            self.refuse(feed, record, FUTURE, &detail);
            return None;
        }
        let route = self.route(&event, record, feed, decided, batches.bytes());
        match stamp_ms {
            Some(stamp) => feed.log_time.observe_append(stamp),
            None => {
                self.warn_unstamped(feed);
                feed.log_time.observe(event.ts_ms);
            }
        }
        self.send(&event, feed.salt, route?, batches);
        Some(event.ts_ms)
    }

    /// Warns once if the stamps of a log were requested and it has none.
    fn warn_unstamped(&mut self, feed: &Feed<'_>) {
        if feed.input.log_time == Some(LogTimeSource::Append) && !self.warned {
            self.warned = true;
            let (input, partition) = (&feed.input.name, feed.partition);
            tracing::warn!(
                input,
                partition,
                "log_time is append, but records carry no append time; event times are used instead"
            );
        }
    }

    /// How dedup treats the event, if `waiting` bytes were read before it in this turn. `None` if
    /// it is beyond the horizon and refused.
    fn route(
        &mut self,
        event: &Event<'_>,
        record: Record<'_>,
        feed: &Feed<'_>,
        decided: Option<Decision>,
        waiting: usize,
    ) -> Option<Route> {
        let Some(horizon_ms) = self.settings.horizon_ms else { return Some(Route::Once) };
        let log_time = feed.log_time.value_ms().filter(|_| feed.ordered);
        if let Some(log_time) = log_time.filter(|log_time| event.ts_ms < log_time - horizon_ms) {
            self.counters.beyond_horizon += 1;
            if self.settings.beyond == Beyond::Count {
                return Some(Route::Unchecked);
            }
            let detail = format!("ts {} lies before {}", event.ts_ms, log_time - horizon_ms);
            self.refuse(feed, record, BEYOND_HORIZON, &detail);
            return None;
        }
        match decided {
            None => {}
            Some(Decision::BelowFloor) => {
                self.counters.beyond_horizon += 1;
                let counts = self.settings.beyond == Beyond::Count;
                let detail = if counts { BelowFloor::Counted } else { BelowFloor::Refused };
                self.refuse(feed, record, BEYOND_HORIZON, &detail.to_string());
                return counts.then_some(Route::Unchecked);
            }
            // The job found it above the floor.
            Some(_) => return Some(Route::Once),
        }
        // The floor lies a horizon behind the log time of some partition, and no log time runs
        // ahead of the latest time accepted. So only events that far back can fall below the floor.
        let latest_ms = feed.latest_ms.max(log_time.unwrap_or(i64::MIN));
        let lowest_ms = latest_ms.saturating_sub(horizon_ms).saturating_add(FLOOR_SLACK_MS);
        if event.ts_ms < lowest_ms {
            let all = record.bytes;
            let raw = if waiting < TURN_BYTES { all } else { &all[..all.len().min(HEAD_BYTES)] };
            return Some(Route::OnceAboveFloor(Box::new(Origin {
                input: feed.input.name.clone(),
                partition: feed.partition.to_owned(),
                position: record.position,
                raw: raw.to_vec(),
                bytes: all.len() as u64,
            })));
        }
        Some(Route::Once)
    }

    /// Decodes a redelivered record, and writes it as one that needs no mapping. An error says why
    /// it is refused again. Its position was counted before, and it moves no clock.
    pub(crate) fn redeliver<'r>(
        &self,
        input: &Input,
        record: &'r [u8],
        wall_ms: i64,
    ) -> Result<(Event<'r>, String), String> {
        let event = input.decoder.decode(record).map_err(|reject| reject.to_string())?;
        let latest_ms = self.settings.max_future_ms.map_or(i64::MAX, |ahead| wall_ms + ahead);
        let latest_ms = latest_ms.min(self.settings.until_ms.unwrap_or(i64::MAX));
        if event.kind != Kind::PostPublished {
            return Err("it is not a published post".to_owned());
        }
        if event.ts_ms > latest_ms {
            return Err(format!("ts {} lies after {latest_ms}", event.ts_ms));
        }
        let plain = self.plain(&event);
        Ok((event, plain))
    }

    /// An event as a record with the field names that need no mapping.
    fn plain(&self, event: &Event<'_>) -> String {
        let named = self.settings.scopes.iter().zip(&event.attributes);
        let attributes =
            named.filter_map(|(scope, value)| Some((&*scope.attribute, value.as_ref()?.text()?)));
        let mut record: serde_json::Map<_, _> =
            attributes.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        record.insert("event_id".to_owned(), json!(event.event_id));
        record.insert("ts".to_owned(), json!(event.ts_ms));
        record.insert("caption".to_owned(), json!(event.caption));
        serde_json::Value::Object(record).to_string()
    }

    /// Leaves a dead letter. Counting it is up to the caller.
    fn refuse(&mut self, feed: &Feed<'_>, record: Record<'_>, reason: &'static str, detail: &str) {
        let bytes = record.size;
        let (input, partition, position) = (&*feed.input.name, feed.partition, record.position);
        let refused = Refused { input, partition, position, raw: record.bytes, bytes };
        self.dead.add(refused, reason, detail);
        self.reasons.add(reason, || RefusedRecord {
            input: input.to_owned(),
            partition: partition.to_owned(),
            position,
            detail: detail.to_owned(),
            raw: record.bytes.to_vec(),
        });
    }

    /// Sends an event to the worker that owns its id.
    pub(crate) fn send(
        &mut self,
        event: &Event<'_>,
        salt: u64,
        route: Route,
        batches: &mut PostBatches,
    ) {
        let id = self.hasher.event(salt, &event.event_id);
        let batch = batches.of(id);
        let (start, texts) = (batch.tags.len(), batch.spellings.bytes());
        let hash_of = |tag| self.keys.hash(tag);
        let dropped = self.tags.limited(&event.caption, hash_of, |o, hash, first| {
            if first {
                batch.tags.push(TagUse { hash: *hash, spelling: batch.spellings.push(o.tag) });
            } else if let Some(kept) = batch.tags[start..].iter_mut().find(|t| t.hash == *hash)
                && o.tag < batch.spellings.get(kept.spelling)
            {
                kept.spelling = batch.spellings.push(o.tag);
            }
        });
        self.counters.tags_too_long += u64::from(dropped.too_long);
        self.counters.tags_too_many += u64::from(dropped.too_many);
        self.counters.texts_truncated += u64::from(dropped.truncated);
        let tags = (start as u32, batch.tags.len() as u32);
        let texts = batch.spellings.bytes() - texts;
        let scopes = self.scopes(event);
        let post = Post { id, ts_ms: event.ts_ms, tags, scopes, route };
        let bytes = post.bytes(texts);
        batch.posts.push(post);
        batches.weigh(bytes);
    }

    fn scopes(&mut self, event: &Event<'_>) -> Box<[u16]> {
        let mut scopes: SmallVec<[u16; 4]> = SmallVec::new();
        for (i, value) in event.attributes.iter().enumerate() {
            let text = match value {
                None | Some(Attribute::Null) => continue,
                Some(value) => value.text(),
            };
            let allow = &self.settings.scopes[i].allow;
            match text.and_then(|text| allow.iter().position(|allowed| allowed == text)) {
                Some(value) => scopes.push(self.settings.scope_index(i, value)),
                None => self.counters.scope_overflow += 1,
            }
        }
        scopes.as_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::Decoder;
    use schemas::hash::HashKey;
    use schemas::mapping::Mapping;

    use super::*;
    use crate::budget::Memory;
    use crate::plan::BlockQueue;
    use crate::pool::Pool;
    use crate::rate_limiter::RateLimiter;

    #[test]
    fn repeated_tag_of_a_post_is_sent_once_with_its_least_spelling() {
        let hasher = HashKey::new(1).hasher();
        let process = ProcessShared::new(
            1,
            BlockQueue::default(),
            RateLimiter::new(None, 0),
            Memory::default(),
            Arc::default(),
        );
        let mut intake =
            Intake::new(Arc::default(), hasher.clone(), TagRules::NEWEST, process.into(), 1, 1);
        let decoder = Decoder::new(Mapping::default(), &[]);
        let mut batches = PostBatches::new(1);
        for caption in ["#sun #moon", "#Tea #Sun #TEA #tea #SUN", "#Sun"] {
            let record = json!({"event_id": caption, "ts": 7, "caption": caption}).to_string();
            let event = decoder.decode(record.as_bytes()).unwrap();
            intake.send(&event, 0, Route::Once, &mut batches);
        }
        let batches: Vec<_> = batches.take(&Pool::default()).collect();
        let [batch] = batches.as_slice() else { panic!("{} batches", batches.len()) };
        let sent = batch.posts.iter().map(|post| {
            let (start, end) = post.tags;
            let tags = batch.tags[start as usize..end as usize].iter();
            tags.map(|tag| (tag.hash, batch.spellings.get(tag.spelling))).collect::<Vec<_>>()
        });
        let [sun, moon, tea] = ["sun", "moon", "tea"].map(|name| hasher.tag(name));
        // Of several spellings the least by bytes, and never one of another post.
        let want = [
            vec![(sun, "sun"), (moon, "moon")],
            vec![(tea, "TEA"), (sun, "SUN")],
            vec![(sun, "Sun")],
        ];
        assert_eq!(sent.collect::<Vec<_>>(), want);
    }
}
