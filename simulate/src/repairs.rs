//! Repairs: a commit is changed behind the job's back, and the job is asked twice to correct it.
//!
//! Only drift that later events cannot hide is planted, because the check of the whole state that
//! `reconcile --repair` makes after every round is not simulated.

use std::sync::Arc;

use schemas::control::{Author, BucketChange, Control, Correction, Id, Values};
use schemas::hash::KeyHash;
use schemas::manifest::{Manifest, SegmentMeta, checksum};
use schemas::rows::{IdRow, Ids, Repairs, Table, TagRow, Tags};
use schemas::segment::Rows;
use schemas::windows::Buckets;
use sinks::commits::{Snapshot, list_commits, manifest_name, newest, open_table, queue, visible};
use sinks::storage::Storage;

use crate::checks::{Check, Violation, violated};
use crate::process::{Mounted, Process};
use crate::requests::CorrectionRequest;
use crate::rng::Rng;
use crate::world::World;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

impl World<'_> {
    /// Stops all jobs, changes the newest commit and requests a correction of it, unless readers
    /// see an older commit or a correction is pending.
    pub(crate) fn repair(&mut self, rng: &mut Rng) -> Result<(), Violation> {
        (self.job, self.zombies) = (None, Vec::new());
        self.look(rng)?;
        let Ok(Some(manifest)) = newest(&*self.disk) else { return Ok(()) };
        let commit = manifest.header.commit;
        let is_last = list_commits(&*self.disk).is_ok_and(|all| all.last() == Some(&commit));
        if !is_last
            || self.correction_pending(&manifest)
            || visible(&*self.disk).ok().flatten() != Some(commit)
        {
            return Ok(());
        }
        let Some((control, hash)) = self.plant(manifest, rng) else { return Ok(()) };
        self.count("drift");
        self.promotions.drifted.insert(hash);
        let history = newest(&*self.disk).ok().flatten().map_or(0, |m| m.header.history);
        let author = Author { who: "sim".into(), base: commit, history, ..Author::default() };
        // The first process that asks may be killed.
        let killed = Process::new(Arc::clone(&self.probe));
        killed.faults().effects_left = Some(rng.below(12));
        for process in [killed, Process::new(Arc::clone(&self.probe))] {
            let disk = Mounted { disk: Arc::clone(&self.disk), process };
            if let Ok(number) = queue(&disk, "sim", &author, std::slice::from_ref(&control)) {
                self.correction = Some(CorrectionRequest { number, hash, base: commit });
            }
        }
        Ok(())
    }

    /// Whether the requested correction is not yet in this commit.
    pub(crate) fn correction_pending(&self, manifest: &Manifest) -> bool {
        self.correction.is_some_and(|request| manifest.body.control <= request.number)
    }

    /// C12: the last requested correction was applied once, with an audit row.
    pub(crate) fn repaired_once(&mut self, manifest: &Manifest) -> Result<(), Violation> {
        let Some(CorrectionRequest { hash, base, .. }) = self.correction else { return Ok(()) };
        self.outcome.checks.count(Check::Repaired);
        let fail = |what: String| Violation { invariant: Check::Repaired, what };
        let segments = open_table::<Repairs>(&*self.disk, manifest);
        let segments = segments.map_err(|error| fail(error.to_string()))?;
        let rows = segments.iter().flat_map(|segment| segment.rows.iter());
        let of = rows.filter(|(key, row)| row.changed(*key) == hash && row.base == base);
        let commits: Vec<u64> = of.map(|(_, row)| row.commit).collect();
        if commits.len() == 1 {
            return Ok(());
        }
        let what =
            format!("the correction of {hash} from commit {base} was applied in {commits:?}");
        violated(Check::Repaired, what)
    }

    /// Plants drift in a commit; returns its correction and the key that is wrong.
    fn plant(&self, manifest: Manifest, rng: &mut Rng) -> Option<(Control, KeyHash)> {
        let snapshot = Snapshot::open(&*self.disk, manifest.clone(), None).ok()?;
        let rows: Vec<_> = snapshot.tags_changed(0, None).filter(|(_, r)| r.total > 0).collect();
        let kind = rng.below(6);
        if kind == 0 {
            let hash = KeyHash { hi: rng.bits(), lo: rng.bits() };
            let hour = (manifest.body.floor_ms? / HOUR_MS) as u32 + 4;
            let mut ids = Rows::<Ids>::default();
            ids.push(hash, &IdRow { hash, hour, forgotten: false });
            self.add_segment(manifest.clone(), ids)?;
            return Some((Control::Forget(Id { hash, text: hash.to_string(), hour }), hash));
        }
        let (hash, right) = *rows.get(rng.below(rows.len().max(1) as u64) as usize)?;
        let hasher = manifest.body.hash_key.hasher();
        let name = format!("ghost{}", rng.below(1000));
        let (hash, wrong, right) = match kind {
            1 => (hash, TagRow { total: right.total + 2, ..right }, Some(right)),
            2 if right.total > 1 => (hash, TagRow { total: right.total - 1, ..right }, Some(right)),
            3 => (hash, TagRow { first_seen: right.first_seen + 1, ..right }, Some(right)),
            4 => (hash, TagRow { total: 0, recent: &[], ..right }, Some(right)),
            _ => {
                (hasher.tag(&name), TagRow { scope: "", tag: &name, display: &name, ..right }, None)
            }
        };
        let correction = Correction {
            hash,
            scope: wrong.scope.to_owned(),
            key: wrong.tag.to_owned(),
            stored: Some(values(&wrong)).filter(|stored| stored.total > 0),
            recomputed: right.as_ref().map(values),
            buckets: Self::buckets(&wrong, right.as_ref(), &manifest)?,
        };
        let mut tags = Rows::<Tags>::default();
        tags.push(hash, &wrong);
        self.add_segment(manifest.clone(), tags)?;
        Some((Control::Correct(correction), hash))
    }

    /// How to correct the buckets, if the whole row is missing or should not exist.
    fn buckets(
        wrong: &TagRow<'_>,
        right: Option<&TagRow<'_>>,
        manifest: &Manifest,
    ) -> Option<Vec<BucketChange>> {
        let tiers = manifest.body.windows.tiers();
        let (row, sign) = match right {
            Some(right) if wrong.total == 0 => (right, 1),
            Some(_) => return Some(Vec::new()),
            None => (wrong, -1),
        };
        let list = Buckets::decode(tiers.slot(row.as_of), row.recent).ok()?;
        let of = list.iter(&tiers).map(|(start_ms, count)| BucketChange {
            start_ms,
            width_ms: 10 * MINUTE_MS,
            by: sign * count,
        });
        Some(of.collect())
    }

    /// Adds a segment to a commit; all checksums are right.
    fn add_segment<T: Table>(&self, mut manifest: Manifest, rows: Rows<T>) -> Option<()> {
        let (commit, mut bytes) = (manifest.header.commit, Vec::new());
        let (number, table, last_hour) = (rows.len() as u64, T::NAME, rows.last_hour());
        rows.encode(&mut bytes).ok()?;
        let name = format!("segments/planted-{commit}-{}.arrow", table.as_str());
        self.disk.append(&name, &bytes).and_then(|()| self.disk.sync(&name)).ok()?;
        self.disk.sync_folder("segments").ok()?;
        manifest.body.segments.push(SegmentMeta {
            name,
            table,
            first_commit: commit,
            last_commit: commit,
            rows: number,
            bytes: bytes.len() as u64,
            xxh3: checksum(&bytes),
            last_hour,
        });
        let encoded = manifest.encode().ok()?;
        self.disk.overwrite(&manifest_name(commit), |bytes| *bytes = encoded);
        self.disk.sync(&manifest_name(commit)).ok()
    }
}

fn values(row: &TagRow<'_>) -> Values {
    Values {
        total: row.total,
        first_ms: row.first_seen,
        last_ms: row.last_seen,
        display: row.display.to_owned(),
    }
}
