//! Muster from outside: real processes, real sockets, real faults, and judges of what came of it.
//!
//! Nothing here is mocked. A [`pool`] is made of processes of the released binary; a [`client`] speaks XMPP to them;
//! a [`scenario`] is a scripted conversation; [`load`] talks in rooms while nodes die, [`edits`] sets all else that can be
//! set, both write a [`history`], and the [`checker`] says what was promised and not kept.
//!
//! ```text
//!  tests/*.rs ─► pool (processes, faults; networks and disks in an enclave) ◄─ sockets ─ client ◄─ scenario | load | edits ─► history ─► checker
//! ```

pub mod wait;

pub mod cable;
pub mod clock;
pub mod disk;
pub mod enclave;
pub mod network;
pub mod quota;
pub mod switch;
pub mod syncs;

pub mod control;
pub mod pool;

pub mod client;
pub mod peer;
pub mod people;
pub mod wire;

pub mod scenario;

pub mod terminal;

pub mod chaos;
pub mod checker;
pub mod edits;
pub mod history;
pub mod load;
pub mod trial;
