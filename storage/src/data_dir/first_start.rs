//! First starts: what a node says of its folder when it begins with nothing, and what the others remember of it.
//!
//! A folder that is put back as it was before its first start has forgotten the votes and entries that its node has
//! promised, and nothing in it shows. So each folder gets an id of its own when its node begins, the node shows it to the
//! others before it votes, and they keep it: **of a node's folders only the first that was shown to them is admitted, for
//! ever.** Each keeps it on disk before it says yes, and a node asks so many ([`answers_needed`]) that any two folders of
//! one node were shown to one that remembers.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::{BEGUN_FILE, DataDir, DataDirError};
use crate::durable;

/// The folder of what is remembered of others.
const FIRST_STARTS_DIR: &str = "first-starts";

/// What a folder's mark says once it is admitted; its id follows, but not in one from before there were added members.
const ADMITTED: &str = "admitted";

/// What tells a node's folder from all others that it ever had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FolderId(pub [u8; 16]);

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderId({self})")
    }
}

impl FolderId {
    fn parse(text: &str) -> Option<FolderId> {
        let digits = text.as_bytes();
        let mut id = [0; 16];
        if digits.len() != 2 * id.len() {
            return None;
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(FolderId(id))
    }
}

/// How far a folder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Its node has promised nothing yet, and may not before the others have admitted this folder.
    Asking(FolderId),
    /// It has been admitted. Its id, if it is known.
    Admitted(Option<FolderId>),
}

/// How many of the other members must have admitted a folder: any two sets of so many have one in common.
#[must_use]
pub fn answers_needed(others: usize) -> usize {
    match others {
        0 => 0,
        _ => others / 2 + 1,
    }
}

impl DataDir {
    /// Log and archive have been made: from now on the folder is not opened without them. Gives how far the folder has come;
    /// `fresh` becomes its id, if it has none. To be told before the node promises anything.
    ///
    /// # Errors
    /// [`DataDirError::Io`], and [`DataDirError::DamagedMark`] if the mark does not read.
    pub fn begin(&self, fresh: FolderId) -> Result<Beginning, DataDirError> {
        let path = self.path.join(BEGUN_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => read_mark(&text).ok_or(DataDirError::DamagedMark { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::replace_file(&path, mark(fresh).as_bytes()).map_err(self.at())?;
                Ok(Beginning::Asking(fresh))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(DataDirError::DamagedMark { path })
            }
            Err(error) => Err(self.at()(error)),
        }
    }

    /// Enough others have admitted this folder, by this id. It is kept: members that are added later are shown it, too.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn admitted(&self, folder: FolderId) -> Result<(), DataDirError> {
        let mark = format!("{ADMITTED} {folder}\n");
        durable::replace_file(&self.path.join(BEGUN_FILE), mark.as_bytes()).map_err(self.at())
    }

    /// The id by which this folder was admitted; `None` if it was not yet, or before ids were kept.
    #[must_use]
    pub fn folder_id(&self) -> Option<FolderId> {
        let text = fs::read_to_string(self.path.join(BEGUN_FILE)).ok()?;
        match read_mark(&text)? {
            Beginning::Admitted(id) => id,
            Beginning::Asking(_) => None,
        }
    }

    /// Whether another node's folder is the first that this one hears of; if so, this is on disk when it returns.
    ///
    /// # Errors
    /// [`DataDirError::Io`]; [`DataDirError::DamagedMark`] if what is remembered does not read.
    pub fn admits(&self, node: u64, folder: FolderId) -> Result<bool, DataDirError> {
        // One look at a time: two folders of one node may ask at once.
        let _one = self.admitting.lock();
        let dir = self.path.join(FIRST_STARTS_DIR);
        let path = dir.join(node.to_string());
        match fs::read(&path) {
            Ok(bytes) => {
                let text = str::from_utf8(&bytes).unwrap_or_default();
                match text.strip_suffix('\n').and_then(FolderId::parse) {
                    Some(first) => Ok(first == folder),
                    None => Err(DataDirError::DamagedMark { path }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remember(&dir, &path, folder).map_err(self.at())?;
                Ok(true)
            }
            Err(error) => Err(self.at()(error)),
        }
    }

    fn at(&self) -> impl Fn(io::Error) -> DataDirError {
        let path = self.path.clone();
        move |source| DataDirError::Io {
            path: path.clone(),
            source,
        }
    }
}

fn remember(dir: &Path, path: &Path, folder: FolderId) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if let Some(parent) = dir.parent() {
        durable::sync_dir(parent)?;
    }
    durable::replace_file(path, format!("{folder}\n").as_bytes())
}

/// What is remembered of others in a folder and does not read.
pub(super) fn damaged_memories(folder: &Path) -> Vec<DataDirError> {
    let dir = folder.join(FIRST_STARTS_DIR);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(source) => return vec![DataDirError::Io { path: dir, source }],
        Ok(entries) => entries,
    };
    let mut damaged = Vec::new();
    for entry in entries.flatten() {
        // As of a node's start: others' files are none of its business.
        let of_node = entry.file_name().to_str().map(str::parse::<u64>);
        if !matches!(of_node, Some(Ok(_))) {
            continue;
        }
        let path = entry.path();
        let bytes = fs::read(&path).unwrap_or_default();
        let text = str::from_utf8(&bytes).unwrap_or_default();
        if text.strip_suffix('\n').and_then(FolderId::parse).is_none() {
            damaged.push(DataDirError::DamagedMark { path });
        }
    }
    damaged
}

