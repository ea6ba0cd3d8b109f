//! Gossip: hints that every node tells about itself and that spread without anybody's authority.
//!
//! Scuttlebutt in a pure core. Each node owns a small map of versioned values (which partitions it owns,
//! whom it reaches, its load), a generation (its incarnation) and a heartbeat. Twice a second it sends a
//! digest of what it knows to a few peers; they answer with what it lacks and a digest of their own, and it
//! sends what they lack. Lost and reordered messages only delay. Who trusts a hint too much is wrong:
//! epochs and commits decide.
//!
//! ```text
//!  tick ──► Digest ──► handle ──► Answer (digest + delta) ──► handle ──► Delta ──► handle
//! ```
//!
//! [`message`] is the wire form, [`shell`] runs the core over the GOSSIP lane; [`figures`] travel beside it.

mod capacity;
mod clock;
pub mod figures;
pub mod message;
pub mod shell;
mod value;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::node_id::{Epoch, Incarnation, NodeId, PartitionId};
pub use capacity::Capacity;
use message::{DigestRow, Entry, GossipMessage, NodeDelta, Step};
pub use value::{ADDRESS_BYTES_MAX, GossipKey, GossipValue};

/// A node's own map never encodes to more than this.
pub const NODE_BYTES_MAX: usize = 2048;
/// Deltas of one message together; what doesn't fit goes with the next round.
pub const DELTA_BYTES_MAX: usize = 16 * 1024;
/// How often to call [`Gossip::tick`].
pub const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Peers that one tick sends a digest to.
const FANOUT: usize = 3;
/// A heartbeat this old makes a node suspect: five ticks.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(2500);
/// A heartbeat this old makes it, as a hint, dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The value makes the node's map larger than [`NODE_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what this node gossips would exceed {NODE_BYTES_MAX} bytes")]
pub struct GossipFull;

/// How fresh a node's heartbeat is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Liveness {
    /// Heard of lately.
    Alive,
    /// Not for [`SUSPECT_AFTER`].
    Suspect,
    /// Not for [`DEAD_AFTER`], or never.
    Dead,
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub struct NodeView {
    generation: Incarnation,
    heartbeat: u64,
    /// All of the node's changes up to this version are known.
    version: u64,
    entries: BTreeMap<GossipKey, Entry>,
    heard: Duration,
}

impl NodeView {
    fn new(generation: Incarnation, heartbeat: u64, heard: Duration) -> NodeView {
        NodeView {
            generation,
            heartbeat,
            version: 0,
            entries: BTreeMap::new(),
            heard,
        }
    }

    /// The process life the hints are of.
    pub fn generation(&self) -> Incarnation {
        self.generation
    }

    /// The node's value of a key.
    pub fn get(&self, key: GossipKey) -> Option<&GossipValue> {
        self.values()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = (GossipKey, &GossipValue)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.value != GossipValue::Withdrawn)
            .map(|(key, entry)| (*key, &entry.value))
    }

    /// How long ago, by our own clock, its heartbeat rose.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// How fresh its heartbeat is.
    pub fn liveness(&self, now: Duration) -> Liveness {
        match self.age(now) {
            age if age < SUSPECT_AFTER => Liveness::Alive,
            age if age < DEAD_AFTER => Liveness::Suspect,
            _ => Liveness::Dead,
        }
    }

    fn bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|(key, entry)| message::entry_bytes(*key, entry))
            .sum()
    }
}

/// The core. Times are durations since any fixed point of the caller's clock.
#[derive(Clone, Debug)]
pub struct Gossip {
    own: NodeId,
    /// Of nodes that [`Gossip::tick`] named as peers, and of ourselves; so it never outgrows the pool.
    nodes: BTreeMap<NodeId, NodeView>,
    peers: BTreeSet<NodeId>,
    /// When each peer last said anything to us itself.
    heard_from: BTreeMap<NodeId, Duration>,
}

impl Gossip {
    /// A node that knows only itself.
    pub fn new(own: NodeId, generation: Incarnation) -> Gossip {
        let view = NodeView::new(generation, 0, Duration::ZERO);
        Gossip {
            own,
            nodes: BTreeMap::from([(own, view)]),
            peers: BTreeSet::new(),
            heard_from: BTreeMap::new(),
        }
    }

    /// Our incarnation became known or changed. Peers take everything anew under it; an earlier one than
    /// the present is ignored.
    pub fn renew(&mut self, generation: Incarnation) {
        let own = self.own_view();
        own.generation = generation.max(own.generation);
    }

