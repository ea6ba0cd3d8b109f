//! The control port: status, users, metrics and health over HTTPS.
//!
//! ```text
//!  operator ──TLS──► server ─► canonical path? ─► route ─► token, role? ─► handler ─► record ─► ControlBackend ─► the node
//! ```
//!
//! - [`backend`]: what a node must be able to do to have a control port; the crate knows nothing else of a node.
//! - [`report`]: what the port says about a pool, as types that clients may read back.
//! - [`access`]: bearer tokens, roles, and who may do what.
//! - [`error`]: the one table of refusals.
//! - [`server`]: listening, limits and headers.
//!
//! Every handler that needs an operator says so in its arguments; a route can't be reached around it. Whatever changes
//! something goes by way of the audit log (`record.rs`).
//!
//! The console page (`console.rs`, its files in `web/console`) signs in with a token for a cookie (`sign_in.rs`); which requests the
//! cookie authorises says `same_origin.rs`. There is no other cookie.

pub mod backend;
pub mod report;

pub mod access;
pub mod error;
pub mod server;

mod backups;
mod begun;
mod cluster;
mod console;
mod health;
mod importers;
mod imports;
mod nodes;
mod openapi;
mod operators;
mod path;
mod record;
mod same_origin;
mod sessions;
mod sign_in;
mod status;
mod tokens;
mod users;

pub use access::ControlToken;
pub use backend::{BackendError, ControlBackend};
pub use path::{path_of, path_with, user_path};
pub use server::{ControlServer, ControlServerError, ControlSettings, ReservedPort};

#[cfg(test)]
mod tests;
