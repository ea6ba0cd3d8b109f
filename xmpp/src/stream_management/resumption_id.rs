//! The id by which a client resumes its stream (XEP-0198 §5), and that any node of the pool can read.
//!
//! ```text
//!   base64url( version 1 | nonce 16 | full JID | MAC 16 )
//! ```
//!
//! The MAC is under a key that only the nodes of the pool have, so an id that nobody was given costs a hash and nothing
//! else. The address says which partition's owner to ask; the nonce makes each id unique and unguessable, so that having
//! one is no help in finding another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::jid::FullJid;
use crate::sasl::ScramHash;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 16;
const MAC_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + NONCE_BYTES;

/// Longer than any id: a full JID has 3,071 bytes at most (RFC 7622 §3.1), a third more in base64.
const TEXT_BYTES_MAX: usize = 4_200;

/// What the MAC's key is for: the pool's secret has other uses.
const PURPOSE: &[u8] = b"muster stream resumption ids 1";

/// Makes and reads ids; the same on every node of a pool.
#[derive(Clone)]
pub struct ResumptionIds {
    key: Vec<u8>,
}

/// An id that a node of the pool has given out. Whoever has it and the account's password may take over the session, so
/// `Debug` does not show it.
#[derive(Clone)]
pub struct ResumptionId {
    text: String,
    jid: FullJid,
    number: u64,
}

impl ResumptionIds {
    /// From the pool's secret.
    pub fn new(secret: &[u8; 32]) -> ResumptionIds {
        ResumptionIds {
            key: ScramHash::Sha256.hmac(secret, &[PURPOSE]),
        }
    }

    /// The id of a new session's stream. `nonce`: fresh, secret randomness.
    pub fn make(&self, jid: &FullJid, nonce: [u8; NONCE_BYTES]) -> ResumptionId {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + jid.as_str().len() + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(jid.as_str().as_bytes());
        let mac = self.mac(&bytes);
        bytes.extend_from_slice(&mac);
        ResumptionId {
            text: URL_SAFE_NO_PAD.encode(bytes),
            jid: jid.clone(),
            number: number_of(&nonce),
        }
    }

    /// Reads an id; `None`: no node of this pool has made it.
    pub fn read(&self, text: &str) -> Option<ResumptionId> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        if !bool::from(self.mac(said).ct_eq(mac)) {
            return None;
        }
        let (head, jid) = said.split_at_checked(HEAD_BYTES)?;
        let (&VERSION, nonce) = head.split_first()? else {
            return None;
        };
        let jid = FullJid::parse(std::str::from_utf8(jid).ok()?).ok()?;
        Some(ResumptionId {
            text: text.to_owned(),
            jid,
            number: number_of(nonce),
        })
    }

    fn mac(&self, said: &[u8]) -> Vec<u8> {
        let mut mac = ScramHash::Sha256.hmac(&self.key, &[said]);
        mac.truncate(MAC_BYTES);
        mac
    }
}

fn number_of(nonce: &[u8]) -> u64 {
    let (number, _) = nonce.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*number)
}

impl ResumptionId {
    /// As it stands in `<enabled/>`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The part of it that makes it unique. With it alone nobody resumes anything.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whose session it is.
    pub fn jid(&self) -> &FullJid {
        &self.jid
    }
}

impl PartialEq for ResumptionId {
    /// In constant time.
    fn eq(&self, other: &ResumptionId) -> bool {
        bool::from(self.text.as_bytes().ct_eq(other.text.as_bytes()))
    }
}

impl Eq for ResumptionId {}

impl std::fmt::Debug for ResumptionIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumptionIds(…)")
    }
}

impl std::fmt::Debug for ResumptionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumptionId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> ResumptionIds {
        ResumptionIds::new(&[7; 32])
    }

    fn jid() -> FullJid {
        FullJid::parse("juliet@example.org/balcony").unwrap()
    }

    #[test]
    fn every_node_of_the_pool_reads_what_one_has_made() {
        let id = ids().make(&jid(), [3; NONCE_BYTES]);
        let read = ids().read(id.text()).unwrap();
        assert_eq!(read, id);
        assert_eq!(read.jid(), &jid());
        assert_eq!(read.number(), id.number());
        let other = ids().make(&jid(), [4; NONCE_BYTES]);
        assert_ne!(other.number(), id.number());
        assert_ne!(id, ids().make(&jid(), [4; NONCE_BYTES]));
        assert!(ResumptionIds::new(&[8; 32]).read(id.text()).is_none());
    }

    #[test]
    fn what_nobody_made_is_refused_whatever_is_changed() {
        let id = ids().make(&jid(), [3; NONCE_BYTES]);
        let check = |text: &str| assert!(ids().read(text).is_none(), "{text}");
        for text in ["", "x", "some-long-sm-id", "====", "ä"] {
            check(text);
        }
        check(&"A".repeat(TEXT_BYTES_MAX + 1));
        let bytes = URL_SAFE_NO_PAD.decode(id.text()).unwrap();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            check(&URL_SAFE_NO_PAD.encode(other));
            check(&URL_SAFE_NO_PAD.encode(&bytes[..at]));
        }
    }

    #[test]
    fn the_longest_address_fits() {
        let part = |letter: &str| letter.repeat(1_023);
        let domain = format!("{}.example", ["d".repeat(60).as_str(); 4].join("."));
        let jid = FullJid::parse(&format!("{}@{domain}/{}", part("l"), part("r"))).unwrap();
        let id = ids().make(&jid, [0; NONCE_BYTES]);
        // XEP-0198 §5: no longer than 4,000 bytes.
        assert!(id.text().len() <= 4_000);
        assert_eq!(ids().read(id.text()).unwrap().jid(), &jid);
    }

    #[test]
    fn the_id_is_not_shown() {
        let id = ids().make(&jid(), [3; NONCE_BYTES]);
        assert_eq!(
            format!("{id:?} {:?}", ids()),
            "ResumptionId(…) ResumptionIds(…)"
        );
    }
}
