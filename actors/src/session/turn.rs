//! Which lane a stanza has its order in, and how it takes effect there.

use messaging::room::parse::is_passing;
use messaging::user::delivery;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza::{IqType, PresenceType, Stanza, StanzaKind};

use super::SessionActor;
use super::lanes::{Class, Lane, Turn};

impl SessionActor {
    /// A stanza's place in the order; `None`: this node answers it without a look at what came before. `element`: the
    /// stanza as it came.
    pub(super) fn turn(&self, element: &Element<'_>, stanza: &Stanza) -> Option<Turn> {
        let constants = &self.fabric.settings.constants;
        let own = Jid::from(self.bare.clone());
        let to = stanza.to.as_ref().unwrap_or(&own);
        if to.domain() == constants.rooms_domain {
            return to_room(element, stanza, to);
        }
        if to.domain() != constants.domain {
            return None;
        }
        let all = stanza.kind == StanzaKind::Presence
            && stanza.to.is_none()
            && stanza.presence_type() == PresenceType::Unavailable;
        let class = match stanza.kind {
            _ if to.is_domain() => to_server(stanza)?,
            StanzaKind::Message => message(stanza),
            StanzaKind::Presence => presence(stanza),
            // Between clients.
            StanzaKind::Iq if !to.is_bare() => Class::Published,
            StanzaKind::Iq if *to == own && stanza.is_request() => iq(element, stanza),
            // Answered for another account, unless a block before it says otherwise.
            StanzaKind::Iq if stanza.is_request() => Class::Asked,
            StanzaKind::Iq => return None,
        };
        let lane = Lane::Own;
        Some(Turn { lane, class, all })
    }
}

/// Accounts are changed at the server's address, too (XEP-0077 §3.2, §3.3).
fn to_server(stanza: &Stanza) -> Option<Class> {
    let changes = stanza.kind == StanzaKind::Iq && stanza.iq_type() == IqType::Set;
    changes.then_some(Class::Proposed)
}

fn message(stanza: &Stanza) -> Class {
    match delivery::is_durable(stanza) {
        true => Class::Proposed,
        false => Class::Published,
    }
}

fn presence(stanza: &Stanza) -> Class {
    match stanza.presence_type() {
        PresenceType::Subscribe
        | PresenceType::Subscribed
        | PresenceType::Unsubscribe
        | PresenceType::Unsubscribed => Class::Proposed,
        PresenceType::Available
        | PresenceType::Unavailable
        | PresenceType::Error
        | PresenceType::Probe => Class::Published,
    }
}

/// A set is a command, but for an archive's (XEP-0313 §4), which is a question.
fn iq(element: &Element<'_>, stanza: &Stanza) -> Class {
    let asks_archive = || element.children().any(|child| child.ns() == ns::MAM);
    match stanza.iq_type() {
        IqType::Set if !asks_archive() => Class::Proposed,
        _ => Class::Asked,
    }
}

fn to_room(element: &Element<'_>, stanza: &Stanza, to: &Jid) -> Option<Turn> {
    if to.is_domain() {
        return None;
    }
    let class = match stanza.kind {
        StanzaKind::Message if is_passing(stanza) => Class::Published,
        StanzaKind::Message | StanzaKind::Presence => Class::Proposed,
        // To an occupant: the room is asked who that is.
        StanzaKind::Iq if !to.is_bare() => Class::Asked,
        StanzaKind::Iq => iq(element, stanza),
    };
    Some(Turn {
        lane: Lane::Room(to.bare()),
        class,
        all: false,
    })
}
