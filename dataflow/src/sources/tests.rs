//! Tests of files that are replaced, renamed, truncated or copied while, or after, they are read.

mod arriving;
mod halves;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use schemas::config::{FileOptions, Follow, OnTruncate, RotateWait};
use schemas::manifest::{Partition, Partitions, Position};

use super::{FileLog, Log, LogError, Loss, Mode, Next, Reader};

/// A folder with files that are followed.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn append(&self, name: &str, text: &str) {
        let file = OpenOptions::new().append(true).open(self.at(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }
}

fn follow(path: &Path, on_truncate: OnTruncate) -> FileLog {
    let rotate_wait = RotateWait::default();
    FileLog::new(path, Mode::Follow(Follow { on_truncate, rotate_wait }), FileOptions::default())
        .unwrap()
}

/// Lines that begin with 4 KiB that all files have in common.
fn lines(numbers: std::ops::Range<u32>) -> String {
    let line = |number| format!("line {number}\n");
    "constant ".repeat(600) + "\n" + &numbers.map(line).collect::<String>()
}

/// The lines that can be read, but for the constant one.
fn read(reader: &mut dyn Reader) -> Vec<String> {
    let mut read = Vec::new();
    let mut each = |record: super::Record<'_>| {
        let text = String::from_utf8_lossy(record.bytes);
        read.extend(text.starts_with("line").then(|| text.into_owned()));
    };
    while reader.read(3, &mut each).unwrap() == Next::More {}
    reader.end().unwrap();
    read
}

fn numbers(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("line {number}")).collect()
}

/// What a commit says of a partition.
fn state(reader: &dyn Reader) -> Partition {
    Partition {
        position: Position::Offset(reader.position()),
        fingerprint: reader.fingerprint(),
        tail: reader.tail(),
        ..Partition::default()
    }
}

/// Reads all of a followed file, and returns what a commit then says.
fn read_once(path: &Path) -> Partitions {
    let log = follow(path, OnTruncate::Stop);
    let found = log.discover().unwrap();
    let one = |name: &str| {
        let mut reader = log.open(name, log.beginning(name, true).unwrap()).unwrap();
        read(&mut *reader);
        (name.to_owned(), state(&*reader))
    };
    found.iter().map(|found| one(&found.partition)).collect()
}

#[test]
fn file_that_was_overwritten_is_never_read_on() {
    for longer in [false, true] {
        for on_truncate in [OnTruncate::Stop, OnTruncate::GoOn] {
            let folder = Folder::new();
            folder.write("a.ndjson", &lines(0..9));
            let log = follow(&folder.at("a.ndjson"), on_truncate);
            let mut reader = log.open("a.ndjson", 0).unwrap();
            assert_eq!(read(&mut *reader), numbers(0..9));
            let before = reader.position();
            // The same file, in place, with the same beginning.
            folder.write("a.ndjson", &lines(if longer { 10..40 } else { 10..12 }));
            let seen = reader.read(9, &mut |_| panic!("a line at the old position"));
            let seen = seen.and_then(|_| reader.end());
            if on_truncate == OnTruncate::Stop {
                let Err(LogError::Lost { file, read, .. }) = seen else { panic!("{seen:?}") };
                assert!(file.ends_with("a.ndjson"), "{file}");
                assert_eq!(read, before);
                continue;
            }
            assert_eq!(seen.unwrap(), Some(before));
            assert_eq!(reader.rotated().as_deref(), Some("a.ndjson@1"));
            assert_eq!((reader.truncations(), reader.truncations()), (1, 0));
            assert_eq!(reader.read(9, &mut |_| panic!("nothing is left")).unwrap(), Next::End);
            let begin = log.beginning("a.ndjson", false).unwrap();
            assert_eq!(begin, 0);
            let next = read(&mut *log.open("a.ndjson", begin).unwrap());
            assert_eq!(next[0], "line 10");
        }
    }
}

