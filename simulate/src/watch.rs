//! The checks while a simulation runs: of commits as they are created, of writes as they are sent,
//! and of what a reader sees.

use schemas::manifest::Manifest;
use schemas::rows::DeadLetters;
use sinks::commits::{CommitError, load, open_table, visible};

use crate::checks::{
    Check, Clocks, CommitContent, Violation, counts, decisions, held_back, never_falls, refused,
    remembers_largest, violated,
};
use crate::rng::Rng;
use crate::wire::{Wire, Write};
use crate::world::World;

impl World<'_> {
    /// C1 and C10 for one commit, and the decisions about the records that it added.
    pub(crate) fn recount(&mut self, manifest: &Manifest) -> Result<CommitContent, Violation> {
        let segments = open_table::<DeadLetters>(&*self.disk, manifest);
        let segments = segments
            .map_err(|error| Violation { invariant: Check::Recount, what: error.to_string() })?;
        let refused = refused(&segments);
        let redelivered = self.redelivered(manifest, &refused)?;
        if self.correction_pending(manifest) {
            let fail = |what| Violation { invariant: Check::Recount, what };
            return CommitContent::read(&*self.disk, manifest).map_err(fail);
        }
        self.repaired_once(manifest)?;
        self.outcome.checks.count(Check::Recount);
        self.outcome.checks.count(Check::Boards);
        let topic = self.topic.partitions();
        let before = self.manifests.range(..manifest.header.commit).next_back();
        if let Some((_, before)) = before.filter(|(n, _)| **n + 1 == manifest.header.commit) {
            let clocks = Clocks { now_ms: self.time.now_ms(), off_ms: self.clocks_off_ms };
            decisions([before, manifest], &topic, &refused, clocks, self.plan.count_beyond)?;
        }
        counts(&*self.disk, manifest, &topic, &redelivered, &self.rules(&refused))
    }

    /// Checks the effects since the last look.
    pub(crate) fn look(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        let created = std::mem::take(&mut self.probe.seen().created);
        for header in created {
            let manifest = match load(&*self.disk, header.commit) {
                Ok(manifest) => manifest,
                // It has been removed or stripped since.
                Err(CommitError::Missing(_)) => continue,
                Err(error) => return violated(Check::Refused, error.to_string()),
            };
            self.outcome.checks.count(Check::Rises);
            if self.manifests.contains_key(&header.commit) {
                let what = format!("commit {} was created twice", header.commit);
                return violated(Check::Rises, what);
            }
            if let Some((_, before)) = self.manifests.range(..header.commit).next_back() {
                never_falls(before, &manifest)?;
                held_back(before, &manifest)?;
                let clocks = Clocks { now_ms: self.time.now_ms(), off_ms: self.clocks_off_ms };
                remembers_largest(before, &manifest, clocks)?;
            }
            self.first_own_commit(&manifest)?;
            self.versions.insert(header.version, header.commit);
            self.manifests.insert(header.commit, manifest);
        }
        self.look_at_writes()?;
        if rng.chance(10) { self.read() } else { Ok(()) }
    }

    /// C11: the first commit that a job makes after loading its state, on any number of workers,
    /// agrees with the log. The takeover before it proves nothing: it is made before loading.
    fn first_own_commit(&mut self, manifest: &Manifest) -> Result<(), Violation> {
        let header = &manifest.header;
        if header.commit == header.generation || header.generation <= self.generation {
            return Ok(());
        }
        self.generation = header.generation;
        self.outcome.checks.count(Check::Sums);
        self.recount(manifest).map(drop)
    }

    fn look_at_writes(&mut self) -> Result<(), Violation> {
        let [live, new] = self.promotions.wires().clone();
        self.look_at_writes_to(&live)?;
        self.look_at_writes_to(&new)
    }

    fn look_at_writes_to(&mut self, wire: &Wire) -> Result<(), Violation> {
        let sent = std::mem::take(&mut wire.line().sent);
        let newest = if sent.is_empty() { None } else { visible(&*self.disk).ok().flatten() };
        for write in sent {
            let version = match write {
                Write::Row(row) => row.version,
                Write::Job(row) => row.version,
                Write::Pointer(_) => continue,
            };
            self.outcome.checks.count(Check::Committed);
            if self.versions.get(&version).is_none_or(|commit| Some(*commit) > newest) {
                let what = format!("a row of version {version}, which no visible commit has");
                return violated(Check::Committed, what);
            }
        }
        match wire.line().fell.take() {
            Some(what) => violated(Check::Monotone, what),
            None => Ok(()),
        }
    }

    /// C2: the reader opens the newest visible commit, which is never older than the last one.
    pub(crate) fn read(&mut self) -> Result<(), Violation> {
        self.outcome.checks.count(Check::Monotone);
        if let Err(error) = self.follower.step() {
            return violated(Check::Monotone, format!("the reader: {error}"));
        }
        if let Some(snapshot) = self.follower.current() {
            let now = &snapshot.manifest.header;
            if let Some(seen) = &self.seen
                && (now.commit < seen.commit || now.version < seen.version)
            {
                let [seen, now] = [seen, now].map(|h| (h.commit, h.version));
                return violated(Check::Monotone, format!("the reader saw {seen:?}, then {now:?}"));
            }
            self.seen = Some(now.clone());
        }
        Ok(())
    }
}
