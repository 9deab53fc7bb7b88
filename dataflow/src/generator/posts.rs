//! Generated posts, each a function of a seed and its index.
//!
//! They are shaped like real hashtag streams: popularity by a double power law or by Zipf, bursts,
//! repeated deliveries, and late and future events on request. Invariant: record `i` of a
//! specification always has the same bytes, in whatever order records are generated.

use std::fmt::Write;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use schemas::config::{OutOfRange, PostShape};
use schemas::time::TS_MS_END;

use super::popularity::Popularity;
use super::words;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorSpec {
    /// The number of records; `None` means endless.
    pub posts: Option<u64>,
    /// What the posts look like.
    pub shape: PostShape,
    /// The event time of the first record, in milliseconds.
    pub start_ms: i64,
    /// Event time between two records, in microseconds.
    pub step_us: u64,
    /// The number of partitions.
    pub partitions: u64,
}

impl Default for GeneratorSpec {
    fn default() -> Self {
        Self {
            posts: None,
            shape: PostShape::default(),
            start_ms: 1_700_000_000_000,
            step_us: 600,
            partitions: 1,
        }
    }
}

const TAGS_MAX: usize = 60;
/// The rank of the hot tag. No other tag has it, since popularity begins with rank 1.
const HOT_RANK: u64 = 0;
const REGIONS: [&str; 4] = ["us", "eu", "asia", "africa"];
const HOUR_MS: i64 = 3_600_000;
const BURST_MS: i64 = 600_000;

/// Generates the records of a [`GeneratorSpec`].
#[derive(Clone, Debug)]
pub struct Generator {
    spec: GeneratorSpec,
    popularity: Popularity,
    /// At index `n`, the share of posts with at most `n` tags.
    tags_up_to: Vec<f64>,
}

impl Generator {
    /// A generator of `spec`.
    pub fn new(spec: GeneratorSpec) -> Result<Self, OutOfRange> {
        spec.shape.check()?;
        if spec.partitions == 0 {
            return Err(OutOfRange { name: "partitions", range: "at least 1" });
        }
        // Endless posts leave the range of times in millennia at the earliest.
        let all_us = spec.posts.map_or(0, |posts| posts.saturating_mul(spec.step_us));
        if spec.start_ms < 2 * HOUR_MS
            || spec.start_ms.saturating_add_unsigned(all_us / 1000) >= TS_MS_END - 2 * HOUR_MS
        {
            return Err(OutOfRange { name: "the events' time", range: "between 1970 and 2100" });
        }
        let popularity = Popularity::new(spec.shape.zipf, spec.shape.vocabulary);
        let tags_up_to = tag_numbers(spec.shape.tags_mean);
        Ok(Self { spec, popularity, tags_up_to })
    }

    /// What it generates.
    pub fn spec(&self) -> &GeneratorSpec {
        &self.spec
    }

    /// Writes record `index` to `out`, as one line of JSON without the newline.
    pub fn record(&self, index: u64, out: &mut String) {
        out.clear();
        let event = self.event_of(index);
        let mut random = self.random(event, 1);
        let ts_ms = self.ts_ms(event, &mut random);
        let user = (random.random::<f64>().powi(3) * 500_000.0) as u64;
        let region = REGIONS[random.random_range(0..REGIONS.len())];
        // Writing to a String does not fail.
        let _ = write!(
            out,
            r#"{{"event_id":"{id:016x}","type":"post_published","post_id":"{event}","user_id":"u{user}","ts":{ts_ms},"region":"{region}","caption":""#,
            id = mix(self.spec.shape.seed ^ mix(event)),
        );
        // Separate random numbers, so that the rest of a post does not depend on the share.
        let hot = self.spec.shape.hot_tag > 0.0
            && self.random(event, 2).random::<f64>() < self.spec.shape.hot_tag;
        self.caption(ts_ms, hot, &mut random, out);
        out.push_str("\"}");
    }

    /// The event that record `index` delivers: its own, or an earlier one.
    fn event_of(&self, mut index: u64) -> u64 {
        loop {
            let mut random = self.random(index, 0);
            if index == 0 || random.random::<f64>() >= self.spec.shape.duplicates {
                return index;
            }
            // Most redeliveries follow soon, some much later.
            let back = random.random::<f64>().powi(4) * index.min(100_000) as f64;
            index -= 1 + (back as u64).min(index - 1);
        }
    }

