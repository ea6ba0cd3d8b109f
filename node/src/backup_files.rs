//! The files of a backup: what they are called, the manifest that makes them one, and whether they are what it says.
//!
//! ```text
//! <folder>/
//!   incomplete             there while a backup is under way, or was cut short
//!   meta.snapshot          the meta group: operators, the audit log
//!   partition-NNN.snapshot the state of a partition at one index
//!   partition-NNN.rows     its archive at the same index
//!   partition-NNN.entries  its log from there to when all partitions had been captured
//!   manifest.json          written last: what it is of, and the length and SHA-256 of every file
//! ```
//!
//! Invariant: a folder without a whole manifest is no backup. The manifest gets its name when all that it names is on disk.
//! Only the owner may read any of it: accounts' credentials and all messages are in it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use web::report::backup::BackupPool;

use crate::exit::{Exit, Failure};
use crate::init::at;
use crate::secret_file::{Readers, create, replace};

const MANIFEST: &str = "manifest.json";
const INCOMPLETE: &str = "incomplete";

/// The version of the folder's arrangement.
const FORMAT: u32 = 1;

/// Longest manifest: 64 partitions need far less.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// The backup's name while it was made.
    pub(crate) id: String,
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) of: BackupPool,
    /// Meta first.
    pub(crate) groups: Vec<GroupFiles>,
}

/// The files of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupFiles {
    pub(crate) group: u32,
    /// The last entry in state and archive.
    pub(crate) index: u64,
    /// The last entry in the file of entries.
    pub(crate) upto: u64,
    pub(crate) files: Vec<FileEntry>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// The manifest with its own hash: a flipped digit of a key in it would show nowhere else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    sha256: String,
}

/// What a group has in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    State,
    Rows,
    Entries,
}

/// The name of a group's file.
pub(crate) fn name(group: u32, kind: Kind) -> String {
    match (group.checked_sub(1), kind) {
        (None, _) => "meta.snapshot".to_owned(),
        (Some(partition), Kind::State) => format!("partition-{partition:03}.snapshot"),
        (Some(partition), Kind::Rows) => format!("partition-{partition:03}.rows"),
        (Some(partition), Kind::Entries) => format!("partition-{partition:03}.entries"),
    }
}

/// The files that a group must have.
pub(crate) fn names(group: u32) -> Vec<String> {
    match group {
        0 => vec![name(0, Kind::State)],
        _ => [Kind::State, Kind::Rows, Kind::Entries]
            .map(|kind| name(group, kind))
            .to_vec(),
    }
}

/// A folder for a backup that begins. What an earlier try has left is removed; anything else is refused.
pub(crate) fn begin(dir: &Path) -> Result<(), Failure> {
    let refused = |why: &str| {
        let message = format!("{} {why}: choose another folder", dir.display());
        Err(Failure::new(Exit::CommandLine, message))
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| at(dir, &error))?;
    if dir.join(MANIFEST).exists() {
        return refused("holds a backup already");
    }
    let is_ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| {
            let stem = name.strip_suffix(".part").unwrap_or(name);
            let endings = ["snapshot", "rows", "entries"];
            let ending = stem.rsplit_once('.').map(|(_, ending)| ending);
            name == INCOMPLETE
                || stem.starts_with(MANIFEST)
                || (stem.starts_with("partition-") || stem.starts_with("meta."))
                    && ending.is_some_and(|ending| endings.contains(&ending))
        })
    };
    let mut left = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| at(dir, &error))? {
        left.push(entry.map_err(|error| at(dir, &error))?.path());
    }
    let was_begun = left.iter().any(|path| path.ends_with(INCOMPLETE));
    if !left.is_empty() && (!was_begun || !left.iter().all(|path| is_ours(path))) {
        return refused("is not empty");
    }
    // The mark goes last and comes first.
    for path in left.iter().filter(|path| !path.ends_with(INCOMPLETE)) {
        fs::remove_file(path).map_err(|error| at(path, &error))?;
    }
    if !was_begun {
        let mark = dir.join(INCOMPLETE);
        let text = "A backup is under way here, or was cut short. Nothing here can be restored.\n";
        create(&mark, text, Readers::Owner).map_err(|error| at(&mark, &error))?;
    }
    Ok(())
}

