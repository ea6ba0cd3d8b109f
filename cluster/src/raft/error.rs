//! What can go wrong, by what the caller can do about it.

use openraft::errors::Fatal;

use super::type_config::TypeConfig;
use crate::node_id::{Group, NodeId};

/// The groups could not be started, or one of them could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// Settings that contradict each other.
    #[error("the Raft settings are wrong: {0}")]
    Settings(String),
    /// The runtime's threads could not be started.
    #[error("Raft's threads could not be started")]
    Runtime(#[source] std::io::Error),
    /// A group's machine could not be opened, or its mark not be read.
    #[error("the state of {group} cannot be used")]
    Machine {
        /// The group.
        group: Group,
        /// Why.
        #[source]
        source: MachineError,
    },
    /// The log could not do it.
    #[error("the log of {group} failed")]
    Log {
        /// The group.
        group: Group,
        /// Why.
        #[source]
        source: storage::log::LogError,
    },
    /// The group has stopped for good: its disk or its machine failed.
    #[error("{group} has stopped: {reason}")]
    Stopped {
        /// The group.
        group: Group,
        /// Why.
        reason: String,
    },
    /// The node runs no such group.
    #[error("there is no {0} on this node")]
    NoGroup(Group),
    /// The members must include this node, each once, and there must be at least one.
    #[error("{0} is not among the voters")]
    NotAVoter(NodeId),
    /// Membership can only be changed where the group is led.
    #[error("{group} is led elsewhere")]
    NotLeader {
        /// The group.
        group: Group,
        /// Where, if known.
        leader: Option<NodeId>,
    },
    /// The change is not possible now; nothing was changed.
    #[error("the members of {group} cannot be changed so: {reason}")]
    Membership {
        /// The group.
        group: Group,
        /// Why.
        reason: String,
    },
    /// Nobody has taken the leadership over in time.
    #[error("{to} has not taken {group} over")]
    NotTakenOver {
        /// The group.
        group: Group,
        /// Who was to.
        to: NodeId,
    },
    /// It did not happen in the time given.
    #[error("{group} was not ready in time")]
    Timeout {
        /// The group.
        group: Group,
    },
}

impl GroupsError {
    pub(crate) fn stopped(group: Group, fatal: &Fatal<TypeConfig>) -> GroupsError {
        GroupsError::Stopped {
            group,
            reason: fatal.to_string(),
        }
    }
}

/// A machine failed; its group stops on this node.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct MachineError {
    /// What it could not do.
    pub what: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl MachineError {
    /// A failure of the machine's own making.
    pub fn new(what: impl Into<String>) -> MachineError {
        MachineError {
            what: what.into(),
            source: None,
        }
    }

    /// A failure with a cause.
    pub fn caused(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> MachineError {
        MachineError {
            what: what.into(),
            source: Some(source.into()),
        }
    }
}

/// A submission did not succeed. [`SubmitError::Unknown`] is the only one that may still commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// Another node leads, or nobody does: surely not proposed.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// Too much waits already, or the disk is full: surely not proposed.
    #[error("the group takes no more now")]
    Busy,
    /// The payload is over [`payload_bytes_max`](super::RaftSettings::payload_bytes_max): surely not proposed.
    #[error("a payload of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// It may have been committed, or may yet be.
    #[error("the outcome is unknown")]
    Unknown,
}

/// A read barrier was not reached; reading now could show the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or nobody does.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed in time that this node still leads.
    #[error("no quorum answered in time")]
    NoQuorum,
    /// Too many reads wait already.
    #[error("too many reads wait")]
    Busy,
    /// The group has stopped on this node.
    #[error("the group has stopped on this node")]
    Stopped,
}
