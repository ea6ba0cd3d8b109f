//! A resource on its way to its session: asked of the owner, and given back unless a session takes it over.
//!
//! The session's mailbox is there before the session is: from the moment the owner's grant reaches the link the address
//! is in the directory, so that whatever the owner sends behind the grant (a newer stream's conflict, a stanza) finds it.
//!
//! Invariant: a resource that the owner counts belongs to a stream of this node, or the owner is told, behind the
//! question, that it belongs to nobody; however the question ended.

use std::sync::Arc;

use actix::{AsyncContext, Context};
use cluster::link::protocol::{AskReply, Publish};
use messaging::user::publication::{SessionEvent, SessionKey};
use xmpp::stanza_error::StanzaError;

use crate::fabric::Fabric;
use crate::link::{Caller, Outcome, ToLink, tell};
use crate::mailbox::SessionMailbox;
use crate::negotiation::unavailable_now;
use crate::session::{SessionActor, unavailable};

/// A resource that was asked for, and the place of the session it is for.
pub struct Claim {
    fabric: Arc<Fabric>,
    key: SessionKey,
    mailbox: Arc<SessionMailbox>,
    /// Taken by the session.
    place: Option<Context<SessionActor>>,
}

impl Claim {
    /// Asks the owner of the account for the resource. RFC 6120 §7.
    ///
    /// # Errors
    /// What the client is told: then the resource is not its, or no longer.
    pub async fn make(fabric: &Arc<Fabric>, key: SessionKey) -> Result<Claim, Box<StanzaError>> {
        let mut place = Context::new();
        place.set_mailbox_capacity(SessionActor::MAILBOX);
        let bytes_max = fabric.settings.client.outgoing_bytes_max;
        let mailbox = SessionMailbox::new(place.address(), bytes_max).of(key.jid.bare());
        mailbox.connected_after(fabric.standstill.times());
        let mut claim = Claim {
            fabric: Arc::clone(fabric),
            key,
            mailbox: Arc::new(mailbox),
            place: Some(place),
        };
        match claim.ask().await {
            Outcome::Replied(AskReply::Bound) => Ok(claim),
            Outcome::Replied(AskReply::Refused(error)) => Err(claim.was_not_granted(error)),
            Outcome::Full => Err(claim.was_not_granted(Box::new(unavailable_now()))),
            // Perhaps it is granted later: the claim that is dropped here gives it back.
            _ => Err(Box::new(unavailable_now())),
        }
    }

    async fn ask(&self) -> Outcome {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let Some(link) = self.fabric.link_of(&self.key.jid.bare()) else {
            return Outcome::Full;
        };
        let bind = ToLink::Bind {
            caller: Caller::Task(sender),
            key: self.key.clone(),
            mailbox: Arc::clone(&self.mailbox),
        };
        if link.send(bind).await.is_err() {
            return Outcome::NotDone;
        }
        receiver.await.unwrap_or(Outcome::NotDone)
    }

    /// There is nothing to give back.
    fn was_not_granted(&mut self, error: Box<StanzaError>) -> Box<StanzaError> {
        self.place = None;
        error
    }

    /// Which session it is for.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The session's mailbox.
    pub fn mailbox(&self) -> &Arc<SessionMailbox> {
        &self.mailbox
    }

    /// The session takes over: from now on it says goodbye itself. `None`: it was given back.
    pub(crate) fn take_place(mut self) -> Option<Context<SessionActor>> {
        self.place.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let key = self.key.clone();
        self.fabric.directory.release(&key.jid, key.number);
        let Some(link) = self.fabric.link_of(&key.jid.bare()) else {
            return;
        };
        let stanza = unavailable(&key.jid);
        let publish = Box::new(Publish::Session(SessionEvent::Down { key, stanza }));
        tell(
            link,
            ToLink::Publish {
                caller: None,
                publish,
            },
        );
    }
}
