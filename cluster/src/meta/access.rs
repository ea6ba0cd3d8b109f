//! Who has access to the pool, and what they did with it: tokens of nodes, operators, the audit log.
//!
//! Kept beside the rest of the meta group's state, since it is large and few read it.

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError};
use storage::state_store::{StateBatch, Table};

use super::audit::{Audit, AuditEntry};
use super::operators::{OperatorEntry, Operators};
use super::replica::Verdict;
use super::tokens::{TokenEntry, Tokens};

/// Table, key and value.
pub(super) type StoredRow = (Table, Vec<u8>, Vec<u8>);

/// Entries about access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessEntry {
    /// About tokens that let nodes join.
    Token(TokenEntry),
    /// About operators.
    Operator(OperatorEntry),
    /// About what they do.
    Audit(AuditEntry),
}

/// Tokens, operators and what they did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// What lets nodes join.
    pub tokens: Tokens,
    /// Who may operate the pool.
    pub operators: Operators,
    /// What was done.
    pub audit: Audit,
}

impl Access {
    /// Judges an entry and does what it says.
    pub(super) fn apply(&mut self, entry: AccessEntry, changes: &mut Changes) -> Verdict {
        match entry {
            AccessEntry::Token(entry) => self.tokens.apply(entry, changes),
            AccessEntry::Operator(entry) => self.operators.apply(entry, changes),
            AccessEntry::Audit(entry) => self.audit.apply(entry, changes),
        }
    }

    /// All rows.
    pub(super) fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let mut rows = self.tokens.rows()?;
        rows.extend(self.operators.rows()?);
        rows.extend(self.audit.rows()?);
        Ok(rows)
    }

    /// Takes a row, if it is one of these.
    pub(super) fn load_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, CodecError> {
        Ok(self.tokens.load_row(table, key, value)?
            || self.operators.load_row(table, key, value)?
            || self.audit.load_row(table, key, value)?)
    }
}

/// The rows that some entries change: only these are written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    rows: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    failed: Option<CodecError>,
}

impl Changes {
    /// Sets a row.
    pub(super) fn put(&mut self, table: Table, key: &impl Serialize, value: &impl Serialize) {
        match row(table, key, value) {
            Ok((table, key, value)) => self.rows.push((table, key, Some(value))),
            Err(error) => self.failed = Some(error),
        }
    }

    /// Removes a row.
    pub(super) fn delete(&mut self, table: Table, key: &impl Serialize) {
        match codec::row_bytes(key) {
            Ok(key) => self.rows.push((table, key, None)),
            Err(error) => self.failed = Some(error),
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Puts them into a batch.
    ///
    /// # Errors
    /// When a row did not encode.
    pub(super) fn into(self, batch: &mut StateBatch) -> Result<(), CodecError> {
        for (table, key, value) in self.rows {
            match value {
                Some(value) => batch.put(table, key, value),
                None => batch.delete(table, key),
            }
        }
        self.failed.map_or(Ok(()), Err)
    }
}

/// A row's bytes.
pub(super) fn row(
    table: Table,
    key: &impl Serialize,
    value: &impl Serialize,
) -> Result<StoredRow, CodecError> {
    Ok((table, codec::row_bytes(key)?, codec::row_bytes(value)?))
}

/// The beginning of a text, at most so many bytes, whole characters: on every replica the same.
pub(super) fn bounded(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
