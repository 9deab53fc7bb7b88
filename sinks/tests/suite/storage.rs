//! Storage: memory behaves like a disk, and a written file has the checksum of its bytes.

use std::io::{self, Write};

use crate::common::{Hooked, Mode, all_files, memory};
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::manifest::checksum;
use sinks::storage::{
    DiskStorage, MemoryStorage, OpenError, Storage, StorageError, StorageWriter, lack, replace,
};

/// One call of a storage.
#[derive(Clone, Debug)]
enum Op {
    Append(String, Vec<u8>),
    Sync(String),
    Link(String, String),
    Rename(String, String),
    SyncFolder(String),
    Unlink(String),
    Open(String),
    List(String),
    Replace(String, Vec<u8>),
}

fn any_folder() -> impl Strategy<Value = String> {
    let folder = prop_oneof![4 => "commits", 4 => "segments", 1 => "visible", 1 => "elsewhere"];
    folder.prop_map(String::from)
}

fn any_name() -> impl Strategy<Value = String> {
    (any_folder(), 0..3).prop_map(|(folder, file)| format!("{folder}/{file}"))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any_name(), vec(any::<u8>(), 0..20)).prop_map(|(n, b)| Op::Append(n, b)),
        1 => any_name().prop_map(Op::Sync),
        3 => (any_name(), any_name()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (any_name(), any_name()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => any_folder().prop_map(Op::SyncFolder),
        2 => any_name().prop_map(Op::Unlink),
        3 => any_name().prop_map(Op::Open),
        1 => any_folder().prop_map(Op::List),
        1 => (any_name(), vec(any::<u8>(), 0..20)).prop_map(|(n, b)| Op::Replace(n, b)),
    ]
}

/// The result of a call as text, or the operation and kind of its error.
fn answer(storage: &dyn Storage, op: &Op) -> Result<String, (&'static str, io::ErrorKind)> {
    let done = |result: Result<(), StorageError>| result.map(|()| "done".to_owned());
    let answer = match op {
        Op::Append(name, bytes) => done(storage.append(name, bytes)),
        Op::Sync(name) => done(storage.sync(name)),
        Op::Link(from, to) => storage.link(from, to).map(|created| created.to_string()),
        Op::Rename(from, to) => done(storage.rename(from, to)),
        Op::SyncFolder(folder) => done(storage.sync_folder(folder)),
        Op::Unlink(name) => done(storage.unlink(name)),
        Op::Open(name) => storage.open(name).map(|bytes| format!("{bytes:?}")),
        Op::List(folder) => storage.list(folder).map(|mut names| {
            names.sort_unstable();
            names.join(" ")
        }),
        Op::Replace(name, bytes) => done(replace(storage, name, bytes)),
    };
    answer.map_err(|error| (error.doing, error.source.kind()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn memory_behaves_like_a_disk(ops in vec(any_op(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskStorage::create(folder.path()).unwrap();
        let memory = MemoryStorage::default();
        for (i, op) in ops.iter().enumerate() {
            prop_assert_eq!(answer(&memory, op), answer(&disk, op), "call {}: {:?}", i, op);
        }
        prop_assert_eq!(all_files(&memory), all_files(&disk));
    }

    #[test]
    fn writer_returns_the_checksum_of_the_file(
        pieces in vec((any::<u8>(), prop_oneof![0_usize..2000, 900_000_usize..1_100_000]), 0..6),
    ) {
        let storage = memory();
        let mut out = StorageWriter::new(&*storage, "segments/x".into());
        let mut whole = Vec::new();
        for (byte, length) in pieces {
            let piece: Vec<u8> = (0..length).map(|i| byte ^ i as u8).collect();
            prop_assert_eq!(out.write(&piece).unwrap(), length);
            whole.extend(piece);
        }
        let (bytes, xxh3) = out.finish().unwrap();
        prop_assert_eq!((bytes, xxh3), (whole.len() as u64, checksum(&whole)));
        prop_assert!(storage.open("segments/x").unwrap() == whole, "the bytes are the same");
    }
}

#[test]
fn writer_returns_the_first_error() {
    for mode in [Mode::Before, Mode::Torn, Mode::After] {
        let failing = Hooked::new(memory(), move |call| (call.what == "append").then_some(mode));
        let mut out = StorageWriter::new(&*failing, "segments/x".into());
        let piece = vec![1; 1 << 20];
        assert!(out.write(&piece).is_err());
        let error = out.finish().unwrap_err();
        assert_eq!((error.doing, error.name.as_str()), ("append", "segments/x"));
    }
    let failing = Hooked::new(memory(), |call| (call.what == "sync").then_some(Mode::Before));
    let mut out = StorageWriter::new(&*failing, "segments/x".into());
    out.write_all(b"x").unwrap();
    assert_eq!(out.finish().unwrap_err().doing, "sync", "what is not durable is not written");
}

#[test]
fn errors_name_the_file_as_the_user_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b");
    assert!(DiskStorage::open_existing(&root).is_err());
    let disk = DiskStorage::create(&root).unwrap();
    assert!(DiskStorage::open_existing(&root).is_ok());
    let path = root.join("commits/7").display().to_string();
    let error = disk.open("commits/7").unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains(&path), "{error}");
    assert_eq!(disk.display("commits/7"), path);
    let error = disk.rename("commits/7", "commits/8").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("cannot rename"), "{error}");
}

#[test]
fn new_state_is_for_its_owner_alone_and_a_folder_that_is_none_is_left_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let root = folder.path().join("a/state");
    DiskStorage::create(&root).unwrap();
    assert_eq!((mode(&root), mode(&root.join("segments"))), (0o700, 0o700));
    assert_ne!(mode(&folder.path().join("a")), 0o700, "only the state is Tagflow's");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o750)).unwrap();
    DiskStorage::create(&root).unwrap();
    assert_eq!(mode(&root), 0o750, "who has opened it to others meant to");

    let (file, absent) = (folder.path().join("file"), folder.path().join("absent"));
    std::fs::write(&file, "").unwrap();
    for none in [&file, &absent, &folder.path().to_owned(), &file.join("under")] {
        let error = DiskStorage::open_existing(none).unwrap_err();
        assert!(matches!(error, OpenError::NoState(_)), "{error}");
    }
    // The name is too long for the system: whether there is a state cannot be told.
    let error = DiskStorage::open_existing(&folder.path().join("x".repeat(300))).unwrap_err();
    assert!(matches!(error, OpenError::Storage(_)), "{error}");
}

#[test]
fn mapped_file_outlives_its_removal() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskStorage::create(folder.path()).unwrap();
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    disk.append("segments/x", &content).unwrap();
    let open = disk.open("segments/x").unwrap();
    disk.append("segments/tmp-x", b"other").unwrap();
    disk.rename("segments/tmp-x", "segments/x").unwrap();
    assert!(open == content, "a mapping still shows a replaced file");
    let other = disk.open("segments/x").unwrap();
    disk.unlink("segments/x").unwrap();
    assert!(open == content && other == b"other"[..]);
}

#[test]
fn what_is_no_regular_file_is_refused_by_name_and_blocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskStorage::create(folder.path()).unwrap();
    let at = |name: &str| folder.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, at("visible/0000000004"), 0o600.into()).unwrap();
    std::fs::create_dir(at("visible/0000000005")).unwrap();
    for name in ["visible/0000000004", "visible/0000000005"] {
        let error = disk.open(name).unwrap_err();
        assert!(lack(&error).is_none(), "nobody waits for it: {error}");
        let error = error.to_string();
        assert!(error.contains(name) && error.contains("not a regular file"), "{error}");
    }
}
