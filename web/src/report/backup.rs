//! Backups: what an operator's machine needs to know to fetch one, part by part.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What a backup is of, and what a pool that is made of it has to keep. It holds the key behind archive ids: keep it secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupPool {
    /// The pool.
    pub pool: String,
    /// The version of the program on the node that was asked.
    pub version: String,
    /// The domain of the users.
    pub domain: String,
    /// The domain of the rooms.
    pub rooms_domain: String,
    /// Into how many groups users and rooms are spread.
    pub partitions: u16,
    /// Contacts a user may have.
    pub contacts_max: u32,
    /// Occupants a room may have.
    pub occupants_max: u32,
    /// Rooms a user may own in one partition.
    pub rooms_owned_max: u32,
    /// The key behind opaque ids, in hexadecimal digits.
    pub id_key: String,
}

// The key is left out.
impl std::fmt::Debug for BackupPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupPool")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// A backup that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupBegun {
    /// Its name: 32 hexadecimal digits.
    pub id: String,
    /// When it began, in ms since 1970.
    pub began_ms: u64,
    /// What it is of.
    pub of: BackupPool,
}

/// An export of a user that has begun: a backup of nothing but the user's partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportBegun {
    /// Its name, as that of a backup: 32 hexadecimal digits.
    pub id: String,
    /// The group that has the user, to be captured and fetched as for a backup.
    pub group: u32,
}

/// A group whose state and archive are kept at one index until they are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CaptureReport {
    /// 0 is the meta group, 1 + p is that of partition p.
    pub group: u32,
    /// The node that keeps it: it is named when parts are asked for.
    pub node: u64,
    /// The last entry of the log that is in it.
    pub index: u64,
    /// Bytes of the state's file.
    pub state_bytes: u64,
}

/// Up to where a log was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndReport {
    /// The node that says so, and has the entries.
    pub node: u64,
    /// The last entry.
    pub index: u64,
}

/// Which part of the state's file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatePart {
    /// The node that keeps it.
    pub node: u64,
    /// Where the part begins.
    pub offset: u64,
}

/// Which rows of the archive; without a key the first ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RowsPart {
    /// The node that keeps them.
    pub node: u64,
    /// Those behind the row of this key.
    pub key: Option<String>,
    /// And of this sequence.
    #[serde(default)]
    pub seq: u64,
    /// Which is an event, else a message.
    #[serde(default)]
    pub event: bool,
}

/// Which entries of the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EntriesPart {
    /// The node that has them.
    pub node: u64,
    /// Those behind this one.
    pub after: u64,
    /// Up to this one.
    pub upto: u64,
}

/// A part of a captured group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPart {
    /// Bytes of the state's file.
    State(StatePart),
    /// Rows of the archive, as a block of the file of rows.
    Rows(RowsPart),
    /// Entries of the log, as a block of the file of entries.
    Entries(EntriesPart),
}
