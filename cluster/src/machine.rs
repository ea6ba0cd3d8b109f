//! A partition's replica: the state, its archive and its store, moved forward by the log.
//!
//! ```text
//!  committed entries ─► messaging::apply ─► rows of the archive (fjall), first
//!                                        ─► changed rows of the state ─► checkpoint (sled), with the applied mark
//!                                        ─► effects ─► the owner's actor, if this node is the owner
//! ```
//!
//! Invariants: an archive row is written before the state shows that it exists; the state store never holds a mark that
//! its rows don't match; what the state store lacks is in the log. Readers share the state under a lock that is never
//! held over anything slow but the writing of a chunk's archive rows.
//!
//! A chunk that fails half-way leaves a state in memory that is ahead of its mark and of its archive. It is never shown
//! (the lock is kept for good), never stored and never dumped: with it, the next start would take the chunk's commands for
//! done and leave a hole in the archive. The process is to end then; the next one starts from the store and the log.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use messaging::apply::{Surroundings, apply};
use messaging::archive::{ArchiveIds, ArchiveRow};
use messaging::command::Entry;
use messaging::effect::Effect;
use messaging::state::{PartitionRecord, State};
use storage::archive::{Archive, ArchiveRow as StoredArchiveRow, KeyList, RowKind, key_list_path};
use storage::snapshot::{SnapshotHead, SnapshotWriter};
use storage::state_store::{AppliedMark, StateBatch, StateStore, Table};

use crate::effect_queue::{EffectQueue, OwnerNews};
use crate::node_id::{Epoch, Group, NodeId};
use crate::raft::{
    CommittedEntry, Machine, MachineError, SnapshotFile, SnapshotHome, away, mark_place,
};
use crate::rebuild;
use crate::recent_effects::{RecentEffects, Untold};
use crate::records::{StateRows, decode_entry, encode_archive_row, version_of_entry};
use crate::version::VersionRange;

/// What readers share with the machine.
pub struct Replica {
    /// Partition, partition table and the pool's constants.
    pub surroundings: Surroundings,
    /// The archive of the node.
    pub archive: Archive,
    /// Opaque ids of archive rows.
    pub ids: ArchiveIds,
    /// News for the owner's actor.
    pub news: EffectQueue,
    state: RwLock<State>,
    recent: Mutex<RecentEffects>,
    applied_index: AtomicU64,
    /// The version that the partition is at, by its log.
    version: AtomicU32,
    /// The archive may have rows of entries up to here: those that came with a snapshot.
    archived_upto: AtomicU64,
}

impl Replica {
    /// An empty replica.
    pub fn new(surroundings: Surroundings, archive: Archive) -> Replica {
        let ids = ArchiveIds::new(&surroundings.pool.id_key);
        Replica {
            surroundings,
            archive,
            ids,
            news: EffectQueue::default(),
            state: RwLock::default(),
            recent: Mutex::default(),
            applied_index: AtomicU64::new(0),
            version: AtomicU32::new(PartitionRecord::default().version()),
            archived_upto: AtomicU64::new(0),
        }
    }

    /// The state as of the last applied entry. Hold it briefly: the apply task waits.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What entries of the last seconds said that may not have been told, this node's clock being `now_ms`.
    pub fn untold(&self, now_ms: u64) -> Untold {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.untold(now_ms)
    }

    /// The log index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// The version that the partition is at as of the last applied entry ([`PartitionRecord::version`]). It never falls.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the archive has no rows of entries that are not applied: after a received snapshot it may, for a while.
    pub fn is_archive_even(&self) -> bool {
        self.applied_index() >= self.archived_upto.load(Ordering::Acquire)
    }
}

/// How often and when the state store is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// After so many entries. Default 512.
    pub entries_max: u64,
    /// After so many bytes of entries. Default 4 MiB.
    pub bytes_max: u64,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        CheckpointPolicy {
            entries_max: 512,
            bytes_max: 4 << 20,
        }
    }
}

/// The writer of one replica, owned by its Raft group.
pub struct PartitionMachine {
    replica: Arc<Replica>,
    store: Option<Box<dyn StateStore>>,
    policy: CheckpointPolicy,
    snapshots: PathBuf,
    node: NodeId,
    /// This life of the node; 0 while it isn't known, and then the node owns nothing.
    incarnation: Arc<AtomicU64>,
    supports: VersionRange,
    reigning: bool,
    /// A chunk, checkpoint or snapshot is under way, or one failed or panicked: the state is not to be stored.
    in_doubt: bool,
    /// The mark of the last applied chunk, and of the last checkpoint.
    mark: Option<Bytes>,
    entries_since: u64,
    bytes_since: u64,
}

