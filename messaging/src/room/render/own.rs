//! Stanzas that a room says itself, to one person each.

use bytes::Bytes;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::scan::{Document, Limits};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::write::XmlWriter;

use super::{Item, occupant_jid, unavailable, write_codes, write_occupant_id};
use crate::room::command::Invitee;
use crate::room::state::{Affiliation, Occupant, Role, Secret};

/// §7.2.18: an explicit kick for somebody who takes themselves for an occupant; 307 and 333 together, as it says there.
pub fn desynchronized(room: &BareJid, nick: &str, to: &FullJid) -> Option<Stanza> {
    let from = room.with_resource(nick).ok()?;
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("x", ns::MUC_USER);
    let nothing = (Affiliation::None, Role::None);
    let item = Item {
        affiliation: nothing.0,
        role: nothing.1,
        jid: None,
        nick: None,
        actor: None,
        reason: None,
    };
    item.write(&mut writer);
    write_codes(&mut writer, &[110, 307, 333]);
    writer.end();
    Some(Stanza {
        from: Some(Jid::from(from)),
        to: Some(Jid::from(to)),
        payload: writer.finish(),
        ..unavailable()
    })
}

/// §7.8.2: an invitation, from a person or (§9.5) from the room itself.
pub fn invitation(
    room: &BareJid,
    inviter: Option<&BareJid>,
    invitee: &Invitee,
    password: Option<&Secret>,
) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("x", ns::MUC_USER).start("invite");
    writer.attr("from", inviter.unwrap_or(room).as_str());
    if let Some(reason) = &invitee.reason {
        writer.leaf("reason", reason);
    }
    if let Some(thread) = &invitee.continued {
        writer
            .start("continue")
            .attr_opt(
                "thread",
                Some(thread.as_str()).filter(|thread| !thread.is_empty()),
            )
            .end();
    }
    writer.end();
    if let Some(password) = password {
        writer.leaf("password", &password.0);
    }
    writer.end();
    Stanza {
        from: Some(Jid::from(room)),
        to: Some(invitee.jid.clone()),
        payload: writer.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// §7.8.2: somebody declines.
pub fn decline_message(room: &BareJid, by: &BareJid, reason: Option<&str>, to: &FullJid) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("x", ns::MUC_USER)
        .start("decline")
        .attr("from", by.as_str());
    if let Some(reason) = reason {
        writer.leaf("reason", reason);
    }
    writer.end().end();
    Stanza {
        from: Some(Jid::from(room)),
        to: Some(Jid::from(to)),
        payload: writer.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// §8.6: the form by which a moderator answers a request for voice.
pub fn voice_form(room: &BareJid, visitor: &Occupant, to: &FullJid) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("x", ns::DATA_FORM)
        .attr("type", "form")
        .leaf("title", "Voice request");
    writer.leaf(
        "instructions",
        "Somebody asks for the right to write in this room.",
    );
    let fields = [
        ("FORM_TYPE", "hidden", None, ns::MUC_REQUEST),
        (
            "muc#role",
            "list-single",
            Some("Requested role"),
            Role::Participant.name(),
        ),
        (
            "muc#jid",
            "jid-single",
            Some("User ID"),
            visitor.jid.as_str(),
        ),
        (
            "muc#roomnick",
            "text-single",
            Some("Room nickname"),
            visitor.nick.as_str(),
        ),
        (
            "muc#request_allow",
            "boolean",
            Some("Grant voice to this person?"),
            "false",
        ),
    ];
    for (var, kind, label, value) in fields {
        writer
            .start("field")
            .attr("var", var)
            .attr("type", kind)
            .attr_opt("label", label);
        writer.leaf("value", value).end();
    }
    writer.end();
    Stanza {
        from: Some(Jid::from(room)),
        to: Some(Jid::from(to)),
        payload: writer.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// §7.5: a private message's payload as the recipient gets it: with the empty `<x/>` that marks it, and the sender's
/// occupant id.
pub fn private_payload(payload: &Bytes, occupant_id: &str) -> Bytes {
    let marked = Document::parse_fragment(payload.clone(), &Limits::OWN).is_ok_and(|document| {
        document
            .roots()
            .any(|element| element.is("x", ns::MUC_USER))
    });
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.raw(payload);
    if !marked {
        writer.start_ns("x", ns::MUC_USER).end();
    }
    write_occupant_id(&mut writer, occupant_id);
    writer.finish()
}

/// An occupant's JID for a stanza that passes through the room.
pub(in crate::room) fn sender_jid(room: &BareJid, nick: &str) -> Jid {
    occupant_jid(room, nick)
}
