//! Questions: reads of replicated state after a ReadIndex, pages of archives, and resources.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Context;
use cluster::link::protocol::{AskReply, Down};
use cluster::node_id::{Epoch, NodeId, PartitionId};
use cluster::raft::GroupHandle;
use futures_util::FutureExt;
use messaging::query::{Query, Reply};
use messaging::user::publication::{MoveRequest, SessionKey};
use xmpp::stanza_error::{Condition, StanzaError};

use super::{FromKey, OwnerActor, ToOwner};
use crate::fabric::Fabric;
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

    /// A session is to go on at another node.
    pub(super) fn resume(&mut self, ask: u64, request: MoveRequest, ctx: &mut Context<Self>) {
        let user = request.key.jid.bare();
        let head = self.catch_up(ctx, |state| {
            let log = state.logs.get(&user);
            log.map(|log| log.head).unwrap_or_default()
        });
        // Nodes tell a new owner of sessions that the log knows nothing of.
        let gathered = !self.is_gathering(Instant::now());
        let wanted = ToPublication::Move {
            ask,
            request,
            head,
            gathered,
        };
        self.tell_publication(&user, true, wanted);
    }

    /// Reads off the actor and answers the node itself: what a question waits for holds up nothing else. There are
    /// never more of them than the links let through.
    pub(super) fn query(&mut self, from: NodeId, request: u64, query: Query) {
        let Some(epoch) = self.reign.as_ref().map(|reign| reign.epoch) else {
            return;
        };
        let group = self.place().group.clone();
        let term = group.leadership().borrow().term;
        let question = Question {
            fabric: Arc::clone(&self.fabric),
            partition: self.partition,
            epoch,
            from,
        };
        actix_rt::spawn(async move {
            // A panic costs the question, not the reign: nothing was being changed.
            let reply = AssertUnwindSafe(async {
                match may_read(&group, term).await {
                    true => Some(question.read(query).await),
                    false => None,
                }
            });
            let broken = || Some(AskReply::Refused(Box::new(broken())));
            match reply.catch_unwind().await.unwrap_or_else(|_| broken()) {
                Some(reply) => question.answer(&Down::Reply { request, reply }),
                // The node asks the next owner, or this one again after it has attached.
                None => question.answer(&Down::NotOwner { hint: None }),
            }
        });
    }
}

/// How long a read may wait for a quorum to confirm that this node still owns the partition, and how often it is asked.
const BARRIER_MAX: Duration = Duration::from_secs(8);
const BARRIER_EVERY: Duration = Duration::from_millis(50);

/// Waits until the replicated state shows all that was committed before; `false`: this node leads no longer, or no
/// quorum says that it does.
async fn may_read(group: &GroupHandle, term: u64) -> bool {
    let leadership = group.leadership();
    let reigns = || {
        let now = *leadership.borrow();
        now.is_self && now.term == term
    };
    let deadline = Instant::now() + BARRIER_MAX;
    while group.read_barrier().await.is_err() {
        if !reigns() || Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(BARRIER_EVERY).await;
    }
    true
}

fn broken() -> StanzaError {
    StanzaError::new(Condition::InternalServerError)
}

/// Who asked, and in which reign.
struct Question {
    fabric: Arc<Fabric>,
    partition: PartitionId,
    epoch: Epoch,
    from: NodeId,
}

impl Question {
    async fn read(&self, query: Query) -> AskReply {
        let replica = Arc::clone(&self.fabric.partitions[usize::from(self.partition.0)].replica);
        let reply = messaging::query::answer(&replica.state(), &query);
        let read = match (reply, query) {
            (Reply::ArchiveAllowed { real_jids }, Query::Archive(query)) => {
                let read = move || crate::services::archive::read_page(&replica, &query, real_jids);
                crate::threads::spawn_blocking(read).await
            }
            (Reply::ArchiveAllowed { .. }, Query::ArchiveMetadata { key, .. }) => {
                let read = move || crate::services::archive::read_metadata(&replica, &key);
                crate::threads::spawn_blocking(read).await
            }
            (reply, _) => Ok(reply),
        };
        match read {
            Ok(reply) => AskReply::Reply(reply),
            Err(_panicked) => {
                tracing::error!(partition = %self.partition, "a read ended without an answer");
                AskReply::Refused(Box::new(broken()))
            }
        }
    }

    /// In the reign's own epoch: a node that is attached to a later one doesn't listen.
    fn answer(&self, down: &Down) {
        let sent = self
            .fabric
            .send_down(self.from, self.partition, self.epoch, down);
        let Err(error) = sent else { return };
        tracing::debug!(%error, to = %self.from, "an answer did not leave; the node attaches again");
        let lost = ToOwner::FromKey(FromKey::Lost(self.from));
        if let Some(actors) = self.fabric.actors(self.partition)
            && actors.owner.try_send(lost).is_err()
        {
            self.fabric.metrics.mailboxes_full.inc();
        }
    }
}
