//! The audit log: every change through a control port, by whom, when, from where, and what became of it.
//!
//! Invariant: what is done is written down first. A record is committed before its change is begun, and its outcome after;
//! where a node dies in between, the outcome stays *unknown*, but no change is without a record.
//!
//! Records come and go in order: the newest [`RECORDS_MAX`] stay.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError};
use storage::state_store::Table;

use super::access::{Changes, StoredRow, bounded, row};
use super::replica::{MetaAnswer, Verdict};
use crate::node_id::NodeId;

/// Records that are kept. They are in the memory of every node, at some 300 bytes each, and a start reads them all.
pub const RECORDS_MAX: usize = 10_000;

/// Bytes of the short fields.
const WORD_BYTES_MAX: usize = 128;
/// Bytes of what was changed: longer than most addresses of users.
const TARGET_BYTES_MAX: usize = 512;

const TABLE: Table = Table(18);
const NEXT_TABLE: Table = Table(19);

/// A record's name, random: the same record proposed twice is one.
pub type RecordId = [u8; 16];

/// Entries about the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditEntry {
    /// Somebody is about to change something.
    Begin {
        /// The record's name.
        id: RecordId,
        /// What it says.
        change: Change,
    },
    /// What became of it; the first word counts.
    End {
        /// The record's name.
        id: RecordId,
        /// What became of it.
        outcome: Outcome,
    },
}

/// What somebody is about to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in ms since 1970, by the clock of the node that was asked.
    pub at_ms: u64,
    /// The node that was asked.
    pub node: NodeId,
    /// The operator's name, `root@node-N`, or `token:ID` for a machine that joins.
    pub who: String,
    /// The IP address that the request came from.
    pub from: String,
    /// A word: `user.add`, `node.drain`.
    pub action: String,
    /// What it is about, and how: never a secret.
    pub target: String,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is not known: it may or may not have come about.
    Unknown,
    /// It came about.
    Done,
    /// It did not, for the reason with this code.
    Refused(String),
}

/// A record as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its name.
    pub id: RecordId,
    /// What it says.
    pub change: Change,
    /// What became of it.
    pub outcome: Outcome,
}

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditRange {
    /// The newest ones.
    Newest,
    /// Those behind this number, the oldest of them first.
    After(u64),
    /// The newest of those before this number.
    Before(u64),
}

/// The audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    records: BTreeMap<u64, AuditRecord>,
    /// The number of the next record; numbers count from 1 and are never used twice.
    next: u64,
    /// Those of `records`.
    ids: BTreeSet<(RecordId, u64)>,
}

impl Audit {
    /// Whether a record was made, and is still there.
    pub fn has(&self, id: RecordId) -> bool {
        self.number(id).is_some()
    }

    /// Records in the order of their numbers, at most `limit`.
    pub fn page(&self, range: AuditRange, limit: usize) -> Vec<(u64, &AuditRecord)> {
        self.page_of(range, limit, |_| true)
    }

    /// The same, of those that fit.
    pub fn page_of(
        &self,
        range: AuditRange,
        limit: usize,
        fits: impl Fn(&AuditRecord) -> bool,
    ) -> Vec<(u64, &AuditRecord)> {
        let fits = |(_, record): &(&u64, &AuditRecord)| fits(record);
        let newest = |end: u64| {
            let behind = self.records.range(..end).rev().filter(fits).take(limit);
            let mut found: Vec<_> = behind.collect();
            found.reverse();
            found
        };
        let found = match range {
            AuditRange::Newest => newest(u64::MAX),
            AuditRange::Before(number) => newest(number),
            AuditRange::After(number) => {
                let after = number.saturating_add(1);
                self.records
                    .range(after..)
                    .filter(fits)
                    .take(limit)
                    .collect()
            }
        };
        (found.into_iter())
            .map(|(number, record)| (*number, record))
            .collect()
    }

    fn number(&self, id: RecordId) -> Option<u64> {
        let mut found = self.ids.range((id, 0)..=(id, u64::MAX));
        found.next().map(|(_, number)| *number)
    }

    /// Does what an entry says. What is said again, or of a record that is gone, changes nothing.
    pub(super) fn apply(&mut self, entry: AuditEntry, changes: &mut Changes) -> Verdict {
        match entry {
            AuditEntry::Begin { id, change } if !self.has(id) => self.begin(id, change, changes),
            AuditEntry::Begin { .. } => {}
            AuditEntry::End { id, outcome } => self.end(id, outcome, changes),
        }
        Ok(MetaAnswer::Done)
    }

    fn end(&mut self, id: RecordId, outcome: Outcome, changes: &mut Changes) {
        let Some(number) = self.number(id) else {
            return;
        };
        let Some(record) = self.records.get_mut(&number) else {
            return;
        };
        if record.outcome != Outcome::Unknown {
            return;
        }
        record.outcome = match outcome {
            Outcome::Refused(code) => Outcome::Refused(bounded(&code, WORD_BYTES_MAX)),
            other => other,
        };
        changes.put(TABLE, &number, record);
    }

    fn begin(&mut self, id: RecordId, change: Change, changes: &mut Changes) {
        let change = Change {
            who: bounded(&change.who, WORD_BYTES_MAX),
            from: bounded(&change.from, WORD_BYTES_MAX),
            action: bounded(&change.action, WORD_BYTES_MAX),
            target: bounded(&change.target, TARGET_BYTES_MAX),
            ..change
        };
        let record = AuditRecord {
            id,
            change,
            outcome: Outcome::Unknown,
        };
        let number = self.next.max(1);
        self.next = number + 1;
        changes.put(TABLE, &number, &record);
        changes.put(NEXT_TABLE, &(), &self.next);
        self.ids.insert((id, number));
        self.records.insert(number, record);
        while self.records.len() > RECORDS_MAX
            && let Some((old, gone)) = self.records.pop_first()
        {
            self.ids.remove(&(gone.id, old));
            changes.delete(TABLE, &old);
        }
    }

