//! How long old commits stay, and the removal of what no kept commit needs.
//!
//! Invariants: only the owner removes files, only after its own later manifest, and only a grace
//! after nothing needed them; a takeover is never removed, it may shrink to its header; a manifest
//! goes before its files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use schemas::manifest::{Header, Manifest, encode};

use super::files::{CommitError, list_commits, load_parts, manifest_name, visible_name};
use crate::storage::{Storage, StorageError, replace};

/// What is kept besides the newest commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Commits younger than this stay, as the byte budget allows.
    pub keep_ms: i64,
    /// The most bytes that old commits may hold; none: as much again as the live state.
    pub bytes: Option<u64>,
    /// Files stay this much longer for readers that opened a commit before.
    pub grace_ms: u64,
}

impl Default for Retention {
    /// An hour of commits, ten minutes' grace.
    fn default() -> Self {
        Self { keep_ms: 3_600_000, bytes: None, grace_ms: 600_000 }
    }
}

/// What is remembered of a commit whose manifest exists.
struct Known {
    header: Header,
    /// Names and sizes of its files; none where only the header is left.
    segments: Option<Vec<(String, u64)>>,
}

/// The background task that removes what is not kept.
pub struct RetentionTask {
    storage: Arc<dyn Storage>,
    generation: u64,
    retention: Retention,
    known: BTreeMap<u64, Known>,
    /// Names that a commit had when this task looked at it.
    named: HashSet<String>,
    /// What nothing needs any more, and since when.
    condemned: HashMap<String, u64>,
}

impl RetentionTask {
    /// A task of the job whose start made the takeover `generation`.
    pub fn new(storage: Arc<dyn Storage>, generation: u64, retention: Retention) -> Self {
        Self {
            storage,
            generation,
            retention,
            known: BTreeMap::new(),
            named: HashSet::new(),
            condemned: HashMap::new(),
        }
    }

    /// Removes what has been condemned long enough at `now_ms` of a monotonic clock, given the
    /// newest manifest, which this job must have made. Returns the number of removed files.
    pub fn step(&mut self, newest: &Manifest, now_ms: u64) -> Result<usize, CommitError> {
        let commits = list_commits(&*self.storage)?;
        // A commit of somebody else: this job has been superseded and removes nothing.
        if commits.last() != Some(&newest.header.commit) {
            return Ok(0);
        }
        self.learn(&commits)?;
        let kept_from = self.kept_from(newest);
        let candidates = self.candidates(kept_from)?;
        self.condemned.retain(|name, _| candidates.contains(name));
        for name in candidates {
            self.condemned.entry(name).or_insert(now_ms);
        }
        Ok(self.remove(now_ms)?)
    }

    fn learn(&mut self, commits: &[u64]) -> Result<(), CommitError> {
        self.known.retain(|commit, _| commits.binary_search(commit).is_ok());
        for commit in commits {
            if self.known.contains_key(commit) {
                continue;
            }
            let (header, body) = load_parts(&*self.storage, *commit)?;
            let segments = body.map(|body| {
                body.segments.into_iter().map(|s| (s.name, s.bytes)).collect::<Vec<_>>()
            });
            let names = segments.iter().flatten().map(|(name, _)| name.clone());
            self.named.extend(names);
            self.known.insert(*commit, Known { header, segments });
        }
        Ok(())
    }

    /// The oldest commit that stays: as far back as age and budget allow, and two at least, since
    /// the newest may not be visible yet.
    fn kept_from(&self, newest: &Manifest) -> u64 {
        let live: u64 = newest.body.segments.iter().map(|s| s.bytes).sum();
        let budget = self.retention.bytes.unwrap_or(live);
        let oldest_wall_ms = newest.header.wall_ms - self.retention.keep_ms;
        let mut needed: HashSet<&str> =
            newest.body.segments.iter().map(|s| s.name.as_str()).collect();
        let (mut extra, mut from) = (0, newest.header.commit);
        for (rank, (commit, known)) in self.known.iter().rev().enumerate() {
            let Some(segments) = &known.segments else { break };
            let more: u64 =
                segments.iter().filter(|(n, _)| !needed.contains(n.as_str())).map(|(_, b)| b).sum();
            let old = known.header.wall_ms < oldest_wall_ms || extra + more > budget;
            if rank >= 2 && old {
                break;
            }
            extra += more;
            from = *commit;
            needed.extend(segments.iter().map(|(name, _)| name.as_str()));
        }
        from
    }

    fn candidates(&mut self, kept_from: u64) -> Result<HashSet<String>, CommitError> {
        let mut gone = HashSet::new();
        for (commit, known) in self.known.range_mut(..kept_from) {
            if !known.header.takeover {
                gone.insert(manifest_name(*commit));
            } else if known.segments.is_some() {
                let name = manifest_name(*commit);
                let bytes = encode(&known.header, None).map_err(|error| CommitError::Manifest {
                    file: self.storage.display(&name),
                    error,
                })?;
                replace(&*self.storage, &name, &bytes)?;
                known.segments = None;
            }
        }
        let kept = self.known.range(kept_from..).filter_map(|(_, known)| known.segments.as_ref());
        let needed: HashSet<&String> = kept.flatten().map(|(name, _)| name).collect();
        for file in self.storage.list("segments")? {
            let name = format!("segments/{file}");
            if !needed.contains(&name) && self.may_go(&file, &name) {
                gone.insert(name);
            }
        }
        for file in self.storage.list("visible")? {
            if file.parse().is_ok_and(|generation: u64| generation < self.generation) {
                gone.insert(visible_name(file.parse().unwrap_or_default()));
            }
        }
        Ok(gone)
    }

    /// Whether a file that no kept commit names is rubbish: left behind by an older start, or once
    /// named by a commit. A file of this start that no commit named yet may be on its way into one.
    fn may_go(&self, file: &str, name: &str) -> bool {
        let file = file.strip_prefix("tmp-").unwrap_or(file);
        let generation = file.split('-').next().and_then(|g| g.parse::<u64>().ok());
        generation.is_some_and(|generation| generation < self.generation)
            || self.named.contains(name)
    }

    fn remove(&mut self, now_ms: u64) -> Result<usize, StorageError> {
        let due = |since: &u64| now_ms.saturating_sub(*since) >= self.retention.grace_ms;
        let mut names: Vec<String> =
            self.condemned.iter().filter(|(_, s)| due(s)).map(|(n, _)| n.clone()).collect();
        // "commits/…" sorts before "segments/…" and "visible/…".
        names.sort_unstable();
        let manifests = names.iter().filter(|n| n.starts_with("commits/")).count();
        for (i, name) in names.iter().enumerate() {
            match self.storage.unlink(name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
            if i + 1 == manifests {
                self.storage.sync_folder("commits")?;
            }
            self.condemned.remove(name);
            self.named.remove(name);
        }
        Ok(names.len())
    }
}
