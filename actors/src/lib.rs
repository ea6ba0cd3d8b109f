//! Sessions, presence publications and rooms as actors, and what connects them to the log.
//!
//! ```text
//!   socket ─► negotiation ─► SessionActor ─► LinkActor ══ ROUTE lane ══► OwnerActor ─► the log
//!                                ▲              │                            │ effects, in log order
//!                                └── deliver ◄──┴══════════ frames ══════════┤
//!                                                              RoomActor, PublicationActor
//! ```
//!
//! - [`fabric`]: what all actors of a node share; [`directory`]: the node's sessions by address.
//! - [`session`]: one client's stream; [`negotiation`]: what comes before it; [`claim`]: its resource; [`listener`]:
//!   sockets, [`door`]: whose turn it is, `proxy_protocol`: who is behind a balancer; [`connections`]: all of them, for a
//!   stop; [`allowance`]: what a user may ask of others.
//! - [`mailbox`]: how much may wait for a session; `framing`: words of the owner cut to frames; `soft`: what owners
//!   tell each other, kept for a new one; `relay`: frames between two nodes by way of a third.
//! - [`services`]: requests that a session answers or passes on, one file a feature.
//! - [`link`]: one actor a partition, the node's end of the link.
//! - [`owner`]: one actor a partition, awake while this node owns it; [`room`] and [`publication`] live below it.
//! - [`runtime`]: starts all of it; [`threads`]: on which threads; [`supervision`]: what becomes of a panic; [`isolation`]: of a lost quorum;
//!   [`control`]: what operators may ask; [`metrics`], `latencies`, [`history`]: what is counted, and was lately.
//!
//! House rules: no `do_send`; every mailbox is bounded and every sender knows what to do when one is full; an actor
//! yields after 64 pieces of work; a panic costs one session or one room.

pub mod adoption;
pub mod allowance;
pub mod connections;
pub mod directory;
pub mod fabric;
mod framing;
pub mod history;
mod latencies;
pub mod metrics;
mod relay;

pub mod claim;
pub mod door;
mod elsewhere;
pub mod listener;
pub mod mailbox;
pub mod negotiation;
mod proxy_protocol;
pub mod services;
pub mod session;
mod soft;
pub mod standstill;

pub mod link;
pub mod owner;
pub mod publication;
pub mod room;

#[cfg(any(
    feature = "bug-archive-by-wall-clock",
    feature = "bug-dedup-skipped-on-resume",
    feature = "bug-follower-read"
))]
mod planted;

pub mod control;
pub mod isolation;
pub mod runtime;
pub mod supervision;
pub mod threads;
