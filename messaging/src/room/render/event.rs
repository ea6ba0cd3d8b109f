//! What occupants are told of one event.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::write::XmlWriter;

use super::{
    Item, Renderer, Rendering, occupant_jid, presence, unavailable, write_codes, write_occupant_id,
};
use crate::archive::{ArchiveRecord, ArchiveRow};
use crate::room::event::RoomEvent;
use crate::room::state::{Affiliation, Occupant, Role};

/// Who is in the room after an event, and what they may see.
pub(super) struct Audience<'a> {
    pub(super) room: &'a BareJid,
    pub(super) occupants: &'a [Arc<Occupant>],
    pub(super) non_anonymous: bool,
}

/// A presence about one occupant, before it is cut to each class of recipient.
pub(super) struct Notice<'a> {
    about: &'a Occupant,
    nick: &'a str,
    said: &'a Stanza,
    /// The nickname in the `<item/>`: the new one, when the nickname changes.
    new_nick: Option<&'a str>,
    codes: &'a [u16],
    actor: Option<&'a str>,
    reason: Option<&'a str>,
}

impl<'a> Notice<'a> {
    /// The occupant's presence as it is.
    pub(super) fn current(about: &'a Occupant) -> Notice<'a> {
        let (nick, said) = (about.nick.as_str(), &about.presence);
        Notice {
            about,
            nick,
            said,
            new_nick: None,
            codes: &[],
            actor: None,
            reason: None,
        }
    }
}

impl Renderer {
    /// The stanzas of one event, in the order in which each recipient gets them. `occupants`: who is in the room after it.
    ///
    /// A join's newcomer gets [`Renderer::welcome`] instead; who left, was renamed or was in a destroyed room is told by
    /// the event itself.
    pub fn event(
        &self,
        row: &ArchiveRow,
        occupants: &[Arc<Occupant>],
        non_anonymous: bool,
    ) -> Vec<Rendering> {
        let ArchiveRecord::Room(event) = &row.record else {
            return Vec::new();
        };
        let audience = Audience {
            room: &row.key,
            occupants,
            non_anonymous,
        };
        let mut out = Vec::new();
        match event {
            RoomEvent::Message { .. } | RoomEvent::Subject { .. } => {
                if let Some(stanza) = self.message(row) {
                    out.push(Rendering::new(&stanza, all(occupants)));
                }
            }
            RoomEvent::Joined { .. }
            | RoomEvent::Changed { .. }
            | RoomEvent::Renamed { .. }
            | RoomEvent::Left { .. } => self.presences(&audience, event, &mut out),
            RoomEvent::Affiliated {
                jid,
                affiliation,
                reason,
            } => {
                let stanza = affiliated(&row.key, jid, *affiliation, reason.as_deref());
                out.push(Rendering::new(&stanza, audience.seeing()));
            }
            RoomEvent::Configured { codes } => {
                out.push(Rendering::new(&configured(&row.key, codes), all(occupants)));
            }
            RoomEvent::Moved { .. } => {}
            RoomEvent::Destroyed { occupants, .. } => {
                out.extend(
                    occupants
                        .iter()
                        .map(|occupant| self.destroyed(&row.key, occupant, event)),
                );
            }
        }
        out.retain(|rendering| !rendering.targets.is_empty());
        out
    }

    /// What occupants are told of one occupant.
    fn presences(&self, audience: &Audience<'_>, event: &RoomEvent, out: &mut Vec<Rendering>) {
        match event {
            RoomEvent::Joined {
                occupant,
                announced: true,
                ..
            } => {
                let notice = Notice::current(occupant);
                self.tell(audience, &notice, Some(&occupant.jid), out);
            }
            RoomEvent::Changed {
                occupant,
                actor,
                reason,
            } => {
                let (actor, reason) = (actor.as_deref(), reason.as_deref());
                let notice = Notice {
                    actor,
                    reason,
                    ..Notice::current(occupant)
                };
                self.tell(audience, &notice, None, out);
            }
            RoomEvent::Renamed { old_nick, occupant } => {
                self.renamed(audience, old_nick, occupant, out)
            }
            RoomEvent::Left {
                occupant,
                presence,
                codes,
                actor,
                reason,
                announced,
            } => {
                let (actor, reason) = (actor.as_deref(), reason.as_deref());
                let notice = Notice {
                    said: presence,
                    codes,
                    actor,
                    reason,
                    ..Notice::current(occupant)
                };
                self.left(audience, &notice, *announced, out);
            }
            _ => {}
        }
    }

