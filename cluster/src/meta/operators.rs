//! Operators: who may do what at the control port of any node.
//!
//! An operator's token is shown once; the log and the store have its SHA-256. The token in a node's own data folder is not
//! one of these: who can read that file is `root@NODE`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError};
use storage::state_store::Table;

use super::access::{Changes, StoredRow, bounded, row};
use super::replica::{MetaAnswer, MetaRefusal, Verdict};
use super::tokens::TokenHash;

/// Operators at once.
pub const OPERATORS_MAX: usize = 256;

/// Characters of a name.
pub const OPERATOR_NAME_MAX: usize = 64;

const TABLE: Table = Table(17);

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Everything.
    Operator,
    /// See the pool, and change accounts.
    Support,
    /// See everything, the audit log included, and change nothing.
    Auditor,
}

/// An operator's name: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperatorName(String);

impl OperatorName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no operator's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an operator's name is 1 to {OPERATOR_NAME_MAX} of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit"
)]
pub struct OperatorNameError;

impl std::str::FromStr for OperatorName {
    type Err = OperatorNameError;

    fn from_str(text: &str) -> Result<OperatorName, OperatorNameError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins = text.bytes().next().is_some_and(letter);
        let allowed = |byte| letter(byte) || b"._-".contains(&byte);
        match begins && text.bytes().all(allowed) && text.len() <= OPERATOR_NAME_MAX {
            true => Ok(OperatorName(text.to_owned())),
            false => Err(OperatorNameError),
        }
    }
}

impl std::fmt::Display for OperatorName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Entries about operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorEntry {
    /// There is a new operator. Nothing happens if there is one of that name, or too many.
    Add {
        /// Their name.
        name: OperatorName,
        /// What they may do.
        role: Role,
        /// What their token hashes to.
        hash: TokenHash,
        /// Who added them.
        by: String,
        /// Now, in ms since 1970.
        at_ms: u64,
    },
    /// Their token opens nothing any more, and their name is free.
    Revoke {
        /// Their name.
        name: OperatorName,
    },
}

/// An operator as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What they may do.
    pub role: Role,
    /// What their token hashes to.
    pub hash: TokenHash,
    /// Who added them.
    pub by: String,
    /// When, in ms since 1970.
    pub made_ms: u64,
}

/// All operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators(BTreeMap<OperatorName, Operator>);

