//! Raft's requests from other nodes: decoded, checked against who sent them, and given to the group.
//!
//! What is malformed, sent in another node's name or about a group we don't run is dropped unanswered; the transport
//! tells the sender at once.

use std::sync::Arc;

use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use storage::codec::{CodecError, Record, decode_frame, encode_frame};

use super::group::GroupNode;
use super::network::{SMALL_MESSAGE_MAX, kind};
use super::quarantine;
use super::record::{
    AppendReply, AppendRequest, EntryRecord, LogIdRecord, ReelectQuery, TransferQuery,
    TransferReply, VoteQuery, VoteRecord, VoteReply,
};
use super::type_config::{self, LogId, TypeConfig, Vote};
use crate::node_id::NodeId;
use crate::transport::{Frame, Reply};

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("it speaks for {0}")]
    Forged(NodeId),
    #[error("unknown kind {0}")]
    UnknownKind(u8),
    #[error("no room on disk")]
    NoRoom,
    #[error("the group has stopped: {0}")]
    Stopped(#[from] Fatal<TypeConfig>),
}

impl From<RaftError<TypeConfig>> for Refusal {
    fn from(error: RaftError<TypeConfig>) -> Refusal {
        match error {
            RaftError::Fatal(fatal) => Refusal::Stopped(fatal),
            RaftError::APIError(never) => match never {},
        }
    }
}

/// Answers one request.
pub(crate) async fn serve(node: Arc<GroupNode>, from: NodeId, frame: Frame, reply: Reply) {
    let answer = match frame.kind {
        kind::APPEND | kind::APPEND_SHARED => append(&node, from, &frame).await,
        kind::VOTE => vote(&node, from, &frame, false).await,
        kind::PRE_VOTE => vote(&node, from, &frame, true).await,
        kind::TRANSFER => transfer(&node, from, &frame).await,
        kind::REELECT => reelect(&node, from, &frame).await,
        other => Err(Refusal::UnknownKind(other)),
    };
    match answer {
        Ok(body) => {
            let answer = Frame {
                kind: frame.kind,
                partition: frame.partition,
                body: body.into(),
                ..Frame::default()
            };
            if let Err(error) = reply.send(answer) {
                tracing::debug!(group = %node.shared.group, %from, %error, "a Raft answer was not sent");
            }
        }
        Err(refusal) => {
            tracing::debug!(group = %node.shared.group, %from, kind = frame.kind, %refusal, "a Raft request is refused");
        }
    }
}

fn answer<T: Record>(reply: &T) -> Result<Vec<u8>, Refusal> {
    Ok(encode_frame(reply, SMALL_MESSAGE_MAX)?)
}

/// A request speaks in the name of the node that its vote names.
fn check_sender(from: NodeId, vote: VoteRecord) -> Result<(), Refusal> {
    if vote.node == from.0 {
        Ok(())
    } else {
        Err(Refusal::Forged(NodeId(vote.node)))
    }
}

async fn append(node: &GroupNode, from: NodeId, frame: &Frame) -> Result<Vec<u8>, Refusal> {
    let bytes_max = u64::try_from(node.shared.settings.message_bytes_max()).unwrap_or(u64::MAX);
    let request: AppendRequest = decode_frame(&frame.body, bytes_max)?;
    check_sender(from, request.vote)?;
    let payload = |sent: &super::record::SentEntry| match &sent.entry {
        EntryRecord::Command(bytes) => bytes.len(),
        EntryRecord::Blank | EntryRecord::Membership(_) => 0,
    };
    // openraft takes a refused append for a broken disk and stops the group; the leader just tries again later.
    if !request.entries.is_empty()
        && !node
            .shared
            .log
            .has_room(request.entries.iter().map(payload).sum())
    {
        return Err(Refusal::NoRoom);
    }
    if let Some(last) = request.entries.last() {
        let shares = frame.kind == kind::APPEND_SHARED;
        node.shared.log.shares(shares.then_some(last.id));
    }
    let rpc = AppendEntriesRequest {
        vote: Vote::from(request.vote),
        prev_log_id: request.prev.map(LogId::from),
        entries: request
            .entries
            .into_iter()
            .map(|sent| type_config::entry(sent.id, sent.entry))
            .collect(),
        leader_commit: request.committed.map(LogId::from),
    };
    let response = node.raft().append_entries(rpc).await?;
    if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
        node.shared.hear_leader(from);
    }
    let reply = match response {
        AppendEntriesResponse::Success => {
            if let Some(index) = request.purge_floor {
                node.shared.learn_purge_floor(index);
            }
            if let Some(committed) = request.committed {
                quarantine::learn_commit(&node.shared, request.vote, committed);
            }
            AppendReply::Success {
                quarantined: node.shared.is_quarantined(),
            }
        }
        AppendEntriesResponse::PartialSuccess(upto) => {
            AppendReply::Partial(upto.as_ref().map(LogIdRecord::from))
        }
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(VoteRecord::from(&vote)),
    };
    answer(&reply)
}

async fn vote(
    node: &GroupNode,
    from: NodeId,
    frame: &Frame,
    is_pre_vote: bool,
) -> Result<Vec<u8>, Refusal> {
    let query: VoteQuery = decode_frame(&frame.body, SMALL_MESSAGE_MAX)?;
    check_sender(from, query.vote)?;
    let response = if node.shared.is_quarantined() {
        VoteResponse::new(node.vote(), None, false)
    } else {
        let mut rpc = VoteRequest::new(Vote::from(query.vote), query.last.map(LogId::from));
        rpc.leadership_transfer = query.transfer;
        if is_pre_vote {
            node.raft().pre_vote(rpc).await?
        } else {
            node.raft().vote(rpc).await?
        }
    };
    answer(&VoteReply {
        vote: VoteRecord::from(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(LogIdRecord::from),
    })
}

async fn transfer(node: &GroupNode, from: NodeId, frame: &Frame) -> Result<Vec<u8>, Refusal> {
    let query: TransferQuery = decode_frame(&frame.body, SMALL_MESSAGE_MAX)?;
    check_sender(from, query.from)?;
    let refused = TransferReply::LogNotFlushed {
        expected: query.last,
        actual: None,
    };
    if node.shared.is_quarantined() {
        // It must neither campaign nor vote, so it has no part in this.
        return answer(&refused);
    }
    let rpc = TransferLeaderRequest::new(
        Vote::from(query.from),
        NodeId(query.to),
        query.last.map(LogId::from),
    );
    answer(&match node.raft().handle_transfer_leader(rpc).await? {
        Ok(()) => TransferReply::Accepted,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferReply::VoteChanged {
            expected: (&expected).into(),
            actual: (&actual).into(),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            TransferReply::LogNotFlushed {
                expected: expected.as_ref().map(LogIdRecord::from),
                actual: actual.as_ref().map(LogIdRecord::from),
            }
        }
    })
}

async fn reelect(node: &GroupNode, from: NodeId, frame: &Frame) -> Result<Vec<u8>, Refusal> {
    let query: ReelectQuery = decode_frame(&frame.body, SMALL_MESSAGE_MAX)?;
    answer(&quarantine::hand_over_for(node, from, query.vote).await?)
}
