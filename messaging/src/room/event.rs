//! A room's events: the rows of its log.

use serde::{Deserialize, Serialize};
use xmpp::jid::{FullJid, Jid};
use xmpp::stanza::Stanza;

use super::state::{Occupant, Secret};

/// One event. Each has a sequence; messages and subjects are read by XEP-0313, the others are kept for replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomEvent {
    /// A groupchat message.
    Message {
        /// Who sent it, really.
        sender: FullJid,
        /// Under which nickname.
        nick: String,
        /// XEP-0421.
        occupant_id: String,
        /// The message without addresses.
        stanza: Stanza,
        /// Whether the room's archive shows it (`muc#roomconfig_enablelogging` at the time).
        archived: bool,
    },
    /// The subject changed: a message with a `<subject/>` and no body.
    Subject {
        /// Who sent it, really.
        sender: FullJid,
        /// Under which nickname.
        nick: String,
        /// XEP-0421.
        occupant_id: String,
        /// The message without addresses.
        stanza: Stanza,
        /// Whether the room's archive shows it (`muc#roomconfig_enablelogging` at the time).
        archived: bool,
    },
    /// Somebody came in.
    Joined {
        /// Who.
        occupant: Occupant,
        /// Status codes for the newcomer beyond 110 (100, 170, 201, 210).
        own_codes: Vec<u16>,
        /// Whether the others are told: not where a lost session comes back with the presence it had.
        announced: bool,
    },
    /// Somebody's presence, role or affiliation changed.
    Changed {
        /// As it is now.
        occupant: Occupant,
        /// Who did it, for role and affiliation changes (a nickname).
        actor: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// Somebody has another nickname. §7.6
    Renamed {
        /// As it was.
        old_nick: String,
        /// As it is now.
        occupant: Occupant,
    },
    /// Somebody is gone.
    Left {
        /// As it was; its affiliation is the new one.
        occupant: Occupant,
        /// The unavailable presence's payload.
        presence: Stanza,
        /// Status codes (301 ban, 307 kick, 321, 322, 332, 333).
        codes: Vec<u16>,
        /// Who did it (a nickname).
        actor: Option<String>,
        /// Why.
        reason: Option<String>,
        /// Whether the others are told: only once where several sessions under one nickname go together.
        announced: bool,
    },
    /// An affiliation of somebody who isn't in the room changed: told to moderators (§9.1 ff.).
    Affiliated {
        /// Whose.
        jid: Jid,
        /// The new one.
        affiliation: super::state::Affiliation,
        /// Why.
        reason: Option<String>,
    },
    /// The configuration changed. §10.2.1
    Configured {
        /// Status codes (104, 170–174).
        codes: Vec<u16>,
    },
    /// The room is gone. §10.9
    Destroyed {
        /// Who was in it.
        occupants: Vec<Occupant>,
        /// Another room to go to.
        alternate: Option<Jid>,
        /// Why.
        reason: Option<String>,
        /// The other room's password.
        password: Option<Secret>,
    },
    /// A session went on at another node. Nobody is shown it.
    Moved {
        /// As it is now.
        occupant: Occupant,
        /// Node, incarnation and session number as they were.
        from: (u64, u64, u64),
        /// The row by which it had come to that node.
        joined: u64,
    },
}

impl RoomEvent {
    /// Whether an occupant said it, archived or not.
    pub fn is_said(&self) -> bool {
        matches!(self, RoomEvent::Message { .. } | RoomEvent::Subject { .. })
    }

    /// Whether XEP-0313 shows it.
    pub fn is_message(&self) -> bool {
        matches!(
            self,
            RoomEvent::Message { archived: true, .. } | RoomEvent::Subject { archived: true, .. }
        )
    }
}