#[test]
fn file_that_was_overwritten_while_nothing_read_it_is_never_read_on() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let known = read_once(&folder.at("a.ndjson"));
    folder.write("a.ndjson", &lines(10..40));
    let stops = follow(&folder.at("a.ndjson"), OnTruncate::Stop).locate(&known, false);
    assert!(matches!(&stops, Err(LogError::Lost { file, .. }) if file.ends_with("a.ndjson")));
    assert!(stops.unwrap_err().to_string().contains("--on-truncate go-on"));
    let moved = follow(&folder.at("a.ndjson"), OnTruncate::GoOn).locate(&known, false).unwrap();
    assert_eq!((moved[0].to.as_str(), moved[0].loss), ("a.ndjson@1", Some(Loss::Truncated)));
    let mut states = known;
    moved[0].apply(&mut states);
    assert!(states["a.ndjson@1"].done && !states.contains_key("a.ndjson"));
}

#[test]
fn renamed_file_is_read_beside_the_new_one() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let log = follow(folder.0.path(), OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    assert_eq!(read(&mut *old), numbers(0..9));
    folder.rename("a.ndjson", "moved.ndjson");
    folder.append("moved.ndjson", "line 9\n");
    assert_eq!((read(&mut *old), old.rotated()), (numbers(9..10), None), "no new one yet");
    folder.write("a.ndjson", &lines(20..22));
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    let names = || -> Vec<String> {
        log.discover().unwrap().into_iter().map(|found| found.partition).collect()
    };
    assert_eq!(names(), ["a.ndjson"], "the renamed one is still read under the name it had");
    let mut new = log.open("a.ndjson", log.beginning("a.ndjson", false).unwrap()).unwrap();
    assert_eq!(read(&mut *new), numbers(20..22));
    folder.append("moved.ndjson", "line 10\nline 11");
    assert_eq!(read(&mut *old), numbers(10..11));
    old.let_go();
    let end = old.position() + 7;
    assert_eq!((read(&mut *old), old.position()), (numbers(11..12), end));
    drop(old);
    assert_eq!(names(), ["a.ndjson", "moved.ndjson"]);
    assert_eq!(log.beginning("moved.ndjson", false).unwrap(), end, "goes on where it was left");
    // A second rotation has another name.
    folder.rename("a.ndjson", "again.ndjson");
    folder.write("a.ndjson", "");
    assert_eq!(new.rotated().as_deref(), Some("a.ndjson@2"));
}

#[test]
fn removed_file_that_is_made_again_is_another_one() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let log = follow(&folder.at("a.ndjson"), OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    read(&mut *old);
    fs::remove_file(folder.at("a.ndjson")).unwrap();
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    assert_eq!(log.discover().unwrap(), [], "there is none at the moment");
    folder.write("a.ndjson", &lines(10..40));
    assert_eq!(log.discover().unwrap().len(), 1);
    assert_eq!(log.beginning("a.ndjson", false).unwrap(), 0);
}

#[test]
fn link_that_is_set_elsewhere_is_a_rotation() {
    let folder = Folder::new();
    folder.write("day1", &lines(0..9));
    folder.write("day2", &lines(10..40));
    std::os::unix::fs::symlink("day1", folder.at("a.ndjson")).unwrap();
    let path = folder.at("a.ndjson");
    let known = read_once(&path);
    let log = follow(&path, OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    read(&mut *old);
    fs::remove_file(&path).unwrap();
    assert_eq!(old.rotated(), None, "the file is still there");
    std::os::unix::fs::symlink("day2", &path).unwrap();
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    folder.append("day1", "line 9\n");
    assert_eq!(read(&mut *old), numbers(9..10));
    // The next start finds what the link led to.
    let log = follow(&path, OnTruncate::Stop);
    assert_eq!(log.locate(&known, false).unwrap()[0].to, "a.ndjson@1");
    let Position::Offset(offset) = known["a.ndjson"].position else { panic!() };
    assert_eq!(read(&mut *log.open("a.ndjson@1", offset).unwrap()), numbers(9..10));
}

/// Packs a file as its new name says, and removes it.
fn pack(folder: &Folder, from: &str, to: &str) {
    let bytes = fs::read(folder.at(from)).unwrap();
    let packed = if to.ends_with("gz") {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&bytes).unwrap();
        gz.finish().unwrap()
    } else {
        zstd::encode_all(&bytes[..], 1).unwrap()
    };
    fs::write(folder.at(to), packed).unwrap();
    fs::remove_file(folder.at(from)).unwrap();
}

