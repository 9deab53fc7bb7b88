//! Tests of compressed files that are still arriving, and of files that cannot be read for a while.

#![allow(clippy::disallowed_methods, reason = "files arrive in real time")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use schemas::config::{FileOptions, Follow};

use super::super::{FileLog, Log, LogError, Mode, Next, Reader, Record};

fn log(path: &Path, mode: Mode) -> FileLog {
    FileLog::new(path, mode, FileOptions::default()).unwrap()
}

fn follow(path: &Path) -> FileLog {
    log(path, Mode::Follow(Follow::default()))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn packed(name: &str, text: &str) -> Vec<u8> {
    if name.ends_with("gz") { gzip(text) } else { zstd::encode_all(text.as_bytes(), 1).unwrap() }
}

/// The records that can be read now, and what follows them.
fn read(reader: &mut dyn Reader) -> (Vec<String>, Next) {
    let mut texts = Vec::new();
    loop {
        let each = &mut |record: Record<'_>| {
            texts.push(String::from_utf8_lossy(record.bytes).into_owned());
        };
        match reader.read(3, each).unwrap() {
            Next::More => {}
            next => return (texts, next),
        }
    }
}

/// Reads until there are `records` records and `next` follows them.
fn read_until(reader: &mut dyn Reader, records: usize, next: Next) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut texts = Vec::new();
    loop {
        let (more, now) = read(reader);
        texts.extend(more);
        if texts.len() == records && now == next {
            return texts;
        }
        assert!(Instant::now() < deadline, "{texts:?}, then {now:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect()
}

#[test]
fn compressed_file_is_read_as_it_arrives_and_ends_when_it_is_complete() {
    for name in ["a.ndjson.gz", "a.ndjson.zst"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let whole = [packed(name, &lines(0..500)), packed(name, &lines(500..1000))].concat();
        let mut file = File::create(&path).unwrap();
        let log = follow(folder.path());
        let mut reader = log.open(name, 0).unwrap();
        let mut texts = Vec::new();
        for piece in whole.chunks(whole.len() / 7) {
            let (more, next) = read(&mut *reader);
            assert_eq!((next, reader.end().unwrap()), (Next::Wait, None));
            texts.extend(more);
            file.write_all(piece).unwrap();
            // A restart continues where it was, also in what has not arrived yet.
            reader = log.open(name, reader.position()).unwrap();
        }
        texts.extend(read_until(&mut *reader, 1000 - texts.len(), Next::End));
        assert_eq!(texts.concat(), lines(0..1000).replace('\n', ""));
        assert_eq!((reader.packed(), reader.left()), (whole.len() as u64, 0));
        assert!(!reader.goes_on());
        // What is appended is read as well.
        file.write_all(&packed(name, &lines(1000..1003))).unwrap();
        assert!(reader.goes_on());
        assert_eq!(
            read_until(&mut *reader, 3, Next::End).concat(),
            "{\"n\":1000}{\"n\":1001}{\"n\":1002}"
        );
    }
}

#[test]
fn file_that_is_damaged_is_looked_at_again_until_it_is_replaced() {
    for name in ["a.ndjson.gz", "a.ndjson.zst"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let whole = packed(name, &lines(0..9));
        // Room for a file that is received in pieces.
        fs::write(&path, vec![0; whole.len()]).unwrap();
        let log = follow(folder.path());
        let mut reader = log.open(name, 0).unwrap();
        assert_eq!(read(&mut *reader), (vec![], Next::Wait));
        assert_eq!((log.troubles(), reader.fingerprint()), (1, None));
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(&whole).unwrap();
        read_until(&mut *reader, 9, Next::End);
        assert!(reader.fingerprint().is_some());
    }
}

#[test]
fn file_that_cannot_be_opened_is_opened_once_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.ndjson", "a.ndjson.gz"] {
        let log = follow(folder.path());
        let mut reader = log.open(name, 0).unwrap();
        assert_eq!(read(&mut *reader), (vec![], Next::Wait));
        assert!(log.troubles() > 0);
        let text = lines(0..4);
        let bytes = if name.ends_with("gz") { gzip(&text) } else { text.into_bytes() };
        fs::write(folder.path().join(name), bytes).unwrap();
        read_until(&mut *reader, 4, if name.ends_with("gz") { Next::End } else { Next::Wait });
    }
}

#[test]
fn bounded_run_says_where_a_compressed_file_ends_too_early() {
    for name in ["a.ndjson.gz", "a.ndjson.zst"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let whole = packed(name, &lines(0..9));
        for cut in [0, 5, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            let log = log(folder.path(), Mode::Ordered);
            let mut reader = log.open(name, 0).unwrap();
            let error = loop {
                match reader.read(3, &mut |_| ()) {
                    Ok(next) => assert_eq!(next, Next::More),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, LogError::Io { .. }));
            let said = error.to_string();
            let end = format!("{name}: its compressed data ends too early, after {cut} bytes");
            assert!(said.contains(&end), "{said}");
        }
    }
}

