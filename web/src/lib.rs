//! The control port: status, users, metrics and health over HTTPS.
//!
//! ```text
//!  operator ──TLS──► server ─► canonical path? ─► route ─► token? ─► handler ─► ControlBackend ─► the node
//! ```
//!
//! - [`backend`]: what a node must be able to do to have a control port; the crate knows nothing else of a node.
//! - [`report`]: what the port says about a pool, as types that clients may read back.
//! - [`access`]: the bearer token, and who may see what.
//! - [`error`]: the one table of refusals.
//! - [`server`]: listening, limits and headers.
//!
//! Every handler that needs an operator says so in its arguments; a route can't be reached around it. There are no
//! cookies, so no browser can be made to send what authorises a request.

pub mod backend;
pub mod report;

pub mod access;
pub mod error;
pub mod server;

mod health;
mod operations;
mod path;
mod status;
mod users;

pub use access::ControlToken;
pub use backend::{BackendError, ControlBackend};
pub use path::user_path;
pub use server::{ControlServer, ControlServerError, ControlSettings, ReservedPort};

#[cfg(test)]
mod tests;
