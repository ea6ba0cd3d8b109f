//! The meta group in a backup, and in the pool that is made of one.
//!
//! Operators and the audit log go along. What belongs to the old pool's nodes does not: members, voters, lives, and the tokens
//! that let nodes join.

use std::path::Path;

use storage::codec::CodecError;
use storage::snapshot::{SnapshotReader, SnapshotWriter};
use storage::state_store::Table;

use super::access::{AccessEntry, Changes};
use super::audit::{AuditEntry, Change, Outcome};
use super::members::{FirstMember, MemberEntry};
use super::targets::Placements;
use super::versions::Versions;
use super::{Access, Members, MetaEntry, MetaReplica, MetaState};
use crate::backup::capture::{CaptureError, Source, captured};
use crate::node_id::{Group, NodeId};
use crate::raft::MachineError;

impl MetaReplica {
    /// Captures what this node knows of the meta group. Blocks on the disk.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn capture(&self, scratch: &Path) -> Result<Source, CaptureError> {
        let (index, rows) = {
            let state = self.state();
            let mut rows = state.rows()?;
            rows.extend(self.access().rows()?);
            (*self.applied().borrow(), rows)
        };
        let write = |_, writer: &mut SnapshotWriter| {
            rows.iter()
                .try_for_each(|(table, key, value)| writer.row(*table, key, value))
        };
        let state = captured(scratch, Group::META, write, index)?;
        Ok(Source::of_state(index, state))
    }
}

/// The meta group's state, made of rows one by one.
#[derive(Default)]
pub(crate) struct MetaRows {
    state: MetaState,
    access: Access,
}

impl MetaRows {
    /// Takes a row.
    pub(crate) fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), CodecError> {
        match self.access.load_row(table, key, value)? {
            true => Ok(()),
            false => self.state.load_row(table, key, value),
        }
    }
}

/// What the meta group of a new pool begins with.
pub struct FoundingMeta<'a> {
    /// The meta group's file in the backup.
    pub backup: &'a Path,
    /// The new pool's description, by its digest.
    pub digest: [u8; 32],
    /// The first node.
    pub node: NodeId,
    /// Where others will reach it.
    pub address: String,
    /// How many groups there are, meta included.
    pub groups: u32,
    /// The index of the state.
    pub index: u64,
    /// What the new pool is at: no partition of the backup may be at a higher one, nor what [`pool_version`] says.
    pub version: u16,
    /// For the audit log: what was done, and when.
    pub record: Change,
}

/// A row of the state: table, key, value.
pub type MetaRow = (Table, Vec<u8>, Vec<u8>);

fn unreadable(error: CodecError) -> MachineError {
    MachineError::caused("a row of the meta group does not read", error)
}

/// The meta group in its file in a backup.
fn read(backup: &Path) -> Result<MetaRows, MachineError> {
    let damaged = |error| MachineError::caused("the meta group's file does not read", error);
    let mut read = MetaRows::default();
    for row in SnapshotReader::open(backup).map_err(damaged)? {
        let row = row.map_err(damaged)?;
        let taken = read.row(row.table, &row.key, &row.value);
        taken.map_err(unreadable)?;
    }
    Ok(read)
}

/// The version that the pool was at when the meta group was captured. Partitions that were captured later may be at a higher one
/// already.
///
/// # Errors
/// When the file does not read.
pub fn pool_version(backup: &Path) -> Result<u16, MachineError> {
    Ok(read(backup)?.state.versions.pool())
}

/// Rows of the new meta group, in their order.
///
/// # Errors
/// When the backup does not read.
pub fn founding_rows(founding: FoundingMeta<'_>) -> Result<Vec<MetaRow>, MachineError> {
    let mut access = read(founding.backup)?.access;
    access.tokens = Default::default();
    let mut founded = MetaState {
        digest: Some(founding.digest),
        members: Members::default(),
        placements: Placements::default(),
        versions: Versions::of_new_pool(founding.version),
        ..MetaState::default()
    };
    let seeded = MemberEntry::Seeded {
        members: vec![FirstMember {
            node: founding.node,
            address: founding.address,
        }],
        voters: vec![vec![founding.node]; founding.groups as usize],
    };
    let refused = |error| MachineError::caused("the new pool's members", error);
    founded
        .apply(founding.index, MetaEntry::Members(seeded))
        .map_err(refused)?;
    let mut changes = Changes::default();
    let id = rand::random();
    let record = founding.record;
    for entry in [
        AuditEntry::Begin { id, change: record },
        AuditEntry::End {
            id,
            outcome: Outcome::Done,
        },
    ] {
        access
            .apply(AccessEntry::Audit(entry), &mut changes)
            .map_err(refused)?;
    }
    let mut rows = founded.rows().map_err(unreadable)?;
    rows.extend(access.rows().map_err(unreadable)?);
    Ok(rows)
}
