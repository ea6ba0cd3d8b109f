//! The line on which the partitions of a backup agree.
//!
//! Partition A sends B numbered effects out of its outbox, and B remembers the last number of A. Captured one after the other,
//! B may have taken what A's state has not sent yet, or A's state may have an answer to what B's has not taken. Both mean the
//! same: one of them knows of something that happened in the other behind its capture. So that other one is moved on, entry
//! by entry, until it has it; which may move a third one, and so on.
//!
//! Invariant: the line is reached, and is the earliest one there is. At the moment when the backup asked for the ends of the
//! logs all captures lay in the past, and the states of that moment agree: nobody can know what has not happened. Each
//! step is forced, so it never passes that moment. A backup whose entries end before it is damaged.

use messaging::apply::{Surroundings, apply};
use messaging::link_record::LinkOrigin;
use messaging::state::State;

use super::block::EntriesBlock;
use crate::raft::CommittedEntry;
use crate::records::decode_entry;

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The entries of a partition end too early, or it lacks something that they can't bring.
    #[error("partition {partition} lacks what others know of it, and its entries end at {index}")]
    Short {
        /// The partition.
        partition: u16,
        /// Up to where it came.
        index: u64,
    },
    /// An entry is not the next one.
    #[error("partition {partition} has no entry {expected}")]
    Gap {
        /// The partition.
        partition: u16,
        /// The entry that had to come.
        expected: u64,
    },
    /// An entry does not read.
    #[error("an entry of partition {partition} does not read")]
    Entry {
        /// The partition.
        partition: u16,
        /// Why.
        #[source]
        source: storage::codec::CodecError,
    },
    /// The file of entries does not read.
    #[error("the entries of partition {partition} do not read")]
    File {
        /// The partition.
        partition: u16,
        /// Why.
        #[source]
        source: storage::block_file::BlockFileError,
    },
}

/// A partition's state on its way to the line.
pub struct Standing<E> {
    /// The state.
    pub state: State,
    /// The last entry that it has.
    pub index: u64,
    /// The entries behind it.
    pub entries: E,
    /// What an entry may use besides the state.
    pub surroundings: Surroundings,
}

/// Entries out of the blocks of a file.
pub fn entries_of<I>(
    partition: u16,
    blocks: I,
) -> impl Iterator<Item = Result<CommittedEntry, LineError>>
where
    I: Iterator<Item = Result<EntriesBlock, storage::block_file::BlockFileError>>,
{
    let entries = move |block| match block {
        Ok(block) => EntriesBlock::entries(block).map(Ok).collect::<Vec<_>>(),
        Err(source) => vec![Err(LineError::File { partition, source })],
    };
    blocks.flat_map(entries)
}

impl<E: Iterator<Item = Result<CommittedEntry, LineError>>> Standing<E> {
    fn partition(&self) -> u16 {
        self.surroundings.partition.0
    }

    /// Applies the next entry; what it would have done outside is of no interest here.
    fn step(&mut self) -> Result<(), LineError> {
        let (partition, index) = (self.partition(), self.index);
        let next = self.entries.next();
        let entry = next.ok_or(LineError::Short { partition, index })??;
        if entry.index != index + 1 {
            let expected = index + 1;
            return Err(LineError::Gap {
                partition,
                expected,
            });
        }
        self.index = entry.index;
        if let Some(payload) = entry.payload {
            let decoded =
                decode_entry(&payload).map_err(|source| LineError::Entry { partition, source })?;
            apply(&mut self.state, &self.surroundings, self.index, decoded);
        }
        Ok(())
    }

    /// The number of the last effect that was ever meant for a partition.
    fn sent(&self, to: u16) -> u64 {
        let next = self.state.outbox_next.get(&to).copied();
        next.unwrap_or(1).saturating_sub(1)
    }

    /// The number of the last effect of a partition that this one has taken.
    fn taken(&self, from: u16) -> u64 {
        let link = self.state.links.get(&LinkOrigin::Partition(from));
        link.map_or(0, |link| link.last)
    }

    /// The last of the effects behind `taken` that has its answer already.
    fn answered_behind(&self, to: u16, taken: u64) -> Option<u64> {
        let waits = |sequence: &u64| !self.state.outbox.contains(&(to, *sequence));
        (taken + 1..=self.sent(to)).rev().find(waits)
    }
}

/// Moves the partitions on until they agree; gives the last entry that each needs.
///
/// # Errors
/// [`LineError`]: then the backup is damaged.
pub fn find_line<E>(standings: &mut [Standing<E>]) -> Result<Vec<u64>, LineError>
where
    E: Iterator<Item = Result<CommittedEntry, LineError>>,
{
    loop {
        let mut moved = false;
        for from in 0..standings.len() {
            for to in 0..standings.len() {
                moved |= settle(standings, from, to)?;
            }
        }
        if !moved {
            break;
        }
    }
    Ok(standings.iter().map(|standing| standing.index).collect())
}

/// Makes one way between two partitions agree; gives whether one of them had to move.
fn settle<E>(standings: &mut [Standing<E>], from: usize, to: usize) -> Result<bool, LineError>
where
    E: Iterator<Item = Result<CommittedEntry, LineError>>,
{
    let (Some(sender), Some(taker)) = (standings.get(from), standings.get(to)) else {
        return Ok(false);
    };
    let (sender_id, taker_id) = (sender.partition(), taker.partition());
    let (taken, known) = (
        taker.taken(sender_id),
        sender.answered_behind(taker_id, taker.taken(sender_id)),
    );
    let mut moved = false;
    if let Some(sender) = standings.get_mut(from) {
        while sender.sent(taker_id) < taken {
            sender.step()?;
            moved = true;
        }
    }
    if let (Some(known), Some(taker)) = (known, standings.get_mut(to)) {
        while taker.taken(sender_id) < known {
            taker.step()?;
            moved = true;
        }
    }
    Ok(moved)
}
