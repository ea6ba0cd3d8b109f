//! What may be asked of a room.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::Stanza;

use super::state::{Affiliation, Role, Secret};

/// A command on a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomCommand {
    /// Which room.
    pub room: BareJid,
    /// Who asks: the session's full JID (its resource is empty-safe: services use the domain).
    pub by: FullJid,
    /// The generation of the session's account ([`crate::user::account::Account::generation`]); 0: not of this pool.
    pub account: u64,
    /// What.
    pub action: RoomAction,
}

/// What is asked of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomAction {
    /// §7.2: enter; creates the room (§10.1) where there is none. The presence carries what others see.
    Join {
        /// The nickname.
        nick: String,
        /// The presence, stripped of `muc` and server-owned elements.
        presence: Stanza,
        /// §7.2.5.
        password: Option<Secret>,
        /// §7.2.14.
        history: HistoryRequest,
        /// The node that holds the session.
        node: u64,
        /// Its incarnation.
        incarnation: u64,
        /// The session's number on it.
        session: u64,
    },
    /// §7.6–7.7: new nickname or new presence of an occupant. From a non-occupant: not-acceptable.
    Presence {
        /// The nickname in `to`.
        nick: String,
        /// The presence.
        presence: Stanza,
    },
    /// §7.14: leave.
    Leave {
        /// The unavailable presence.
        presence: Stanza,
        /// Node, incarnation and session number, when a server says goodbye for a stream that ended: a stay that another
        /// stream has taken over meanwhile goes on. `None`: the client's own word.
        of: Option<(u64, u64, u64)>,
    },
    /// §7.4 and §8.1: a groupchat message with a body, or a subject change.
    Message {
        /// The message.
        stanza: Stanza,
        /// The client's origin-id, if any.
        origin_id: Option<String>,
        /// §8.1: it has a `<subject/>` and neither `<body/>` nor `<thread/>`.
        changes_subject: bool,
    },
    /// §7.5: a message to one occupant.
    PrivateMessage {
        /// To whom.
        nick: String,
        /// The message.
        stanza: Stanza,
        /// The client's origin-id, if any.
        origin_id: Option<String>,
    },
    /// §7.8.2: mediated invitations.
    Invite {
        /// Whom.
        invitees: Vec<Invitee>,
        /// The message's id, for the errors of invitees that don't exist.
        id: Option<Arc<str>>,
    },
    /// §7.8.2: an invitation declined.
    Decline {
        /// Who had invited.
        inviter: BareJid,
        /// Why.
        reason: Option<String>,
    },
    /// §7.13: a visitor asks for voice.
    RequestVoice,
    /// §8.6: a moderator's answer to a request for voice.
    GrantVoice {
        /// The visitor's nickname.
        nick: String,
        /// Granted or not.
        allow: bool,
    },
    /// §8–10: changes of roles (by nickname) and affiliations (by JID), all or nothing.
    Admin {
        /// The changes.
        items: Vec<AdminItem>,
    },
    /// §10.1–10.2: the configuration form, submitted. An empty form makes an instant room.
    Configure {
        /// What was filled in.
        fields: FormFields,
    },
    /// §10.1.3: the configuration form, cancelled: a locked new room goes.
    CancelConfiguration,
    /// §10.9: destroy.
    Destroy {
        /// Another room to go to.
        alternate: Option<Jid>,
        /// Why.
        reason: Option<String>,
        /// The other room's password.
        password: Option<Secret>,
    },
    /// By the owner: these occupants' nodes are gone and nobody has claimed them (status 333).
    RemoveUnclaimed {
        /// Which; those that have joined again from another node and incarnation stay.
        occupants: Vec<(FullJid, u64, u64)>,
    },
    /// By the node of a session that goes on at another one: the same stay, seen from there.
    Move {
        /// Node, incarnation and session number as they were; a stay that another stream has taken over does not move.
        from: (u64, u64, u64),
        /// As they are from here on.
        to: (u64, u64, u64),
    },
}

impl RoomAction {
    /// Whether a session asks for it on behalf of its account; goodbyes and removals are true whoever says them.
    pub fn is_of_session(&self) -> bool {
        !matches!(
            self,
            RoomAction::Leave { .. } | RoomAction::RemoveUnclaimed { .. } | RoomAction::Move { .. }
        )
    }
}

/// The fields of a submitted form: (var, values) pairs. The values may hold a password: `Debug` shows only the names.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormFields(pub Vec<(String, Vec<String>)>);

impl std::fmt::Debug for FormFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(var, _)| var))
            .finish()
    }
}

/// One who is invited. §7.8.2
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitee {
    /// Whom.
    pub jid: Jid,
    /// Why.
    pub reason: Option<String>,
    /// §7.9: the invitation goes on with a one-to-one chat: `<continue/>` with its thread (empty: none given).
    pub continued: Option<String>,
}

/// How much history a joining occupant wants. §7.2.14.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRequest {
    /// At most so many characters.
    pub maxchars: Option<u32>,
    /// At most so many messages.
    pub maxstanzas: Option<u32>,
    /// Only of the last so many seconds.
    pub seconds: Option<u32>,
    /// Only since, ms since 1970.
    pub since_ms: Option<u64>,
}

/// One change of a role or an affiliation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminItem {
    /// By nickname (roles, or an affiliation of an occupant).
    pub nick: Option<String>,
    /// By JID (affiliations).
    pub jid: Option<Jid>,
    /// The new role.
    pub role: Option<Role>,
    /// The new affiliation.
    pub affiliation: Option<Affiliation>,
    /// Why.
    pub reason: Option<String>,
}
