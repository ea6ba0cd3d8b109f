//! Tokens that let a new machine join, each once.
//!
//! A token's secret is shown to the operator who asked for it and is nowhere else: the log and the store have its SHA-256.
//! Time comes with the entries.
//!
//! Invariants: a token is spent by one request for ever, which may come again and gets the same answer; what has ended, was
//! revoked or was spent lets nobody else in; every replica decides the same, in the order of the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError};
use storage::state_store::Table;

use super::access::{Changes, StoredRow, bounded, row};
use super::members::AdditionId;
use super::replica::{MetaAnswer, MetaRefusal, Verdict};

/// Tokens that are kept at once, spent and ended ones included. A pool has 64 nodes at most.
pub const TOKENS_MAX: usize = 256;

/// How long a token that has ended can still be looked at, and how long its request may be repeated, in ms.
pub const TOKEN_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// The longest that a token may last, in ms: who needs a node later makes another one.
pub const TOKEN_TTL_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Bytes of an operator's name in a token's record.
const NAME_BYTES_MAX: usize = 128;

const TABLE: Table = Table(16);

/// A token's public name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TokenId(pub [u8; 6]);

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for TokenId {
    type Err = TokenRefusal;

    fn from_str(text: &str) -> Result<TokenId, TokenRefusal> {
        let mut id = [0; 6];
        if text.len() != 2 * id.len() || !text.is_ascii() {
            return Err(TokenRefusal::Unknown);
        }
        for (at, byte) in id.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| TokenRefusal::Unknown)?;
        }
        // One spelling a token.
        match TokenId(id).to_string() == text {
            true => Ok(TokenId(id)),
            false => Err(TokenRefusal::Unknown),
        }
    }
}

/// SHA-256 of a token's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub [u8; 32]);

/// SHA-256 of a joining node's request, and so of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestDigest(pub [u8; 32]);

/// Entries about tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenEntry {
    /// There is a new token. Nothing happens if its id is taken or there are too many.
    Issue {
        /// Its name.
        id: TokenId,
        /// What its secret must hash to.
        hash: TokenHash,
        /// The operator who asked for it.
        by: String,
        /// Now, in ms since 1970.
        at_ms: u64,
        /// When it ends, in ms since 1970.
        ends_ms: u64,
    },
    /// It lets nobody in any more.
    Revoke {
        /// Its name.
        id: TokenId,
    },
    /// A request wants to join with it.
    Spend {
        /// What the request's secret hashes to.
        hash: TokenHash,
        /// The request.
        request: RequestDigest,
        /// Now, in ms since 1970.
        at_ms: u64,
    },
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What its secret hashes to.
    pub hash: TokenHash,
    /// The operator who asked for it.
    pub by: String,
    /// When it was made, in ms since 1970.
    pub made_ms: u64,
    /// When it ends, in ms since 1970.
    pub ends_ms: u64,
    /// Whether an operator has revoked it.
    pub revoked: bool,
    /// Who has used it.
    pub spent: Option<Spent>,
}

impl TokenHash {
    /// Names the member that a token lets in: so it lets in one only.
    pub fn addition(self) -> AdditionId {
        let mut addition = AdditionId::default();
        let hash = self.0.iter();
        addition
            .iter_mut()
            .zip(hash)
            .for_each(|(to, from)| *to = *from);
        addition
    }
}

/// A token's use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The request that used it.
    pub request: RequestDigest,
    /// When, in ms since 1970.
    pub at_ms: u64,
}

/// Why a token lets a request not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none such, or it ended more than a day ago.
    #[error("this pool knows no such token: it was made for another pool, or ended long ago")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired: make a new one with `muster ctl node token`")]
    Expired,
    /// An operator has revoked it.
    #[error("the token was revoked: make a new one with `muster ctl node token`")]
    Revoked,
    /// Another request has used it.
    #[error(
        "the token has been used: each lets one node in; make a new one with `muster ctl node token`"
    )]
    Used,
}

