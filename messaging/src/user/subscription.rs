//! Subscriptions: RFC 6121 §3 and the tables of its appendix A as pure functions over a roster item, and the commands
//! that apply them.
//!
//! ```text
//!  user's session ──subscribe──► outbound(item) ──outbox──► inbound(item) ──► contact's sessions
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::Condition;

use super::blocking;
use super::roster::{self, RosterItem};
use crate::apply::Context;
use crate::command::{Answer, Command};
use crate::effect::UserEffect;
use crate::outbox::{OnAnswer, OutboxEntry};
use crate::refusal::{refuse, refuse_because, refuse_blocked, refuse_way_full};
use crate::state::State;

/// Requests from strangers that wait for a user's decision; further ones are dropped.
const REQUESTS_MAX: usize = 200;

/// Of a request with more bytes than this in its payload (a text, a nickname), id and language nothing but the fact is kept.
const REQUEST_BYTES_MAX: usize = 4_096;

/// The four stanzas that change subscriptions. RFC 6121 §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionType {
    /// Asks to see the other's presence.
    Subscribe,
    /// Lets the other see one's presence.
    Subscribed,
    /// No longer wants to see the other's presence.
    Unsubscribe,
    /// No longer lets the other see one's presence, or denies a request.
    Unsubscribed,
}

impl SubscriptionType {
    /// The type of a presence stanza, if it is one of the four.
    pub fn of(stanza: &Stanza) -> Option<SubscriptionType> {
        if stanza.kind != StanzaKind::Presence {
            return None;
        }
        match stanza.type_.as_deref()? {
            "subscribe" => Some(SubscriptionType::Subscribe),
            "subscribed" => Some(SubscriptionType::Subscribed),
            "unsubscribe" => Some(SubscriptionType::Unsubscribe),
            "unsubscribed" => Some(SubscriptionType::Unsubscribed),
            _ => None,
        }
    }

    /// As in the attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            SubscriptionType::Subscribe => "subscribe",
            SubscriptionType::Subscribed => "subscribed",
            SubscriptionType::Unsubscribe => "unsubscribe",
            SubscriptionType::Unsubscribed => "unsubscribed",
        }
    }

    /// A stanza of this type between two users.
    pub fn stanza(self, from: &BareJid, to: &BareJid) -> Stanza {
        Stanza {
            kind: StanzaKind::Presence,
            from: Some(from.clone().into()),
            to: Some(to.clone().into()),
            id: None,
            type_: Some(self.as_str().into()),
            lang: None,
            payload: Bytes::new(),
        }
    }
}

/// What is kept of a request until the user answers it. RFC 6121 §3.1.3: the complete stanza; its addresses are those of
/// the roster item.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRequest {
    /// The stanza's id.
    pub id: Option<String>,
    /// The language of its texts.
    pub lang: Option<String>,
    /// Its child elements.
    pub payload: Bytes,
}

// A request's text isn't shown.
impl std::fmt::Debug for SubscriptionRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionRequest")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SubscriptionRequest {
    /// What is kept of this stanza.
    pub fn of(stanza: &Stanza) -> SubscriptionRequest {
        let len = |text: &Option<std::sync::Arc<str>>| text.as_deref().map_or(0, str::len);
        if stanza.payload.len() + len(&stanza.id) + len(&stanza.lang) > REQUEST_BYTES_MAX {
            return SubscriptionRequest::default();
        }
        SubscriptionRequest {
            id: stanza.id.as_deref().map(str::to_owned),
            lang: stanza.lang.as_deref().map(str::to_owned),
            payload: stanza.payload.clone(),
        }
    }

    /// The stanza as it came.
    pub fn stanza(&self, from: &BareJid, to: &BareJid) -> Stanza {
        Stanza {
            id: self.id.as_deref().map(Into::into),
            lang: self.lang.as_deref().map(Into::into),
            payload: self.payload.clone(),
            ..SubscriptionType::Subscribe.stanza(from, to)
        }
    }
}

/// What happens to presence when a subscription changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceChange {
    /// The contact now sees the user: it gets the current presence.
    Shown,
    /// The contact no longer sees the user: it gets unavailable.
    Hidden,
}

/// What a subscription stanza does to one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The item afterwards.
    pub item: RosterItem,
    /// Outbound: routed to the contact. Inbound: delivered to the user's sessions.
    pub passed_on: bool,
    /// What the server answers in the user's name.
    pub reply: Option<SubscriptionType>,
    /// What happens to presence.
    pub presence: Option<PresenceChange>,
}