#[test]
fn start_finds_a_rotated_file_under_any_name_packed_or_not() {
    for (to, packed) in [
        ("a.ndjson.1", None),
        ("a.ndjson-20260101", Some("a.ndjson-20260101.gz")),
        ("a.2.ndjson", Some("a.2.ndjson.zst")),
    ] {
        for single in [true, false] {
            let folder = Folder::new();
            folder.write("a.ndjson", &lines(0..900));
            // Others that begin alike.
            folder.write("b.log", &lines(0..899));
            folder.write("c.log", &(lines(1000..1900) + "line 1\n"));
            let path = if single { folder.at("a.ndjson") } else { folder.0.path().to_owned() };
            let known = read_once(&path);
            folder.append("a.ndjson", "line 900\n");
            folder.rename("a.ndjson", to);
            if let Some(packed) = packed {
                pack(&folder, to, packed);
            }
            folder.write("a.ndjson", &lines(1000..2000));
            let log = follow(&path, OnTruncate::Stop);
            let moved = log.locate(&known, false).unwrap();
            assert_eq!((moved.len(), moved[0].loss), (1, None), "{to}");
            let mut states = known.clone();
            moved[0].apply(&mut states);
            let found: Vec<_> = log.discover().unwrap().into_iter().map(|f| f.partition).collect();
            assert_eq!(found, ["a.ndjson", "a.ndjson@1"], "{to}: nothing is read twice");
            log.resume("a.ndjson@1", &states["a.ndjson@1"]).unwrap();
            let Position::Offset(offset) = states["a.ndjson@1"].position else { panic!() };
            assert_eq!(read(&mut *log.open("a.ndjson@1", offset).unwrap()), numbers(900..901));
            assert_eq!(log.beginning("a.ndjson", false).unwrap(), 0);
            // So does the start after it, when the file has yet another name.
            let place = packed.unwrap_or(to);
            let other = place.replace("a.", "x.").replace("x.ndjson-", "x-");
            folder.rename(place, &other);
            let log = follow(&path, OnTruncate::Stop);
            assert_eq!(log.locate(&states, false).unwrap(), []);
            assert_eq!(read(&mut *log.open("a.ndjson@1", offset).unwrap()), numbers(900..901));
        }
    }
}

#[test]
fn grown_copy_in_place_of_a_file_goes_on_where_it_was_read() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let path = folder.at("a.ndjson");
    let log = follow(&path, OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    read(&mut *old);
    let known = Partitions::from([("a.ndjson".to_owned(), state(&*old))]);
    folder.write("copy", &lines(0..12));
    folder.rename("copy", "a.ndjson");
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    let begin = log.beginning("a.ndjson", false).unwrap();
    assert_eq!(read(&mut *log.open("a.ndjson", begin).unwrap()), numbers(9..12));
    let log = follow(&path, OnTruncate::Stop);
    assert_eq!(log.locate(&known, false).unwrap(), [], "the next start takes it for the same");
    assert_eq!(read(&mut *log.open("a.ndjson", begin).unwrap()), numbers(9..12));
}

