//! The machine a group replicates, and its adapter to openraft.
//!
//! ```text
//!  log ──► entries, in log order ──► Machine::apply(chunk, mark) ──► answers to submitters
//!                                    Machine::write_snapshot(mark)
//!  another node's snapshot ─────────► Machine::install(file)
//! ```
//!
//! A machine is synchronous and is called by one caller at a time. What may wait for a disk is done away from the runtime's
//! own work ([`away`]); that costs a change of threads, so a chunk that only touches memory is applied where it is
//! ([`Machine::may_block`]). With every chunk it gets a mark, bytes that it keeps atomically with its state and gives back at
//! the next start: how far it is, and the members as of there.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::{EntryPayload, OptionalSend, SnapshotMeta};
use storage::archive::{Archive, PartitionId};
use storage::codec::{decode, encode};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::error::MachineError;
use super::failure::{OnFailure, sentence};
use super::record::MarkRecord;
use super::type_config::{self, LogId, StoredMembership, TypeConfig};
use crate::node_id::Group;

/// One committed entry.
#[derive(Clone, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its place in the group's log.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// What was submitted; `None` for Raft's own entries, which take a place and change nothing.
    pub payload: Option<Bytes>,
}

// Payloads hold messages: they are never printed.
impl std::fmt::Debug for CommittedEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.payload.as_ref().map(Bytes::len);
        write!(
            f,
            "CommittedEntry({}, term {}, payload bytes {bytes:?})",
            self.index, self.term
        )
    }
}

/// A snapshot on this node's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name among the snapshots of the group.
    pub id: String,
}

/// Where a group's snapshots lie, and what else a replica is made of: all that is needed to send it to another node, and to
/// receive it.
#[derive(Clone)]
pub struct SnapshotHome {
    /// The folder of the snapshots.
    pub folder: PathBuf,
    /// The archive and the group's part of it, if it has one.
    pub archive: Option<(Archive, PartitionId)>,
}

/// What a group replicates. An error from any method stops the group on this node.
pub trait Machine: Send + 'static {
    /// The mark of the last chunk that was applied, or of the snapshot the machine was rebuilt from; `None` if it is
    /// empty. Never older than the mark of [`Machine::snapshot`].
    fn applied(&self) -> Option<Bytes>;

    /// Applies entries in log order and keeps the mark with the state, atomically. The next chunk starts right behind
    /// the last entry; after a restart it starts behind [`Machine::applied`].
    fn apply(&mut self, entries: Vec<CommittedEntry>, mark: Bytes) -> Result<(), MachineError>;

    /// Whether applying so many entries of so many bytes together may wait for a disk or take milliseconds.
    fn may_block(&self, _entries: usize, _bytes: usize) -> bool {
        true
    }

    /// Writes the state as it is, with the mark, and returns when it is on disk for good. The log up to there may be
    /// purged after that.
    fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError>;

    /// The newest snapshot on disk, with its mark.
    fn snapshot(&self) -> Option<(Bytes, PathBuf)>;

    /// Where the snapshots lie, if they can be sent to other nodes and received from them.
    fn snapshot_home(&self) -> Option<SnapshotHome> {
        None
    }

    /// Takes the place of the state by a received snapshot, which is whole and on disk for good
    /// ([`storage::snapshot::SnapshotReceiver`]), with the rows of the archive that belong to it. Afterwards
    /// [`Machine::applied`] is its mark. A crash at any point leaves the state as it was, or the snapshot.
    fn install(&mut self, _received: &Path) -> Result<(), MachineError> {
        Err(MachineError::new("this machine takes no snapshots"))
    }
}

/// The place in the log a mark stands for, as (term, index).
///
/// # Errors
/// If the bytes are no mark.
pub fn mark_place(mark: &[u8]) -> Result<(u64, u64), MachineError> {
    let record = read_mark(mark)?;
    Ok((record.applied.term, record.applied.index))
}

/// The mark of a place in the log, for tests: without members.
#[cfg(test)]
pub(crate) fn mark_of(term: u64, index: u64) -> Bytes {
    let applied = LogId::from(super::record::LogIdRecord { term, index });
    encode_mark(&applied, &StoredMembership::default()).expect("a mark is small")
}

pub(crate) fn read_mark(mark: &[u8]) -> Result<MarkRecord, MachineError> {
    decode(mark).map_err(|error| MachineError::caused("a machine's mark does not read", error))
}

