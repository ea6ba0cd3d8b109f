//! The answer to a join, in the order of XEP-0045 §7.1: the others, oneself, history, subject.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::write::XmlWriter;

use super::{Item, Renderer, occupant_jid, presence, write_occupant_id};
use crate::archive::{ArchiveRecord, ArchiveRow};
use crate::room::command::HistoryRequest;
use crate::room::effect::Welcome;
use crate::room::event::RoomEvent;
use crate::room::state::{Occupant, Role};

/// Rows that a shell reads beyond the messages to show: subject changes stand among them and are no history.
const SUBJECTS_AMONG: u32 = 16;

/// How many of the archive's newest messages a shell reads for this join; [`Renderer::welcome`] picks from them.
pub fn history_rows_max(welcome: &Welcome) -> u32 {
    match history_max(welcome) {
        0 => 0,
        messages => messages.saturating_add(SUBJECTS_AMONG),
    }
}

/// How many messages are shown at most: what is asked for within the room's own limit. §7.2.14
fn history_max(welcome: &Welcome) -> u32 {
    let asked = welcome.history.maxstanzas.unwrap_or(u32::MAX);
    if welcome.history.maxchars == Some(0) {
        0
    } else {
        asked.min(welcome.room.config.history_max)
    }
}

impl Renderer {
    /// What a newcomer is told. `occupants`: who is in the room after the join; `history`: the newest messages before it,
    /// oldest first. One frame, shown when whole.
    pub fn welcome(
        &self,
        row: &ArchiveRow,
        welcome: &Welcome,
        occupants: &[Arc<Occupant>],
        history: &[Arc<ArchiveRow>],
    ) -> Vec<Stanza> {
        let ArchiveRecord::Room(RoomEvent::Joined {
            occupant: newcomer,
            own_codes,
            ..
        }) = &row.record
        else {
            return Vec::new();
        };
        let (room, config) = (&row.key, &welcome.room.config);
        let sees_jids = config.non_anonymous || newcomer.role == Role::Moderator;
        let mut stanzas = Vec::new();
        for other in one_a_nickname(occupants)
            .into_values()
            .filter(|other| other.nick != newcomer.nick)
        {
            let item = Item {
                jid: sees_jids.then_some(&other.jid),
                ..Item::of(other)
            };
            stanzas.push(self.current_presence(room, other, &item, &[]));
        }
        let mut codes = vec![110];
        codes.extend_from_slice(own_codes);
        let item = Item {
            jid: Some(&newcomer.jid),
            ..Item::of(newcomer)
        };
        stanzas.push(self.current_presence(room, newcomer, &item, &codes));
        stanzas.extend(self.history(history, welcome, row));
        stanzas.push(self.subject(room, welcome));
        for stanza in &mut stanzas {
            stanza.to = Some(Jid::from(&newcomer.jid));
        }
        stanzas
    }

    fn current_presence(
        &self,
        room: &BareJid,
        occupant: &Occupant,
        item: &Item<'_>,
        codes: &[u16],
    ) -> Stanza {
        let from = occupant_jid(room, &occupant.nick);
        presence(
            from,
            &occupant.presence,
            item,
            codes,
            &self.occupant_id(room, occupant),
        )
    }

    /// §7.2.13–7.2.14.
    fn history(
        &self,
        rows: &[Arc<ArchiveRow>],
        welcome: &Welcome,
        join: &ArchiveRow,
    ) -> Vec<Stanza> {
        let before_join = rows.iter().filter(|row| row.seq < join.seq);
        let rendered: Vec<(u64, Stanza)> = before_join
            .filter(|row| matches!(&row.record, ArchiveRecord::Room(RoomEvent::Message { .. })))
            .filter_map(|row| {
                Some((
                    row.time_ms,
                    delayed(self.message(row)?, &join.key, row.time_ms),
                ))
            })
            .collect();
        let request = HistoryRequest {
            maxstanzas: Some(history_max(welcome)),
            ..welcome.history.clone()
        };
        select_history(rendered, &request, join.time_ms)
    }

    /// §7.2.15: always sent, even empty.
    fn subject(&self, room: &BareJid, welcome: &Welcome) -> Stanza {
        let subject = &welcome.room.subject;
        let Some(stanza) = &subject.stanza else {
            let mut writer = XmlWriter::new(ns::CLIENT);
            writer.start("subject").end();
            return Stanza {
                from: Some(Jid::from(room)),
                type_: Some("groupchat".into()),
                payload: writer.finish(),
                ..Stanza::new(StanzaKind::Message)
            };
        };
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.raw(&stanza.payload);
        write_occupant_id(&mut writer, &subject.occupant_id);
        let stanza = Stanza {
            from: Some(occupant_jid(room, &subject.nick)),
            to: None,
            type_: Some("groupchat".into()),
            payload: writer.finish(),
            ..stanza.clone()
        };
        delayed(stanza, room, subject.time_ms)
    }
}

/// The newest messages that fit all that was asked for, oldest first: complete stanzas only. §7.2.14
pub fn select_history(
    rendered: Vec<(u64, Stanza)>,
    request: &HistoryRequest,
    now_ms: u64,
) -> Vec<Stanza> {
    let oldest_ms = request.seconds.map_or(0, |seconds| {
        now_ms.saturating_sub(u64::from(seconds) * 1_000)
    });
    let oldest_ms = oldest_ms.max(request.since_ms.unwrap_or(0));
    let mut stanzas_left = request.maxstanzas.unwrap_or(u32::MAX);
    let mut chars_left = request.maxchars.map_or(usize::MAX, |chars| chars as usize);
    let mut selected = Vec::new();
    for (time_ms, stanza) in rendered.into_iter().rev() {
        let mut bytes = bytes::BytesMut::new();
        stanza.write(&mut bytes);
        // "the characters of the complete XML stanzas, not only their XML character data"
        let chars = String::from_utf8_lossy(&bytes).chars().count();
        if time_ms < oldest_ms || stanzas_left == 0 || chars > chars_left {
            break;
        }
        stanzas_left -= 1;
        chars_left -= chars;
        selected.push(stanza);
    }
    selected.reverse();
    selected
}

/// XEP-0203: when it was said first, by the room's word.
fn delayed(stanza: Stanza, room: &BareJid, time_ms: u64) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.raw(&stanza.payload).start_ns("delay", ns::DELAY);
    writer
        .attr("from", room.as_str())
        .attr("stamp", &stamp(time_ms))
        .end();
    Stanza {
        payload: writer.finish(),
        ..stanza
    }
}

/// XEP-0082, in UTC with milliseconds.
fn stamp(time_ms: u64) -> String {
    let nanos = i128::from(time_ms) * 1_000_000;
    let time =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Sessions under one nickname are one occupant: the one that came last stands for all.
pub(super) fn one_a_nickname(occupants: &[Arc<Occupant>]) -> BTreeMap<&str, &Occupant> {
    let mut by_nick: BTreeMap<&str, &Occupant> = BTreeMap::new();
    for occupant in occupants {
        let place = by_nick.entry(&occupant.nick).or_insert(occupant);
        if occupant.joined > place.joined {
            *place = occupant;
        }
    }
    by_nick
}
