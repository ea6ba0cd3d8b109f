//! Subscriptions: RFC 6121 §3 and the tables of its appendix A as pure functions over a roster item, and the commands
//! that apply them.
//!
//! ```text
//!  user's session ──subscribe──► outbound(item) ──outbox──► inbound(item) ──► contact's sessions
//! ```

use bytes::Bytes;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::Condition;

use super::blocking;
use super::roster::{self, RosterItem};
use crate::apply::Context;
use crate::command::{Answer, Command};
use crate::effect::UserEffect;
use crate::outbox::{OnAnswer, OutboxEntry};
use crate::refusal::{refuse, refuse_because, refuse_blocked};
use crate::state::State;

/// Requests from strangers that wait for a user's decision; further ones are dropped.
const REQUESTS_MAX: usize = 200;

/// A request whose payload (a text, a nickname) is larger is kept without it.
const REQUEST_PAYLOAD_BYTES_MAX: usize = 4_096;

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

/// What a stanza that a contact sends does to the user's item. RFC 6121 appendix A.3. `payload` is kept with a request.
pub fn inbound(item: &RosterItem, type_: SubscriptionType, payload: &Bytes) -> Transition {
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
            let kept = payload.len() <= REQUEST_PAYLOAD_BYTES_MAX;
            next.item.pending_in = Some(if kept { payload.clone() } else { Bytes::new() });
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
    let next = inbound(&item, type_, &stanza.payload);
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
mod tests {
    use super::*;

    /// An item from its appendix A name; `approved` and unlisted items are extra cases.
    fn item(name: &str) -> RosterItem {
        let (pending_in, name) = match name.strip_suffix("+in") {
            Some(rest) => (Some(Bytes::new()), rest),
            None => (None, name),
        };
        let (pending_out, name) = match name.strip_suffix("+out") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let (to, from) = match name {
            "none" => (false, false),
            "to" => (true, false),
            "from" => (false, true),
            "both" => (true, true),
            other => panic!("unknown state {other}"),
        };
        RosterItem {
            to,
            from,
            pending_out,
            pending_in,
            listed: true,
            ..RosterItem::default()
        }
    }

    fn name(item: &RosterItem) -> String {
        let base = match (item.to, item.from) {
            (false, false) => "none",
            (true, false) => "to",
            (false, true) => "from",
            (true, true) => "both",
        };
        let out = if item.pending_out { "+out" } else { "" };
        let waiting = if item.pending_in.is_some() { "+in" } else { "" };
        let approved = if item.approved { " approved" } else { "" };
        format!("{base}{out}{waiting}{approved}")
    }

    fn show(next: &Transition) -> String {
        let mut text = name(&next.item);
        if next.passed_on {
            text.push_str(", passed on");
        }
        if let Some(reply) = next.reply {
            text.push_str(", reply ");
            text.push_str(reply.as_str());
        }
        match next.presence {
            Some(PresenceChange::Shown) => text.push_str(", shown"),
            Some(PresenceChange::Hidden) => text.push_str(", hidden"),
            None => {}
        }
        text
    }

    fn check_outbound(type_: SubscriptionType, rows: [(&str, &str); 9]) {
        for (before, expect) in rows {
            assert_eq!(
                show(&outbound(&item(before), type_)),
                expect,
                "{before}, sends {type_:?}"
            );
        }
    }

    fn check_inbound(type_: SubscriptionType, rows: [(&str, &str); 9]) {
        for (before, expect) in rows {
            assert_eq!(
                show(&inbound(&item(before), type_, &Bytes::new())),
                expect,
                "{before}, gets {type_:?}"
            );
        }
    }

    #[test]
    fn a_2_1_outbound_subscribe() {
        check_outbound(
            SubscriptionType::Subscribe,
            [
                ("none", "none+out, passed on"),
                ("none+out", "none+out, passed on"),
                ("none+in", "none+out+in, passed on"),
                ("none+out+in", "none+out+in, passed on"),
                ("to", "to, passed on"),
                ("to+in", "to+in, passed on"),
                ("from", "from+out, passed on"),
                ("from+out", "from+out, passed on"),
                ("both", "both, passed on"),
            ],
        );
    }

    #[test]
    fn a_2_2_outbound_unsubscribe() {
        check_outbound(
            SubscriptionType::Unsubscribe,
            [
                ("none", "none, passed on"),
                ("none+out", "none, passed on"),
                ("none+in", "none+in, passed on"),
                ("none+out+in", "none+in, passed on"),
                ("to", "none, passed on"),
                ("to+in", "none+in, passed on"),
                ("from", "from, passed on"),
                ("from+out", "from, passed on"),
                ("both", "from, passed on"),
            ],
        );
    }

    #[test]
    fn a_2_3_outbound_subscribed() {
        check_outbound(
            SubscriptionType::Subscribed,
            [
                ("none", "none approved"),
                ("none+out", "none+out approved"),
                ("none+in", "from, passed on, shown"),
                ("none+out+in", "from+out, passed on, shown"),
                ("to", "to approved"),
                ("to+in", "both, passed on, shown"),
                ("from", "from"),
                ("from+out", "from+out"),
                ("both", "both"),
            ],
        );
    }

    #[test]
    fn a_2_4_outbound_unsubscribed() {
        check_outbound(
            SubscriptionType::Unsubscribed,
            [
                ("none", "none"),
                ("none+out", "none+out"),
                ("none+in", "none, passed on"),
                ("none+out+in", "none+out, passed on"),
                ("to", "to"),
                ("to+in", "to, passed on"),
                ("from", "none, passed on, hidden"),
                ("from+out", "none+out, passed on, hidden"),
                ("both", "to, passed on, hidden"),
            ],
        );
    }

    #[test]
    fn a_3_1_inbound_subscribe() {
        check_inbound(
            SubscriptionType::Subscribe,
            [
                ("none", "none+in, passed on"),
                ("none+out", "none+out+in, passed on"),
                ("none+in", "none+in"),
                ("none+out+in", "none+out+in"),
                ("to", "to+in, passed on"),
                ("to+in", "to+in"),
                ("from", "from, reply subscribed"),
                ("from+out", "from+out, reply subscribed"),
                ("both", "both, reply subscribed"),
            ],
        );
    }

    #[test]
    fn a_3_2_inbound_unsubscribe() {
        check_inbound(
            SubscriptionType::Unsubscribe,
            [
                ("none", "none"),
                ("none+out", "none+out"),
                ("none+in", "none, passed on"),
                ("none+out+in", "none+out, passed on"),
                ("to", "to"),
                ("to+in", "to, passed on"),
                ("from", "none, passed on, hidden"),
                ("from+out", "none+out, passed on, hidden"),
                ("both", "to, passed on, hidden"),
            ],
        );
    }

    #[test]
    fn a_3_3_inbound_subscribed() {
        check_inbound(
            SubscriptionType::Subscribed,
            [
                ("none", "none"),
                ("none+out", "to, passed on"),
                ("none+in", "none+in"),
                ("none+out+in", "to+in, passed on"),
                ("to", "to"),
                ("to+in", "to+in"),
                ("from", "from"),
                ("from+out", "both, passed on"),
                ("both", "both"),
            ],
        );
    }

    #[test]
    fn a_3_4_inbound_unsubscribed() {
        check_inbound(
            SubscriptionType::Unsubscribed,
            [
                ("none", "none"),
                ("none+out", "none, passed on"),
                ("none+in", "none+in"),
                ("none+out+in", "none+in, passed on"),
                ("to", "none, passed on"),
                ("to+in", "none+in, passed on"),
                ("from", "from"),
                ("from+out", "from, passed on"),
                ("both", "from, passed on"),
            ],
        );
    }

    #[test]
    fn an_approval_given_before_answers_for_the_user() {
        let approved = |name| RosterItem {
            approved: true,
            ..item(name)
        };
        let subscribe = |name| {
            show(&inbound(
                &approved(name),
                SubscriptionType::Subscribe,
                &Bytes::new(),
            ))
        };
        assert_eq!(subscribe("none"), "from approved, reply subscribed, shown");
        assert_eq!(
            subscribe("none+out"),
            "from+out approved, reply subscribed, shown"
        );
        assert_eq!(subscribe("to"), "both approved, reply subscribed, shown");
        let cancelled = outbound(&approved("to"), SubscriptionType::Unsubscribed);
        assert_eq!(show(&cancelled), "to");
        let withdrawn = outbound(&approved("both"), SubscriptionType::Unsubscribed);
        assert_eq!(show(&withdrawn), "to, passed on, hidden");
    }

    #[test]
    fn only_what_the_user_wants_is_listed() {
        let stranger = RosterItem::default();
        let asked = inbound(
            &stranger,
            SubscriptionType::Subscribe,
            &Bytes::from_static(b"<status>hi</status>"),
        );
        assert!(!asked.item.listed);
        assert_eq!(
            asked.item.pending_in.as_deref(),
            Some(&b"<status>hi</status>"[..])
        );
        assert!(
            outbound(&asked.item, SubscriptionType::Subscribed)
                .item
                .listed
        );
        assert!(
            !outbound(&asked.item, SubscriptionType::Unsubscribed)
                .item
                .listed
        );
        assert!(outbound(&stranger, SubscriptionType::Subscribe).item.listed);
        assert!(
            outbound(&stranger, SubscriptionType::Subscribed)
                .item
                .listed
        );
        assert!(
            !outbound(&stranger, SubscriptionType::Unsubscribe)
                .item
                .listed
        );
        let large = inbound(
            &stranger,
            SubscriptionType::Subscribe,
            &Bytes::from(vec![b' '; 5_000]),
        );
        assert_eq!(large.item.pending_in, Some(Bytes::new()));
    }
}
