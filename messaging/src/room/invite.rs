//! Mediated invitations and their declining, through the outbox. XEP-0045 §7.8.2, §9.5.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};

use super::command::Invitee;
use super::refusal::Refusal;
use super::render::{decline_message, invitation};
use super::rights::may_enter;
use super::state::{Affiliation, Occupant, RoomConfig, Secret};
use super::transaction::Transaction;
use super::{effect::RoomEffect, event::RoomEvent};
use crate::command::{Command, ReceiveMessage};
use crate::effect::Effect;
use crate::outbox::{OnAnswer, OutboxEntry};

/// §7.8.2: all are invited, or none.
pub(super) fn invite(
    tx: &mut Transaction<'_, '_>,
    invitees: Vec<Invitee>,
    id: Option<Arc<str>>,
) -> Result<u64, Refusal> {
    let config = tx.unlocked()?.config.clone();
    let sender = tx.sender().cloned().ok_or(Refusal::NotOccupant)?;
    may_invite(&sender, &config)?;
    for invitee in &invitees {
        let person = invitee.jid.bare();
        if person.is_domain() {
            return Err(Refusal::BadRequest);
        }
        if person.domain() != tx.ctx.pool.domain {
            return Err(Refusal::RemoteDomain);
        }
        // Who is banned comes in again only when an admin lifts the ban.
        if tx.affiliation(&person) == Affiliation::Outcast {
            return Err(Refusal::NotAllowed);
        }
    }
    let people: Vec<BareJid> = invitees.iter().map(|invitee| invitee.jid.bare()).collect();
    if !tx.ctx.outbox_has_room(tx.state, &people) {
        return Err(Refusal::WayFull);
    }
    let mut seq = 0;
    for invitee in invitees {
        seq = admit(tx, &config, &invitee.jid.bare()).max(seq);
        send(tx, &invitee, config.password.as_ref(), id.clone());
    }
    Ok(seq)
}

/// §7.8.2: in a members-only room it is for those who edit the member list, and for members if it is set so (§9.5).
fn may_invite(sender: &Occupant, config: &RoomConfig) -> Result<(), Refusal> {
    let needed = match (config.members_only, config.allow_invites) {
        (false, _) => Affiliation::None,
        (true, true) => Affiliation::Member,
        (true, false) => Affiliation::Admin,
    };
    if sender.affiliation < needed {
        Err(Refusal::Forbidden)
    } else {
        Ok(())
    }
}

/// §9.5: an invitation into a members-only room makes a member, one into an open room doesn't.
fn admit(tx: &mut Transaction<'_, '_>, config: &RoomConfig, person: &BareJid) -> u64 {
    if may_enter(tx.affiliation(person), config.members_only).is_ok() {
        return 0;
    }
    tx.set_affiliation(person, Affiliation::Member, None);
    tx.log(RoomEvent::Affiliated {
        jid: Jid::from(person),
        affiliation: Affiliation::Member,
        reason: None,
    })
}

fn send(
    tx: &mut Transaction<'_, '_>,
    invitee: &Invitee,
    password: Option<&Secret>,
    id: Option<Arc<str>>,
) {
    let stanza = invitation(tx.room, Some(&tx.by.bare()), invitee, password);
    // §7.8.2: an invitee who doesn't exist is reported to the inviter.
    let asked = Stanza {
        kind: StanzaKind::Message,
        from: Some(Jid::from(tx.by)),
        to: Some(Jid::from(tx.room)),
        id,
        type_: None,
        lang: None,
        payload: bytes::Bytes::new(),
    };
    let on_answer = OnAnswer::NotInvited {
        sender: tx.by.clone(),
        stanza: Box::new(asked),
    };
    post(tx, &invitee.jid.bare(), stanza, on_answer);
}

/// §9.5: a new member who isn't here learns of it by an invitation from the room itself.
pub(super) fn tell_new_member(
    tx: &mut Transaction<'_, '_>,
    person: &BareJid,
    password: Option<&Secret>,
) {
    let invitee = Invitee {
        jid: Jid::from(person),
        reason: None,
        continued: None,
    };
    let stanza = invitation(tx.room, None, &invitee, password);
    post(tx, person, stanza, OnAnswer::Nothing);
}

fn post(tx: &mut Transaction<'_, '_>, person: &BareJid, stanza: Stanza, on_answer: OnAnswer) {
    let receive = ReceiveMessage {
        user: person.clone(),
        stanza,
        also: Vec::new(),
        sender: tx.room.clone(),
        time_ms: tx.ctx.time_ms,
    };
    let entry = OutboxEntry {
        target: person.clone(),
        command: Command::ReceiveMessage(receive),
        on_answer,
    };
    tx.ctx.outbox(tx.state, entry);
}

/// §7.8.2: the inviter learns that somebody declines, if still here: the room keeps no list of invitations, so it
/// carries nothing to people who have left.
pub(super) fn decline(
    tx: &mut Transaction<'_, '_>,
    inviter: &BareJid,
    reason: Option<String>,
) -> Result<u64, Refusal> {
    tx.unlocked()?;
    // A ban is a fence: nothing by whom it is about goes through the room.
    if tx.affiliation(&tx.by.bare()) == Affiliation::Outcast {
        return Err(Refusal::Banned);
    }
    let sessions: Vec<_> = tx
        .occupants()
        .iter()
        .filter(|occupant| occupant.jid.bare() == *inviter)
        .map(Arc::clone)
        .collect();
    for session in sessions {
        let stanza = decline_message(tx.room, &tx.by.bare(), reason.as_deref(), &session.jid);
        let deliver = RoomEffect::Deliver {
            to: session.jid.clone(),
            stanza,
        };
        tx.ctx.effect(Effect::Room(tx.room.clone(), deliver));
    }
    Ok(0)
}
