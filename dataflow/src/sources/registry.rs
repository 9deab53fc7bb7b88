//! The files of one input: how far each has been read, and which of them are open. All readers of
//! the input share it.
//!
//! Invariant: a name stands for one file until that file has lost it; from then on the file is
//! called `NAME@NUMBER`, with a number that no other has had.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use schemas::config::{Follow, OnTruncate};
use schemas::manifest::{Partition, Partitions};
use schemas::rotation::{rotated_name, rotation_number};

use super::listing::Folder;
use super::marks::{FileId, Marks, furthest, has, search};
use super::packed::Packing;
use super::siblings::later;
use super::{LogError, Loss, Moved};

/// What is known of the files of an input.
#[derive(Debug, Default)]
struct Files {
    /// What each was recognised by when it was last looked at.
    marks: BTreeMap<String, Marks>,
    /// Those that are open.
    open: BTreeMap<String, FileId>,
    /// Those that have lost their names, and which names.
    former: BTreeMap<String, String>,
    /// Where files that have lost their names were found.
    places: BTreeMap<String, Place>,
}

/// Where a file was found. Its name there may change as well.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    id: FileId,
}

/// The files of one input.
#[derive(Debug)]
pub(super) struct Registry {
    folder: Folder,
    /// How files are followed; `None` if they are read to their present ends.
    follow: Option<Follow>,
    files: Mutex<Files>,
}

