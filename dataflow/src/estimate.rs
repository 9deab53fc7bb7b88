//! What state a job will hold, from its load: what `tagflow explain` tells.
//!
//! The sizes are those of the structures themselves; how many buckets a tag has follows from Zipf.

use schemas::windows::Windows;
use serde::Serialize;

use crate::settings::Settings;

/// Bytes of an id in memory: the mean between growths of its table (`state/id_set.rs`).
const ID_BYTES: f64 = 21.5;
/// Bytes of an id in a segment: hash and hour.
const ID_ROW_BYTES: f64 = 20.0;
/// Bytes of a tag in memory: its slot in the slab, its index entry, the block of its text.
const TAG_BYTES: f64 = 104.0 + 7.5 + 20.0;
/// Bytes of a tag's row without texts and buckets: hash, numbers, times and offsets.
const TAG_ROW_BYTES: f64 = 16.0 + 8.0 * 5.0 + 4.0 * 4.0;
/// Key and display of a tag.
const TEXT_BYTES: f64 = 2.0 * 10.0;
/// Bytes of a bucket in memory once a tag has more than two, and in a row.
const BUCKET_BYTES: f64 = 8.0;
const BUCKET_ROW_BYTES: f64 = 2.6;
/// Buckets are kept in lists that double.
const LIST_SLACK: f64 = 1.4;
/// A filter's bits for each row of a segment.
const FILTER_BYTES: f64 = 10.0 / 8.0;

/// What a job has to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Events whose ids are remembered: those within the horizon, or all of a bounded run.
    pub ids: u64,
    /// Distinct tags with posts in the longest window.
    pub tags: u64,
    /// The mean number of tags of a post.
    pub tags_per_post: f64,
    /// The exponent of the tags' popularity.
    pub zipf: f64,
}

impl Default for Load {
    /// The load the design was made for: 100,000 posts a minute with 8 tags, for a day.
    fn default() -> Self {
        Self { ids: 144_000_000, tags: 23_000_000, tags_per_post: 8.0, zipf: 1.0 }
    }
}

/// What it takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Memory of event ids.
    pub id_bytes: u64,
    /// Memory of tags and of the filters over their segments.
    pub tag_bytes: u64,
    /// The newest commit's files once merged; rows that changed since take room twice until then.
    pub segment_bytes: u64,
}

impl Estimate {
    /// The state of a job with `settings` under `load`.
    pub fn of(settings: &Settings, load: Load) -> Self {
        let scopes = 1.0 + settings.scopes.len() as f64;
        let rows = load.tags as f64 * scopes;
        let (buckets, spilled) = buckets(&settings.windows, load);
        let heap = spilled * scopes * BUCKET_BYTES * LIST_SLACK;
        let ids = load.ids as f64;
        let row = TAG_ROW_BYTES + TEXT_BYTES;
        let tag_files = rows * row + buckets * scopes * BUCKET_ROW_BYTES;
        Self {
            id_bytes: (ids * ID_BYTES) as u64,
            tag_bytes: (rows * (TAG_BYTES + FILTER_BYTES) + heap) as u64,
            segment_bytes: (ids * ID_ROW_BYTES + tag_files) as u64,
        }
    }
}

/// The buckets of all tags, and those of tags that have more than fit in place.
fn buckets(windows: &Windows, load: Load) -> (f64, f64) {
    let slots: Vec<f64> = windows.iter().map(|w| (w.duration_ms / w.slide_ms) as f64).collect();
    let (finest, coarsest) = (slots[0], slots[slots.len() - 1]);
    let mentions = load.ids as f64 * load.tags_per_post;
    let weight = |rank: f64| rank.powf(-load.zipf);
    // Ranks in bands that grow by a tenth: of each its middle stands for all.
    let mut bands = Vec::new();
    let mut from = 1.0;
    while from <= load.tags as f64 {
        let to = (from * 1.1_f64).max(from + 1.0).min(load.tags as f64 + 1.0);
        bands.push((f64::midpoint(from, to - 1.0), to - from));
        from = to;
    }
    let all: f64 = bands.iter().map(|(rank, tags)| weight(*rank) * tags).sum();
    let (mut buckets, mut spilled) = (0.0, 0.0);
    for (rank, tags) in bands {
        let count = mentions * weight(rank) / all;
        let hit = |slots: f64, count: f64| slots * (1.0 - (-count / slots).exp());
        // The finest window's share of the mentions lies in its own buckets.
        let share = finest * windows.iter().next().map_or(1.0, |w| w.slide_ms as f64)
            / windows.iter().last().map_or(1.0, |w| w.duration_ms as f64);
        let each = (hit(coarsest, count) + hit(finest, count * share)).max(1.0);
        buckets += each * tags;
        spilled += if each > 2.0 { each * tags } else { 0.0 };
    }
    (buckets, spilled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_design_load_fits_the_design_memory() {
        let estimate = Estimate::of(&Settings::default(), Load::default());
        assert!(estimate.id_bytes < 24 * 144_000_000);
        assert!(estimate.id_bytes + estimate.tag_bytes < 16 << 30, "{estimate:?}");
    }

    #[test]
    fn more_of_anything_takes_more() {
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
