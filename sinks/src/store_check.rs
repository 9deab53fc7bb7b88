//! The rows of a store against the commits that they were published from.
//!
//! A job may publish meanwhile: a row of a later version than the claimed commit's is compared with
//! the commit of that version. Invariant: a row that was published as its commit has it is never
//! reported, and any other row that readers would see is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use schemas::hash::{Hasher, KeyHash};
use schemas::manifest::Manifest;
use schemas::rows::TagRow;
use schemas::windows::{Buckets, Window, Windows};
use serde_json::{Value, json};
use thiserror::Error;

use crate::commits::{CommitError, Snapshot, list_commits, load, visible};
use crate::difference::{Difference, RowKey, RowKind};
use crate::publish::JobRow;
use crate::storage::Storage;
use crate::store::{ServedBoard, ServedTag, Tag, evaluate};
use crate::tag_diff::diff_tag;

/// Why a store cannot be checked against a state.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// The state no longer has the commit that the store shows.
    #[error(
        "the store shows commit {published}, which this state no longer keeps (it has {kept}); \
         keep commits for longer, or let the job publish and check again"
    )]
    NotKept {
        /// The commit that the store shows.
        published: u64,
        /// The commits that the state has.
        kept: String,
    },
    /// The store was filled from another state.
    #[error(
        "the store shows commit {published} with version {theirs}, which has version {ours} in \
         this state: the store was filled from another state; `tagflow store rebuild` fills it \
         from this one"
    )]
    Foreign {
        /// The commit that the store shows.
        published: u64,
        /// Its version in the store.
        theirs: i64,
        /// Its version in the state.
        ours: i64,
    },
    /// A commit cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The commit that a store claims to show.
pub fn claimed(storage: &dyn Storage, job: &JobRow) -> Result<Manifest, ClaimError> {
    let published = job.published;
    let manifest = match load(storage, published) {
        Err(CommitError::Missing(_)) => {
            let commits = list_commits(storage).map_err(CommitError::from)?;
            let kept = match (commits.first(), commits.last()) {
                (Some(first), Some(last)) => format!("{first} to {last}, some without their rows"),
                _ => "none".to_owned(),
            };
            return Err(ClaimError::NotKept { published, kept });
        }
        other => other?,
    };
    let (theirs, ours) = (job.version, manifest.header.version);
    if theirs != ours {
        return Err(ClaimError::Foreign { published, theirs, ours });
    }
    Ok(manifest)
}

/// Whether to check a tag, by the hash of its row's key and its own key.
pub type Selects<'c> = &'c dyn Fn(KeyHash, &str) -> bool;

/// The rows that a check could not judge yet: they come from a commit that was published while the
/// check ran and is no longer kept.
#[derive(Debug, Default)]
pub struct Unresolved {
    /// Scope and key of the tags.
    pub tags: BTreeSet<(String, String)>,
    /// Whether boards are among them.
    pub boards: bool,
}

impl Unresolved {
    /// Whether every row was judged.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && !self.boards
    }
}

/// Checks rows against commits as they come.
pub struct StoreCheck<'c> {
    storage: &'c dyn Storage,
    hasher: Hasher,
    claimed: Arc<Snapshot>,
    /// `claimed`, or a later commit that the store has claimed to show since.
    base: Arc<Snapshot>,
    selects: Selects<'c>,
    /// Commits published since, by version; `None` if no kept commit has that version.
    later: BTreeMap<i64, Option<Arc<Snapshot>>>,
    tags: HashSet<KeyHash>,
    boards: HashSet<(String, String)>,
    unresolved: Unresolved,
    last_round: bool,
    checked: u64,
    differences: Vec<Difference>,
}

impl<'c> StoreCheck<'c> {
    /// A check against the commit that the store claims to show.
    pub fn new(storage: &'c dyn Storage, claimed: Arc<Snapshot>, selects: Selects<'c>) -> Self {
        Self {
            storage,
            hasher: claimed.manifest.body.hash_key.hasher(),
            base: Arc::clone(&claimed),
            claimed,
            selects,
            later: BTreeMap::new(),
            tags: HashSet::new(),
            boards: HashSet::new(),
            unresolved: Unresolved::default(),
            last_round: false,
            checked: 0,
            differences: Vec::new(),
        }
    }