/// Makes a folder a backup: all of its files are on disk.
pub(crate) fn seal(dir: &Path, manifest: Manifest) -> Result<(), Failure> {
    let sealed = Sealed {
        sha256: hash_of(&manifest)?,
        manifest,
    };
    let text = serde_json::to_string_pretty(&sealed)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let path = dir.join(MANIFEST);
    sync(dir)?;
    replace(&path, &format!("{text}\n"), Readers::Owner).map_err(|error| at(&path, &error))?;
    let mark = dir.join(INCOMPLETE);
    fs::remove_file(&mark).map_err(|error| at(&mark, &error))?;
    sync(dir)
}

fn sync(dir: &Path) -> Result<(), Failure> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| at(dir, &error))
}

fn hash_of(manifest: &Manifest) -> Result<String, Failure> {
    let text =
        serde_json::to_vec(manifest).map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    Ok(hex(&Sha256::digest(text)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Length and hash of a file.
pub(crate) fn entry(dir: &Path, name: String) -> Result<FileEntry, Failure> {
    let path = dir.join(&name);
    let (bytes, sha256) = digest(&path).map_err(|error| at(&path, &error))?;
    Ok(FileEntry {
        name,
        bytes,
        sha256,
    })
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut chunk = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok((bytes, hex(&hasher.finalize())));
        }
        hasher.update(chunk.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

/// A backup whose manifest was read.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
}

impl Backup {
    /// Opens a folder; one that is incomplete or whose manifest is damaged is refused.
    pub(crate) fn open(dir: &Path) -> Result<Backup, Failure> {
        let refused = |why: String| Failure::new(Exit::Data, format!("{}: {why}", dir.display()));
        let path = dir.join(MANIFEST);
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file
                .take(MANIFEST_BYTES_MAX)
                .read_to_string(&mut text)
                .map_err(|error| refused(format!("its manifest does not read: {error}")))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = match dir.join(INCOMPLETE).exists() {
                    true => "this backup is incomplete: it was cut short, or is still under way",
                    false => "there is no backup here: no manifest.json",
                };
                return Err(refused(why.to_owned()));
            }
            Err(error) => return Err(at(&path, &error)),
        };
        let sealed: Sealed = serde_json::from_str(&text)
            .map_err(|error| refused(format!("its manifest is damaged: {error}")))?;
        if sealed.sha256 != hash_of(&sealed.manifest)? {
            return Err(refused(
                "its manifest is damaged: it is not what was written".to_owned(),
            ));
        }
        let manifest = sealed.manifest;
        if manifest.format != FORMAT {
            let format = manifest.format;
            return Err(refused(format!(
                "it has format {format}, and this program knows {FORMAT}: use the newer program"
            )));
        }
        let wanted: Vec<u32> = (0..=u32::from(manifest.of.partitions)).collect();
        let found: Vec<u32> = manifest.groups.iter().map(|files| files.group).collect();
        let has_all = |files: &GroupFiles| {
            let found: Vec<&String> = files.files.iter().map(|file| &file.name).collect();
            found == names(files.group).iter().collect::<Vec<_>>()
        };
        if wanted != found || !manifest.groups.iter().all(has_all) {
            return Err(refused("its manifest lacks groups or files".to_owned()));
        }
        Ok(Backup {
            dir: dir.to_owned(),
            manifest,
        })
    }

    /// The path of a group's file.
    pub(crate) fn path(&self, group: u32, kind: Kind) -> PathBuf {
        self.dir.join(name(group, kind))
    }

    /// Holds every file against the manifest.
    pub(crate) fn verify(&self, mut seen: impl FnMut(u64)) -> Result<(), Failure> {
        for file in self.manifest.groups.iter().flat_map(|group| &group.files) {
            let path = self.dir.join(&file.name);
            let refused = |why: &str| {
                let message = format!("{}: {why}: nothing was restored", path.display());
                Failure::new(Exit::Data, message)
            };
            let (bytes, sha256) = digest(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => refused("the file is missing"),
                _ => at(&path, &error),
            })?;
            if bytes != file.bytes {
                return Err(refused("the file has another length than it had"));
            }
            if sha256 != file.sha256 {
                return Err(refused("the file is damaged"));
            }
            seen(bytes);
        }
        Ok(())
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let files = self.manifest.groups.iter().flat_map(|group| &group.files);
        files.map(|file| file.bytes).sum()
    }
}

