//! Rows as an engine holds them: keys that sort right, and values cut into pieces of at most 1 KiB.
//!
//! ```text
//! key    table u8 | key, 00 escaped as 00 FF | 00 01 | piece u16 BE
//! value  piece 0: 00 bytes                    a whole value
//!                 01 pieces u16 LE | bytes    the first of several pieces
//!        others:  bytes
//! ```
//!
//! The escape keeps (table, key) order and makes no key a prefix of another's pieces. How many pieces a long value has is
//! remembered, so that a shorter value or a removal takes the rest away without reading.

use std::collections::HashMap;

use bytes::Bytes;

use super::batch::{OWN_TABLE, StateBatch, Table};
use super::{AppliedMark, StateStoreError, VisitRow};

/// The most bytes of a value in one engine row; sled's pages suffer from larger ones.
const PIECE_BYTES_MAX: usize = 1024;

const WHOLE: u8 = 0;
const FIRST_OF_SEVERAL: u8 = 1;

/// The key of the row that holds the applied mark.
const APPLIED_KEY: &[u8] = b"applied";

/// One change of an engine's row: `None` removes it.
pub(super) type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// Cuts batches into engine rows and puts rows together again.
#[derive(Debug, Default)]
pub(super) struct RowCutter {
    /// How many pieces each long value has, by the key of its rows without the piece number.
    long: HashMap<Vec<u8>, u16>,
}

impl RowCutter {
    /// The engine row changes of a batch. The batch was validated.
    pub(super) fn cut(&mut self, batch: &StateBatch) -> Vec<RowChange> {
        let mut rows = Vec::with_capacity(batch.len() + 1);
        for (table, key, value) in batch.changes() {
            self.cut_row(stem(table, key), value, &mut rows);
        }
        if let Some(AppliedMark(mark)) = batch.applied() {
            self.cut_row(stem(OWN_TABLE, APPLIED_KEY), Some(mark), &mut rows);
        }
        rows
    }

    fn cut_row(&mut self, stem: Vec<u8>, value: Option<&Bytes>, rows: &mut Vec<RowChange>) {
        let pieces_before = self.long.get(&stem).copied().unwrap_or(1);
        let pieces = match value {
            None => {
                rows.push((piece_key(&stem, 0), None));
                1
            }
            Some(value) if value.len() <= PIECE_BYTES_MAX => {
                let mut row = Vec::with_capacity(1 + value.len());
                row.push(WHOLE);
                row.extend_from_slice(value);
                rows.push((piece_key(&stem, 0), Some(row)));
                1
            }
            Some(value) => cut_long(&stem, value, rows),
        };
        rows.extend((pieces..pieces_before).map(|piece| (piece_key(&stem, piece), None)));
        match pieces {
            1 if pieces_before == 1 => {}
            1 => drop(self.long.remove(&stem)),
            _ => drop(self.long.insert(stem, pieces)),
        }
    }

    /// Forgets all rows, as the engine did.
    pub(super) fn clear(&mut self) {
        self.long.clear();
    }
}

/// The pieces of a long value: the first names their number. Returns it.
fn cut_long(stem: &[u8], value: &[u8], rows: &mut Vec<RowChange>) -> u16 {
    let pieces = u16::try_from(value.len().div_ceil(PIECE_BYTES_MAX))
        .expect("a validated value has less than 2^16 pieces");
    for (number, chunk) in (0_u16..).zip(value.chunks(PIECE_BYTES_MAX)) {
        let mut row = Vec::with_capacity(3 + chunk.len());
        if number == 0 {
            row.push(FIRST_OF_SEVERAL);
            row.extend_from_slice(&pieces.to_le_bytes());
        }
        row.extend_from_slice(chunk);
        rows.push((piece_key(stem, number), Some(row)));
    }
    pieces
}

/// Puts rows together, fed in the engine's order; feeds the cutter's memory of long values.
pub(super) struct RowJoiner<'a> {
    cutter: &'a mut RowCutter,
    applied: Option<Bytes>,
    /// The long value under way: stem, pieces in all, pieces seen, bytes.
    open: Option<(Vec<u8>, u16, u16, Vec<u8>)>,
}

impl<'a> RowJoiner<'a> {
    /// Starts before the first row of a store.
    pub(super) fn new(cutter: &'a mut RowCutter) -> Self {
        cutter.clear();
        RowJoiner {
            cutter,
            applied: None,
            open: None,
        }
    }

