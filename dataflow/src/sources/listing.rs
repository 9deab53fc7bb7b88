//! Which files of a folder are read, and how they are opened.
//!
//! Invariants: names come in order, and a file that is one of the input is in them or is said to be
//! passed over; without `follow_links` nothing is read that lies outside of the folder; each folder
//! is read once, whatever links lead to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use schemas::config::FileOptions;
use schemas::printable::shown;

use super::LogError;
use super::packed::Packing;

const EXTENSIONS: [&str; 3] = ["ndjson", "jsonl", "json"];
/// How often a file is opened again that was replaced at the same moment.
const ATTEMPTS: usize = 3;

/// What was passed over though its name is that of an input, or though it may hold some, with the
/// reason. Each is told once.
#[derive(Debug, Default)]
struct PassedOver {
    known: BTreeSet<(PathBuf, String)>,
    new: Vec<String>,
}

/// The most of what was passed over that is told.
const TOLD_MAX: usize = 1000;

/// Where the files of an input are: in a folder, or next to one another.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// The file's name, if the input is a single file.
    single: Option<String>,
    options: FileOptions,
    passed_over: Mutex<PassedOver>,
    /// Whether it could be listed before.
    was_listed: AtomicBool,
}

impl Folder {
    /// The folder, or the file, at `path`.
    pub(super) fn new(path: &Path, options: FileOptions) -> Result<Self, LogError> {
        let meta = fs::metadata(path).map_err(|e| LogError::io(path, e))?;
        let (root, single) = if meta.is_dir() {
            (path, None)
        } else {
            let name = path.file_name().map(|name| name_of(Path::new(name)));
            let name = name.ok_or_else(|| LogError::Empty(path.display().to_string()))?;
            // A path with a file name has a parent, if only "".
            (path.parent().unwrap_or(Path::new("")), Some(name))
        };
        let (passed_over, was_listed) = Default::default();
        Ok(Self { root: root.to_owned(), single, options, passed_over, was_listed })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// Where the file of this name is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(path_of(name))
    }

    /// The largest window of zstd, as a power of two.
    pub(super) fn window_log(&self) -> u32 {
        self.options.zstd_window_log
    }

    /// The names of its input files. `again`: what was listed before may stay as it was.
    pub(super) fn names(&self, again: bool) -> Result<Vec<String>, LogError> {
        if let Some(name) = &self.single {
            return Ok(vec![name.clone()]);
        }
        let listing = match list(&self.root, self.options.follow_links) {
            // What is read already is read on, and the folder is looked at again.
            Err(error) if again && self.was_listed.load(Ordering::Relaxed) => {
                self.pass_over(self.root.clone(), error.to_string());
                return Ok(Vec::new());
            }
            listing => listing?,
        };
        self.was_listed.store(true, Ordering::Relaxed);
        for (path, reason) in listing.passed_over {
            self.pass_over(path, reason);
        }
        Ok(listing.names)
    }

    /// Opens a file at `path`.
    pub(super) fn open(&self, path: &Path) -> Result<File, LogError> {
        // A path that the user named may be a link.
        let is_free = self.single.is_some() || self.options.follow_links;
        open(path, Some(&*self.root).filter(|_| !is_free))
    }

    /// Notes that a file is not read.
    pub(super) fn pass_over(&self, path: PathBuf, reason: String) {
        let mut passed_over = self.passed_over.lock();
        let text = format!("{}: {reason}", shown(&path));
        if passed_over.known.len() < TOLD_MAX && passed_over.known.insert((path, reason)) {
            passed_over.new.push(text);
        }
    }

    /// What was passed over since the last call.
    pub(super) fn passed_over(&self) -> Vec<String> {
        std::mem::take(&mut self.passed_over.lock().new)
    }

    /// How much was passed over.
    pub(super) fn troubles(&self) -> u64 {
        self.passed_over.lock().known.len() as u64
    }
}

/// What a folder holds.
#[derive(Debug, Default)]
struct Listing {
    names: Vec<String>,
    passed_over: BTreeSet<(PathBuf, String)>,
}

/// The input files of the folder `root` and the folders in it.
fn list(root: &Path, follow_links: bool) -> Result<Listing, LogError> {
    let home = fs::canonicalize(root).map_err(|e| LogError::io(root, e))?;
    let mut walk = Walk {
        root,
        home,
        follow_links,
        folders: Vec::new(),
        links: BTreeSet::new(),
        visited: BTreeSet::new(),
        found: Listing::default(),
    };
    walk.folder(Path::new("")).map_err(|e| LogError::io(root, e))?;
    loop {
        // Links come after folders, so that what they lead to is known by its own name if it can
        // be.
        if let Some(folder) = walk.folders.pop() {
            if let Err(error) = walk.folder(&folder) {
                walk.failed(&folder, &error);
            }
        } else if let Some(link) = walk.links.pop_first() {
            walk.link(&link);
        } else {
            break;
        }
    }
    walk.found.names.sort_unstable();
    Ok(walk.found)
}