#[test]
fn file_is_the_same_on_another_device_with_another_inode() {
    let (folder, other) = (Folder::new(), Folder::new());
    let shared_memory = tempfile::tempdir_in("/dev/shm").ok().map(Folder);
    folder.write("a.ndjson", &lines(0..9));
    let known = read_once(folder.0.path());
    for other in [Some(other), shared_memory].into_iter().flatten() {
        fs::copy(folder.at("a.ndjson"), other.at("a.ndjson")).unwrap();
        let log = follow(other.0.path(), OnTruncate::Stop);
        assert_eq!(log.locate(&known, false).unwrap(), []);
        log.resume("a.ndjson", &known["a.ndjson"]).unwrap();
    }
}

#[test]
fn two_names_of_one_file_are_two_files() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    fs::hard_link(folder.at("a.ndjson"), folder.at("b.ndjson")).unwrap();
    let log = follow(folder.0.path(), OnTruncate::Stop);
    let mut readers: Vec<_> =
        ["a.ndjson", "b.ndjson"].map(|name| log.open(name, 0).unwrap()).into();
    for reader in &mut readers {
        assert_eq!(read(&mut **reader), numbers(0..9));
    }
    assert_eq!(log.discover().unwrap().len(), 2);
    // A third name, and a copy, begin where they have been read.
    let end = readers[0].position();
    fs::hard_link(folder.at("a.ndjson"), folder.at("c.ndjson")).unwrap();
    fs::copy(folder.at("a.ndjson"), folder.at("d.ndjson")).unwrap();
    assert_eq!(log.discover().unwrap().len(), 4);
    assert_eq!(log.beginning("c.ndjson", false).unwrap(), end);
    assert_eq!(log.beginning("d.ndjson", false).unwrap(), end);
}

#[test]
fn file_that_is_gone_may_come_back_or_another_with_its_name() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let mut known = read_once(folder.0.path());
    let end = Position::Offset(fs::metadata(folder.at("a.ndjson")).unwrap().len());
    let text = fs::read_to_string(folder.at("a.ndjson")).unwrap();
    fs::remove_file(folder.at("a.ndjson")).unwrap();
    let log = follow(folder.0.path(), OnTruncate::Stop);
    let moved = log.locate(&known, false).unwrap();
    assert_eq!(moved[0].loss, Some(Loss::Removed));
    moved[0].apply(&mut known);
    assert_eq!((known["a.ndjson@1"].done, &known["a.ndjson@1"].position), (true, &end));
    folder.write("a.ndjson", &lines(10..11));
    assert_eq!(log.beginning("a.ndjson", false).unwrap(), 0);
    folder.write("a.ndjson", &text);
    assert_eq!(Position::Offset(log.beginning("a.ndjson", false).unwrap()), end);
}

#[test]
fn reader_of_a_bounded_run_reports_a_changed_file() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let known = read_once(folder.0.path());
    let mut text = fs::read(folder.at("a.ndjson")).unwrap();
    let last = text.len() - 2;
    text[last] = b'x';
    File::create(folder.at("a.ndjson")).unwrap().write_all(&text).unwrap();
    for mode in [Mode::Ordered, Mode::Blocks] {
        let log = FileLog::new(folder.0.path(), mode, FileOptions::default()).unwrap();
        let resumed = log.resume("a.ndjson", &known["a.ndjson"]);
        assert!(matches!(resumed, Err(LogError::Changed(_))), "only its last byte has changed");
    }
}

