//! Copying a partition's rows to another replica: what is missing there, and what is to go there.
//!
//! The sender lists its keys with the first and last sequence of each kind ([`ArchiveView::keys`]); the receiver keeps the list
//! as a file ([`KeyListWriter`]), asks for the rows that it lacks ([`ArchiveView::missing`]) and, in the step that moves its
//! state forward, removes what is not listed ([`Archive::keep_listed`]).
//!
//! ```text
//!  listed   [c ······················· d]
//!  here          [a ········ b]
//!  missing  ◄─── a            b ────────► d      asked for from the stretch outwards, so that it stays one stretch
//! ```
//!
//! Invariants, which make rows that are copied at any time, from any replica, cut short and gone on with, end as the same
//! archive once the log is applied beyond what the senders had applied:
//!
//! - Sequences of a key rise with the log, also over its end and new beginning, and rows never change.
//! - Rows go from the old end only (expiry, trimming, the end of the key), and a removal names its last row, so that one that is
//!   replayed never touches rows of later entries.
//! - Hence what a replica has of a key and kind is one stretch of its rows without holes; copying from its ends outwards, each
//!   page in one batch, keeps it so.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::layout::{key_prefix, row_key};
use super::{
    Archive, ArchiveError, ArchiveView, KeyExtent, Order, Page, PartitionId, RowKind, Rows,
};
use crate::codec::{self, CodecError, Record};

/// Keys of a block of the list.
const BLOCK_KEYS: usize = 1024;

/// The longest block: keys as long as JIDs may be, with their numbers.
const BLOCK_BYTES_MAX: u64 = BLOCK_KEYS as u64 * (2047 + 64) + 64;

/// Rows of a key and kind that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRows {
    /// The key.
    pub key: Arc<str>,
    /// The kind.
    pub kind: RowKind,
    /// Only rows behind this one.
    pub after: Option<u64>,
    /// Only rows in front of this one.
    pub before: Option<u64>,
    /// In which order they are to be put.
    pub order: Order,
}

impl MissingRows {
    /// A page of them.
    #[must_use]
    pub fn page(&self, limit: usize) -> Page {
        Page {
            after: self.after,
            before: self.before,
            order: self.order,
            limit,
        }
    }

    /// Whether a row of this sequence is the next or a later one of them.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.after.is_none_or(|after| seq > after) && self.before.is_none_or(|before| seq < before)
    }

    /// What is missing still, once rows up to this one have been put.
    pub fn go_on_behind(&mut self, seq: u64) {
        match self.order {
            Order::OldestFirst => self.after = Some(seq),
            Order::NewestFirst => self.before = Some(seq),
        }
    }
}

impl KeyExtent {
    /// First and last sequence of a kind.
    #[must_use]
    pub fn of(&self, kind: RowKind) -> Option<(u64, u64)> {
        match kind {
            RowKind::Message => self.messages,
            RowKind::Event => self.events,
        }
    }
}

impl ArchiveView {
    /// First and last sequence of each kind of a key's rows.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn extent(&self, partition: PartitionId, key: &str) -> Result<KeyExtent, ArchiveError> {
        let extent = |rows| -> Result<_, ArchiveError> {
            let first = self.first_seq(partition, key, rows)?;
            Ok(first.zip(self.last_seq(partition, key, rows)?))
        };
        Ok(KeyExtent {
            key: Arc::from(key),
            messages: extent(Rows::Messages)?,
            events: extent(Rows::Events)?,
        })
    }

    /// Which of the rows that another replica listed are missing here. It costs a few look-ups.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn missing(
        &self,
        partition: PartitionId,
        listed: &KeyExtent,
    ) -> Result<Vec<MissingRows>, ArchiveError> {
        let here = self.extent(partition, &listed.key)?;
        let mut missing = Vec::new();
        for kind in [RowKind::Message, RowKind::Event] {
            let Some((first, last)) = listed.of(kind) else {
                continue;
            };
            let mut ask = |after, before, order| {
                missing.push(MissingRows {
                    key: Arc::clone(&listed.key),
                    kind,
                    after,
                    before,
                    order,
                });
            };
            let Some((oldest, newest)) = here.of(kind) else {
                ask(None, None, Order::OldestFirst);
                continue;
            };
            if oldest > first {
                ask(None, Some(oldest), Order::NewestFirst);
            }
            if newest < last {
                ask(Some(newest), None, Order::OldestFirst);
            }
        }
        Ok(missing)
    }
}