impl Registry {
    pub(super) fn new(folder: Folder, follow: Option<Follow>) -> Self {
        Self { folder, follow, files: Mutex::default() }
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn follow(&self) -> Option<Follow> {
        self.follow
    }

    /// Where the file is that is called `partition`.
    pub(super) fn path(&self, partition: &str) -> PathBuf {
        let mut files = self.files.lock();
        let former = files.former.get(partition).map_or(partition, String::as_str).to_owned();
        let Some(place) = files.places.get_mut(partition) else {
            return self.folder.path(partition);
        };
        if FileId::at(&place.path) != Some(place.id) {
            let moved = with_id(&self.folders(&former), place.id);
            place.path = moved.unwrap_or_else(|| place.path.clone());
        }
        place.path.clone()
    }

    /// The names that there are, without those of files that are read under another one.
    pub(super) fn names(&self) -> Result<Vec<String>, LogError> {
        let names = self.folder.names(self.follow.is_some())?;
        let files = self.files.lock();
        let is_free = |name: &String| {
            let path = self.folder.path(name);
            let is_known = files.marks.contains_key(name) || files.open.contains_key(name);
            if self.folder.is_single() && !path.exists() {
                // So it is between the two steps of a rotation.
                return !is_known && files.former.values().all(|former| former != name);
            }
            if is_known {
                return true;
            }
            let id = FileId::at(&path);
            let has_lost_its_name = |(open, is): (&String, &FileId)| {
                Some(*is) == id && FileId::at(&self.folder.path(open)) != id
            };
            let is_place = |place: &Place| Some(place.id) == id;
            !files.open.iter().any(has_lost_its_name) && !files.places.values().any(is_place)
        };
        Ok(names.into_iter().filter(|name| self.follow.is_none() || is_free(name)).collect())
    }

    /// The files that were found elsewhere than under their names, with the names they once had.
    pub(super) fn elsewhere(&self) -> BTreeMap<String, String> {
        let files = self.files.lock();
        let former = |name: &String| files.former.get(name).unwrap_or(name).clone();
        files.places.keys().map(|name| (name.clone(), former(name))).collect()
    }

    /// Where a file that is new continues: after what was read of a file that it is a copy of.
    pub(super) fn beginning(&self, partition: &str) -> io::Result<u64> {
        let path = self.path(partition);
        let files = self.files.lock();
        // A bounded run reads copies as well, but not again a file that has come back.
        let is_it = |name: &String| files.former.get(name).is_some_and(|of| of == partition);
        let known = files.marks.iter().filter(|(name, _)| self.follow.is_some() || is_it(name));
        let known: Vec<_> = known.map(|(_, marks)| marks.clone()).collect();
        drop(files);
        Ok(furthest(&path, &known)?.unwrap_or(0))
    }

    /// The name that a file has lost.
    pub(super) fn former(&self, partition: &str) -> Option<String> {
        self.files.lock().former.get(partition).cloned()
    }

    /// Whether a file of this name was ever read.
    pub(super) fn was_read(&self, name: &str) -> bool {
        let files = self.files.lock();
        files.marks.contains_key(name) || files.former.values().any(|former| former == name)
    }

    /// What a file was last recognised by.
    pub(super) fn known(&self, partition: &str) -> Option<Marks> {
        self.files.lock().marks.get(partition).cloned()
    }

    /// Whether any file was read, which another one may be a copy of.
    pub(super) fn has_marks(&self) -> bool {
        self.files.lock().marks.values().any(Marks::tell)
    }

    /// A file was opened. Returns whether it has lost its name.
    pub(super) fn open(&self, partition: &str, id: FileId) -> bool {
        let mut files = self.files.lock();
        files.open.insert(partition.to_owned(), id);
        files.former.contains_key(partition)
    }

    /// A file has been read as far as `marks` say.
    pub(super) fn read(&self, partition: &str, marks: &Marks) {
        self.files.lock().marks.insert(partition.to_owned(), marks.clone());
    }

    /// A file has lost its name, and was last seen to change at `since`. Returns what it is called
    /// from now on.
    pub(super) fn rotate(&self, partition: &str, id: Option<FileId>, since: SystemTime) -> String {
        let mut files = self.files.lock();
        let name = files.rotate(partition);
        files.open.remove(partition);
        files.open.extend(id.map(|id| (name.clone(), id)));
        self.find_between(&mut files, partition, since);
        name
    }

    /// Finds files that have had the name `of` since a time and were never read under it, since it
    /// was rotated more than once before anybody looked.
    fn find_between(&self, files: &mut Files, of: &str, since: SystemTime) {
        let path = self.folder.path(of);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        let mut known: Vec<FileId> = files.open.values().copied().collect();
        known.extend(files.places.values().map(|place| place.id).chain(FileId::at(&path)));
        for (place, meta) in later(&self.folders(of), name, since) {
            let id = FileId::of(&meta);
            let is_whole = |end: u64| end >= meta.len() && Packing::of(&place) == Packing::Plain;
            let read = furthest(&place, files.marks.values()).ok().flatten();
            if !known.contains(&id) && !read.is_some_and(is_whole) {
                tracing::warn!(
                    "{} seems to have been {} for a time; it is read as well",
                    place.display(),
                    path.display()
                );
                known.push(id);
                let rotated = files.rotate(of);
                files.places.insert(rotated, Place { path: place, id });
            }
        }
    }

    /// A file that has lost its name is read only up to where it ends now.
    pub(super) fn let_go(&self, partition: &str) {
        self.files.lock().places.remove(partition);
    }

    /// A file is no longer read.
    pub(super) fn close(&self, partition: &str) {
        self.files.lock().open.remove(partition);
    }

    /// Finds the files that a commit has read. Those that are no longer under their names are
    /// looked for in the same folder, under any name, packed or not.
    pub(super) fn locate(&self, known: &Partitions) -> Result<Vec<Moved>, LogError> {
        let mut files = self.files.lock();
        files.know(known);
        // These come first: what they are found as is not taken for anything else.
        for (name, state) in known.iter().filter(|(_, state)| !state.done) {
            if let Some(former) = &state.former_name {
                let place = search(&self.folders(former), &Marks::of(state));
                files.found(name, place);
            }
        }
        let mut moved = Vec::new();
        for (name, state) in known.iter().filter(|(_, state)| state.former_name.is_none()) {
            if self.follow.is_some() {
                moved.extend(self.look_for(name, state, &mut files, known)?);
            }
        }
        Ok(moved)
    }

    /// Whether and where a file is that had its name when a commit read it.
    fn look_for(
        &self,
        name: &str,
        state: &Partition,
        files: &mut Files,
        known: &Partitions,
    ) -> Result<Option<Moved>, LogError> {
        let (marks, path) = (Marks::of(state), self.folder.path(name));
        if !marks.tell() && path.exists() {
            // It was empty. It is another file if it has been rotated since.
            let of = known.iter().filter(|(_, state)| state.former_name.as_deref() == Some(name));
            let last = of.max_by_key(|(rotated, _)| rotation_number(rotated, name));
            let last = last.and_then(|(_, state)| search(&self.folders(name), &Marks::of(state)));
            if let Some(since) = last.as_deref().and_then(changed) {
                self.find_between(files, name, since);
            }
            return Ok(None);
        }
        if self.is_there(name, &marks)? {
            return Ok(None);
        }
        let place = search(&self.folders(name), &marks);
        let loss = match &place {
            Some(_) => None,
            None if !path.exists() => Some(Loss::Removed),
            None => Some(self.truncated(name, marks.position)?),
        };
        let to = files.rotate(name);
        let since = place.as_deref().and_then(changed);
        files.found(&to, place);
        if let Some(since) = since {
            self.find_between(files, name, since);
        }
        Ok(Some(Moved { from: name.to_owned(), to, read: marks.position, loss }))
    }

    /// Finds all that a commit has read, wherever it is now.
    pub(super) fn locate_again(&self, known: &Partitions) -> Result<(), LogError> {
        let mut files = self.files.lock();
        files.know(known);
        for (name, state) in known {
            let (marks, former) = (Marks::of(state), state.former_name.as_ref());
            if former.is_some() || !self.is_there(name, &marks)? {
                let place = search(&self.folders(former.unwrap_or(name)), &marks);
                files.found(name, place);
            }
        }
        Ok(())
    }

    /// A file is not the one that was read up to byte `read`, and that one is nowhere: an error,
    /// unless the job is to go on.
    fn truncated(&self, name: &str, read: u64) -> Result<Loss, LogError> {
        if self.follow.is_some_and(|follow| follow.on_truncate == OnTruncate::GoOn) {
            return Ok(Loss::Truncated);
        }
        let file = self.folder.path(name).display().to_string();
        let how = "was truncated or replaced since it was read";
        Err(LogError::Lost { file, read, how })
    }

    /// Whether the file of this name is the one that was read, or none was.
    fn is_there(&self, name: &str, marks: &Marks) -> Result<bool, LogError> {
        let path = self.folder.path(name);
        if !marks.tell() {
            return Ok(path.exists());
        }
        let same = match (Packing::of(&path), &marks.head) {
            (Packing::Plain, _) => furthest(&path, [marks]).map(|found| found.is_some()),
            // Unpacking all of it would take too long.
            (_, None) => return Ok(true),
            (_, Some(head)) => File::open(&path).and_then(|file| has(&file, head)),
        };
        match same {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // Whoever reads it waits until it can be.
            Err(_) if self.follow.is_some() => Ok(true),
            other => other.map_err(|source| LogError::io(&path, source)),
        }
    }

    /// The folders where a rotation leaves what was called `name`.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        let path = self.folder.path(name);
        let mut folders: Vec<PathBuf> = path.parent().map(folder).into_iter().collect();
        // A link may be set to another file of the folder that it leads to.
        let behind = fs::canonicalize(&path).ok().and_then(|path| path.parent().map(folder));
        if !folders.iter().any(|known| fs::canonicalize(known).ok() == behind) {
            folders.extend(behind);
        }
        folders
    }
}

