//! The link: the one path between a node and the owner of a partition.
//!
//! Pure cores; bytes travel by the transport, and the actors are their shells.
//!
//! ```text
//!   node                                     owner
//!   origin ── Up ──────────────────────────► target ─► batcher ─► the partition's log
//!          ◄─ Down ──────────────────────────        ◄─ effects of what was applied ─┐
//!   another partition's owner                outbox ◄────────────────────────────────┘
//!   target ◄─ Across ────────────────────────
//! ```
//!
//! Invariant: what an origin has numbered reaches the log exactly once and in order, whatever frames, connections and
//! owners are lost on the way; and its true answer reaches the origin.

pub mod protocol;

pub mod origin;

pub mod target;

pub mod batcher;

pub mod outbox;

pub mod parked;

pub mod size;

mod cursors;

mod numbered;

mod parts;

mod settings;

mod told;

#[cfg(test)]
mod simulation;
