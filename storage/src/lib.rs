//! What a node keeps on disk: the only crate that knows the disk, fjall, sled and bincode.
//!
//! | module | holds | if it is lost |
//! |---|---|---|
//! | [`archive`] | every message and event, as (key, sequence) → record | fetched from another replica |
//! | [`log`] | the Raft log of all groups of the node | the node is replaced |
//! | [`state_store`] | a partition's mutable state as rows | rebuilt from snapshot and log |
//! | [`snapshot`] | a partition's state at one index, as one file | fetched from another replica |
//!
//! [`codec`] fixes the bytes of every stored or sent struct; [`block_file`] puts records into files that travel;
//! [`data_dir`] says where all of it lies and whose it is; [`process`] reads what the system says of this process.

mod durable;
mod engine;

pub mod archive;
pub mod block_file;
pub mod codec;
pub mod data_dir;
pub mod log;
pub mod process;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod snapshot;
pub mod state_store;
pub mod working_copy;
