//! The state store: where a partition's mutable state (accounts, rosters, rooms, cursors, …) is kept between starts.
//!
//! The state itself lives in memory, in `messaging`; the store holds its rows so that a start need not replay the whole
//! log. One store a partition, one writer. A batch of row changes is atomic together with the *applied mark* (log id and
//! membership), so that replay continues exactly where the rows stand. The store is **rebuildable**: nothing in it is
//! the only copy, and whenever it is in doubt it is deleted and filled from the newest snapshot and the log.
//!
//! ```text
//! apply a chunk ──▶ StateBatch {row changes, applied mark} ──▶ rows ≤ 1 KiB ──▶ sled | fjall | memory
//! start ◀── load(): every row in (table, key) order ◀── Opened::{Fresh, Kept, Rebuild}
//! ```

use std::path::PathBuf;

use bytes::Bytes;
use thiserror::Error;

mod batch;
mod digest;
mod fjall_store;
mod memory;
mod opening;
mod rows;
mod sled_store;

pub use batch::{AppliedMark, KEY_BYTES_MAX, StateBatch, Table, VALUE_BYTES_MAX};
pub use digest::{StateHash, StateHasher};
pub use fjall_store::FjallStateStore;
pub use memory::{MemoryDisk, MemoryStateStore};
pub use opening::{BootId, Opened, RebuildReason, engine_in};
pub use sled_store::SledStateStore;

/// Is shown rows: table, key, value.
pub type VisitRow<'a> = dyn FnMut(Table, &[u8], &[u8]) + 'a;

/// The rows of one partition and the applied mark they stand at.
pub trait StateStore: Send {
    /// Shows every row, ordered by table, then key.
    ///
    /// # Errors
    /// [`StateStoreError::Damaged`] if a row is incomplete; rows may have been shown before.
    fn load(&mut self, visit: &mut VisitRow<'_>) -> Result<(), StateStoreError>;

    /// Applies all changes of a batch and its applied mark, or none. Not synced: a crash of the machine may lose the
    /// newest batches, in order, and replay brings them again.
    ///
    /// # Errors
    /// [`StateStoreError::TooLong`] before anything is written; otherwise the store is unusable and must be opened again.
    fn write(&mut self, batch: StateBatch) -> Result<(), StateStoreError>;

    /// The applied mark of the last batch that had one.
    fn applied(&self) -> Option<Bytes>;

    /// Hands everything written to the operating system, so that a crash of this process loses nothing.
    ///
    /// # Errors
    /// Those of the engine; the store must be opened again.
    fn flush(&mut self) -> Result<(), StateStoreError>;

    /// Removes all rows and the applied mark. A crash half-way is told as [`Opened::Rebuild`] by the next opening.
    ///
    /// # Errors
    /// Those of the engine; the store must be opened again.
    fn wipe(&mut self) -> Result<(), StateStoreError>;

    /// Stops cleanly: everything is made durable, then the clean-stop marker is set. A store that is only dropped counts
    /// as crashed.
    ///
    /// # Errors
    /// Those of the engine or the disk; the next opening then decides by the markers that are there.
    fn close(self: Box<Self>) -> Result<(), StateStoreError>;
}

/// The engine below a state store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34: in simulated power cuts its stores came back empty, so it is rebuilt after an unclean stop of the machine.
    Sled,
    /// fjall 3: recovers a consistent prefix after a power cut, but is rebuilt then all the same: that prefix may be ahead of
    /// the archive's.
    Fjall,
}

/// How a state store is opened.
#[derive(Debug, Clone)]
pub struct StateStoreOptions {
    /// The folder of this store alone; made if it is missing.
    pub dir: PathBuf,
    /// The engine. A folder written by another engine is rebuilt.
    pub engine: Engine,
    /// The engine's page cache in bytes. All partitions of a node together should stay below 128 MiB.
    pub cache_bytes: u64,
    /// This boot of the machine ([`BootId::current`]).
    pub boot_id: BootId,
}

/// An open store, and whether it holds what it held.
pub struct OpenedStore {
    /// The store, empty unless [`Opened::Kept`].
    pub store: Box<dyn StateStore>,
    /// What the caller must do about its rows.
    pub opened: Opened,
}

/// Opens the state store of a partition by the rebuild rules of [`Opened`].
///
/// # Errors
/// [`StateStoreError::Locked`] if another process has it, [`StateStoreError::Io`] if even a fresh store cannot be made.
pub fn open_state_store(options: &StateStoreOptions) -> Result<OpenedStore, StateStoreError> {
    match options.engine {
        Engine::Sled => {
            let (store, opened) = SledStateStore::open(options)?;
            Ok(OpenedStore {
                store: Box::new(store),
                opened,
            })
        }
        Engine::Fjall => {
            let (store, opened) = FjallStateStore::open(options)?;
            Ok(OpenedStore {
                store: Box::new(store),
                opened,
            })
        }
    }
}

/// What can go wrong with a state store. All but [`TooLong`](Self::TooLong) and [`Locked`](Self::Locked) mean: drop it and
/// open it again, which rebuilds it if need be.
#[derive(Debug, Error)]
pub enum StateStoreError {
    /// A key or value over its limit; the batch was refused as a whole.
    #[error("a {what} of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// `key` or `value`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another process has the store open.
    #[error("the state store is in use by another process")]
    Locked,
    /// A row is incomplete or nonsense.
    #[error("the state store is damaged: {0}")]
    Damaged(&'static str),
    /// An earlier call failed, so nothing here can be trusted.
    #[error("the state store failed before and was not opened again")]
    Failed,
    /// The engine panicked.
    #[error("the engine of the state store panicked: {0}")]
    Panicked(String),
    /// The engine reports an error.
    #[error("the engine of the state store failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk reports an error.
    #[error("the state store cannot use its folder")]
    Io(#[from] std::io::Error),
}
