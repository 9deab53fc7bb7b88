//! Compares the rows of a store with the commit they claim to be from. Published rows are never
//! drift; planted drift is found exactly.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use schemas::manifest::Manifest;
use sinks::commits::{Snapshot, load, visible};
use sinks::difference::RowKey;
use sinks::publish::JobRow;
use sinks::storage::DiskStorage;
use sinks::store::{ServedBoard, ServedTag};
use sinks::store_check::{ClaimError, Selects, StoreCheck, claimed};

use super::harness::{append, folder, ok};

/// The contents of a store.
#[derive(Clone)]
struct Store {
    job: JobRow,
    tags: Vec<ServedTag>,
    boards: Vec<ServedBoard>,
}

impl Store {
    /// All rows of a commit, as published.
    fn of(snapshot: &Snapshot) -> Self {
        let Manifest { header, body } = &snapshot.manifest;
        let version = Some(header.version);
        let tags = snapshot.tags_changed(0, None).map(|(_, row)| ServedTag {
            scope: row.scope.to_owned(),
            tag: row.tag.to_owned(),
            display: Some(row.display.to_owned()),
            total: Some(row.total),
            recent: Some(row.recent.to_vec()),
            first_seen: Some(row.first_seen),
            last_seen: Some(row.last_seen),
            as_of: Some(row.as_of),
            version,
        });
        let boards = snapshot.boards_changed(0, None).map(|(_, row)| ServedBoard {
            scope: row.scope.to_owned(),
            window: row.window.to_owned(),
            doc: Some(row.doc.as_bytes().to_vec()),
            as_of: Some(row.as_of),
            version,
        });
        let job = JobRow {
            published: header.commit,
            version: header.version,
            as_of_ms: body.as_of_ms,
            wall_ms: header.wall_ms,
            windows: body.windows.clone(),
            scopes: body.scopes.clone(),
            ..JobRow::default()
        };
        Self { job, tags: tags.collect(), boards: boards.collect() }
    }

    fn tag(&mut self, name: &str) -> &mut ServedTag {
        self.tags.iter_mut().find(|row| row.scope.is_empty() && row.tag == name).unwrap()
    }

    /// The differences, as `KEY FIELD stored recomputed`.
    fn drift(&self, state: &Path) -> Vec<String> {
        self.found(state, &|_, _| true)
    }

    fn found(&self, state: &Path, mine: Selects<'_>) -> Vec<String> {
        let storage = DiskStorage::open_existing(state).unwrap();
        let manifest = claimed(&storage, &self.job).unwrap();
        let snapshot = Arc::new(Snapshot::open(&storage, manifest, None).unwrap());
        let mut check = StoreCheck::new(&storage, Arc::clone(&snapshot), mine);
        self.tags.iter().for_each(|row| check.check_tag(row).unwrap());
        self.boards.iter().for_each(|row| check.check_board(row).unwrap());
        check.check_job(&self.job);
        // Rows with an unknown version are read a second time, and then they must match.
        let unresolved = check.take_unresolved();
        check.retry(snapshot, true);
        let unsure =
            |row: &&ServedTag| unresolved.tags.contains(&(row.scope.clone(), row.tag.clone()));
        self.tags.iter().filter(unsure).for_each(|row| check.check_tag(row).unwrap());
        self.boards
            .iter()
            .filter(|_| unresolved.boards)
            .for_each(|row| check.check_board(row).unwrap());
        let (checked, found) = check.finish(true);
        assert!(checked > 0);
        let lines = found.into_iter().map(|d| {
            let RowKey { scope, key, .. } = d.row;
            let scope = if scope.is_empty() { scope } else { format!("{scope}/") };
            format!("{scope}{key} {} {} {}", d.field, d.left, d.right)
        });
        lines.collect()
    }
}

