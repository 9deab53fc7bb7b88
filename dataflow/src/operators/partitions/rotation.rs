//! Partitions that appear while a job runs, and files that lose their names.
//!
//! Invariant: what a file has been read to goes with it to the name that it has from then on.

use std::collections::BTreeSet;
use std::sync::Arc;

use schemas::log_time::LogTime;
use schemas::planted::{Bug, planted};

use super::{Ordered, Partitions, Rotated};
use crate::limits::DISCOVER_US;
use crate::low_watermark::Alignment;
use crate::operators::last_line::LastLine;
use crate::plan::OrderedPart;
use crate::sources::{LogError, Loss, Moved, Next};

impl Partitions {
    /// Opens a partition where it is to be continued.
    pub(super) fn open(&mut self, part: OrderedPart) -> Result<(), LogError> {
        let skip = u64::from(part.offset > 0 && planted(Bug::OffsetByOne));
        let log = &self.context.inputs[part.input].log;
        let reader = log.open_on(self.worker.index(), &part.partition, part.offset + skip)?;
        let since_us = self.context.clock.mono_us();
        let rotated = part.former_name.as_ref().map(|_| Rotated { end: None, since_us });
        self.ordered.push(Ordered {
            salt: self.salt(part.input),
            log_time: part.log_time.clone(),
            part,
            reader,
            largest: self.context.largest().map(|l| l.as_if_read_at(self.context.started_us)),
            next: Next::More,
            last_line: LastLine::default(),
            end_before: None,
            alignment: Alignment::default(),
            rotated,
        });
        Ok(())
    }

    /// Opens partitions that have appeared: in all inputs as a commit ends, in topics each second.
    /// As a commit ends, those that have lost their names and no longer grow are let go.
    pub(crate) fn discover(&mut self, is_end: bool) -> Result<(), LogError> {
        let now_us = self.context.clock.mono_us();
        let is_due = is_end || now_us >= self.discovered_us + DISCOVER_US;
        if self.context.settings.repair_only || !is_due {
            return Ok(());
        }
        self.discovered_us = now_us;
        if is_end {
            self.rotate()?;
        }
        for input in 0..self.context.inputs.len() {
            let log = Arc::clone(&self.context.inputs[input].log);
            if log.is_bounded() || !(is_end || log.is_topic()) {
                continue;
            }
            for found in log.discover()? {
                if !self.worker.reads(found.share) || self.is_known(input, &found.partition) {
                    continue;
                }
                let begin = match log.beginning(&found.partition, false) {
                    // It is discovered again once it is complete.
                    Err(LogError::Arriving(_)) => continue,
                    begin => begin?,
                };
                tracing::info!(partition = found.partition, "a new input partition");
                let former_name = log.former_name(&found.partition);
                self.open(OrderedPart {
                    input,
                    partition: found.partition,
                    share: found.share,
                    offset: begin,
                    begin,
                    log_time: LogTime::default(),
                    fingerprint: None,
                    former_name,
                })?;
            }
        }
        Ok(())
    }

    /// Whether a partition is being read, or has been read to its end.
    fn is_known(&self, input: usize, partition: &str) -> bool {
        let is_open = |o: &Ordered| o.part.input == input && o.part.partition == partition;
        let planned = self.context.plan.inputs.get(&self.context.inputs[input].name);
        let is_planned = planned.is_some_and(|planned| planned.contains_key(partition));
        let of = |names: &BTreeSet<_>| names.contains(&(input, partition.to_owned()));
        self.ordered.iter().any(is_open) || of(&self.ended) || (is_planned && !of(&self.freed))
    }

    /// Gives partitions that have lost their names those that they have now, and lets go of them
    /// once they no longer grow.
    fn rotate(&mut self) -> Result<(), LogError> {
        let now_us = self.context.clock.mono_us();
        for o in &mut self.ordered {
            let input = o.part.input;
            if let Some(name) = o.reader.rotated() {
                tracing::info!(partition = o.part.partition, now = name, "a file was rotated");
                let former = std::mem::replace(&mut o.part.partition, name.clone());
                self.freed.insert((input, former.clone()));
                o.part.former_name = Some(former.clone());
                self.rotated.push((input, former, name));
                o.rotated = Some(Rotated { end: None, since_us: now_us });
            }
            let Some(rotated) = &mut o.rotated else { continue };
            let end = o.reader.end()?;
            if rotated.end != end {
                *rotated = Rotated { end, since_us: now_us };
            }
            let waits = now_us.saturating_sub(rotated.since_us);
            if waits >= self.context.inputs[input].log.rotate_wait_us() && o.last_line.waits() {
                let (partition, read) = (&o.part.partition, o.reader.position());
                tracing::info!(partition, read, "a rotated file no longer grows");
                o.reader.let_go();
                o.next = Next::More;
            }
        }
        Ok(())
    }

    /// Reports the files that are no longer under the names that the commit has them under.
    pub(super) fn report_moved(&mut self) {
        for Moved { from, to, read, loss } in &self.context.plan.moved {
            match loss {
                None => tracing::warn!(
                    partition = from,
                    now = to,
                    "a file was rotated while nothing read it; others that had its name in between \
                     are read if a number or a date behind it says so"
                ),
                Some(Loss::Removed) => tracing::warn!(
                    "{from} is gone; lines written to it after byte {read}, if any, are missing"
                ),
                Some(Loss::Truncated) => {
                    self.truncations += 1;
                    tracing::warn!(
                        "{from} was truncated or replaced; lines written to it after byte {read}, \
                         if any, are missing; it is read from its beginning"
                    );
                }
            }
        }
    }
}
