//! Accounts from other servers: what is said of one, piece by piece.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose account is to be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImport {
    /// The user's address.
    pub user: String,
}

/// A piece of an account that is being imported; `conflict` where it is not. Each may be sent twice; those of the archive in their
/// order, and `finish` last, when all of them were taken.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "piece", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImportPiece {
    /// Contacts, at most 256.
    Contacts {
        /// The contacts.
        contacts: Vec<ImportedContact>,
    },
    /// Messages of the archive, at most 256, oldest first. Those that are there already are left as they are; if one is refused none
    /// of the piece is taken.
    Messages {
        /// How many come before these.
        after: u64,
        /// Whether they are still to be delivered.
        waiting: bool,
        /// The messages.
        messages: Vec<ImportedMessage>,
    },
    /// Blocked addresses (XEP-0191).
    Blocked {
        /// The addresses.
        addresses: Vec<String>,
    },
    /// One private element (XEP-0049).
    Private {
        /// The element.
        element: String,
    },
    /// The vCard (XEP-0054).
    Vcard {
        /// The element `<vCard/>`.
        element: String,
    },
    /// From now on the user can log in: with a password, or with SCRAM keys that are taken as they are.
    Finish {
        /// The password, if it is known.
        password: Option<String>,
        /// Otherwise keys, one for each hash function.
        scram: Vec<ImportedKeys>,
    },
}

// What users store and send isn't shown.
impl std::fmt::Debug for ImportPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImportPiece(…)")
    }
}

/// A contact, as a roster has it (RFC 6121 §2.1.2).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedContact {
    /// The contact's address.
    pub address: String,
    /// The name the user gave.
    pub name: Option<String>,
    /// Its groups.
    pub groups: Vec<String>,
    /// `none`, `to`, `from` or `both`.
    pub subscription: String,
    /// The user asked to see the contact and waits.
    pub asks: bool,
    /// Approved before it was asked.
    pub approved: bool,
    /// Whether it is in the roster.
    pub listed: bool,
    /// The `<presence type='subscribe'/>` by which the contact asked and that waits.
    pub request: Option<String>,
}

/// A message and when it was written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedMessage {
    /// Milliseconds since 1970; what is later than now becomes now.
    pub time_ms: u64,
    /// The element `<message/>` with `from` and `to`, one of them the user.
    pub message: String,
}

/// What one SCRAM mechanism needs (RFC 5802 §3), in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedKeys {
    /// `SCRAM-SHA-1`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The salt.
    pub salt: String,
    /// How often it is hashed.
    pub iterations: u32,
    /// StoredKey.
    pub stored_key: String,
    /// ServerKey.
    pub server_key: String,
}
