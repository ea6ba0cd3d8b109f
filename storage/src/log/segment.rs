//! Segment files and the folder they live in.
//!
//! A segment is `<id>.segment`, zero-filled before its first use so that a write into it changes no file metadata; a freed
//! one is renamed to `<n>.spare` and used again under a new id and salt. The header stands twice at the front, in two
//! disk sectors. Everything that creates, renames or removes files of the log is in this file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::{Reader, Stamp};

/// Where a segment's first frame starts.
pub(super) const HEADER_BYTES: u64 = 1024;
const HEADER_COPY_AT: usize = 512;
const HEADER_LENGTH: usize = 48;
const MAGIC: u64 = u64::from_le_bytes(*b"MUSTERWL");
const VERSION: u32 = 1;
const ZEROES: usize = 1024 * 1024;

/// How the log reaches the disk. Replaced in tests that simulate power cuts and failing disks.
pub trait LogDisk: Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes what was written to `file` durable (`fdatasync`).
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Bytes that an unprivileged process may still write to the file system of `folder`.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl LogDisk for SystemDisk {}

/// What stands at the front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u32,
    pub(super) salt: u64,
    /// Number of the segment's first frame.
    pub(super) first_number: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Nonzero while a damaged log is rewritten: id of the rewrite's first segment.
    pub(super) rewrite: u32,
}

impl SegmentHeader {
    pub(super) fn stamp(&self) -> Stamp {
        Stamp::new(self.id, self.salt)
    }

    fn encode(&self) -> Vec<u8> {
        let mut one = Vec::with_capacity(HEADER_LENGTH);
        one.extend_from_slice(&MAGIC.to_le_bytes());
        one.extend_from_slice(&VERSION.to_le_bytes());
        one.extend_from_slice(&self.id.to_le_bytes());
        one.extend_from_slice(&self.salt.to_le_bytes());
        one.extend_from_slice(&self.first_number.to_le_bytes());
        one.extend_from_slice(&self.bytes.to_le_bytes());
        one.extend_from_slice(&self.rewrite.to_le_bytes());
        one.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&one);
        one.extend_from_slice(&crc.to_le_bytes());
        one.resize(HEADER_COPY_AT, 0);
        let mut both = one.clone();
        both.append(&mut one);
        both
    }

    /// The header in a segment's first bytes: the first copy, or the second where the first is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let one = |at: usize| {
            let bytes = bytes.get(at..at + HEADER_LENGTH + 4)?;
            let (fields, crc) = bytes.split_at_checked(HEADER_LENGTH)?;
            if crc32c::crc32c(fields).to_le_bytes() != *crc {
                return None;
            }
            let mut reader = Reader(fields);
            if (reader.u64()?, reader.u32()?) != (MAGIC, VERSION) {
                return None;
            }
            let id = reader.u32()?;
            let (salt, first_number, bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
            Some(Self {
                id,
                salt,
                first_number,
                bytes,
                rewrite: reader.u32()?,
            })
        };
        one(0).or_else(|| one(HEADER_COPY_AT))
    }
}

/// A segment in use.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: File,
    path: PathBuf,
}

impl Segment {
    pub(super) fn id(&self) -> u32 {
        self.header.id
    }

    pub(super) fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        self.file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }

    /// The whole file.
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        read_file(&self.file)
    }
}

fn read_file(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, 0)?;
    Ok(buffer)
}

/// A prepared file without a role.
#[derive(Debug)]
pub(super) struct Spare {
    file: File,
    path: PathBuf,
}

/// A `*.segment` file as found at start-up.
#[derive(Debug)]
pub(super) enum Found {
    Segment(Segment),
    /// Its header is unreadable, so nothing in it can be trusted.
    Headless {
        id: u32,
        path: PathBuf,
    },
}

impl Found {
    pub(super) fn id(&self) -> u32 {
        match self {
            Self::Segment(segment) => segment.id(),
            Self::Headless { id, .. } => *id,
        }
    }
}

/// The log's folder.
pub(super) struct SegmentDir {
    path: PathBuf,
    handle: File,
    lock: File,
    segment_bytes: u64,
    spare_names: AtomicU64,
    pub(super) disk: Arc<dyn LogDisk>,
}

