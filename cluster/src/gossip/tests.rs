//! Gossip's properties, on many cores in one process with a network that loses and reorders.

use proptest::prelude::*;

use super::*;

fn ids(count: u64) -> Vec<NodeId> {
    (1..=count).map(NodeId).collect()
}

fn core(node: u64, generation: u64, pool: u64) -> Gossip {
    let mut core = Gossip::new(NodeId(node), Incarnation(generation));
    drop(core.tick(Duration::ZERO, &ids(pool), 0));
    core
}

fn load(core: &Gossip, node: u64) -> Option<u32> {
    match core.view().get(&NodeId(node))?.get(GossipKey::Load)? {
        GossipValue::Load(load) => Some(*load),
        _ => None,
    }
}

/// One whole exchange without loss, through the wire form.
fn exchange(a: &mut Gossip, b: &mut Gossip, now: Duration) {
    let wire = |message: GossipMessage| GossipMessage::decode(&message.encode()).unwrap();
    let digest = GossipMessage {
        step: Step::Digest,
        digest: a.digest(),
        deltas: Vec::new(),
    };
    let answer = b.handle(a.own, wire(digest), now).unwrap();
    if let Some(delta) = a.handle(b.own, wire(answer), now) {
        assert_eq!(b.handle(a.own, wire(delta), now), None);
    }
}

type Told = BTreeMap<NodeId, (Incarnation, Vec<(GossipKey, GossipValue)>)>;