    /// Checks the row of the job.
    pub fn check_job(&mut self, row: &JobRow) {
        let body = &self.claimed.manifest.body;
        let windows =
            |windows: &Windows| json!(windows.iter().map(Window::name).collect::<Vec<_>>());
        let values = [
            ("as_of", json!(row.as_of_ms), json!(body.as_of_ms)),
            ("wall", json!(row.wall_ms), json!(self.claimed.manifest.header.wall_ms)),
            ("windows", windows(&row.windows), windows(&body.windows)),
            ("scopes", json!(row.scopes), json!(body.scopes)),
        ];
        let key = RowKey::new(RowKind::Job, "", "");
        for (field, served, stored) in values {
            self.compare(&key, field, served, stored);
        }
    }

    /// Checks a row of table `tag`.
    pub fn check_tag(&mut self, served: &ServedTag) -> Result<(), CommitError> {
        let key = self.hasher.scoped(&served.scope, self.hasher.tag(&served.tag));
        if !(self.selects)(key, &served.tag) {
            return Ok(());
        }
        self.checked += u64::from(self.tags.insert(key));
        let Some(commit) = self.commit(served.version)? else {
            self.unresolved.tags.insert((served.scope.clone(), served.tag.clone()));
            return Ok(());
        };
        let stored = commit.snapshot.tag(key).filter(|row| row.total != 0);
        let row = Some(served.row()).filter(|row| row.total != 0);
        let found = diff_row(&commit.snapshot, row.as_ref(), stored.as_ref());
        let is_visible = !found.is_empty() || row.is_some();
        self.differences.extend(found);
        if is_visible {
            self.check_version(RowKind::Tag, (&served.scope, &served.tag), served.version, &commit);
        }
        Ok(())
    }

    /// Checks a row of table `board`.
    pub fn check_board(&mut self, served: &ServedBoard) -> Result<(), CommitError> {
        let (scope, window) = (&served.scope, &served.window);
        self.checked += u64::from(self.boards.insert((scope.clone(), window.clone())));
        let Some(commit) = self.commit(served.version)? else {
            self.unresolved.boards = true;
            return Ok(());
        };
        let key = RowKey::new(RowKind::Board, scope, window);
        let row = json!(served.doc.as_deref().map(document));
        let Some(stored) = commit.snapshot.board(scope, window) else {
            // An empty board is what a rebuild makes of one that is gone.
            if row != json!([]) {
                self.compare(&key, "board", row, Value::Null);
            }
            return Ok(());
        };
        self.compare(&key, "board", row, document(stored.doc.as_bytes()));
        self.compare(&key, "as_of", json!(served.as_of), json!(stored.as_of));
        self.check_version(RowKind::Board, (scope, window), served.version, &commit);
        Ok(())
    }

    fn compare(&mut self, key: &RowKey, field: &str, served: Value, stored: Value) {
        if served != stored {
            self.differences.push(Difference::new(key.clone(), field, served, stored));
        }
    }

    /// Reports a version that no commit has.
    fn check_version(
        &mut self,
        kind: RowKind,
        (scope, key): (&str, &str),
        version: Option<i64>,
        commit: &Origin,
    ) {
        if !commit.is_known {
            let newest = commit.snapshot.manifest.header.version;
            self.compare(&RowKey::new(kind, scope, key), "version", json!(version), json!(newest));
        }
    }

    /// Takes the rows to read again.
    pub fn take_unresolved(&mut self) -> Unresolved {
        std::mem::take(&mut self.unresolved)
    }

    /// Continues with the commit that the store claims to show now. In the last round, a row of a
    /// version that no commit has is compared with the newest commit.
    pub fn retry(&mut self, claimed: Arc<Snapshot>, last_round: bool) {
        (self.base, self.last_round) = (claimed, last_round);
    }

