//! Scripted conversations: who connects, who sends what, who receives what.
//!
//! The scripts have scansion's shape, so that Prosody can check them too. [`Scenario::parse`] reads one, [`pattern`]
//! compares what came with what was expected, and [`run`] plays it over real clients. Beside scansion's own lines:
//!
//! - a block of several expected stanzas may arrive in any order (their senders are on different nodes);
//! - `Juliet eventually receives:` skips what does not fit;
//! - `Juliet receives nothing` asks the server for a sign of life and allows a short silence after it;
//! - `Juliet's stream ends` waits for the end of the socket;
//! - `Juliet is cut off` drops her socket without a word, and `Juliet authenticates` (or, on another node where there is
//!   one, `Juliet authenticates elsewhere`) opens a stream up to the point where a resource is bound or a session resumed.

mod parse;
mod pattern;
mod run;
mod tag;

pub use parse::{Action, ClientPart, ParseError, Scenario, Step};
pub use pattern::{Captures, Mismatch, matches};
pub use run::run;
pub use tag::Tag;
