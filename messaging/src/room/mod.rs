//! Multi-user chat. XEP-0045.
//!
//! The durable side is [`apply`]: configuration, affiliations, occupants, subject and the log of events. [`render`]
//! turns events into stanzas, once a room and class of recipient.
//!
//! ```text
//!  a client's stanza ──► parse ──► RoomCommand ──► apply ──► rows and effects ──► render ──► stanzas for occupants
//!                             └──► RoomQuery ────► query::answer
//!                             └──► what isn't filed (chat states, iqs to occupants): passing
//! ```

pub mod command;
pub mod depth;
pub mod effect;
pub mod event;
pub mod occupant_id;
pub mod parse;
pub mod query;
pub mod refusal;
pub mod render;
pub mod rights;
pub mod state;
pub mod views;

mod admin;
mod config;
pub mod config_form;
mod destroy;
pub mod forget;
mod invite;
mod join;
mod leave;
mod message;
pub mod passing;
mod presence;
mod private_message;
mod relocate;
mod transaction;
mod voice;

use crate::apply::Context;
use crate::command::Answer;
use crate::state::State;
use command::{RoomAction, RoomCommand};
use refusal::Refusal;
use transaction::Transaction;

/// Applies a command on a room's key.
pub fn apply(state: &mut State, ctx: &mut Context<'_>, command: RoomCommand) -> Answer {
    let RoomCommand {
        room,
        by,
        account,
        action,
    } = command;
    if action.is_of_session() && forget::is_of_removed(state, &by.bare(), account) {
        return Answer::Refused(Box::new(Refusal::AccountGone.to_stanza_error()));
    }
    let mut tx = Transaction {
        state,
        ctx,
        room: &room,
        by: &by,
        account,
    };
    match dispatch(&mut tx, action) {
        Ok(seq) => Answer::Done { seq },
        Err(refusal) => Answer::Refused(Box::new(refusal.to_stanza_error())),
    }
}

/// Every action answers with the sequence of its last row, 0 if it added none.
fn dispatch(tx: &mut Transaction<'_, '_>, action: RoomAction) -> Result<u64, Refusal> {
    match action {
        RoomAction::Join {
            nick,
            presence,
            password,
            history,
            node,
            incarnation,
            session,
        } => {
            let home = join::Home {
                node,
                incarnation,
                session,
            };
            join::join(tx, nick, presence, password, history, home)
        }
        RoomAction::Presence { nick, presence } => presence::change(tx, nick, presence),
        RoomAction::Leave { presence, of } => leave::leave(tx, presence, of),
        RoomAction::Message {
            stanza,
            origin_id,
            changes_subject,
        } => message::send(tx, stanza, origin_id, changes_subject),
        RoomAction::PrivateMessage {
            nick,
            stanza,
            origin_id,
        } => private_message::send(tx, &nick, stanza, origin_id),
        RoomAction::Invite { invitees, id } => invite::invite(tx, invitees, id),
        RoomAction::Decline { inviter, reason } => invite::decline(tx, &inviter, reason),
        RoomAction::RequestVoice => voice::request(tx),
        RoomAction::GrantVoice { nick, allow } => voice::grant(tx, &nick, allow),
        RoomAction::Admin { items } => admin::change(tx, items),
        RoomAction::Configure { fields } => config::configure(tx, &fields),
        RoomAction::CancelConfiguration => config::cancel(tx),
        RoomAction::Destroy {
            alternate,
            reason,
            password,
        } => destroy::destroy(tx, alternate, reason, password),
        RoomAction::RemoveUnclaimed { occupants } => leave::remove_unclaimed(tx, occupants),
        RoomAction::Move { from, to } => {
            let (node, incarnation, session) = to;
            let home = join::Home {
                node,
                incarnation,
                session,
            };
            relocate::relocate(tx, from, home)
        }
    }
}
