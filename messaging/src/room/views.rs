//! Who is in each room, ready to be handed to a fan-out: shared pictures that cost nothing per message.
//!
//! Not replicated and not stored: a picture is made from the occupants' table where there is none, and kept in step by
//! every join and leave. An event's effect holds the picture as of that event; a later join copies only pointers.

use std::collections::BTreeMap;
use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};

use super::state::{Affiliation, AffiliationRecord, Occupant};
use crate::table::Table;

/// A room's occupants, in the order of their JIDs.
pub type OccupantView = Arc<Vec<Arc<Occupant>>>;

/// The pictures of a partition's rooms.
#[derive(Clone, Debug, Default)]
pub struct RoomViews {
    views: BTreeMap<BareJid, OccupantView>,
    /// Rooms that went within one entry of the log, with their heads: one made again within the same entry begins
    /// above them. An entry is applied whole or not at all, so this needs no storing.
    gone: (u64, BTreeMap<BareJid, u64>),
    /// How many rooms each person owns; counted when it is asked for first, and kept in step from then on.
    owned: Option<BTreeMap<BareJid, u32>>,
}

impl RoomViews {
    /// The picture of one room.
    pub fn of(
        &mut self,
        occupants: &Table<(BareJid, FullJid), Occupant>,
        room: &BareJid,
    ) -> OccupantView {
        if let Some(view) = self.views.get(room) {
            return Arc::clone(view);
        }
        let view = self.peek(occupants, room);
        if !view.is_empty() {
            self.views.insert(room.clone(), Arc::clone(&view));
        }
        view
    }

    /// The picture of one room, for readers that may not change anything.
    pub fn peek(
        &self,
        occupants: &Table<(BareJid, FullJid), Occupant>,
        room: &BareJid,
    ) -> OccupantView {
        match self.views.get(room) {
            Some(view) => Arc::clone(view),
            None => Arc::new(
                occupants
                    .rows_of(room)
                    .map(|(_, occupant)| Arc::new(occupant.clone()))
                    .collect(),
            ),
        }
    }

    /// Takes over a new or changed occupant, if there is a picture of its room.
    pub(super) fn put(&mut self, room: &BareJid, occupant: &Occupant) {
        let Some(view) = self.views.get_mut(room) else {
            return;
        };
        let view = Arc::make_mut(view);
        let occupant = Arc::new(occupant.clone());
        match view.binary_search_by(|other| other.jid.cmp(&occupant.jid)) {
            Ok(at) => {
                if let Some(place) = view.get_mut(at) {
                    *place = occupant;
                }
            }
            Err(at) => view.insert(at, occupant),
        }
    }

    /// Forgets an occupant.
    pub(super) fn remove(&mut self, room: &BareJid, jid: &FullJid) {
        let Some(view) = self.views.get_mut(room) else {
            return;
        };
        if let Ok(at) = view.binary_search_by(|other| other.jid.cmp(jid)) {
            Arc::make_mut(view).remove(at);
        }
        if view.is_empty() {
            self.views.remove(room);
        }
    }

    /// How many rooms of the partition somebody owns.
    pub(super) fn rooms_owned(
        &mut self,
        affiliations: &Table<(BareJid, BareJid), AffiliationRecord>,
        person: &BareJid,
    ) -> u32 {
        let owned = self.owned.get_or_insert_with(|| {
            let mut owned = BTreeMap::new();
            for ((_, person), record) in affiliations.iter() {
                if record.affiliation == Affiliation::Owner {
                    *owned.entry(person.clone()).or_default() += 1;
                }
            }
            owned
        });
        owned.get(person).copied().unwrap_or(0)
    }

    /// Somebody's affiliation with a room has changed.
    pub(super) fn note_affiliation(
        &mut self,
        person: &BareJid,
        before: Affiliation,
        now: Affiliation,
    ) {
        let Some(owned) = &mut self.owned else { return };
        match (before == Affiliation::Owner, now == Affiliation::Owner) {
            (false, true) => *owned.entry(person.clone()).or_default() += 1,
            (true, false) => {
                if let Some(count) = owned.get_mut(person) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        owned.remove(person);
                    }
                }
            }
            _ => {}
        }
    }

    /// A room has gone in the entry at `index`.
    pub(super) fn note_gone(&mut self, index: u64, room: &BareJid, head: u64) {
        self.views.remove(room);
        if self.gone.0 != index {
            self.gone = (index, BTreeMap::new());
        }
        self.gone.1.insert(room.clone(), head);
    }

    /// The head of a room of this name that went in the entry at `index`.
    pub(super) fn gone_head(&self, index: u64, room: &BareJid) -> u64 {
        if self.gone.0 == index {
            self.gone.1.get(room).copied().unwrap_or(0)
        } else {
            0
        }
    }
}
