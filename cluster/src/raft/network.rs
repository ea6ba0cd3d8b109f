//! Raft's requests to other nodes, over the RAFT lane.
//!
//! A request is one call of the transport: the frame's kind says which, its partition field holds the group, the body is
//! a record of [`super::record`]. Pre-votes and handovers are real requests; openraft's defaults would grant the one
//! and drop the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};
use storage::codec::{CodecError, Record, decode_frame, encode_frame};
use tokio::time::Instant;

use super::notices::notices_wait;
use super::record::{
    AppendReply, AppendRequest, LogIdRecord, SentEntry, TransferQuery, TransferReply, VoteQuery,
    VoteRecord, VoteReply,
};
use super::shared::GroupShared;
use super::transfer;
use super::type_config::{Entry, LogId, TypeConfig, Vote};
use super::{lock, runtime};
use crate::node_id::{Group, NodeId, PartitionId};
use crate::transport::{CallError, Frame, Lane, SendError, Transport};

/// What a frame of the RAFT lane asks.
pub(crate) mod kind {
    pub(crate) const APPEND: u8 = 1;
    pub(crate) const VOTE: u8 = 2;
    pub(crate) const PRE_VOTE: u8 = 3;
    pub(crate) const TRANSFER: u8 = 4;
    pub(crate) const REELECT: u8 = 5;
    /// As [`APPEND`], of entries whose fdatasync may wait for company: a quorum without this follower is well.
    pub(crate) const APPEND_SHARED: u8 = 6;
}

/// Replies and all requests but appends are small.
pub(crate) const SMALL_MESSAGE_MAX: u64 = 4096;

/// The answers to a stream of requests.
type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// A request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Makes the clients of one group.
pub(crate) struct Clients {
    pub(crate) group: Arc<GroupShared>,
    pub(crate) transport: Transport,
}

impl RaftNetworkFactory<TypeConfig> for Clients {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &EmptyNode) -> Client {
        Client {
            group: self.group.clone(),
            transport: self.transport.clone(),
            target,
            is_heartbeat: false,
        }
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &EmptyNode) -> Client {
        Client {
            group: self.group.clone(),
            transport: self.transport.clone(),
            target,
            is_heartbeat: true,
        }
    }
}

/// Requests of one group to one node.
pub(crate) struct Client {
    group: Arc<GroupShared>,
    transport: Transport,
    target: NodeId,
    is_heartbeat: bool,
}

/// One request about a group and its answer.
pub(crate) async fn request<Q: Record, A: Record>(
    transport: &Transport,
    group: &GroupShared,
    target: NodeId,
    kind: u8,
    query: &Q,
    timeout: Duration,
) -> Result<A, RequestError> {
    let bytes_max = u64::try_from(group.settings.message_bytes_max()).unwrap_or(u64::MAX);
    let body = encode_frame(query, bytes_max)?;
    let mut frame = Frame::new(kind, body);
    frame.partition = PartitionId(group.wire_number);
    let reply = transport.call(target, Lane::Raft, frame, timeout).await?;
    Ok(decode_frame(&reply.body, SMALL_MESSAGE_MAX)?)
}

impl Client {
    async fn request<Q: Record, A: Record>(
        &self,
        kind: u8,
        action: RPCTypes,
        query: &Q,
        timeout: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let answer = request(
            &self.transport,
            &self.group,
            self.target,
            kind,
            query,
            timeout,
        )
        .await;
        answer.map_err(|error| match error {
            RequestError::Call(CallError::Timeout(timeout)) => RPCError::Timeout(Timeout {
                action,
                id: self.group.node,
                target: self.target,
                timeout,
            }),
            // Nobody is there, or it refuses: worth a pause. A lost connection or a full queue is worth another try.
            RequestError::Call(CallError::NotSent(
                SendError::NoPeer(_) | SendError::Disconnected,
            ))
            | RequestError::Call(CallError::NoReply) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            error => RPCError::Network(NetworkError::new(&error)),
        })
    }

    /// Notes that entries are on their way; gives the kind of the request, by whether their fdatasync may wait.
    fn asks(&self, first: Option<&SentEntry>) -> u8 {
        let Some(first) = first else {
            return kind::APPEND;
        };
        // What the meta group decides is acted upon by those who hear of it.
        if self.group.group == Group::META {
            return kind::APPEND;
        }
        let (now, mut counted_on) = (Instant::now(), lock(&self.group.counted_on));
        counted_on.asks(self.target, now);
        match counted_on.may_share(self.target, first.id.index, now) {
            true => kind::APPEND_SHARED,
            false => kind::APPEND,
        }
    }