impl Transition {
    fn nothing(item: &RosterItem) -> Transition {
        Transition {
            item: item.clone(),
            passed_on: false,
            reply: None,
            presence: None,
        }
    }
}

/// What a stanza that the user sends does to the user's item. RFC 6121 appendix A.2.
pub fn outbound(item: &RosterItem, type_: SubscriptionType) -> Transition {
    let mut next = Transition::nothing(item);
    match type_ {
        SubscriptionType::Subscribe => {
            // A.2.1: always routed, so that a contact who lost the state answers again.
            next.passed_on = true;
            next.item.listed = true;
            next.item.pending_out = !item.to;
        }
        SubscriptionType::Unsubscribe => {
            // A.2.2: always routed.
            next.passed_on = true;
            next.item.to = false;
            next.item.pending_out = false;
        }
        SubscriptionType::Subscribed if item.pending_in.is_some() => {
            next.passed_on = true;
            next.item.listed = true;
            next.item.from = true;
            next.item.pending_in = None;
            next.presence = Some(PresenceChange::Shown);
        }
        SubscriptionType::Subscribed if !item.from => {
            // §3.4.2: approved before it was asked; the contact isn't told.
            next.item.listed = true;
            next.item.approved = true;
        }
        SubscriptionType::Subscribed => {}
        SubscriptionType::Unsubscribed => {
            // §3.4.2: also takes an approval back; that alone isn't routed.
            next.item.approved = false;
            next.item.from = false;
            next.item.pending_in = None;
            next.passed_on = item.from || item.pending_in.is_some();
            next.presence = item.from.then_some(PresenceChange::Hidden);
        }
    }
    next
}

/// What a stanza that a contact sends does to the user's item. RFC 6121 appendix A.3. `request` is what is kept of a
/// request.
///
/// No `unsubscribed` answers an `unsubscribe` (a SHOULD of A.3.2): here both sides always agree, and the answer could
/// overtake the contact's next request and seem to deny it.
pub fn inbound(
    item: &RosterItem,
    type_: SubscriptionType,
    request: &SubscriptionRequest,
) -> Transition {
    let mut next = Transition::nothing(item);
    match type_ {
        SubscriptionType::Subscribe if item.from => {
            // §3.1.3: the contact asks again for what it has.
            next.reply = Some(SubscriptionType::Subscribed);
        }
        SubscriptionType::Subscribe if item.approved => {
            // §3.4.2: approved before it was asked.
            next.item.from = true;
            next.item.pending_in = None;
            next.reply = Some(SubscriptionType::Subscribed);
            next.presence = Some(PresenceChange::Shown);
        }
        SubscriptionType::Subscribe if item.pending_in.is_none() => {
            next.item.pending_in = Some(Box::new(request.clone()));
            next.passed_on = true;
        }
        SubscriptionType::Subscribe => {}
        SubscriptionType::Subscribed => {
            if item.pending_out {
                next.item.to = true;
                next.item.pending_out = false;
                next.passed_on = true;
                // RFC 6121 §3.1.6: the contact's side sends its presence by itself.
            }
        }
        SubscriptionType::Unsubscribe => {
            next.item.from = false;
            next.item.pending_in = None;
            next.passed_on = item.from || item.pending_in.is_some();
            next.presence = item.from.then_some(PresenceChange::Hidden);
        }
        SubscriptionType::Unsubscribed => {
            next.item.to = false;
            next.item.pending_out = false;
            next.passed_on = item.to || item.pending_out;
        }
    }
    next
}

