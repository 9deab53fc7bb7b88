//! Files next to one that was rotated that may have had its name in between, when it was rotated
//! more than once before anybody looked.
//!
//! Invariant: a file is taken for one only if its name is the rotated one's with a number or a date
//! behind it, it was changed after that one, and it begins as a record does.

use std::fs::{self, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::marks::MARK_BYTES;
use super::packed::{self, Packing};

/// Such files of `name` in `folders`, from the oldest to the newest.
pub(super) fn later(
    folders: &[PathBuf],
    name: &str,
    since: SystemTime,
) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let path = entry.path();
        let is_named = entry.file_name().to_str().is_some_and(|other| is_rotation(other, name));
        // A link leads to a file that nobody named.
        let meta = is_named.then(|| fs::symlink_metadata(&path).ok()).flatten();
        let Some(meta) = meta else { continue };
        let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if meta.is_file() && changed >= since && begins_with_a_record(&path) {
            found.push((changed, path, meta));
        }
    }
    found.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    found.into_iter().map(|(_, path, meta)| (path, meta)).collect()
}

/// Whether `other` is `name` with a number or a date behind it, or before its extension, packed or
/// not.
fn is_rotation(other: &str, name: &str) -> bool {
    let other = [".gz", ".zst"].iter().find_map(|end| other.strip_suffix(end)).unwrap_or(other);
    let within = name.rfind('.').and_then(|dot| {
        let (stem, extension) = name.split_at(dot);
        other.strip_prefix(stem)?.strip_suffix(extension)
    });
    [other.strip_prefix(name), within].into_iter().flatten().any(|more| {
        let is_part = |c: char| c.is_ascii_digit() || "-_.:TZ+".contains(c);
        let more = more.strip_prefix(['.', '-', '_']);
        more.is_some_and(|more| {
            more.starts_with(|c: char| c.is_ascii_digit()) && more.chars().all(is_part)
        })
    })
}

fn begins_with_a_record(path: &Path) -> bool {
    let Ok(source) = packed::open(path, Packing::of(path)) else { return false };
    let mut head = Vec::new();
    if source.take(MARK_BYTES).read_to_end(&mut head).is_err() {
        return false;
    }
    let is_passed_over =
        |byte: &u8| byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(byte);
    head.iter().find(|byte| !is_passed_over(byte)) == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::is_rotation;

    #[test]
    fn rotations_have_a_number_or_a_date_behind_the_name() {
        for yes in [
            "a.ndjson.1",
            "a.ndjson-20260101.gz",
            "a.ndjson_2026-01-01T00:00.zst",
            "a-1.ndjson",
            "a.2026-01-01.ndjson.gz",
        ] {
            assert!(is_rotation(yes, "a.ndjson"), "{yes}");
        }
        for no in [
            "a.ndjson",
            "a.ndjson.bak",
            "a.ndjson.gz",
            "ab-1.ndjson",
            "a-eu.ndjson",
            "a1.ndjson",
            "aa.ndjson.1",
            "a.ndjson1",
        ] {
            assert!(!is_rotation(no, "a.ndjson"), "{no}");
        }
    }
}
