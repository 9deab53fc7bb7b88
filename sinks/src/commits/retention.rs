//! How long old commits stay, and the removal of what no kept commit needs.
//!
//! Invariant: only the owner removes files, only after its own later manifest, and only a grace
//! after nothing needed them, a short one where they take too much room; a takeover is never
//! removed, it may shrink to its header; a manifest that cannot be read may be one and stays; a
//! manifest goes before its files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use schemas::config::State;
use schemas::manifest::{Header, Manifest, encode};
use schemas::planted::{Bug, planted};

use super::files::{CommitError, list_commits, load_parts, manifest_name};
use crate::storage::{Storage, StorageError, replace};

/// Files stay so long at least: whoever has just read a manifest opens its files.
const GRACE_MS_MIN: u64 = 10_000;

/// What is kept besides the newest commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Commits younger than this stay, as the byte budget allows.
    pub keep_ms: i64,
    /// The most bytes that old commits may hold; none: as much again as the live state.
    pub bytes: Option<u64>,
    /// Files stay this much longer for readers that opened a commit before; ten seconds at most
    /// where those that wait to go hold more than so many bytes again.
    pub grace_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let State { keep_ms, bytes, grace_ms, .. } = State::default();
        Self { keep_ms, bytes, grace_ms }
    }
}

/// What is remembered of a commit whose manifest exists.
struct Known {
    header: Header,
    /// Names and sizes of its files; none where only the header is left.
    segments: Option<Vec<(String, u64)>>,
    /// The first file of control records that it has not taken.
    control: u64,
}