impl Archive {
    /// Removes the rows of a partition that are not in a list: those of other keys, and those in front of a key's first listed
    /// ones. Rows behind the last listed ones stay: they are of entries that come again. Gives how many went.
    ///
    /// # Errors
    /// [`KeyListError`]; some rows may be gone.
    pub fn keep_listed(&self, partition: PartitionId, list: KeyList) -> Result<u64, KeyListError> {
        let mut removed = 0;
        let mut here: Option<Arc<str>> = None;
        for listed in list {
            let listed = listed?;
            removed += self.drop_keys(partition, here.as_deref(), Some(&listed.key))?;
            for kind in [RowKind::Message, RowKind::Event] {
                removed += self.drop_front(partition, &listed, kind)?;
            }
            here = Some(listed.key);
        }
        Ok(removed + self.drop_keys(partition, here.as_deref(), None)?)
    }

    /// Removes all keys between two, neither included.
    fn drop_keys(
        &self,
        partition: PartitionId,
        after: Option<&str>,
        before: Option<&str>,
    ) -> Result<u64, ArchiveError> {
        let mut removed = 0;
        loop {
            let next = self.view().keys(partition, after, 1)?;
            let next = next.into_iter().next().map(|extent| extent.key);
            match next.filter(|key| before.is_none_or(|before| **key < *before)) {
                Some(key) => removed += self.delete_key(partition, &key)?,
                None => return Ok(removed),
            }
        }
    }

    fn drop_front(
        &self,
        partition: PartitionId,
        listed: &KeyExtent,
        kind: RowKind,
    ) -> Result<u64, ArchiveError> {
        let key = &listed.key;
        let Some(oldest) = self.view().extent(partition, key)?.of(kind) else {
            return Ok(0);
        };
        let upto = match listed.of(kind) {
            Some((first, _)) => first.checked_sub(1).filter(|upto| *upto >= oldest.0),
            None => Some(oldest.1),
        };
        let Some(upto) = upto else { return Ok(0) };
        let _removal = self.begin_removal(partition, key)?;
        let (start, end) = (row_key(partition, key, 0)?, row_key(partition, key, upto)?);
        self.remove_rows(partition, kind, start, &end)
    }
}

/// A part of a list of keys, as it is stored: blocks follow each other, each behind its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyListBlock {
    partition: u16,
    number: u32,
    /// Up to where the sender had applied its log.
    applied: u64,
    is_last: bool,
    keys: Vec<StoredExtent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredExtent {
    key: String,
    messages: Option<(u64, u64)>,
    events: Option<(u64, u64)>,
}

impl Record for KeyListBlock {
    const VERSION: u8 = 1;
    const NAME: &'static str = "key-list-block";
}

/// What can go wrong with a list of keys, or with doing what it says.
#[derive(Debug, Error)]
pub enum KeyListError {
    /// It is cut short, out of order or of another partition: the list must be fetched anew.
    #[error("the list of keys is damaged: {0}")]
    Damaged(&'static str),
    /// A block does not read: the list must be fetched anew.
    #[error("the list of keys does not read")]
    Codec(#[from] CodecError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The disk reports an error.
    #[error("the list of keys cannot be read or written")]
    Io(#[from] std::io::Error),
}

/// Writes a list of keys, in their order.
pub struct KeyListWriter {
    file: BufWriter<File>,
    block: KeyListBlock,
    last: Option<Arc<str>>,
    keys: u64,
}

impl KeyListWriter {
    /// Starts a list; one that is there is replaced. `applied`: up to where the sender had applied its log.
    ///
    /// # Errors
    /// [`KeyListError::Io`].
    pub fn create(path: &Path, partition: PartitionId, applied: u64) -> Result<Self, KeyListError> {
        Ok(KeyListWriter {
            file: BufWriter::new(File::create(path)?),
            block: KeyListBlock {
                partition: partition.0,
                number: 0,
                applied,
                is_last: false,
                keys: Vec::new(),
            },
            last: None,
            keys: 0,
        })
    }

    /// Adds a key, which must come behind the one before.
    ///
    /// # Errors
    /// [`KeyListError::Damaged`] for one that does not, [`KeyListError::Archive`] for one that is no name, [`KeyListError::Io`].
    pub fn push(&mut self, extent: KeyExtent) -> Result<(), KeyListError> {
        key_prefix(PartitionId(self.block.partition), &extent.key)?;
        check_extent(&extent)?;
        if self.last.as_ref().is_some_and(|last| *last >= extent.key) {
            return Err(KeyListError::Damaged("its keys don't rise"));
        }
        self.last = Some(Arc::clone(&extent.key));
        self.keys += 1;
        self.block.keys.push(StoredExtent {
            key: extent.key.as_ref().to_owned(),
            messages: extent.messages,
            events: extent.events,
        });
        if self.block.keys.len() >= BLOCK_KEYS {
            self.close_block()?;
        }
        Ok(())
    }

    /// The last key so far.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<str>> {
        self.last.as_ref()
    }

    /// Ends the list and makes it durable. Gives how many keys there are.
    ///
    /// # Errors
    /// [`KeyListError::Io`].
    pub fn finish(mut self) -> Result<u64, KeyListError> {
        self.block.is_last = true;
        self.close_block()?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.keys)
    }

    fn close_block(&mut self) -> Result<(), KeyListError> {
        let bytes = codec::encode(&self.block)?;
        let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&bytes)?;
        self.block.keys.clear();
        self.block.number += 1;
        Ok(())
    }
}

