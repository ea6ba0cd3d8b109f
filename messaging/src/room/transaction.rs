//! One command's work on one room: what it reads, what it changes, and the rows it adds to the room's log.
//!
//! Commands check everything first and change afterwards: a refusal leaves no trace.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};

use super::depth::DEPARTURES_KEPT;
use super::effect::{RoomEffect, Welcome};
use super::event::RoomEvent;
use super::occupant_id::OccupantIds;
use super::refusal::Refusal;
use super::rights::Standing;
use super::state::{Affiliation, AffiliationRecord, Occupant, Role, RoomRecord};
use super::views::OccupantView;
use crate::apply::Context;
use crate::archive::{ArchiveRecord, ArchiveRow};
use crate::effect::Effect;
use crate::state::State;

/// The state, the surroundings, and whose command on which room it is.
pub(super) struct Transaction<'t, 'c> {
    pub(super) state: &'t mut State,
    pub(super) ctx: &'t mut Context<'c>,
    pub(super) room: &'t BareJid,
    pub(super) by: &'t FullJid,
    /// The generation of the sender's account.
    pub(super) account: u64,
}

impl Transaction<'_, '_> {
    /// The room, if there is one.
    pub(super) fn record(&self) -> Option<&RoomRecord> {
        self.state.rooms.get(self.room)
    }

    /// The room, configured: §7.2.10, a locked one does not exist for anybody yet.
    pub(super) fn unlocked(&self) -> Result<&RoomRecord, Refusal> {
        self.record()
            .filter(|record| !record.locked)
            .ok_or(Refusal::NoSuchRoom)
    }

    /// The session that sent the command, as an occupant.
    pub(super) fn sender(&self) -> Option<&Occupant> {
        self.occupant(self.by)
    }

    /// A session in the room.
    pub(super) fn occupant(&self, jid: &FullJid) -> Option<&Occupant> {
        self.state.occupants.get(&(self.room.clone(), jid.clone()))
    }

    /// Everybody in the room now.
    pub(super) fn occupants(&mut self) -> OccupantView {
        self.state.room_views.of(&self.state.occupants, self.room)
    }

    /// The sessions under a nickname: all of one bare JID.
    pub(super) fn sessions_under(&mut self, nick: &str) -> Vec<Arc<Occupant>> {
        self.occupants()
            .iter()
            .filter(|occupant| occupant.nick == nick)
            .cloned()
            .collect()
    }

    /// The affiliation that counts for somebody: their own, else their domain's (§9.2: in this order).
    pub(super) fn affiliation(&self, person: &BareJid) -> Affiliation {
        affiliation(self.state, self.room, person)
    }

    /// The affiliation on the list under exactly this JID.
    pub(super) fn listed(&self, jid: &BareJid) -> Affiliation {
        let key = (self.room.clone(), jid.clone());
        self.state
            .affiliations
            .get(&key)
            .map_or(Affiliation::None, |record| record.affiliation)
    }

    /// What the sender is here; an admin or owner outside the room counts as moderator.
    pub(super) fn sender_standing(&mut self) -> Standing {
        let person = self.by.bare();
        let affiliation = self.affiliation(&person);
        let view = self.occupants();
        let role = view
            .iter()
            .filter(|o| o.jid.bare() == person)
            .map(|o| o.role)
            .max();
        let outside = if affiliation >= Affiliation::Admin {
            Role::Moderator
        } else {
            Role::None
        };
        Standing {
            role: role.unwrap_or(outside),
            affiliation,
        }
    }

    /// The nickname under which the sender acts, if in the room.
    pub(super) fn actor(&self) -> Option<String> {
        self.sender().map(|occupant| occupant.nick.clone())
    }

    /// XEP-0421: the sender's occupant id.
    pub(super) fn sender_id(&self) -> String {
        OccupantIds::new(&self.ctx.pool.id_key).id(self.room, &self.by.bare(), self.account)
    }

    /// Puts an affiliation on the list, or takes it off.
    pub(super) fn set_affiliation(
        &mut self,
        jid: &BareJid,
        affiliation: Affiliation,
        reason: Option<String>,
    ) {
        if self.record().is_none() {
            // The room has gone earlier in the same request: no list outlives it.
            return;
        }
        let before = self.listed(jid);
        self.state
            .room_views
            .note_affiliation(jid, before, affiliation);
        let key = (self.room.clone(), jid.clone());
        if affiliation == Affiliation::None {
            self.state.affiliations.remove(&key);
        } else {
            self.state.affiliations.insert(
                key,
                AffiliationRecord {
                    affiliation,
                    reason,
                },
            );
        }
    }

    /// Puts a new or changed occupant.
    pub(super) fn put_occupant(&mut self, occupant: &Occupant) {
        self.state.room_views.put(self.room, occupant);
        self.state
            .occupants
            .insert((self.room.clone(), occupant.jid.clone()), occupant.clone());
    }