    /// Takes the next engine row and shows the value that it completes, if it does.
    pub(super) fn feed(
        &mut self,
        key: &[u8],
        row: &[u8],
        visit: &mut VisitRow<'_>,
    ) -> Result<(), StateStoreError> {
        let (stem, piece) = key
            .split_last_chunk::<2>()
            .ok_or(StateStoreError::Damaged("a key is too short"))?;
        let piece = u16::from_be_bytes(*piece);
        if let Some((open_stem, pieces, seen, mut bytes)) = self.open.take() {
            if open_stem != stem || piece != seen {
                return Err(StateStoreError::Damaged(
                    "a piece of a long value is missing",
                ));
            }
            bytes.extend_from_slice(row);
            if seen + 1 < pieces {
                self.open = Some((open_stem, pieces, seen + 1, bytes));
                return Ok(());
            }
            self.show(stem, &bytes, visit)?;
            self.cutter.long.insert(open_stem, pieces);
            return Ok(());
        }
        match (piece, row.split_first()) {
            (0, Some((&WHOLE, value))) => self.show(stem, value, visit),
            (0, Some((&FIRST_OF_SEVERAL, rest))) => {
                let (pieces, chunk) = rest
                    .split_first_chunk::<2>()
                    .ok_or(StateStoreError::Damaged("a long value has no length"))?;
                let pieces = u16::from_le_bytes(*pieces);
                if pieces < 2 {
                    return Err(StateStoreError::Damaged("a long value claims to be short"));
                }
                self.open = Some((stem.to_vec(), pieces, 1, chunk.to_vec()));
                Ok(())
            }
            _ => Err(StateStoreError::Damaged("a row has no beginning")),
        }
    }

    /// The applied mark, after the last row.
    pub(super) fn finish(self) -> Result<Option<Bytes>, StateStoreError> {
        match self.open {
            None => Ok(self.applied),
            Some(_) => Err(StateStoreError::Damaged(
                "a piece of a long value is missing",
            )),
        }
    }

    fn show(
        &mut self,
        stem: &[u8],
        value: &[u8],
        visit: &mut VisitRow<'_>,
    ) -> Result<(), StateStoreError> {
        let (table, key) = read_stem(stem).ok_or(StateStoreError::Damaged("a key is not ours"))?;
        match table {
            OWN_TABLE if key == APPLIED_KEY => self.applied = Some(Bytes::copy_from_slice(value)),
            OWN_TABLE => {
                return Err(StateStoreError::Damaged(
                    "a row of the store's own is unknown",
                ));
            }
            _ => visit(table, &key, value),
        }
        Ok(())
    }
}

/// Where the store's own rows begin: everything from here on is few and holds the applied mark.
pub(super) fn own_rows_start() -> Vec<u8> {
    vec![OWN_TABLE.0]
}

/// The key of a row without its piece number.
fn stem(table: Table, key: &[u8]) -> Vec<u8> {
    let mut stem = Vec::with_capacity(key.len() + 5);
    stem.push(table.0);
    for &byte in key {
        stem.push(byte);
        if byte == 0 {
            stem.push(0xFF);
        }
    }
    stem.extend_from_slice(&[0, 1]);
    stem
}

/// The inverse of [`stem`].
fn read_stem(stem: &[u8]) -> Option<(Table, Vec<u8>)> {
    let (&table, rest) = stem.split_first()?;
    let escaped = rest.strip_suffix(&[0, 1])?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        key.push(byte);
        if byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some((Table(table), key))
}

