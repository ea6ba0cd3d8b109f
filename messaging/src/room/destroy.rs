//! The end of a room. XEP-0045 §10.9.

use xmpp::jid::{FullJid, Jid};

use super::event::RoomEvent;
use super::refusal::Refusal;
use super::state::{Affiliation, Occupant, Secret};
use super::transaction::Transaction;

/// By an owner.
pub(super) fn destroy(
    tx: &mut Transaction<'_, '_>,
    alternate: Option<Jid>,
    reason: Option<String>,
    password: Option<Secret>,
) -> Result<u64, Refusal> {
    if tx.record().is_none() {
        return Err(Refusal::NoSuchRoom);
    }
    if tx.affiliation(&tx.by.bare()) != Affiliation::Owner {
        return Err(Refusal::Forbidden);
    }
    Ok(dissolve(tx, alternate, reason, password))
}

/// Takes everybody out, tells each once, and forgets the room.
pub(super) fn dissolve(
    tx: &mut Transaction<'_, '_>,
    alternate: Option<Jid>,
    reason: Option<String>,
    password: Option<Secret>,
) -> u64 {
    let occupants: Vec<Occupant> = tx
        .occupants()
        .iter()
        .map(|occupant| Occupant::clone(occupant))
        .collect();
    let sessions: Vec<FullJid> = occupants
        .iter()
        .map(|occupant| occupant.jid.clone())
        .collect();
    for jid in &sessions {
        tx.remove_occupant(jid);
    }
    let seq = tx.log(RoomEvent::Destroyed {
        occupants,
        alternate,
        reason,
        password,
    });
    tx.drop_room();
    seq
}
