//! The rules for one user: account, roster, subscriptions, messages, blocking, private data, presence.
//!
//! The durable side ([`apply`]) changes the replicated state; the soft side ([`publication`]) is the owner's picture
//! of a user who is online.

pub mod account;
pub mod blocking;
pub mod dedup;
pub mod delivery;
pub mod log;
pub mod message;
pub mod private;
pub mod publication;
pub mod query;
pub mod roster;
pub mod subscription;

use crate::apply::Context;
use crate::command::{Answer, Command};
use crate::state::State;

/// Applies a command on a user's key.
pub fn apply(state: &mut State, ctx: &mut Context<'_>, command: Command) -> Answer {
    let _ = (state, ctx, command);
    Answer::Done { seq: 0 }
}
