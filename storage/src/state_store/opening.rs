//! Whether a store that is found may be kept: the clean-stop marker and the boot id.
//!
//! A marker file beside the engine's folder says what the store's last user did:
//!
//! | marker | meaning | verdict |
//! |---|---|---|
//! | `clean` | closed, everything durable | keep |
//! | `running`, this boot | the process crashed; the operating system wrote its bytes | keep |
//! | `running`, another boot | the machine stopped under it | rebuild |
//! | none, unreadable, another engine's | unknown | rebuild |
//!
//! After a stop of the machine even an engine that survives it is rebuilt: its mark may be ahead of what reached the disk of
//! the archive and of the log, which are replayed only from the mark on.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Engine, StateStore, StateStoreError, StateStoreOptions};
use crate::durable;

const MARKER_FILE: &str = "marker";
const ENGINE_DIR: &str = "engine";

/// One boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// The running kernel's boot id.
    ///
    /// # Errors
    /// If the kernel does not tell it.
    pub fn current() -> io::Result<Self> {
        Ok(Self::from_text(&fs::read_to_string(
            "/proc/sys/kernel/random/boot_id",
        )?))
    }

    /// A boot id by name, for simulation and tests.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        BootId(text.split_whitespace().collect())
    }
}

/// What became of the rows that a store held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was no store; it is empty.
    Fresh,
    /// The rows and the applied mark are those of the last batch that reached the disk. The mark may lie before the newest
    /// snapshot, and so before what the caller's log still has; then the store is of no use: wipe it and fill it.
    Kept,
    /// The store was deleted and is empty: fill it from the newest snapshot and the log.
    Rebuild(RebuildReason),
}

/// Why a store was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebuildReason {
    /// The machine stopped without a clean stop of the store.
    MachineStopped,
    /// The marker is missing, unreadable or another engine's.
    MarkerUnknown,
    /// No applied mark: a wipe or a fill was cut short, or the engine lost all rows without noticing (sled does when the
    /// head of its file is damaged).
    NoMark,
    /// The engine would not open it, panicked, or a row was damaged.
    EngineFailed(String),
}

impl fmt::Display for RebuildReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RebuildReason::MachineStopped => {
                f.write_str("the machine stopped without a clean stop of the store")
            }
            RebuildReason::MarkerUnknown => f.write_str("the store's marker is missing or unknown"),
            RebuildReason::NoMark => f.write_str("the store has no applied mark"),
            RebuildReason::EngineFailed(what) => write!(f, "the store's engine failed: {what}"),
        }
    }
}

/// The folder of a store: the engine's files and the marker.
#[derive(Debug, Clone)]
pub(super) struct StoreDir {
    dir: PathBuf,
    engine: Engine,
    boot_id: BootId,
}

impl StoreDir {
    /// The folder that the options name; nothing is touched yet.
    pub(super) fn new(options: &StateStoreOptions) -> Self {
        StoreDir {
            dir: options.dir.clone(),
            engine: options.engine,
            boot_id: options.boot_id.clone(),
        }
    }

    /// Opens the engine by the rules of the module: `open` gets the engine's folder.
    pub(super) fn open<S: StateStore>(
        &self,
        mut open: impl FnMut(&Path) -> Result<S, StateStoreError>,
    ) -> Result<(S, Opened), StateStoreError> {
        fs::create_dir_all(&self.dir)?;
        let mut opened = verdict(self.found()?, self.engine, &self.boot_id);
        if opened == Opened::Kept {
            self.mark_running()?;
            opened = match open(&self.engine_dir()) {
                Ok(store) if store.applied().is_some() => return Ok((store, Opened::Kept)),
                Ok(_) => Opened::Rebuild(RebuildReason::NoMark),
                // Somebody has it: deleting it under them would be the real damage.
                Err(StateStoreError::Locked) => return Err(StateStoreError::Locked),
                Err(error) => Opened::Rebuild(RebuildReason::EngineFailed(sentence(&error))),
            };
        }
        durable::remove_tree(&self.engine_dir())?;
        self.mark_running()?;
        Ok((open(&self.engine_dir())?, opened))
    }

