//! xmpp
pub mod sasl;
