//! The hash of a replica, so that replicas can be compared (P16: the same applied index means the same state and archive).
//!
//! ```text
//!  state, in portions ──► all at one applied index? ──► hash ─┐
//!  view of the archive at that index ──► hash, at leisure ────┴─► ReplicaHash
//! ```
//!
//! The apply task waits for one portion at a time, never for the whole state. If it has moved the state on between two
//! portions, they belong to no index, and the hash begins anew.

use messaging::state::State;
use storage::archive::{ArchiveError, ArchiveView, PartitionHash, PartitionId};
use storage::codec::CodecError;
use storage::state_store::{StateHash, StateHasher, Table};
use thiserror::Error;

use crate::machine::Replica;
use crate::records::StateRows;

/// Rows looked at while the apply task waits: about a millisecond.
const PORTION_ROWS: usize = 1024;

/// How often a hash begins anew before it gives up.
const TRIES: usize = 20;

/// What all replicas of a partition have in common once they have applied the same entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaHash {
    /// The log index of the last applied entry.
    pub applied: u64,
    /// The rows of the state.
    pub state: StateHash,
    /// The rows of the archive.
    pub archive: PartitionHash,
}

/// Why a replica could not be hashed.
#[derive(Debug, Error)]
pub enum ReplicaHashError {
    /// The partition is written to all the time, or a snapshot was received just now.
    #[error("the partition is written to all the time: ask again when it is quieter")]
    Moving,
    /// A row of the state does not encode or decode.
    #[error("a row of the state can't be read")]
    State(#[source] CodecError),
    /// The archive can't be read.
    #[error("the archive can't be read")]
    Archive(#[source] ArchiveError),
}

impl Replica {
    /// The hash of state and archive at one applied index. It reads all rows of both, so it may take seconds: call it where
    /// blocking is fine.
    ///
    /// # Errors
    /// [`ReplicaHashError`].
    pub fn hash(&self) -> Result<ReplicaHash, ReplicaHashError> {
        if !self.is_archive_even() {
            return Err(ReplicaHashError::Moving);
        }
        for _ in 0..TRIES {
            if let Some((applied, state, view)) = self.hash_state()? {
                let partition = PartitionId(self.surroundings.partition.0);
                let archive = view
                    .hash(partition, None)
                    .map_err(ReplicaHashError::Archive)?;
                return Ok(ReplicaHash {
                    applied,
                    state,
                    archive,
                });
            }
        }
        Err(ReplicaHashError::Moving)
    }

    /// One try; `None` if the state moved on meanwhile.
    fn hash_state(&self) -> Result<Option<(u64, StateHash, ArchiveView)>, ReplicaHashError> {
        let mut hasher = StateHasher::default();
        let mut after = None;
        let mut beginning: Option<(u64, ArchiveView)> = None;
        loop {
            let state = self.state();
            // Index, state and archive rows move together, under this lock.
            let applied = self.applied_index();
            match &beginning {
                Some((index, _)) if *index != applied => return Ok(None),
                Some(_) => {}
                None => beginning = Some((applied, self.archive.view())),
            }
            let portion = hash_portion(&state, &mut hasher, &mut after);
            if portion.map_err(ReplicaHashError::State)? < PORTION_ROWS {
                break;
            }
        }
        Ok(beginning.map(|(applied, view)| (applied, hasher.finish(), view)))
    }
}

fn hash_portion(
    state: &State,
    hasher: &mut StateHasher,
    after: &mut Option<(u8, Vec<u8>)>,
) -> Result<usize, CodecError> {
    let place = after.take();
    let from = place.as_ref().map(|(table, key)| (*table, key.as_slice()));
    state.visit_some(&StateRows, from, PORTION_ROWS, &mut |table, key, value| {
        hasher.row(Table(table), key, value);
        *after = Some((table, key.to_vec()));
    })
}
