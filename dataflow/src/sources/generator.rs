//! Generated posts as a log, in real time or as fast as they are read.

use std::sync::Arc;

use schemas::config::OutOfRange;
use schemas::manifest::Fingerprint;

use super::{Discovered, Log, LogError, Next, Reader, Record, Shape};
use crate::clock::Clock;
use crate::generator::{Generator, GeneratorSpec};

/// Generated posts. A position is the index of a record; partition `p` of `n` has the records with
/// `index % n == p`.
pub struct GeneratorLog {
    generator: Arc<Generator>,
    /// The clock that decides which records exist yet, if they come in real time.
    clock: Option<Arc<dyn Clock>>,
}

impl GeneratorLog {
    /// A log whose records all exist already.
    pub fn fast(spec: GeneratorSpec) -> Result<Self, OutOfRange> {
        Ok(Self { generator: Arc::new(Generator::new(spec)?), clock: None })
    }

    /// A log whose records appear at their event time.
    pub fn real_time(spec: GeneratorSpec, clock: Arc<dyn Clock>) -> Result<Self, OutOfRange> {
        Ok(Self { generator: Arc::new(Generator::new(spec)?), clock: Some(clock) })
    }
}

/// The name of a generated partition.
fn name(partition: u64) -> String {
    format!("generated-{partition}")
}

impl Log for GeneratorLog {
    fn discover(&self) -> Result<Vec<Discovered>, LogError> {
        let shape = Shape::Ordered { bytes: None };
        let found = |p| Discovered { partition: name(p), share: p, shape: shape.clone() };
        Ok((0..self.generator.spec().partitions).map(found).collect())
    }

    fn verify(&self, _: &str, _: &Fingerprint) -> Result<(), LogError> {
        Ok(())
    }

    fn open(&self, partition: &str, position: u64) -> Result<Box<dyn Reader>, LogError> {
        let number = partition.strip_prefix("generated-").and_then(|p| p.parse().ok());
        let number: u64 = number.ok_or_else(|| LogError::Gone(partition.to_owned()))?;
        Ok(Box::new(GeneratorReader {
            generator: Arc::clone(&self.generator),
            clock: self.clock.clone(),
            index: position.max(number),
            record: String::new(),
        }))
    }

    fn is_bounded(&self) -> bool {
        self.generator.spec().posts.is_some()
    }
}

struct GeneratorReader {
    generator: Arc<Generator>,
    clock: Option<Arc<dyn Clock>>,
    index: u64,
    record: String,
}

impl GeneratorReader {
    /// The index behind the last record that exists.
    fn available(&self) -> u64 {
        let spec = self.generator.spec();
        let all = spec.posts.unwrap_or(u64::MAX);
        let Some(clock) = &self.clock else { return all };
        let since_us = (clock.wall_ms() - spec.start_ms).max(0).unsigned_abs() * 1000;
        all.min(since_us / spec.step_us.max(1))
    }
}

impl Reader for GeneratorReader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record<'_>)) -> Result<Next, LogError> {
        let spec = self.generator.spec();
        let (step, all, available) =
            (spec.partitions, spec.posts.unwrap_or(u64::MAX), self.available());
        debug_assert!(available <= all, "no post exists beyond the last one");
        for _ in 0..limit {
            if self.index >= available {
                return Ok(if self.index >= all { Next::End } else { Next::Wait });
            }
            self.generator.record(self.index, &mut self.record);
            let bytes = self.record.as_bytes();
            let size = bytes.len() as u64;
            each(Record { position: self.index, bytes, size, is_null: false, stamp_ms: None });
            self.index += step;
        }
        Ok(Next::More)
    }

    fn position(&self) -> u64 {
        self.index
    }

    fn end(&mut self) -> Result<Option<u64>, LogError> {
        Ok(Some(self.available()))
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        None
    }
}
