//! A machine for tests: keeps what it applied in memory, where the test can look, and dumps it into snapshot files.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::raft::{CommittedEntry, Machine, MachineError, SnapshotFile, mark_place};

/// What a machine has applied, in order, as (index, payload).
pub(crate) type Journal = Arc<Mutex<Vec<(u64, Bytes)>>>;

pub(crate) struct TestMachine {
    journal: Journal,
    mark: Option<Bytes>,
    snapshot: Option<(Bytes, PathBuf)>,
    folder: PathBuf,
}

impl TestMachine {
    /// Starts from the newest snapshot in `folder`, or empty.
    pub(crate) fn open(folder: PathBuf, journal: Journal) -> TestMachine {
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("snapshot");
        let mut machine = TestMachine {
            journal,
            mark: None,
            snapshot: None,
            folder,
        };
        if let Ok(bytes) = fs::read(&path) {
            let mut fields = read_fields(&bytes).into_iter();
            let mark = fields.next().unwrap();
            let mut entries = Vec::new();
            while let (Some(index), Some(payload)) = (fields.next(), fields.next()) {
                entries.push((
                    u64::from_be_bytes(index.as_ref().try_into().unwrap()),
                    payload,
                ));
            }
            *machine.journal.lock().unwrap() = entries;
            machine.mark = Some(mark.clone());
            machine.snapshot = Some((mark, path));
        }
        machine
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
        let mut journal = self.journal.lock().unwrap();
        journal.extend(
            entries
                .into_iter()
                .filter_map(|entry| entry.payload.map(|payload| (entry.index, payload))),
        );
        self.mark = Some(mark);
        Ok(())
    }

    fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
        let path = self.folder.join("snapshot");
        let mut bytes = Vec::new();
        write_field(&mut bytes, &mark);
        for (index, payload) in self.journal.lock().unwrap().iter() {
            write_field(&mut bytes, &index.to_be_bytes());
            write_field(&mut bytes, payload);
        }
        fs::write(&path, bytes).map_err(|error| MachineError::caused("no snapshot", error))?;
        self.snapshot = Some((mark, path.clone()));
        Ok(SnapshotFile {
            path,
            id: "snapshot".to_owned(),
        })
    }

    fn snapshot(&self) -> Option<(Bytes, PathBuf)> {
        self.snapshot.clone()
    }
}

fn write_field(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
    bytes.extend_from_slice(field);
}

fn read_fields(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut fields = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let (field, rest) = rest.split_at(u64::from_be_bytes(*length) as usize);
        fields.push(Bytes::copy_from_slice(field));
        bytes = rest;
    }
    fields
}