/// Where and as whom a machine runs.
pub struct MachineSettings {
    /// When the state store is written.
    pub policy: CheckpointPolicy,
    /// The folder of the partition's snapshots.
    pub snapshots: PathBuf,
    /// This node.
    pub node: NodeId,
    /// This life of the node, filled in when its start entry is committed.
    pub incarnation: Arc<AtomicU64>,
    /// The versions that this build applies.
    pub supports: VersionRange,
}

impl MachineSettings {
    /// The version that a stored state is at.
    fn take_version(&self, replica: &Replica, state: &State) -> Result<(), MachineError> {
        let version = state.record().version();
        refuse_unsupported(self.supports, version)?;
        replica.version.fetch_max(version, Ordering::AcqRel);
        Ok(())
    }
}

/// A replica applies only what its build knows how to.
fn refuse_unsupported(supports: VersionRange, version: u32) -> Result<(), MachineError> {
    if u16::try_from(version).is_ok_and(|version| supports.contains(version)) {
        return Ok(());
    }
    Err(MachineError::new(format!(
        "the partition is at version {version}, and this build supports versions {supports}"
    )))
}

impl PartitionMachine {
    /// Loads the state from its store; what the store lacks is replayed from the log.
    ///
    /// # Errors
    /// When a row can't be read: the store must be wiped and the state rebuilt.
    pub fn load(
        replica: Arc<Replica>,
        mut store: Box<dyn StateStore>,
        settings: MachineSettings,
    ) -> Result<PartitionMachine, MachineError> {
        let state = load_state(&mut *store)?;
        settings.take_version(&replica, &state)?;
        let mark = store.applied();
        let index = match &mark {
            Some(mark) => mark_place(mark)?.1,
            None => {
                // Nothing is here: also of one whose data was removed while the node ran.
                replica.archived_upto.store(0, Ordering::Release);
                0
            }
        };
        {
            let shown = replica.state.write();
            let mut shown = shown.unwrap_or_else(PoisonError::into_inner);
            *shown = state;
            replica.applied_index.store(index, Ordering::Release);
            let recent = replica.recent.lock();
            *recent.unwrap_or_else(PoisonError::into_inner) = RecentEffects::default();
        }
        let MachineSettings {
            policy,
            snapshots,
            node,
            incarnation,
            supports,
        } = settings;
        Ok(PartitionMachine {
            replica,
            store: Some(store),
            policy,
            snapshots,
            node,
            incarnation,
            supports,
            reigning: false,
            in_doubt: false,
            mark,
            entries_since: 0,
            bytes_since: 0,
        })
    }

