//! Where the programs and their data are.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the programs and their data are.
pub(crate) struct Paths {
    /// This program, which is also the baseline.
    pub(crate) this: PathBuf,
    pub(crate) tagflow: PathBuf,
    /// The folder for workloads and states.
    pub(crate) data: PathBuf,
}

impl Paths {
    /// Finds `tagflow` beside this program.
    pub(crate) fn find() -> Result<Self, Box<dyn Error>> {
        let this = std::env::current_exe()?;
        let tagflow = this.with_file_name("tagflow");
        if !tagflow.is_file() {
            return Err(format!("{} is not built; run scripts/bench", tagflow.display()).into());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no parent folder")?;
        let data = root.join("data");
        Ok(Self { this, tagflow, data })
    }

    /// A folder for a state, which does not exist yet.
    pub(crate) fn fresh_state(&self) -> Result<PathBuf, Box<dyn Error>> {
        let state = self.data.join("bench-state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        Ok(state)
    }
}
