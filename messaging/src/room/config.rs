//! Taking over a submitted configuration. XEP-0045 §10.1.2–10.1.3, §10.2.

use super::command::FormFields;
use super::config_form;
use super::destroy;
use super::event::RoomEvent;
use super::leave::{remove_unaffiliated, vanish_if_empty};
use super::refusal::Refusal;
use super::state::{Affiliation, Occupant, Role, RoomConfig};
use super::transaction::Transaction;

/// An owner submits the form; an empty one accepts what is (§10.1.2: an instant room).
pub(super) fn configure(tx: &mut Transaction<'_, '_>, fields: &FormFields) -> Result<u64, Refusal> {
    check_owner(tx)?;
    let old = tx.record().ok_or(Refusal::NoSuchRoom)?.config.clone();
    let new = config_form::submitted(&old, fields)?;
    if let Some(record) = tx.state.rooms.get_mut(tx.room) {
        record.config = new.clone();
        record.locked = false;
    }
    let codes = change_codes(&old, &new);
    let mut seq = tx.record().map_or(0, |record| record.head);
    // §10.2: who may not stay goes first, so that nobody else sees them under the new rules.
    if new.members_only && !old.members_only {
        seq = remove_unaffiliated(tx, 322).max(seq);
    }
    if tx.record().is_none() {
        return Ok(seq);
    }
    if !codes.is_empty() {
        seq = tx.log(RoomEvent::Configured { codes });
    }
    if old.moderated && !new.moderated {
        seq = give_voice_to_all(tx).max(seq);
    }
    // An owner outside may take persistence from a room that nobody is in.
    vanish_if_empty(tx);
    Ok(seq)
}

/// §10.1.3: a cancelled form ends a new room and leaves an old one as it is.
pub(super) fn cancel(tx: &mut Transaction<'_, '_>) -> Result<u64, Refusal> {
    check_owner(tx)?;
    let record = tx.record().ok_or(Refusal::NoSuchRoom)?;
    let (locked, head) = (record.locked, record.head);
    Ok(if locked {
        destroy::dissolve(tx, None, None, None)
    } else {
        head
    })
}

fn check_owner(tx: &Transaction<'_, '_>) -> Result<(), Refusal> {
    if tx.record().is_none() {
        return Err(Refusal::NoSuchRoom);
    }
    if tx.affiliation(&tx.by.bare()) != Affiliation::Owner {
        return Err(Refusal::Forbidden);
    }
    Ok(())
}

/// §10.2.1: what occupants are told of a change: first what touches their privacy.
fn change_codes(old: &RoomConfig, new: &RoomConfig) -> Vec<u16> {
    let mut codes = Vec::new();
    if old.archived != new.archived {
        codes.push(if new.archived { 170 } else { 171 });
    }
    if old.non_anonymous != new.non_anonymous {
        codes.push(if new.non_anonymous { 172 } else { 173 });
    }
    let rest = RoomConfig {
        archived: old.archived,
        non_anonymous: old.non_anonymous,
        ..new.clone()
    };
    if rest != *old {
        codes.push(104);
    }
    codes
}

/// §5.1.2: in a room that is not moderated (any more), everybody may speak.
fn give_voice_to_all(tx: &mut Transaction<'_, '_>) -> u64 {
    let mut seq = 0;
    for visitor in tx
        .occupants()
        .iter()
        .filter(|occupant| occupant.role == Role::Visitor)
    {
        let occupant = Occupant {
            role: Role::Participant,
            ..Occupant::clone(visitor)
        };
        tx.put_occupant(&occupant);
        seq = tx.log(RoomEvent::Changed {
            occupant,
            actor: tx.actor(),
            reason: None,
        });
    }
    seq
}