/// Makes a state with two commits that count something, and opens both.
fn commits(folder: &Path) -> [Arc<Snapshot>; 2] {
    let (input, state) = (folder.join("posts.ndjson"), folder.join("state"));
    let post = |id: u32, ts: i64, tags: &str, region: &str| {
        let caption: String = tags.chars().map(|tag| format!("#tag{tag} ")).collect();
        format!(
            "{{\"event_id\":{id},\"ts\":{ts},\"caption\":\"{caption}\",\"region\":\"{region}\"}}\n"
        )
    };
    let line = format!(
        "run --input {} --state {} --scope region=eu --bounded",
        input.display(),
        state.display()
    );
    let open = || {
        ok(&line);
        let storage = DiskStorage::open_existing(&state).unwrap();
        let commit = visible(&storage).unwrap().unwrap();
        let manifest = load(&storage, commit).unwrap();
        Arc::new(Snapshot::open(&storage, manifest, None).unwrap())
    };
    let base = 1_700_000_000_000;
    let first: String = (0..8).map(|i| post(i, base + i64::from(i), "ab", "eu")).collect();
    fs::write(&input, first + &post(8, base, "c", "us") + &post(9, base, "d", "us")).unwrap();
    let before = open();
    append(&input, post(10, base + 60_000, "ae", "us"));
    [before, open()]
}

#[test]
fn published_rows_are_not_drift_while_publishing_continues() {
    let folder = folder();
    let state = folder.path().join("state");
    let [before, after] = commits(folder.path());
    for snapshot in [&before, &after] {
        assert_eq!(Store::of(snapshot).drift(&state), [""; 0]);
    }
    // Some rows of the next commit are there, but not its job row.
    let mut moving = Store::of(&before);
    let mut newer = Store::of(&after);
    *moving.tag("taga") = newer.tag("taga").clone();
    moving.tags.push(newer.tag("tage").clone());
    moving.boards.clone_from(&newer.boards);
    assert_eq!(moving.drift(&state), [""; 0]);
    // A wrong value in a newer row is drift.
    moving.tag("taga").total = Some(7);
    assert_eq!(moving.drift(&state), ["taga total 7 9"]);
    // A row whose version no commit has is compared with the newest.
    let version = after.manifest.header.version;
    let mut strange = Store::of(&after);
    strange.tag("tagb").version = Some(version + 5);
    assert_eq!(strange.drift(&state), [format!("tagb version {} {version}", version + 5)]);
}

#[test]
fn planted_drift_is_found_with_exactly_its_rows() {
    let folder = folder();
    let state = folder.path().join("state");
    let [before, after] = commits(folder.path());
    let sound = Store::of(&after);
    let planted = |plant: &dyn Fn(&mut Store)| {
        let mut store = sound.clone();
        plant(&mut store);
        store.drift(&state)
    };
    // Changed by hand.
    assert_eq!(planted(&|s| s.tag("tagc").total = Some(5)), ["tagc total 5 1"]);
    assert_eq!(planted(&|s| s.tag("tagc").display = None), ["tagc display \"\" \"tagc\""]);
    let changed = planted(&|s| s.tag("tagc").last_seen = Some(1));
    assert_eq!(changed, ["tagc last_seen 1 1700000000000"]);
    let damaged = planted(&|s| s.tag("tagc").recent = Some(vec![255; 3]));
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert!(damaged[0].starts_with("tagc recent"), "{damaged:?}");
    // A deleted row, and a surplus row.
    let gone = planted(&|s| s.tags.retain(|row| row.tag != "tagd"));
    let fields = ["total", "display", "first_seen", "last_seen", "c1h", "c24h"];
    let named: Vec<String> = fields.iter().map(|field| format!("tagd {field} null")).collect();
    assert_eq!(gone.len(), fields.len(), "{gone:?}");
    assert!(gone.iter().zip(&named).all(|(got, want)| got.starts_with(want)), "{gone:?}");
    let more = planted(&|s| {
        let row = ServedTag { tag: "stranger".to_owned(), ..s.tag("tagd").clone() };
        s.tags.push(row);
    });
    assert_eq!(more.len(), fields.len(), "{more:?}");
    assert!(more.iter().all(|line| line.starts_with("stranger") && line.ends_with(" null")));
    // Older than published, in two scopes.
    let older = planted(&|s| *s.tag("taga") = Store::of(&before).tag("taga").clone());
    assert_eq!(older[0], "taga total 8 9");
    assert!(older.iter().all(|line| line.starts_with("taga ")), "{older:?}");
    // Many missing rows.
    let place = |scope: &str, tag: &str| match scope {
        "" => tag.to_owned(),
        scope => format!("{scope}/{tag}"),
    };
    let want: BTreeSet<String> =
        sound.tags[2..].iter().map(|row| place(&row.scope, &row.tag)).collect();
    let cut = planted(&|s| s.tags.truncate(2));
    let found = cut.iter().map(|line| line.split_once(' ').unwrap().0.to_owned());
    assert_eq!(found.collect::<BTreeSet<_>>(), want);
    // The times that readers evaluate windows at.
    let as_of = after.manifest.body.as_of_ms.unwrap();
    assert_eq!(planted(&|s| s.job.as_of_ms = Some(5)), [format!(" as_of 5 {as_of}")]);
    let wall = after.manifest.header.wall_ms;
    assert_eq!(planted(&|s| s.job.wall_ms = 5), [format!(" wall 5 {wall}")]);
}

