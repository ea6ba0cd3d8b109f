//! A session between two nodes: what only the node that had it knows of it, cut into parts that fit frames.
//!
//! Presence and what was sent of the user's log the owner knows ([`messaging::user::publication::SessionState`]). What is left
//! is above all what the client may need once more.

use bytes::Bytes;
use messaging::user::publication::{ResumptionToken, SessionFlags, SessionKey};
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};
use xmpp::jid::BareJid;

/// The most bytes of a session on its way: twice what may wait for a client that acknowledges nothing, by default.
pub const PARKED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// About how many bytes a part has.
const PART_BYTES: usize = 256 * 1024;

/// A session on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedSession {
    /// By what its client resumes it.
    pub token: ResumptionToken,
    /// For how long without a connection, in seconds.
    pub within_s: u64,
    /// The generation of its account.
    pub account: u64,
    /// What it asked for.
    pub flags: SessionFlags,
    /// It has broadcast a presence and not taken it back.
    pub available: bool,
    /// The rooms that it is in, and its nickname in each. The rooms say it as well, perhaps later.
    pub rooms: Vec<(BareJid, String)>,
    /// How many of its client's stanzas are handled; all that came are.
    pub handled: u64,
    /// How many stanzas the client has acknowledged.
    pub acked: u64,
    /// What it was sent after these, in order.
    pub unacked: Vec<ParkedStanza>,
}

/// A stanza that a session was sent and has not acknowledged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedStanza {
    /// The row of the user's log that it delivers.
    pub row: Option<u64>,
    /// As it was sent.
    pub bytes: Bytes,
}

impl std::fmt::Debug for ParkedStanza {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What people write is nobody's business.
        f.debug_struct("ParkedStanza")
            .field("row", &self.row)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl Record for ParkedSession {
    const VERSION: u8 = 1;
    const NAME: &'static str = "parked-session";
}

/// A part of a session's bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedPart {
    /// The session as it will be.
    pub to: SessionKey,
    /// Which part, from 0.
    pub index: u32,
    /// Whether it was the last.
    pub last: bool,
    /// Its bytes.
    pub bytes: Bytes,
}

impl std::fmt::Debug for ParkedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParkedPart")
            .field("to", &self.to)
            .field("index", &self.index)
            .field("last", &self.last)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl ParkedSession {
    /// The parts in which it travels to a node; there is always one.
    ///
    /// # Errors
    /// When it has more than [`PARKED_BYTES_MAX`].
    pub fn parts(&self, to: &SessionKey) -> Result<Vec<ParkedPart>, CodecError> {
        let mut rest = Bytes::from(codec::encode_frame(self, PARKED_BYTES_MAX)?);
        let mut parts = Vec::new();
        loop {
            let bytes = rest.split_to(rest.len().min(PART_BYTES));
            let last = rest.is_empty();
            parts.push(ParkedPart {
                to: to.clone(),
                index: parts.len() as u32,
                last,
                bytes,
            });
            if last {
                return Ok(parts);
            }
        }
    }
}

/// The parts of a session as they arrive.
#[derive(Debug, Default)]
pub struct Arrival {
    bytes: Vec<u8>,
    next: u32,
}

impl Arrival {
    /// A part has come; gives the session when it was the last one. Parts that came before are ignored.
    ///
    /// # Errors
    /// When something is missing before it, or it is no session.
    pub fn part(&mut self, part: &ParkedPart) -> Result<Option<ParkedSession>, CodecError> {
        if part.index < self.next {
            return Ok(None);
        }
        let bytes = (self.bytes.len() + part.bytes.len()) as u64;
        if part.index > self.next || bytes > PARKED_BYTES_MAX {
            return Err(CodecError::TooLong {
                record: ParkedSession::NAME,
                bytes,
                limit: PARKED_BYTES_MAX,
            });
        }
        self.next += 1;
        self.bytes.extend_from_slice(&part.bytes);
        match part.last {
            true => codec::decode_frame(&self.bytes, PARKED_BYTES_MAX).map(Some),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xmpp::jid::FullJid;

    fn key() -> SessionKey {
        SessionKey {
            node: 2,
            number: 9,
            jid: FullJid::parse("juliet@localhost/balcony").unwrap(),
        }
    }

    fn session(stanzas: usize, bytes: usize) -> ParkedSession {
        let stanza = |n: usize| ParkedStanza {
            row: n.is_multiple_of(2).then_some(n as u64),
            bytes: Bytes::from(vec![b'x'; bytes]),
        };
        ParkedSession {
            token: ResumptionToken("opaque".into()),
            within_s: 300,
            account: 4,
            flags: SessionFlags {
                carbons: true,
                ..SessionFlags::default()
            },
            available: true,
            rooms: vec![(
                BareJid::parse("den@conference.localhost").unwrap(),
                "jules".into(),
            )],
            handled: u64::from(u32::MAX) + 3,
            acked: 7,
            unacked: (0..stanzas).map(stanza).collect(),
        }
    }

    #[test]
    fn golden_bytes() {
        storage::golden!("../../tests/goldens/link.txt", &session(2, 3));
    }

    #[test]
    fn a_session_arrives_as_it_left() {
        for (stanzas, bytes, parts) in [(0, 0, 1), (3, 100, 1), (2_048, 2_000, 16)] {
            let left = session(stanzas, bytes);
            let cut = left.parts(&key()).unwrap();
            assert_eq!(cut.len(), parts);
            let mut arrival = Arrival::default();
            let mut arrived = None;
            for part in &cut {
                assert!(arrived.is_none());
                arrived = arrival.part(part).unwrap();
                // The owner changed, and the old node said it once more.
                assert_eq!(arrival.part(part).unwrap(), None);
            }
            assert_eq!(arrived, Some(left));
        }
    }

    #[test]
    fn what_is_missing_too_much_or_no_session_is_refused() {
        let cut = session(2_048, 2_000).parts(&key()).unwrap();
        let mut arrival = Arrival::default();
        arrival.part(&cut[0]).unwrap();
        assert!(arrival.part(&cut[2]).is_err());
        assert!(session(10, 1 << 20).parts(&key()).is_err());
        let nonsense = ParkedPart {
            index: 0,
            last: true,
            bytes: Bytes::from_static(b"nonsense"),
            ..cut[0].clone()
        };
        assert!(Arrival::default().part(&nonsense).is_err());
    }

    #[test]
    fn nothing_private_is_shown() {
        let parked = session(1, 3);
        let shown = format!("{parked:?} {:?}", parked.parts(&key()).unwrap());
        assert!(!shown.contains("opaque") && !shown.contains("xxx"));
    }
}
