//! The rules of chat: what every replica of a partition agrees on, and what an owner does with it.
//!
//! Everything here is pure: no I/O, clock, randomness or logging. Time and randomness arrive inside commands.
//!
//! ```text
//!  Batch (from the log) ──► apply(&mut State) ──► Effects ──► the owner's actors execute them
//!  Query ────────────────► answer(&State)     ──► Reply
//! ```
//!
//! - [`slot`]: which partition a key belongs to.
//! - [`command`]: what may be asked; [`effect`]: what must now be done; [`query`]: what may be read.
//! - [`state`]: the replicated state of one partition, made of [`table`]s whose changed rows can be drained.
//! - [`apply`]: the only validator; [`link_record`]: exactly-once bookkeeping; [`outbox`]: effects on other keys.
//! - [`archive`]: what a row of a user's or a room's log holds, and the opaque ids it is known by outside.
//! - [`user`]: accounts, rosters, subscriptions, 1:1 messages, blocking, private data, presence publications.
//! - [`room`]: rooms, XEP-0045.

pub mod slot;

pub mod command;
pub mod effect;
pub mod query;

pub mod apply;
pub mod founding;
pub mod link_record;
pub mod outbox;
pub mod state;
pub mod table;

mod refusal;

pub mod archive;
pub mod room;
pub mod user;