impl Operators {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OperatorName, &Operator)> {
        self.0.iter()
    }

    /// One of them.
    pub fn get(&self, name: &OperatorName) -> Option<&Operator> {
        self.0.get(name)
    }

    /// Whose token hashes to this.
    pub fn of_token(&self, hash: TokenHash) -> Option<(&OperatorName, Role)> {
        let mut found = self.0.iter().filter(|(_, operator)| operator.hash == hash);
        found.next().map(|(name, operator)| (name, operator.role))
    }

    /// Judges an entry and does what it says.
    pub(super) fn apply(&mut self, entry: OperatorEntry, changes: &mut Changes) -> Verdict {
        match entry {
            OperatorEntry::Add {
                name,
                role,
                hash,
                by,
                at_ms,
            } => {
                self.judge_new(&name, hash)?;
                let operator = Operator {
                    role,
                    hash,
                    by: bounded(&by, 2 * OPERATOR_NAME_MAX),
                    made_ms: at_ms,
                };
                changes.put(TABLE, &name, &operator);
                self.0.insert(name, operator);
            }
            OperatorEntry::Revoke { name } => {
                // Proposed twice, it is the same: who asks has looked before whether there is one.
                self.0.remove(&name);
                changes.delete(TABLE, &name);
            }
        }
        Ok(MetaAnswer::Done)
    }

    fn judge_new(&self, name: &OperatorName, hash: TokenHash) -> Result<(), MetaRefusal> {
        let conflict = |sentence: String| Err(MetaRefusal::new("conflict", sentence));
        match (self.get(name), self.of_token(hash)) {
            // The same again.
            (Some(operator), _) if operator.hash == hash => Ok(()),
            (Some(_), _) => conflict(format!("there is an operator {name} already")),
            (None, Some(_)) => conflict("this is another operator's token".to_owned()),
            (None, None) if self.0.len() >= OPERATORS_MAX => Err(MetaRefusal::new(
                "too-many-operators",
                format!("a pool has at most {OPERATORS_MAX} operators"),
            )),
            (None, None) => Ok(()),
        }
    }

    /// All rows.
    pub(super) fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let row = |(name, operator)| row(TABLE, name, operator);
        self.0.iter().map(row).collect()
    }

    /// Takes a row, if it is one of these.
    pub(super) fn load_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, CodecError> {
        if table != TABLE {
            return Ok(false);
        }
        self.0.insert(codec::body(key)?, codec::body(value)?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use storage::codec::Record;

    use super::*;

    fn name(text: &str) -> OperatorName {
        text.parse().unwrap()
    }

    fn add(text: &str, role: Role, hash: u8) -> OperatorEntry {
        OperatorEntry::Add {
            name: name(text),
            role,
            hash: TokenHash([hash; 32]),
            by: "root@1".to_owned(),
            at_ms: 12,
        }
    }

    fn revoke(text: &str) -> OperatorEntry {
        OperatorEntry::Revoke { name: name(text) }
    }

    #[test]
    fn a_token_opens_until_it_is_revoked() {
        let mut operators = Operators::default();
        let mut check = |entry, hash, expect: Option<(&str, Role)>| {
            let _ = operators.apply(entry, &mut Changes::default());
            let found = operators.of_token(TokenHash([hash; 32]));
            let found = found.map(|(name, role)| (name.as_str(), role));
            assert_eq!(found, expect);
        };
        check(
            add("anna", Role::Support, 1),
            1,
            Some(("anna", Role::Support)),
        );
        check(
            add("ben", Role::Auditor, 2),
            2,
            Some(("ben", Role::Auditor)),
        );
        // Neither a name nor a token is taken over.
        check(add("anna", Role::Operator, 3), 3, None);
        check(
            add("carl", Role::Operator, 1),
            1,
            Some(("anna", Role::Support)),
        );
        check(revoke("dora"), 2, Some(("ben", Role::Auditor)));
        check(revoke("anna"), 1, None);
        check(
            add("anna", Role::Operator, 4),
            4,
            Some(("anna", Role::Operator)),
        );
        let mut loaded = Operators::default();
        for (table, key, value) in operators.rows().unwrap() {
            assert!(loaded.load_row(table, &key, &value).unwrap());
        }
        assert_eq!(loaded, operators);
    }

    #[test]
    fn there_are_no_more_operators_than_a_pool_may_have() {
        let (mut operators, mut changes) = (Operators::default(), Changes::default());
        let mut apply = |entry| operators.apply(entry, &mut changes);
        let one = |number: usize| OperatorEntry::Add {
            name: name(&format!("o{number}")),
            role: Role::Auditor,
            hash: TokenHash(std::array::from_fn(|at| (number >> (8 * (at % 2))) as u8)),
            by: "root@1".to_owned(),
            at_ms: 12,
        };
        for number in 0..OPERATORS_MAX {
            apply(one(number)).unwrap();
        }
        let refused = apply(one(OPERATORS_MAX)).unwrap_err();
        assert_eq!(refused.code, "too-many-operators");
        apply(one(7)).expect("the same again");
        apply(revoke("o7")).unwrap();
        apply(one(OPERATORS_MAX)).unwrap();
    }

    #[test]
    fn names_of_operators() {
        let check = |text: &str, good: bool| {
            assert_eq!(text.parse::<OperatorName>().is_ok(), good, "{text:?}");
        };
        check("anna", true);
        check("night-shift.2", true);
        check(&"x".repeat(64), true);
        check(&"x".repeat(65), false);
        check("", false);
        check("-x", false);
        check("Anna", false);
        check("root@1", false);
        check("a b", false);
        check("ä", false);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<OperatorEntry>, Vec<Operator>);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "meta-operators";
    }

    #[test]
    fn golden_bytes() {
        let operator = |role| Operator {
            role,
            hash: TokenHash([7; 32]),
            by: "root@1".to_owned(),
            made_ms: 10,
        };
        let roles = [Role::Operator, Role::Support, Role::Auditor];
        let entries = vec![add("anna", Role::Support, 1), revoke("ben")];
        let samples = Samples(entries, roles.map(operator).into());
        storage::golden!("../../tests/goldens/operators.txt", &samples);
    }
}
