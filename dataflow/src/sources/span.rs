//! A part of an input, as a replay reads it: from given positions up to those of a commit.
//!
//! Invariant: no record before the beginning, or at or after the end, is handed out, and nothing
//! after the end is waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::event::Decoder;
use schemas::manifest::{Fingerprint, Partition, Partitions, Position};
use schemas::rotation::name_after;

use super::{Discovered, Log, LogError, Moved, Next, Reader, Record, Shape};

/// How many records are searched for a time in one call.
const SEARCHED: usize = 4096;

/// Where reading begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Beginning {
    /// With its oldest records.
    #[default]
    Oldest,
    /// With the first record of each partition at or after a time in milliseconds: the time the
    /// log appended it if the log can find records by time, else the event's time.
    Time(i64),
    /// At these positions; partitions without one begin with their oldest records.
    Positions(BTreeMap<String, u64>),
}

/// Which part of an input is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where reading begins.
    pub beginning: Beginning,
    /// The partitions of the commit that reading ends with, if it ends.
    pub end: Option<BTreeMap<String, Partition>>,
}

impl Span {
    /// The positions of a commit's partitions.
    pub fn positions(
        partitions: &BTreeMap<String, Partition>,
    ) -> Result<BTreeMap<String, u64>, LogError> {
        let of = |(name, state): (&String, &Partition)| Ok((name.clone(), offset(name, state)?));
        partitions.iter().map(of).collect()
    }
}

/// The position up to which all of a partition was read, and nothing after it.
fn offset(name: &str, state: &Partition) -> Result<u64, LogError> {
    match &state.position {
        Position::Offset(offset) => Ok(*offset),
        Position::Blocks(blocks) if blocks.are_done() => Ok(blocks.bytes),
        Position::Blocks(_) => Err(LogError::UnfinishedBlocks(name.to_owned())),
    }
}

/// A part of `inner`.
pub(crate) struct SpanLog {
    inner: Arc<dyn Log>,
    decoder: Decoder,
    beginning: Beginning,
    end: Option<BTreeMap<String, (u64, Partition)>>,
}

impl SpanLog {
    /// The part `span` of `inner`, whose records `decoder` reads.
    pub(crate) fn new(
        inner: Arc<dyn Log>,
        decoder: Decoder,
        span: &Span,
    ) -> Result<Self, LogError> {
        let with_offset = |(name, state): (&String, &Partition)| {
            Ok((name.clone(), (offset(name, state)?, state.clone())))
        };
        let end = span.end.as_ref();
        let end = end.map(|end| end.iter().map(with_offset).collect::<Result<_, LogError>>());
        let (mut beginning, end) = (span.beginning.clone(), end.transpose()?);
        if let (Beginning::Positions(known), Some(now)) = (&mut beginning, &span.end) {
            // A file that was rotated in between has another name at the end.
            let named = |(name, position): (&String, &u64)| {
                Some((name_after(name, now, known)?.to_owned(), *position))
            };
            *known = known.iter().filter_map(named).collect();
        }
        Ok(Self { inner, decoder, beginning, end })
    }

    fn end(&self, partition: &str) -> Option<u64> {
        self.end.as_ref()?.get(partition).map(|(end, _)| *end)
    }

    /// The position of the first event at or after `ms`, or the end of what is there now.
    fn search(&self, partition: &str, ms: i64) -> Result<u64, LogError> {
        let mut reader = self.inner.open(partition, self.inner.beginning(partition, false)?)?;
        let mut found = None;
        loop {
            let next = reader.read(SEARCHED, &mut |record| {
                let is_match = || self.decoder.decode(record.bytes).is_ok_and(|e| e.ts_ms >= ms);
                if found.is_none() && is_match() {
                    found = Some(record.position);
                }
            })?;
            if found.is_some() || next != Next::More {
                return Ok(found.unwrap_or(reader.position()));
            }
        }
    }

    /// The part of a partition that the span covers, if any.
    fn cut(&self, mut found: Discovered) -> Result<Option<Discovered>, LogError> {
        let Some(ends) = &self.end else { return Ok(Some(found)) };
        let Some((end, state)) = ends.get(&found.partition) else { return Ok(None) };
        for known in [&state.fingerprint, &state.tail].into_iter().flatten() {
            self.inner.verify(&found.partition, known)?;
        }
        let (Shape::Ordered { bytes: Some(bytes) } | Shape::Blocks { bytes, .. }) =
            &mut found.shape
        else {
            found.shape = Shape::Ordered { bytes: Some(*end) };
            return Ok(Some(found));
        };
        let size = self.inner.size(&found.partition)?.unwrap_or(*bytes);
        if size.max(*bytes) < *end {
            let (file, bytes, read) = (found.partition, size, *end);
            return Err(LogError::Shorter { file, bytes, read });
        }
        *bytes = *end;
        Ok(Some(found))
    }
}

