//! What Raft keeps on disk and sends to other nodes, as structs of our own with versions.
//!
//! openraft's layouts change between its releases, so none of them is ever stored or sent. Every struct here is a
//! [`Record`]: a new layout is a new struct with a new version. The conversions from and to openraft's types stand in
//! [`super::type_config`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::codec::Record;

/// Who a term's vote went to, and whether a quorum made that node the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteRecord {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

/// The place of an entry: terms never repeat a leader, so term and index name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogIdRecord {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// Voters (two sets during a joint change) and all members, learners included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    pub(crate) voters: Vec<Vec<u64>>,
    pub(crate) members: Vec<u64>,
}

/// What an entry of the log holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EntryRecord {
    /// A new leader's first entry.
    Blank,
    /// What was submitted.
    Command(Bytes),
    /// A change of members.
    Membership(MembershipRecord),
}

// Commands hold messages: they are never printed.
impl std::fmt::Debug for EntryRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryRecord::Blank => f.write_str("Blank"),
            EntryRecord::Command(bytes) => write!(f, "Command({} bytes)", bytes.len()),
            EntryRecord::Membership(membership) => write!(f, "Membership({membership:?})"),
        }
    }
}

/// How far a machine has applied its log, and the membership as of there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MarkRecord {
    pub(crate) applied: LogIdRecord,
    pub(crate) membership_at: Option<LogIdRecord>,
    pub(crate) membership: MembershipRecord,
}

/// An entry on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentEntry {
    pub(crate) id: LogIdRecord,
    pub(crate) entry: EntryRecord,
}

/// A leader's entries and heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppendRequest {
    pub(crate) vote: VoteRecord,
    pub(crate) prev: Option<LogIdRecord>,
    pub(crate) committed: Option<LogIdRecord>,
    /// No member will be sent entries up to here: it has them, or lags so far that it gets a snapshot. So a follower may purge
    /// up to it.
    pub(crate) purge_floor: Option<u64>,
    pub(crate) entries: Vec<SentEntry>,
}

/// The follower's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendReply {
    /// All of it is on disk.
    Success {
        /// The replica is quarantined: it can't take over.
        quarantined: bool,
    },
    /// The log is on disk up to here.
    Partial(Option<LogIdRecord>),
    /// The follower's log has another entry at `prev`, or none.
    Conflict,
    /// The follower knows a later leader or candidate.
    HigherVote(VoteRecord),
}

/// A candidate's request, in a vote or a pre-vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteQuery {
    pub(crate) vote: VoteRecord,
    pub(crate) last: Option<LogIdRecord>,
    /// The leader itself asked the candidate to take over, so its lease does not count.
    pub(crate) transfer: bool,
}

/// The voter's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteReply {
    pub(crate) vote: VoteRecord,
    pub(crate) granted: bool,
    pub(crate) last: Option<LogIdRecord>,
}

/// A leader tells all voters who shall take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferQuery {
    pub(crate) from: VoteRecord,
    pub(crate) to: u64,
    pub(crate) last: Option<LogIdRecord>,
}

/// Whether the one who shall take over can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferReply {
    Accepted,
    VoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    LogNotFlushed {
        expected: Option<LogIdRecord>,
        actual: Option<LogIdRecord>,
    },
}

/// A quarantined replica asks its leader for an election without it; see [`super::quarantine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReelectQuery {
    pub(crate) vote: VoteRecord,
}

/// Whether the leader hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReelectReply {
    pub(crate) accepted: bool,
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
    VoteRecord "raft-vote";
    LogIdRecord "raft-log-id";
    EntryRecord "raft-entry";
    MarkRecord "raft-mark";
    AppendRequest "raft-append-request";
    AppendReply "raft-append-reply";
    VoteQuery "raft-vote-query";
    VoteReply "raft-vote-reply";
    TransferQuery "raft-transfer-query";
    TransferReply "raft-transfer-reply";
    ReelectQuery "raft-reelect-query";
    ReelectReply "raft-reelect-reply";
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogIdRecord = LogIdRecord {
        term: 3,
        index: 0x0102,
    };
    const VOTE: VoteRecord = VoteRecord {
        term: 7,
        node: 2,
        committed: true,
    };

    fn membership() -> MembershipRecord {
        MembershipRecord {
            voters: vec![vec![1, 2, 3], vec![2, 3, 4]],
            members: vec![1, 2, 3, 4, 9],
        }
    }

    #[test]
    fn stored_and_sent_layouts_are_fixed() {
        storage::golden!("../../tests/goldens/raft.txt", &VOTE);
        storage::golden!("../../tests/goldens/raft.txt", &ID);
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &EntryRecord::Membership(membership())
        );
        storage::golden!(
            "../../tests/goldens/raft-command.txt",
            &EntryRecord::Command(Bytes::from_static(b"abc"))
        );
        storage::golden!("../../tests/goldens/raft-blank.txt", &EntryRecord::Blank);
        let mark = MarkRecord {
            applied: ID,
            membership_at: Some(ID),
            membership: membership(),
        };
        storage::golden!("../../tests/goldens/raft.txt", &mark);
        let entry = SentEntry {
            id: ID,
            entry: EntryRecord::Blank,
        };
        let append = AppendRequest {
            vote: VOTE,
            prev: Some(ID),
            committed: None,
            purge_floor: Some(9),
            entries: vec![entry],
        };
        storage::golden!("../../tests/goldens/raft.txt", &append);
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &AppendReply::Partial(Some(ID))
        );
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &VoteQuery {
                vote: VOTE,
                last: None,
                transfer: true
            }
        );
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &VoteReply {
                vote: VOTE,
                granted: true,
                last: Some(ID)
            }
        );
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &TransferQuery {
                from: VOTE,
                to: 3,
                last: Some(ID)
            }
        );
        let refused = TransferReply::LogNotFlushed {
            expected: Some(ID),
            actual: None,
        };
        storage::golden!("../../tests/goldens/raft.txt", &refused);
        storage::golden!("../../tests/goldens/raft.txt", &ReelectQuery { vote: VOTE });
        storage::golden!(
            "../../tests/goldens/raft.txt",
            &ReelectReply { accepted: true }
        );
    }

    #[test]
    fn debug_never_shows_a_command() {
        let shown = format!(
            "{:?}",
            EntryRecord::Command(Bytes::from_static(b"secret words"))
        );
        assert_eq!(shown, "Command(12 bytes)");
    }
}
