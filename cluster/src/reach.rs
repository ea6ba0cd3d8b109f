//! Who reaches whom, and what a node does when a live member can't be reached: hand leaderships over, or go by relay.
//!
//! ```text
//!   own connections ─┐                 ┌─► relay: frames for X go through Y
//!   gossip: Reaches ─┴─► Reachability ─┼─► hand_over: a group goes to a voter that reaches more
//!                                      └─► avoided: nodes that leaderships are not spread to
//! ```
//!
//! A pure core: what was seen and `now` go in, decisions come out. Two nodes *meet* when each has connections to the
//! other; one direction alone serves no link, whose answers need the other. A node that nobody hears of is no matter of
//! this module: it is dead or cut off, and elections and owners deal with it.
//!
//! Invariants: a relay is a node that we meet and that meets the far node, so one hop is always enough and never two.
//! All this is hints: a wrong one costs a detour or a handover, never a word; epochs and commits decide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::gossip::{Gossip, GossipKey, GossipValue, Liveness};
use crate::node_id::{Group, NodeId};

/// A live node that could not be met for so long is reached through another.
pub const RELAY_AFTER: Duration = Duration::from_secs(1);

/// A leader hands over when a live node could not meet it for so long.
pub const HAND_OVER_AFTER: Duration = Duration::from_secs(2);

/// How long after such a handover the next of the same group may come, and how long a node must have met as many as we
/// do before leaderships are spread to it again.
pub const HYSTERESIS: Duration = Duration::from_secs(30);

/// Whom each live node has connections to, as far as is known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    reaches: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Sight {
    /// Of these live nodes, ourselves among them, with whom each is connected to.
    pub fn new(reaches: impl IntoIterator<Item = (NodeId, BTreeSet<NodeId>)>) -> Sight {
        Sight {
            reaches: reaches.into_iter().collect(),
        }
    }

    /// What the gossip says of the live nodes, and of ourselves what we know at first hand.
    pub fn of(gossip: &Gossip, own: NodeId, reached: BTreeSet<NodeId>, now: Duration) -> Sight {
        let others = gossip
            .view()
            .iter()
            .filter(|(node, view)| **node != own && view.liveness(now) == Liveness::Alive);
        let told = others.map(|(node, view)| {
            let reaches = match view.get(GossipKey::Reaches) {
                Some(GossipValue::Reaches(nodes)) => nodes.iter().copied().collect(),
                _ => BTreeSet::new(),
            };
            (*node, reaches)
        });
        Sight::new(told.chain([(own, reached)]))
    }

    /// Whether both are alive and each has connections to the other.
    pub fn meet(&self, one: NodeId, other: NodeId) -> bool {
        let reaches = |from, to| {
            self.reaches
                .get(&from)
                .is_some_and(|reached| reached.contains(&to))
        };
        reaches(one, other) && reaches(other, one)
    }

    /// The live nodes.
    pub fn alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.reaches.keys().copied()
    }

    /// How many live nodes a node meets.
    fn met_by(&self, node: NodeId) -> usize {
        self.alive()
            .filter(|other| *other != node && self.meet(node, *other))
            .count()
    }
}

/// The core. See the module docs.
#[derive(Debug)]
pub struct Reachability {
    own: NodeId,
    sight: Sight,
    /// Live nodes that we don't meet, and since when.
    missed: BTreeMap<NodeId, Instant>,
    relays: BTreeMap<NodeId, NodeId>,
    /// Nodes that met fewer than we did, and when that was last so.
    met_fewer: BTreeMap<NodeId, Instant>,
    handed_over: BTreeMap<Group, Instant>,
}

impl Reachability {
    /// Of a node that has seen nothing yet.
    pub fn new(own: NodeId) -> Reachability {
        Reachability {
            own,
            sight: Sight::default(),
            missed: BTreeMap::new(),
            relays: BTreeMap::new(),
            met_fewer: BTreeMap::new(),
            handed_over: BTreeMap::new(),
        }
    }

    /// Takes what is seen now. Call it a few times a second.
    pub fn observe(&mut self, sight: Sight, now: Instant) {
        let own = self.own;
        let missed: Vec<NodeId> = sight
            .alive()
            .filter(|node| *node != own && !sight.meet(own, *node))
            .collect();
        self.missed.retain(|node, _| missed.contains(node));
        for node in missed {
            self.missed.entry(node).or_insert(now);
        }
        let met = sight.met_by(own);
        for node in sight.alive().filter(|node| *node != own) {
            if sight.met_by(node) < met {
                self.met_fewer.insert(node, now);
            }
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) < HYSTERESIS;
        self.met_fewer.retain(|_, at| recent(at));
        self.handed_over.retain(|_, at| recent(at));
        self.sight = sight;
        self.choose_relays(now);
    }

    /// A relay that still serves is kept, so that frames stay in order; the others are spread by the nodes' ids.
    fn choose_relays(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.relays);
        for node in self.missed_for(RELAY_AFTER, now) {
            let serving: Vec<NodeId> = self
                .sight
                .alive()
                .filter(|relay| self.sight.meet(self.own, *relay) && self.sight.meet(*relay, node))
                .collect();
            let kept = before.get(&node).filter(|relay| serving.contains(relay));
            let turn = usize::try_from(self.own.0 ^ node.0).unwrap_or(0);
            let chosen = kept.or_else(|| serving.get(turn.checked_rem(serving.len())?));
            if let Some(relay) = chosen {
                self.relays.insert(node, *relay);
            }
        }
    }

    fn missed_for(&self, time: Duration, now: Instant) -> Vec<NodeId> {
        self.missed
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) >= time)
            .map(|(node, _)| *node)
            .collect()
    }

    /// Whether a live node has missed us for long enough to hand leaderships over.
    pub fn is_missed_by_any(&self, now: Instant) -> bool {
        !self.missed_for(HAND_OVER_AFTER, now).is_empty()
    }

    /// Through whom frames go to each node that is not met.
    pub fn relays(&self) -> &BTreeMap<NodeId, NodeId> {
        &self.relays
    }

    /// To whom a group that we lead is to go: the fit voter that meets most, if it meets more than we do and one of
    /// those that have missed us for [`HAND_OVER_AFTER`]. Whom is told of again only after [`HYSTERESIS`].
    pub fn hand_over(
        &mut self,
        group: Group,
        fit: impl Fn(NodeId) -> bool,
        now: Instant,
    ) -> Option<NodeId> {
        if self.handed_over.contains_key(&group) {
            return None;
        }
        let missed = self.missed_for(HAND_OVER_AFTER, now);
        let own = self.sight.met_by(self.own);
        let candidates = self.sight.alive().filter(|node| {
            *node != self.own
                && self.sight.meet(self.own, *node)
                && self.sight.met_by(*node) > own
                && missed.iter().any(|missed| self.sight.meet(*node, *missed))
                && fit(*node)
        });
        // Of equals the one whose turn it is in this group, so that leaderships are spread.
        let turn = |node: NodeId| node.0 ^ u64::from(group.0);
        let chosen = candidates.max_by_key(|node| (self.sight.met_by(*node), turn(*node)))?;
        self.handed_over.insert(group, now);
        Some(chosen)
    }

    /// Nodes that leaderships are not to be spread to: they meet fewer than we do, or did lately.
    pub fn avoided(&self) -> BTreeSet<NodeId> {
        self.met_fewer.keys().copied().collect()
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests;
