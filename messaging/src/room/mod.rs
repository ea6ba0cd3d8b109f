//! Multi-user chat. XEP-0045.
//!
//! The durable side is [`apply`]: configuration, affiliations, occupants, subject and the log of events. [`render`]
//! turns events into stanzas, once a room and class of recipient.

pub mod command;
pub mod effect;
pub mod event;
pub mod query;
pub mod render;
pub mod state;

use crate::apply::Context;
use crate::command::Answer;
use crate::state::State;
use command::RoomCommand;

/// Applies a command on a room's key.
pub fn apply(state: &mut State, ctx: &mut Context<'_>, command: RoomCommand) -> Answer {
    let _ = (state, ctx, command);
    Answer::Done { seq: 0 }
}
