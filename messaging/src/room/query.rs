//! Questions about rooms.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use super::state::{Affiliation, Role};
use crate::query::Reply;
use crate::state::State;

/// What may be asked about rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomQuery {
    /// §6.3: the public rooms of this partition (disco#items of the service), with names.
    Rooms {
        /// Who asks: members see hidden rooms they are in.
        asker: BareJid,
    },
    /// §6.4: disco#info of a room: the payload of the result.
    Info {
        /// Which.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// §6.5: disco#items of a room.
    Items {
        /// Which.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// §9.5 ff.: the list of an affiliation.
    Affiliations {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// Which list.
        affiliation: Affiliation,
    },
    /// §8.5 etc.: the list of a role.
    Roles {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// Which list.
        role: Role,
    },
    /// §10.2: the configuration form.
    ConfigurationForm {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// XEP-0410: is this session in the room under this nickname?
    SelfPing {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
        /// The nickname.
        nick: String,
    },
    /// To which session an iq to an occupant goes (§7.5 note, iq to occupants): `Jids` isn't enough, so the full JID's text.
    OccupantSession {
        /// Which room.
        room: BareJid,
        /// Who asks: must be an occupant.
        asker: FullJid,
        /// The nickname.
        nick: String,
    },
    /// The registered nickname, if the room keeps one (`x-roomuser-item`).
    ReservedNick {
        /// Which room.
        room: BareJid,
        /// Who asks.
        asker: FullJid,
    },
}

/// Answers a question about a room.
pub fn answer(state: &State, query: &RoomQuery) -> Reply {
    let _ = (state, query);
    Reply::Jids(Vec::new())
}
