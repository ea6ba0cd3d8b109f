//! What a node missed: the rows after its cursor, each with the membership as of that row.
//!
//! An owner knows who is in now and what happened since; undoing the events backwards gives who was in at each. An
//! occupant gets rows after its join and up to its leaving; a join that its node has not seen is answered again.

use std::collections::BTreeMap;
use std::sync::Arc;

use xmpp::jid::FullJid;

use super::Rendering;
use crate::archive::{ArchiveRecord, ArchiveRow};
use crate::room::event::RoomEvent;
use crate::room::state::Occupant;
use crate::room::views::OccupantView;

/// One row to show again.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// The row.
    pub row: Arc<ArchiveRow>,
    /// Who was in the room after it.
    pub occupants: OccupantView,
    /// The node's session that joined by this row: its welcome is due again.
    pub welcome: Option<FullJid>,
    node: u64,
    incarnation: u64,
}

impl ReplayStep {
    /// Cuts the row's renderings to the sessions of the node that the replay is for.
    pub fn for_node(&self, renderings: Vec<Rendering>) -> Vec<Rendering> {
        let mut renderings = renderings;
        for rendering in &mut renderings {
            rendering.targets.retain(|target| self.is_of_node(target));
        }
        renderings.retain(|rendering| !rendering.targets.is_empty());
        renderings
    }

    fn is_of_node(&self, target: &FullJid) -> bool {
        let is_of_node = |occupant: &Occupant| {
            occupant.node == self.node && occupant.incarnation == self.incarnation
        };
        if let Ok(at) = self
            .occupants
            .binary_search_by(|occupant| occupant.jid.cmp(target))
        {
            return self
                .occupants
                .get(at)
                .is_some_and(|occupant| is_of_node(occupant));
        }
        // Who left is told by the row itself.
        match &self.row.record {
            ArchiveRecord::Room(RoomEvent::Left { occupant, .. }) => {
                occupant.jid == *target && is_of_node(occupant)
            }
            _ => false,
        }
    }
}

/// The steps that bring a node from its cursor to the head. `rows`: all rows after the cursor, in order; `now`: who is in
/// the room at the head.
pub fn replay(
    rows: &[Arc<ArchiveRow>],
    now: &[Arc<Occupant>],
    node: u64,
    incarnation: u64,
) -> Vec<ReplayStep> {
    let mut present: BTreeMap<FullJid, Arc<Occupant>> = now
        .iter()
        .map(|occupant| (occupant.jid.clone(), Arc::clone(occupant)))
        .collect();
    let mut steps = Vec::with_capacity(rows.len());
    let mut view: Option<OccupantView> = None;
    for row in rows.iter().rev() {
        let ArchiveRecord::Room(event) = &row.record else {
            continue;
        };
        let occupants =
            Arc::clone(view.get_or_insert_with(|| Arc::new(present.values().cloned().collect())));
        let welcome = match event {
            RoomEvent::Joined { occupant, .. }
                if (occupant.node, occupant.incarnation) == (node, incarnation) =>
            {
                present
                    .contains_key(&occupant.jid)
                    .then(|| occupant.jid.clone())
            }
            _ => None,
        };
        steps.push(ReplayStep {
            row: Arc::clone(row),
            occupants,
            welcome,
            node,
            incarnation,
        });
        if undo(event, &mut present) {
            view = None;
        }
    }
    steps.reverse();
    steps
}

/// Who was in the room before these rows, if `now` is who was in after them.
pub fn before(rows: &[Arc<ArchiveRow>], now: &OccupantView) -> OccupantView {
    let mut present: BTreeMap<FullJid, Arc<Occupant>> = now
        .iter()
        .map(|occupant| (occupant.jid.clone(), Arc::clone(occupant)))
        .collect();
    let mut changed = false;
    for row in rows.iter().rev() {
        if let ArchiveRecord::Room(event) = &row.record {
            changed |= undo(event, &mut present);
        }
    }
    if changed {
        Arc::new(present.into_values().collect())
    } else {
        Arc::clone(now)
    }
}

/// Who was in before an event; whether that is different.
fn undo(event: &RoomEvent, present: &mut BTreeMap<FullJid, Arc<Occupant>>) -> bool {
    match event {
        RoomEvent::Joined { occupant, .. } => present.remove(&occupant.jid).is_some(),
        RoomEvent::Left { occupant, .. } => {
            present.insert(occupant.jid.clone(), Arc::new(occupant.clone()));
            true
        }
        RoomEvent::Renamed { old_nick, occupant } => {
            let before = Occupant {
                nick: old_nick.clone(),
                ..occupant.clone()
            };
            present.insert(occupant.jid.clone(), Arc::new(before));
            true
        }
        RoomEvent::Moved {
            occupant,
            from,
            joined,
        } => {
            let (node, incarnation, session) = *from;
            let before = Occupant {
                node,
                incarnation,
                session,
                joined: *joined,
                ..occupant.clone()
            };
            present.insert(occupant.jid.clone(), Arc::new(before));
            true
        }
        // What somebody's presence and role were before isn't known; who is in is the same.
        RoomEvent::Changed { .. }
        | RoomEvent::Message { .. }
        | RoomEvent::Subject { .. }
        | RoomEvent::Affiliated { .. }
        | RoomEvent::Configured { .. }
        | RoomEvent::Destroyed { .. } => false,
    }
}
