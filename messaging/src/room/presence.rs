//! An occupant's new nickname or new presence. XEP-0045 §7.6, §7.7.

use xmpp::jid::BareJid;
use xmpp::stanza::{Stanza, StanzaKind};

use super::effect::RoomEffect;
use super::event::RoomEvent;
use super::join::without_addresses;
use super::refusal::Refusal;
use super::render::desynchronized;
use super::state::Occupant;
use super::transaction::Transaction;
use crate::effect::Effect;

/// §7.6–7.7.
pub(super) fn change(
    tx: &mut Transaction<'_, '_>,
    nick: String,
    presence: Stanza,
) -> Result<u64, Refusal> {
    debug_assert_eq!(presence.kind, StanzaKind::Presence);
    let nick = checked_nick(tx.room, nick)?;
    let Some(before) = tx.sender().cloned() else {
        // §7.2.18: presence without `<x/>` from somebody who isn't in: their picture is wrong, and they are told so.
        if let Some(stanza) = desynchronized(tx.room, &nick, tx.by) {
            let deliver = RoomEffect::Deliver {
                to: tx.by.clone(),
                stanza,
            };
            tx.ctx.effect(Effect::Room(tx.room.clone(), deliver));
        }
        return Ok(0);
    };
    if before.nick != nick {
        check_nick_free(tx, &nick)?;
        // The new presence goes along with the new nickname.
        tx.put_occupant(&Occupant {
            presence: without_addresses(presence),
            ..before
        });
        return Ok(rename(tx, nick));
    }
    let occupant = Occupant {
        presence: without_addresses(presence),
        ..before
    };
    tx.put_occupant(&occupant);
    Ok(tx.log(RoomEvent::Changed {
        occupant,
        actor: None,
        reason: None,
    }))
}

/// Gives the sender another nickname; the caller has checked that it is free.
pub(super) fn rename(tx: &mut Transaction<'_, '_>, nick: String) -> u64 {
    let Some(before) = tx.sender().cloned() else {
        return 0;
    };
    let old_nick = before.nick.clone();
    let shared = tx.sessions_under(&nick).first().map(|other| other.role);
    let occupant = Occupant {
        nick,
        role: shared.unwrap_or(before.role),
        ..before
    };
    tx.put_occupant(&occupant);
    tx.log(RoomEvent::Renamed { old_nick, occupant })
}

/// §7.2.8: a nickname is taken when somebody else has it; another session of the same person shares it.
pub(super) fn check_nick_free(tx: &mut Transaction<'_, '_>, nick: &str) -> Result<(), Refusal> {
    let person = tx.by.bare();
    let taken = tx
        .occupants()
        .iter()
        .any(|other| other.nick == nick && other.jid.bare() != person);
    if taken {
        Err(Refusal::NickTaken)
    } else {
        Ok(())
    }
}

/// A nickname as an occupant's JID has it (resourceprep); none that is empty or can't be seen. §17.1
pub(super) fn checked_nick(room: &BareJid, nick: String) -> Result<String, Refusal> {
    let prepared = room
        .with_resource(&nick)
        .map_err(|_| Refusal::NickMalformed)?;
    let prepared = prepared.resource();
    if prepared.trim().is_empty() {
        return Err(Refusal::NickMalformed);
    }
    Ok(prepared.to_owned())
}
