//! The rules as tables: who sees what, for how long, and what follows.

use super::*;

const OWN: NodeId = NodeId(1);

/// A pool of `1..=count` where all meet but these: `(from, to)` has no connection.
fn sight(count: u64, cuts: &[(u64, u64)]) -> Sight {
    let reached = |from: u64| {
        (1..=count)
            .filter(|to| *to != from && !cuts.contains(&(from, *to)))
            .map(NodeId)
            .collect()
    };
    Sight::new((1..=count).map(|node| (NodeId(node), reached(node))))
}

fn both(a: u64, b: u64) -> [(u64, u64); 2] {
    [(a, b), (b, a)]
}

/// What node 1 decides about group 4 after `millis` of this sight.
fn decided(seen: &Sight, millis: u64) -> (Vec<(u64, u64)>, Option<u64>, Vec<u64>) {
    let start = Instant::now();
    let mut core = Reachability::new(OWN);
    core.observe(seen.clone(), start);
    let now = start + Duration::from_millis(millis);
    core.observe(seen.clone(), now);
    let relays = core
        .relays()
        .iter()
        .map(|(to, via)| (to.0, via.0))
        .collect();
    let heir = core.hand_over(Group(4), |_| true, now).map(|node| node.0);
    let avoided = core.avoided().into_iter().map(|node| node.0).collect();
    (relays, heir, avoided)
}

#[test]
fn a_relay_first_and_then_a_better_leader() {
    let check = |count: u64, cuts: &[(u64, u64)], millis: u64, relays: &[(u64, u64)], heir| {
        let (told, to, _) = decided(&sight(count, cuts), millis);
        assert_eq!(
            (told.as_slice(), to),
            (relays, heir),
            "{count} nodes without {cuts:?} for {millis} ms"
        );
    };
    // All is well.
    check(3, &[], 60_000, &[], None);
    // Node 2 is not met; node 3 meets both.
    check(3, &both(1, 2), 999, &[], None);
    check(3, &both(1, 2), 1_000, &[(2, 3)], None);
    check(3, &both(1, 2), 1_999, &[(2, 3)], None);
    check(3, &both(1, 2), 2_000, &[(2, 3)], Some(3));
    // One direction is as bad as both.
    check(3, &[(1, 2)], 2_000, &[(2, 3)], Some(3));
    check(3, &[(2, 1)], 2_000, &[(2, 3)], Some(3));
    // Others' trouble is theirs.
    check(3, &both(2, 3), 60_000, &[], None);
    // Node 2 meets nobody: that is no reason to hand over, and nobody can relay.
    check(3, &[both(1, 2), both(2, 3)].concat(), 60_000, &[], None);
    // We meet nobody: there is nobody to hand over to.
    check(3, &[both(1, 2), both(1, 3)].concat(), 60_000, &[], None);
    // In a ring of four everybody meets two: no voter is better, so the relay stays.
    let ring = [both(1, 2), both(3, 4)].concat();
    let (relays, heir, avoided) = decided(&sight(4, &ring), 60_000);
    assert_eq!((relays.len(), heir, avoided), (1, None, Vec::new()));
    assert!(matches!(relays[0], (2, 3 | 4)));
    // The relay must meet both ends, in both directions.
    check(
        4,
        &[both(1, 2).as_slice(), &[(3, 2)]].concat(),
        1_000,
        &[(2, 4)],
        None,
    );
    check(
        4,
        &[both(1, 2).as_slice(), &[(1, 3)]].concat(),
        1_000,
        &[(2, 4), (3, 4)],
        None,
    );
}

#[test]
fn leaderships_are_not_spread_to_those_who_meet_fewer() {
    let check = |cuts: &[(u64, u64)], avoided: &[u64]| {
        assert_eq!(decided(&sight(3, cuts), 0).2, avoided, "{cuts:?}");
    };
    check(&[], &[]);
    check(&both(2, 3), &[2, 3]);
    check(&[(3, 2)], &[2, 3]);
    check(&both(1, 2), &[]);
}

#[test]
fn a_broken_moment_is_forgotten_after_the_hysteresis() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (whole, cut) = (sight(3, &[]), sight(3, &both(2, 3)));
    let mut core = Reachability::new(OWN);
    core.observe(cut, at(0));
    core.observe(whole.clone(), at(29));
    assert_eq!(core.avoided().len(), 2);
    core.observe(whole, at(30));
    assert_eq!(core.avoided().len(), 0);
}

#[test]
fn a_flapping_connection_moves_a_group_once_in_thirty_seconds() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (whole, cut) = (sight(3, &[]), sight(3, &both(1, 2)));
    let mut core = Reachability::new(OWN);
    let mut moved = Vec::new();
    // Six seconds broken, six whole; the leadership comes back to us each time.
    for second in 0..120 {
        let seen = if second / 6 % 2 == 0 { &cut } else { &whole };
        core.observe(seen.clone(), at(second));
        if core.hand_over(Group(4), |_| true, at(second)).is_some() {
            moved.push(second);
        }
    }
    assert_eq!(moved, [2, 38, 74, 110]);
    // Another group has its own count.
    let mut other = Reachability::new(OWN);
    other.observe(cut.clone(), at(0));
    other.observe(cut, at(2));
    assert_eq!(other.hand_over(Group(1), |_| true, at(2)), Some(NodeId(3)));
    assert_eq!(other.hand_over(Group(1), |_| true, at(2)), None);
    assert_eq!(
        other.hand_over(Group(2), |_| false, at(2)),
        None,
        "nobody is fit"
    );
    assert_eq!(other.hand_over(Group(2), |_| true, at(2)), Some(NodeId(3)));
}

#[test]
fn the_dead_are_not_missed() {
    let start = Instant::now();
    let mut core = Reachability::new(OWN);
    let cut = sight(3, &both(1, 2));
    let without_two = Sight::new(
        [(1, vec![3]), (3, vec![1])]
            .map(|(node, reached)| (NodeId(node), reached.into_iter().map(NodeId).collect())),
    );
    core.observe(cut.clone(), start);
    core.observe(without_two, start + Duration::from_millis(1_900));
    core.observe(cut.clone(), start + Duration::from_millis(2_100));
    let now = start + Duration::from_millis(3_000);
    core.observe(cut, now);
    assert_eq!(core.relays().len(), 0, "it counts from its return");
    assert_eq!(core.hand_over(Group(1), |_| true, now), None);
}

#[test]
fn a_relay_that_serves_is_kept() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut core = Reachability::new(OWN);
    let cut = both(1, 2);
    core.observe(sight(5, &cut), at(0));
    core.observe(sight(5, &cut), at(1));
    let first = core.relays()[&NodeId(2)];
    let other = (3..=5).find(|node| *node != first.0).unwrap();
    // Another one falls out: nothing changes. Ours falls out: another serves.
    core.observe(sight(5, &[cut, both(2, other)].concat()), at(2));
    assert_eq!(core.relays()[&NodeId(2)], first);
    core.observe(sight(5, &[cut, both(2, first.0)].concat()), at(3));
    assert_ne!(core.relays()[&NodeId(2)], first);
    core.observe(sight(5, &[]), at(4));
    assert!(core.relays().is_empty());
}