impl Log for SpanLog {
    fn locate(&self, known: &Partitions, again: bool) -> Result<Vec<Moved>, LogError> {
        let Some(end) = &self.end else { return self.inner.locate(known, again) };
        let end = end.iter().map(|(name, (_, state))| (name.clone(), state.clone())).collect();
        self.inner.locate(&end, true)
    }

    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let found = self.inner.discover()?;
        for (name, (end, state)) in self.end.iter().flatten() {
            if *end > state.begin && found.iter().all(|found| found.partition != *name) {
                let missing = self.inner.missing(name);
                return Err(missing.unwrap_or_else(|| LogError::Gone(name.clone())));
            }
        }
        found.into_iter().filter_map(|found| self.cut(found).transpose()).collect()
    }

    fn verify(&self, partition: &str, known: &Fingerprint) -> Result<(), LogError> {
        self.inner.verify(partition, known)
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        self.open_on(0, partition, position)
    }

    fn open_on(
        &self,
        worker: usize,
        partition: &str,
        position: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        let Some(end) = self.end(partition) else {
            return self.inner.open_on(worker, partition, position);
        };
        let inner = self.inner.open_part(worker, partition, position, end)?;
        Ok(Box::new(SpanReader { inner, partition: partition.to_owned(), end }))
    }

    fn open_block(
        &self,
        partition: &str,
        bytes: u64,
        number: u64,
        offset: u64,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.inner.open_block(partition, bytes, number, offset)
    }

    fn size(&self, partition: &str) -> Result<Option<u64>, LogError> {
        if self.end.is_some() { Ok(None) } else { self.inner.size(partition) }
    }

    fn packed(&self, partition: &str) -> Result<u64, LogError> {
        self.inner.packed(partition)
    }

    fn passed_over(&self) -> Vec<String> {
        self.inner.passed_over()
    }

    fn is_bounded(&self) -> bool {
        self.end.is_some() || self.inner.is_bounded()
    }

    fn is_repeatable(&self) -> bool {
        self.inner.is_repeatable()
    }

    fn is_topic(&self) -> bool {
        self.inner.is_topic()
    }

    fn beginning(&self, partition: &str, first: bool) -> Result<u64, LogError> {
        match &self.beginning {
            Beginning::Time(ms) if first => match self.inner.position_at(partition, *ms)? {
                Some(position) => Ok(position),
                None => self.search(partition, *ms),
            },
            Beginning::Positions(known) if known.contains_key(partition) => Ok(known[partition]),
            _ => match self.end.as_ref().and_then(|end| end.get(partition)) {
                Some((_, state)) if !self.is_topic() => Ok(state.begin),
                _ => self.inner.beginning(partition, first),
            },
        }
    }

    fn resume(&self, partition: &str, state: &Partition) -> Result<(), LogError> {
        if let (Some(end), Position::Offset(read)) = (self.end(partition), &state.position)
            && *read > end
        {
            let (partition, read) = (partition.to_owned(), *read);
            return Err(LogError::Past { partition, read, end });
        }
        self.inner.resume(partition, state)
    }

    fn missing(&self, partition: &str) -> Option<LogError> {
        self.inner.missing(partition)
    }

    fn confirm(&self) -> Result<bool, LogError> {
        self.inner.confirm()
    }

    fn committed(&self, partitions: &BTreeMap<String, Partition>) {
        self.inner.committed(partitions);
    }

    fn blocked(&self) -> u64 {
        self.inner.blocked()
    }

    fn troubles(&self) -> u64 {
        self.inner.troubles()
    }
}

/// Reads one partition up to `end`.
struct SpanReader {
    inner: Box<dyn Reader>,
    partition: String,
    end: u64,
}

