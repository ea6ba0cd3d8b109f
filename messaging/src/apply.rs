//! `apply`: the one place where a partition's state changes.
//!
//! Invariants: it reads only this partition's state and the entry; it is deterministic; every admitted proposal gets
//! exactly one answer; a proposal of an ended incarnation or epoch changes nothing. Where versions of the program apply
//! entries differently, the version in the partition's own record decides, which only an entry of its log raises.

use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};

use crate::command::{Answer, Batch, Command, Entry, Proposal};
use crate::effect::{Effect, UserEffect};
use crate::link_record::{Admission, LinkOrigin, LinkRecord};
use crate::outbox::{OnAnswer, OutboxEntry};
use crate::room::effect::RoomEffect;
use crate::slot::{PartitionId, PartitionTable};
use crate::state::State;

/// What a command may use besides the state.
pub struct Context<'a> {
    /// The log index of the entry.
    pub index: u64,
    /// This partition.
    pub partition: PartitionId,
    /// The pool's partition table.
    pub table: &'a PartitionTable,
    /// The pool's fixed settings and secrets; the same on every replica.
    pub pool: &'a PoolConstants,
    /// The batch's time, ms since 1970; never falls within a partition.
    pub time_ms: u64,
    /// What is to be done.
    pub effects: &'a mut Vec<Effect>,
}

/// What is fixed when the pool is created and the same on every replica: limits that change how commands are
/// applied live here, never in a node's configuration.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PoolConstants {
    /// Key of opaque ids (archive ids) and occupant ids; never rotated, part of a backup.
    pub id_key: [u8; 16],
    /// The user domain, `localhost`.
    pub domain: String,
    /// The rooms' domain, `conference.localhost`.
    pub rooms_domain: String,
    /// Contacts a user may have.
    pub contacts_max: u32,
    /// Occupants a room may have.
    pub occupants_max: u32,
    /// Rooms a user may own in one partition before they can make no more there.
    pub rooms_owned_max: u32,
}

// The key is left out: who has it can predict archive ids and find out who is behind an occupant id.
impl std::fmt::Debug for PoolConstants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolConstants")
            .field("domain", &self.domain)
            .field("rooms_domain", &self.rooms_domain)
            .field("contacts_max", &self.contacts_max)
            .field("occupants_max", &self.occupants_max)
            .field("rooms_owned_max", &self.rooms_owned_max)
            .finish_non_exhaustive()
    }
}

impl Context<'_> {
    /// Asks for something to be done.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Asks for something to be done for a user's sessions.
    pub fn user_effect(&mut self, user: &BareJid, effect: UserEffect) {
        self.effects.push(Effect::User(user.clone(), effect));
    }

    /// Whether a client's command may put an effect on each of these keys into the outbox; asked before anything is done.
    pub fn outbox_has_room<'k>(
        &self,
        state: &mut State,
        targets: impl IntoIterator<Item = &'k BareJid>,
    ) -> bool {
        let targets = targets.into_iter();
        state.outbox_has_room(targets.map(|target| self.table.partition_of(target)))
    }

    /// Puts an effect on another key into the outbox.
    pub fn outbox(&mut self, state: &mut State, entry: OutboxEntry) {
        let partition = self.table.partition_of(&entry.target);
        self.outbox_to(state, partition, entry);
    }

    /// The same for what concerns a partition as a whole.
    pub fn outbox_to(&mut self, state: &mut State, partition: PartitionId, entry: OutboxEntry) {
        let key = state.push_outbox(partition, entry.clone());
        self.effects.push(Effect::Outbox {
            key,
            entry: std::sync::Arc::new(entry),
        });
    }
}

/// The surroundings of one partition that don't change from entry to entry.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// This partition.
    pub partition: PartitionId,
    /// The pool's partition table.
    pub table: PartitionTable,
    /// The pool's constants.
    pub pool: PoolConstants,
}

/// Applies one entry of the log.
pub fn apply(
    state: &mut State,
    surroundings: &Surroundings,
    index: u64,
    entry: Entry,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    match entry {
        Entry::OwnerBegin {
            node,
            incarnation: _,
            time_ms,
        } => {
            let record = state.partition.get_or_insert_with(&(), Default::default);
            record.epoch = index;
            record.owner = node;
            record.time_ms = record.time_ms.max(time_ms);
        }
        Entry::Batch(batch) => apply_batch(state, surroundings, index, batch, &mut effects),
        Entry::Version { version } => {
            let record = state.partition.get_or_insert_with(&(), Default::default);
            record.behaviour = record.behaviour.max(version);
        }
    }
    effects
}

