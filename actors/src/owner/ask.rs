//! Questions: reads of replicated state after a ReadIndex, pages of archives, and resources.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use actix::Context;
use cluster::link::protocol::{AskReply, Down};
use cluster::node_id::NodeId;
use futures_util::FutureExt;
use messaging::query::{Query, Reply};
use messaging::user::publication::SessionKey;
use xmpp::stanza_error::{Condition, StanzaError};

use super::OwnerActor;
use crate::publication::ToPublication;

impl OwnerActor {
    pub(super) fn bind(
        &mut self,
        from: NodeId,
        request: u64,
        key: SessionKey,
        ctx: &mut Context<Self>,
    ) {
        let user = key.jid.bare();
        let head = self.catch_up(ctx, |state| {
            state
                .logs
                .get(&user)
                .map(|log| log.head)
                .unwrap_or_default()
        });
        self.tell_publication(
            &user,
            true,
            ToPublication::Bind {
                from,
                request,
                key,
                head,
            },
        );
    }

    pub(super) fn query(
        &mut self,
        from: NodeId,
        request: u64,
        query: Query,
        ctx: &mut Context<Self>,
    ) {
        let fabric = Arc::clone(&self.fabric);
        let partition = self.partition;
        let group = self.place().group.clone();
        let read = async move {
            if group.read_barrier().await.is_err() {
                // No longer the owner, or no quorum: the node asks the next owner.
                return None;
            }
            let place = &fabric.partitions[usize::from(partition.0)];
            let reply = messaging::query::answer(&place.replica.state(), &query);
            match (reply, query) {
                (Reply::ArchiveAllowed { real_jids }, Query::Archive(query)) => {
                    let replica = Arc::clone(&place.replica);
                    let read =
                        move || crate::services::archive::read_page(&replica, &query, real_jids);
                    tokio::task::spawn_blocking(read).await.ok()
                }
                (Reply::ArchiveAllowed { .. }, Query::ArchiveMetadata { key, .. }) => {
                    let replica = Arc::clone(&place.replica);
                    tokio::task::spawn_blocking(move || {
                        crate::services::archive::read_metadata(&replica, &key)
                    })
                    .await
                    .ok()
                }
                (reply, _) => Some(reply),
            }
        };
        let epoch = self.reign.as_ref().map(|reign| reign.epoch);
        // A panic costs the question, not the reign: nothing was being changed.
        let read = AssertUnwindSafe(read).catch_unwind();
        self.spawn(ctx, read, move |actor, read, _| {
            let reply = match read {
                Ok(reply) => reply.map(AskReply::Reply),
                Err(_) => Some(AskReply::Refused(Box::new(StanzaError::new(
                    Condition::InternalServerError,
                )))),
            };
            if actor.reign.as_ref().map(|reign| reign.epoch) == epoch
                && let Some(reply) = reply
            {
                actor.down(from, &Down::Reply { request, reply });
            }
        });
    }
}