    /// Adds what the commit has and the store lacks: the number of rows that were checked, and
    /// what differs, the store on the left.
    pub fn finish(mut self, boards: bool) -> (u64, Vec<Difference>) {
        assert!(self.unresolved.is_empty(), "rows to read again were not read");
        let claimed = Arc::clone(&self.claimed);
        for (key, row) in claimed.tags_changed(0, None) {
            if row.total != 0 && !self.tags.contains(&key) && (self.selects)(key, row.tag) {
                self.checked += 1;
                self.differences.extend(diff_row(&claimed, None, Some(&row)));
            }
        }
        for (_, row) in claimed.boards_changed(0, None).filter(|_| boards) {
            if !self.boards.contains(&(row.scope.to_owned(), row.window.to_owned())) {
                self.checked += 1;
                let key = RowKey::new(RowKind::Board, row.scope, row.window);
                self.compare(&key, "board", Value::Null, document(row.doc.as_bytes()));
            }
        }
        (self.checked, self.differences)
    }

    /// The commit to compare a row of this version with; `None` if it is not known yet.
    fn commit(&mut self, version: Option<i64>) -> Result<Option<Origin>, CommitError> {
        let unknown = |snapshot| Some(Origin { snapshot, is_known: false });
        let known = |snapshot| Some(Origin { snapshot, is_known: true });
        let Some(version) = version else { return Ok(unknown(Arc::clone(&self.base))) };
        // A row that was not sent again since is as it was then.
        if version <= self.base.manifest.header.version {
            return Ok(known(Arc::clone(&self.base)));
        }
        let later = match self.later.get(&version) {
            Some(later) => later.clone(),
            None => {
                let found = self.look_for(version)?;
                self.later.entry(version).or_insert(found).clone()
            }
        };
        match later {
            Some(commit) => Ok(known(commit)),
            None if self.last_round => Ok(unknown(self.newest()?)),
            None => Ok(None),
        }
    }

    fn look_for(&self, version: i64) -> Result<Option<Arc<Snapshot>>, CommitError> {
        for commit in list_commits(self.storage)?.into_iter().rev() {
            let manifest = match load(self.storage, commit) {
                Err(CommitError::Missing(_)) => continue,
                other => other?,
            };
            if manifest.header.version == version {
                return match Snapshot::open(self.storage, manifest, Some(&self.claimed)) {
                    Err(CommitError::Missing(_)) => Ok(None),
                    opened => Ok(Some(Arc::new(opened?))),
                };
            }
            if manifest.header.version < version {
                break;
            }
        }
        Ok(None)
    }

    fn newest(&self) -> Result<Arc<Snapshot>, CommitError> {
        let newest = visible(self.storage)?.ok_or(CommitError::Missing(0))?;
        let manifest = load(self.storage, newest)?;
        Ok(Arc::new(Snapshot::open(self.storage, manifest, Some(&self.claimed))?))
    }
}

/// The commit to compare a row with.
struct Origin {
    snapshot: Arc<Snapshot>,
    /// Whether the row's version is that of the commit, or an earlier one.
    is_known: bool,
}

/// A board's document, as text if it is not JSON.
fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(bytes)))
}

/// What differs between the served row of a tag and the commit's.
fn diff_row(
    commit: &Snapshot,
    served: Option<&TagRow<'_>>,
    stored: Option<&TagRow<'_>>,
) -> Vec<Difference> {
    let Some(named) = served.or(stored) else { return Vec::new() };
    if served.copied() == stored.map(|row| TagRow { commit: 0, ..*row }) {
        return Vec::new();
    }
    let body = &commit.manifest.body;
    let tag = |row: &TagRow<'_>| -> Result<Tag, String> {
        evaluate(row, &body.windows, body.as_of_ms).map_err(|error| error.to_string())
    };
    let recent = |a: Value, b: Value| {
        vec![Difference::new(RowKey::new(RowKind::Tag, named.scope, named.tag), "recent", a, b)]
    };
    let (a, b) = match (served.map(tag).transpose(), stored.map(tag).transpose()) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => {
            let damage =
                |side: Result<Option<Tag>, String>| side.err().map_or(Value::Null, Value::from);
            return recent(damage(a), damage(b));
        }
    };
    let found = diff_tag(a.as_ref(), b.as_ref());
    if !found.is_empty() {
        return found;
    }
    let buckets = |row: &TagRow<'_>| {
        let tiers = body.windows.tiers();
        let list = Buckets::decode(tiers.slot(row.as_of), row.recent).ok()?;
        Some(list.iter(&tiers).collect::<Vec<_>>())
    };
    match (served.map(buckets), stored.map(buckets)) {
        (Some(a), Some(b)) if a != b => recent(json!(a), json!(b)),
        _ => Vec::new(),
    }
}
