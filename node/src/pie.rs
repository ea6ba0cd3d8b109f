//! XEP-0227, the portable form of what servers keep for their users: read and written as a stream.
//!
//! - [`reader`]: a file cut into the elements that say something of a user, whatever its size.
//! - [`user`]: what those elements mean.
//! - [`skipped`]: what is passed over.
//!
//! ```text
//!  server-data ─► host ─► user ─► query, vCard, presence, scram-credentials, …
//!                              ├► archive ─► result …
//!                              └► offline-messages ─► message …
//! ```

pub(crate) mod reader;
pub(crate) mod skipped;
pub(crate) mod user;

/// XEP-0227 §4.
pub(crate) const NS: &str = "urn:xmpp:pie:0";
/// XEP-0227 §4.3.
pub(crate) const NS_SCRAM: &str = "urn:xmpp:pie:0#scram";
/// XEP-0227 §4.11.
pub(crate) const NS_MAM: &str = "urn:xmpp:pie:0#mam";
