//! Which files of a folder are read, judging by their names.
//!
//! Invariant: names come in order, and each is a path relative to the folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::LogError;
use super::packed::Packing;

const EXTENSIONS: [&str; 3] = ["ndjson", "jsonl", "json"];

/// The names of the input files in the folder `root` and the folders in it.
pub(super) fn names(root: &Path) -> Result<Vec<String>, LogError> {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let entries = fs::read_dir(&path).map_err(|e| LogError::io(&path, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| LogError::io(&path, e))?;
            let file_name = entry.file_name();
            if file_name.to_string_lossy().starts_with('.') {
                continue;
            }
            let relative = folder.join(&file_name);
            // Follows links: one to a file or a folder is read as what it points to.
            let meta = fs::metadata(entry.path()).map_err(|e| LogError::io(&entry.path(), e))?;
            if meta.is_dir() {
                folders.push(relative);
            } else if is_input(&relative) {
                names.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a file of a folder is read, judging by its name.
fn is_input(path: &Path) -> bool {
    let plain =
        if Packing::of(path) == Packing::Plain { path.to_owned() } else { path.with_extension("") };
    plain.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e))
}
