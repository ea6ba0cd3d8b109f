//! The data folder of the first node of a new pool, filled from a backup: snapshots, archive, log.
//!
//! ```text
//!  rows ─► archive ◄─ effects ─┐
//!  snapshot ─► state ─► entries up to the line ─► without the old nodes ─► snapshot of the new group ─► log behind it
//! ```
//!
//! The node finds what a node finds that has purged its log: a snapshot a group, no state store, an empty log behind the
//! snapshot's index.

use std::path::Path;

use messaging::apply::{Surroundings, apply};
use messaging::effect::Effect;
use messaging::founding::{Founding, found};
use messaging::state::State;
use storage::archive::{Archive, ArchiveError, ArchiveRow, PartitionId};
use storage::block_file::{BlockFileError, BlockFileReader};
use storage::snapshot::{SnapshotError, SnapshotHead, SnapshotReader, SnapshotWriter};
use storage::state_store::{AppliedMark, Table};

use super::block::{EntriesBlock, RowsBlock};
use super::line::{LineError, entries_of};
use crate::machine::stored_row;
use crate::node_id::{Group, NodeId};
use crate::raft::{MachineError, founding_mark};
use crate::records::{StateRows, decode_archive_row, decode_entry};

/// The files of one partition in a backup.
#[derive(Debug, Clone, Copy)]
pub struct PartitionFiles<'a> {
    /// The state.
    pub state: &'a Path,
    /// The archive.
    pub rows: &'a Path,
    /// The log behind them.
    pub entries: &'a Path,
}

