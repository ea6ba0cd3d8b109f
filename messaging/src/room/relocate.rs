//! A session in the room goes on at another node: the same stay, for which another node gets the events from here on.

use super::event::RoomEvent;
use super::join::Home;
use super::refusal::Refusal;
use super::state::Occupant;
use super::transaction::Transaction;

/// Moves the sender's stay. One that is another stream's by now stays where it is.
///
/// The move is a row: what comes before it is for the node that was, what comes after it for the one that is, whatever
/// owner tells them. Nobody is shown it.
pub(super) fn relocate(
    tx: &mut Transaction<'_, '_>,
    from: (u64, u64, u64),
    to: Home,
) -> Result<u64, Refusal> {
    let Some(before) = tx.sender().cloned() else {
        return Ok(0);
    };
    if (before.node, before.incarnation, before.session) != from {
        return Ok(0);
    }
    let joined = before.joined;
    let occupant = Occupant {
        joined: tx.next_seq(),
        node: to.node,
        incarnation: to.incarnation,
        session: to.session,
        ..before
    };
    tx.put_occupant(&occupant);
    Ok(tx.log(RoomEvent::Moved {
        occupant,
        from,
        joined,
    }))
}
