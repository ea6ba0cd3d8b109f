//! The version that the pool was at as far as this node has heard: what a build must support to open the folder.
//!
//! Written before the node writes anything of that version, and looked at before log and stores are opened. So a build
//! that could not read what is in them says so, whatever state they are in.

use std::fs;
use std::io;
use std::path::Path;

use super::{DataDir, DataDirError};
use crate::durable;

const FILE: &str = "pool-version";

/// The version of a pool that nobody has raised.
const FIRST: u16 = 1;

impl DataDir {
    /// The version noted last; 1 if none was.
    ///
    /// # Errors
    /// [`DataDirError::Io`], and [`DataDirError::DamagedMark`] if it does not read.
    pub fn pool_version(&self) -> Result<u16, DataDirError> {
        pool_version_of(&self.path)
    }

    /// Notes a version; it is on disk when this returns.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn note_pool_version(&self, version: u16) -> Result<(), DataDirError> {
        let text = format!("version {version}\n");
        durable::replace_file(&self.path.join(FILE), text.as_bytes()).map_err(|source| {
            DataDirError::Io {
                path: self.path.clone(),
                source,
            }
        })
    }
}

/// [`DataDir::pool_version`] of a folder that is not opened.
///
/// # Errors
/// As there.
pub fn pool_version_of(path: &Path) -> Result<u16, DataDirError> {
    let file = path.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => read(&text).ok_or(DataDirError::DamagedMark { path: file }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FIRST),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(DataDirError::DamagedMark { path: file })
        }
        Err(source) => Err(DataDirError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read(text: &str) -> Option<u16> {
    let version = text.strip_prefix("version ")?.strip_suffix('\n')?;
    version.parse().ok().filter(|version| *version >= FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataDir::open(dir.path(), "pool", 7).unwrap();
        assert_eq!(folder.pool_version().unwrap(), 1);
        folder.note_pool_version(2).unwrap();
        drop(folder);
        assert_eq!(pool_version_of(dir.path()).unwrap(), 2);
        let folder = DataDir::open(dir.path(), "pool", 7).unwrap();
        assert_eq!(folder.pool_version().unwrap(), 2);
        fs::write(dir.path().join(FILE), [0xff]).unwrap();
        assert!(folder.pool_version().is_err());
    }

    #[test]
    fn what_does_not_read_is_no_version() {
        for text in [
            "",
            "2",
            "version 2",
            "version 0\n",
            "version x\n",
            "version 70000\n",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(read("version 12\n"), Some(12));
    }
}
