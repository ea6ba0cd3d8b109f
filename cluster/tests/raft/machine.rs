//! A machine for tests: keeps what it applied in memory, where the test can look, some of it in an archive too, and dumps it into
//! snapshot files.
//!
//! Payloads that begin with a word and a key change the archive: `put KEY …` adds a message, `note KEY …` an event, `trim KEY`
//! removes its events, `drop KEY` all of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::raft::{
    CommittedEntry, Machine, MachineError, SnapshotFile, SnapshotHome, mark_place,
};
use storage::archive::{Archive, ArchiveRow, KeyList, PartitionId, RowKind, key_list_path};
use storage::snapshot::{SnapshotHead, SnapshotReader, SnapshotWriter, adopt, latest};
use storage::state_store::{AppliedMark, Table};

/// What a machine has applied, in order, as (index, payload).
pub(crate) type Journal = Arc<Mutex<Vec<(u64, Bytes)>>>;

/// How far apart the first rows of two entries are.
const ROWS_PER_ENTRY: u64 = 4096;

pub(crate) struct TestMachine {
    journal: Journal,
    mark: Option<Bytes>,
    folder: PathBuf,
    group: u32,
    archive: Archive,
}

impl TestMachine {
    /// Starts from the newest snapshot in `folder`, or empty.
    pub(crate) fn open(
        folder: PathBuf,
        group: u32,
        archive: Archive,
        journal: Journal,
    ) -> TestMachine {
        std::fs::create_dir_all(&folder).unwrap();
        let mut machine = TestMachine {
            journal,
            mark: None,
            folder,
            group,
            archive,
        };
        if let Some(snapshot) = latest(&machine.folder, group).unwrap() {
            machine.load(&snapshot.path);
        }
        machine
    }

    fn load(&mut self, path: &Path) {
        let mut reader = SnapshotReader::open(path).unwrap();
        let mut journal = Vec::new();
        for row in reader.by_ref() {
            let row = row.unwrap();
            let index = u64::from_be_bytes(row.key.as_ref().try_into().unwrap());
            journal.push((index, row.value));
        }
        *self.journal.lock().unwrap() = journal;
        self.mark = Some(reader.snapshot().manifest.head.applied.0.clone());
    }

    fn partition(&self) -> PartitionId {
        PartitionId(self.group as u16)
    }

    fn archive(&self, index: u64, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        let mut words = text.split(' ');
        let (Some(word), Some(key)) = (words.next(), words.next()) else {
            return;
        };
        let seq = index * ROWS_PER_ENTRY;
        let put = |kind| {
            let row = ArchiveRow {
                key: Arc::from(key),
                kind,
                seq,
                time: index,
                peer: Some(Arc::from("peer@x")),
                record: Bytes::copy_from_slice(payload),
            };
            self.archive.append(self.partition(), &[row]).unwrap();
        };
        match word {
            "put" => put(RowKind::Message),
            "note" => put(RowKind::Event),
            "trim" => drop(
                self.archive
                    .trim_events(self.partition(), key, seq)
                    .unwrap(),
            ),
            "drop" => drop(self.archive.purge(self.partition(), key, seq).unwrap()),
            _ => {}
        }
    }
}

impl Machine for TestMachine {
    fn applied(&self) -> Option<Bytes> {
        self.mark.clone()
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>, mark: Bytes) -> Result<(), MachineError> {
        let before = self.mark.as_ref().map(|mark| mark_place(mark).unwrap().1);
        let first = entries.first().map(|entry| entry.index);
        if let (Some(before), Some(first)) = (before, first) {
            assert_eq!(
                first,
                before + 1,
                "a chunk starts right behind the one before"
            );
        }
        assert_eq!(mark_place(&mark).unwrap().1, entries.last().unwrap().index);
        for CommittedEntry { index, payload, .. } in entries {
            let Some(payload) = payload else { continue };
            self.archive(index, &payload);
            self.journal.lock().unwrap().push((index, payload));
        }
        self.mark = Some(mark);
        Ok(())
    }

    fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
        let failed = |error| MachineError::caused("no snapshot", error);
        self.archive.sync().unwrap();
        let head = SnapshotHead {
            group: self.group,
            index: mark_place(&mark)?.1,
            applied: AppliedMark(mark),
        };
        let mut writer = SnapshotWriter::create(&self.folder, head).map_err(failed)?;
        for (index, payload) in self.journal.lock().unwrap().iter() {
            writer
                .row(Table(0), &index.to_be_bytes(), payload)
                .map_err(failed)?;
        }
        let snapshot = writer.finish().map_err(failed)?;
        Ok(SnapshotFile {
            path: snapshot.path,
            id: "snapshot".to_owned(),
        })
    }

    fn snapshot(&self) -> Option<(Bytes, PathBuf)> {
        let snapshot = latest(&self.folder, self.group).unwrap()?;
        Some((snapshot.manifest.head.applied.0, snapshot.path))
    }

    fn snapshot_home(&self) -> Option<SnapshotHome> {
        Some(SnapshotHome {
            folder: self.folder.clone(),
            archive: Some((self.archive.clone(), self.partition())),
        })
    }

    fn install(&mut self, received: &Path) -> Result<(), MachineError> {
        let list = KeyList::open(&key_list_path(received), self.partition()).unwrap();
        self.archive.keep_listed(self.partition(), list).unwrap();
        self.archive.sync().unwrap();
        let snapshot = adopt(received, self.group)
            .map_err(|error| MachineError::caused("not adopted", error))?;
        self.load(&snapshot.path);
        Ok(())
    }
}