fn piece_key(stem: &[u8], piece: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(stem.len() + 2);
    key.extend_from_slice(stem);
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    type Logical = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

    /// What an engine would hold, read back as logical rows.
    fn join(
        engine: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(Logical, Option<Bytes>), StateStoreError> {
        let mut cutter = RowCutter::default();
        let mut joiner = RowJoiner::new(&mut cutter);
        let mut seen = Vec::new();
        for (key, row) in engine {
            joiner.feed(key, row, &mut |table, key, value| {
                seen.push(((table.0, key.to_vec()), value.to_vec()))
            })?;
        }
        let applied = joiner.finish()?;
        assert!(seen.is_sorted(), "rows come in (table, key) order");
        Ok((seen.into_iter().collect(), applied))
    }

    fn apply(engine: &mut BTreeMap<Vec<u8>, Vec<u8>>, rows: Vec<RowChange>) {
        for (key, row) in rows {
            match row {
                Some(row) => drop(engine.insert(key, row)),
                None => drop(engine.remove(&key)),
            }
        }
    }

    fn one_row(value: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut engine = BTreeMap::new();
        let mut batch = StateBatch::new();
        batch.put(Table(1), "key", vec![b'x'; value]);
        apply(&mut engine, RowCutter::default().cut(&batch));
        engine
    }

    #[test]
    fn values_are_cut_at_one_kibibyte() {
        for (value, rows) in [
            (0, 1),
            (1, 1),
            (1024, 1),
            (1025, 2),
            (2048, 2),
            (2049, 3),
            (100_000, 98),
        ] {
            assert_eq!(one_row(value).len(), rows, "a value of {value}");
        }
    }

    #[test]
    fn golden_bytes_of_rows() {
        let long = [[b'x'; 1024], [b'y'; 1024]].concat();
        let golden: [(&[u8], &[u8]); 4] = [
            (b"\x07key\x00\xff\x01\x00\x01\x00\x00", b"\x00value"),
            (
                b"\x08long\x00\x01\x00\x00",
                &[b"\x01\x02\x00", &long[..1024]].concat(),
            ),
            (b"\x08long\x00\x01\x00\x01", &long[1024..]),
            (b"\xffapplied\x00\x01\x00\x00", b"\x00mark"),
        ];
        let golden: BTreeMap<_, _> = golden.map(|(key, row)| (key.to_vec(), row.to_vec())).into();
        let mut batch = StateBatch::new();
        batch.put(Table(7), &b"key\x00\x01"[..], &b"value"[..]);
        batch.put(Table(8), &b"long"[..], long.clone());
        batch.mark(AppliedMark(Bytes::from("mark")));
        let mut written = BTreeMap::new();
        apply(&mut written, RowCutter::default().cut(&batch));
        assert_eq!(written, golden);
        let rows = [
            ((7, b"key\x00\x01".to_vec()), b"value".to_vec()),
            ((8, b"long".to_vec()), long),
        ];
        assert_eq!(
            join(&golden).unwrap(),
            (rows.into(), Some(Bytes::from("mark")))
        );
    }

    #[test]
    fn a_missing_piece_is_damage() {
        let whole = one_row(5000);
        for key in whole.keys() {
            let mut damaged = whole.clone();
            damaged.remove(key);
            assert!(join(&damaged).is_err(), "without {key:?}");
        }
        assert!(join(&BTreeMap::from([(vec![1], vec![])])).is_err());
        assert!(join(&BTreeMap::from([(vec![1, 0, 1, 0, 0], vec![9])])).is_err());
    }

    fn op() -> impl Strategy<Value = (u8, Vec<u8>, Option<usize>)> {
        let key =
            proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0xFF), any::<u8>()], 0..4);
        (0..3_u8, key, proptest::option::of(0..5000_usize))
    }

    proptest! {
        #[test]
        fn rows_join_to_what_was_put(batches in proptest::collection::vec(proptest::collection::vec(op(), 0..6), 1..8)) {
            let (mut engine, mut model, mut cutter) = (BTreeMap::new(), Logical::new(), RowCutter::default());
            for (number, ops) in batches.iter().enumerate() {
                let mut batch = StateBatch::new();
                for (table, key, value) in ops {
                    match value {
                        Some(length) => {
                            let value = vec![*table; *length];
                            batch.put(Table(*table), key.clone(), value.clone());
                            model.insert((*table, key.clone()), value);
                        }
                        None => {
                            batch.delete(Table(*table), key.clone());
                            model.remove(&(*table, key.clone()));
                        }
                    }
                }
                let mark = Bytes::from(vec![7; number * 700]);
                batch.mark(AppliedMark(mark.clone()));
                apply(&mut engine, cutter.cut(&batch));
                let (rows, applied) = join(&engine).unwrap();
                prop_assert_eq!(&rows, &model);
                prop_assert_eq!(applied, Some(mark));
            }
        }

        #[test]
        fn random_rows_never_panic(rows in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 0..8), proptest::collection::vec(0..3_u8, 0..6), 0..6)) {
            let _ = join(&rows);
        }
    }
}