    /// A message or subject as everybody gets it, without `to`: reflected with its own id, under the archive's id
    /// (XEP-0359) and the sender's occupant id (XEP-0421). `None` for other rows.
    pub fn message(&self, row: &ArchiveRow) -> Option<Stanza> {
        let ArchiveRecord::Room(event) = &row.record else {
            return None;
        };
        let (RoomEvent::Message {
            nick,
            occupant_id,
            stanza,
            archived,
            ..
        }
        | RoomEvent::Subject {
            nick,
            occupant_id,
            stanza,
            archived,
            ..
        }) = event
        else {
            return None;
        };
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.raw(&stanza.payload);
        if *archived {
            writer.start_ns("stanza-id", ns::STANZA_ID);
            writer
                .attr("by", row.key.as_str())
                .attr("id", &self.ids.id(&row.key, row.seq))
                .end();
        }
        write_occupant_id(&mut writer, occupant_id);
        let from = Some(occupant_jid(&row.key, nick));
        Some(Stanza {
            from,
            to: None,
            type_: Some("groupchat".into()),
            payload: writer.finish(),
            ..stanza.clone()
        })
    }

    /// A presence, cut to each class of recipient.
    pub(super) fn tell(
        &self,
        audience: &Audience<'_>,
        notice: &Notice<'_>,
        except: Option<&FullJid>,
        out: &mut Vec<Rendering>,
    ) {
        let (mut own, mut seeing, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let person = notice.about.jid.bare();
        for occupant in audience
            .occupants
            .iter()
            .filter(|occupant| Some(&occupant.jid) != except)
        {
            let class = if occupant.nick == notice.about.nick && occupant.jid.bare() == person {
                &mut own
            } else if audience.non_anonymous || occupant.role == Role::Moderator {
                &mut seeing
            } else {
                &mut others
            };
            class.push(occupant.jid.clone());
        }
        self.push(audience.room, notice, true, true, own, out);
        self.push(audience.room, notice, true, false, seeing, out);
        self.push(audience.room, notice, false, false, others, out);
    }

    fn push(
        &self,
        room: &BareJid,
        notice: &Notice<'_>,
        shows_jid: bool,
        is_self: bool,
        targets: Vec<FullJid>,
        out: &mut Vec<Rendering>,
    ) {
        if targets.is_empty() {
            return;
        }
        let mut codes: Vec<u16> = notice.codes.to_vec();
        if is_self {
            codes.insert(0, 110);
        }
        let item = Item {
            jid: shows_jid.then_some(&notice.about.jid),
            nick: notice.new_nick,
            actor: notice.actor,
            reason: notice.reason,
            ..Item::of(notice.about)
        };
        let from = occupant_jid(room, notice.nick);
        let stanza = presence(
            from,
            notice.said,
            &item,
            &codes,
            &self.occupant_id(room, notice.about),
        );
        out.push(Rendering::new(&stanza, targets));
    }

    /// §7.6: the old nickname goes, the new one comes. Where another session keeps the old one, only the renamed session
    /// is told that it goes.
    fn renamed(
        &self,
        audience: &Audience<'_>,
        old_nick: &str,
        occupant: &Occupant,
        out: &mut Vec<Rendering>,
    ) {
        let gone = unavailable();
        let going = Notice {
            nick: old_nick,
            said: &gone,
            new_nick: Some(&occupant.nick),
            codes: &[303],
            ..Notice::current(occupant)
        };
        match audience.remaining(old_nick, &occupant.jid) {
            Some(remaining) => {
                self.push(
                    audience.room,
                    &going,
                    true,
                    true,
                    vec![occupant.jid.clone()],
                    out,
                );
                self.tell(
                    audience,
                    &Notice::current(remaining),
                    Some(&occupant.jid),
                    out,
                );
            }
            None => self.tell(audience, &going, None, out),
        }
        self.tell(audience, &Notice::current(occupant), None, out);
    }

    /// §7.14, §8.2, §9.1: who left hears of it too; where another session keeps the nickname, the others see that one.
    fn left(
        &self,
        audience: &Audience<'_>,
        notice: &Notice<'_>,
        announced: bool,
        out: &mut Vec<Rendering>,
    ) {
        self.push(
            audience.room,
            notice,
            true,
            true,
            vec![notice.about.jid.clone()],
            out,
        );
        match audience.remaining(&notice.about.nick, &notice.about.jid) {
            Some(remaining) => self.tell(audience, &Notice::current(remaining), None, out),
            None if announced => self.tell(audience, notice, Some(&notice.about.jid), out),
            None => {}
        }
    }

    /// §10.9: one presence for each, from their own occupant JID.
    fn destroyed(&self, room: &BareJid, occupant: &Occupant, event: &RoomEvent) -> Rendering {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.start_ns("x", ns::MUC_USER);
        Item {
            affiliation: Affiliation::None,
            role: Role::None,
            ..Item::of(occupant)
        }
        .write(&mut writer);
        if let RoomEvent::Destroyed {
            alternate,
            reason,
            password,
            ..
        } = event
        {
            writer
                .start("destroy")
                .attr_opt("jid", alternate.as_ref().map(Jid::as_str));
            if let Some(password) = password {
                writer.leaf("password", &password.0);
            }
            if let Some(reason) = reason {
                writer.leaf("reason", reason);
            }
            writer.end();
        }
        write_codes(&mut writer, &[110]);
        writer.end();
        write_occupant_id(&mut writer, &self.occupant_id(room, occupant));
        let from = Some(occupant_jid(room, &occupant.nick));
        let stanza = Stanza {
            from,
            payload: writer.finish(),
            ..unavailable()
        };
        Rendering::new(&stanza, vec![occupant.jid.clone()])
    }
}

impl Audience<'_> {
    /// Those who see real JIDs.
    fn seeing(&self) -> Vec<FullJid> {
        let sees =
            |occupant: &&Arc<Occupant>| self.non_anonymous || occupant.role == Role::Moderator;
        self.occupants
            .iter()
            .filter(sees)
            .map(|occupant| occupant.jid.clone())
            .collect()
    }

