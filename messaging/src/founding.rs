//! A partition's state in a new pool that is made of another's backup.
//!
//! The old pool's nodes don't exist there: their sessions are over and their occupants leave (status 333, as of any node that
//! nobody hears of again; a room that isn't persistent goes with its last occupant), and what they proposed is nobody's.
//!
//! Invariant: nothing that the old pool may have numbered after the backup is numbered so again. It may have gone on for as
//! long as [`INDEXES_APART`] entries: the new log begins so far behind, and so do the sequences of all archives and the
//! versions of all rosters. Rows keep theirs, and so their archive ids. Nothing may make out of a sequence how many rows there are: an
//! import that goes on in the new pool has counted its own ([`crate::user::import`]).

use xmpp::jid::{BareJid, FullJid};

use crate::apply::{Surroundings, apply};
use crate::command::{Batch, Command, Entry, Proposal};
use crate::effect::Effect;
use crate::link_record::LinkOrigin;
use crate::room::command::{RoomAction, RoomCommand};
use crate::state::State;
use crate::user::log::UserLog;

/// How many entries of a log lie between a backup and the first one of the new pool: more than any pool ever writes.
pub const INDEXES_APART: u64 = 1 << 40;

/// Entries that [`found`] applies.
const ENTRIES: u64 = 2;

/// An occupant, with the node of its session and that node's incarnation.
type Claim = (FullJid, u64, u64);

/// Where a new pool begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The last entry that the state has.
    pub index: u64,
    /// The first node.
    pub node: u64,
    /// Now, in ms since 1970.
    pub time_ms: u64,
}

/// Makes the state that of a new pool. Gives the effects, of which only those on the archive are of interest, with the index of
/// the state: the last that the new log has before its first entry.
pub fn found(
    state: &mut State,
    surroundings: &Surroundings,
    founding: Founding,
) -> (Vec<Effect>, u64) {
    let begin = founding.index.saturating_add(INDEXES_APART);
    let Founding { node, time_ms, .. } = founding;
    forget_nodes(state);
    let reign = Entry::OwnerBegin {
        node,
        incarnation: 0,
        time_ms,
    };
    let mut effects = apply(state, surroundings, begin, reign);
    let proposals = farewells(state)
        .into_iter()
        .zip(1..)
        .map(|(command, sequence)| Proposal {
            origin: LinkOrigin::Owner,
            incarnation: begin,
            sequence,
            command,
        });
    let batch = Batch {
        epoch: begin,
        time_ms,
        proposals: proposals.collect(),
    };
    effects.extend(apply(state, surroundings, begin + 1, Entry::Batch(batch)));
    let index = begin + ENTRIES - 1;
    move_sequences(state, index);
    (effects, index)
}

/// What nodes have proposed, and how it was answered: they don't ask again.
fn forget_nodes(state: &mut State) {
    let nodes: Vec<LinkOrigin> = state
        .links
        .iter()
        .filter(|(origin, _)| matches!(origin, LinkOrigin::Node(_)))
        .map(|(origin, _)| *origin)
        .collect();
    for node in nodes {
        state.links.remove(&node);
    }
}

/// The sessions end, and the occupants leave their rooms.
fn farewells(state: &State) -> Vec<Command> {
    let down: Vec<FullJid> = state.online.iter().map(|(jid, _)| jid.clone()).collect();
    let mut commands = Vec::new();
    if !down.is_empty() {
        commands.push(Command::NoteSessions {
            up: Vec::new(),
            down,
        });
    }
    let mut rooms: Vec<(BareJid, Vec<Claim>)> = Vec::new();
    for ((room, jid), occupant) in state.occupants.iter() {
        let stay = (jid.clone(), occupant.node, occupant.incarnation);
        match rooms.last_mut().filter(|(last, _)| last == room) {
            Some((_, stays)) => stays.push(stay),
            None => rooms.push((room.clone(), vec![stay])),
        }
    }
    for (room, occupants) in rooms {
        let Some(by) = occupants.first().map(|(jid, ..)| jid.clone()) else {
            continue;
        };
        commands.push(Command::Room(RoomCommand {
            room,
            by,
            account: 0,
            action: RoomAction::RemoveUnclaimed { occupants },
        }));
    }
    commands
}

/// Sequences and versions go on as if every key were made anew, behind all that the old pool could have given out.
fn move_sequences(state: &mut State, index: u64) {
    let start = UserLog::created_at(index).head;
    let users: Vec<BareJid> = state.logs.iter().map(|(user, _)| user.clone()).collect();
    for user in users {
        let Some(log) = state.logs.get_mut(&user) else {
            continue;
        };
        // Who has everything has nothing to wait for.
        if log.delivered == log.head {
            log.delivered = log.delivered.max(start);
        }
        // Of streams of the old pool, which may have gone on behind the backup.
        log.streams = Vec::new();
        log.head = log.head.max(start);
        log.roster_version = log.roster_version.max(start);
    }
    let rooms: Vec<BareJid> = state.rooms.iter().map(|(room, _)| room.clone()).collect();
    for room in rooms {
        if let Some(record) = state.rooms.get_mut(&room) {
            record.head = record.head.max(start);
        }
    }
}
