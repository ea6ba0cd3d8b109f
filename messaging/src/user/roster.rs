//! Roster items. RFC 6121 §2.

use serde::{Deserialize, Serialize};

/// RFC 6121 §2.1.2.5, both directions and what is pending. RFC 6121 appendix A's nine states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterItem {
    /// The name the user gave.
    pub name: Option<String>,
    /// The groups the user put it in.
    pub groups: Vec<String>,
    /// The user sees the contact's presence.
    pub to: bool,
    /// The contact sees the user's presence.
    pub from: bool,
    /// The user asked to see the contact and waits (`ask='subscribe'`).
    pub pending_out: bool,
    /// The contact asked to see the user and waits; the stanza's payload, shown again at each log-in.
    pub pending_in: Option<bytes::Bytes>,
    /// RFC 6121 §3.4: approved before it was asked.
    pub approved: bool,
    /// Whether the item is shown in the roster; an item with only `pending_in` isn't.
    pub listed: bool,
    /// The roster version at which the item last changed.
    pub version: u64,
}