    /// Sets the clean-stop marker, after making all of the engine's files durable (sled's `flush` does not fsync).
    pub(super) fn mark_clean(&self) -> io::Result<()> {
        durable::sync_tree(&self.engine_dir())?;
        durable::replace_file(
            &self.marker(),
            format!("{} clean\n", engine_name(self.engine)).as_bytes(),
        )
    }

    /// Removes the marker, so that the next opening rebuilds whatever happens.
    pub(super) fn mark_doubtful(&self) -> io::Result<()> {
        match fs::remove_file(self.marker()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => durable::sync_dir(&self.dir),
        }
    }

    fn mark_running(&self) -> io::Result<()> {
        let text = format!("{} running {}\n", engine_name(self.engine), self.boot_id.0);
        durable::replace_file(&self.marker(), text.as_bytes())
    }

    fn found(&self) -> io::Result<Option<String>> {
        if !self.engine_dir().try_exists()? {
            return Ok(None);
        }
        match fs::read(self.marker()) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(String::new())),
            Err(error) => Err(error),
        }
    }

    fn engine_dir(&self) -> PathBuf {
        self.dir.join(ENGINE_DIR)
    }

    fn marker(&self) -> PathBuf {
        self.dir.join(MARKER_FILE)
    }
}

/// An error with its causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Whose store lies in a folder, by its marker; `None` if that does not say.
#[must_use]
pub fn engine_in(dir: &Path) -> Option<Engine> {
    let marker = fs::read_to_string(dir.join(MARKER_FILE)).ok()?;
    let named = marker.split_whitespace().next()?;
    [Engine::Sled, Engine::Fjall]
        .into_iter()
        .find(|engine| engine_name(*engine) == named)
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Sled => "sled",
        Engine::Fjall => "fjall",
    }
}

/// The table of the module: `found` is the marker's text (empty if there is none), or `None` without a store.
fn verdict(found: Option<String>, engine: Engine, boot_id: &BootId) -> Opened {
    let Some(marker) = found else {
        return Opened::Fresh;
    };
    let words: Vec<&str> = marker.split_whitespace().collect();
    match words.as_slice() {
        [name, ..] if *name != engine_name(engine) => Opened::Rebuild(RebuildReason::MarkerUnknown),
        [_, "clean"] => Opened::Kept,
        [_, "running", boot] if *boot == boot_id.0 => Opened::Kept,
        [_, "running", _] => Opened::Rebuild(RebuildReason::MachineStopped),
        _ => Opened::Rebuild(RebuildReason::MarkerUnknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Engine::{Fjall, Sled};
        let unknown = || Opened::Rebuild(RebuildReason::MarkerUnknown);
        let check = |found: Option<&str>, engine, expect| {
            let opened = verdict(
                found.map(str::to_owned),
                engine,
                &BootId::from_text("boot-2\n"),
            );
            assert_eq!(opened, expect, "{found:?} {engine:?}");
        };
        check(None, Sled, Opened::Fresh);
        check(Some(""), Sled, unknown());
        check(Some("sled clean\n"), Sled, Opened::Kept);
        check(Some("sled running boot-2\n"), Sled, Opened::Kept);
        check(
            Some("sled running boot-1\n"),
            Sled,
            Opened::Rebuild(RebuildReason::MachineStopped),
        );
        check(
            Some("fjall running boot-1\n"),
            Fjall,
            Opened::Rebuild(RebuildReason::MachineStopped),
        );
        check(Some("fjall running boot-2\n"), Fjall, Opened::Kept);
        check(Some("fjall clean\n"), Sled, unknown());
        check(Some("sled clean\n"), Fjall, unknown());
        check(Some("sled runn"), Sled, unknown());
        check(Some("sled clean boot-2 more\n"), Sled, unknown());
        check(Some("\u{fffd}\u{fffd}"), Sled, unknown());
    }

    #[test]
    fn the_machine_has_a_boot_id() {
        assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
        assert_ne!(BootId::current().unwrap(), BootId::from_text(""));
    }
}