impl SegmentDir {
    /// Opens (and creates) the folder. `None`: another process holds it.
    pub(super) fn open(
        path: &Path,
        segment_bytes: u64,
        disk: Arc<dyn LogDisk>,
    ) -> io::Result<Option<Self>> {
        if !path.is_dir() {
            std::fs::create_dir_all(path)?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let handle = File::open(path)?;
        Ok(Some(Self {
            path: path.into(),
            handle,
            lock,
            segment_bytes,
            spare_names: AtomicU64::new(0),
            disk,
        }))
    }

    /// Lets another process have the folder.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes(&self.path)
    }

    /// Segments by id, and spares. Half-made files are removed.
    pub(super) fn scan(&self) -> io::Result<(Vec<Found>, Vec<Spare>)> {
        let (mut found, mut spares) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let stem = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("segment") => {
                    let Ok(id) = u32::from_str_radix(stem, 16) else {
                        continue;
                    };
                    found.push(identify(id, open_file(&path)?, path)?);
                }
                Some("spare") => {
                    let file = open_file(&path)?;
                    if let Ok(number) = stem.parse::<u64>() {
                        self.spare_names
                            .fetch_max(number.saturating_add(1), Ordering::Relaxed);
                    }
                    spares.push(Spare { file, path });
                }
                Some("making") => std::fs::remove_file(&path)?,
                _ => {}
            }
        }
        let mut kept = Vec::new();
        for spare in spares {
            if spare.file.metadata()?.len() == self.segment_bytes {
                kept.push(spare);
            } else {
                std::fs::remove_file(&spare.path)?;
            }
        }
        let mut segments = Vec::new();
        for one in found {
            match one {
                // Its header was written for a new use but the renames to that use did not last: nothing was stored in it.
                (name, Found::Segment(segment)) if segment.id() != name => {
                    kept.extend(self.recycle(segment)?);
                }
                (_, one) => segments.push(one),
            }
        }
        segments.sort_by_key(Found::id);
        Ok((segments, kept))
    }

    /// Makes a zero-filled file.
    pub(super) fn make_spare(&self) -> io::Result<Spare> {
        let (making, path) = loop {
            let number = self.spare_names.fetch_add(1, Ordering::Relaxed);
            let path = self.path.join(format!("{number}.spare"));
            if !path.exists() {
                break (self.path.join(format!("{number}.making")), path);
            }
        };
        match self.fill(&making) {
            Ok(file) => {
                std::fs::rename(&making, &path)?;
                self.handle.sync_all()?;
                Ok(Spare { file, path })
            }
            Err(error) => {
                // A full disk must not stay full because of the attempt.
                if let Err(remove) = std::fs::remove_file(&making) {
                    tracing::warn!(path = %making.display(), %remove, "a half-made log segment could not be removed");
                }
                Err(error)
            }
        }
    }

    fn fill(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)?;
        match rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            self.segment_bytes,
        ) {
            // Some file systems lack it; the zeroes below take the space anyway.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeroes = vec![0; ZEROES];
        let mut offset = 0;
        while offset < self.segment_bytes {
            let bytes = (self.segment_bytes - offset).min(ZEROES as u64);
            file.write_all_at(
                &zeroes[..usize::try_from(bytes).map_err(io::Error::other)?],
                offset,
            )?;
            offset += bytes;
        }
        file.sync_all()?;
        Ok(file)
    }

    /// Gives a spare its role: header, name, all durable on return.
    pub(super) fn activate(
        &self,
        spare: Spare,
        id: u32,
        first_number: u64,
        rewrite: u32,
    ) -> io::Result<Segment> {
        let header = SegmentHeader {
            id,
            salt: random(),
            first_number,
            bytes: self.segment_bytes,
            rewrite,
        };
        self.disk.write_at(&spare.file, &header.encode(), 0)?;
        self.disk.sync(&spare.file)?;
        let path = self.path.join(format!("{id:08x}.segment"));
        std::fs::rename(&spare.path, &path)?;
        self.handle.sync_all()?;
        Ok(Segment {
            header,
            file: spare.file,
            path,
        })
    }

    /// Takes a segment's role away; durable on return, so that segments always disappear oldest first.
    pub(super) fn recycle(&self, segment: Segment) -> io::Result<Option<Spare>> {
        if segment.file.metadata()?.len() != self.segment_bytes {
            self.remove(&segment.path)?;
            return Ok(None);
        }
        let number = self.spare_names.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{number}.spare"));
        std::fs::rename(&segment.path, &path)?;
        self.handle.sync_all()?;
        Ok(Some(Spare {
            file: segment.file,
            path,
        }))
    }

    pub(super) fn remove_spare(&self, spare: &Spare) -> io::Result<()> {
        self.remove(&spare.path)
    }

    pub(super) fn remove_headless(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)?;
        self.handle.sync_all()
    }
}

