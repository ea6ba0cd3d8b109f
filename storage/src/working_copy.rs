//! A copy of an engine's folder, for who only wants to look: engines change their files when they are opened.
//!
//! What an engine never changes once it is written is linked instead of copied: the tables of an LSM tree, nearly all of its
//! bytes.

use std::fs;
use std::io;
use std::path::Path;

/// Folders whose files are never changed, only removed.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

/// Copies a folder to a place where there is nothing yet.
///
/// # Errors
/// Those of the disk; what was copied stays.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    let from = fs::canonicalize(from)?;
    let mut folders = vec![(from, to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        fs::create_dir_all(&to)?;
        let linked = from
            .file_name()
            .is_some_and(|name| WRITTEN_ONCE.iter().any(|once| name == *once));
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (path, place) = (entry.path(), to.join(entry.file_name()));
            if entry.file_type()?.is_dir() {
                folders.push((path, place));
            } else if linked {
                std::os::unix::fs::symlink(path, place)?;
            } else {
                fs::copy(path, place)?;
            }
        }
    }
    Ok(())
}

/// Removes a copy.
///
/// # Errors
/// Those of the disk.
pub fn remove(copy: &Path) -> io::Result<()> {
    fs::remove_dir_all(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Archive, ArchiveOptions, ArchiveRow, PartitionId, RowKind};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    /// Every file and its bytes.
    fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn a_copy_is_read_and_the_folder_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let options = ArchiveOptions {
            // So small that there are tables.
            memtable_bytes: 64 << 10,
            ..ArchiveOptions::default()
        };
        let row = |seq| ArchiveRow {
            key: "romeo@montague.lit".into(),
            kind: RowKind::Message,
            seq,
            time: seq,
            peer: None,
            record: vec![7; 1000].into(),
        };
        let archive = Archive::open(&from, &options).unwrap();
        for seq in 1..=1000 {
            archive.append(PartitionId(1), &[row(seq)]).unwrap();
        }
        archive.sync().unwrap();
        drop(archive);
        let before = files(&from);
        copy_folder(&from, &to).unwrap();
        let archive = Archive::open(&to, &options).unwrap();
        for seq in 1001..=2000 {
            archive.append(PartitionId(1), &[row(seq)]).unwrap();
        }
        archive.delete_key(PartitionId(1), "nobody").unwrap();
        let rows = archive.view().rows(PartitionId(1), None, 5000, usize::MAX);
        assert_eq!(rows.unwrap().len(), 2000);
        drop(archive);
        assert!(files(&from) == before, "the original has changed");
    }
}
