//! The baseline: one thread and two tables in memory, without windows and commits.
//!
//! It shares only the tag rules and the allocator with the product, so that the difference is the
//! price of exact counts through crashes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use schemas::tags::{key, limited};
use serde::Deserialize;

use crate::sums::Sums;

#[derive(Deserialize)]
struct Post<'r> {
    #[serde(borrow)]
    event_id: Cow<'r, str>,
    ts: i64,
    #[serde(borrow)]
    caption: Cow<'r, str>,
}

struct Count {
    total: i64,
    first: i64,
    last: i64,
}

/// Counts the posts of `input` and prints the sums as one JSON line.
pub(crate) fn run(input: &Path) -> Result<(), Box<dyn Error>> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(input)?);
    let mut sums = Sums::default();
    let mut ids: HashSet<String> = HashSet::new();
    let mut counts: HashMap<String, Count> = HashMap::new();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let post: Post<'_> = serde_json::from_slice(&line)?;
        if ids.contains(&*post.event_id) {
            sums.duplicates += 1;
        } else {
            ids.insert(post.event_id.into_owned());
            sums.events += 1;
            limited(&post.caption, key, |_, key, first| {
                if first {
                    count(&mut counts, key, post.ts);
                }
            });
        }
        line.clear();
    }
    counts.iter().for_each(|(key, c)| sums.add(key, c.total, c.first, c.last));
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &sums)?;
    out.flush()?;
    // Freeing a million strings one by one would only cost the baseline time.
    std::process::exit(0);
}

fn count(counts: &mut HashMap<String, Count>, key: &str, ts: i64) {
    if let Some(count) = counts.get_mut(key) {
        count.total += 1;
        count.first = count.first.min(ts);
        count.last = count.last.max(ts);
    } else {
        counts.insert(key.to_owned(), Count { total: 1, first: ts, last: ts });
    }
}
