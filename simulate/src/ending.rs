//! The end of a simulation: no more faults, and the job must catch up, publish and end.

use schemas::manifest::Manifest;
use sinks::commits::Snapshot;

use crate::checks::{Check, Violation, stored, violated};
use crate::log::{offset, partition_name};
use crate::rng::Rng;
use crate::world::World;

/// Steps in which a job without faults must catch up and end.
const STEPS_MAX: u64 = 10_000;

impl World<'_> {
    /// Stops all faults; the job must catch up with the log, publish its commit and end.
    pub(crate) fn drain(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        self.calm();
        let limit = self.outcome.steps + STEPS_MAX;
        self.outcome.checks.count(Check::Drains);
        let mut healed = false;
        let last = loop {
            if self.outcome.steps > limit {
                return violated(Check::Drains, format!("not caught up in {STEPS_MAX} steps"));
            }
            self.step(rng)?;
            if let Some(job) = &self.job {
                if !healed {
                    // Faults that are due may still strike once.
                    healed = true;
                    let mut faults = job.process.faults();
                    (faults.slow_reads, faults.effects_left) =
                        (0, faults.effects_left.filter(|_| faults.dead));
                    (faults.full, faults.sync_fails) = (0, 0);
                }
                let latest = job.lockstep.latest().current();
                let published = job.lockstep.published().map_or(0, |done| done.commit);
                if self.caught_up(&latest.manifest) && published >= latest.manifest.header.commit {
                    break self.end(rng, limit)?;
                }
            }
        };
        self.recount(&last)?;
        for wire in self.promotions.wires().clone() {
            let late = wire.line().late.len();
            (0..late).for_each(|_| wire.line().deliver(0));
        }
        self.promotions.check_last(rng, &mut self.outcome.checks)?;
        self.outcome.checks.count(Check::Stored);
        let opened = Snapshot::open(&*self.disk, last, None);
        let Ok(snapshot) = opened else {
            return violated(Check::Stored, "the last commit cannot be opened");
        };
        stored(&snapshot, self.wire.line().store.rows())?;
        self.read()
    }

    fn caught_up(&self, manifest: &Manifest) -> bool {
        let topic = self.topic.partitions();
        let pending = self.correction_pending(manifest) || self.redelivery_pending(manifest);
        let read = |partition: usize| {
            let name = partition_name(partition);
            let known = manifest.body.inputs.values().find_map(|p| p.get(&name));
            known.map_or(0, |known| offset(&known.position))
        };
        !pending && topic.iter().enumerate().all(|(i, records)| read(i) == records.len() as u64)
    }

    /// Stops the job; returns its last commit.
    fn end(&mut self, rng: &mut Rng, limit: u64) -> Result<Manifest, Violation> {
        self.zombies.clear();
        if let Some(job) = &self.job {
            job.lockstep.stop();
        }
        loop {
            if self.outcome.steps > limit {
                return violated(Check::Drains, format!("not ended in {STEPS_MAX} steps"));
            }
            self.step(rng)?;
            let Some(job) = &self.job else {
                return violated(Check::Drains, "the job failed while it was ending");
            };
            let latest = job.lockstep.latest().current();
            let published = job.lockstep.published().map_or(0, |done| done.commit);
            if job.lockstep.is_done() && published >= latest.manifest.header.commit {
                return Ok(latest.manifest.clone());
            }
        }
    }
}