impl TokenRefusal {
    /// The word for programs.
    pub fn code(self) -> &'static str {
        match self {
            TokenRefusal::Unknown => "token-unknown",
            TokenRefusal::Expired => "token-expired",
            TokenRefusal::Revoked => "token-revoked",
            TokenRefusal::Used => "token-used",
        }
    }
}

impl From<TokenRefusal> for MetaRefusal {
    fn from(refusal: TokenRefusal) -> MetaRefusal {
        MetaRefusal::new(refusal.code(), refusal.to_string())
    }
}

/// All tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<TokenId, Token>);

impl Tokens {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (TokenId, &Token)> {
        self.0.iter().map(|(id, token)| (*id, token))
    }

    /// A token by its name.
    pub fn get(&self, id: TokenId) -> Option<&Token> {
        self.0.get(&id)
    }

    /// Whether a request may join with the secret of this hash at this time. Who has applied its [`TokenEntry::Spend`] asks
    /// the same question again: the answer is good if that entry came first.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub fn judge(
        &self,
        hash: TokenHash,
        request: RequestDigest,
        at_ms: u64,
    ) -> Result<TokenId, TokenRefusal> {
        let mut found = self.iter().filter(|(_, token)| token.hash == hash);
        let (id, token) = found.next().ok_or(TokenRefusal::Unknown)?;
        if token.revoked {
            return Err(TokenRefusal::Revoked);
        }
        match &token.spent {
            Some(spent) if spent.request == request => Ok(id),
            Some(_) => Err(TokenRefusal::Used),
            None if at_ms >= token.ends_ms => Err(TokenRefusal::Expired),
            None => Ok(id),
        }
    }

    /// Judges an entry and does what it says.
    pub(super) fn apply(&mut self, entry: TokenEntry, changes: &mut Changes) -> Verdict {
        match entry {
            TokenEntry::Issue {
                id,
                hash,
                by,
                at_ms,
                ends_ms,
            } => {
                self.judge_new(id, hash, at_ms)?;
                self.forget(at_ms, changes);
                let token = Token {
                    hash,
                    by: bounded(&by, NAME_BYTES_MAX),
                    made_ms: at_ms,
                    ends_ms: ends_ms.min(at_ms.saturating_add(TOKEN_TTL_MAX_MS)),
                    revoked: false,
                    spent: None,
                };
                // Proposed twice, it is the same.
                let token = self.0.entry(id).or_insert(token);
                changes.put(TABLE, &id, token);
            }
            TokenEntry::Revoke { id } => {
                let token = self.0.get_mut(&id).ok_or(TokenRefusal::Unknown)?;
                token.revoked = true;
                changes.put(TABLE, &id, token);
            }
            TokenEntry::Spend {
                hash,
                request,
                at_ms,
            } => {
                let id = self.judge(hash, request, at_ms)?;
                let token = self.0.get_mut(&id).ok_or(TokenRefusal::Unknown)?;
                token.spent.get_or_insert(Spent { request, at_ms });
                changes.put(TABLE, &id, token);
            }
        }
        Ok(MetaAnswer::Done)
    }

    fn judge_new(&self, id: TokenId, hash: TokenHash, at_ms: u64) -> Result<(), MetaRefusal> {
        // Those that go now are none any more.
        let kept = || self.iter().filter(|(_, token)| !is_old(token, at_ms));
        let same = |(other, token): (TokenId, &Token)| (other == id, token.hash == hash);
        let mut known = kept().map(same).filter(|same| *same != (false, false));
        match known.next() {
            Some((true, true)) => Ok(()),
            Some(_) => Err(MetaRefusal::new(
                "conflict",
                "there is such a token already; try again",
            )),
            None if kept().count() >= TOKENS_MAX => Err(MetaRefusal::new(
                "too-many-tokens",
                format!("there are {TOKENS_MAX} tokens; they go a day after their end"),
            )),
            None => Ok(()),
        }
    }

    /// Forgets what ended long ago.
    fn forget(&mut self, at_ms: u64, changes: &mut Changes) {
        self.0.retain(|id, token| {
            let stays = !is_old(token, at_ms);
            if !stays {
                changes.delete(TABLE, id);
            }
            stays
        });
    }

    /// All rows.
    pub(super) fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        self.iter()
            .map(|(id, token)| row(TABLE, &id, token))
            .collect()
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