    /// Another session that is still here under this nickname: the one that came last.
    fn remaining(&self, nick: &str, except: &FullJid) -> Option<&Occupant> {
        let others = self
            .occupants
            .iter()
            .filter(|occupant| occupant.nick == nick && occupant.jid != *except);
        others
            .max_by_key(|occupant| occupant.joined)
            .map(Arc::as_ref)
    }
}

fn all(occupants: &[Arc<Occupant>]) -> Vec<FullJid> {
    occupants
        .iter()
        .map(|occupant| occupant.jid.clone())
        .collect()
}

/// §9.3, §10.3: the affiliation of somebody who isn't here changed.
fn affiliated(room: &BareJid, jid: &Jid, affiliation: Affiliation, reason: Option<&str>) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("x", ns::MUC_USER)
        .start("item")
        .attr("affiliation", affiliation.name());
    writer
        .attr("jid", jid.as_str())
        .attr("role", Role::None.name());
    if let Some(reason) = reason {
        writer.leaf("reason", reason);
    }
    writer.end().end();
    Stanza {
        from: Some(Jid::from(room)),
        payload: writer.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// §10.2.1.
pub(super) fn configured(room: &BareJid, codes: &[u16]) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("x", ns::MUC_USER);
    write_codes(&mut writer, codes);
    writer.end();
    Stanza {
        from: Some(Jid::from(room)),
        type_: Some("groupchat".into()),
        payload: writer.finish(),
        ..Stanza::new(StanzaKind::Message)
    }
}