#[test]
fn half_a_record_at_the_end_of_a_compressed_file_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let name = "a.ndjson.gz";
    let path = folder.path().join(name);
    fs::write(&path, gzip("{\"n\":1}\n{\"n\":")).unwrap();
    for mode in [Mode::Ordered, Mode::Blocks, Mode::Follow(Follow::default())] {
        let log = log(folder.path(), mode);
        let mut reader = log.open(name, 0).unwrap();
        read_until(&mut *reader, 1, Next::End);
        assert_eq!((reader.position(), reader.left()), (8, 5));
        // A commit of a build that counted it is read up to where it was.
        let mut part = log.open_part(0, name, 0, 13).unwrap();
        read_until(&mut *part, 2, Next::End);
    }
    let log = log(folder.path(), Mode::Ordered);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&gzip("2}\n")).unwrap();
    assert_eq!(read_until(&mut *log.open(name, 8).unwrap(), 1, Next::End), ["{\"n\":2}"]);
}

#[test]
fn line_that_unpacks_to_more_than_memory_holds_is_one_large_record() {
    let folder = tempfile::tempdir().unwrap();
    let name = "a.ndjson.gz";
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![b'x'; 1 << 20];
    (0..300).for_each(|_| encoder.write_all(&zeros).unwrap());
    encoder.write_all(b"\n{}\n").unwrap();
    fs::write(folder.path().join(name), encoder.finish().unwrap()).unwrap();
    let log = log(folder.path(), Mode::Ordered);
    let mut reader = log.open(name, 0).unwrap();
    let (mut sizes, mut calls) = (Vec::new(), 0);
    while reader.read(9, &mut |r| sizes.push((r.bytes.len(), r.size))).unwrap() != Next::End {
        calls += 1;
    }
    assert!(sizes[0].0 < 100_000 && calls > 50, "{calls} calls");
    assert_eq!((sizes.len(), sizes[0].1, sizes[1].1), (2, 300 << 20, 2));
}

#[test]
fn decoders_of_many_files_are_closed_before_they_take_too_much_memory() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..8).map(|n| format!("{n}.ndjson.zst")).collect();
    let text = lines(0..500_000);
    for name in &names {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(text.as_bytes()).unwrap();
        fs::write(folder.path().join(name), encoder.finish().unwrap()).unwrap();
    }
    let log = log(folder.path(), Mode::Ordered);
    let mut readers: Vec<_> = names.iter().map(|name| log.open(name, 0).unwrap()).collect();
    let mut counts = vec![0; names.len()];
    let mut ended = 0;
    while ended < names.len() {
        ended = 0;
        for (reader, count) in readers.iter_mut().zip(&mut counts) {
            let next = reader.read(50_000, &mut |_| *count += 1).unwrap();
            ended += usize::from(next == Next::End);
        }
        readers.iter_mut().for_each(|reader| assert_eq!(reader.end().unwrap(), None));
        let open: u64 = readers.iter().map(|reader| reader.decoder_bytes()).sum();
        assert!(open <= 256 << 20, "{} MiB", open >> 20);
    }
    assert_eq!(counts, vec![500_000; names.len()]);
}

#[test]
fn compressed_file_that_is_renamed_or_copied_continues_where_it_was_read() {
    for name in ["a.ndjson.gz", "a.ndjson.zst"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, packed(name, &lines(0..50))).unwrap();
        let log = follow(folder.path());
        let mut reader = log.open(name, 0).unwrap();
        read_until(&mut *reader, 50, Next::End);
        let other = format!("b.{name}");
        fs::rename(&path, folder.path().join(&other)).unwrap();
        // It is looked at once it stands still.
        assert!(matches!(log.beginning(&other, false), Err(LogError::Arriving(_))));
        assert_eq!(log.beginning(&other, false).unwrap(), reader.position());
    }
}

#[test]
fn compressed_file_that_is_replaced_after_it_was_read_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (name, other) = ("a.ndjson.gz", folder.path().join(".new"));
    let path = folder.path().join(name);
    for numbers in [100..102, 100..900] {
        fs::write(&path, gzip(&lines(0..50))).unwrap();
        let log = follow(folder.path());
        let mut reader = log.open(name, 0).unwrap();
        read_until(&mut *reader, 50, Next::End);
        // The same once more is no other file.
        fs::write(&other, gzip(&lines(0..50))).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(reader.goes_on());
        read_until(&mut *reader, 0, Next::End);
        fs::write(&other, gzip(&format!("{{}}\n{}", lines(numbers)))).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(reader.goes_on());
        let error = loop {
            match reader.read(3, &mut |_| panic!("a record of another file")) {
                Ok(next) => assert_ne!(next, Next::End),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(name) && error.contains("--on-truncate go-on"), "{error}");
    }
}