    /// Does what must succeed as a whole: while it is under way, and for good if it fails, the state is in doubt.
    fn whole<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, MachineError>,
    ) -> Result<T, MachineError> {
        if self.in_doubt {
            return Err(MachineError::new(
                "the replica failed before and needs a new start",
            ));
        }
        self.in_doubt = true;
        let done = work(self)?;
        self.in_doubt = false;
        Ok(done)
    }

    fn apply_chunk(&mut self, entries: Vec<CommittedEntry>) -> Result<(), MachineError> {
        let replica = Arc::clone(&self.replica);
        let mut news = Vec::new();
        let state = replica.state.write();
        // After a failure or panic it is never unlocked: nobody may see what the archive lacks.
        let mut state = ManuallyDrop::new(state.unwrap_or_else(PoisonError::into_inner));
        let applied = self.apply_entries(&mut state, entries, &mut news)?;
        replica.applied_index.fetch_max(applied, Ordering::AcqRel);
        // Under the lock: whoever holds it finds the news of all that the state shows.
        news.into_iter().for_each(|news| replica.news.push(news));
        drop(ManuallyDrop::into_inner(state));
        Ok(())
    }

    /// Gives the index of the last entry.
    fn apply_entries(
        &mut self,
        state: &mut State,
        entries: Vec<CommittedEntry>,
        news: &mut Vec<OwnerNews>,
    ) -> Result<u64, MachineError> {
        let replica = Arc::clone(&self.replica);
        let mut rows = Vec::new();
        let mut applied = 0;
        for CommittedEntry { index, payload, .. } in entries {
            applied = index;
            let Some(payload) = payload else { continue };
            self.entries_since += 1;
            self.bytes_since += payload.len() as u64;
            let entry = decode_entry(&payload)
                .map_err(|error| MachineError::caused("an entry does not read", error))?;
            self.check_version(&replica, &payload, &entry)?;
            self.note_reign(index, &entry, news);
            #[cfg(feature = "bug-ban-on-one-node")]
            let entry = planted::unless_banning(entry, self.reigning);
            let raises = matches!(entry, Entry::Version { .. });
            let mut effects = apply(state, &replica.surroundings, index, entry);
            if raises {
                let version = state.record().version();
                replica.version.fetch_max(version, Ordering::AcqRel);
                tracing::info!(
                    group = self.group(),
                    index,
                    version,
                    "the partition has come to a version"
                );
            }
            self.file_rows(&mut effects, &mut rows)?;
            self.keep_recent(index, state.record().time_ms, &effects);
            if self.reigning && !effects.is_empty() {
                news.push(OwnerNews::Effects { index, effects });
            }
        }
        self.write_rows(&rows)?;
        Ok(applied)
    }

    /// An entry is written as of a version only after the entry that brings the partition there; and where it comes to a
    /// version that this build does not apply, the replica ends before it would differ from the others.
    fn check_version(
        &self,
        replica: &Replica,
        payload: &[u8],
        entry: &Entry,
    ) -> Result<(), MachineError> {
        let (written, is_at) = (version_of_entry(payload), replica.version());
        if written > is_at {
            return Err(MachineError::new(format!(
                "an entry is written as of version {written}, and the partition is at version {is_at}"
            )));
        }
        match entry {
            Entry::Version { version } => refuse_unsupported(self.supports, *version),
            _ => Ok(()),
        }
    }

    fn note_reign(&mut self, index: u64, entry: &Entry, news: &mut Vec<OwnerNews>) {
        let Entry::OwnerBegin {
            node, incarnation, ..
        } = entry
        else {
            return;
        };
        let mine = *node == self.node.0 && *incarnation == self.incarnation.load(Ordering::Acquire);
        if mine {
            news.push(OwnerNews::Began {
                epoch: Epoch(index),
            });
        } else if self.reigning {
            news.push(OwnerNews::Ended);
        }
        self.reigning = mine;
    }

    /// On every replica: any of them may be the next owner.
    fn keep_recent(&self, index: u64, time_ms: u64, effects: &[Effect]) {
        let recent = self.replica.recent.lock();
        let mut recent = recent.unwrap_or_else(PoisonError::into_inner);
        recent.applied(index, time_ms, effects);
    }

    fn file_rows(
        &self,
        effects: &mut Vec<Effect>,
        rows: &mut Vec<StoredArchiveRow>,
    ) -> Result<(), MachineError> {
        let mut failed = None;
        effects.retain(|effect| match effect {
            Effect::Archive(row) => {
                match stored_row(row) {
                    Ok(row) => rows.push(row),
                    Err(error) => failed = Some(error),
                }
                false
            }
            Effect::DropArchive { key, upto } => {
                // In log order: what came before goes with it.
                rows.retain(|row| &*row.key != key.as_str() || row.seq > *upto);
                let partition =
                    storage::archive::PartitionId(self.replica.surroundings.partition.0);
                let archive = &self.replica.archive;
                // As long as the archive is large.
                if let Err(error) = away(|| archive.purge(partition, key.as_str(), *upto)) {
                    failed = Some(MachineError::caused(
                        "an archive could not be dropped",
                        error,
                    ));
                }
                false
            }
            Effect::TrimEvents { room, upto } => {
                rows.retain(|row| {
                    &*row.key != room.as_str() || row.kind == RowKind::Message || row.seq > *upto
                });
                let partition =
                    storage::archive::PartitionId(self.replica.surroundings.partition.0);
                let trimmed = self
                    .replica
                    .archive
                    .trim_events(partition, room.as_str(), *upto);
                if let Err(error) = trimmed {
                    failed = Some(MachineError::caused("events could not be dropped", error));
                }
                false
            }
            _ => true,
        });
        failed.map_or(Ok(()), Err)
    }

    fn write_rows(&self, rows: &[StoredArchiveRow]) -> Result<(), MachineError> {
        if rows.is_empty() {
            return Ok(());
        }
        let partition = storage::archive::PartitionId(self.replica.surroundings.partition.0);
        self.replica
            .archive
            .append(partition, rows)
            .map_err(|error| MachineError::caused("the archive takes no rows", error))
    }

    fn group(&self) -> u32 {
        Group::of(self.replica.surroundings.partition).0
    }

    fn sync_archive(&self) -> Result<(), MachineError> {
        let synced = self.replica.archive.sync();
        synced.map_err(|error| MachineError::caused("the archive could not be synced", error))
    }

    /// Writes a snapshot of the state. The log is purged up to it, so the archive is synced first.
    fn dump(&self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
        let failed = |error| MachineError::caused("a snapshot could not be written", error);
        self.sync_archive()?;
        let (_, index) = mark_place(&mark)?;
        let head = SnapshotHead {
            group: self.group(),
            index,
            applied: AppliedMark(mark),
        };
        let mut writer = SnapshotWriter::create(&self.snapshots, head).map_err(failed)?;
        let mut result = Ok(());
        self.replica
            .state()
            .visit(&StateRows, &mut |table, key, value| {
                #[cfg(feature = "bug-dedup-not-in-snapshot")]
                if planted::is_left_out(table) {
                    return;
                }
                if result.is_ok() {
                    result = writer.row(Table(table), key, value);
                }
            });
        result.map_err(failed)?;
        let snapshot = writer.finish().map_err(failed)?;
        Ok(SnapshotFile {
            path: snapshot.path,
            id: index.to_string(),
        })
    }

    /// Replaces state and store by a received snapshot. The archive goes first: rows of a partition that is behind may be
    /// missing, those of one that was removed may not be there. The snapshot's new name is what makes it count: whatever stops
    /// the process after that, the next start fills the store from it.
    fn take_over(&mut self, received: &Path) -> Result<(), MachineError> {
        let failed = |error| MachineError::caused("a received snapshot can't be used", error);
        let replica = Arc::clone(&self.replica);
        let partition = storage::archive::PartitionId(replica.surroundings.partition.0);
        let unlisted = |error| MachineError::caused("the archive can't follow a snapshot", error);
        let list = KeyList::open(&key_list_path(received), partition).map_err(unlisted)?;
        let archived_upto = list.applied();
        let kept = replica.archive.keep_listed(partition, list);
        let removed = kept.map_err(unlisted)?;
        self.sync_archive()?;
        let snapshot = storage::snapshot::adopt(received, self.group()).map_err(failed)?;
        let Some(store) = &mut self.store else {
            return Err(MachineError::new("the state store is closed"));
        };
        rebuild::fill(&mut **store, &snapshot)?;
        let mut state = load_state(&mut **store)?;
        let version = state.record().version();
        refuse_unsupported(self.supports, version)?;
        let index = snapshot.manifest.head.index;
        {
            let shown = replica.state.write();
            let mut shown = shown.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *shown, &mut state);
            replica.applied_index.fetch_max(index, Ordering::AcqRel);
            replica.version.fetch_max(version, Ordering::AcqRel);
            replica
                .archived_upto
                .fetch_max(archived_upto, Ordering::AcqRel);
            // What the entries in between said is not known here: a gap, like at a start.
            let recent = replica.recent.lock();
            *recent.unwrap_or_else(PoisonError::into_inner) = RecentEffects::default();
            // Another node owned the partition then, and has told the effects.
            if std::mem::take(&mut self.reigning) {
                replica.news.push(OwnerNews::Ended);
            }
        }
        self.mark = Some(snapshot.manifest.head.applied.0);
        (self.entries_since, self.bytes_since) = (0, 0);
        tracing::info!(
            group = self.group(),
            index,
            removed,
            "the replica has taken over a snapshot"
        );
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MachineError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        store
            .flush()
            .map_err(|error| MachineError::caused("the state store can't be flushed", error))
    }

    /// Leaves the store up to date, with everything on disk that it stands on.
    fn close(&mut self) -> Result<(), MachineError> {
        self.whole(|machine| {
            machine.checkpoint()?;
            // A store that is closed cleanly is kept even if the machine stops later: its mark must not outlive the rows.
            machine.sync_archive()?;
            let Some(store) = machine.store.take() else {
                return Ok(());
            };
            store
                .close()
                .map_err(|error| MachineError::caused("the state store does not close", error))
        })
    }

    /// Writes the changed rows with the mark they stand at.
    fn checkpoint(&mut self) -> Result<(), MachineError> {
        let changes = {
            let mut state = self
                .replica
                .state
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            state.drain_changes(&StateRows)
        };
        let mut batch = StateBatch::new();
        for change in changes {
            match change.value {
                Some(value) => batch.put(Table(change.table), change.key, value),
                None => batch.delete(Table(change.table), change.key),
            }
        }
        if let Some(mark) = &self.mark {
            batch.mark(AppliedMark(mark.clone()));
        }
        if let Some(store) = &mut self.store {
            store
                .write(batch)
                .map_err(|error| MachineError::caused("the state store takes no rows", error))?;
        }
        self.entries_since = 0;
        self.bytes_since = 0;
        Ok(())
    }
}