    /// Tells everybody a value. An unchanged one costs nothing.
    pub fn set(&mut self, key: GossipKey, value: GossipValue) -> Result<(), GossipFull> {
        let own = self.own_view();
        let before = own.entries.get(&key);
        if before.is_some_and(|entry| entry.value == value)
            || (before.is_none() && value == GossipValue::Withdrawn)
        {
            return Ok(());
        }
        let entry = Entry {
            version: own.version + 1,
            value,
        };
        let given_back = before.map_or(0, |before| message::entry_bytes(key, before));
        if own.bytes() - given_back + message::entry_bytes(key, &entry) > NODE_BYTES_MAX {
            return Err(GossipFull);
        }
        own.version = entry.version;
        own.entries.insert(key, entry);
        Ok(())
    }

    /// One beat: call it every [`TICK_INTERVAL`] with the pool's other members and a fresh random number.
    /// Returns the digests to send. What is known of nodes that are no peers any more is dropped.
    pub fn tick(
        &mut self,
        now: Duration,
        peers: &[NodeId],
        random: u64,
    ) -> Vec<(NodeId, GossipMessage)> {
        let own = self.own;
        self.peers = peers.iter().copied().filter(|peer| *peer != own).collect();
        self.nodes
            .retain(|node, _| *node == own || self.peers.contains(node));
        self.heard_from.retain(|node, _| self.peers.contains(node));
        let view = self.own_view();
        view.heartbeat += 1;
        view.heard = now;

        let mut candidates: Vec<NodeId> = self.peers.iter().copied().collect();
        let mut random = random;
        let mut chosen = Vec::new();
        while chosen.len() < FANOUT && !candidates.is_empty() {
            random = scramble(random);
            let count = candidates.len() as u64;
            chosen.push(candidates.swap_remove((random % count) as usize));
        }
        chosen
            .into_iter()
            .map(|peer| (peer, self.opening(peer, now)))
            .collect()
    }

    /// A digest; with all that we know where no answer comes from, for it may be that only our words get through: such a
    /// peer can't ask for what it lacks, and what it can't ask for it would take for unchanged.
    fn opening(&self, peer: NodeId, now: Duration) -> GossipMessage {
        let heard = self.heard_from.get(&peer);
        let answers = heard.is_some_and(|at| now.saturating_sub(*at) < SUSPECT_AFTER);
        GossipMessage {
            step: Step::Digest,
            digest: self.digest(),
            deltas: if answers {
                Vec::new()
            } else {
                self.all_deltas()
            },
        }
    }

    /// All maps from their beginning, our own first, the others each time from another one on, within [`DELTA_BYTES_MAX`].
    fn all_deltas(&self) -> Vec<NodeDelta> {
        let Some(own) = self.nodes.get(&self.own) else {
            return Vec::new();
        };
        let others: Vec<_> = self
            .nodes
            .iter()
            .filter(|(node, _)| **node != self.own)
            .collect();
        let turn = own.heartbeat.checked_rem(others.len() as u64);
        let (before, after) = others.split_at(turn.unwrap_or(0) as usize);
        let mut room = DELTA_BYTES_MAX;
        let mut deltas = Vec::new();
        for (node, view) in [(&self.own, own)].iter().chain(after).chain(before) {
            if room < message::DELTA_HEAD_BYTES_MAX {
                break;
            }
            room -= message::DELTA_HEAD_BYTES_MAX;
            deltas.push(delta_since(**node, view, 0, &mut room));
        }
        deltas
    }

    /// Takes a message from a peer; returns what to send back to it.
    pub fn handle(
        &mut self,
        from: NodeId,
        message: GossipMessage,
        now: Duration,
    ) -> Option<GossipMessage> {
        if !self.peers.contains(&from) {
            return None;
        }
        self.heard_from.insert(from, now);
        for delta in message.deltas {
            self.apply(delta, now);
        }
        for row in &message.digest {
            self.hear(row, now);
        }
        match message.step {
            Step::Digest => {
                let deltas = self.deltas_for(&message.digest);
                Some(GossipMessage {
                    step: Step::Answer,
                    digest: self.digest(),
                    deltas,
                })
            }
            Step::Answer => {
                let deltas = self.deltas_for(&message.digest);
                let needed = !deltas.is_empty();
                needed.then_some(GossipMessage {
                    step: Step::Delta,
                    digest: Vec::new(),
                    deltas,
                })
            }
            Step::Delta => None,
        }
    }

    /// Everything known, our own map included.
    pub fn view(&self) -> &BTreeMap<NodeId, NodeView> {
        &self.nodes
    }

