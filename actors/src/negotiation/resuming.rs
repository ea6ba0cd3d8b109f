//! A client that would rather go on with a session than begin one (XEP-0198 §5).
//!
//! The session is on this node, or comes from another one; while it is between two it is looked for again. Invariant:
//! `<failed/>` is said only where there is no such session, for then the client gives it up; with the count that the log has of
//! it, which is never too high and covers all that was acknowledged. Where either can't be known now the stream ends, and the
//! client tries again. Nobody waits for either longer than for what else a client asks: what is
//! under way then (a session that settles, or is on its way here) goes on, and the next try finds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::link::protocol::AskReply;
use messaging::query::{Query, Reply};
use messaging::user::streams::StreamId;
use tokio::sync::oneshot;
use xmpp::stanza_error::Condition;
use xmpp::stream::StreamEvent;
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::ResumptionId;

use super::Negotiation;
use crate::adoption::{self, NotAdopted};
use crate::fabric::Fabric;
use crate::link::Outcome;
use crate::mailbox::SessionMailbox;
use crate::session::{Granted, NewLine, ResumeRequest, ToSession};

/// Ids that lead nowhere, on one stream. A client has one session to ask for.
const REFUSED_MAX: u32 = 3;

/// The part of the time for outcomes that a client waits to hear of its session: the rest is for the way to it and back.
const ANSWERED_WITHIN: f32 = 0.8;

/// How long after a session was between two nodes it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The session that a stream goes on with.
pub(super) struct Resumed {
    session: Arc<SessionMailbox>,
    /// What its connection has to show.
    ticket: u64,
    /// How many of its client's stanzas are handled.
    handled: u32,
}

/// Why a stream goes on with no session.
enum NotResumed {
    /// There is none; of its client's stanzas so many are handled, if that is known.
    NotFound(Option<u32>),
    /// Perhaps there is one.
    Unknown,
}

impl Negotiation {
    /// `<resume/>`: the session becomes this stream's, or the client is told to bind.
    pub(super) async fn resume(&mut self, previd: &str, h: u32) {
        let found = match self.known(previd) {
            Some(id) => self.taken_over(&id).await.map(|session| (id, session)),
            None => Err(NotResumed::NotFound(None)),
        };
        let stops = self.fabric.connections.is_stopping();
        let event = match found {
            Ok((id, resumed)) => {
                let (jid, handled) = (id.jid().clone(), resumed.handled);
                self.resumed = Some((resumed, h));
                StreamEvent::Resumed { jid, h: handled }
            }
            Err(NotResumed::NotFound(h)) if !stops => {
                self.fabric.metrics.resumptions_refused.inc();
                self.refused += 1;
                #[cfg(feature = "bug-dedup-skipped-on-resume")]
                crate::planted::comes_back(self.authenticated.as_ref());
                StreamEvent::ResumeRefused {
                    condition: Condition::ItemNotFound,
                    h,
                }
            }
            Err(_) => {
                let condition = match stops {
                    true => StreamErrorCondition::SystemShutdown,
                    false => StreamErrorCondition::ResourceConstraint,
                };
                return self.core.close(StreamError::new(condition));
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
        is_own.then_some(id)
    }

    /// The session, which waits for this connection from now on.
    async fn taken_over(&self, id: &ResumptionId) -> Result<Resumed, NotResumed> {
        let settle_within = self.fabric.settings.client.sm_inbound.settle_within;
        let limit = settle_within.mul_f32(ANSWERED_WITHIN);
        let found = tokio::time::timeout(limit, async {
            match self.found(id).await {
                Err(NotResumed::NotFound(_)) => Err(self.left_by(id).await),
                found => found,
            }
        });
        found.await.unwrap_or(Err(NotResumed::Unknown))
    }

    /// What the log knows of a session that there is no more.
    async fn left_by(&self, id: &ResumptionId) -> NotResumed {
        let user = id.jid().bare();
        let query = Query::Handled {
            user: user.clone(),
            stream: StreamId(id.number()),
        };
        match super::ask(&self.fabric, &user, query).await {
            // XEP-0198 §4: the count starts again behind 2^32 - 1.
            Outcome::Replied(AskReply::Reply(Reply::Handled(handled))) => {
                NotResumed::NotFound(handled.map(|handled| handled as u32))
            }
            _ => NotResumed::Unknown,
        }
    }

    /// May be dropped at any point: then the session waits on, here or where it is.
    async fn found(&self, id: &ResumptionId) -> Result<Resumed, NotResumed> {
        loop {
            if !self.fabric.standing.takes_logins() {
                return Err(NotResumed::Unknown);
            }
            match self.fabric.directory.find(id.jid(), 0) {
                Some(entry) => {
                    if let Some(resumed) = asked(entry.session, id).await? {
                        return Ok(resumed);
                    }
                }
                None => match adopted(&self.fabric, id).await {
                    Ok(()) => continue,
                    Err(NotAdopted::Refused) => return Err(NotResumed::NotFound(None)),
                    Err(NotAdopted::Unknown) => return Err(NotResumed::Unknown),
                    // It is looked for below.
                    Err(NotAdopted::Taken) => {}
                },
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Gives the connection to the session that it goes on with. If that has gone meanwhile the connection just ends, and
    /// the client tries again.
    pub(super) fn reconnect(self, resumed: Resumed, h: u32) {
        let line = NewLine {
            core: self.core,
            wire: self.wire,
            connection: self.connection,
            address: self.address,
            h,
            ticket: resumed.ticket,
        };
        let line = ToSession::Reconnect(Box::new(line));
        if resumed.session.try_send(line).is_err() {
            tracing::debug!(address = %self.address, "a session was gone before its connection came");
        }
    }
}

/// Brings a session here, whether or not somebody still waits for it: one that is half-way would be lost.
async fn adopted(fabric: &Arc<Fabric>, id: &ResumptionId) -> Result<(), NotAdopted> {
    let (fabric, id) = (Arc::clone(fabric), id.clone());
    let adopting = actix_rt::spawn(async move { adoption::adopt(&fabric, &id).await });
    adopting.await.unwrap_or(Err(NotAdopted::Unknown))
}

/// Asks a session of this node; `None`: it is about to be elsewhere, or gone.
async fn asked(
    session: Arc<SessionMailbox>,
    id: &ResumptionId,
) -> Result<Option<Resumed>, NotResumed> {
    let (granted, answer) = oneshot::channel();
    let id = id.clone();
    let request = ToSession::Resume(Box::new(ResumeRequest { id, granted }));
    if session.try_send(request).is_err() {
        return Ok(None);
    }
    match answer.await {
        Ok(Granted::Session { handled, ticket }) => Ok(Some(Resumed {
            session,
            ticket,
            handled,
        })),
        Ok(Granted::Refused) => Err(NotResumed::NotFound(None)),
        // Whoever was to say it is gone: what is so now is asked anew.
        Ok(Granted::Elsewhere) | Err(_) => Ok(None),
    }
}
