//! Accounts: credentials and when they were made.

use serde::{Deserialize, Serialize};
use xmpp::sasl::StoredCredentials;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// How it authenticates.
    pub credentials: StoredCredentials,
    /// When it was made, ms since 1970.
    pub created_ms: u64,
}