fn check_extent(extent: &KeyExtent) -> Result<(), KeyListError> {
    let is_odd = |range: Option<(u64, u64)>| range.is_some_and(|(first, last)| first > last);
    if is_odd(extent.messages) || is_odd(extent.events) {
        return Err(KeyListError::Damaged(
            "the rows of a key end before they begin",
        ));
    }
    Ok(())
}

/// Reads a list of keys. **It counts only once it ended with `None`.** After an error it gives nothing more.
pub struct KeyList {
    file: BufReader<File>,
    partition: PartitionId,
    number: u32,
    applied: u64,
    is_last: bool,
    block: std::vec::IntoIter<StoredExtent>,
}

impl KeyList {
    /// Opens the list of a partition.
    ///
    /// # Errors
    /// All of [`KeyListError`] but that of the archive.
    pub fn open(path: &Path, partition: PartitionId) -> Result<Self, KeyListError> {
        let mut list = KeyList {
            file: BufReader::new(File::open(path)?),
            partition,
            number: 0,
            applied: 0,
            is_last: false,
            block: Vec::new().into_iter(),
        };
        list.read_block()?;
        Ok(list)
    }

    /// Up to where the sender had applied its log when it made the list.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    fn read_block(&mut self) -> Result<(), KeyListError> {
        let cut_short = |_| KeyListError::Damaged("it is cut short");
        let mut length = [0; 4];
        self.file.read_exact(&mut length).map_err(cut_short)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > BLOCK_BYTES_MAX {
            return Err(KeyListError::Damaged("a block is too long"));
        }
        // Grows with what is read, so that a damaged length reserves nothing.
        let mut bytes = Vec::new();
        self.file.by_ref().take(length).read_to_end(&mut bytes)?;
        let block: KeyListBlock = codec::decode(&bytes)?;
        if block.number != self.number || block.partition != self.partition.0 {
            return Err(KeyListError::Damaged(
                "a block is not the next of this list",
            ));
        }
        self.number += 1;
        self.applied = block.applied;
        self.is_last = block.is_last;
        self.block = block.keys.into_iter();
        Ok(())
    }

    fn next_key(&mut self) -> Result<Option<KeyExtent>, KeyListError> {
        loop {
            if let Some(stored) = self.block.next() {
                return Ok(Some(KeyExtent {
                    key: Arc::from(stored.key),
                    messages: stored.messages,
                    events: stored.events,
                }));
            }
            if self.is_last {
                return Ok(None);
            }
            self.read_block()?;
        }
    }
}

impl Iterator for KeyList {
    type Item = Result<KeyExtent, KeyListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_key().transpose();
        if matches!(next, Some(Err(_))) {
            (self.is_last, self.block) = (true, Vec::new().into_iter());
        }
        next
    }
}

/// Where the list of keys that belongs to a received snapshot lies.
#[must_use]
pub fn key_list_path(received: &Path) -> PathBuf {
    received.with_extension("keys")
}

/// Removes a list; that there is none is fine.
///
/// # Errors
/// Those of the disk.
pub fn remove_key_list(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