    /// All rows.
    pub(super) fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let records = self.records.iter();
        let mut rows = records
            .map(|(number, record)| row(TABLE, number, record))
            .collect::<Result<Vec<_>, _>>()?;
        if self.next > 0 {
            rows.push(row(NEXT_TABLE, &(), &self.next)?);
        }
        Ok(rows)
    }

    /// Takes a row, if it is one of these.
    pub(super) fn load_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, CodecError> {
        match table {
            TABLE => {
                let (number, record): (u64, AuditRecord) = (codec::body(key)?, codec::body(value)?);
                self.ids.insert((record.id, number));
                self.records.insert(number, record);
            }
            NEXT_TABLE => self.next = codec::body(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use storage::codec::Record;

    use super::*;

    fn change(action: &str) -> Change {
        Change {
            at_ms: 1_700_000_000_000,
            node: NodeId(1),
            who: "anna".to_owned(),
            from: "10.0.0.9".to_owned(),
            action: action.to_owned(),
            target: "bob@example.org".to_owned(),
        }
    }

    fn begin(number: u64, action: &str) -> AuditEntry {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        AuditEntry::Begin {
            id,
            change: change(action),
        }
    }

    fn end(number: u64, outcome: Outcome) -> AuditEntry {
        let AuditEntry::Begin { id, .. } = begin(number, "") else {
            unreachable!()
        };
        AuditEntry::End { id, outcome }
    }

    fn after(entries: impl IntoIterator<Item = AuditEntry>) -> Audit {
        let mut audit = Audit::default();
        for entry in entries {
            audit.apply(entry, &mut Changes::default()).unwrap();
        }
        audit
    }

    #[test]
    fn the_first_outcome_counts() {
        let check = |entries: &[AuditEntry], expect: &[Outcome]| {
            let audit = after(entries.iter().cloned());
            let page = audit.page(AuditRange::Newest, 100);
            let found: Vec<_> = page.iter().map(|(_, record)| &record.outcome).collect();
            assert_eq!(found, expect.iter().collect::<Vec<_>>(), "{entries:?}");
        };
        let refused = Outcome::Refused("conflict".to_owned());
        check(&[begin(5, "a")], &[Outcome::Unknown]);
        // Proposed twice.
        check(&[begin(5, "a"), begin(5, "a")], &[Outcome::Unknown]);
        check(&[begin(5, "a"), end(5, Outcome::Done)], &[Outcome::Done]);
        check(
            &[begin(5, "a"), begin(6, "b"), end(6, refused.clone())],
            &[Outcome::Unknown, refused.clone()],
        );
        check(
            &[begin(5, "a"), end(5, Outcome::Done), end(5, refused)],
            &[Outcome::Done],
        );
        check(&[end(5, Outcome::Done)], &[]);
    }

    #[test]
    fn the_newest_records_stay() {
        let many = RECORDS_MAX as u64 + 3;
        let mut audit = after((0..many).map(|number| begin(number, "user.add")));
        assert_eq!(audit.records.len(), RECORDS_MAX);
        assert_eq!(audit.ids.len(), RECORDS_MAX);
        let numbers = |range, limit| -> Vec<u64> {
            let page = audit.page(range, limit);
            page.iter().map(|(number, _)| *number).collect()
        };
        // Numbers count from 1.
        assert_eq!(numbers(AuditRange::After(0), 2), [4, 5]);
        assert_eq!(numbers(AuditRange::After(5), 2), [6, 7]);
        assert_eq!(numbers(AuditRange::Newest, 2), [many - 1, many]);
        assert_eq!(numbers(AuditRange::Before(many), 2), [many - 2, many - 1]);
        assert_eq!(numbers(AuditRange::Before(5), 9), [4]);
        assert_eq!(numbers(AuditRange::After(many), 9), [0; 0]);
        assert_eq!(numbers(AuditRange::After(u64::MAX), 9), [0; 0]);
        // The outcome of a record that is gone brings nothing back.
        let mut check = |entry, expect| {
            let mut changes = Changes::default();
            audit.apply(entry, &mut changes).unwrap();
            assert_eq!(changes.len(), expect);
        };
        check(end(0, Outcome::Done), 0);
        // The record, the next number, and one goes.
        check(begin(many, "user.add"), 3);
        check(begin(many, "user.add"), 0);
    }

    #[test]
    fn rows_are_the_state() {
        let audit = after([begin(1, "a"), begin(2, "b"), end(1, Outcome::Done)]);
        let mut loaded = Audit::default();
        for (table, key, value) in audit.rows().unwrap() {
            assert!(loaded.load_row(table, &key, &value).unwrap());
        }
        assert_eq!(loaded, audit);
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let change = Change {
            target: "ä".repeat(1000),
            ..change("x")
        };
        let audit = after([AuditEntry::Begin {
            id: [1; 16],
            change,
        }]);
        let page = audit.page(AuditRange::Newest, 1);
        assert_eq!(page[0].1.change.target, "ä".repeat(256));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<AuditEntry>, Vec<AuditRecord>);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "meta-audit";
    }

    #[test]
    fn golden_bytes() {
        let refused = Outcome::Refused("conflict".to_owned());
        let outcomes = [Outcome::Unknown, Outcome::Done, refused];
        let entries = vec![begin(1, "user.add"), end(1, Outcome::Done)];
        let records = outcomes.map(|outcome| AuditRecord {
            id: [3; 16],
            change: change("user.add"),
            outcome,
        });
        let samples = Samples(entries, records.into());
        storage::golden!("../../tests/goldens/operators.txt", &samples);
    }
}
