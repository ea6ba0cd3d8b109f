//! Asking for voice and granting it. XEP-0045 §7.13, §8.6.

use std::sync::Arc;

use super::admin::give_role;
use super::effect::RoomEffect;
use super::refusal::Refusal;
use super::render::voice_form;
use super::state::Role;
use super::transaction::Transaction;
use crate::effect::Effect;

/// §7.13: every moderator gets the form. One who has voice already needs none: nothing happens.
pub(super) fn request(tx: &mut Transaction<'_, '_>) -> Result<u64, Refusal> {
    tx.unlocked()?;
    let sender = tx.sender().cloned().ok_or(Refusal::NotOccupant)?;
    if sender.role != Role::Visitor {
        return Ok(0);
    }
    let moderators: Vec<_> = tx
        .occupants()
        .iter()
        .filter(|occupant| occupant.role == Role::Moderator)
        .map(Arc::clone)
        .collect();
    for moderator in moderators {
        let stanza = voice_form(tx.room, &sender, &moderator.jid);
        let deliver = RoomEffect::Deliver {
            to: moderator.jid.clone(),
            stanza,
        };
        tx.ctx.effect(Effect::Room(tx.room.clone(), deliver));
    }
    Ok(0)
}

/// §8.6: a moderator's answer.
pub(super) fn grant(tx: &mut Transaction<'_, '_>, nick: &str, allow: bool) -> Result<u64, Refusal> {
    tx.unlocked()?;
    let actor = tx.sender_standing();
    let sessions = tx.sessions_under(nick);
    let Some(visitor) = sessions.first() else {
        // Whoever may not grant voice isn't told who is here either.
        return Err(if actor.role < Role::Moderator {
            Refusal::Forbidden
        } else {
            Refusal::NoSuchOccupant
        });
    };
    if actor.role < Role::Moderator {
        return Err(Refusal::Forbidden);
    }
    if !allow || visitor.role != Role::Visitor {
        return Ok(0);
    }
    Ok(give_role(tx, &sessions, Role::Participant, None))
}