    /// The owner of a partition with the highest epoch that anybody told of.
    pub fn owner_hint(&self, partition: PartitionId) -> Option<(NodeId, Epoch)> {
        let told =
            self.nodes
                .values()
                .filter_map(|view| match view.get(GossipKey::Owner(partition)) {
                    Some(GossipValue::Owner(node, epoch)) => Some((*node, *epoch)),
                    _ => None,
                });
        told.max_by_key(|(_, epoch)| *epoch)
    }

    fn own_view(&mut self) -> &mut NodeView {
        let own = self.own;
        self.nodes
            .entry(own)
            .or_insert_with(|| NodeView::new(Incarnation(0), 0, Duration::ZERO))
    }

    fn digest(&self) -> Vec<DigestRow> {
        let row = |(node, view): (&NodeId, &NodeView)| DigestRow {
            node: *node,
            generation: view.generation,
            heartbeat: view.heartbeat,
            version: view.version,
        };
        self.nodes.iter().map(row).collect()
    }

    /// A digest's heartbeats count, so that liveness needs no delta.
    fn hear(&mut self, row: &DigestRow, now: Duration) {
        if row.node == self.own {
            return;
        }
        let Some(view) = self.nodes.get_mut(&row.node) else {
            return;
        };
        if row.generation == view.generation && row.heartbeat > view.heartbeat {
            view.heartbeat = row.heartbeat;
            view.heard = now;
        }
    }

    fn apply(&mut self, delta: NodeDelta, now: Duration) {
        if delta.node == self.own || !self.peers.contains(&delta.node) {
            return;
        }
        let known = self.nodes.get(&delta.node);
        let is_new_life = known.is_none_or(|view| delta.generation > view.generation);
        let mut next = match known {
            Some(view) if !is_new_life => view.clone(),
            _ => NodeView::new(delta.generation, delta.heartbeat, now),
        };
        // A hole before the delta would hide for good what is in it.
        if delta.generation < next.generation || delta.from > next.version {
            return;
        }
        if delta.heartbeat > next.heartbeat {
            next.heartbeat = delta.heartbeat;
            next.heard = now;
        }
        for (key, entry) in delta.entries {
            if next
                .entries
                .get(&key)
                .is_none_or(|known| known.version < entry.version)
            {
                next.entries.insert(key, entry);
            }
        }
        next.version = next.version.max(delta.to);
        if next.bytes() <= NODE_BYTES_MAX {
            self.nodes.insert(delta.node, next);
        }
    }

    /// What the sender of a digest lacks, oldest change first, within [`DELTA_BYTES_MAX`].
    fn deltas_for(&self, digest: &[DigestRow]) -> Vec<NodeDelta> {
        let theirs: BTreeMap<NodeId, &DigestRow> =
            digest.iter().map(|row| (row.node, row)).collect();
        let mut room = DELTA_BYTES_MAX;
        let mut deltas = Vec::new();
        for (node, view) in &self.nodes {
            let from = match theirs.get(node) {
                Some(row) if row.generation > view.generation => continue,
                Some(row) if row.generation == view.generation && row.version >= view.version => {
                    continue;
                }
                Some(row) if row.generation == view.generation => row.version,
                _ => 0,
            };
            if room < message::DELTA_HEAD_BYTES_MAX {
                break;
            }
            room -= message::DELTA_HEAD_BYTES_MAX;
            deltas.push(delta_since(*node, view, from, &mut room));
        }
        deltas
    }
}

/// The changes after `from` in the order they were made. If they don't all fit, `to` ends at the last that
/// does, so that the receiver asks for the rest.
fn delta_since(node: NodeId, view: &NodeView, from: u64, room: &mut usize) -> NodeDelta {
    let mut changes: Vec<_> = view
        .entries
        .iter()
        .filter(|(_, entry)| entry.version > from)
        .collect();
    changes.sort_by_key(|(_, entry)| entry.version);
    let mut delta = NodeDelta {
        node,
        generation: view.generation,
        heartbeat: view.heartbeat,
        from,
        to: view.version,
        entries: Vec::new(),
    };
    let mut last = from;
    for (key, entry) in changes {
        let bytes = message::entry_bytes(*key, entry);
        if bytes > *room {
            delta.to = last;
            break;
        }
        *room -= bytes;
        last = entry.version;
        delta.entries.push((*key, entry.clone()));
    }
    delta
}

/// SplitMix64's output function: one random number becomes several.
fn scramble(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
