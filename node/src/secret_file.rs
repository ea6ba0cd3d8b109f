//! Files: made whole or not at all, replaced only on purpose, secrets for the owner's eyes only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// The owner.
    Owner,
    /// Everybody.
    All,
}

/// Makes a file that must not be there yet, and waits until it is on disk.
pub(crate) fn create(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Puts a file in the place of another, or of none: whoever looks sees the old one or the new one, whole.
pub(crate) fn replace(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", random_hex(4)));
    let part = path.with_file_name(name);
    let made = create(&part, text, readers).and_then(|()| fs::rename(&part, path));
    if made.is_err() {
        // What was half made is of no use; the failure is what the user must hear of.
        let _ = fs::remove_file(&part);
        return made;
    }
    sync_parent(path)
}

/// So many random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> String {
    (0..bytes)
        .map(|_| format!("{:02x}", rand::random::<u8>()))
        .collect()
}
