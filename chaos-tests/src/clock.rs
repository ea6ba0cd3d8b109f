//! A node's own clock, which can be set while it runs: libfaketime in front of the C library.
//!
//! Only what tells the time of day is set; what measures durations goes on, as on a machine whose clock an administrator or
//! a time server sets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where Debian's libraries are.
const LIBRARIES: &str = "/usr/lib";

/// The library, for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// How long a node may go by what it has read, in seconds.
pub const NOTICED_AFTER_S: u64 = 1;

/// A clock.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// Right, for now; what it shows stands in a file in this folder.
    pub fn new(folder: &Path) -> Result<Clock> {
        let clock = Clock {
            library: library()?,
            file: folder.join("clock"),
        };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Sets it against the machine's: `+1h`, `-1h`, `+1y`, `+0`.
    pub fn set(&self, offset: &str) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{offset}\n"))?;
        Ok(std::fs::rename(&next, &self.file)?)
    }

    /// What a process needs that goes by it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file)),
            ("FAKETIME_CACHE_DURATION", NOTICED_AFTER_S.to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}

fn library() -> Result<PathBuf> {
    let mut folders = std::fs::read_dir(LIBRARIES)?.filter_map(std::result::Result::ok);
    folders
        .find_map(|folder| Some(folder.path().join(LIBRARY)).filter(|path| path.exists()))
        .context("libfaketime is missing; scripts/setup-tests installs it")
}
