//! From events to stanzas: serialised once for each class of recipient; per recipient only `to` differs.
//!
//! Classes: who sees real JIDs (moderators; everybody in a non-anonymous room), who doesn't, and the person concerned,
//! who gets status 110. A message is one stanza for all. A newcomer's own answer is [`Renderer::welcome`]; what an owner
//! shows again to a node that attaches is [`replay`].

mod bridge;
mod event;
mod own;
mod replay;
mod welcome;

use bytes::{Bytes, BytesMut};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::write::{XmlWriter, escape_attribute};
use xmpp::{ns, stanza::StanzaTemplate};

pub use bridge::{Bridge, departed};
pub(in crate::room) use own::sender_jid;
pub use own::{decline_message, desynchronized, invitation, private_payload, voice_form};
pub use replay::{ReplayStep, before, replay};
pub use welcome::{history_rows_max, select_history};

use super::occupant_id::OccupantIds;
use super::state::{Affiliation, Occupant, Role};
use crate::archive::ArchiveIds;

/// One stanza for many: `head` + the recipient's JID (escaped) + `tail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Up to and with the opening quote of `to`.
    pub head: Bytes,
    /// From the closing quote of `to`.
    pub tail: Bytes,
    /// Who gets it.
    pub targets: Vec<FullJid>,
}

impl Rendering {
    /// A stanza without `to`, for these.
    pub fn new(stanza: &Stanza, targets: Vec<FullJid>) -> Rendering {
        let template: StanzaTemplate = stanza.split();
        Rendering {
            head: template.before().clone(),
            tail: template.after().clone(),
            targets,
        }
    }

    /// The stanza as one recipient gets it.
    pub fn to_recipient(&self, to: &FullJid) -> Bytes {
        let mut out =
            BytesMut::with_capacity(self.head.len() + to.as_str().len() + self.tail.len() + 16);
        out.extend_from_slice(&self.head);
        escape_attribute(to.as_str(), &mut out);
        out.extend_from_slice(&self.tail);
        out.freeze()
    }
}

/// Turns a room's events into stanzas.
#[derive(Clone, Debug)]
pub struct Renderer {
    ids: ArchiveIds,
    occupant_ids: OccupantIds,
}

impl Renderer {
    /// With the pool's id key, which makes archive ids and occupant ids.
    pub fn new(id_key: &[u8; 16]) -> Renderer {
        Renderer {
            ids: ArchiveIds::new(id_key),
            occupant_ids: OccupantIds::new(id_key),
        }
    }

    pub(in crate::room) fn occupant_id(&self, room: &BareJid, occupant: &Occupant) -> String {
        self.occupant_ids
            .id(room, &occupant.jid.bare(), occupant.account)
    }
}

/// What an `<item/>` in a presence says. §7.2.2
struct Item<'a> {
    affiliation: Affiliation,
    role: Role,
    jid: Option<&'a FullJid>,
    nick: Option<&'a str>,
    actor: Option<&'a str>,
    reason: Option<&'a str>,
}

impl<'a> Item<'a> {
    fn of(occupant: &Occupant) -> Item<'a> {
        let (affiliation, role) = (occupant.affiliation, occupant.role);
        Item {
            affiliation,
            role,
            jid: None,
            nick: None,
            actor: None,
            reason: None,
        }
    }

    fn write(&self, writer: &mut XmlWriter) {
        writer
            .start("item")
            .attr("affiliation", self.affiliation.name());
        writer.attr_opt("jid", self.jid.map(FullJid::as_str));
        writer
            .attr_opt("nick", self.nick)
            .attr("role", self.role.name());
        if let Some(actor) = self.actor {
            writer.start("actor").attr("nick", actor).end();
        }
        if let Some(reason) = self.reason {
            writer.leaf("reason", reason);
        }
        writer.end();
    }
}

fn write_codes(writer: &mut XmlWriter, codes: &[u16]) {
    for code in codes {
        writer.start("status").attr("code", &code.to_string()).end();
    }
}

fn write_occupant_id(writer: &mut XmlWriter, id: &str) {
    writer
        .start_ns("occupant-id", ns::OCCUPANT_ID)
        .attr("id", id)
        .end();
}

/// An occupant's JID; the bare room where the nickname can't be one (it was checked when it came in).
fn occupant_jid(room: &BareJid, nick: &str) -> Jid {
    room.with_resource(nick)
        .map_or_else(|_| Jid::from(room), Jid::from)
}

/// A presence from an occupant: what its client says, then what the room says.
fn presence(from: Jid, said: &Stanza, item: &Item<'_>, codes: &[u16], occupant_id: &str) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.raw(&said.payload).start_ns("x", ns::MUC_USER);
    item.write(&mut writer);
    write_codes(&mut writer, codes);
    writer.end();
    write_occupant_id(&mut writer, occupant_id);
    Stanza {
        kind: StanzaKind::Presence,
        from: Some(from),
        to: None,
        payload: writer.finish(),
        ..said.clone()
    }
}

/// The same presence as a type of its own, with nothing the client said.
fn unavailable() -> Stanza {
    Stanza {
        type_: Some("unavailable".into()),
        ..Stanza::new(StanzaKind::Presence)
    }
}
