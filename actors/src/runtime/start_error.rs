//! Why a node doesn't start, each a sentence for the operator.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::node_id::NodeId;
use cluster::raft::GroupsError;
use cluster::transport::TransportError;
use storage::archive::ArchiveError;
use storage::data_dir::DataDirError;
use storage::log::LogError;

/// Why a node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that clients would use is not to be had.
    #[error("the client port {address} can't be opened: {source}")]
    ClientPort {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster port is not to be had, or its certificates are no good.
    #[error("the cluster port can't be opened: {0}")]
    Cluster(#[from] TransportError),
    /// The log can't be opened.
    #[error("the log in {} can't be opened: {source}", path.display())]
    Log {
        /// Its folder.
        path: std::path::PathBuf,
        /// Why.
        source: LogError,
    },
    /// The data folder can't be written.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The archive can't be opened.
    #[error("the archive can't be opened: {0}")]
    Archive(#[from] ArchiveError),
    /// Raft didn't start.
    #[error("the replicas can't be started: {0}")]
    Groups(#[from] GroupsError),
    /// Too few members could be reached.
    #[error(
        "no quorum: after {waited:?} no majority of the members ({members}) could be reached; start more of them"
    )]
    NoQuorum {
        /// For how long.
        waited: Duration,
        /// Who they are.
        members: String,
    },
    /// The others have seen this node begin with another data folder.
    #[error(
        "the data folder {} is empty, but {witness} has seen {node} begin with another one: a node that has lost its \
         folder has forgotten what it promised; put the old folder back, or bring the machine in under a new id",
        path.display()
    )]
    BegunBefore {
        /// This node.
        node: NodeId,
        /// Who has seen it.
        witness: NodeId,
        /// The folder.
        path: std::path::PathBuf,
    },
    /// Too few members could be asked whether this node has begun before.
    #[error(
        "no quorum: a node that starts for the first time asks the others whether they know it with another data folder, \
         and after {waited:?} answers of {missing} more were missing ({silent}); start them too"
    )]
    FirstStartUnheard {
        /// For how long.
        waited: Duration,
        /// How many more answers are needed.
        missing: usize,
        /// Who did not answer.
        silent: String,
    },
    /// The log has lost records, and no other nodes can say which.
    #[error(
        "the log in {} was damaged: what {groups} Raft group(s) had recorded last may be lost, and a pool of {nodes} node(s) has no \
         others to prove what is missing; put back a copy of the whole data folder, of the time when the pool was stopped",
        path.display()
    )]
    DamagedLog {
        /// Its folder.
        path: std::path::PathBuf,
        /// How many groups are concerned.
        groups: usize,
        /// How many nodes the pool has.
        nodes: usize,
    },
    /// The pool was made with another description.
    #[error(
        "the pool file differs from the one this pool was made with: every node must have the same"
    )]
    OtherPool,
    /// An operator has removed this node.
    #[error(
        "{0} was removed from the pool, and its id is never used again: bring the machine in as a new node with an empty \
         data folder"
    )]
    Removed(NodeId),
    /// The build does not support the version that the pool is at.
    #[error("{0}")]
    VersionSkew(String),
    /// The others don't know this node.
    #[error(
        "after {waited:?} the pool has not let this node in ({by}): {node} was removed, or was never added"
    )]
    NotAMember {
        /// This node.
        node: NodeId,
        /// For how long.
        waited: Duration,
        /// Who refuse it.
        by: String,
    },
    /// A thread or runtime could not be made.
    #[error("a runtime can't be started: {0}")]
    Runtime(std::io::Error),
}
