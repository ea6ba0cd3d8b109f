//! The log of a node that begins a pool with a state: as if it had purged all behind which the state stands.

use std::io;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use storage::codec::{Record, encode, encode_frame};
use storage::log::{GroupId, Log, LogError, LogOptions};

use super::log_store::SMALL_BYTES_MAX;
use super::record::{LogIdRecord, MarkRecord, MembershipRecord, VoteRecord};
use crate::node_id::{Group, NodeId};

/// The term of all that a new pool begins with.
const FIRST_TERM: u64 = 1;

/// The mark of a state that stands at an index, of a group with one voter.
///
/// # Errors
/// Never in practice: a mark is small.
pub fn founding_mark(index: u64, voter: NodeId) -> io::Result<Bytes> {
    let applied = LogIdRecord {
        term: FIRST_TERM,
        index,
    };
    let mark = MarkRecord {
        applied,
        membership_at: Some(applied),
        membership: MembershipRecord {
            voters: vec![vec![voter.0]],
            members: vec![voter.0],
        },
    };
    encode(&mark).map(Bytes::from).map_err(io::Error::other)
}

/// Writes the log of a node whose groups stand at these indexes. The folder must hold none.
///
/// # Errors
/// Those of the log.
pub fn found_log(
    folder: &Path,
    options: LogOptions,
    voter: NodeId,
    groups: &[(Group, u64)],
) -> Result<(), LogError> {
    let (log, recovered) = Log::open(folder, options)?;
    debug_assert!(recovered.fresh, "the folder of a new node holds no log");
    let (told, written) = mpsc::channel();
    for (group, index) in groups {
        let id = GroupId(group.0);
        let place = LogIdRecord {
            term: FIRST_TERM,
            index: *index,
        };
        let vote = VoteRecord {
            term: FIRST_TERM,
            node: voter.0,
            committed: true,
        };
        let done = |told: &mpsc::Sender<_>| {
            let told = told.clone();
            move |result| drop(told.send(result))
        };
        log.save_vote(id, small(&vote)?, done(&told));
        log.purge(id, *index, small(&place)?, done(&told));
        log.save_committed(id, small(&place)?);
    }
    drop(told);
    for result in written {
        result?;
    }
    log.close();
    Ok(())
}

fn small<T: Record>(record: &T) -> Result<Bytes, LogError> {
    let bytes = encode_frame(record, SMALL_BYTES_MAX);
    bytes.map(Bytes::from).map_err(|error| LogError::Io {
        action: "encode a record",
        source: io::Error::other(error),
    })
}