/// Does what may wait for a disk without holding up the other tasks of a runtime's thread.
pub fn away<T>(work: impl FnOnce() -> T) -> T {
    let shares_thread = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
    if Handle::try_current().is_ok_and(shares_thread) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Entries and payload bytes given to a machine at once.
const CHUNK_ENTRIES: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// A machine as openraft's state machine.
pub(crate) struct Replica {
    group: Group,
    on_failure: OnFailure,
    /// Never contended: openraft wants its state machines `Sync`, but calls them one at a time.
    machine: Mutex<Box<dyn Machine>>,
    /// Lives as long as the machine: dropped after it.
    alive: Arc<()>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Replica {
    /// Takes over a machine where its mark says it is. The log, which is purged up to `purged`, must go on behind that.
    pub(crate) fn new(
        group: Group,
        machine: Box<dyn Machine>,
        purged: Option<LogId>,
        on_failure: OnFailure,
    ) -> Result<Replica, MachineError> {
        let (applied, membership) = match machine.applied() {
            Some(mark) => {
                let (applied, membership) = type_config::unmark(&read_mark(&mark)?);
                (Some(applied), membership)
            }
            None => (None, StoredMembership::default()),
        };
        if let Some((mark, path)) = machine.snapshot() {
            let (snapshot, _) = type_config::unmark(&read_mark(&mark)?);
            if Some(snapshot) > applied {
                let path = path.display();
                return Err(MachineError::new(format!(
                    "the state is older than its snapshot {path}: rebuild it first"
                )));
            }
        }
        if purged > applied {
            let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
            return Err(MachineError::new(format!(
                "the state stands at entry {}, no whole snapshot is newer, and the log only begins behind entry {}: what \
                 lies between is lost on this node's disk",
                index(applied),
                index(purged)
            )));
        }
        Ok(Replica {
            group,
            on_failure,
            machine: Mutex::new(machine),
            alive: Arc::default(),
            applied,
            membership,
        })
    }

    /// Makes good that the state may be ahead of the log, whose last entry is `last`: what is on the disks of a quorum is applied here
    /// before it is on this one, and a process that is killed takes along what waited for its fdatasync. openraft then begins the log
    /// behind the state; so that the state can be rebuilt all the same, a snapshot must stand there first.
    pub(crate) fn cover(&mut self, last: Option<LogId>) -> io::Result<()> {
        if self.applied <= last {
            return Ok(());
        }
        let snapshot = self.machine().snapshot();
        let read = |(mark, _): (Bytes, PathBuf)| read_mark(&mark);
        let record = snapshot.map(read).transpose().map_err(io::Error::other)?;
        let stands = record.map(|record| type_config::unmark(&record).0);
        if stands < self.applied {
            tracing::info!(group = %self.group, "the state is ahead of the log: a snapshot of it is made");
            self.write_snapshot()?;
        }
        Ok(())
    }

    /// Alive as long as the machine is.
    pub(crate) fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.machine
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
    }

    fn write_snapshot(&mut self) -> io::Result<Written> {
        let applied = self
            .applied
            .ok_or_else(|| io::Error::other("nothing is applied yet"))?;
        let mark = encode_mark(&applied, &self.membership)?;
        let machine = self.machine();
        let written = away(|| machine.write_snapshot(mark));
        let file = written.map_err(|error| self.failed(error))?;
        tracing::info!(index = applied.index, id = %file.id, "snapshot written");
        let meta = SnapshotMeta {
            last_log_id: Some(applied),
            last_membership: self.membership.clone(),
        };
        Ok(Snapshot {
            meta,
            snapshot: file.path,
        })
    }

    /// A machine that failed has no way back. Told at once: nobody shall see the group half alive.
    fn failed(&self, error: MachineError) -> io::Error {
        self.on_failure.tell(self.group, &sentence(&error));
        io::Error::other(error)
    }

    fn apply_chunk(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        let Some(applied) = chunk.last else {
            return Ok(());
        };
        if let Some(membership) = chunk.membership.take() {
            self.membership = membership;
        }
        let mark = encode_mark(&applied, &self.membership)?;
        let entries = std::mem::take(&mut chunk.entries);
        let bytes = chunk.bytes;
        let machine = self.machine();
        let may_block = machine.may_block(entries.len(), bytes);
        // A panic is a failure like others: the worker would die in silence, and the group half live on.
        let apply = || {
            catch_unwind(AssertUnwindSafe(|| machine.apply(entries, mark)))
                .unwrap_or_else(|_| Err(MachineError::new("the machine panicked")))
        };
        let done = if may_block { away(apply) } else { apply() };
        done.map_err(|error| self.failed(error))?;
        self.applied = Some(applied);
        for responder in chunk.responders.drain(..) {
            responder.send(());
        }
        *chunk = Chunk::default();
        Ok(())
    }
}

fn encode_mark(applied: &LogId, membership: &StoredMembership) -> io::Result<Bytes> {
    encode(&type_config::mark(applied, membership))
        .map(Bytes::from)
        .map_err(io::Error::other)
}

/// Entries gathered for one call of the machine.
#[derive(Default)]
struct Chunk {
    entries: Vec<CommittedEntry>,
    bytes: usize,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
    responders: Vec<ApplyResponder<TypeConfig>>,
}

impl Chunk {
    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        let id = entry.log_id;
        let payload = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(command) => Some(command.0),
            EntryPayload::Membership(membership) => {
                self.membership = Some(StoredMembership::new(Some(id), membership));
                None
            }
        };
        self.bytes += payload.as_ref().map_or(0, Bytes::len);
        self.entries.push(CommittedEntry {
            index: id.index,
            term: id.leader_id.term,
            payload,
        });
        self.last = Some(id);
        self.responders.extend(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= CHUNK_ENTRIES || self.bytes >= CHUNK_BYTES
    }
}

