//! An estimate of the state that a job will hold under a load, for `tagflow explain`.
//!
//! Sizes are those of the data structures. How many buckets a tag has follows from a Zipf law.

use schemas::windows::{Window, Windows};
use serde::Serialize;

use crate::settings::Settings;
use crate::state::tag_table::CHUNK;

/// Bytes of an id in memory: the mean between two growths of its table (`state/id_set.rs`).
const ID_BYTES: f64 = 21.5;
/// Bytes of an id in a segment: hash and hour.
const ID_ROW_BYTES: f64 = 20.0;
/// Bytes of a tag in memory: its slot in the slab, its index entry, the block of its text.
const SLOT_BYTES: f64 = 104.0;
const INDEX_BYTES: f64 = 12.0;
const TEXT_BLOCK_BYTES: f64 = 20.0;
/// Bytes of a tag's row without texts and buckets: hash, numbers, times and offsets.
const TAG_ROW_BYTES: f64 = 16.0 + 8.0 * 5.0 + 4.0 * 4.0;
/// Key and display of a tag.
const TEXT_BYTES: f64 = 2.0 * 10.0;
/// Bytes of a bucket in memory once a tag has more than two, and in a row.
const BUCKET_BYTES: f64 = 8.0;
const BUCKET_ROW_BYTES: f64 = 2.6;
/// Lists of buckets double when they are full.
const LIST_SLACK: f64 = 1.4;
/// The part of a filter over a segment that a row takes.
const FILTER_BYTES: f64 = 10.0 / 8.0;

/// What a job counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Events whose ids are remembered: those within the horizon, or all events of a bounded run.
    pub ids: u64,
    /// Distinct tags with posts in the longest window.
    pub tags: u64,
    /// The mean number of tags of a post.
    pub tags_per_post: f64,
    /// The exponent of the Zipf law of tags.
    pub zipf: f64,
}

impl Default for Load {
    /// The load the design was made for: 100,000 posts a minute with 8 tags, for a day.
    fn default() -> Self {
        Self { ids: 144_000_000, tags: 23_000_000, tags_per_post: 8.0, zipf: 1.0 }
    }
}

/// The size of a state in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Memory of event ids.
    pub id_bytes: u64,
    /// Memory of tags and of the filters over their segments.
    pub tag_bytes: u64,
    /// The newest commit's files when they are merged. Until then rows that changed take room
    /// twice.
    pub segment_bytes: u64,
}

impl Estimate {
    /// The state of a job with `settings` under `load`.
    pub fn of(settings: &Settings, load: Load) -> Self {
        let Sums { rows, buckets, spilled } = Sums::of(settings, load);
        let slots = (rows / CHUNK as f64).ceil() * CHUNK as f64;
        let heap = rows * (INDEX_BYTES + TEXT_BLOCK_BYTES) + spilled * BUCKET_BYTES * LIST_SLACK;
        let ids = load.ids as f64;
        let tag_files = rows * (TAG_ROW_BYTES + TEXT_BYTES) + buckets * BUCKET_ROW_BYTES;
        Self {
            id_bytes: (ids * ID_BYTES) as u64,
            tag_bytes: (slots * SLOT_BYTES + rows * FILTER_BYTES + heap) as u64,
            segment_bytes: (ids * ID_ROW_BYTES + tag_files) as u64,
        }
    }
}

/// What all scopes together hold.
#[derive(Default)]
struct Sums {
    /// Tags, counted in every scope that has posts with them.
    rows: f64,
    /// Their buckets.
    buckets: f64,
    /// The buckets of rows that have more than fit in place.
    spilled: f64,
}

impl Sums {
    fn of(settings: &Settings, load: Load) -> Self {
        let mentions = load.ids as f64 * load.tags_per_post;
        let weight = |rank: f64| rank.powf(-load.zipf);
        // Ranks in bands that grow by a tenth, each represented by its middle.
        let mut bands = Vec::new();
        // Beyond 2^53 a float does not tell a number from the next, so the end is what is compared.
        let (mut from, end) = (1.0, load.tags as f64 + 1.0);
        while from < end {
            let to = (from * 1.1_f64).max(from + 1.0).min(end);
            bands.push((f64::midpoint(from, to - 1.0), to - from));
            from = to;
        }
        let all: f64 = bands.iter().map(|(rank, tags)| weight(*rank) * tags).sum();
        // A post counts in the whole stream, and for one value of each attribute.
        let values = settings.scopes.iter().map(|scope| scope.allow.len() as f64);
        let values: Vec<f64> = std::iter::once(1.0).chain(values).collect();
        let mut sums = Self::default();
        for (rank, tags) in bands {
            let count = mentions * weight(rank) / all;
            for values in &values {
                let rows = if *values > 1.0 { hit(*values, count) } else { 1.0 };
                let buckets = buckets(&settings.windows, count / rows);
                sums.rows += tags * rows;
                sums.buckets += tags * rows * buckets;
                sums.spilled += if buckets > 2.0 { tags * rows * buckets } else { 0.0 };
            }
        }
        sums
    }
}

/// How many of `slots` are hit by `count` throws.
fn hit(slots: f64, count: f64) -> f64 {
    slots * (1.0 - (-count / slots).exp())
}

/// The buckets of a tag with `count` posts in the longest window.
fn buckets(windows: &Windows, count: f64) -> f64 {
    let slots = |window: Window| (window.duration_ms / window.slide_ms) as f64;
    let Some((first, last)) = windows.iter().next().zip(windows.iter().last()) else {
        unreachable!("there is always a window: checked by `Windows`");
    };
    // Posts in the finest window have finer buckets.
    let share = first.duration_ms as f64 / last.duration_ms as f64;
    (hit(slots(last), count) + hit(slots(first), count * share)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn design_load_fits_into_design_memory() {
        let estimate = Estimate::of(&Settings::default(), Load::default());
        assert!(estimate.id_bytes < 24 * 144_000_000);
        assert!(estimate.id_bytes + estimate.tag_bytes < 16 << 30, "{estimate:?}");
    }

    #[test]
    fn any_number_of_posts_and_tags_has_an_estimate() {
        for number in [0, 1, 2, (1 << 53) - 1, 1 << 53, u64::MAX - 1, u64::MAX] {
            for zipf in [0.0, 1.0, 10.0] {
                let load = Load { ids: number, tags: number, tags_per_post: 60.0, zipf };
                let estimate = Estimate::of(&Settings::default(), load);
                assert!(estimate.id_bytes >= number.min(u64::MAX / 8), "{number}: {estimate:?}");
                assert!(estimate.tag_bytes >= number.min(1 << 60), "{number}: {estimate:?}");
            }
        }
    }

    #[test]
    fn larger_load_takes_more_memory() {
        let of = |change: fn(&mut Load)| {
            let mut load = Load { ids: 100_000, tags: 10_000, tags_per_post: 3.0, zipf: 1.0 };
            change(&mut load);
            Estimate::of(&Settings::default(), load)
        };
        let base = of(|_| ());
        assert!(of(|l| l.ids *= 2).id_bytes > base.id_bytes);
        assert!(of(|l| l.tags *= 2).tag_bytes > base.tag_bytes);
        assert!(of(|l| l.tags_per_post *= 4.0).tag_bytes > base.tag_bytes);
    }
}