/// [`Command::SendSubscription`]: changes the user's side and sends the stanza on its way.
pub(crate) fn send(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    contact: BareJid,
    stanza: Stanza,
) -> Answer {
    let Some(type_) = SubscriptionType::of(&stanza) else {
        return refuse(Condition::BadRequest);
    };
    if !state.accounts.contains(&user) {
        return refuse(Condition::NotAuthorized);
    }
    if user == contact {
        // RFC 6121 §3: one's own resources see each other without a subscription.
        return refuse(Condition::NotAllowed);
    }
    if blocking::is_blocked(state, &user, &contact.clone().into()) {
        return refuse_blocked();
    }
    if contact.domain() == ctx.pool.rooms_domain {
        return refuse(Condition::ServiceUnavailable);
    }
    if contact.domain() != ctx.pool.domain {
        return refuse(Condition::RemoteServerNotFound);
    }
    let known = state.roster.get(&(user.clone(), contact.clone()));
    let item = known.cloned().unwrap_or_default();
    let next = outbound(&item, type_);
    if next.item.listed && !item.listed && roster::is_full(state, ctx, &user) {
        return refuse_because(Condition::ResourceConstraint, roster::FULL);
    }
    if next.passed_on && !ctx.outbox_has_room(state, [&contact]) {
        return refuse_way_full();
    }
    if next.presence == Some(PresenceChange::Hidden) {
        // §3.2.2: before the contact gets `unsubscribed`.
        ctx.user_effect(&user, UserEffect::UnavailableTo(contact.clone()));
    }
    roster::store(state, ctx, &user, &contact, next.item);
    if next.passed_on {
        let then = after_answer(&user, next.presence);
        pass_on(state, ctx, &user, &contact, stanza, then);
    }
    Answer::Done { seq: 0 }
}

/// [`Command::ReceiveSubscription`]: changes the user's side and shows the stanza to the user.
pub(crate) fn receive(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    contact: BareJid,
    stanza: Stanza,
) -> Answer {
    let done = Answer::Done { seq: 0 };
    let Some(type_) = SubscriptionType::of(&stanza) else {
        return refuse(Condition::BadRequest);
    };
    if !state.accounts.contains(&user) || user == contact {
        // RFC 6121 §8.5.1: for a user who doesn't exist these four are silently ignored.
        return done;
    }
    let blocked = blocking::is_blocked(state, &user, &Jid::from(contact.clone()));
    if blocked && type_ == SubscriptionType::Subscribe {
        // XEP-0191 §3.2: neither shown nor answered.
        return done;
    }
    let known = state.roster.get(&(user.clone(), contact.clone()));
    let item = known.cloned().unwrap_or_default();
    if type_ == SubscriptionType::Subscribe
        && known.is_none()
        && requests(state, &user) >= REQUESTS_MAX
    {
        return done;
    }
    let next = inbound(&item, type_, &SubscriptionRequest::of(&stanza));
    if next.passed_on && !blocked {
        // §3.1.6, §3.2.3, §3.3.3: the stanza comes before the roster push.
        ctx.user_effect(&user, UserEffect::Subscription(stanza));
    }
    roster::store(state, ctx, &user, &contact, next.item);
    if blocked {
        // What the contact no longer wants or gives is noted, so that both sides still agree after unblocking.
        return done;
    }
    if next.presence == Some(PresenceChange::Hidden) {
        // §3.3.3: after the contact's `unsubscribe`.
        ctx.user_effect(&user, UserEffect::UnavailableTo(contact.clone()));
    }
    if let Some(reply) = next.reply {
        let then = after_answer(&user, next.presence);
        let stanza = reply.stanza(&user, &contact);
        pass_on(state, ctx, &user, &contact, stanza, then);
    }
    done
}

/// §3.1.5: the user's presence follows `subscribed`, and may not overtake it: it is told when the contact's partition
/// has committed `subscribed`, and so has told the contact's sessions.
fn after_answer(user: &BareJid, change: Option<PresenceChange>) -> OnAnswer {
    match change {
        Some(PresenceChange::Shown) => OnAnswer::ShowPresence { user: user.clone() },
        Some(PresenceChange::Hidden) | None => OnAnswer::Nothing,
    }
}

/// Sends a subscription stanza to the contact's partition. A courtesy: RFC 6121 knows no errors for these stanzas.
pub(crate) fn pass_on(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: &BareJid,
    contact: &BareJid,
    mut stanza: Stanza,
    on_answer: OnAnswer,
) {
    // RFC 6121 §3.1.2: always from and to bare JIDs.
    stanza.from = Some(user.clone().into());
    stanza.to = Some(contact.clone().into());
    let command = Command::ReceiveSubscription {
        user: contact.clone(),
        contact: user.clone(),
        stanza,
    };
    ctx.outbox(
        state,
        OutboxEntry {
            target: contact.clone(),
            command,
            on_answer,
        },
    );
}

fn requests(state: &State, user: &BareJid) -> usize {
    state
        .roster
        .rows_of(user)
        .filter(|(_, item)| item.pending_in.is_some())
        .count()
}

#[cfg(test)]
mod tests;