#[test]
fn files_of_rotations_that_nobody_saw_are_read_as_well() {
    let folder = Folder::new();
    let record = |numbers: std::ops::Range<u32>| -> String {
        numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect()
    };
    let path = folder.at("a.ndjson");
    folder.write("a.ndjson.7", &record(90..99));
    folder.write("a.ndjson", &record(0..9));
    let known = read_once(&path);
    let log = follow(&path, OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    read(&mut *old);
    let rotate = |to: &str, numbers| {
        folder.rename("a.ndjson", to);
        folder.write("a.ndjson", &record(numbers));
    };
    // Twice between two looks; others are not taken for rotations.
    rotate("a.ndjson.2", 10..20);
    rotate("a.ndjson.1", 20..30);
    folder.write("a.ndjson.bak", &record(50..60));
    folder.write("a.ndjson.3", "no record");
    let elsewhere = Folder::new();
    elsewhere.write("b", &record(60..70));
    std::os::unix::fs::symlink(elsewhere.at("b"), folder.at("a.ndjson.9")).unwrap();
    let later = std::time::SystemTime::UNIX_EPOCH;
    File::open(folder.at("a.ndjson.7")).unwrap().set_modified(later).unwrap();
    let names = |log: &FileLog| -> Vec<String> {
        log.discover().unwrap().into_iter().map(|found| found.partition).collect()
    };
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    assert_eq!(names(&log), ["a.ndjson", "a.ndjson@2"]);
    let mut texts = Vec::new();
    let mut between = log.open("a.ndjson@2", log.beginning("a.ndjson@2", false).unwrap()).unwrap();
    let mut each = |r: super::Record<'_>| texts.push(String::from_utf8_lossy(r.bytes).into_owned());
    while between.read(3, &mut each).unwrap() == Next::More {}
    assert_eq!((texts.len(), texts[0].as_str()), (10, "{\"n\":10}"));
    assert_eq!(log.former_name("a.ndjson@2").as_deref(), Some("a.ndjson"));
    // So does a start.
    let log = follow(&path, OnTruncate::Stop);
    assert_eq!(log.locate(&known, false).unwrap()[0].to, "a.ndjson@1");
    assert_eq!(names(&log), ["a.ndjson", "a.ndjson@1", "a.ndjson@2"]);
    // It knows them by what they are, not by the names that it found them under.
    folder.rename("a.ndjson.2", "a.ndjson.4");
    folder.rename("a.ndjson.1", "a.ndjson.2");
    let Position::Offset(offset) = known["a.ndjson"].position else { panic!() };
    folder.append("a.ndjson.4", "line 1\n");
    assert_eq!(read(&mut *log.open("a.ndjson@1", offset).unwrap()), numbers(1..2));
}

#[test]
fn rotated_file_never_gets_the_name_of_another_one() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let path = folder.at("a.ndjson");
    let mut known = read_once(&path);
    // This one was called so by who wrote it.
    known.insert("a.ndjson@1".to_owned(), Partition { done: true, ..known["a.ndjson"].clone() });
    folder.rename("a.ndjson", "old");
    folder.write("a.ndjson", &lines(10..40));
    let single = known.clone().into_iter().filter(|(name, _)| name == "a.ndjson").collect();
    let moved = follow(&path, OnTruncate::Stop).locate(&single, false).unwrap();
    assert_eq!(moved[0].to, "a.ndjson@1");
    let moved = follow(&path, OnTruncate::Stop).locate(&known, false).unwrap();
    let mine = moved.iter().find(|moved| moved.from == "a.ndjson").unwrap();
    assert_eq!(mine.to, "a.ndjson@2");
    let mut states = known;
    moved.iter().for_each(|moved| moved.apply(&mut states));
}

#[test]
fn folder_that_has_the_name_for_a_while_is_passed_over() {
    let folder = Folder::new();
    folder.write("a.ndjson", &lines(0..9));
    let path = folder.at("a.ndjson");
    let log = follow(&path, OnTruncate::Stop);
    let mut old = log.open("a.ndjson", 0).unwrap();
    read(&mut *old);
    folder.rename("a.ndjson", "old");
    fs::create_dir(&path).unwrap();
    assert_eq!(log.discover().unwrap(), []);
    assert_eq!(old.rotated().as_deref(), Some("a.ndjson@1"));
    assert_eq!(log.discover().unwrap(), []);
    fs::remove_dir(&path).unwrap();
    folder.write("a.ndjson", &lines(10..40));
    assert_eq!(log.discover().unwrap().len(), 1);
}
