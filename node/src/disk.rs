//! The data folder's disk: what an operator is told when a node can't go on or can't start because it is full.

use std::path::{Path, PathBuf};

use cluster::raft::OnFailure;
use storage::log::{LogDisk, SystemDisk};

use crate::exit::{Exit, Failure};

/// Below this nothing can be started, whatever the setting.
const LEAST_TO_START: u64 = 16 << 20;

/// The disk of a data folder, and how much of it the node keeps free.
#[derive(Clone, Debug)]
pub(crate) struct DataDisk {
    folder: PathBuf,
    reserve: u64,
}

impl DataDisk {
    /// The disk of this folder.
    pub(crate) fn new(folder: &Path, reserve: u64) -> DataDisk {
        DataDisk {
            folder: folder.to_owned(),
            reserve: reserve.max(LEAST_TO_START),
        }
    }

    /// Adds to a failure that the disk is full, if it is: few errors of a full disk say which, and what to do.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match SystemDisk.free_bytes(&self.folder) {
            Ok(free) if free < self.reserve => failure.and(&format!(
                "; the disk of {} is full ({} MiB free): free at least {} MiB and start the node again",
                self.folder.display(),
                free >> 20,
                self.reserve >> 20,
            )),
            // Not full, or not there at all: the failure itself says what it met.
            _ => failure,
        }
    }

    /// Ends the process when a group fails: the others take over, and the next start begins from what is on disk.
    pub(crate) fn on_failure(self) -> OnFailure {
        OnFailure::new(move |group, reason| {
            let message = format!(
                "this node can't go on and ends, the others take over: {group} failed: {reason}"
            );
            let failure = self.explain(Failure::new(Exit::Data, message));
            tracing::error!("{failure}");
            std::process::exit(Exit::Data as i32)
        })
    }
}