/// The state whose rows a store holds.
fn load_state(store: &mut dyn StateStore) -> Result<State, MachineError> {
    let mut state = State::default();
    let mut failed = None;
    store
        .load(
            &mut |table, key, value| match state.load(&StateRows, table.0, key, value) {
                Ok(true) => {}
                Ok(false) => failed = Some(format!("table {} is not known", table.0)),
                Err(error) => failed = Some(error.to_string()),
            },
        )
        .map_err(|error| MachineError::caused("the state store does not load", error))?;
    match failed {
        None => Ok(state),
        Some(reason) => Err(MachineError::new(format!(
            "a row of the state store does not read: {reason}"
        ))),
    }
}

pub(crate) fn stored_row(row: &ArchiveRow) -> Result<StoredArchiveRow, MachineError> {
    Ok(StoredArchiveRow {
        key: Arc::from(row.key.as_str()),
        kind: if row.is_message() {
            RowKind::Message
        } else {
            RowKind::Event
        },
        seq: row.seq,
        time: row.time_ms,
        peer: row.peer().map(|peer| Arc::from(peer.bare().as_str())),
        record: encode_archive_row(row)
            .map_err(|error| MachineError::caused("an archive row is too large", error))?,
    })
}

/// Above this, applying a chunk takes so long that the runtime's other tasks should not wait.
const QUICK_ENTRIES_MAX: usize = 16;
const QUICK_BYTES_MAX: usize = 128 * 1024;

