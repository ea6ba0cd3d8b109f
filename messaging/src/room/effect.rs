//! What a room's owner must do after a command.

use std::sync::Arc;

use xmpp::jid::FullJid;
use xmpp::stanza::Stanza;

use super::command::HistoryRequest;
use super::state::{Occupant, RoomRecord};
use crate::archive::ArchiveRow;

/// For the occupants of a room.
#[derive(Clone, Debug)]
pub enum RoomEffect {
    /// A row was added: fan it out to these occupants.
    Event {
        /// The sequence of the row before.
        previous: u64,
        /// The row.
        row: Arc<ArchiveRow>,
        /// Who is in the room after it (who left is in the event).
        occupants: Arc<Vec<Arc<Occupant>>>,
        /// Whether the room shows real JIDs to all.
        non_anonymous: bool,
        /// For a join: what the newcomer is told besides.
        welcome: Option<Arc<Welcome>>,
    },
    /// A stanza for one occupant: a form, a decline, the reflection of a suppressed retry.
    Deliver {
        /// To whom.
        to: FullJid,
        /// What.
        stanza: Stanza,
    },
    /// A retry was suppressed: the sender gets the original row's reflection again.
    ReflectAgain {
        /// The sender.
        to: FullJid,
        /// The original row.
        seq: u64,
    },
}

/// What a newcomer is told besides the others' presences: history, then the subject. §7.2.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The room at the time.
    pub room: RoomRecord,
    /// How much history was asked for.
    pub history: HistoryRequest,
}
