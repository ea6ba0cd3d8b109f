//! One table of a partition's replicated state: an ordered map that remembers which rows changed.
//!
//! The state lives in memory; the shell drains the changed rows into the state store at every checkpoint, so rows
//! that change often within a checkpoint are written once.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How rows become bytes. Implemented by the crate that knows the codec.
pub trait RowCodec {
    /// Why bytes could not be read as a row.
    type Error;
    /// Bytes of a key or a value.
    fn encode<T: Serialize>(&self, row: &T) -> Vec<u8>;
    /// The key or value in these bytes.
    ///
    /// # Errors
    /// When the bytes are not what [`RowCodec::encode`] wrote.
    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Self::Error>;
}

/// Is shown the number of a table, and the encoded key and value of a row.
pub type RowVisitor<'a> = &'a mut dyn FnMut(u8, &[u8], &[u8]);

/// A row that is new, has changed, or (`value: None`) is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Which table.
    pub table: u8,
    /// The encoded key.
    pub key: Vec<u8>,
    /// The encoded value; `None`: the row is gone.
    pub value: Option<Vec<u8>>,
}

/// An ordered map whose changed keys can be drained.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    rows: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Table {
            rows: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
    /// The row under this key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.rows.get(key)
    }

    /// Whether there is a row under this key.
    pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.rows.contains_key(key)
    }

    /// The row under this key, to be changed: it counts as changed whether or not the caller does.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let row = self.rows.get_mut(key)?;
        self.changed.insert(key.clone());
        Some(row)
    }

    /// The row under this key, made by `new` where there is none; counts as changed.
    pub fn get_or_insert_with(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        self.changed.insert(key.clone());
        self.rows.entry(key.clone()).or_insert_with(new)
    }

    /// Puts a row.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.changed.insert(key.clone());
        self.rows.insert(key, value)
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let row = self.rows.remove(key)?;
        self.changed.insert(key.clone());
        Some(row)
    }

    /// Rows in key order, from a range of keys.
    pub fn range<R: RangeBounds<K>>(&self, range: R) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range)
    }

    /// All rows in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<A: Ord, B: Ord, V> Table<(A, B), V> {
    /// The rows of one owner, in the order of the second part of their keys; costs nothing for other owners' rows.
    pub fn rows_of<'a>(
        &'a self,
        owner: &'a A,
    ) -> impl Iterator<Item = (&'a B, &'a V)> + use<'a, A, B, V> {
        let start = RowsOf(owner);
        let start: &dyn PairKey<A, B> = &start;
        self.rows
            .range::<dyn PairKey<A, B> + '_, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(move |((first, _), _)| first == owner)
            .map(|((_, second), row)| (second, row))
    }
}

/// A pair as a key, or the place before every pair with this first part: a range over one owner's rows can begin
/// there although the smallest second part is not known.
trait PairKey<A, B> {
    fn first(&self) -> &A;
    fn second(&self) -> Option<&B>;
}

impl<A, B> PairKey<A, B> for (A, B) {
    fn first(&self) -> &A {
        &self.0
    }
    fn second(&self) -> Option<&B> {
        Some(&self.1)
    }
}

struct RowsOf<'a, A>(&'a A);

impl<A, B> PairKey<A, B> for RowsOf<'_, A> {
    fn first(&self) -> &A {
        self.0
    }
    fn second(&self) -> Option<&B> {
        None
    }
}

// The order of pairs: `None` comes before every `Some`.
impl<A: Ord, B: Ord> Ord for dyn PairKey<A, B> + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.first()
            .cmp(other.first())
            .then_with(|| self.second().cmp(&other.second()))
    }
}

impl<A: Ord, B: Ord> PartialOrd for dyn PairKey<A, B> + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<A: Ord, B: Ord> PartialEq for dyn PairKey<A, B> + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<A: Ord, B: Ord> Eq for dyn PairKey<A, B> + '_ {}

impl<'a, A: Ord + 'a, B: Ord + 'a> Borrow<dyn PairKey<A, B> + 'a> for (A, B) {
    fn borrow(&self) -> &(dyn PairKey<A, B> + 'a) {
        self
    }
}

impl<K, V> Table<K, V>
where
    K: Ord + Clone + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    /// Drains the changes since the last call, in key order.
    pub fn drain_changes<C: RowCodec>(&mut self, table: u8, codec: &C, out: &mut Vec<RowChange>) {
        for key in std::mem::take(&mut self.changed) {
            let value = self.rows.get(&key).map(|row| codec.encode(row));
            out.push(RowChange {
                table,
                key: codec.encode(&key),
                value,
            });
        }
    }

    /// Shows every row encoded, in key order: for snapshots and hashes.
    pub fn visit<C: RowCodec>(&self, table: u8, codec: &C, visit: RowVisitor<'_>) {
        for (key, row) in &self.rows {
            visit(table, &codec.encode(key), &codec.encode(row));
        }
    }

    /// Shows up to `most` rows behind an encoded key, or from the start, encoded and in key order; gives how many there
    /// were.
    ///
    /// # Errors
    /// When the key can't be decoded.
    pub fn visit_some<C: RowCodec>(
        &self,
        table: u8,
        codec: &C,
        after: Option<&[u8]>,
        most: usize,
        visit: RowVisitor<'_>,
    ) -> Result<usize, C::Error> {
        let start: Bound<K> = match after {
            Some(key) => Bound::Excluded(codec.decode(key)?),
            None => Bound::Unbounded,
        };
        let mut shown = 0;
        for (key, row) in self.rows.range((start, Bound::Unbounded)).take(most) {
            visit(table, &codec.encode(key), &codec.encode(row));
            shown += 1;
        }
        Ok(shown)
    }

    /// Puts a stored row back, without counting it as changed.
    ///
    /// # Errors
    /// When key or value can't be decoded.
    pub fn load<C: RowCodec>(
        &mut self,
        codec: &C,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), C::Error> {
        self.rows.insert(codec.decode(key)?, codec.decode(value)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_owner_are_found_in_order() {
        let mut table = Table::default();
        for key in [("b", 2), ("a", 9), ("c", 0), ("b", 1), ("ba", 5)] {
            table.insert(key, key.1 * 10);
        }
        let rows = |owner| {
            table
                .rows_of(&owner)
                .map(|(key, row)| (*key, *row))
                .collect::<Vec<_>>()
        };
        assert_eq!(rows("b"), [(1, 10), (2, 20)]);
        assert_eq!(rows("a"), [(9, 90)]);
        assert_eq!(rows("d"), []);
        assert_eq!(rows(""), []);
    }
}
