//! A row of a user's or a room's log, and the opaque id it is known by outside.
//!
//! Ids are one AES block over (tag of the archive, sequence), as hex: unpredictable (XEP-0313 §3), stable, unique in the
//! pool. The tag is a CBC-MAC of the key (the bare JID), so that who reads one archive learns nothing of another's ids. A
//! key's sequence starts at its creation's log index × 4,096, so a key created again never reuses one.

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::Stanza;

use crate::room::event::RoomEvent;

/// A row of a key's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRow {
    /// Whose log.
    pub key: BareJid,
    /// Its place; rises, with gaps only between generations.
    pub seq: u64,
    /// When the owner committed it, ms since 1970; never falls within a key.
    pub time_ms: u64,
    /// What it is.
    pub record: ArchiveRecord,
}

/// What a row holds.
#[allow(
    clippy::large_enum_variant,
    reason = "rows are built once and shared behind an `Arc`"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveRecord {
    /// A 1:1 message in a user's log.
    Message(MessageRecord),
    /// An event of a room; messages and subjects are read by XEP-0313, the rest is for replay.
    Room(RoomEvent),
}

/// A 1:1 message in a user's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Whether the user sent it (else received).
    pub sent: bool,
    /// The other side, bare or full as in the stanza (an occupant JID for room private messages).
    pub peer: Jid,
    /// The session that sent it, for sent rows.
    pub sender: Option<FullJid>,
    /// The complete message with `from` and `to`.
    pub stanza: Stanza,
}

impl ArchiveRow {
    /// Whether XEP-0313 shows this row: a message, or a room's message or subject change.
    pub fn is_message(&self) -> bool {
        match &self.record {
            ArchiveRecord::Message(_) => true,
            ArchiveRecord::Room(event) => event.is_message(),
        }
    }

    /// Whose join the row is.
    pub fn newcomer(&self) -> Option<&FullJid> {
        match &self.record {
            ArchiveRecord::Room(RoomEvent::Joined { occupant, .. }) => Some(&occupant.jid),
            _ => None,
        }
    }

    /// The peer under which a query `with` finds the row.
    pub fn peer(&self) -> Option<&Jid> {
        match &self.record {
            ArchiveRecord::Message(message) => Some(&message.peer),
            ArchiveRecord::Room(_) => None,
        }
    }
}

/// Makes and reads opaque archive ids.
#[derive(Clone)]
pub struct ArchiveIds {
    cipher: Aes128,
}

impl std::fmt::Debug for ArchiveIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ArchiveIds(…)")
    }
}

/// In front of the key's length in the first block of the tag: no tag coincides with an occupant id's beginning.
const LABEL: &[u8; 8] = b"archive\0";

impl ArchiveIds {
    /// With the pool's id key.
    pub fn new(key: &[u8; 16]) -> ArchiveIds {
        ArchiveIds {
            cipher: Aes128::new(key.into()),
        }
    }

    /// The id of a row of an archive.
    pub fn id(&self, key: &BareJid, seq: u64) -> String {
        let mut block = [0u8; 16];
        block[..8].copy_from_slice(&self.tag(key));
        block[8..].copy_from_slice(&seq.to_be_bytes());
        let mut block = block.into();
        self.cipher.encrypt_block(&mut block);
        let mut text = String::with_capacity(32);
        for byte in block {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// The row behind an id; `None` for anything that [`ArchiveIds::id`] did not make for this archive.
    pub fn seq(&self, key: &BareJid, id: &str) -> Option<u64> {
        if id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut block = u128::from_str_radix(id, 16).ok()?.to_be_bytes().into();
        self.cipher.decrypt_block(&mut block);
        let (tag, seq) = block.split_at(8);
        (tag == self.tag(key))
            .then(|| seq.try_into().ok().map(u64::from_be_bytes))
            .flatten()
    }

    /// What sets the ids of one archive apart: half a CBC-MAC. The length in the first block is what CBC-MAC needs.
    fn tag(&self, key: &BareJid) -> [u8; 8] {
        let key = key.as_str().as_bytes();
        let mut first = [0u8; 16];
        first[..8].copy_from_slice(LABEL);
        first[8..].copy_from_slice(&(key.len() as u64).to_be_bytes());
        let mut block = first.into();
        self.cipher.encrypt_block(&mut block);
        for chunk in key.chunks(16) {
            for (place, byte) in block.iter_mut().zip(chunk) {
                *place ^= byte;
            }
            self.cipher.encrypt_block(&mut block);
        }
        let mut tag = [0u8; 8];
        tag.copy_from_slice(&block[..8]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_nothing_else_does() {
        let alice = BareJid::parse("alice@example.org").unwrap();
        let ids = ArchiveIds::new(&[7; 16]);
        for seq in [0, 1, 4_096, u64::MAX] {
            assert_eq!(ids.seq(&alice, &ids.id(&alice, seq)), Some(seq));
        }
        assert_eq!(ids.seq(&alice, ""), None);
        assert_eq!(ids.seq(&alice, "00000000000000000000000000000000"), None);
        assert_eq!(ids.seq(&alice, &ids.id(&alice, 1).to_uppercase()), None);
        assert_ne!(ids.id(&alice, 1), ArchiveIds::new(&[8; 16]).id(&alice, 1));
    }

    /// Clients keep ids for years. The value was computed with another implementation of AES.
    #[test]
    fn an_id_never_changes() {
        let alice = BareJid::parse("alice@example.org").unwrap();
        let id = ArchiveIds::new(&[7; 16]).id(&alice, 4_096);
        assert_eq!(id, "03f6c33e6e761ea2154e7086067d81fc");
    }

    /// XEP-0313 §3: who knows the ids of one archive knows none of another's, though sequences coincide.
    #[test]
    fn archives_share_no_ids() {
        let ids = ArchiveIds::new(&[7; 16]);
        let keys = [
            "alice@example.org",
            "bob@example.org",
            "den@rooms.example.org",
        ]
        .map(|text| BareJid::parse(text).unwrap());
        let mut seen = std::collections::HashSet::new();
        for (index, key) in keys.iter().enumerate() {
            for seq in 4_096..4_196 {
                let id = ids.id(key, seq);
                for (other, stranger) in keys.iter().enumerate() {
                    let expected = (other == index).then_some(seq);
                    assert_eq!(ids.seq(stranger, &id), expected, "{key} {stranger}");
                }
                assert!(seen.insert(id), "{key} {seq}");
            }
        }
    }
}