    fn random(&self, index: u64, purpose: u64) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(
            mix(self.spec.shape.seed ^ purpose.rotate_left(32)) ^ index,
        )
    }

    fn ts_ms(&self, event: u64, random: &mut Xoshiro256PlusPlus) -> i64 {
        let since = event.saturating_mul(self.spec.step_us) / 1000;
        let on_time = self.spec.start_ms.saturating_add_unsigned(since);
        let kind = random.random::<f64>();
        let by = random.random_range(1..HOUR_MS);
        if kind < self.spec.shape.late {
            on_time - by
        } else if kind < self.spec.shape.late + self.spec.shape.future {
            on_time + HOUR_MS
        } else {
            on_time
        }
    }

    fn caption(&self, ts_ms: i64, hot: bool, random: &mut Xoshiro256PlusPlus, out: &mut String) {
        let share = random.random::<f64>();
        let tags = self.tags_up_to.partition_point(|up_to| *up_to < share);
        let mut ranks = [0_u64; TAGS_MAX];
        let mut chosen = 0;
        for _ in 0..tags {
            // Posts rarely repeat a tag, so draw again a few times.
            for attempt in 0..4 {
                ranks[chosen] = self.rank(ts_ms, random);
                if attempt == 3 || !ranks[..chosen].contains(&ranks[chosen]) {
                    break;
                }
            }
            chosen += 1;
        }
        if hot {
            ranks[0] = HOT_RANK;
            chosen = chosen.max(1);
        }
        debug_assert!(chosen <= TAGS_MAX, "checked by PostShape::check");
        words::sentence(random, out);
        for rank in &ranks[..chosen] {
            out.push_str(" #");
            words::tag(*rank, random.random::<f64>(), out);
        }
    }

    /// The popularity rank of a tag for a post at `ts_ms`; that of a burst, or any.
    fn rank(&self, ts_ms: i64, random: &mut Xoshiro256PlusPlus) -> u64 {
        if self.spec.shape.bursts {
            let dice = random.random::<f64>();
            let mut below = 0.0;
            // Bursts of the last hour linger, each half as loud after its half-life.
            for ago in 0..6 {
                let slot = ts_ms / BURST_MS - ago;
                let kind = mix(self.spec.shape.seed ^ mix(slot as u64));
                let loudness = 0.1 + 0.2 * (kind % 1000) as f64 / 1000.0;
                let half_life = 10.0 + (kind >> 10 & 63) as f64 * 0.8;
                below += loudness * 0.3 * 0.5_f64.powf(ago as f64 * 10.0 / half_life);
                if dice < below {
                    return 1 + kind % self.spec.shape.vocabulary;
                }
            }
        }
        self.popularity.rank(random)
    }
}

/// The shares of posts with at most 0, 1, 2 … tags: a negative binomial distribution, which spreads
/// as tag numbers do, cut off at 30 as large networks do.
fn tag_numbers(mean: f64) -> Vec<f64> {
    const FAILURES: f64 = 4.0;
    const CUT: u32 = 30;
    assert!((0.0..=40.0).contains(&mean), "mean {mean}: checked by PostShape::check");
    let success = mean / (mean + FAILURES);
    let mut share = (1.0 - success).powf(FAILURES);
    let mut up_to = Vec::new();
    let mut sum = 0.0;
    for k in 0..CUT.max(mean as u32 + 10).min(TAGS_MAX as u32) {
        sum += share;
        up_to.push(sum);
        share *= success * (f64::from(k) + FAILURES) / (f64::from(k) + 1.0);
    }
    up_to
}

