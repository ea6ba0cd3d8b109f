//! Two builds beside each other, and the end of that.

use super::*;

fn range(min: u16, max: u16) -> VersionRange {
    VersionRange { min, max }
}

async fn holds(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(held.is_ok(), "{what}");
}

fn connected(node: &Node, peer: u64) -> bool {
    let mut lanes = Lane::ALL.into_iter();
    lanes.any(|lane| node.transport.connected(NodeId(peer), lane))
}

/// What a node was told last of a peer that speaks nothing it speaks.
fn skew(node: &Node, peer: u64) -> Option<VersionRange> {
    let skews = node.recorder.skews.lock().unwrap();
    skews.get(&NodeId(peer)).copied().flatten()
}

#[tokio::test]
async fn every_lane_speaks_what_both_know_until_a_version_is_finalised() {
    let ca = Ca::new();
    let with = |node: u64, max| TransportConfig {
        protocol: range(1, max),
        ..config(node, ca.node(node))
    };
    let mut one = Node::start(with(1, 2)).await;
    let two = Node::start(with(2, 2)).await;
    let mut old = Node::start(with(3, 1)).await;
    let members = [(NodeId(2), two.address()), (NodeId(3), old.address())];
    one.transport.set_peers(&members);
    old.dials(1, one.address());
    one.wait_connected(2).await;
    one.wait_connected(3).await;
    old.wait_connected(1).await;
    for lane in Lane::ALL {
        assert_eq!(one.transport.protocol(NodeId(2), lane), Some(2));
        assert_eq!(one.transport.protocol(NodeId(3), lane), Some(1));
        assert_eq!(one.transport.protocol(NodeId(1), lane), Some(2), "itself");
    }
    assert_eq!(skew(&one, 3), None);

    one.transport.speak_from(2);
    holds("what is too old ends", || !connected(&one, 3)).await;
    holds("in both directions", || !connected(&old, 1)).await;
    holds("the reason is told", || skew(&one, 3) == Some(range(1, 1))).await;
    holds("on both sides", || skew(&old, 1) == Some(range(2, 2))).await;
    for lane in Lane::ALL {
        assert_eq!(one.transport.protocol(NodeId(2), lane), Some(2), "it stays");
    }
    assert_eq!(skew(&one, 2), None);
    // It never falls.
    one.transport.speak_from(1);
    assert!(one.transport.probe(NodeId(3), PATIENCE).await.is_err());
    one.transport.probe(NodeId(2), PATIENCE).await.unwrap();
}