/// A walk through a folder. Paths are relative to it.
struct Walk<'r> {
    root: &'r Path,
    /// Where the folder really is.
    home: PathBuf,
    follow_links: bool,
    folders: Vec<PathBuf>,
    links: BTreeSet<PathBuf>,
    /// The devices and inodes of folders.
    visited: BTreeSet<(u64, u64)>,
    found: Listing,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let path = self.root.join(folder);
        let meta = fs::metadata(&path)?;
        if !self.visited.insert((meta.dev(), meta.ino())) {
            self.pass(folder, "it is a link to a folder that is read under another name");
            return Ok(());
        }
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let relative = folder.join(&name);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.folders.push(relative),
                Ok(kind) if kind.is_symlink() => drop(self.links.insert(relative)),
                Ok(kind) => self.file(&relative, kind),
                Err(error) if is_input(&relative) => self.failed(&relative, &error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, relative: &Path, kind: FileType) {
        if !is_input(relative) {
        } else if kind.is_file() {
            self.found.names.push(name_of(relative));
        } else {
            self.pass(relative, "it is not a regular file");
        }
    }

    fn link(&mut self, relative: &Path) {
        let path = self.root.join(relative);
        let behind = fs::canonicalize(&path).and_then(|real| Ok((fs::metadata(&real)?, real)));
        match behind {
            Err(error) if is_input(relative) => self.failed(relative, &error),
            Err(_) => {}
            Ok((meta, _)) if !meta.is_dir() && !is_input(relative) => {}
            Ok((_, real)) if !self.follow_links && !real.starts_with(&self.home) => {
                let reason = "it is a link that leads out of the input folder; with --follow-links \
                     (consumer: {follow_links: true}) it is read";
                self.pass(relative, reason);
            }
            Ok((meta, _)) if meta.is_dir() => self.folders.push(relative.to_owned()),
            Ok((meta, _)) => self.file(relative, meta.file_type()),
        }
    }

    fn failed(&mut self, relative: &Path, error: &io::Error) {
        // What vanished between two looks at it was no input.
        let is_there = fs::symlink_metadata(self.root.join(relative)).is_ok();
        match error.kind() {
            io::ErrorKind::NotFound if is_there => {
                self.pass(relative, "it is a link that leads nowhere");
            }
            io::ErrorKind::NotFound => {}
            _ => self.pass(relative, &error.to_string()),
        }
    }

    fn pass(&mut self, relative: &Path, reason: &str) {
        self.found.passed_over.insert((self.root.join(relative), reason.to_owned()));
    }
}

/// Whether a file of a folder is read, judging by its name.
fn is_input(path: &Path) -> bool {
    let plain = match Packing::of(path) {
        Packing::Plain => path.to_owned(),
        Packing::Gzip | Packing::Zstd => path.with_extension(""),
    };
    let extension = plain.extension();
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

/// Opens the file at `path`, which must lie in the folder `within`, whatever links lead to it. What
/// is no regular file is refused, and does not block.
fn open(path: &Path, within: Option<&Path>) -> Result<File, LogError> {
    let failed = |error| LogError::io(path, error);
    let not_blocking = OFlags::NONBLOCK.bits().cast_signed();
    for _ in 0..ATTEMPTS {
        let file = OpenOptions::new().read(true).custom_flags(not_blocking).open(path);
        let file = file.map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(LogError::NotRegular(shown(path)));
        }
        let Some(folder) = within else { return Ok(file) };
        let home = fs::canonicalize(folder).map_err(|error| LogError::io(folder, error))?;
        let real = fs::canonicalize(path).map_err(failed)?;
        if !real.starts_with(home) {
            let what = "it leads out of the input folder";
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, what)));
        }
        // A link may have been set elsewhere between the two calls.
        if fs::symlink_metadata(&real).is_ok_and(|there| is_same(&there, &meta)) {
            return Ok(file);
        }
    }
    Err(failed(io::Error::other("it is replaced again and again")))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// What the names begin with that stand for paths that are no UTF-8. No other name does.
const ESCAPED: &str = "./";

/// The name of the partition at a relative path: the path itself, if it is UTF-8. Otherwise bytes
/// that are not are written as `\xNN`, and backslashes twice.
pub(super) fn name_of(path: &Path) -> String {
    if let Some(name) = path.to_str() {
        return name.to_owned();
    }
    let mut name = ESCAPED.to_owned();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        name += &chunk.valid().replace('\\', "\\\\");
        chunk.invalid().iter().for_each(|byte| name += &format!("\\x{byte:02x}"));
    }
    name
}