fn identify(id: u32, file: File, path: PathBuf) -> io::Result<(u32, Found)> {
    let mut front = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(&file, HEADER_BYTES), &mut front)?;
    Ok(match SegmentHeader::decode(&front) {
        Some(header) => (id, Found::Segment(Segment { header, file, path })),
        None => (id, Found::Headless { id, path }),
    })
}

/// The segments of a folder in which nothing is to be changed, by id.
pub(super) fn list_segments(dir: &Path) -> io::Result<Vec<Found>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "segment") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let Some(id) = stem.and_then(|stem| u32::from_str_radix(stem, 16).ok()) else {
            continue;
        };
        match identify(id, File::open(&path)?, path)? {
            // As in `SegmentDir::scan`: its new use never began.
            (name, Found::Segment(segment)) if segment.id() != name => {}
            (_, one) => segments.push(one),
        }
    }
    segments.sort_by_key(Found::id);
    Ok(segments)
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A salt. std seeds its hash maps from the system's random source, which is all that is needed here.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::golden::Layout;

    #[test]
    fn either_header_copy_is_enough() {
        let header = SegmentHeader {
            id: 3,
            salt: 77,
            first_number: 9,
            bytes: 4096,
            rewrite: 0,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, HEADER_BYTES);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&damaged), Some(header), "byte {at}");
        }
        let mut both = bytes;
        both[9] ^= 1;
        both[HEADER_COPY_AT + 20] ^= 1;
        assert_eq!(SegmentHeader::decode(&both), None);
        assert_eq!(SegmentHeader::decode(&[]), None);
    }

    #[test]
    fn golden_bytes_of_the_header() {
        let header = SegmentHeader {
            id: 0x0102_0304,
            salt: 0x1112_1314_1516_1718,
            first_number: 0x2122_2324_2526_2728,
            bytes: 64 << 20,
            rewrite: 0x3132_3334,
        };
        // The line holds one copy; what is around the two of them is zeroes.
        let front = |copy: &[u8]| {
            let mut front = vec![0; usize::try_from(HEADER_BYTES).unwrap()];
            for at in [0, 512] {
                front[at..at + copy.len()].copy_from_slice(copy);
            }
            front
        };
        let written = header.encode();
        let copy = &written[..52];
        assert_eq!(front(copy), written);
        let layout = Layout {
            name: "segment-header",
            version: u8::try_from(VERSION).unwrap(),
            written: copy,
        };
        crate::golden_layout!("../../tests/goldens/log.txt", layout, &header, |copy| {
            SegmentHeader::decode(&front(&copy))
        });
    }

    #[test]
    fn a_spare_keeps_its_bytes_but_not_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let dir = SegmentDir::open(folder.path(), 8192, Arc::new(SystemDisk))
            .unwrap()
            .unwrap();
        let spare = dir.make_spare().unwrap();
        let segment = dir.activate(spare, 1, 0, 0).unwrap();
        let salt = segment.header.salt;
        assert!(
            SegmentDir::open(folder.path(), 8192, Arc::new(SystemDisk))
                .unwrap()
                .is_none(),
            "locked"
        );
        let spare = dir.recycle(segment).unwrap().unwrap();
        let segment = dir.activate(spare, 2, 5, 0).unwrap();
        assert_ne!(segment.header.salt, salt);
        let (found, spares) = dir.scan().unwrap();
        assert_eq!(found.iter().map(Found::id).collect::<Vec<_>>(), [2]);
        assert!(spares.is_empty());
    }
}