fn told(core: &Gossip) -> Told {
    let of = |view: &NodeView| {
        (
            view.generation,
            view.values()
                .map(|(key, value)| (key, value.clone()))
                .collect(),
        )
    };
    core.view()
        .iter()
        .map(|(node, view)| (*node, of(view)))
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Set {
        node: usize,
        partition: u16,
        epoch: u64,
    },
    Withdraw {
        node: usize,
        partition: u16,
    },
    Restart {
        node: usize,
    },
    Tick {
        node: usize,
        random: u64,
    },
    Deliver {
        index: usize,
    },
    Repeat {
        index: usize,
    },
    Lose {
        index: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..4usize;
    prop_oneof![
        2 => (node.clone(), 0..8u16, any::<u64>()).prop_map(|(node, partition, epoch)| Op::Set { node, partition, epoch }),
        1 => (node.clone(), 0..8u16).prop_map(|(node, partition)| Op::Withdraw { node, partition }),
        1 => node.clone().prop_map(|node| Op::Restart { node }),
        3 => (node, any::<u64>()).prop_map(|(node, random)| Op::Tick { node, random }),
        6 => any::<usize>().prop_map(|index| Op::Deliver { index }),
        1 => any::<usize>().prop_map(|index| Op::Repeat { index }),
        2 => any::<usize>().prop_map(|index| Op::Lose { index }),
    ]
}

/// Four cores and the messages between them.
struct World {
    cores: Vec<Gossip>,
    lives: u64,
    flying: Vec<(usize, NodeId, GossipMessage)>,
}

impl World {
    fn new() -> World {
        World {
            cores: (1..=4).map(|node| core(node, 1, 4)).collect(),
            lives: 1,
            flying: Vec::new(),
        }
    }

    fn run(&mut self, op: Op) {
        let now = Duration::ZERO;
        match op {
            Op::Set {
                node,
                partition,
                epoch,
            } => {
                let value = GossipValue::Owner(NodeId(node as u64), Epoch(epoch));
                self.cores[node]
                    .set(GossipKey::Owner(PartitionId(partition)), value)
                    .unwrap();
            }
            Op::Withdraw { node, partition } => {
                self.cores[node]
                    .set(
                        GossipKey::Owner(PartitionId(partition)),
                        GossipValue::Withdrawn,
                    )
                    .unwrap();
            }
            Op::Restart { node } => {
                self.lives += 1;
                self.cores[node] = core(node as u64 + 1, self.lives, 4);
            }
            Op::Tick { node, random } => {
                for (to, message) in self.cores[node].tick(now, &ids(4), random) {
                    self.flying
                        .push((to.0 as usize - 1, NodeId(node as u64 + 1), message));
                }
            }
            Op::Deliver { index } => self.deliver(index, true),
            Op::Repeat { index } => self.deliver(index, false),
            Op::Lose { index } => {
                if !self.flying.is_empty() {
                    let index = index % self.flying.len();
                    self.flying.swap_remove(index);
                }
            }
        }
    }

    fn deliver(&mut self, index: usize, remove: bool) {
        if self.flying.is_empty() {
            return;
        }
        let index = index % self.flying.len();
        let (to, from, message) = if remove {
            self.flying.swap_remove(index)
        } else {
            self.flying[index].clone()
        };
        if let Some(answer) = self.cores[to].handle(from, message, Duration::ZERO) {
            self.flying
                .push((from.0 as usize - 1, NodeId(to as u64 + 1), answer));
        }
    }
}

proptest! {
    #[test]
    fn nodes_agree_once_messages_get_through(ops in proptest::collection::vec(op(), 0..200)) {
        let mut world = World::new();
        let mut highest: Vec<BTreeMap<NodeId, Incarnation>> = vec![BTreeMap::new(); 4];
        for op in ops {
            if let Op::Restart { node } = op {
                highest[node].clear();
            }
            world.run(op);
            for (core, highest) in world.cores.iter().zip(&mut highest) {
                for (node, view) in core.view() {
                    let before = highest.insert(*node, view.generation);
                    prop_assert!(before.is_none_or(|before| before <= view.generation), "an older life won");
                }
            }
        }
        for _ in 0..2 {
            for a in 0..4 {
                for b in a + 1..4 {
                    let (left, right) = world.cores.split_at_mut(b);
                    exchange(&mut left[a], &mut right[0], Duration::ZERO);
                }
            }
        }
        for core in &world.cores {
            prop_assert_eq!(told(core), told(&world.cores[0]));
            let own = &core.view()[&core.own];
            prop_assert_eq!(&told(&world.cores[0])[&core.own].0, &own.generation);
        }
    }

    #[test]
    fn whatever_is_told_stays_small(
        told in proptest::collection::vec((0..3u8, any::<u16>(), any::<u64>(), 0..400usize), 0..300)
    ) {
        let mut a = core(1, u64::MAX, 2);
        let mut b = core(2, 1, 2);
        for (kind, partition, number, length) in told {
            let (key, value) = match kind {
                0 => (GossipKey::Owner(PartitionId(partition)), GossipValue::Owner(NodeId(number), Epoch(number))),
                1 => (GossipKey::Reaches, GossipValue::Reaches(vec![NodeId(number); length])),
                _ => (GossipKey::Load, GossipValue::Load(number as u32)),
            };
            let before = a.view()[&NodeId(1)].version;
            if a.set(key, value).is_err() {
                prop_assert_eq!(a.view()[&NodeId(1)].version, before);
            }
            prop_assert!(a.view()[&NodeId(1)].bytes() <= NODE_BYTES_MAX);
        }
        exchange(&mut a, &mut b, Duration::ZERO);
        prop_assert_eq!(told_of(&b, 1), told_of(&a, 1));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut core = core(1, 1, 3);
        for head in [&[][..], &[1, 0], &[1, 1], &[1, 2, 0]] {
            if let Ok(message) = GossipMessage::decode(&[head, &bytes].concat()) {
                prop_assert_eq!(GossipMessage::decode(&message.encode()), Ok(message.clone()));
                drop(core.handle(NodeId(2), message, Duration::ZERO));
            }
        }
        prop_assert!(core.view().len() <= 3);
    }
}

fn told_of(core: &Gossip, node: u64) -> Option<(Incarnation, Vec<(GossipKey, GossipValue)>)> {
    told(core).remove(&NodeId(node))
}

#[test]
fn a_large_pool_converges_in_bounded_messages() {
    let count = 64;
    let mut full = core(1, 1, count);
    for node in 2..=count {
        let mut other = core(node, 1, count);
        for partition in 0..64 {
            let value = GossipValue::Owner(NodeId(node), Epoch(1 << 33));
            other
                .set(GossipKey::Owner(PartitionId(partition)), value)
                .unwrap();
        }
        other
            .set(GossipKey::Reaches, GossipValue::Reaches(ids(count)))
            .unwrap();
        exchange(&mut other, &mut full, Duration::ZERO);
    }
    let mut new = core(70, 1, count);
    drop(full.tick(Duration::ZERO, &[ids(count), vec![NodeId(70)]].concat(), 0));
    for round in 0.. {
        assert!(round < 16, "it does not converge");
        let digest = GossipMessage {
            step: Step::Digest,
            digest: new.digest(),
            deltas: Vec::new(),
        };
        let answer = full.handle(NodeId(70), digest, Duration::ZERO).unwrap();
        assert!(answer.encode().len() <= DELTA_BYTES_MAX + 4096);
        if answer.deltas.is_empty() {
            break;
        }
        drop(new.handle(NodeId(1), answer, Duration::ZERO));
    }
    assert_eq!(told_of(&new, 64), told_of(&full, 64));
    assert_eq!(
        new.owner_hint(PartitionId(63)).map(|(_, epoch)| epoch),
        Some(Epoch(1 << 33))
    );
}

#[test]
fn a_new_life_replaces_the_old_one_whole() {
    let (mut a, mut b) = (core(1, 5, 2), core(2, 1, 2));
    a.set(GossipKey::Load, GossipValue::Load(1)).unwrap();
    a.set(GossipKey::Reaches, GossipValue::Reaches(vec![NodeId(2)]))
        .unwrap();
    exchange(&mut a, &mut b, Duration::ZERO);
    assert_eq!(load(&b, 1), Some(1));
    let mut next = core(1, 6, 2);
    next.set(GossipKey::Load, GossipValue::Load(2)).unwrap();
    exchange(&mut next, &mut b, Duration::ZERO);
    assert_eq!(load(&b, 1), Some(2));
    assert_eq!(b.view()[&NodeId(1)].get(GossipKey::Reaches), None);
    exchange(&mut a, &mut b, Duration::ZERO);
    assert_eq!(load(&b, 1), Some(2), "the old life's words are void");
}

#[test]
fn a_renewed_generation_takes_everything_along() {
    let (mut a, mut b) = (core(1, 0, 2), core(2, 1, 2));
    a.set(GossipKey::Load, GossipValue::Load(3)).unwrap();
    exchange(&mut a, &mut b, Duration::ZERO);
    a.renew(Incarnation(9));
    a.renew(Incarnation(4));
    exchange(&mut a, &mut b, Duration::ZERO);
    assert_eq!(
        (load(&b, 1), b.view()[&NodeId(1)].generation()),
        (Some(3), Incarnation(9))
    );
}

#[test]
fn liveness_follows_the_heartbeat() {
    let (mut a, mut b) = (core(1, 1, 2), core(2, 1, 2));
    let second = Duration::from_secs;
    exchange(&mut a, &mut b, second(1));
    let check =
        |b: &Gossip, now, expect| assert_eq!(b.view()[&NodeId(1)].liveness(second(now)), expect);
    check(&b, 2, Liveness::Alive);
    check(&b, 4, Liveness::Suspect);
    check(&b, 11, Liveness::Dead);
    // The same heartbeat again is no news of it.
    exchange(&mut a, &mut b, second(12));
    check(&b, 12, Liveness::Dead);
    drop(a.tick(second(12), &ids(2), 0));
    exchange(&mut a, &mut b, second(12));
    check(&b, 13, Liveness::Alive);
}

#[test]
fn only_members_are_heard_and_kept() {
    let (mut a, mut b) = (core(1, 1, 3), core(2, 1, 3));
    exchange(&mut core(3, 1, 3), &mut a, Duration::ZERO);
    exchange(&mut a, &mut b, Duration::ZERO);
    assert!(b.view().contains_key(&NodeId(3)));
    drop(b.tick(Duration::ZERO, &ids(2), 0));
    exchange(&mut a, &mut b, Duration::ZERO);
    assert!(
        !b.view().contains_key(&NodeId(3)),
        "a member still gossips of it"
    );
    let digest = GossipMessage {
        step: Step::Digest,
        digest: Vec::new(),
        deltas: Vec::new(),
    };
    assert_eq!(b.handle(NodeId(3), digest, Duration::ZERO), None);
}

#[test]
fn the_highest_epoch_is_the_hint() {
    let (mut a, mut b) = (core(1, 1, 2), core(2, 1, 2));
    let key = GossipKey::Owner(PartitionId(5));
    a.set(key, GossipValue::Owner(NodeId(1), Epoch(10)))
        .unwrap();
    b.set(key, GossipValue::Owner(NodeId(2), Epoch(20)))
        .unwrap();
    exchange(&mut a, &mut b, Duration::ZERO);
    assert_eq!(a.owner_hint(PartitionId(5)), Some((NodeId(2), Epoch(20))));
    b.set(key, GossipValue::Withdrawn).unwrap();
    exchange(&mut a, &mut b, Duration::ZERO);
    assert_eq!(a.owner_hint(PartitionId(5)), Some((NodeId(1), Epoch(10))));
    assert_eq!(a.owner_hint(PartitionId(6)), None);
}

#[test]
fn a_tick_names_few_peers_and_never_ourselves() {
    let mut core = core(1, 1, 9);
    for random in 0..200 {
        let to: BTreeSet<_> = core
            .tick(Duration::ZERO, &ids(9), random)
            .into_iter()
            .map(|(to, _)| to)
            .collect();
        assert_eq!(to.len(), 3);
        assert!(!to.contains(&NodeId(1)));
    }
    assert!(core.tick(Duration::ZERO, &[NodeId(1)], 0).is_empty());
}

#[test]
fn hints_get_through_to_a_peer_whose_answers_are_lost() {
    let (mut a, mut b) = (core(1, 1, 2), core(2, 1, 2));
    exchange(&mut a, &mut b, Duration::ZERO);
    a.set(GossipKey::Load, GossipValue::Load(7)).unwrap();
    // At first the digest alone: whoever lacks something asks for it.
    for (seconds, expect) in [(1, None), (3, Some(7))] {
        let now = Duration::from_secs(seconds);
        for (_, digest) in a.tick(now, &ids(2), 0) {
            assert!(
                b.handle(NodeId(1), digest, now).is_some(),
                "and this is lost"
            );
        }
        assert_eq!(load(&b, 1), expect);
    }
}