impl Machine for PartitionMachine {
    fn applied(&self) -> Option<Bytes> {
        self.mark.clone()
    }

    fn may_block(&self, entries: usize, bytes: usize) -> bool {
        let checkpoint_is_due = self.entries_since + entries as u64 >= self.policy.entries_max
            || self.bytes_since + bytes as u64 >= self.policy.bytes_max;
        entries > QUICK_ENTRIES_MAX
            || bytes > QUICK_BYTES_MAX
            || checkpoint_is_due
            || self.replica.archive.is_pressed()
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>, mark: Bytes) -> Result<(), MachineError> {
        self.whole(|machine| {
            machine.apply_chunk(entries)?;
            machine.mark = Some(mark);
            if machine.entries_since >= machine.policy.entries_max
                || machine.bytes_since >= machine.policy.bytes_max
            {
                machine.checkpoint()?;
            }
            Ok(())
        })
    }

    fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
        self.whole(|machine| {
            let snapshot = machine.dump(mark)?;
            // So that the next start seldom finds a store older than the snapshot.
            machine.checkpoint()?;
            machine.flush()?;
            Ok(snapshot)
        })
    }

    fn snapshot(&self) -> Option<(Bytes, PathBuf)> {
        let found = storage::snapshot::latest(&self.snapshots, self.group());
        let snapshot = found
            .inspect_err(|error| tracing::warn!(%error, "snapshots can't be listed"))
            .ok()??;
        Some((snapshot.manifest.head.applied.0, snapshot.path))
    }

    fn snapshot_home(&self) -> Option<SnapshotHome> {
        let partition = storage::archive::PartitionId(self.replica.surroundings.partition.0);
        Some(SnapshotHome {
            folder: self.snapshots.clone(),
            archive: Some((self.replica.archive.clone(), partition)),
        })
    }

    fn install(&mut self, received: &Path) -> Result<(), MachineError> {
        self.whole(|machine| machine.take_over(received))
    }
}

impl Drop for PartitionMachine {
    /// A clean stop leaves the store up to date, so that the next start replays nothing. After a failure the store stays at
    /// its last checkpoint.
    fn drop(&mut self) {
        // It may be dropped on the thread of all groups.
        if let Err(error) = away(|| self.close()) {
            tracing::warn!(%error, cause = ?error.source, "the state was not stored; the next start replays the log");
        }
    }
}

#[cfg(any(feature = "bug-dedup-not-in-snapshot", feature = "bug-ban-on-one-node"))]
mod planted;
#[cfg(test)]
mod tests;
