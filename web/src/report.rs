//! What the control port says about a pool. Clients of the port read the same types back.
//!
//! - [`access`]: operators, tokens, the audit log.
//! - [`console`]: what the console page asks besides.
//! - [`backup`]: what is needed to fetch a backup.
//! - [`imports`]: accounts from other servers.
//! - [`cluster`]: the versions of the pool and of its nodes.
//! - [`join`]: what a machine that joins says and hears.
//! - [`nodes`]: members, and what is done with them.

pub mod access;
pub mod backup;
pub mod cluster;
pub mod console;
pub mod imports;
pub mod join;
pub mod nodes;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::cluster::VersionSpan;

/// A pool as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolReport {
    /// The pool's id.
    pub pool: String,
    /// The domain of its users.
    pub domain: String,
    /// The node that says all this.
    pub node: u64,
    /// Which life of that node's process this is; 0 while the pool has not counted it yet.
    pub incarnation: u64,
    /// The build of the program.
    pub version: String,
    /// The versions of the pool that this build supports.
    pub supports: VersionSpan,
    /// The version that the pool is at, as far as the node has heard.
    pub pool_version: u16,
    /// How long the process has run, in seconds.
    pub uptime_s: u64,
    /// Sessions with a bound resource on this node.
    pub sessions: u64,
    /// All members of the pool.
    pub members: Vec<MemberReport>,
    /// All partitions.
    pub partitions: Vec<PartitionReport>,
}

/// A member of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberReport {
    /// Its id.
    pub id: u64,
    /// Where other nodes reach it.
    pub address: String,
    /// Whether the reporting node is connected to it.
    pub connected: bool,
    /// Whether anybody has lately heard of it.
    pub alive: bool,
    /// How it stands to the quorum, as it says: `in-touch`, `no-quorum`, `no-logins`, `cut-off` or `stopping`; nothing if
    /// it is not heard of.
    pub standing: Option<String>,
    /// The members that it has connections to, as it says.
    pub reaches: Vec<u64>,
    /// Through which member the reporting node reaches it, if not by itself.
    pub relay: Option<u64>,
}

/// A partition of the pool's users and rooms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionReport {
    /// Its number.
    pub id: u32,
    /// The node that owns it, if one is known.
    pub owner: Option<u64>,
    /// The owner's reign; 0 if there was none yet.
    pub epoch: u64,
    /// The leader of its Raft group, if one is known: the owner, or about to be.
    pub leader: Option<u64>,
    /// The newest term of its Raft group that the node knows.
    pub term: u64,
    /// The nodes with a vote.
    pub voters: Vec<u64>,
    /// Up to where the reporting node has applied the log.
    pub applied: Option<u64>,
    /// Up to where the log is known to be committed.
    pub committed: Option<u64>,
    /// The end of the reporting node's log.
    pub last_log: Option<u64>,
    /// Whether the reporting node's replica is damaged and gives no vote.
    pub quarantined: bool,
}

/// What one node's replica of a partition holds. Replicas with the same `applied` have the same in all other fields, or one
/// of them is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HashReport {
    /// The partition's number.
    pub partition: u16,
    /// Up to where the replica had applied the log.
    pub applied: u64,
    /// Rows of the replicated state.
    pub state_rows: u64,
    /// SHA-256 over them, in hexadecimal digits.
    pub state: String,
    /// Rows of the archive.
    pub archive_rows: u64,
    /// SHA-256 over them, in hexadecimal digits.
    pub archive: String,
}

/// A page of accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsersPage {
    /// Their addresses, in order.
    pub users: Vec<String>,
    /// What to give as `after` for the next page; nothing on the last one.
    pub next: Option<String>,
}

/// What every refusal looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusalReport {
    /// A word for programs; see [`crate::error`].
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// What a new account is made of.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The address, `alice@example.org`.
    pub user: String,
    /// The password.
    pub password: String,
}

/// A password on its way to an account.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The password.
    pub password: String,
}

/// Whether a node can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the node is in touch with a quorum of the pool.
    pub quorum: bool,
    /// Whether it is about to end.
    pub stopping: bool,
    /// Whether an operator wants it empty of sessions.
    pub draining: bool,
    /// Whether its log takes no entries because its disk is full.
    pub log_full: bool,
    /// Groups that have stopped on the node after an error.
    pub groups_failed: u16,
    /// Partitions of which the node knows an owner.
    pub partitions_owned: u16,
    /// All partitions.
    pub partitions: u16,
}

impl Readiness {
    /// Why the node is not ready; `None` if it is.
    pub fn refusal(&self) -> Option<String> {
        let Readiness {
            quorum,
            stopping,
            draining,
            log_full,
            groups_failed,
            partitions_owned,
            partitions,
        } = *self;
        let sentences = [
            (stopping, "this node is stopping"),
            (draining, "this node is drained: it takes no sessions"),
            (
                !quorum,
                "no quorum: this node is not in touch with a majority of the pool",
            ),
            (
                log_full,
                "the disk of the log is full: this node takes no changes until there is room",
            ),
        ];
        if let Some((_, sentence)) = sentences.into_iter().find(|(is_so, _)| *is_so) {
            return Some(sentence.to_owned());
        }
        if groups_failed > 0 {
            return Some(format!(
                "{groups_failed} of this node's groups have stopped after an error of a store, which the log names: \
                 mend it and restart this node"
            ));
        }
        (partitions_owned < partitions).then(|| {
            format!(
                "{} of {partitions} partitions have no owner yet",
                partitions - partitions_owned
            )
        })
    }
}
