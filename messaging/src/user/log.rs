//! The head and the cursor of a user's log.

use serde::{Deserialize, Serialize};

/// A user's log: every 1:1 message sent or received is a row; offline delivery is the part after the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLog {
    /// The sequence of the newest row; the first of a generation is creation index × 4,096 + 1.
    pub head: u64,
    /// Rows up to here are delivered.
    pub delivered: u64,
    /// The roster's version.
    pub roster_version: u64,
}