fn mark(id: FolderId) -> String {
    format!("asking {id}\n")
}

pub(super) fn read_mark(text: &str) -> Option<Beginning> {
    // Folders from before there were first starts have an empty one.
    if text.is_empty() {
        return Some(Beginning::Admitted(None));
    }
    match text.strip_suffix('\n')?.split_once(' ') {
        None => (text.strip_suffix('\n') == Some(ADMITTED)).then_some(Beginning::Admitted(None)),
        Some(("asking", id)) => FolderId::parse(id).map(Beginning::Asking),
        Some((ADMITTED, id)) => FolderId::parse(id).map(|id| Beginning::Admitted(Some(id))),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: FolderId = FolderId([0x1a; 16]);
    const TWO: FolderId = FolderId([2; 16]);

    #[test]
    fn a_folder_asks_under_one_id_until_it_is_admitted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataDir::open(dir.path(), "pool", 7).unwrap();
        assert_eq!(folder.begin(ONE).unwrap(), Beginning::Asking(ONE));
        assert_eq!(folder.begin(TWO).unwrap(), Beginning::Asking(ONE));
        assert_eq!(folder.folder_id(), None);
        folder.admitted(ONE).unwrap();
        assert_eq!(folder.begin(TWO).unwrap(), Beginning::Admitted(Some(ONE)));
        assert_eq!(folder.folder_id(), Some(ONE));
    }

    #[test]
    fn a_node_is_admitted_with_one_folder_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataDir::open(dir.path(), "pool", 7).unwrap();
        assert!(folder.admits(1, ONE).unwrap());
        assert!(folder.admits(1, ONE).unwrap());
        assert!(!folder.admits(1, TWO).unwrap());
        assert!(folder.admits(2, TWO).unwrap());
        drop(folder);
        let folder = DataDir::open(dir.path(), "pool", 7).unwrap();
        assert!(!folder.admits(1, TWO).unwrap());
        assert!(folder.admits(1, ONE).unwrap());
        fs::write(dir.path().join(FIRST_STARTS_DIR).join("1"), "1a1a\n").unwrap();
        assert!(folder.admits(1, ONE).is_err());
    }

    #[test]
    fn any_two_folders_of_a_node_are_shown_to_one_that_remembers() {
        let check = |others, expect| assert_eq!(answers_needed(others), expect, "{others}");
        check(0, 0);
        check(1, 1);
        check(2, 2);
        check(3, 2);
        check(4, 3);
        check(6, 4);
        for others in 1..20 {
            assert!(2 * answers_needed(others) > others && answers_needed(others) <= others);
        }
    }

    #[test]
    fn a_mark_that_does_not_read_admits_nothing() {
        for text in [
            "asking",
            "asking 12\n",
            "x",
            "admitted",
            "admitted 12\n",
            "admitted \n",
            "admitted\n\n",
            " ",
            "asking 1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1g\n",
        ] {
            assert_eq!(read_mark(text), None, "{text:?}");
        }
        assert_eq!(read_mark(""), Some(Beginning::Admitted(None)));
        assert_eq!(read_mark("admitted\n"), Some(Beginning::Admitted(None)));
        assert_eq!(read_mark(&mark(ONE)), Some(Beginning::Asking(ONE)));
    }
}
