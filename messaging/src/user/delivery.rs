//! Where a stanza for a user goes: RFC 6121 §8.5 as a table, which messages are filed, and which are copied.
//!
//! Everything here is a pure function of the stanza and the user's sessions. [`super::publication`] executes what
//! [`route`] says.

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza::{IqType, MessageType, PresenceType, Stanza, StanzaKind};
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

/// A session as far as delivery asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Its resource.
    pub name: &'a str,
    /// The priority of an available one; `None`: connected, not available.
    pub priority: Option<i8>,
}

impl Resource<'_> {
    fn is_eligible(&self) -> bool {
        self.priority.is_some_and(|priority| priority >= 0)
    }
}

/// Where a stanza goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To these sessions: indices into the resources, in their order.
    Sessions(Vec<usize>),
    /// No session takes it: a message that is filed waits for one, any other is dropped.
    Offline,
    /// The server handles it in the user's name: iqs, subscriptions, probes.
    Server,
    /// Answered with this error.
    Error(Condition),
    /// Silently ignored.
    Drop,
}

/// RFC 6121 §8.5. `filed`: a message that its sender was told is accepted: it is never refused.
///
/// Where the RFC leaves a choice: "most available" are all sessions with a priority that isn't negative, nothing is bounced
/// that can wait for a session, and errors are preferred to silence except for headlines. A filed message of type normal
/// for a session that is gone goes the way of RFC 6120 §10.5.4, as if it were for the bare JID: §8.5.3.2.1 would have it
/// ignored or refused, but its sender has been told that it is accepted.
pub fn route(
    stanza: &Stanza,
    to: &Jid,
    account_exists: bool,
    resources: &[Resource<'_>],
    filed: bool,
) -> Delivery {
    if !account_exists {
        return to_nobody(stanza);
    }
    if let Some(name) = to.resource()
        && let Some(index) = resources.iter().position(|resource| resource.name == name)
    {
        return to_session(stanza, index);
    }
    match (stanza.kind, to.is_bare()) {
        (StanzaKind::Message, bare) => message(stanza, bare, resources, filed),
        (StanzaKind::Presence, true) => presence_to_account(stanza, resources),
        // §8.5.3.2.2.
        (StanzaKind::Presence, false) => match stanza.presence_type() {
            PresenceType::Available | PresenceType::Unavailable | PresenceType::Error => {
                Delivery::Drop
            }
            _ => Delivery::Server,
        },
        // §8.5.2.1.3, §8.5.2.2.3: the server answers for the account.
        (StanzaKind::Iq, true) => Delivery::Server,
        // §8.5.3.2.3.
        (StanzaKind::Iq, false) => unanswerable_iq(stanza),
    }
}

/// §8.5.1: no such user.
fn to_nobody(stanza: &Stanza) -> Delivery {
    match stanza.kind {
        // §8.5.4, table 1: a headline is ignored, as it is for an account without sessions.
        StanzaKind::Message
            if matches!(
                stanza.message_type(),
                MessageType::Error | MessageType::Headline
            ) =>
        {
            Delivery::Drop
        }
        StanzaKind::Message => Delivery::Error(Condition::ServiceUnavailable),
        StanzaKind::Presence => Delivery::Drop,
        StanzaKind::Iq => unanswerable_iq(stanza),
    }
}

fn unanswerable_iq(stanza: &Stanza) -> Delivery {
    match stanza.iq_type() {
        IqType::Get | IqType::Set => Delivery::Error(Condition::ServiceUnavailable),
        IqType::Result | IqType::Error => Delivery::Drop,
    }
}

/// §8.5.3.1: a session matches the full JID, available or only connected.
fn to_session(stanza: &Stanza, index: usize) -> Delivery {
    let for_account = stanza.kind == StanzaKind::Presence
        && !matches!(
            stanza.presence_type(),
            PresenceType::Available | PresenceType::Unavailable | PresenceType::Error
        );
    match for_account {
        true => Delivery::Server,
        false => Delivery::Sessions(vec![index]),
    }
}

/// §8.5.2.1.1, §8.5.2.2.1 and, for a full JID that no session has, §8.5.3.2.1.
fn message(stanza: &Stanza, bare: bool, resources: &[Resource<'_>], filed: bool) -> Delivery {
    let eligible = || -> Vec<usize> {
        let indices = resources.iter().enumerate();
        let eligible = indices.filter(|(_, resource)| resource.is_eligible());
        eligible.map(|(index, _)| index).collect()
    };
    let or_offline = |sessions: Vec<usize>| match sessions.is_empty() {
        true => Delivery::Offline,
        false => Delivery::Sessions(sessions),
    };
    match stanza.message_type() {
        MessageType::Chat => or_offline(eligible()),
        MessageType::Normal if bare || filed => or_offline(eligible()),
        MessageType::Normal | MessageType::Groupchat => {
            Delivery::Error(Condition::ServiceUnavailable)
        }
        MessageType::Headline if bare => match eligible() {
            sessions if sessions.is_empty() => Delivery::Drop,
            sessions => Delivery::Sessions(sessions),
        },
        MessageType::Headline | MessageType::Error => Delivery::Drop,
    }
}

/// §8.5.2.1.2, §8.5.2.2.2.
fn presence_to_account(stanza: &Stanza, resources: &[Resource<'_>]) -> Delivery {
    match stanza.presence_type() {
        PresenceType::Available | PresenceType::Unavailable => {
            let available: Vec<usize> = resources
                .iter()
                .enumerate()
                .filter(|(_, resource)| resource.priority.is_some())
                .map(|(index, _)| index)
                .collect();
            match available.is_empty() {
                true => Delivery::Drop,
                false => Delivery::Sessions(available),
            }
        }
        PresenceType::Error => Delivery::Drop,
        _ => Delivery::Server,
    }
}

/// Whether a message is filed in archives and delivered later if it can't be now: it has a body, invites to a room
/// (XEP-0249) or has a `<store/>` hint (XEP-0334 §4.4), and no hint against it (§4.1, §4.2). XEP-0313 §5.1.1, XEP-0160 §3.
pub fn is_durable(stanza: &Stanza) -> bool {
    if stanza.kind != StanzaKind::Message
        || stanza.payload.is_empty()
        || matches!(
            stanza.message_type(),
            MessageType::Error | MessageType::Headline
        )
    {
        return false;
    }
    let Ok(document) = stanza.payload_document() else {
        return false;
    };
    let mut wanted = false;
    for element in document.roots() {
        match (element.name(), element.ns()) {
            ("no-store" | "no-permanent-store", ns::HINTS) => return false,
            ("body", ns::CLIENT) | ("store", ns::HINTS) | ("x", ns::CONFERENCE) => wanted = true,
            _ => {}
        }
    }
    wanted
}

/// Whether nobody misses a message that is not filed and finds no session: its sender said so (XEP-0334 §4.1, §4.2), or it
/// is about the moment. Others are refused: RFC 6121 §8.5.2.2.1 has them stored or answered with an error.
pub fn may_be_lost(stanza: &Stanza) -> bool {
    let Ok(document) = stanza.payload_document() else {
        return true;
    };
    document.roots().any(|element| {
        matches!(
            (element.name(), element.ns()),
            ("no-store" | "no-permanent-store", ns::HINTS)
                | (_, ns::RECEIPTS | ns::CHAT_STATES | ns::CHAT_MARKERS)
        )
    })
}

/// Which way a copied message went, as its user sees it. XEP-0280 §7, §8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarbonDirection {
    /// Another session of the user received it.
    Received,
    /// Another session of the user sent it.
    Sent,
}

impl CarbonDirection {
    fn as_str(self) -> &'static str {
        match self {
            CarbonDirection::Received => "received",
            CarbonDirection::Sent => "sent",
        }
    }
}

/// Whether a message is copied to the user's other sessions that asked for copies. XEP-0280 §6.1.
///
/// `<no-copy/>` (XEP-0334 §4.3) counts like `<private/>`. Whether an error answers an eligible message isn't known:
/// one that repeats such a message's payload does.
pub fn carbon_eligible(stanza: &Stanza, direction: CarbonDirection) -> bool {
    let type_ = stanza.message_type();
    if stanza.kind != StanzaKind::Message
        || matches!(type_, MessageType::Groupchat | MessageType::Headline)
    {
        return false;
    }
    let Ok(document) = stanza.payload_document() else {
        return false;
    };
    let (mut body, mut instant, mut invitation, mut room) = (false, false, false, false);
    for element in document.roots() {
        match (element.name(), element.ns()) {
            ("private", ns::CARBONS) | ("no-copy", ns::HINTS) => return false,
            ("body", ns::CLIENT) => body = true,
            (_, ns::RECEIPTS | ns::CHAT_STATES | ns::CHAT_MARKERS) => instant = true,
            ("x", ns::CONFERENCE) => invitation = true,
            ("x", ns::MUC_USER) => match is_invitation(element) {
                true => invitation = true,
                false => room = true,
            },
            _ => {}
        }
    }
    if invitation {
        return true;
    }
    if room {
        // A room gives a private message to every session that is in it; what the user sends is copied here.
        return direction == CarbonDirection::Sent;
    }
    match type_ {
        MessageType::Chat => true,
        MessageType::Normal | MessageType::Error => body || instant,
        MessageType::Groupchat | MessageType::Headline => false,
    }
}

/// XEP-0045 §7.8.2.
fn is_invitation(x: Element<'_>) -> bool {
    x.child("invite", ns::MUC_USER).is_some()
}

/// The copy of a message for a user's other sessions, without `to`. XEP-0280 §7, §8.
pub fn carbon(message: &Stanza, direction: CarbonDirection, user: &BareJid) -> Stanza {
    let mut out = XmlWriter::new(ns::CLIENT);
    out.start_ns(direction.as_str(), ns::CARBONS);
    out.start_ns("forwarded", ns::FORWARD);
    out.start_ns("message", ns::CLIENT)
        .attr_opt("from", message.from.as_ref().map(Jid::as_str))
        .attr_opt("to", message.to.as_ref().map(Jid::as_str))
        .attr_opt("id", message.id.as_deref())
        .attr_opt("type", message.type_.as_deref())
        .attr_opt("xml:lang", message.lang.as_deref())
        .raw(&message.payload);
    Stanza {
        from: Some(user.into()),
        type_: message.type_.clone(),
        payload: out.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}

#[cfg(test)]
mod tests;
