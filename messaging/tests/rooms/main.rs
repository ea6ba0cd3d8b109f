//! XEP-0045 as its occupants see it: the rights' matrices, conversations over apply and render, and invariants under
//! random commands.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod conversations;
mod depth;
mod invariants;
mod moderation;
mod parsing;
mod replays;
mod rights;
mod stage;
