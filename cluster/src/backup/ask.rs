//! What the node that an operator asks says to the owners of partitions, and hears of them. Frames of the BULK lane.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::codec::Record;

use super::block::RowPlace;

/// The kind of these frames. The lower ones are Raft's.
pub const FRAME_KIND: u8 = 32;

/// What one answer carries, but for the end of its last row or entry.
pub const PART_BYTES: usize = 1 << 20;

/// What one frame carries of an answer: an entry may be longer than a frame.
pub const FRAME_BYTES: usize = 1 << 20;

/// Names a backup.
pub type BackupId = [u8; 16];

/// A question about one partition, which the frame names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAsk {
    /// Which backup.
    pub backup: BackupId,
    /// What is asked.
    pub what: BackupQuestion,
    /// Bytes of the answer that are there already.
    pub skip: u32,
}

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupQuestion {
    /// State and archive, as they are now or a little later, are to be kept for the backup. Only a leader does.
    Capture,
    /// A part of the state's file.
    State {
        /// Where it begins.
        offset: u64,
    },
    /// Rows of the archive.
    Rows {
        /// Those behind this place.
        after: Option<RowPlace>,
    },
    /// Up to which entry the log is committed. Only a leader knows.
    End,
    /// Entries of the log.
    Entries {
        /// Those behind this index.
        after: u64,
        /// Up to this one.
        upto: u64,
    },
    /// What was captured is still wanted, in all partitions.
    Touch,
    /// What was captured is wanted no more, in all partitions.
    Release,
}

/// A part of an answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupReply {
    /// Bytes of a [`BackupAnswer`] or of what was asked for.
    Part {
        /// Bytes of all parts.
        total: u32,
        /// This part.
        bytes: Bytes,
    },
    /// Another node leads, or nobody does: the next one is asked.
    NotLeader,
    /// It can't be done, in words.
    Refused(String),
}

/// An answer that is more than bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupAnswer {
    /// State and archive at this index are kept.
    Captured {
        /// The last entry that they have.
        index: u64,
        /// Bytes of the state's file.
        state_bytes: u64,
    },
    /// The log is committed and applied up to here.
    Ended {
        /// The last entry.
        index: u64,
    },
    /// It is done.
    Done,
}

macro_rules! records {
    ($($record:ident $name:literal;)*) => {
        $(impl Record for $record {
            const VERSION: u8 = 1;
            const NAME: &'static str = $name;
        })*
    };
}

records! {
    BackupAsk "backup-ask";
    BackupReply "backup-reply";
    BackupAnswer "backup-answer";
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::golden;

    #[test]
    fn golden_bytes() {
        let ask = BackupAsk {
            backup: [7; 16],
            what: BackupQuestion::Rows {
                after: Some(RowPlace {
                    is_event: false,
                    key: "juliet@localhost".into(),
                    seq: 9,
                }),
            },
            skip: 5,
        };
        golden!("../../tests/goldens/backup.txt", &ask);
        let reply = BackupReply::Part {
            total: 9,
            bytes: Bytes::from_static(b"part"),
        };
        golden!("../../tests/goldens/backup.txt", &reply);
        let answer = BackupAnswer::Captured {
            index: 17,
            state_bytes: 4_096,
        };
        golden!("../../tests/goldens/backup.txt", &answer);
    }
}
