//! What a store serves, held against the commits that it was published from.
//!
//! A publisher that lives moves on meanwhile: a row of a later version than the claimed commit's is
//! held against the very commit of that version. Invariant: a row that was published as the commit
//! has it is never called drift, and any other that readers would see is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use schemas::hash::{Hasher, KeyHash};
use schemas::manifest::Manifest;
use schemas::rows::TagRow;
use schemas::windows::{Buckets, Window, Windows};
use serde_json::{Value, json};
use thiserror::Error;

use crate::commits::{CommitError, Snapshot, list_commits, load, visible};
use crate::compare::{Difference, differ};
use crate::publish::JobRow;
use crate::storage::Storage;
use crate::store::{ServedBoard, ServedTag, Tag, evaluate};

/// Why a store cannot be held against a state.
#[derive(Debug, Error)]
pub enum ServedError {
    /// The commit that the store shows is not kept, so nobody knows what should be there.
    #[error(
        "the store shows commit {published}, which this state does not keep any more (it has {kept}); \
         keep commits for longer, or let the job publish and ask again"
    )]
    NotKept {
        /// What the store says.
        published: u64,
        /// What the state has.
        kept: String,
    },
    /// The store was not filled from this state.
    #[error(
        "the store shows commit {published} of version {theirs}, and this state's has version \
         {ours}: it was filled from another state; `tagflow store rebuild` makes it follow this one"
    )]
    Foreign {
        /// What the store says.
        published: u64,
        /// Its version there.
        theirs: i64,
        /// The version here.
        ours: i64,
    },
    /// A commit cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The commit that a store claims to show.
pub fn claimed(storage: &dyn Storage, job: &JobRow) -> Result<Manifest, ServedError> {
    let published = job.published;
    let manifest = match load(storage, published) {
        Err(CommitError::Missing(_)) => {
            let commits = list_commits(storage).map_err(CommitError::from)?;
            let kept = match (commits.first(), commits.last()) {
                (Some(first), Some(last)) => format!("{first} to {last}, not all of them in full"),
                _ => "none".to_owned(),
            };
            return Err(ServedError::NotKept { published, kept });
        }
        other => other?,
    };
    let (theirs, ours) = (job.version, manifest.header.version);
    if theirs != ours {
        return Err(ServedError::Foreign { published, theirs, ours });
    }
    Ok(manifest)
}

/// Which keys are looked at.
pub type Mine<'c> = &'c dyn Fn(KeyHash, &str) -> bool;

/// Holds rows against commits as they come.
pub struct Check<'c> {
    storage: &'c dyn Storage,
    hasher: Hasher,
    claimed: Arc<Snapshot>,
    /// The same, or a later one that the store has claimed to show since.
    base: Arc<Snapshot>,
    mine: Mine<'c>,
    /// Commits that were published since, by version; none where no commit has it.
    later: BTreeMap<i64, Option<Arc<Snapshot>>>,
    tags: HashSet<KeyHash>,
    boards: HashSet<(String, String)>,
    /// Rows of commits that are not kept any more, and whether boards are among them.
    unsure: BTreeSet<(String, String)>,
    unsure_boards: bool,
    insists: bool,
    checked: u64,
    found: Vec<Difference>,
}

impl<'c> Check<'c> {
    /// A check against the commit that the store claims to show.
    pub fn new(storage: &'c dyn Storage, claimed: Arc<Snapshot>, mine: Mine<'c>) -> Self {
        Self {
            storage,
            hasher: claimed.manifest.body.hash_key.hasher(),
            base: Arc::clone(&claimed),
            claimed,
            mine,
            later: BTreeMap::new(),
            tags: HashSet::new(),
            boards: HashSet::new(),
            unsure: BTreeSet::new(),
            unsure_boards: false,
            insists: false,
            checked: 0,
            found: Vec::new(),
        }
    }

    /// Holds the row of the job against the commit.
    pub fn job(&mut self, row: &JobRow) {
        let body = &self.claimed.manifest.body;
        let windows =
            |windows: &Windows| json!(windows.iter().map(Window::name).collect::<Vec<_>>());
        let values = [
            ("as_of", json!(row.as_of_ms), json!(body.as_of_ms)),
            ("wall", json!(row.wall_ms), json!(self.claimed.manifest.header.wall_ms)),
            ("windows", windows(&row.windows), windows(&body.windows)),
            ("scopes", json!(row.scopes), json!(body.scopes)),
        ];
        for (field, a, b) in values.into_iter().filter(|(_, a, b)| a != b) {
            self.found.push(difference("", "", field, a, b));
        }
    }

    /// Holds a row of table `tag` against its commit.
    pub fn tag(&mut self, served: &ServedTag) -> Result<(), CommitError> {
        let key = self.hasher.scoped(&served.scope, self.hasher.tag(&served.tag));
        if !(self.mine)(key, &served.tag) {
            return Ok(());
        }
        self.checked += u64::from(self.tags.insert(key));
        let (commit, known) = self.commit(served.version)?;
        if !known && !self.insists && served.version.is_some() {
            self.unsure.insert((served.scope.clone(), served.tag.clone()));
            return Ok(());
        }
        let held = commit.tag(key).filter(|row| row.total != 0);
        let row = served.row();
        let row = Some(row).filter(|row| row.total != 0);
        let before = self.found.len();
        hold(&commit, row.as_ref(), held.as_ref(), &mut self.found);
        let shown = self.found.len() > before || row.is_some();
        if !known && shown {
            let (a, b) = (json!(served.version), json!(commit.manifest.header.version));
            self.found.push(difference(&served.scope, &served.tag, "version", a, b));
        }
        Ok(())
    }

