//! Messages to everybody, and the subject. XEP-0045 §7.4, §8.1.

use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

use super::effect::RoomEffect;
use super::event::RoomEvent;
use super::join::without_addresses;
use super::refusal::Refusal;
use super::state::{Occupant, Role, RoomRecord, Subject};
use super::transaction::Transaction;
use crate::effect::Effect;
use crate::user::dedup::SentIds;

/// §7.4, §8.1.
pub(super) fn send(
    tx: &mut Transaction<'_, '_>,
    stanza: Stanza,
    origin_id: Option<String>,
    changes_subject: bool,
) -> Result<u64, Refusal> {
    let record = tx.unlocked()?;
    let (base, archived) = (record.base, record.config.archived);
    // Before every other check: what was committed once stays committed, whatever the sender may do by now.
    if let Some(seq) = origin_id
        .as_deref()
        .and_then(|id| already_sent(tx, id, base))
    {
        if tx.sender().is_some() {
            // A retry still gets its reflection, or the client waits for ever.
            let again = RoomEffect::ReflectAgain {
                to: tx.by.clone(),
                seq,
            };
            tx.ctx.effect(Effect::Room(tx.room.clone(), again));
        }
        return Ok(seq);
    }
    let record = tx.unlocked()?;
    let occupant = tx.sender().ok_or(Refusal::NotOccupant)?;
    may_speak(occupant, record, changes_subject)?;
    let nick = occupant.nick.clone();
    let (sender, occupant_id, stanza) = (tx.by.clone(), tx.sender_id(), without_addresses(stanza));
    let event = if changes_subject {
        set_subject(tx, &nick, &occupant_id, &stanza);
        RoomEvent::Subject {
            sender,
            nick,
            occupant_id,
            stanza,
            archived,
        }
    } else {
        RoomEvent::Message {
            sender,
            nick,
            occupant_id,
            stanza,
            archived,
        }
    };
    let seq = tx.log(event);
    if let Some(origin_id) = origin_id {
        remember_sent(tx, origin_id, seq);
    }
    Ok(seq)
}

/// §7.4: whoever has voice may write. §8.1: moderators may change the subject, others if the room is set so.
pub(super) fn may_speak(
    occupant: &Occupant,
    room: &RoomRecord,
    changes_subject: bool,
) -> Result<(), Refusal> {
    let needed = if changes_subject && !room.config.change_subject {
        Role::Moderator
    } else {
        Role::Participant
    };
    if occupant.role < needed {
        Err(Refusal::Forbidden)
    } else {
        Ok(())
    }
}

fn set_subject(tx: &mut Transaction<'_, '_>, nick: &str, occupant_id: &str, stanza: &Stanza) {
    let time_ms = tx.ctx.time_ms;
    if let Some(record) = tx.state.rooms.get_mut(tx.room) {
        record.subject = Subject {
            nick: nick.to_owned(),
            occupant_id: occupant_id.to_owned(),
            stanza: Some(stanza.clone()),
            time_ms,
        };
    }
}

/// The row of a message that the sender sent before under this id; rows of an earlier room of this name don't count.
pub(super) fn already_sent(tx: &Transaction<'_, '_>, origin_id: &str, base: u64) -> Option<u64> {
    let sent: &SentIds = tx.state.sent_ids.get(&tx.by.bare())?;
    sent.lookup(tx.room, origin_id, tx.ctx.time_ms)
        .filter(|seq| *seq > base)
}

/// Remembers what was sent, for as long as [`SentIds`] does.
pub(super) fn remember_sent(tx: &mut Transaction<'_, '_>, origin_id: String, seq: u64) {
    let (sender, time_ms): (BareJid, u64) = (tx.by.bare(), tx.ctx.time_ms);
    tx.state
        .sent_ids
        .get_or_insert_with(&sender, SentIds::default)
        .record(tx.room, &origin_id, seq, time_ms);
}
