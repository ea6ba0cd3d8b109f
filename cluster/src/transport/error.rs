//! The transport's errors, one enum per thing a caller does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::node_id::NodeId;
use crate::transport::frame::FrameTooLarge;
use crate::transport::hello::HelloError;

/// The transport could not start, or its certificates could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The cluster port could not be opened.
    #[error("cannot listen for other nodes on {address}: {source}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key could not be read.
    #[error("cannot read the cluster {what}: {reason}")]
    Pem {
        /// Which of the files.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates and the key do not make a TLS identity.
    #[error("the cluster certificates cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The pool's CA cannot anchor a verification.
    #[error("the pool's CA certificate cannot be used: {0}")]
    Ca(#[from] rustls::server::VerifierBuilderError),
    /// The certificate is not this node's.
    #[error("the cluster certificate must name {expected}: {reason}")]
    WrongName {
        /// The name it must carry.
        expected: String,
        /// What it carries instead.
        reason: String,
    },
    /// The limits contradict each other.
    #[error("the transport's limits are wrong: {0}")]
    Limits(&'static str),
}

/// A frame was not queued; the peer surely never gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The lane's byte budget is used up.
    #[error("the queue is full")]
    Full,
    /// The node is not among the peers.
    #[error("{0} is not a peer")]
    NoPeer(NodeId),
    /// The lane has no connection now.
    #[error("not connected")]
    Disconnected,
    /// The body exceeds what the lane allows.
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
}

/// A call brought no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The request was never sent.
    #[error("not sent: {0}")]
    NotSent(#[from] SendError),
    /// The connection ended first: whether the peer acted is unknown.
    #[error("the connection ended before the reply")]
    Lost,
    /// No reply in time: whether the peer acted is unknown.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The peer's handler dropped the request without an answer.
    #[error("the peer gave no reply")]
    NoReply,
}

impl CallError {
    /// Whether the peer may have acted on the request all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        !matches!(self, CallError::NotSent(_))
    }
}

/// A probe did not reach the process.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The node is not among the peers.
    #[error("{0} is not a peer")]
    NoPeer(NodeId),
    /// A connection, or its TLS or hello, failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Nothing answered in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// A connection to a peer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address did not resolve or did not answer.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where to.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake failed: a foreign CA, an expired certificate or another node's.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// The hello was refused, by them or by us.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The connection broke during the hello.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// Connecting or the handshake took too long.
    #[error("no answer to {step} within {limit:?}")]
    Timeout {
        /// What was waited for.
        step: &'static str,
        /// The limit.
        limit: Duration,
    },
}
