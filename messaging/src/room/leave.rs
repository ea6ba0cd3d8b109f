//! Leaving a room, by oneself or not. XEP-0045 §7.14, §8.2, §9.1, §10.2.

use std::sync::Arc;

use xmpp::jid::FullJid;
use xmpp::stanza::{Stanza, StanzaKind};

use super::destroy;
use super::event::RoomEvent;
use super::join::without_addresses;
use super::refusal::Refusal;
use super::state::{Affiliation, Occupant, Role};
use super::transaction::Transaction;

/// Why somebody goes who didn't ask to.
#[derive(Clone, Debug, Default)]
pub(super) struct Removal {
    pub(super) codes: Vec<u16>,
    pub(super) actor: Option<String>,
    pub(super) reason: Option<String>,
}

/// §7.14. From somebody who isn't in: silently ignored (§17.3).
pub(super) fn leave(
    tx: &mut Transaction<'_, '_>,
    presence: Stanza,
    of: Option<(u64, u64, u64)>,
) -> Result<u64, Refusal> {
    let Some(sender) = tx.sender() else {
        return Ok(0);
    };
    let stay = (sender.node, sender.incarnation, sender.session);
    if of.is_some_and(|of| of != stay) {
        // Another stream of the same address is in by now.
        return Ok(0);
    }
    let locked = tx.record().is_some_and(|record| record.locked);
    if locked && tx.occupants().len() == 1 {
        // §10.1.3: the owner goes without having configured the new room: it goes too.
        return Ok(destroy::dissolve(tx, None, None, None));
    }
    let leaver = tx.by.clone();
    Ok(take_out(
        tx,
        &[leaver],
        &without_addresses(presence),
        &Removal::default(),
    ))
}

/// Status 333, never 307: nobody kicked them. One who has joined again from another node or incarnation stays.
pub(super) fn remove_unclaimed(
    tx: &mut Transaction<'_, '_>,
    unclaimed: Vec<(FullJid, u64, u64)>,
) -> Result<u64, Refusal> {
    let is_still_there = |(jid, node, incarnation): &(FullJid, u64, u64)| {
        tx.occupant(jid)
            .is_some_and(|o| o.node == *node && o.incarnation == *incarnation)
    };
    let gone: Vec<FullJid> = unclaimed
        .into_iter()
        .filter(|entry| is_still_there(entry))
        .map(|(jid, _, _)| jid)
        .collect();
    if gone.is_empty() {
        return Ok(0);
    }
    let removal = Removal {
        codes: vec![333],
        actor: None,
        reason: None,
    };
    Ok(remove(tx, &gone, &removal))
}

/// Takes sessions out of the room with an empty farewell.
pub(super) fn remove(tx: &mut Transaction<'_, '_>, sessions: &[FullJid], removal: &Removal) -> u64 {
    take_out(tx, sessions, &farewell(), removal)
}

/// Takes sessions out together: all are out before the first is told, so that nobody sees those that follow as still
/// present, and the others are told once a nickname.
fn take_out(
    tx: &mut Transaction<'_, '_>,
    sessions: &[FullJid],
    presence: &Stanza,
    removal: &Removal,
) -> u64 {
    let mut leavers: Vec<Occupant> = Vec::with_capacity(sessions.len());
    for jid in sessions {
        if let Some(mut leaver) = tx.remove_occupant(jid) {
            leaver.affiliation = tx.affiliation(&jid.bare());
            leavers.push(leaver);
        }
    }
    let mut seq = 0;
    for (at, leaver) in leavers.iter().enumerate() {
        let more_to_come = leavers
            .iter()
            .skip(at + 1)
            .any(|other| other.nick == leaver.nick);
        seq = tx.log(RoomEvent::Left {
            occupant: Occupant {
                role: Role::None,
                ..leaver.clone()
            },
            presence: presence.clone(),
            codes: removal.codes.clone(),
            actor: removal.actor.clone(),
            reason: removal.reason.clone(),
            announced: !more_to_come,
        });
    }
    vanish_if_empty(tx);
    seq
}

/// §7.14: a room that isn't persistent goes with its last occupant.
pub(super) fn vanish_if_empty(tx: &mut Transaction<'_, '_>) {
    let outlives = tx
        .record()
        .is_some_and(|record| record.config.persistent && !record.locked);
    if !outlives && tx.occupants().is_empty() {
        tx.drop_room();
    }
}

/// §10.2: takes out everybody who is not at least a member, under this status code.
pub(super) fn remove_unaffiliated(tx: &mut Transaction<'_, '_>, code: u16) -> u64 {
    let view = tx.occupants();
    let out: Vec<FullJid> = view
        .iter()
        .filter(|occupant| occupant.affiliation <= Affiliation::None)
        .map(|occupant| occupant.jid.clone())
        .collect();
    if out.is_empty() {
        return 0;
    }
    remove(
        tx,
        &out,
        &Removal {
            codes: vec![code],
            actor: tx.actor(),
            reason: None,
        },
    )
}

/// An unavailable presence that says nothing.
fn farewell() -> Stanza {
    Stanza {
        kind: StanzaKind::Presence,
        from: None,
        to: None,
        id: None,
        type_: Some(Arc::from("unavailable")),
        lang: None,
        payload: bytes::Bytes::new(),
    }
}
