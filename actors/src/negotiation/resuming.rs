//! A client that would rather go on with a session than begin one (XEP-0198 §5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use xmpp::stanza_error::Condition;
use xmpp::stream::StreamEvent;
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::ResumptionId;

use super::Negotiation;
use crate::adoption;
use crate::mailbox::SessionMailbox;
use crate::session::{NewLine, ResumeRequest, ToSession};

/// Ids that lead nowhere, on one stream. A client has one session to ask for.
const REFUSED_MAX: u32 = 3;

/// What a session may need beyond the time for outcomes to say whether it can be resumed.
const GRACE: Duration = Duration::from_secs(2);

/// The session that a stream goes on with.
pub(super) struct Resumed {
    session: Arc<SessionMailbox>,
    /// How many of its stanzas the client has.
    h: u32,
}

impl Negotiation {
    /// `<resume/>`: the session becomes this stream's, or the client is told to bind.
    pub(super) async fn resume(&mut self, previd: &str, h: u32) {
        let found = match self.known(previd) {
            Some(id) => self.taken_over(id).await,
            None => None,
        };
        let event = match found {
            Some((id, session, handled)) => {
                self.resumed = Some(Resumed { session, h });
                let jid = id.jid().clone();
                StreamEvent::Resumed { jid, h: handled }
            }
            None => {
                self.fabric.metrics.resumptions_refused.inc();
                self.refused += 1;
                StreamEvent::ResumeRefused {
                    condition: Condition::ItemNotFound,
                    h: None,
                }
            }
        };
        self.core.handle_event(event, Instant::now());
        if self.refused >= REFUSED_MAX {
            let error = StreamError::new(StreamErrorCondition::PolicyViolation);
            self.core.close(error);
        }
    }

    /// An id that this pool has made for a session of the account that the client has proved to own.
    fn known(&self, previd: &str) -> Option<ResumptionId> {
        let id = self.fabric.resumption_ids.read(previd)?;
        let is_own = self.authenticated.as_ref() == Some(&id.jid().bare());
        (is_own && self.fabric.standing.takes_logins()).then_some(id)
    }

    /// The session, which waits for this connection from now on, and how many stanzas of its client it has handled.
    async fn taken_over(
        &self,
        id: ResumptionId,
    ) -> Option<(ResumptionId, Arc<SessionMailbox>, u32)> {
        if self.fabric.directory.find(id.jid(), 0).is_none() {
            adoption::adopt(&self.fabric, &id).await.ok()?;
        }
        let session = self.fabric.directory.find(id.jid(), 0)?.session;
        let (granted, count) = oneshot::channel();
        let request = ResumeRequest {
            id: id.clone(),
            granted,
        };
        session
            .try_send(ToSession::Resume(Box::new(request)))
            .ok()?;
        let limit = self.fabric.settings.client.sm_inbound.settle_within + GRACE;
        let count = tokio::time::timeout(limit, count).await.ok()?.ok()?;
        Some((id, session, count))
    }

    /// Gives the connection to the session that it goes on with. If that has gone meanwhile the connection just ends, and
    /// the client tries again.
    pub(super) fn reconnect(self, resumed: Resumed) {
        let line = NewLine {
            core: self.core,
            wire: self.wire,
            connection: self.connection,
            address: self.address,
            h: resumed.h,
        };
        let line = ToSession::Reconnect(Box::new(line));
        if resumed.session.try_send(line).is_err() {
            tracing::debug!(address = %self.address, "a session was gone before its connection came");
        }
    }
}
