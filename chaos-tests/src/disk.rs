//! A disk of a given size for one node, which can be filled and emptied: inside an [`enclave`](crate::enclave).

use std::fs::{OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::enclave::command;

/// What fills the disk.
const BALLAST: &str = "ballast";

/// How much is written at once.
const CHUNK: usize = 64 * 1024;

/// A file system in memory over a folder.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it over a folder, whose files and folders it keeps. The calling process must be in an enclave.
    pub fn over(folder: &Path, bytes: u64) -> Result<SmallDisk> {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        let mut unread = vec![folder.to_owned()];
        while let Some(folder) = unread.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                let metadata = std::fs::metadata(&path)?;
                if metadata.is_dir() {
                    unread.push(path.clone());
                    folders.push((path, metadata.permissions()));
                } else {
                    let content = std::fs::read(&path)?;
                    files.push((path, content, metadata.permissions()));
                }
            }
        }
        let permissions = std::fs::metadata(folder)?.permissions();
        let place = folder.to_str().context("test folders have plain names")?;
        let size = format!("size={bytes}");
        command("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", place])?;
        std::fs::set_permissions(folder, permissions)?;
        for (path, permissions) in folders {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, permissions)?;
        }
        for (path, content, permissions) in files {
            std::fs::write(&path, content)?;
            std::fs::set_permissions(&path, permissions)?;
        }
        Ok(SmallDisk {
            folder: folder.to_owned(),
        })
    }

    /// Free bytes.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Writes until no more than this is free.
    pub fn fill_to(&self, free: u64) -> Result<()> {
        let mut ballast = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(BALLAST))?;
        ballast.set_permissions(Permissions::from_mode(0o600))?;
        let chunk = vec![0; CHUNK];
        while self.free()? > free {
            match ballast.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("the ballast: {error}"),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join(BALLAST))?)
    }
}
