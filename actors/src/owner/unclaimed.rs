//! Occupants that nobody claims: whom an attachment leaves out, or whose node is gone.
//!
//! ```text
//!   a node is gone ───────────► stays that wait ── 60 s, and the state still shows the stay ──► removed (status 333)
//!   an attachment ── judge ──►  ▲ not claimed
//!                               └ claimed: waits no longer
//! ```
//!
//! Invariant: only the very stay is removed that nobody claimed. A session of the same address that has joined since
//! is another stay, wherever it is; the row of the join tells them apart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use cluster::node_id::NodeId;
use messaging::room::state::Occupant;
use messaging::state::State;
use xmpp::jid::{BareJid, FullJid};

/// An occupant from one join to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stay {
    pub(super) room: BareJid,
    pub(super) jid: FullJid,
    /// The node that holds the session, and in which life.
    pub(super) node: u64,
    pub(super) life: u64,
    /// The row of the join; those that join again get another.
    pub(super) joined: u64,
}

impl Stay {
    fn of(room: &BareJid, occupant: &Occupant) -> Stay {
        Stay {
            room: room.clone(),
            jid: occupant.jid.clone(),
            node: occupant.node,
            life: occupant.incarnation,
            joined: occupant.joined,
        }
    }

    /// Whether the occupant is in, and has not joined again since.
    pub(super) fn goes_on(&self, state: &State) -> bool {
        let key = (self.room.clone(), self.jid.clone());
        let occupant = state.occupants.get(&key);
        occupant.is_some_and(|occupant| Stay::of(&self.room, occupant) == *self)
    }
}

/// The stays whose sessions a node holds.
pub(super) fn held_by(state: &State, node: NodeId) -> Vec<Stay> {
    let occupants = state.occupants.iter();
    let on_node = occupants.filter(|(_, occupant)| occupant.node == node.0);
    on_node
        .map(|((room, _), occupant)| Stay::of(room, occupant))
        .collect()
}

/// What a node has named of each room: how far it has seen the log, and its sessions that believe they are in.
pub(super) type Seen = HashMap<BareJid, (u64, HashSet<FullJid>)>;

/// What an attachment says of the stays on its node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) claimed: Vec<Stay>,
    pub(super) unclaimed: Vec<Stay>,
    /// Rooms that the node has never heard of although somebody of its is in, and from which row on it is told of them.
    pub(super) unseen: BTreeMap<BareJid, u64>,
}

/// Which of the stays on a node its attachment in this life claims.
pub(super) fn judge(held: Vec<Stay>, seen: &Seen, life: u64) -> Judgement {
    let mut judgement = Judgement::default();
    for stay in held {
        let claimed = match seen.get(&stay.room) {
            // A node that starts anew has none of its old sessions; those of its present life it has named.
            _ if stay.life < life => false,
            Some((cursor, occupants)) => occupants.contains(&stay.jid) || stay.joined > *cursor,
            None => {
                // The join was committed and the node never heard of it: it hears now.
                let from = judgement.unseen.entry(stay.room.clone());
                let from = from.or_insert(u64::MAX);
                *from = stay.joined.saturating_sub(1).min(*from);
                true
            }
        };
        if claimed {
            judgement.claimed.push(stay);
        } else {
            judgement.unclaimed.push(stay);
        }
    }
    judgement
}

/// The stays that wait to be claimed, each until a certain time.
#[derive(Debug, Default)]
pub(super) struct Unclaimed(BTreeMap<Stay, Instant>);

impl Unclaimed {
    /// A stay waits; one that waits already has no more time for it.
    pub(super) fn push(&mut self, stay: Stay, due: Instant) {
        self.0.entry(stay).or_insert(due);
    }

    /// Somebody has the session.
    pub(super) fn claimed(&mut self, stay: &Stay) {
        self.0.remove(stay);
    }

    /// The stays whose time is up and that go on, by room; they wait no longer.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        goes_on: impl Fn(&Stay) -> bool,
    ) -> BTreeMap<BareJid, Vec<Stay>> {
        let mut due: BTreeMap<BareJid, Vec<Stay>> = BTreeMap::new();
        self.0.retain(|stay, until| {
            let is_due = *until <= now;
            if is_due && goes_on(stay) {
                due.entry(stay.room.clone()).or_default().push(stay.clone());
            }
            !is_due
        });
        due
    }
}

#[cfg(test)]
#[path = "unclaimed_tests.rs"]
mod tests;
