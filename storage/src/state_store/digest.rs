//! The hash of a state's rows, to compare replicas.

use sha2::{Digest, Sha256};

use super::Table;

/// What two states with the same rows have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateHash {
    /// How many rows there are.
    pub rows: u64,
    /// SHA-256 over all rows in the order in which they were shown.
    pub digest: [u8; 32],
}

/// Takes rows in the state's own order, however they are cut into portions.
#[derive(Clone, Default)]
pub struct StateHasher {
    hasher: Sha256,
    rows: u64,
}

impl StateHasher {
    /// Takes the next row.
    pub fn row(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.rows += 1;
        self.hasher.update([table.0]);
        // Lengths first, so that no bytes can move from one row to the next.
        self.hasher.update((key.len() as u64).to_le_bytes());
        self.hasher.update((value.len() as u64).to_le_bytes());
        self.hasher.update(key);
        self.hasher.update(value);
    }

    /// The hash of the rows so far.
    pub fn finish(self) -> StateHash {
        StateHash {
            rows: self.rows,
            digest: self.hasher.finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(rows: &[(u8, &[u8], &[u8])]) -> StateHash {
        let mut hasher = StateHasher::default();
        for (table, key, value) in rows {
            hasher.row(Table(*table), key, value);
        }
        hasher.finish()
    }

    type Row<'a> = (u8, &'a [u8], &'a [u8]);

    #[test]
    fn rows_that_differ_anywhere_hash_differently() {
        let rows: [&[Row<'_>]; 8] = [
            &[],
            &[(1, b"ab", b"c")],
            &[(1, b"a", b"bc")],
            &[(2, b"ab", b"c")],
            &[(1, b"ab", b"d")],
            &[(1, b"ab", b"c"), (1, b"b", b"")],
            &[(1, b"b", b""), (1, b"ab", b"c")],
            &[(1, b"abc", b"")],
        ];
        for (one, other) in rows
            .iter()
            .enumerate()
            .flat_map(|(at, one)| rows.iter().skip(at + 1).map(move |other| (one, other)))
        {
            assert_ne!(hash(one).digest, hash(other).digest, "{one:?} {other:?}");
            assert_eq!(hash(one), hash(one));
        }
    }
}