/// The background task that removes what is not kept.
pub struct RetentionTask {
    storage: Arc<dyn Storage>,
    generation: u64,
    retention: Retention,
    known: BTreeMap<u64, Known>,
    /// Commits whose manifests are damaged.
    unreadable: BTreeSet<u64>,
    /// Files that a commit named when this task looked at it, or that none ever will, and their
    /// sizes.
    named: HashMap<String, u64>,
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
            unreadable: BTreeSet::new(),
            named: HashMap::new(),
            condemned: HashMap::new(),
        }
    }

    /// Says that no commit will ever name the file, which this start has written.
    pub(super) fn discard(&mut self, name: String, bytes: u64) {
        self.named.insert(name, bytes);
    }

    /// Removes what has been condemned long enough at `now_ms` of a monotonic clock, given the
    /// newest manifest, which this job must have made, or one of its last. Returns the number of
    /// removed files.
    pub fn step(&mut self, newest: &Manifest, now_ms: u64) -> Result<usize, CommitError> {
        let commits = list_commits(&*self.storage)?;
        self.learn(&commits)?;
        // A commit of somebody else: this job has been superseded and removes nothing.
        let last = commits.last().and_then(|commit| self.known.get(commit));
        if last.is_none_or(|last| last.header.generation != self.generation) {
            return Ok(0);
        }
        let kept_from = self.kept_from(newest);
        let candidates = self.candidates(kept_from)?;
        self.condemned.retain(|name, _| candidates.contains(name));
        for name in candidates {
            self.condemned.entry(name).or_insert(now_ms);
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
                // An owner that has been superseded may be in the middle of its last step.
                Err(CommitError::Missing(_)) => continue,
                // Of use to nobody, and in nobody's way: a start checks the commit it loads.
                Err(error @ CommitError::Manifest { .. }) => {
                    tracing::warn!(%error, "an old commit is left as it is");
                    self.unreadable.insert(*commit);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let control = body.as_ref().map_or(0, |body| body.control);
            let segments = body.map(|body| {
                body.segments.into_iter().map(|s| (s.name, s.bytes)).collect::<Vec<_>>()
            });
            self.named.extend(segments.iter().flatten().cloned());
            self.known.insert(*commit, Known { header, segments, control });
        }
        Ok(())
    }

    fn budget(&self, newest: &Manifest) -> u64 {
        let live = || newest.body.segments.iter().map(|s| s.bytes).sum();
        self.retention.bytes.unwrap_or_else(live)
    }

    /// The oldest commit that stays: as far back as age and budget allow, and two at least, since
    /// the newest may not be visible yet.
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
            if !needed.contains(&name) && self.may_go(&file, &name) {
                gone.insert(name);
            }
        }
        let first = self.known.get(&kept_from).map_or(0, |known| known.control);
        // What was begun and given up has no number; what is being written is younger than a grace.
        let taken = self
            .storage
            .list("control")?
            .into_iter()
            .filter(|file| file.parse::<u64>().map_or(true, |number| number < first));
        gone.extend(taken.map(|file| format!("control/{file}")));
        let visible = self.storage.list("visible")?;
        // Older pointers serve until this start has its own.
        if visible.iter().any(|file| file.parse() == Ok(self.generation)) {
            let older = visible.iter().filter(|file| self.is_older(file));
            gone.extend(older.map(|file| format!("visible/{file}")));
        }
        let commits = self.storage.list("commits")?;
        let left = commits.iter().filter(|file| file.starts_with("tmp-") && self.is_older(file));
        gone.extend(left.map(|file| format!("commits/{file}")));
        Ok(gone)
    }

    /// Whether the number that a file's name begins with is less than this start's generation.
    fn is_older(&self, file: &str) -> bool {
        let file = file.strip_prefix("tmp-").unwrap_or(file);
        let number = file.split(['-', '.']).next().and_then(|number| number.parse::<u64>().ok());
        number.is_some_and(|number| number < self.generation)
    }

    /// Whether a file that no kept commit names is rubbish: left behind by an older start, or once
    /// named by a commit. A file of this start that no commit named yet may be on its way into one.
    fn may_go(&self, file: &str, name: &str) -> bool {
        self.is_older(file) || self.named.contains_key(name)
    }

    /// What has been condemned no later than this goes at `now_ms`; none: nothing. That is a grace
    /// ago, or later where what was condemned since holds more than `budget` bytes.
    fn due_since(&self, budget: u64, now_ms: u64) -> Option<u64> {
        let Retention { grace_ms, .. } = self.retention;
        let mut waiting: BTreeMap<u64, u64> = BTreeMap::new();
        for (name, since) in &self.condemned {
            *waiting.entry(*since).or_default() += self.named.get(name).copied().unwrap_or(0);
        }
        let mut bytes = 0;
        let too_much = waiting.into_iter().rev().find(|(_, more)| {
            bytes += more;
            bytes > budget
        });
        let short = self.short_since(now_ms);
        let by_bytes = too_much.and_then(|(since, _)| Some(since.min(short?)));
        by_bytes.max(now_ms.checked_sub(grace_ms))
    }

    /// The short grace ago.
    fn short_since(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.retention.grace_ms.min(GRACE_MS_MIN))
    }

    fn remove(&mut self, due_since: Option<u64>, now_ms: u64) -> Result<usize, CommitError> {
        let short_since = self.short_since(now_ms);
        let due = |(name, since): &(&String, &u64)| {
            // No manifest leads to it: it was left behind, and nobody knows how large it is.
            let left = name.starts_with("segments/") && !self.named.contains_key(*name);
            if left { Some(**since) <= short_since } else { Some(**since) <= due_since }
        };
        let mut names: Vec<String> =
            self.condemned.iter().filter(due).map(|(name, _)| name.clone()).collect();
        // "commits/…" sorts before "segments/…" and "visible/…".
        names.sort_unstable();
        let manifests = names.iter().filter(|n| n.starts_with("commits/")).count();
        for (i, name) in names.iter().enumerate() {
            if !self.shrink(name)? {
                match self.storage.unlink(name) {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
            }
            if i + 1 == manifests {
                self.storage.sync_folder("commits")?;
            }
            self.condemned.remove(name);
            self.named.remove(name);
        }
        Ok(names.len())
    }

    /// Leaves no more than its header of a takeover; whether the name is that of one.
    fn shrink(&mut self, name: &str) -> Result<bool, CommitError> {
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
