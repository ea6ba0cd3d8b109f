//! What becomes of a removed account's place in rooms: nothing of it passes to whoever registers the name next.
//!
//! The account's partition tells every partition through its outbox, and lets nobody register the name before all have
//! answered ([`crate::user::account`]). Each keeps the account's generation for a day: commands of its sessions that are
//! still on their way change nothing any more ([`is_of_removed`]).

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use super::transaction::Transaction;
use super::{admin, destroy, leave};
use crate::apply::Context;
use crate::command::Answer;
use crate::state::State;

/// How long a removed account's generation is kept: far longer than a command may be on its way.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// An account that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedAccount {
    /// Its generation: the log index of its creation, in its own partition's log.
    pub generation: u64,
    /// When this partition heard of it, ms since 1970.
    pub time_ms: u64,
}

/// [`crate::command::Command::ForgetAccount`].
pub(crate) fn account(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: &BareJid,
    generation: u64,
) -> Answer {
    note_removed(state, ctx.time_ms, user, generation);
    state.sent_ids.remove(user);
    if let Ok(by) = user.with_resource("-") {
        for room in rooms_with(state, user) {
            leave_for_good(state, ctx, &room, &by);
        }
    }
    Answer::Done { seq: 0 }
}

/// Whether a command comes from a session of an account that is gone. `generation`: of the session's account.
pub(super) fn is_of_removed(state: &State, user: &BareJid, generation: u64) -> bool {
    state
        .removed
        .get(user)
        .is_some_and(|removed| generation <= removed.generation)
}

fn note_removed(state: &mut State, time_ms: u64, user: &BareJid, generation: u64) {
    let old: Vec<BareJid> = state
        .removed
        .iter()
        .filter(|(_, removed)| time_ms.saturating_sub(removed.time_ms) >= KEPT_MS)
        .map(|(user, _)| user.clone())
        .collect();
    for user in old {
        state.removed.remove(&user);
    }
    let removed = RemovedAccount {
        generation,
        time_ms,
    };
    state.removed.insert(user.clone(), removed);
}

/// The rooms that somebody is in or on a list of, in order.
fn rooms_with(state: &State, user: &BareJid) -> Vec<BareJid> {
    let listed = state.affiliations.iter();
    let listed = listed.filter(|((_, person), _)| person == user);
    let inside = state.occupants.iter();
    let inside = inside.filter(|((_, session), _)| session.bare() == *user);
    let mut rooms: Vec<BareJid> = listed
        .map(|((room, _), _)| room.clone())
        .chain(inside.map(|((room, _), _)| room.clone()))
        .collect();
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// The sessions leave, the affiliation goes. A new room that only this owner could have opened goes, too.
fn leave_for_good(state: &mut State, ctx: &mut Context<'_>, room: &BareJid, by: &FullJid) {
    let mut tx = Transaction {
        state,
        ctx,
        room,
        by,
        account: 0,
    };
    let person = by.bare();
    let sessions: Vec<FullJid> = tx
        .occupants()
        .iter()
        .filter(|occupant| occupant.jid.bare() == person)
        .map(|occupant| occupant.jid.clone())
        .collect();
    leave::remove(&mut tx, &sessions, &leave::Removal::default());
    admin::forget(&mut tx, &person);
    let is_orphan = tx.record().is_some_and(|record| record.locked) && !admin::has_owner(&tx);
    if is_orphan {
        destroy::dissolve(&mut tx, None, None, None);
    }
}