#[test]
fn boards_are_checked_and_a_tag_filter_is_respected() {
    let folder = folder();
    let state = folder.path().join("state");
    let [before, after] = commits(folder.path());
    let mut store = Store::of(&after);
    let place = store.boards.iter().position(|b| b.scope.is_empty() && b.window == "all").unwrap();
    store.boards[place].doc.as_mut().unwrap().truncate(9);
    store.tag("tagc").total = Some(4);
    let found = store.drift(&state);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].starts_with("all board") && found[0] == "tagc total 4 1", "{found:?}");
    // A board of an unknown scope is drift, unless it is empty.
    let board = |doc: &[u8]| ServedBoard {
        scope: "region=mars".to_owned(),
        window: "all".to_owned(),
        doc: Some(doc.to_vec()),
        as_of: Some(1),
        version: Some(1),
    };
    let mut more = Store::of(&after);
    more.boards.push(board(b"[1]"));
    assert_eq!(more.drift(&state), ["region=mars/all board [1] null"]);
    *more.boards.last_mut().unwrap() = board(b"[]");
    assert_eq!(more.drift(&state), [""; 0]);
    // A wrong or missing time or version.
    for (as_of, version) in [(None, true), (Some(1), true), (Some(0), false)] {
        let mut other = Store::of(&after);
        let own = other.boards[place].as_of;
        other.boards[place].as_of = as_of.map(|by| own.unwrap() + by);
        other.boards[place].version = other.boards[place].version.filter(|_| version);
        let found = other.drift(&state);
        let field = if version { "all as_of" } else { "all version null" };
        assert!(found.len() == 1 && found[0].starts_with(field), "{found:?}");
    }
    let mut ahead = Store::of(&after);
    ahead.boards[place].version = Some(i64::MAX);
    let found = ahead.drift(&state);
    assert!(found.len() == 1 && found[0].starts_with("all version 9223"), "{found:?}");
    let one = store.found(&state, &|_, name| name == "taga");
    assert!(one.iter().all(|line| !line.starts_with("tagc")), "{one:?}");
    // A commit of another state is reported.
    let storage = DiskStorage::open_existing(&state).unwrap();
    let mut job = Store::of(&before).job;
    job.version -= 1;
    let error = claimed(&storage, &job).unwrap_err();
    assert!(matches!(error, ClaimError::Foreign { .. }), "{error}");
    job.published = 99;
    let error = claimed(&storage, &job).unwrap_err();
    assert!(matches!(error, ClaimError::NotKept { .. }), "{error}");
    assert!(error.to_string().contains("commit 99"), "{error}");
}
