//! Recently sent origin ids: a client's retry has no second effect.
//!
//! Key (sender bare JID, target bare JID, origin-id), at most 1,024 a sender: the newest 256 however old they are, the others
//! for 24 h. So a clock that jumps makes no retry of what a client has just sent a second message. Bytes are never compared:
//! clients add `<delay/>` to what they resend.
//!
//! Only a 128-bit digest of target and origin id is kept: it bounds the memory whatever a client sends. It isn't
//! cryptographic; somebody who makes two ids collide suppresses nobody's messages but their own.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

/// How long an id is remembered that is not among the newest.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How many ids of one sender are remembered.
const IDS_MAX: usize = 1_024;

/// How many of the newest are remembered whatever the time is: more than a client has under way.
const NEWEST: usize = 256;

/// The origin ids one sender used lately, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentIds {
    ids: VecDeque<SentId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SentId {
    digest: u128,
    seq: u64,
    time_ms: u64,
}

impl SentIds {
    /// The row that an earlier message with this id made, if it is remembered.
    pub fn lookup(&self, target: &BareJid, origin_id: &str, now_ms: u64) -> Option<u64> {
        let digest = digest(target, origin_id);
        // A retry is usually about a recent message: newest first.
        let mut newest_first = self.ids.iter().rev().enumerate();
        let (newer, id) = newest_first.find(|(_, id)| id.digest == digest)?;
        (newer < NEWEST || is_young(id, now_ms)).then_some(id.seq)
    }

    /// Remembers the row that a message with this id made; forgets what is too old or too much.
    pub fn record(&mut self, target: &BareJid, origin_id: &str, seq: u64, now_ms: u64) {
        let is_old = |id: &SentId| !is_young(id, now_ms);
        while self.ids.len() >= IDS_MAX
            || self.ids.len() >= NEWEST && self.ids.front().is_some_and(is_old)
        {
            self.ids.pop_front();
        }
        self.ids.push_back(SentId {
            digest: digest(target, origin_id),
            seq,
            time_ms: now_ms,
        });
    }
}

fn is_young(id: &SentId, now_ms: u64) -> bool {
    now_ms.saturating_sub(id.time_ms) < KEPT_MS
}

/// FNV-1a over target, a separator that no JID contains, and the id. It must never change: it is stored.
fn digest(target: &BareJid, origin_id: &str) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in target.as_str().bytes().chain([0]).chain(origin_id.bytes()) {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jid(text: &str) -> BareJid {
        BareJid::parse(text).unwrap()
    }

    #[test]
    fn an_id_is_known_for_its_target_only() {
        let mut ids = SentIds::default();
        ids.record(&jid("bob@localhost"), "1", 7, 0);
        assert_eq!(ids.lookup(&jid("bob@localhost"), "1", 5), Some(7));
        assert_eq!(ids.lookup(&jid("bob@localhost"), "2", 5), None);
        assert_eq!(ids.lookup(&jid("carol@localhost"), "1", 5), None);
        assert_eq!(ids.lookup(&jid("bob@localhost1"), "", 5), None);
    }

    #[test]
    fn ids_but_the_newest_are_forgotten_after_a_day() {
        let bob = jid("bob@localhost");
        let mut ids = SentIds::default();
        for n in 0..=256 {
            ids.record(&bob, &n.to_string(), n, 1_000);
        }
        let check = |id, now_ms, expect| {
            assert_eq!(ids.lookup(&bob, id, now_ms), expect, "{id} at {now_ms}");
        };
        check("0", 1_000 + KEPT_MS - 1, Some(0));
        check("0", 1_000 + KEPT_MS, None);
        check("1", 1_000 + KEPT_MS, Some(1));
        ids.record(&bob, "257", 257, 1_000 + KEPT_MS);
        assert_eq!(ids.ids.len(), NEWEST);
    }

    /// Bug: the clocks of two of three nodes were a year ahead, and messages that were under way came twice.
    #[test]
    fn a_clock_that_jumps_makes_no_retry_a_message() {
        const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
        let bob = jid("bob@localhost");
        let mut ids = SentIds::default();
        ids.record(&bob, "1", 7, 1_000);
        assert_eq!(ids.lookup(&bob, "1", 1_000 + YEAR_MS), Some(7));
        ids.record(&bob, "2", 8, 1_000 + YEAR_MS);
        assert_eq!(ids.lookup(&bob, "1", 1_000 + YEAR_MS), Some(7));
    }

    #[test]
    fn the_newest_1024_ids_are_remembered() {
        let mut ids = SentIds::default();
        for n in 0..2_000 {
            ids.record(&jid("bob@localhost"), &n.to_string(), n, 0);
        }
        assert_eq!(ids.ids.len(), IDS_MAX);
        assert_eq!(ids.lookup(&jid("bob@localhost"), "975", 0), None);
        assert_eq!(ids.lookup(&jid("bob@localhost"), "976", 0), Some(976));
        assert_eq!(ids.lookup(&jid("bob@localhost"), "1999", 0), Some(1_999));
    }

    #[test]
    fn the_digest_never_changes() {
        assert_eq!(digest(&jid("bob@localhost"), "abc"), DIGEST_OF_BOB_ABC);
    }

    const DIGEST_OF_BOB_ABC: u128 = 0x007d_8f39_b0d4_acc1_5777_ab20_ffc3_df9d;
}