impl RaftStateMachine<TypeConfig> for Replica {
    type SnapshotData = PathBuf;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Chunk::default();
        while let Some(next) = entries.next().await {
            chunk.push(next?);
            if chunk.is_full() {
                self.apply_chunk(&mut chunk)?;
            }
        }
        self.apply_chunk(&mut chunk)
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        match self.applied {
            None if !force => None,
            _ => Some(self.get_snapshot_builder().await),
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            written: Some(self.write_snapshot()),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::alias::SnapshotMetaOf<TypeConfig>,
        snapshot: PathBuf,
    ) -> Result<(), io::Error> {
        let machine = self.machine();
        // A panic is a failure like others.
        let install = || {
            catch_unwind(AssertUnwindSafe(|| machine.install(&snapshot)))
                .unwrap_or_else(|_| Err(MachineError::new("the machine panicked")))
        };
        away(install).map_err(|error| self.failed(error))?;
        let mark = self.machine().applied().unwrap_or_default();
        let (applied, membership) =
            type_config::unmark(&read_mark(&mark).map_err(|error| self.failed(error))?);
        if Some(applied) != meta.last_log_id {
            let other = MachineError::new("the installed snapshot is not the one that was offered");
            return Err(self.failed(other));
        }
        (self.applied, self.membership) = (Some(applied), membership);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Written>, io::Error> {
        let Some((mark, snapshot)) = self.machine().snapshot() else {
            // The log is purged, so there was one: it is damaged or gone. The state is another.
            return match self.applied {
                Some(_) => self.write_snapshot().map(Some),
                None => Ok(None),
            };
        };
        let (last, last_membership) =
            type_config::unmark(&read_mark(&mark).map_err(io::Error::other)?);
        Ok(Some(Snapshot {
            meta: SnapshotMeta {
                last_log_id: Some(last),
                last_membership,
            },
            snapshot,
        }))
    }
}

/// Hands over the snapshot that was written when the builder was asked for: openraft's worker does that between two
/// chunks, so the dump, its mark and what openraft counts as applied are the same place.
pub(crate) struct Builder {
    written: Option<io::Result<Written>>,
}

type Written = openraft::alias::SnapshotOf<TypeConfig, PathBuf>;

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = PathBuf;

