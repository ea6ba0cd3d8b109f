//! What each node has lately done, told to every other each second: for people who look, never for a decision.
//!
//! Figures are a frame of their own on the GOSSIP lane, straight from node to node. A build that doesn't know the frame, or
//! its version, leaves it. They are kept in memory, one set a peer, and are worth nothing after [`HEARD_WITHIN`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::node_id::NodeId;

/// Older figures are not told any more: five are missing by then.
pub const HEARD_WITHIN: Duration = Duration::from_secs(5);

const VERSION: u8 = 1;

/// A node's figures over its last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bound sessions.
    pub sessions: u32,
    /// Logins a second.
    pub logins: u32,
    /// Stanzas received from clients, a second.
    pub stanzas_received: u32,
    /// Stanzas sent to clients, a second.
    pub stanzas_sent: u32,
    /// Batches that this node committed as an owner, a second.
    pub commits: u32,
    /// Half of them took no longer, in µs; 0: there were none.
    pub commit_p50_us: u32,
    /// All but a hundredth of them took no longer, in µs; 0: there were none.
    pub commit_p99_us: u32,
    /// Time on processors, in thousandths of one processor.
    pub cpu_permille: u32,
    /// Memory in use, in KiB.
    pub resident_kib: u32,
}

impl Figures {
    fn numbers(&self) -> [u32; 9] {
        [
            self.sessions,
            self.logins,
            self.stanzas_received,
            self.stanzas_sent,
            self.commits,
            self.commit_p50_us,
            self.commit_p99_us,
            self.cpu_permille,
            self.resident_kib,
        ]
    }

    /// A version octet and nine numbers of four octets, little endian.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 9 * 4);
        out.put_u8(VERSION);
        for number in self.numbers() {
            out.put_u32_le(number);
        }
        out.freeze()
    }

    /// `None`: of another version, or too short or long.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Figures> {
        let input = &mut bytes;
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut next = || input.try_get_u32_le().ok();
        let figures = Figures {
            sessions: next()?,
            logins: next()?,
            stanzas_received: next()?,
            stanzas_sent: next()?,
            commits: next()?,
            commit_p50_us: next()?,
            commit_p99_us: next()?,
            cpu_permille: next()?,
            resident_kib: next()?,
        };
        input.is_empty().then_some(figures)
    }
}

/// What was heard of others, and when by the caller's clock. Never more than there are peers.
#[derive(Debug, Default)]
pub(super) struct HeardFigures {
    of: BTreeMap<NodeId, (Figures, Duration)>,
}

impl HeardFigures {
    pub(super) fn heard(&mut self, from: NodeId, figures: Figures, now: Duration) {
        self.of.insert(from, (figures, now));
    }

    /// Forgets who is no peer any more.
    pub(super) fn keep(&mut self, peers: &[NodeId]) {
        self.of.retain(|node, _| peers.contains(node));
    }

    /// What is young enough.
    pub(super) fn fresh(&self, now: Duration) -> BTreeMap<NodeId, Figures> {
        let is_fresh = |at: Duration| now.saturating_sub(at) < HEARD_WITHIN;
        let fresh = self.of.iter().filter(|(_, (_, at))| is_fresh(*at));
        fresh
            .map(|(node, (figures, _))| (*node, *figures))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use storage::codec::golden::Layout;

    use super::*;

    fn figures() -> Figures {
        Figures {
            sessions: 1,
            logins: 2,
            stanzas_received: 3,
            stanzas_sent: 4,
            commits: 5,
            commit_p50_us: 6,
            commit_p99_us: 7,
            cpu_permille: 8,
            resident_kib: u32::MAX,
        }
    }

    #[test]
    fn golden_bytes_of_figures() {
        let figures = figures();
        let layout = Layout {
            name: "gossip-figures",
            version: VERSION,
            written: &figures.encode(),
        };
        let read = |bytes: Vec<u8>| Figures::decode(&bytes);
        storage::golden_layout!("../../tests/goldens/wire.txt", layout, &figures, read);
    }

    #[test]
    fn what_is_no_figures_is_left() {
        let whole = figures().encode();
        for length in 0..whole.len() {
            assert_eq!(Figures::decode(&whole[..length]), None, "{length} octets");
        }
        assert_eq!(Figures::decode(&[&whole[..], &[0]].concat()), None);
        assert_eq!(Figures::decode(&[&[2][..], &whole[1..]].concat()), None);
    }

    #[test]
    fn old_words_and_former_peers_are_forgotten() {
        let mut heard = HeardFigures::default();
        let at = Duration::from_secs;
        heard.heard(NodeId(1), figures(), at(10));
        heard.heard(NodeId(2), figures(), at(12));
        let fresh = |heard: &HeardFigures, now| heard.fresh(now).into_keys().collect::<Vec<_>>();
        assert_eq!(fresh(&heard, at(14)), [NodeId(1), NodeId(2)]);
        assert_eq!(fresh(&heard, at(15)), [NodeId(2)]);
        heard.keep(&[NodeId(1)]);
        assert_eq!(fresh(&heard, at(14)), [NodeId(1)]);
    }
}