    /// Holds a row of table `board` against its commit.
    pub fn board(&mut self, served: &ServedBoard) -> Result<(), CommitError> {
        let place = (served.scope.clone(), served.window.clone());
        self.checked += u64::from(self.boards.insert(place.clone()));
        let (commit, known) = self.commit(served.version)?;
        if !known && !self.insists && served.version.is_some() {
            self.unsure_boards = true;
            return Ok(());
        }
        let row = json!(served.doc.as_deref().map(document));
        let mut differs = |field, a: Value, b: Value| {
            if a != b {
                self.found.push(difference(&place.0, &place.1, field, a, b));
            }
        };
        let Some(held) = commit.board(&place.0, &place.1) else {
            // A board that a rebuild has emptied is none.
            if row != json!([]) {
                differs("board", row, Value::Null);
            }
            return Ok(());
        };
        differs("board", row, document(held.doc.as_bytes()));
        differs("as_of", json!(served.as_of), json!(held.as_of));
        if !known {
            differs("version", json!(served.version), json!(commit.manifest.header.version));
        }
        Ok(())
    }

    /// The rows of table `tag` that are to be read again, and whether the boards are: those of a
    /// commit that was published while the check went on and that is not kept any more.
    pub fn unsure(&mut self) -> (BTreeSet<(String, String)>, bool) {
        (std::mem::take(&mut self.unsure), std::mem::take(&mut self.unsure_boards))
    }

    /// Goes on with the commit that the store claims to show now. `insists`: what no commit tells
    /// of is held against the newest from here on.
    pub fn go_on(&mut self, claimed: Arc<Snapshot>, insists: bool) {
        (self.base, self.insists) = (claimed, insists);
    }

    /// Adds what the commit has and the store has not: the number of rows that were looked at, and
    /// what differs, the store's side first.
    pub fn end(mut self, boards: bool) -> (u64, Vec<Difference>) {
        let claimed = Arc::clone(&self.claimed);
        for (key, row) in claimed.tags_changed(0, None) {
            if row.total != 0 && !self.tags.contains(&key) && (self.mine)(key, row.tag) {
                self.checked += 1;
                hold(&claimed, None, Some(&row), &mut self.found);
            }
        }
        for (_, row) in claimed.boards_changed(0, None).filter(|_| boards) {
            if !self.boards.contains(&(row.scope.to_owned(), row.window.to_owned())) {
                self.checked += 1;
                let held = document(row.doc.as_bytes());
                self.found.push(difference(row.scope, row.window, "board", Value::Null, held));
            }
        }
        (self.checked, self.found)
    }

    /// The commit that a row of this version comes from, and whether any has it: one that no
    /// commit has is held against the newest.
    fn commit(&mut self, version: Option<i64>) -> Result<(Arc<Snapshot>, bool), CommitError> {
        let Some(version) = version else { return Ok((Arc::clone(&self.base), false)) };
        // Rows that were not sent again since are as they were then.
        if version <= self.base.manifest.header.version {
            return Ok((Arc::clone(&self.base), true));
        }
        if !self.later.contains_key(&version) {
            let found = self.look_for(version)?;
            self.later.insert(version, found);
        }
        match self.later.get(&version).and_then(Option::as_ref) {
            Some(commit) => Ok((Arc::clone(commit), true)),
            None if self.insists => Ok((self.newest()?, false)),
            None => Ok((Arc::clone(&self.base), false)),
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

fn difference(scope: &str, key: &str, field: &str, a: Value, b: Value) -> Difference {
    let (scope, key, field) = (scope.to_owned(), key.to_owned(), field.to_owned());
    Difference { scope, key, field, a, b, size: 0 }
}

/// A board's document; as text where it is none.
fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(bytes)))
}

/// Adds what differs between a served row and the commit's.
fn hold(
    commit: &Snapshot,
    served: Option<&TagRow<'_>>,
    held: Option<&TagRow<'_>>,
    found: &mut Vec<Difference>,
) {
    if served.copied() == held.map(|row| TagRow { commit: 0, ..*row }) {
        return;
    }
    let body = &commit.manifest.body;
    let tag = |row: &TagRow<'_>| -> Result<Tag, String> {
        evaluate(row, &body.windows, body.as_of_ms).map_err(|error| error.to_string())
    };
    let (a, b) = match (served.map(tag).transpose(), held.map(tag).transpose()) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => {
            let named = served.or(held).map_or(("", ""), |row| (row.scope, row.tag));
            let side =
                |side: Result<Option<Tag>, String>| side.err().map_or(Value::Null, Value::from);
            found.push(difference(named.0, named.1, "recent", side(a), side(b)));
            return;
        }
    };
    let before = found.len();
    differ(a.as_ref(), b.as_ref(), found);
    if found.len() > before {
        return;
    }
    let buckets = |row: &TagRow<'_>| {
        let tiers = body.windows.tiers();
        let list = Buckets::decode(tiers.slot(row.as_of), row.recent).ok()?;
        Some(list.iter(&tiers).collect::<Vec<_>>())
    };
    if let (Some(served), Some(held)) = (served, held) {
        let (a, b) = (buckets(served), buckets(held));
        if a != b {
            found.push(difference(served.scope, served.tag, "recent", json!(a), json!(b)));
        }
    }
}
