//! Whole pools: gossip cores that carry `Reaches` over a network with broken connections, and a [`Reachability`] each.
//!
//! A run is a seed: connections break and mend, one direction at a time, then the network stays as it is. Then every
//! live node must have a way to the leader and back: direct, or by one hop through a node that meets both.

use proptest::prelude::*;

use super::*;
use crate::gossip::TICK_INTERVAL;
use crate::gossip::message::GossipMessage;
use crate::node_id::Incarnation;

/// Longer than anything takes to settle: hints spread, relays and handovers follow, the hysteresis ends.
const SETTLED_AFTER: u32 = 160;

const GROUP: Group = Group(3);

struct World {
    count: u64,
    tick: u32,
    start: Instant,
    random: u64,
    broken: BTreeSet<(NodeId, NodeId)>,
    gossips: Vec<Gossip>,
    cores: Vec<Reachability>,
    leader: NodeId,
    /// Who handed over, and when.
    moves: Vec<(NodeId, Duration)>,
}

impl World {
    fn new(count: u64, seed: u64) -> World {
        let nodes = || (1..=count).map(NodeId);
        World {
            count,
            tick: 0,
            start: Instant::now(),
            random: seed,
            broken: BTreeSet::new(),
            gossips: nodes()
                .map(|node| Gossip::new(node, Incarnation(1)))
                .collect(),
            cores: nodes().map(Reachability::new).collect(),
            leader: NodeId(1),
            moves: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % limit
    }

    fn nodes(&self) -> Vec<NodeId> {
        (1..=self.count).map(NodeId).collect()
    }

    fn elapsed(&self) -> Duration {
        TICK_INTERVAL * self.tick
    }

    fn connected(&self, from: NodeId, to: NodeId) -> bool {
        !self.broken.contains(&(from, to))
    }

    fn break_or_mend(&mut self) {
        let (from, to) = (
            NodeId(1 + self.below(self.count)),
            NodeId(1 + self.below(self.count)),
        );
        if from != to && !self.broken.remove(&(from, to)) {
            self.broken.insert((from, to));
        }
    }

    fn gossip(&mut self, node: NodeId) -> &mut Gossip {
        &mut self.gossips[node.0 as usize - 1]
    }

    /// Carries a message and what it leads to; each needs the sender's connection.
    fn carry(&mut self, from: NodeId, to: NodeId, message: GossipMessage) {
        let mut flying = vec![(from, to, message)];
        let now = self.elapsed();
        while let Some((from, to, message)) = flying.pop() {
            if !self.connected(from, to) {
                continue;
            }
            if let Some(answer) = self.gossip(to).handle(from, message, now) {
                flying.push((to, from, answer));
            }
        }
    }

    fn step(&mut self) {
        self.tick += 1;
        let (nodes, elapsed) = (self.nodes(), self.elapsed());
        for node in &nodes {
            let random = self.below(u64::MAX >> 33);
            let messages = self.gossip(*node).tick(elapsed, &nodes, random);
            for (to, message) in messages {
                self.carry(*node, to, message);
            }
        }
        let now = self.start + elapsed;
        for node in &nodes {
            let reached: BTreeSet<NodeId> = nodes
                .iter()
                .copied()
                .filter(|to| to != node && self.connected(*node, *to))
                .collect();
            let told = GossipValue::Reaches(reached.iter().copied().collect());
            self.gossip(*node).set(GossipKey::Reaches, told).unwrap();
            let sight = Sight::of(self.gossip(*node), *node, reached, elapsed);
            self.cores[node.0 as usize - 1].observe(sight, now);
        }
        let leader = self.leader;
        if let Some(heir) = self.cores[leader.0 as usize - 1].hand_over(GROUP, |_| true, now) {
            self.moves.push((leader, elapsed));
            self.leader = heir;
        }
        self.check_relays();
    }

    /// A relay is somebody whom we have a connection to and who isn't one of the ends.
    fn check_relays(&self) {
        for core in &self.cores {
            for (to, via) in core.relays() {
                assert!(*via != core.own && via != to && *to != core.own);
                assert!(self.connected(core.own, *via), "{:?}", core.relays());
            }
        }
    }

    fn meet(&self, one: NodeId, other: NodeId) -> bool {
        self.connected(one, other) && self.connected(other, one)
    }

    fn hop(&self, from: NodeId, to: NodeId) -> bool {
        if self.meet(from, to) {
            return true;
        }
        let relay = self.cores[from.0 as usize - 1].relays().get(&to);
        relay.is_some_and(|via| self.meet(from, *via) && self.meet(*via, to))
    }

    /// Whether any third node could carry frames between two.
    fn could_hop(&self, one: NodeId, other: NodeId) -> bool {
        let thirds = self
            .nodes()
            .into_iter()
            .filter(|via| *via != one && *via != other);
        self.meet(one, other)
            || thirds
                .into_iter()
                .any(|via| self.meet(one, via) && self.meet(via, other))
    }
}

/// Node 2 could tell 1, who could tell 5, who could answer neither: 4 took what it once knew of 2 for the present.
#[test]
fn what_comes_one_way_only_is_news_as_well() {
    settles(14_851_775_905_419_148_461, 5, 68).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_node_has_a_way_to_the_leader(seed in any::<u64>(), count in 3u64..6, trouble in 0u32..80) {
        settles(seed, count, trouble)?;
    }
}

/// A run: `trouble` ticks of breaking and mending, then quiet.
fn settles(seed: u64, count: u64, trouble: u32) -> Result<(), TestCaseError> {
    let mut world = World::new(count, seed);
    for _ in 0..trouble {
        if world.below(3) == 0 {
            world.break_or_mend();
        }
        world.step();
    }
    for _ in 0..SETTLED_AFTER {
        world.step();
    }
    let leader = world.leader;
    for node in world.nodes().into_iter().filter(|node| *node != leader) {
        if world.could_hop(node, leader) {
            prop_assert!(
                world.hop(node, leader) && world.hop(leader, node),
                "{node} and the leader {leader} of {count}, broken: {:?}",
                world.broken
            );
        }
    }
    // A leader that stays is as well met as any voter that it could have handed over to.
    let met = |node: NodeId| {
        world
            .nodes()
            .into_iter()
            .filter(|other| world.meet(node, *other))
            .count()
    };
    let better = world.nodes().into_iter().any(|node| {
        world.meet(leader, node)
            && met(node) > met(leader)
            && world.nodes().into_iter().any(|missed| {
                missed != leader && !world.meet(leader, missed) && world.meet(node, missed)
            })
    });
    prop_assert!(
        !better,
        "{leader} kept the group though another meets more: {:?}",
        world.broken
    );
    for (index, (node, at)) in world.moves.iter().enumerate() {
        let again = world.moves[index + 1..]
            .iter()
            .find(|(other, _)| other == node);
        prop_assert!(again.is_none_or(|(_, next)| *next - *at >= HYSTERESIS));
    }
    Ok(())
}