    async fn build_snapshot(&mut self) -> Result<Written, io::Error> {
        self.written
            .take()
            .unwrap_or_else(|| Err(io::Error::other("a builder gives one snapshot")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LogIdRecord;
    use super::*;

    /// A machine that stands somewhere and has a snapshot, or not.
    #[derive(Default)]
    struct Standing {
        applied: Option<u64>,
        snapshot: Option<u64>,
        written: Arc<Mutex<Vec<Bytes>>>,
    }

    impl Machine for Standing {
        fn applied(&self) -> Option<Bytes> {
            self.applied.map(|index| mark_of(1, index))
        }

        fn apply(&mut self, _: Vec<CommittedEntry>, _: Bytes) -> Result<(), MachineError> {
            let cause = io::Error::other("the disk");
            Err(MachineError::caused("nothing is applied here", cause))
        }

        fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
            self.written.lock().unwrap().push(mark);
            Ok(SnapshotFile {
                path: PathBuf::from("snapshot"),
                id: "written".to_owned(),
            })
        }

        fn snapshot(&self) -> Option<(Bytes, PathBuf)> {
            self.snapshot
                .map(|index| (mark_of(1, index), PathBuf::from("snapshot")))
        }
    }

    /// Without the snapshot the state could not be rebuilt: the log begins behind it.
    #[test]
    fn a_state_ahead_of_the_log_gets_a_snapshot() {
        let check = |applied, snapshot, last: Option<u64>, expect: Option<u64>| {
            let written = Arc::default();
            let machine = Box::new(Standing {
                applied,
                snapshot,
                written: Arc::clone(&written),
            });
            let mut replica = Replica::new(Group(3), machine, None, OnFailure::default()).unwrap();
            let last = last.map(|index| LogId::from(LogIdRecord { term: 1, index }));
            replica.cover(last).unwrap();
            let expect: Vec<_> = expect.map(|index| mark_of(1, index)).into_iter().collect();
            assert_eq!(*written.lock().unwrap(), expect, "{applied:?} {snapshot:?}");
        };
        check(None, None, None, None);
        check(Some(7), None, Some(7), None);
        check(Some(7), Some(3), Some(9), None);
        check(Some(7), Some(3), Some(6), Some(7));
        check(Some(7), None, Some(6), Some(7));
        check(Some(7), None, None, Some(7));
        check(Some(7), Some(7), Some(6), None);
    }

    /// It used to leave a dead group behind in a process that lived on.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_machine_is_told_before_anything_else_happens() {
        let told = std::sync::Arc::new(Mutex::new(Vec::new()));
        let telling = told.clone();
        let on_failure = OnFailure::new(move |group, reason| {
            telling.lock().unwrap().push((group, reason.to_owned()));
        });
        let machine = Box::new(Standing {
            applied: None,
            ..Standing::default()
        });
        let mut replica = Replica::new(Group(3), machine, None, on_failure).unwrap();
        let mut chunk = Chunk {
            last: Some(LogId::from(LogIdRecord { term: 1, index: 1 })),
            ..Chunk::default()
        };
        let failed = tokio::spawn(async move { replica.apply_chunk(&mut chunk).is_err() });
        assert!(failed.await.unwrap());
        let told = told.lock().unwrap();
        assert_eq!(
            *told,
            [(Group(3), "nothing is applied here: the disk".to_owned())]
        );
    }

    /// A machine is taken over only where the log goes on behind it.
    #[test]
    fn the_log_must_go_on_behind_the_state() {
        let check = |applied, snapshot, purged: Option<u64>, expect: Option<&str>| {
            let purged = purged.map(|index| LogId::from(LogIdRecord { term: 1, index }));
            let machine = Box::new(Standing {
                applied,
                snapshot,
                ..Standing::default()
            });
            let replica = Replica::new(Group(1), machine, purged, OnFailure::default());
            let refused = replica.err().map(|error| error.what);
            let said = refused.as_deref().unwrap_or_default();
            assert!(said.contains(expect.unwrap_or_default()), "{said}");
            assert_eq!(
                refused.is_some(),
                expect.is_some(),
                "{applied:?} {snapshot:?} {purged:?}"
            );
        };
        check(None, None, None, None);
        check(Some(7), None, None, None);
        check(Some(7), Some(7), Some(7), None);
        check(Some(9), Some(7), Some(7), None);
        check(Some(7), None, Some(7), None);
        check(Some(6), None, Some(5), None);
        check(None, None, Some(0), Some("begins behind entry 0"));
        check(Some(6), None, Some(7), Some("begins behind entry 7"));
        check(Some(6), Some(7), Some(7), Some("older than its snapshot"));
        check(None, Some(7), None, Some("older than its snapshot"));
    }
}
