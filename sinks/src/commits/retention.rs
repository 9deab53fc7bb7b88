//! How long old commits are kept, and the removal of files that no kept commit needs.
//!
//! Invariants: only the owner removes files, only after a later manifest of its own, and only a
//! grace period after nothing needed them (a short one if they take too much space). A takeover is
//! never removed, only stripped to its header; a manifest that cannot be read may be a takeover,
//! so it stays. A manifest is removed before its files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use schemas::config::State;
use schemas::manifest::{Header, Manifest, encode};
use schemas::planted::{Bug, planted};

use super::files::{CommitError, list_commits, load_parts, manifest_name};
use crate::storage::{Storage, StorageError, remove_if_exists, replace};

/// Files stay at least this long: a reader that has just read a manifest still has to open them.
const GRACE_MS_MIN: u64 = 10_000;

/// What to keep besides the newest commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Commits younger than this are kept if the byte budget allows.
    pub keep_ms: i64,
    /// The most bytes that old commits may take up besides the newest one. `None` allows as many
    /// bytes as the newest commit has.
    pub bytes: Option<u64>,
    /// How much longer files stay for readers that have opened a commit. If the files waiting for
    /// removal exceed the budget as well, the longest-waiting go after ten seconds.
    pub grace_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let State { keep_ms, bytes, grace_ms, .. } = State::default();
        Self { keep_ms, bytes, grace_ms }
    }
}

/// What the task remembers about a commit whose manifest exists.
struct Known {
    header: Header,
    /// The names and sizes of its files, or `None` if only the header is left.
    segments: Option<Vec<(String, u64)>>,
    /// The first file of control records that it has not consumed.
    control: u64,
}

/// The background task that removes files.
pub struct RetentionTask {
    storage: Arc<dyn Storage>,
    generation: u64,
    retention: Retention,
    known: BTreeMap<u64, Known>,
    /// Commits whose manifests are damaged.
    unreadable: BTreeSet<u64>,
    /// The sizes of files that a known commit named, or that no commit will ever name.
    sizes: HashMap<String, u64>,
    /// Files that nothing needs any more, and since when.
    unneeded: HashMap<String, u64>,
    /// Whether a manifest was removed since the folder's last sync.
    unsynced: bool,
}

impl RetentionTask {
    /// The task of the job that made the takeover `generation`.
    pub fn new(storage: Arc<dyn Storage>, generation: u64, retention: Retention) -> Self {
        Self {
            storage,
            generation,
            retention,
            known: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            sizes: HashMap::new(),
            unneeded: HashMap::new(),
            unsynced: false,
        }
    }

    /// Hands over a file that this job has written and that no commit will ever name.
    pub(super) fn discard(&mut self, name: String, bytes: u64) {
        debug_assert!(name.starts_with("segments/"), "{name} is not a segment");
        self.sizes.insert(name, bytes);
    }

    /// Removes files that nothing has needed for long enough at `now_ms` of a monotonic clock.
    /// `newest` must be one of this job's last manifests. Returns the number of files removed.
    pub fn step(&mut self, newest: &Manifest, now_ms: u64) -> Result<usize, CommitError> {
        let commits = list_commits(&*self.storage)?;
        self.learn(&commits)?;
        // If another job has made the newest commit, this one is superseded and removes nothing.
        let last = commits.last().and_then(|commit| self.known.get(commit));
        if last.is_none_or(|last| last.header.generation != self.generation) {
            return Ok(0);
        }
        let kept_from = self.kept_from(newest);
        assert!(kept_from <= newest.header.commit, "the newest commit is always kept");
        let candidates = self.candidates(kept_from)?;
        self.unneeded.retain(|name, _| candidates.contains(name));
        for name in candidates {
            self.unneeded.entry(name).or_insert(now_ms);
        }
        self.remove(self.due_since(self.budget(newest), now_ms), now_ms)
    }