fn apply_batch(
    state: &mut State,
    surroundings: &Surroundings,
    index: u64,
    batch: Batch,
    effects: &mut Vec<Effect>,
) {
    let record = state.partition.get_or_insert_with(&(), Default::default);
    if batch.epoch != record.epoch {
        // Made by an owner that is none any more: its origins resend to the new one.
        return;
    }
    record.time_ms = record.time_ms.max(batch.time_ms);
    let mut ctx = Context {
        index,
        partition: surroundings.partition,
        table: &surroundings.table,
        pool: &surroundings.pool,
        time_ms: record.time_ms,
        effects,
    };
    for proposal in batch.proposals {
        apply_proposal(state, &mut ctx, proposal);
    }
}

fn apply_proposal(state: &mut State, ctx: &mut Context<'_>, proposal: Proposal) {
    let Proposal {
        origin,
        incarnation,
        sequence,
        command,
    } = proposal;
    let link = state.links.get_or_insert_with(&origin, LinkRecord::default);
    let answer = match link.admit(incarnation, sequence) {
        Admission::Refused => return,
        Admission::Again(answer) => answer,
        Admission::Next => {
            let answer = apply_command(state, ctx, command);
            state
                .links
                .get_or_insert_with(&origin, LinkRecord::default)
                .record(answer.clone());
            Some(answer)
        }
    };
    if let Some(answer) = answer
        && origin != LinkOrigin::Owner
    {
        ctx.effect(Effect::Answer {
            origin,
            incarnation,
            sequence,
            answer,
        });
    }
}

/// What the origin still has to do when the target of an outbox entry has answered.
fn follow_answer(
    state: &State,
    ctx: &mut Context<'_>,
    entry: OutboxEntry,
    refused: Option<StanzaError>,
) {
    match (entry.on_answer, refused) {
        (OnAnswer::Bounce { sender, stanza }, Some(error)) => {
            if let Some(stanza) = error.reply_to(&stanza) {
                bounce(state, ctx, sender, stanza);
            }
        }
        (OnAnswer::NotInvited { sender, stanza }, Some(_)) => {
            let error = StanzaError::new(Condition::ItemNotFound);
            if let Some(stanza) = error.reply_to(&stanza) {
                bounce(state, ctx, sender, stanza);
            }
        }
        (OnAnswer::ShowPresence { user }, None) => {
            ctx.user_effect(&user, UserEffect::PresenceTo(entry.target));
        }
        (OnAnswer::Nothing, _)
        | (OnAnswer::Bounce { .. } | OnAnswer::NotInvited { .. }, None)
        | (OnAnswer::ShowPresence { .. }, Some(_)) => {}
    }
}

/// Tells a session that its stanza was refused: a room tells its occupants, an account its own sessions.
fn bounce(state: &State, ctx: &mut Context<'_>, session: FullJid, stanza: Stanza) {
    let room = stanza.from.as_ref().map(Jid::bare);
    match room.filter(|room| state.rooms.contains(room)) {
        Some(room) => {
            let deliver = RoomEffect::Deliver {
                to: session,
                stanza,
            };
            ctx.effect(Effect::Room(room, deliver));
        }
        None => ctx.user_effect(&session.bare(), UserEffect::Bounce { session, stanza }),
    }
}

fn apply_command(state: &mut State, ctx: &mut Context<'_>, command: Command) -> Answer {
    match command {
        Command::Nothing => Answer::Done { seq: 0 },
        Command::Room(command) => crate::room::apply(state, ctx, command),
        Command::ForgetAccount { user, generation } => {
            crate::room::forget::account(state, ctx, &user, generation)
        }
        Command::OutboxAnswered {
            partition,
            sequence,
            refused,
        } => {
            if let Some(entry) = state.take_outbox((partition, sequence)) {
                follow_answer(state, ctx, entry, refused.map(|error| *error));
            }
            Answer::Done { seq: 0 }
        }
        command => crate::user::apply(state, ctx, command),
    }
}
