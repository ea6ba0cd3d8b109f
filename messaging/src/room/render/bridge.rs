//! The difference for a node that has seen less of a room's log than is left of it (see [`crate::room::depth`]).
//!
//! Instead of each event that went, its occupants are told where these led to: nicknames that were given up, who is in,
//! whether the configuration is another. Presence said twice changes nothing. Archived messages are shown as ever.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::write::XmlWriter;

use super::event::{Audience, Notice, configured};
use super::welcome::one_a_nickname;
use super::{Item, Renderer, Rendering, occupant_jid, unavailable};
use crate::archive::{ArchiveRecord, ArchiveRow};
use crate::room::depth::LogDepth;
use crate::room::event::RoomEvent;
use crate::room::join::own_codes;
use crate::room::state::{Affiliation, Occupant, Role, RoomConfig, RoomRecord};
use crate::state::State;

/// What bridges the gap between a node's cursor and the floor of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// The occupants of the node that were in at its cursor and are in at the floor.
    pub stayed: Vec<FullJid>,
    /// What they are told.
    pub renderings: Vec<Rendering>,
    /// As if they joined at the floor: their joins are among the events that went, and nobody has answered them.
    pub joins: Vec<ArchiveRow>,
}

/// The nicknames given up by the events that went, from a node's cursor on.
pub fn departed(state: &State, room: &BareJid, depth: &LogDepth, cursor: u64) -> Vec<String> {
    if cursor >= depth.floor {
        return Vec::new();
    }
    let gone = state
        .departures
        .rows_of(room)
        .filter(|(seq, _)| **seq > cursor && **seq <= depth.floor);
    let mut nicks: Vec<String> = gone.map(|(_, nick)| nick.clone()).collect();
    nicks.sort_unstable();
    nicks.dedup();
    nicks
}

impl Renderer {
    /// What a node's occupants need that were last told of the row at `cursor`. `occupants`: who is in the room at the
    /// floor; `departed`: see [`departed`]; `home`: the node and its incarnation.
    pub fn bridge(
        &self,
        (room, record): (&BareJid, &RoomRecord),
        occupants: &[Arc<Occupant>],
        departed: &[String],
        cursor: u64,
        home: (u64, u64),
    ) -> Bridge {
        let ours = occupants
            .iter()
            .filter(|occupant| (occupant.node, occupant.incarnation) == home);
        let (stayed, newcomers): (Vec<_>, Vec<_>) = ours
            .cloned()
            .partition(|occupant| occupant.joined <= cursor);
        let mut renderings = Vec::new();
        let sessions: Vec<FullJid> = stayed.iter().map(|o| o.jid.clone()).collect();
        for nick in departed {
            renderings.push(Rendering::new(&departure(room, nick), sessions.clone()));
        }
        let audience = Audience {
            room,
            occupants: &stayed,
            non_anonymous: record.config.non_anonymous,
        };
        for occupant in one_a_nickname(occupants).into_values() {
            self.tell(&audience, &Notice::current(occupant), None, &mut renderings);
        }
        if record.depth.configured > cursor {
            let codes = codes_of(&record.config);
            renderings.push(Rendering::new(&configured(room, &codes), sessions.clone()));
        }
        renderings.retain(|rendering| !rendering.targets.is_empty());
        let joins = newcomers
            .iter()
            .map(|newcomer| join_at_floor(room, record, newcomer))
            .collect();
        Bridge {
            stayed: sessions,
            renderings,
            joins,
        }
    }
}

/// Nothing is known of who it was, but that the nickname was given up.
fn departure(room: &BareJid, nick: &str) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("x", ns::MUC_USER);
    let item = Item {
        affiliation: Affiliation::None,
        role: Role::None,
        jid: None,
        nick: None,
        actor: None,
        reason: None,
    };
    item.write(&mut writer);
    writer.end();
    Stanza {
        from: Some(occupant_jid(room, nick)),
        payload: writer.finish(),
        ..unavailable()
    }
}

/// What the configuration is now, whatever it was: first what touches privacy. XEP-0045 §10.2.1
fn codes_of(config: &RoomConfig) -> [u16; 3] {
    let logged = if config.archived { 170 } else { 171 };
    let anonymous = if config.non_anonymous { 172 } else { 173 };
    [logged, anonymous, 104]
}

fn join_at_floor(room: &BareJid, record: &RoomRecord, newcomer: &Arc<Occupant>) -> ArchiveRow {
    ArchiveRow {
        key: room.clone(),
        seq: record.depth.floor + 1,
        time_ms: record.created_ms,
        record: ArchiveRecord::Room(RoomEvent::Joined {
            occupant: Occupant::clone(newcomer),
            own_codes: own_codes(&record.config, false),
            announced: false,
        }),
    }
}
