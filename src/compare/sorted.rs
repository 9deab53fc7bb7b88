//! Tags by scope and key, from any order, however many there are.
//!
//! Invariant: at most [`BUDGET`] bytes of them are in memory. More go to a temporary file without a
//! name, sorted in runs, which are merged as they are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sinks::store::Tag;

/// The most bytes of tags in memory: two sides, and what lists take while they grow, stay below
/// 300 MB.
const BUDGET: usize = 64 << 20;
/// What is read of a run at a time. A hundred million tags are some 500 runs.
const READ_BYTES: usize = 64 << 10;

/// Sorts tags.
pub(super) struct Sorter {
    budget: usize,
    tags: Vec<Tag>,
    bytes: usize,
    file: Option<File>,
    runs: Vec<Range<u64>>,
}

/// Sorted tags.
pub(super) struct Sorted {
    /// All of them, if there are no runs.
    tags: Vec<Tag>,
    runs: Vec<(Arc<File>, Range<u64>)>,
}

/// A tag's place in the order.
pub(super) fn place(tag: &Tag) -> (&str, &str) {
    (&tag.scope, &tag.name)
}

impl Default for Sorter {
    fn default() -> Self {
        Self::with_budget(BUDGET)
    }
}

impl Sorter {
    fn with_budget(budget: usize) -> Self {
        Self { budget, tags: Vec::new(), bytes: 0, file: None, runs: Vec::new() }
    }

    /// Takes a tag.
    pub(super) fn push(&mut self, tag: Tag) -> io::Result<()> {
        let windows: usize = tag.windows.iter().map(|(name, _)| name.len() + 48).sum();
        let texts = tag.scope.len() + tag.name.len() + tag.display.len();
        self.bytes += size_of::<Tag>() + texts + 48 + windows;
        self.tags.push(tag);
        if self.bytes > self.budget { self.spill() } else { Ok(()) }
    }

    /// Writes what is in memory as a run.
    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        let start = file.stream_position()?;
        let mut run = BufWriter::with_capacity(1 << 20, &mut *file);
        for Tag { name, display, scope, total, windows, first_seen_ms, last_seen_ms } in
            self.tags.drain(..)
        {
            let row = (scope, name, display, total, windows, first_seen_ms, last_seen_ms);
            serde_json::to_writer(&mut run, &row)?;
            run.write_all(b"\n")?;
        }
        run.flush()?;
        drop(run);
        self.runs.push(start..file.stream_position()?);
        self.bytes = 0;
        Ok(())
    }

    fn sort(&mut self) {
        self.tags.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
    }

    /// What was taken, sorted.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        if self.file.is_some() {
            self.spill()?;
        }
        self.sort();
        let file = self.file.map(Arc::new);
        let run = |range| Some((Arc::clone(file.as_ref()?), range));
        Ok(Sorted { runs: self.runs.into_iter().filter_map(run).collect(), tags: self.tags })
    }
}

impl Sorted {
    /// The tags in order; may be asked again.
    pub(super) fn tags(&self) -> impl Iterator<Item = io::Result<Tag>> + '_ {
        let runs = self.runs.iter().map(|(file, range)| Run {
            lines: BufReader::with_capacity(
                READ_BYTES,
                Part { file: Arc::clone(file), at: range.start, end: range.end },
            ),
        });
        let mut merge = Merge { heads: BinaryHeap::new(), runs: runs.collect(), failed: None };
        (0..merge.runs.len()).for_each(|run| merge.advance(run));
        self.tags.iter().cloned().map(Ok).chain(merge)
    }
}

/// A part of a file.
struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A sorted run in a file.
struct Run {
    lines: BufReader<Part>,
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Tag>> {
        let mut line = Vec::new();
        if self.lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let (scope, name, display, total, windows, first_seen_ms, last_seen_ms) =
            serde_json::from_slice(&line)?;
        Ok(Some(Tag { name, display, scope, total, windows, first_seen_ms, last_seen_ms }))
    }
}

/// The least tag of a run that was not taken yet.
struct Head {
    tag: Tag,
    run: usize,
}

impl Ord for Head {
    /// The greatest head is the one to take: the least tag.
    fn cmp(&self, other: &Self) -> Ordering {
        place(&other.tag).cmp(&place(&self.tag)).then(other.run.cmp(&self.run))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

/// Merges runs.
struct Merge {
    heads: BinaryHeap<Head>,
    runs: Vec<Run>,
    failed: Option<io::Error>,
}

impl Merge {
    fn advance(&mut self, run: usize) {
        match self.runs[run].next() {
            Ok(tag) => self.heads.extend(tag.map(|tag| Head { tag, run })),
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Iterator for Merge {
    type Item = io::Result<Tag>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            // Without a run's next tag the order is lost.
            self.heads.clear();
            return Some(Err(error));
        }
        let Head { tag, run } = self.heads.pop()?;
        self.advance(run);
        Some(Ok(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(scope: &str, name: &str) -> Tag {
        Tag {
            name: name.to_owned(),
            display: format!("{name}\n\u{202e}"),
            scope: scope.to_owned(),
            total: 3,
            windows: vec![("1h".to_owned(), 1), ("24h".to_owned(), -2)],
            first_seen_ms: 1,
            last_seen_ms: i64::MAX,
        }
    }

    #[test]
    fn tags_are_sorted_whether_they_fit_into_memory_or_not() {
        // Every number below 1009 once, far from sorted.
        let tags: Vec<Tag> =
            (0..1009).map(|i| tag(["", "b"][i % 2], &format!("{:04}", i * 617 % 1009))).collect();
        let mut want = tags.clone();
        want.sort_by(|a, b| place(a).cmp(&place(b)));
        for (budget, runs) in [(BUDGET, 0), (20_000, 10), (1, 1010)] {
            let mut sorter = Sorter::with_budget(budget);
            tags.iter().for_each(|tag| sorter.push(tag.clone()).unwrap());
            let sorted = sorter.finish().unwrap();
            assert!(sorted.runs.len() >= runs && (runs > 0) != sorted.runs.is_empty());
            for _ in 0..2 {
                let got: Vec<Tag> = sorted.tags().collect::<Result<_, _>>().unwrap();
                assert_eq!(got, want, "a budget of {budget} bytes");
            }
        }
    }

    #[test]
    fn damaged_run_is_an_error_and_the_end() {
        let mut sorter = Sorter::with_budget(1);
        ["a", "b", "c"].iter().for_each(|name| sorter.push(tag("", name)).unwrap());
        let sorted = sorter.finish().unwrap();
        let (file, range) = &sorted.runs[1];
        file.write_all_at(b"x", range.start).unwrap();
        let got: Vec<bool> = sorted.tags().map(|tag| tag.is_ok()).collect();
        assert_eq!(got, [false]);
    }
}
