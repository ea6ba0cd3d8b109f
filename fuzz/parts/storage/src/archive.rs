//! Rows of the archive, and what a peer asks of them, without the database.

use std::sync::Arc;

mod row;

pub use row::*;

/// Rows of a key and kind that are missing. The same stands beside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRows {
    pub key: Arc<str>,
    pub kind: RowKind,
    pub after: Option<u64>,
    pub before: Option<u64>,
    pub order: Order,
}