/// A bijection that looks random (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use schemas::event::Decoder;
    use schemas::tags::{key, limited};

    use super::*;

    fn spec(posts: u64, shape: PostShape) -> GeneratorSpec {
        GeneratorSpec { posts: Some(posts), shape, ..GeneratorSpec::default() }
    }

    fn records(spec: GeneratorSpec) -> Vec<String> {
        let posts = spec.posts.unwrap();
        let generator = Generator::new(spec).unwrap();
        let mut out = String::new();
        let record = |index| {
            generator.record(index, &mut out);
            out.clone()
        };
        (0..posts).map(record).collect()
    }

    #[test]
    fn records_have_the_requested_shape() {
        let shape = PostShape { zipf: Some(1.05), late: 0.01, ..PostShape::default() };
        let spec = spec(50_000, shape);
        let lines = records(spec.clone());
        let decoder = Decoder::default();
        let (mut ids, mut tags, mut keys) = (BTreeMap::new(), 0, BTreeSet::new());
        let mut late = 0;
        for (i, line) in lines.iter().enumerate() {
            let event = decoder.decode(line.as_bytes()).unwrap();
            let first = ids.entry(event.event_id.to_string()).or_insert_with(|| line.clone());
            assert_eq!(first, line, "a redelivery has the same bytes");
            let on_time = spec.start_ms + i as i64 * 600 / 1000;
            late += u32::from(event.ts_ms < on_time - 120_000);
            limited(&event.caption, key, |_, key, first| {
                tags += u32::from(first);
                keys.insert(key.to_string());
            });
        }
        let mean = f64::from(tags) / 50_000.0;
        assert!((6.5..7.5).contains(&mean), "{mean} tags a post");
        let duplicates = 50_000 - ids.len();
        assert!((800..1200).contains(&duplicates), "{duplicates} duplicates");
        assert!((300..700).contains(&late), "{late} late");
        assert!(keys.len() > 20_000, "{} different tags", keys.len());
    }

    #[test]
    fn seed_determines_the_records() {
        let of = |seed| records(spec(100, PostShape { seed, ..PostShape::default() }));
        assert_eq!(of(5), of(5));
        assert_ne!(of(5), of(6));
    }

    #[test]
    fn bursts_lift_one_tag() {
        let top = |bursts| {
            let shape = PostShape { bursts, ..PostShape::default() };
            let spec = GeneratorSpec { step_us: 6_000, ..spec(20_000, shape) };
            let mut counts = BTreeMap::new();
            for line in records(spec) {
                limited(&line, key, |_, key, _| *counts.entry(key.to_string()).or_insert(0) += 1);
            }
            counts.into_values().max().unwrap()
        };
        assert!(top(true) > 2 * top(false));
    }

    /// Other tests and published figures rely on the bytes of a seed.
    #[test]
    fn seed_gives_the_bytes_it_always_gave() {
        let shape = PostShape { zipf: Some(1.05), late: 0.01, ..PostShape::default() };
        let sum = |shape| {
            let lines = records(spec(2000, shape)).join("\n");
            lines.bytes().fold(0_u64, |sum, byte| mix(sum ^ u64::from(byte)))
        };
        assert_eq!(sum(shape.clone()), 14_100_214_405_143_999_791);
        let shape = PostShape { zipf: None, bursts: true, ..shape };
        assert_eq!(sum(shape), 9_730_515_395_825_535_952);
    }

    #[test]
    fn hot_tag_replaces_the_first_tag_in_its_share_of_posts() {
        let shape = PostShape { vocabulary: 50, ..PostShape::default() };
        let cold = records(spec(20_000, shape.clone()));
        let hot = records(spec(20_000, PostShape { hot_tag: 0.9, ..shape }));
        let keys = |line: &str| {
            let mut keys = Vec::new();
            limited(line, key, |_, key, _| keys.push(key.to_string()));
            keys
        };
        let mut name = String::new();
        words::tag(HOT_RANK, 0.5, &mut name);
        let mut posts = 0;
        for (cold, hot) in cold.iter().zip(&hot) {
            assert_eq!(cold.split("caption").next(), hot.split("caption").next());
            let (cold, hot) = (keys(cold), keys(hot));
            assert!(!cold.contains(&name), "the hot tag is outside the vocabulary");
            if hot.contains(&name) {
                posts += 1;
                assert_eq!(hot.first(), Some(&name));
                assert_eq!(cold.get(1..).unwrap_or_default(), &hot[1..]);
            } else {
                assert_eq!(cold, hot);
            }
        }
        assert!((17_700..18_300).contains(&posts), "{posts} of 20000 posts");
        let all = PostShape { tags_mean: 0.0, hot_tag: 1.0, ..PostShape::default() };
        assert!(records(spec(1000, all)).iter().all(|line| keys(line) == [name.as_str()]));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let error = |change: fn(&mut GeneratorSpec)| {
            let mut spec = GeneratorSpec::default();
            change(&mut spec);
            Generator::new(spec).unwrap_err().to_string()
        };
        assert!(error(|s| s.shape.duplicates = 1.0).contains("duplicates"));
        assert!(error(|s| s.shape.hot_tag = 1.1).contains("hot-tag"));
        assert!(error(|s| s.shape.hot_tag = f64::NAN).contains("hot-tag"));
        assert!(error(|s| s.shape.vocabulary = 0).contains("vocabulary"));
        assert!(error(|s| s.shape.zipf = Some(-1.0)).contains("zipf"));
        assert!(error(|s| s.start_ms = 0).contains("time"));
    }
}