impl Reader for SpanReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        if self.inner.position() >= self.end {
            return Ok(Next::End);
        }
        let end = self.end;
        let next = self.inner.read(limit, &mut |record| {
            if record.position < end {
                each(record);
            }
        })?;
        let position = self.inner.position();
        match next {
            _ if position >= end => Ok(Next::End),
            Next::End => {
                let (file, bytes, read) = (self.partition.clone(), position, end);
                Err(LogError::Shorter { file, bytes, read })
            }
            next => Ok(next),
        }
    }

    fn position(&self) -> u64 {
        self.inner.position().min(self.end)
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(self.end))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        self.inner.fingerprint()
    }

    fn tail(&self) -> Option<Fingerprint> {
        self.inner.tail()
    }

    fn lost(&mut self) -> u64 {
        self.inner.lost()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use schemas::config::{FileOptions, Follow};
    use schemas::manifest::{BLOCK_BYTES, Blocks};
    use schemas::mapping::Mapping;

    use super::super::{FileLog, Mode};
    use super::*;

    /// A file with one event per second from 0 s on, and the positions of its lines.
    fn file(events: i64) -> (tempfile::TempDir, Vec<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let (mut text, mut starts) = (String::new(), Vec::new());
        for i in 0..events {
            starts.push(text.len() as u64);
            text += &format!("{{\"event_id\":{i},\"ts\":{},\"caption\":\"#a\"}}\n", i * 1000);
        }
        starts.push(text.len() as u64);
        fs::write(folder.path().join("f.ndjson"), text).unwrap();
        (folder, starts)
    }

    fn span(folder: &tempfile::TempDir, mode: Mode, span: &Span) -> SpanLog {
        let inner = Arc::new(FileLog::new(folder.path(), mode, FileOptions::default()).unwrap());
        SpanLog::new(inner, Decoder::new(Mapping::default(), &[]), span).unwrap()
    }

    fn at(position: u64) -> Partition {
        Partition { position: Position::Offset(position), ..Partition::default() }
    }

    fn up_to(position: u64) -> Span {
        let end = [("f.ndjson".to_owned(), at(position))].into();
        Span { end: Some(end), ..Span::default() }
    }

    fn read(log: &SpanLog, from: u64) -> Vec<u64> {
        let mut reader = log.open("f.ndjson", from).unwrap();
        let mut read = Vec::new();
        while reader.read(3, &mut |record| read.push(record.position)).unwrap() == Next::More {}
        assert_eq!(reader.position(), reader.end().unwrap().unwrap());
        read
    }

    #[test]
    fn no_record_after_the_end_is_read() {
        let (folder, starts) = file(10);
        for mode in [Mode::Ordered, Mode::Follow(Follow::default())] {
            for end in 0..=10 {
                let log = span(&folder, mode, &up_to(starts[end]));
                assert!(log.is_bounded());
                assert_eq!(read(&log, 0), starts[..end]);
                let shape = Shape::Ordered { bytes: Some(starts[end]) };
                assert_eq!(log.discover().unwrap()[0].shape, shape);
            }
        }
        let log = span(&folder, Mode::Ordered, &up_to(starts[4]));
        let past = log.resume("f.ndjson", &at(starts[5])).unwrap_err();
        assert!(matches!(past, LogError::Past { .. }), "{past}");
        let log = span(&folder, Mode::Ordered, &up_to(starts[10] + 1));
        assert!(matches!(log.discover(), Err(LogError::Shorter { .. })));
    }

    #[test]
    fn span_begins_at_a_time_or_a_position() {
        let (folder, starts) = file(10);
        let begin = |beginning, first| {
            let span =
                span(&folder, Mode::Follow(Follow::default()), &Span { beginning, end: None });
            assert!(!span.is_bounded());
            span.beginning("f.ndjson", first).unwrap()
        };
        assert_eq!(begin(Beginning::Time(3500), true), starts[4]);
        assert_eq!(begin(Beginning::Time(-1), true), 0);
        assert_eq!(begin(Beginning::Time(99_000), true), starts[10]);
        assert_eq!(begin(Beginning::Time(3500), false), 0, "the partition was added later");
        let known = [("f.ndjson".to_owned(), starts[2])];
        assert_eq!(begin(Beginning::Positions(known.into()), true), starts[2]);
        assert_eq!(begin(Beginning::Positions(BTreeMap::new()), true), 0);
        assert_eq!(begin(Beginning::Oldest, true), 0);
    }

    #[test]
    fn missing_or_partly_read_partitions_are_errors() {
        let (folder, starts) = file(3);
        let ends = [("f.ndjson".to_owned(), at(starts[3])), ("g.ndjson".to_owned(), at(7))];
        let log = span(
            &folder,
            Mode::Follow(Follow::default()),
            &Span { end: Some(ends.into()), ..Span::default() },
        );
        assert!(matches!(log.discover(), Err(LogError::Gone(name)) if name == "g.ndjson"));
        let blocks = Blocks { bytes: 3 * BLOCK_BYTES, done: 1, ..Blocks::default() };
        let half = Partition { position: Position::Blocks(blocks), ..Partition::default() };
        let half = [("f.ndjson".to_owned(), half)].into();
        assert!(matches!(Span::positions(&half), Err(LogError::UnfinishedBlocks(_))));
    }
}