/// Why a partition could not be read or founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The file of the state.
    #[error("the state's file")]
    Snapshot(#[from] SnapshotError),
    /// The file of rows.
    #[error("the archive's file")]
    Rows(#[from] BlockFileError),
    /// The file of entries, or what they say.
    #[error("the file of entries")]
    Line(#[from] LineError),
    /// What is in the files makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// The new archive takes no rows.
    #[error("the new archive")]
    Archive(#[from] ArchiveError),
    /// A row or mark.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The disk.
    #[error("the disk")]
    Io(#[from] std::io::Error),
}

/// The state in a snapshot's file, and its index.
///
/// # Errors
/// [`FoundingError::Snapshot`], [`FoundingError::Nonsense`].
pub fn read_state(path: &Path, group: Group) -> Result<(State, u64), FoundingError> {
    let mut reader = SnapshotReader::open(path)?;
    let head = reader.snapshot().manifest.head.clone();
    if head.group != group.0 {
        return Err(FoundingError::Nonsense(format!(
            "{} is that of another group",
            path.display()
        )));
    }
    let mut state = State::default();
    for row in reader.by_ref() {
        let row = row?;
        let loaded = state.load(&StateRows, row.table.0, &row.key, &row.value);
        match loaded {
            Ok(true) => {}
            Ok(false) => {
                let what = format!("table {} is not known to this program", row.table.0);
                return Err(FoundingError::Nonsense(what));
            }
            Err(error) => {
                let what = "a row of the state does not read";
                return Err(MachineError::caused(what, error).into());
            }
        }
    }
    Ok((state, head.index))
}

/// Reads all rows of a partition's archive and looks whether each is what it says; gives how many there are.
///
/// # Errors
/// [`FoundingError::Rows`], [`FoundingError::Nonsense`].
pub fn check_rows(
    path: &Path,
    partition: u16,
    mut each: impl FnMut(Vec<ArchiveRow>) -> Result<(), FoundingError>,
) -> Result<u64, FoundingError> {
    let (mut count, mut ended) = (0, false);
    let mut last = None;
    for block in BlockFileReader::<RowsBlock>::open(path)? {
        let block = block?;
        let nonsense = |what: &str| FoundingError::Nonsense(format!("{}: {what}", path.display()));
        if ended || block.partition != partition {
            return Err(nonsense(
                "a block is not of this partition, or behind its end",
            ));
        }
        ended = block.ended;
        let rows: Vec<ArchiveRow> = block.rows.into_iter().map(ArchiveRow::from).collect();
        for row in &rows {
            let position = row.position();
            if last.replace(position.clone()) >= Some(position) {
                return Err(nonsense("its rows don't rise"));
            }
            let read = decode_archive_row(&row.record);
            let same = |read: messaging::archive::ArchiveRow| {
                read.key.as_str() == &*row.key && read.seq == row.seq
            };
            if !read.is_ok_and(same) {
                return Err(nonsense("a row does not read, or is another's"));
            }
        }
        count += rows.len() as u64;
        each(rows)?;
    }
    match ended {
        true => Ok(count),
        false => Err(FoundingError::Nonsense(format!(
            "{} has no end",
            path.display()
        ))),
    }
}

/// Where the new node is made.
pub struct NewNode<'a> {
    /// Its archive.
    pub archive: &'a Archive,
    /// The folder of its snapshots.
    pub snapshots: &'a Path,
    /// Its id.
    pub node: NodeId,
    /// Now, in ms since 1970.
    pub time_ms: u64,
}

/// Fills one partition; gives the index that its log begins behind. `line`: the last entry that is wanted.
///
/// # Errors
/// [`FoundingError`].
pub fn found_partition(
    files: PartitionFiles<'_>,
    surroundings: &Surroundings,
    line: u64,
    new: &NewNode<'_>,
) -> Result<u64, FoundingError> {
    let number = surroundings.partition.0;
    let (group, partition) = (Group::of(surroundings.partition), PartitionId(number));
    let (mut state, mut index) = read_state(files.state, group)?;
    check_rows(files.rows, number, |rows| {
        Ok(new.archive.append(partition, &rows)?)
    })?;
    let blocks = BlockFileReader::<EntriesBlock>::open(files.entries)?;
    for entry in entries_of(number, blocks) {
        let entry = entry?;
        if entry.index > line {
            break;
        }
        index = entry.index;
        let Some(payload) = entry.payload else {
            continue;
        };
        let entry = decode_entry(&payload)
            .map_err(|error| MachineError::caused("an entry does not read", error))?;
        let effects = apply(&mut state, surroundings, index, entry);
        file_effects(new.archive, partition, effects)?;
    }
    if index < line {
        return Err(FoundingError::Line(LineError::Short {
            partition: number,
            index,
        }));
    }
    let founding = Founding {
        index,
        node: new.node.0,
        time_ms: new.time_ms,
    };
    let (effects, index) = found(&mut state, surroundings, founding);
    file_effects(new.archive, partition, effects)?;
    let mut result = Ok(());
    let mut writer = new_snapshot(new.snapshots, group, index, new.node)?;
    state.visit(&StateRows, &mut |table, key, value| {
        if result.is_ok() {
            result = writer.row(Table(table), key, value);
        }
    });
    result?;
    writer.finish()?;
    Ok(index)
}

/// A snapshot of a new group, still without rows.
///
/// # Errors
/// [`FoundingError::Snapshot`].
pub fn new_snapshot(
    folder: &Path,
    group: Group,
    index: u64,
    voter: NodeId,
) -> Result<SnapshotWriter, FoundingError> {
    let head = SnapshotHead {
        group: group.0,
        index,
        applied: AppliedMark(founding_mark(index, voter)?),
    };
    Ok(SnapshotWriter::create(folder, head)?)
}

/// Does what effects want of the archive; there is nobody for the others.
fn file_effects(
    archive: &Archive,
    partition: PartitionId,
    effects: Vec<Effect>,
) -> Result<(), FoundingError> {
    for effect in effects {
        match effect {
            Effect::Archive(row) => archive.append(partition, &[stored_row(&row)?])?,
            Effect::DropArchive { key, upto } => {
                archive.purge(partition, key.as_str(), upto)?;
            }
            Effect::TrimEvents { room, upto } => {
                archive.trim_events(partition, room.as_str(), upto)?;
            }
            _ => {}
        }
    }
    Ok(())
}