/// The relative path of the partition `name`.
pub(super) fn path_of(name: &str) -> PathBuf {
    let Some(escaped) = name.strip_prefix(ESCAPED) else { return PathBuf::from(name) };
    let mut bytes = Vec::new();
    let mut parts = escaped.split('\\');
    bytes.extend(parts.next().unwrap_or("").as_bytes());
    while let Some(part) = parts.next() {
        let byte =
            part.strip_prefix('x').and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&part.as_bytes()[3..]);
            }
            None => {
                // Two backslashes have nothing between them.
                bytes.push(b'\\');
                bytes.extend(parts.next().unwrap_or("").as_bytes());
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn put(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}\n").unwrap();
    }

    /// The names, and what was passed over as `NAME: REASON`.
    fn listed(root: &Path, follow_links: bool) -> (Vec<String>, Vec<String>) {
        let Listing { names, passed_over } = list(root, follow_links).unwrap();
        let told = passed_over.into_iter().map(|(path, reason)| {
            format!("{}: {reason}", path.strip_prefix(root).unwrap().display())
        });
        (names, told.collect())
    }

    #[test]
    fn extensions_are_what_they_say_in_capitals_too() {
        for name in ["a.ndjson", "a.NDJSON", "a.Jsonl.GZ", "a.json.ZST", "a.b.json"] {
            assert!(is_input(Path::new(name)), "{name}");
        }
        for name in ["a", "json", "a.json.tmp", "a.gz", "a.ndjson.gz.part", "a.ndjson.bz2"] {
            assert!(!is_input(Path::new(name)), "{name}");
        }
        assert_eq!(Packing::of(Path::new("a.ndjson.GZ")), Packing::Gzip);
        assert_eq!(Packing::of(Path::new("a.Zst")), Packing::Zstd);
    }

    #[test]
    fn what_cannot_be_read_is_told_if_it_is_an_input_and_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        put(&at("a.ndjson"));
        put(&at("loop/b.ndjson"));
        symlink("..", at("loop/up")).unwrap();
        symlink("nowhere", at("dead.ndjson")).unwrap();
        symlink("nowhere", at("dead.txt")).unwrap();
        symlink("self.ndjson", at("self.ndjson")).unwrap();
        symlink("self", at("self")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.ndjson"), 0o600.into()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).unwrap();
        let (names, told) = listed(folder.path(), true);
        assert_eq!(names, ["a.ndjson", "loop/b.ndjson"]);
        let told: Vec<_> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(told, ["dead.ndjson", "loop/up", "pipe.ndjson", "self.ndjson"]);
    }

    #[test]
    fn folder_without_permission_is_told_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join("a.ndjson"));
        let closed = folder.path().join("closed");
        put(&closed.join("b.ndjson"));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
        // The superuser may read it all the same.
        let is_closed = fs::read_dir(&closed).is_err();
        let (names, told) = listed(folder.path(), false);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(names.len(), if is_closed { 1 } else { 2 });
        assert_eq!(told.len(), usize::from(is_closed), "{told:?}");
    }

    #[test]
    fn link_that_leads_out_of_the_folder_is_read_only_if_links_are_followed() {
        let outside = tempfile::tempdir().unwrap();
        put(&outside.path().join("secret"));
        put(&outside.path().join("more/c.ndjson"));
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        put(&at(".data/a.ndjson"));
        symlink(".data/a.ndjson", at("a.ndjson")).unwrap();
        symlink(outside.path().join("secret"), at("b.ndjson")).unwrap();
        symlink(outside.path().join("secret"), at("b.txt")).unwrap();
        symlink(outside.path().join("more"), at("more")).unwrap();
        let (names, told) = listed(folder.path(), false);
        assert_eq!(names, ["a.ndjson"]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|line| line.contains("--follow-links")), "{told:?}");
        let (names, told) = listed(folder.path(), true);
        assert_eq!(names, ["a.ndjson", "b.ndjson", "more/c.ndjson"]);
        assert!(told.is_empty(), "{told:?}");

        // A link that takes the place of a file after it was listed is not followed either.
        let within = Some(folder.path());
        assert!(open(&at("a.ndjson"), within).is_ok());
        for name in ["b.ndjson", "more/c.ndjson"] {
            let error = open(&at(name), within).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("leads out"), "{error}");
            assert!(open(&at(name), None).is_ok());
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).unwrap();
        assert!(matches!(open(&at("pipe"), within), Err(LogError::NotRegular(_))));
    }

    #[test]
    fn many_ways_to_one_folder_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for n in 0..40 {
            put(&at(&format!("{n}/a.ndjson")));
            // Twice as many ways with every step.
            symlink(format!("../{}", n + 1), at(&format!("{n}/left"))).unwrap();
            symlink(format!("../{}", n + 1), at(&format!("{n}/right"))).unwrap();
        }
        assert_eq!(listed(folder.path(), true).0.len(), 40);
    }

    #[test]
    fn file_whose_name_is_no_text_is_read_by_its_true_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = Path::new(OsStr::from_bytes(b"caf\xe9\\x\xff.ndjson"));
        put(&folder.path().join(file));
        let names = listed(folder.path(), false).0;
        assert_eq!(names, ["./caf\\xe9\\\\x\\xff.ndjson"]);
        assert_eq!(path_of(&names[0]), file);
    }

    proptest! {
        #[test]
        fn names_and_paths_stand_for_each_other(
            bytes in prop::collection::vec(prop_oneof![
                any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), Just(0xc3), Just(0xa9)
            ], 1..20),
        ) {
            prop_assume!(!bytes.contains(&0) && !bytes.starts_with(b"./") && bytes[0] != b'/');
            let path = PathBuf::from(OsString::from_vec(bytes));
            prop_assert_eq!(path_of(&name_of(&path)), path);
        }
    }
}