    fn learn(&mut self, commits: &[u64]) -> Result<(), CommitError> {
        self.known.retain(|commit, _| commits.binary_search(commit).is_ok());
        for commit in commits {
            if self.known.contains_key(commit) || self.unreadable.contains(commit) {
                continue;
            }
            let (header, body) = match load_parts(&*self.storage, *commit) {
                Ok(parts) => parts,
                // A superseded owner may be finishing its last step.
                Err(CommitError::Missing(_)) => continue,
                // Useless but harmless: a job checks the commit that it continues from.
                Err(error @ CommitError::Manifest { .. }) => {
                    tracing::warn!(%error, "cannot read an old commit; leaving it in place");
                    self.unreadable.insert(*commit);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let control = body.as_ref().map_or(0, |body| body.control);
            let segments = body.map(|body| {
                body.segments.into_iter().map(|s| (s.name, s.bytes)).collect::<Vec<_>>()
            });
            self.sizes.extend(segments.iter().flatten().cloned());
            self.known.insert(*commit, Known { header, segments, control });
        }
        Ok(())
    }

    fn budget(&self, newest: &Manifest) -> u64 {
        let live = || newest.body.segments.iter().map(|s| s.bytes).sum();
        self.retention.bytes.unwrap_or_else(live)
    }

    /// The oldest commit to keep, as age and budget allow. At least two are kept, since the newest
    /// may not be visible yet.
    fn kept_from(&self, newest: &Manifest) -> u64 {
        let budget = self.budget(newest);
        let oldest_wall_ms = newest.header.wall_ms - self.retention.keep_ms;
        let mut needed: HashSet<&str> =
            newest.body.segments.iter().map(|s| s.name.as_str()).collect();
        let (mut extra, mut from) = (0, newest.header.commit);
        let known = self.known.range(..=newest.header.commit).rev();
        for (rank, (commit, known)) in known.enumerate() {
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

    fn candidates(&self, kept_from: u64) -> Result<HashSet<String>, StorageError> {
        let old = self.known.range(..kept_from);
        let old = old.filter(|(_, known)| !known.header.takeover || known.segments.is_some());
        let mut gone: HashSet<String> = old.map(|(commit, _)| manifest_name(*commit)).collect();
        let kept = self.known.range(kept_from..).filter_map(|(_, known)| known.segments.as_ref());
        let needed: HashSet<&String> = kept.flatten().map(|(name, _)| name).collect();
        for file in self.storage.list("segments")? {
            let name = format!("segments/{file}");
            if !needed.contains(&name) && self.is_garbage(&file, &name) {
                gone.insert(name);
            }
        }
        let first = self.known.get(&kept_from).map_or(0, |known| known.control);
        // A file without a number was abandoned, or is being written and younger than the grace.
        let consumed = self
            .storage
            .list("control")?
            .into_iter()
            .filter(|file| file.parse::<u64>().map_or(true, |number| number < first));
        gone.extend(consumed.map(|file| format!("control/{file}")));
        let visible = self.storage.list("visible")?;
        // Older pointers are needed until this job has written its own.
        if visible.iter().any(|file| file.parse() == Ok(self.generation)) {
            let older = visible.iter().filter(|file| self.is_older(file));
            gone.extend(older.map(|file| format!("visible/{file}")));
        }
        let commits = self.storage.list("commits")?;
        let left = commits.iter().filter(|file| file.starts_with("tmp-") && self.is_older(file));
        gone.extend(left.map(|file| format!("commits/{file}")));
        Ok(gone)
    }

    /// Whether a file's name begins with a number below this job's generation.
    fn is_older(&self, file: &str) -> bool {
        let file = file.strip_prefix("tmp-").unwrap_or(file);
        let number = file.split(['-', '.']).next().and_then(|number| number.parse::<u64>().ok());
        number.is_some_and(|number| number < self.generation)
    }

    /// Whether a file that no kept commit names is garbage: an older job left it behind, or a
    /// commit named it once. A file of this job that no commit has named may be about to be named.
    fn is_garbage(&self, file: &str, name: &str) -> bool {
        self.is_older(file) || self.sizes.contains_key(name)
    }

    /// Files that nothing has needed since this time, or earlier, are due at `now_ms`: a grace ago,
    /// or later if the files that became unneeded since exceed `budget`. `None` if none are due.
    fn due_since(&self, budget: u64, now_ms: u64) -> Option<u64> {
        let Retention { grace_ms, .. } = self.retention;
        let mut waiting: BTreeMap<u64, u64> = BTreeMap::new();
        for (name, since) in &self.unneeded {
            *waiting.entry(*since).or_default() += self.sizes.get(name).copied().unwrap_or(0);
        }
        let mut bytes = 0;
        let over_budget = waiting.into_iter().rev().find(|(_, more)| {
            bytes += more;
            bytes > budget
        });
        let shortest = self.shortest_grace_ago(now_ms);
        let by_bytes = over_budget.and_then(|(since, _)| Some(since.min(shortest?)));
        by_bytes.max(now_ms.checked_sub(grace_ms))
    }

    fn shortest_grace_ago(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.retention.grace_ms.min(GRACE_MS_MIN))
    }

    fn remove(&mut self, due_since: Option<u64>, now_ms: u64) -> Result<usize, CommitError> {
        let shortest = self.shortest_grace_ago(now_ms);
        let due = |(name, since): &(&String, &u64)| {
            // No reader can know an orphan, a segment that no manifest ever named.
            let is_orphan = name.starts_with("segments/") && !self.sizes.contains_key(*name);
            Some(**since) <= if is_orphan { shortest } else { due_since }
        };
        let mut names: Vec<String> =
            self.unneeded.iter().filter(due).map(|(name, _)| name.clone()).collect();
        // Sorting puts "commits/…" before "segments/…" and "visible/…".
        names.sort_unstable();
        assert!(names.is_sorted_by_key(|name| !name.starts_with("commits/")), "manifests go first");
        for name in &names {
            if name.starts_with("commits/") {
                // It may be removed although the call fails.
                self.unsynced = true;
            } else {
                self.sync_manifests()?;
            }
            if !self.strip_takeover(name)? {
                remove_if_exists(&*self.storage, name)?;
            }
            self.unneeded.remove(name);
            self.sizes.remove(name);
        }
        self.sync_manifests()?;
        Ok(names.len())
    }

    /// Makes it durable that manifests were removed, before anything that they need is.
    fn sync_manifests(&mut self) -> Result<(), StorageError> {
        if self.unsynced {
            self.storage.sync_folder("commits")?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// If the name is that of a takeover, strips it to its header and returns true.
    fn strip_takeover(&mut self, name: &str) -> Result<bool, CommitError> {
        let commit = name.strip_prefix("commits/").and_then(|n| n.strip_suffix(".manifest"));
        let commit = commit.and_then(|commit| commit.parse().ok());
        let known = commit.and_then(|commit: u64| self.known.get_mut(&commit));
        let takeover = known.filter(|known| known.header.takeover);
        let Some(takeover) = takeover.filter(|_| !planted(Bug::TakeoverDeleted)) else {
            return Ok(false);
        };
        let bytes = encode(&takeover.header, None)
            .map_err(|error| CommitError::Manifest { file: self.storage.display(name), error })?;
        replace(&*self.storage, name, &bytes)?;
        takeover.segments = None;
        Ok(true)
    }
}