/// The file of `folders` with this id.
fn with_id(folders: &[PathBuf], id: FileId) -> Option<PathBuf> {
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    entries.flatten().map(|entry| entry.path()).find(|path| FileId::at(path) == Some(id))
}

/// When the file at `path` was changed.
fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The folder at `path`, which is empty for the present one.
fn folder(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

impl Files {
    /// A file was found at `place`, if anywhere.
    fn found(&mut self, name: &str, place: Option<PathBuf>) {
        let place = place.and_then(|path| Some(Place { id: FileId::at(&path)?, path }));
        self.places.extend(place.map(|place| (name.to_owned(), place)));
    }

    /// Takes note of what a commit has read.
    fn know(&mut self, known: &Partitions) {
        for (name, state) in known {
            self.marks.insert(name.clone(), Marks::of(state));
            let former = state.former_name.clone();
            self.former.extend(former.map(|former| (name.clone(), former)));
        }
    }

    /// Gives another name to a file.
    fn rotate(&mut self, partition: &str) -> String {
        // A file may be called so that nobody has rotated.
        let names = self.former.keys().chain(self.marks.keys()).chain(self.open.keys());
        let numbers = names.filter_map(|name| rotation_number(name, partition));
        let name = rotated_name(partition, numbers.max().unwrap_or(0) + 1);
        if let Some(marks) = self.marks.remove(partition) {
            self.marks.insert(name.clone(), marks);
        }
        let before = self.former.insert(name.clone(), partition.to_owned());
        assert!(before.is_none(), "{name} is given to one file only");
        name
    }
}

impl Moved {
    /// Takes into account in `states` that a file has lost its name.
    pub fn apply(&self, states: &mut Partitions) {
        if let Some(state) = states.remove(&self.from) {
            let former_name = Some(self.from.clone());
            let done = state.done || self.loss.is_some();
            let state = Partition { former_name, at_end: true, done, ..state };
            let before = states.insert(self.to.clone(), state);
            assert!(before.is_none(), "{} is the name of another file", self.to);
        }
    }
}