/// Whether nobody asks about it any more.
fn is_old(token: &Token, now_ms: u64) -> bool {
    token.ends_ms.saturating_add(TOKEN_KEPT_MS) < now_ms
}

#[cfg(test)]
mod tests {
    use storage::codec::Record;

    use super::*;

    const DAY: u64 = 24 * 60 * 60 * 1000;

    fn issue(id: u8, at_ms: u64, ends_ms: u64) -> TokenEntry {
        TokenEntry::Issue {
            id: TokenId([id; 6]),
            hash: TokenHash([id; 32]),
            by: "root@1".to_owned(),
            at_ms,
            ends_ms,
        }
    }

    fn spend(id: u8, request: u8, at_ms: u64) -> TokenEntry {
        TokenEntry::Spend {
            hash: TokenHash([id; 32]),
            request: RequestDigest([request; 32]),
            at_ms,
        }
    }

    fn revoke(id: u8) -> TokenEntry {
        TokenEntry::Revoke {
            id: TokenId([id; 6]),
        }
    }

    fn apply(tokens: &mut Tokens, entry: TokenEntry) -> Result<usize, &'static str> {
        let mut changes = Changes::default();
        let verdict = tokens.apply(entry, &mut changes);
        verdict.map_err(|refusal| refusal.code)?;
        Ok(changes.len())
    }

    /// What becomes of the request 1 with the token 7 at time 50, after these entries.
    fn check(entries: &[TokenEntry], expect: Result<(), TokenRefusal>) {
        let mut tokens = Tokens::default();
        for entry in entries.iter().cloned().chain([spend(7, 1, 50)]) {
            let _ = apply(&mut tokens, entry);
        }
        let judged = tokens.judge(TokenHash([7; 32]), RequestDigest([1; 32]), 50);
        assert_eq!(judged.map(drop), expect, "{entries:?}");
        if expect.is_ok() {
            let spent = tokens.get(TokenId([7; 6])).unwrap().spent.clone();
            assert_eq!(spent.unwrap().request, RequestDigest([1; 32]));
        }
    }

    #[test]
    fn a_token_lets_one_request_in() {
        use TokenRefusal::{Expired, Revoked, Unknown, Used};
        let made = issue(7, 10, 100);
        check(&[], Err(Unknown));
        check(&[issue(8, 10, 100)], Err(Unknown));
        check(std::slice::from_ref(&made), Ok(()));
        check(&[issue(7, 10, 51)], Ok(()));
        check(&[issue(7, 10, 50)], Err(Expired));
        check(&[made.clone(), revoke(7)], Err(Revoked));
        check(&[made.clone(), revoke(8)], Ok(()));
        check(&[made.clone(), spend(7, 2, 40)], Err(Used));
        // The same request again.
        check(&[made.clone(), spend(7, 1, 40)], Ok(()));
        // It was spent in time: the answer may be asked for later.
        check(&[issue(7, 10, 45), spend(7, 1, 40)], Ok(()));
        // Who came too late has not spent it.
        check(&[made.clone(), spend(7, 2, 100)], Ok(()));
        check(&[made.clone(), spend(7, 1, 40), revoke(7)], Err(Revoked));
        // A second token under the same name or secret changes nothing.
        check(&[made.clone(), spend(7, 2, 40), made.clone()], Err(Used));
    }

    #[test]
    fn tokens_are_forgotten_a_day_after_their_end_and_there_is_an_end_to_them() {
        let mut tokens = Tokens::default();
        apply(&mut tokens, issue(1, 0, 1000)).unwrap();
        apply(&mut tokens, issue(2, 0, 2000)).unwrap();
        // One goes, one comes.
        assert_eq!(apply(&mut tokens, issue(3, 1001 + DAY, 3000 + DAY)), Ok(2));
        let left: Vec<_> = tokens.iter().map(|(id, _)| id.0[0]).collect();
        assert_eq!(left, [2, 3]);
        for id in (0..=u8::MAX).filter(|id| !left.contains(id)) {
            let verdict = apply(&mut tokens, issue(id, 2000, 3000));
            assert!(verdict == Ok(1), "{id}: {verdict:?}");
        }
        assert_eq!(tokens.0.len(), TOKENS_MAX);
        let one_more = TokenEntry::Issue {
            id: TokenId([0, 0, 0, 0, 0, 1]),
            hash: TokenHash([1; 32].map(|byte| byte & 0xf)),
            by: String::new(),
            at_ms: 2000,
            ends_ms: 3000,
        };
        assert_eq!(apply(&mut tokens, one_more), Err("conflict"));
        let hash = TokenHash(std::array::from_fn(|at| at as u8));
        let one_more = TokenEntry::Issue {
            id: TokenId([0, 0, 0, 0, 0, 1]),
            hash,
            by: String::new(),
            at_ms: 2000,
            ends_ms: 3000,
        };
        assert_eq!(apply(&mut tokens, one_more), Err("too-many-tokens"));
        // None lasts for ever.
        let mut tokens = Tokens::default();
        apply(&mut tokens, issue(1, 5, u64::MAX)).unwrap();
        assert_eq!(tokens.get(TokenId([1; 6])).unwrap().ends_ms, 5 + 30 * DAY);
    }

    #[test]
    fn what_is_proposed_twice_is_done_once() {
        let mut tokens = Tokens::default();
        let mut check = |entry, expect| assert_eq!(apply(&mut tokens, entry), expect);
        check(issue(1, 0, 1000), Ok(1));
        check(spend(1, 5, 10), Ok(1));
        check(issue(1, 0, 1000), Ok(1));
        check(spend(1, 6, 10), Err("token-used"));
        check(spend(1, 5, 5000), Ok(1));
        check(revoke(1), Ok(1));
        check(revoke(1), Ok(1));
        check(spend(1, 5, 10), Err("token-revoked"));
        check(revoke(2), Err("token-unknown"));
        assert_eq!(
            tokens
                .get(TokenId([1; 6]))
                .unwrap()
                .spent
                .as_ref()
                .unwrap()
                .at_ms,
            10
        );
    }

    #[test]
    fn rows_are_the_state() {
        let mut tokens = Tokens::default();
        for entry in [issue(1, 0, 9), issue(2, 0, 9), spend(2, 5, 3), revoke(1)] {
            apply(&mut tokens, entry).unwrap();
        }
        let mut loaded = Tokens::default();
        for (table, key, value) in tokens.rows().unwrap() {
            assert!(loaded.load_row(table, &key, &value).unwrap());
        }
        assert_eq!(loaded, tokens);
        assert!(!loaded.load_row(Table(0), &[], &[]).unwrap());
    }

    #[test]
    fn names_have_one_spelling() {
        let id = TokenId([0, 1, 0xab, 0xcd, 0xef, 0x10]);
        assert_eq!(id.to_string(), "0001abcdef10");
        assert_eq!("0001abcdef10".parse(), Ok(id));
        for wrong in [
            "",
            "0001abcdef1",
            "0001ABCDEF10",
            "0001abcdefg0",
            "+001abcdef10",
            "ääääää",
        ] {
            assert_eq!(
                wrong.parse::<TokenId>(),
                Err(TokenRefusal::Unknown),
                "{wrong}"
            );
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<TokenEntry>, Token);

    impl Record for Samples {
        const VERSION: u8 = 1;
        const NAME: &'static str = "meta-tokens";
    }

    #[test]
    fn golden_bytes() {
        let spent = Spent {
            request: RequestDigest([4; 32]),
            at_ms: 30,
        };
        let token = Token {
            hash: TokenHash([7; 32]),
            by: "root@1".to_owned(),
            made_ms: 10,
            ends_ms: 20,
            revoked: true,
            spent: Some(spent),
        };
        let samples = Samples(vec![issue(1, 2, 3), revoke(4), spend(5, 6, 7)], token);
        storage::golden!("../../tests/goldens/operators.txt", &samples);
    }
}
