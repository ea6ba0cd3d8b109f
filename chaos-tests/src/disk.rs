//! A disk of a given size for one node, which can be filled and emptied, and whose power can be cut: inside an
//! [`enclave`](crate::enclave).

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
        let content = Content::of(folder)?;
        let size = format!("size={bytes}");
        let place = plain(folder)?;
        command("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", place])?;
        content.put(folder)?;
        Ok(SmallDisk {
            folder: folder.to_owned(),
        })
    }

    /// Free bytes.
    pub fn free(&self) -> Result<u64> {
        free(&self.folder)
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

/// What a folder has before a disk is mounted over it.
struct Content {
    own: Permissions,
    folders: Vec<(PathBuf, Permissions)>,
    files: Vec<(PathBuf, Vec<u8>, Permissions)>,
}

impl Content {
    fn of(folder: &Path) -> Result<Content> {
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
        let own = std::fs::metadata(folder)?.permissions();
        Ok(Content {
            own,
            folders,
            files,
        })
    }

    fn put(self, folder: &Path) -> Result<()> {
        std::fs::set_permissions(folder, self.own)?;
        for (path, permissions) in self.folders {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, permissions)?;
        }
        for (path, content, permissions) in self.files {
            std::fs::write(&path, content)?;
            std::fs::set_permissions(&path, permissions)?;
        }
        Ok(())
    }
}

fn plain(path: &Path) -> Result<&str> {
    path.to_str().context("test folders have plain names")
}

fn free(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// An ext4 of its own in a file, mounted over a folder: it forgets what was not synced when its power is cut.
#[derive(Debug)]
pub struct PowerDisk {
    folder: PathBuf,
    image: PathBuf,
}

impl PowerDisk {
    /// Makes one in `image` and mounts it over a folder, whose files and folders it keeps. The calling process must be in an
    /// enclave, as root of the machine: nobody else may use loop devices.
    pub fn over(folder: &Path, image: &Path, bytes: u64) -> Result<PowerDisk> {
        let content = Content::of(folder)?;
        std::fs::File::create(image)?.set_len(bytes)?;
        command("mkfs.ext4", ["-q", "-F", "-m", "0", plain(image)?])?;
        let disk = PowerDisk {
            folder: folder.to_owned(),
            image: image.to_owned(),
        };
        disk.mount()?;
        content.put(folder)?;
        // All of it is there before anything can be cut.
        command("sync", ["-f", plain(folder)?])?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let (image, folder) = (plain(&self.image)?, plain(&self.folder)?);
        command("mount", ["-o", "loop", image, folder])
            .map(drop)
            .context("power cuts need root, loop devices and ext4 in the kernel")
    }

    /// The power goes: what was not synced is lost, and nothing more is written or synced (EXT4_IOC_SHUTDOWN without a flush of
    /// the journal). Whoever uses the disk has to be killed next.
    pub fn cut(&self) -> Result<()> {
        command("xfs_io", ["-x", "-c", "shutdown", plain(&self.folder)?]).map(drop)
    }

    /// The power is back; nobody uses the disk.
    pub fn again(&self) -> Result<()> {
        command("umount", [plain(&self.folder)?])?;
        self.mount()
    }

    /// Takes all space but this.
    pub fn fill_to(&self, left: u64) -> Result<()> {
        let ballast = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(BALLAST))?;
        ballast.set_permissions(Permissions::from_mode(0o600))?;
        loop {
            let excess = free(&self.folder)?.saturating_sub(left);
            if excess == 0 {
                return Ok(());
            }
            let (flags, end) = (
                rustix::fs::FallocateFlags::empty(),
                ballast.metadata()?.len(),
            );
            match rustix::fs::fallocate(&ballast, flags, end, excess) {
                Ok(()) => {}
                // What others took meanwhile.
                Err(rustix::io::Errno::NOSPC) => return Ok(()),
                Err(error) => bail!("the ballast: {error}"),
            }
        }
    }

    /// Gives the space back.
    pub fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join(BALLAST))?)
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // An error means that it is not mounted.
        let _ = plain(&self.folder).and_then(|folder| command("umount", ["-l", folder]));
    }
}
