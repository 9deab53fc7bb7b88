//! A model of commits in plain maps, and its comparison with what a reader sees.

use std::collections::{BTreeMap, BTreeSet};

use schemas::hash::{HashKey, KeyHash};
use schemas::manifest::Manifest;
use schemas::rows::{BoardRow, DeadLetters, Ids, TagRow};
use schemas::windows::Windows;
use sinks::commits::{Snapshot, open_table};
use sinks::storage::Storage;

/// The windows of all states in these tests.
pub(crate) fn windows() -> Windows {
    Windows::default()
}

/// The scope and tag of key `k`: three scopes.
pub(crate) fn key_of(k: u32) -> (String, String) {
    let scope = ["", "region=eu", "region=us"][k as usize % 3];
    (scope.to_owned(), format!("tag{k}"))
}

/// What changes in one commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Key → its new total.
    pub(crate) tags: BTreeMap<u32, i64>,
    /// Board → the number in its document.
    pub(crate) boards: BTreeMap<u32, u32>,
    /// New ids and their hours.
    pub(crate) ids: BTreeMap<u64, u32>,
    /// Positions of new dead letters.
    pub(crate) dead: BTreeSet<u64>,
    pub(crate) as_of: i64,
    pub(crate) floor_hour: Option<u32>,
}

impl Batch {
    /// New totals of a few keys.
    pub(crate) fn of_tags(as_of: i64, tags: &[(u32, i64)]) -> Self {
        Self { tags: tags.iter().copied().collect(), as_of, ..Self::default() }
    }

    /// Adds a board.
    pub(crate) fn with_board(mut self, board: u32, doc: u32) -> Self {
        self.boards.insert(board, doc);
        self
    }
}

/// A tag in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) total: i64,
    pub(crate) as_of: i64,
    pub(crate) commit: u64,
    /// What these tests store instead of buckets.
    pub(crate) recent: Vec<u8>,
}

impl Tag {
    /// The tag as written by `commit`.
    pub(crate) fn new(total: i64, as_of: i64, commit: u64) -> Self {
        Self { total, as_of, commit, recent: format!("{total}@{as_of}").into_bytes() }
    }
}

/// The content of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) tags: BTreeMap<(String, String), Tag>,
    /// (scope, window) → document, `as_of`, commit.
    pub(crate) boards: BTreeMap<(String, String), (String, i64, u64)>,
    pub(crate) ids: BTreeMap<u64, u32>,
    /// Position → commit.
    pub(crate) dead: BTreeMap<u64, u64>,
    pub(crate) floor_hour: u32,
}

impl Content {
    /// The content after `commit` has applied `batch`.
    pub(crate) fn after(&self, commit: u64, batch: &Batch) -> Self {
        let mut next = self.clone();
        for (k, total) in &batch.tags {
            next.tags.insert(key_of(*k), Tag::new(*total, batch.as_of, commit));
        }
        for (board, doc) in &batch.boards {
            let key = (key_of(*board).0, format!("w{board}"));
            next.boards.insert(key, (format!("[{doc}]"), batch.as_of, commit));
        }
        next.ids.extend(&batch.ids);
        next.dead.extend(batch.dead.iter().map(|position| (*position, commit)));
        next.floor_hour = next.floor_hour.max(batch.floor_hour.unwrap_or_default());
        let floor = next.floor_hour;
        next.ids.retain(|_, hour| *hour >= floor);
        next
    }

    /// The content after a rollback from here to `old`, the content of commit `to`: everything that
    /// has changed since is marked with `commit`.
    pub(crate) fn rolled_back(&self, to: u64, old: &Self, commit: u64) -> Self {
        let mut next = old.clone();
        for (key, tag) in self.tags.iter().filter(|(_, tag)| tag.commit > to) {
            let gone = Tag { total: 0, recent: Vec::new(), ..tag.clone() };
            next.tags.entry(key.clone()).or_insert(gone).commit = commit;
        }
        for (key, (_, as_of, at)) in &self.boards {
            if *at > to {
                let gone = ("[]".to_owned(), *as_of, 0);
                next.boards.entry(key.clone()).or_insert(gone).2 = commit;
            }
        }
        next
    }
}

/// The hash of an id.
pub(crate) fn id_hash(hash_key: &HashKey, id: u64) -> KeyHash {
    hash_key.hasher().tag(&format!("id {id}"))
}

fn assert_tag(row: &TagRow<'_>, key: &(String, String), tag: &Tag) {
    let want = TagRow {
        scope: &key.0,
        tag: &key.1,
        display: &key.1.to_uppercase(),
        total: tag.total,
        recent: &tag.recent,
        first_seen: 1,
        last_seen: tag.as_of,
        as_of: tag.as_of,
        commit: tag.commit,
    };
    assert_eq!(*row, want);
}

/// Checks that a reader of `manifest` finds exactly `content`, by iteration and by look-ups.
pub(crate) fn assert_holds(storage: &dyn Storage, manifest: &Manifest, content: &Content) {
    let snapshot = Snapshot::open(storage, manifest.clone(), None).unwrap();
    assert_shows(&snapshot, content);
    let hash_key = &manifest.body.hash_key;
    let mut ids = BTreeMap::new();
    for segment in open_table::<Ids>(storage, manifest).unwrap() {
        ids.extend(segment.rows.iter().map(|(hash, row)| (hash, row.hour)));
    }
    ids.retain(|_, hour| *hour >= content.floor_hour);
    let want: BTreeMap<_, _> =
        content.ids.iter().map(|(id, hour)| (id_hash(hash_key, *id), *hour)).collect();
    assert_eq!(ids, want, "ids of commit {}", manifest.header.commit);
    let mut dead = BTreeMap::new();
    for segment in open_table::<DeadLetters>(storage, manifest).unwrap() {
        dead.extend(segment.rows.iter().map(|(_, row)| (row.position, row.commit)));
    }
    assert_eq!(dead, content.dead, "dead letters of commit {}", manifest.header.commit);
}

/// Checks the same for the tags and boards of a snapshot.
pub(crate) fn assert_shows(snapshot: &Snapshot, content: &Content) {
    let commit = snapshot.manifest.header.commit;
    let hasher = snapshot.manifest.body.hash_key.hasher();
    for (key, tag) in &content.tags {
        let hash = hasher.scoped(&key.0, hasher.tag(&key.1));
        let row = snapshot.tag(hash).unwrap_or_else(|| panic!("commit {commit} lost {key:?}"));
        assert_tag(&row, key, tag);
        assert_eq!(snapshot.tag_filtered(hash), Some(row));
    }
    let stranger = hasher.tag("nobody posts this");
    assert_eq!((snapshot.tag(stranger), snapshot.tag_filtered(stranger)), (None, None));
    let walked: Vec<_> = snapshot.tags_changed(0, None).collect();
    assert!(walked.is_sorted_by(|a, b| a.0 < b.0), "keys ascend, and each occurs once");
    assert_eq!(walked.len(), content.tags.len(), "the number of tags of commit {commit}");
    for (_, row) in walked {
        let key = (row.scope.to_owned(), row.tag.to_owned());
        assert_tag(&row, &key, &content.tags[&key]);
    }
    for ((scope, window), (doc, as_of, commit)) in &content.boards {
        let (as_of, commit) = (*as_of, *commit);
        let want = BoardRow { scope, window, doc, as_of, commit };
        assert_eq!(snapshot.board(scope, window), Some(want));
    }
    assert_eq!(snapshot.boards_changed(0, None).count(), content.boards.len());
    assert_eq!(snapshot.board("no such scope", "1h"), None);
}