    /// Notes what became of a request.
    fn answers(
        &self,
        kind: u8,
        last: Option<&SentEntry>,
        reply: &Result<AppendReply, RPCError<TypeConfig>>,
    ) {
        let is_taken = matches!(reply, Ok(AppendReply::Success { .. }));
        let mut counted_on = lock(&self.group.counted_on);
        match last {
            Some(last) => {
                let has = is_taken.then_some(last.id.index);
                let shared = kind == kind::APPEND_SHARED;
                counted_on.answers(self.target, has, shared, Instant::now());
            }
            None if !is_taken => counted_on.fails(self.target),
            None => {}
        }
    }

    async fn ask_vote(
        &self,
        kind: u8,
        rpc: VoteRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let query = VoteQuery {
            vote: VoteRecord::from(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(LogIdRecord::from),
            transfer: rpc.leadership_transfer,
        };
        let timeout = option.hard_ttl().min(self.group.settings.vote_timeout);
        let reply: VoteReply = self.request(kind, RPCTypes::Vote, &query, timeout).await?;
        Ok(VoteResponse::new(
            Vote::from(reply.vote),
            reply.last.map(LogId::from),
            reply.granted,
        ))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = PathBuf;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let sent = |entry: &Entry| SentEntry {
            id: (&entry.log_id).into(),
            entry: entry.into(),
        };
        let query = AppendRequest {
            vote: VoteRecord::from(&rpc.vote),
            prev: rpc.prev_log_id.as_ref().map(LogIdRecord::from),
            committed: rpc.leader_commit.as_ref().map(LogIdRecord::from),
            purge_floor: self.group.purge_floor(),
            entries: rpc.entries.iter().map(sent).collect(),
        };
        // openraft gives one heartbeat's time. That is right for heartbeats, but entries wait for the follower's disk.
        let timeout = if self.is_heartbeat {
            option.hard_ttl()
        } else {
            self.group.settings.append_timeout
        };
        let kind = self.asks(query.entries.first());
        let reply: Result<AppendReply, _> = self
            .request(kind, RPCTypes::AppendEntries, &query, timeout)
            .await;
        self.answers(kind, query.entries.last(), &reply);
        Ok(match reply? {
            AppendReply::Success { quarantined } => {
                self.group.learn_quarantined(self.target, quarantined);
                AppendEntriesResponse::Success
            }
            AppendReply::Partial(upto) => {
                AppendEntriesResponse::PartialSuccess(upto.map(LogId::from))
            }
            AppendReply::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
            // openraft takes for granted that nothing conflicts with the beginning of the log.
            AppendReply::Conflict if query.prev.is_none() => {
                let nonsense =
                    NetworkError::from_string("a conflict in front of the log's first entry");
                return Err(RPCError::Network(nonsense));
            }
            AppendReply::Conflict => AppendEntriesResponse::Conflict,
        })
    }

    /// One request after the other, as by default; but what only tells followers how far the leader has committed waits for
    /// the next entries, or for the next common tick. The meta group's members act on what they hear, so there it goes at once.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.is_heartbeat || self.group.group == Group::META {
            stream_append_sequential(self, input, option)
        } else {
            stream_append_sequential(self, notices_wait(input, runtime::next_tick), option)
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(kind::VOTE, rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(kind::PRE_VOTE, rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, PathBuf>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let client = transfer::Client {
            group: &self.group,
            transport: &self.transport,
            target: self.target,
        };
        // It takes as long as it takes: both sides give up when the other is silent.
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = client.send(VoteRecord::from(&vote), &snapshot.snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote.into())),
                Err(failure) => Err(StreamingError::Unreachable(Unreachable::new(&failure))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let query = TransferQuery {
            from: VoteRecord::from(req.from_leader()),
            to: req.to_node_id().0,
            last: req.last_log_id().map(LogIdRecord::from),
        };
        let timeout = option.hard_ttl();
        let reply = self
            .request(kind::TRANSFER, RPCTypes::TransferLeader, &query, timeout)
            .await?;
        Ok(match reply {
            TransferReply::Accepted => Ok(()),
            TransferReply::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferReply::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(LogId::from),
                    actual: actual.map(LogId::from),
                })
            }
        })
    }
}