    /// Takes an occupant out.
    pub(super) fn remove_occupant(&mut self, jid: &FullJid) -> Option<Occupant> {
        let occupant = self
            .state
            .occupants
            .remove(&(self.room.clone(), jid.clone()))?;
        self.state.room_views.remove(self.room, jid);
        Some(occupant)
    }

    /// The sequence that the next row gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.record().map_or(0, |record| record.head) + 1
    }

    /// Adds a row to the room's log and shows it to who is in the room now.
    pub(super) fn log(&mut self, event: RoomEvent) -> u64 {
        self.log_with_welcome(event, None)
    }

    /// The same for a join.
    pub(super) fn log_with_welcome(
        &mut self,
        event: RoomEvent,
        welcome: Option<Arc<Welcome>>,
    ) -> u64 {
        let occupants = self.occupants();
        let Some(record) = self.state.rooms.get_mut(self.room) else {
            return 0;
        };
        let previous = record.head;
        record.head += 1;
        let seq = record.head;
        let non_anonymous = record.config.non_anonymous;
        let filed = !matches!(event, RoomEvent::Destroyed { .. });
        if matches!(event, RoomEvent::Configured { .. }) {
            record.depth.configured = seq;
        }
        let trimmed = if filed && !event.is_message() {
            record.depth.event(seq, event.is_said())
        } else {
            None
        };
        if let Some(nick) = given_up(&event, &occupants) {
            self.note_departure(seq, nick);
        }
        let row = Arc::new(ArchiveRow {
            key: self.room.clone(),
            seq,
            time_ms: self.ctx.time_ms,
            record: ArchiveRecord::Room(event),
        });
        // A destroyed room's archive goes at once: its last row is only shown.
        if filed {
            self.ctx.effect(Effect::Archive(Arc::clone(&row)));
        }
        if let Some(upto) = trimmed {
            let room = self.room.clone();
            self.ctx.effect(Effect::TrimEvents { room, upto });
        }
        let event = RoomEffect::Event {
            previous,
            row,
            occupants,
            non_anonymous,
            welcome,
        };
        self.ctx.effect(Effect::Room(self.room.clone(), event));
        seq
    }

    /// Remembers that a nickname was given up; forgets the oldest where there are too many.
    fn note_departure(&mut self, seq: u64, nick: String) {
        let Some(record) = self.state.rooms.get_mut(self.room) else {
            return;
        };
        if record.depth.departures < DEPARTURES_KEPT {
            record.depth.departures += 1;
        } else {
            let oldest = self.state.departures.rows_of(self.room).next();
            if let Some(oldest) = oldest.map(|(seq, _)| *seq) {
                record.depth.departures_floor = oldest;
                self.state.departures.remove(&(self.room.clone(), oldest));
            }
        }
        self.state.departures.insert((self.room.clone(), seq), nick);
    }

    /// Forgets the room with everything in it.
    pub(super) fn drop_room(&mut self) {
        let Some(record) = self.state.rooms.remove(self.room) else {
            return;
        };
        let listed: Vec<BareJid> = self
            .state
            .affiliations
            .rows_of(self.room)
            .map(|(jid, _)| jid.clone())
            .collect();
        for jid in listed {
            let listed = self
                .state
                .affiliations
                .remove(&(self.room.clone(), jid.clone()));
            if let Some(record) = listed {
                self.state
                    .room_views
                    .note_affiliation(&jid, record.affiliation, Affiliation::None);
            }
        }
        let departures: Vec<u64> = self
            .state
            .departures
            .rows_of(self.room)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in departures {
            self.state.departures.remove(&(self.room.clone(), seq));
        }
        self.state
            .room_views
            .note_gone(self.ctx.index, self.room, record.head);
        self.ctx.effect(Effect::DropArchive {
            key: self.room.clone(),
            upto: record.head,
        });
    }
}

/// The nickname that nobody has any more after an event. `occupants`: who is in after it.
fn given_up(event: &RoomEvent, occupants: &[Arc<Occupant>]) -> Option<String> {
    let nick = match event {
        RoomEvent::Left {
            occupant,
            announced: true,
            ..
        } => &occupant.nick,
        RoomEvent::Renamed { old_nick, .. } => old_nick,
        _ => return None,
    };
    let stays = occupants.iter().any(|occupant| occupant.nick == *nick);
    (!stays).then(|| nick.clone())
}

/// The affiliation that counts for somebody in a room: their own, else their domain's (§9.2: in this order).
pub(super) fn affiliation(state: &State, room: &BareJid, person: &BareJid) -> Affiliation {
    let find = |jid: BareJid| {
        state
            .affiliations
            .get(&(room.clone(), jid))
            .map(|record| record.affiliation)
    };
    find(person.clone())
        .or_else(|| find(person.to_domain()))
        .unwrap_or(Affiliation::None)
}