impl Manifest {
    /// Of a backup in this program's format.
    pub(crate) fn new(
        (id, began_ms, ended_ms): (String, u64, u64),
        of: BackupPool,
        groups: Vec<GroupFiles>,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            id,
            began_ms,
            ended_ms,
            of,
            groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(dir: &Path, partitions: u16) -> Manifest {
        let groups = (0..=u32::from(partitions)).map(|group| {
            let files = names(group).into_iter().map(|name| {
                fs::write(dir.join(&name), &name).unwrap();
                entry(dir, name).unwrap()
            });
            GroupFiles {
                group,
                index: 5,
                upto: 9,
                files: files.collect(),
            }
        });
        let of = BackupPool {
            pool: "p".into(),
            version: "0".into(),
            domain: "localhost".into(),
            rooms_domain: "conference.localhost".into(),
            partitions,
            contacts_max: 1,
            occupants_max: 2,
            rooms_owned_max: 3,
            id_key: "ab".repeat(16),
        };
        Manifest::new(("id".into(), 1, 2), of, groups.collect())
    }

    fn refusal(dir: &Path) -> String {
        let opened = Backup::open(dir).and_then(|backup| backup.verify(|_| {}));
        opened.unwrap_err().to_string()
    }

    #[test]
    fn a_backup_is_one_when_it_is_sealed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("deep/backup");
        assert!(refusal(&dir).contains("no manifest.json"));
        begin(&dir).unwrap();
        assert!(refusal(&dir).contains("incomplete"));
        let first = manifest(&dir, 2);
        // A second try begins anew.
        begin(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        let manifest = manifest(&dir, 2);
        assert_eq!(first, manifest);
        seal(&dir, manifest.clone()).unwrap();
        let backup = Backup::open(&dir).unwrap();
        backup.verify(|_| {}).unwrap();
        assert_eq!(backup.manifest, manifest);
        let refused = begin(&dir).unwrap_err().to_string();
        assert!(refused.contains("holds a backup already"), "{refused}");
    }

    #[test]
    fn nobody_elses_files_are_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letters"), "x").unwrap();
        assert!(
            begin(dir.path())
                .unwrap_err()
                .to_string()
                .contains("not empty")
        );
        fs::write(dir.path().join(INCOMPLETE), "x").unwrap();
        assert!(begin(dir.path()).is_err());
        assert!(dir.path().join("letters").exists());
    }

    #[test]
    fn damage_is_seen_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path()).unwrap();
        seal(dir.path(), manifest(dir.path(), 1)).unwrap();
        let manifest = fs::read(dir.path().join(MANIFEST)).unwrap();
        for at in 0..manifest.len() {
            let mut damaged = manifest.clone();
            damaged[at] ^= 1;
            fs::write(dir.path().join(MANIFEST), &damaged).unwrap();
            let opened = Backup::open(dir.path());
            // White space may turn into other white space.
            let is_blank = manifest[at].is_ascii_whitespace();
            assert!(opened.is_err() || is_blank, "byte {at}");
        }
        fs::write(dir.path().join(MANIFEST), &manifest).unwrap();
        for name in names(0).into_iter().chain(names(1)) {
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            let mut flipped = whole.clone();
            flipped[0] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert!(refusal(dir.path()).contains("is damaged"));
            fs::write(&path, &whole[1..]).unwrap();
            assert!(refusal(dir.path()).contains("another length"));
            fs::remove_file(&path).unwrap();
            assert!(refusal(dir.path()).contains("is missing"));
            fs::write(&path, whole).unwrap();
        }
        Backup::open(dir.path()).unwrap().verify(|_| {}).unwrap();
    }
}
