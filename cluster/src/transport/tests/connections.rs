//! How connections begin, are replaced, and end.

use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn a_stopped_peer_says_goodbye_and_is_found_again() {
    let ca = Ca::new();
    let mut one = Node::start(config(1, ca.node(1))).await;
    let two = Node::start(config(2, ca.node(2))).await;
    let address = two.transport.local_addr();
    one.dials(2, address.to_string());
    one.wait_connected(2).await;
    let mut events = one.transport.subscribe();
    one.transport
        .send(NodeId(2), Lane::Route, Frame::new(IGNORE, "before"))
        .unwrap();
    two.transport.shutdown().await;
    assert_eq!(
        one.wait_down(2, Lane::Route, Direction::Outgoing).await,
        DownReason::Goodbye
    );
    while !matches!(events.recv().await, Ok(PeerEvent::Down { .. })) {}
    assert_eq!(
        one.transport
            .send(NodeId(2), Lane::Route, Frame::new(IGNORE, "between")),
        Err(SendError::Disconnected)
    );
    assert!(
        one.transport.probe(NodeId(2), PATIENCE).await.is_err(),
        "nobody is there"
    );

    let mut again = config(2, ca.node(2));
    again.listen = address;
    again.incarnation = Incarnation(777);
    let mut two = Node::start(again).await;
    assert_eq!(
        one.wait_up(2, Lane::Route, Direction::Outgoing).await,
        Incarnation(777)
    );
    one.transport
        .send(NodeId(2), Lane::Route, Frame::new(IGNORE, "after"))
        .unwrap();
    let (_, _, frame) = two.wait_frame().await;
    assert_eq!(
        frame.body, "after",
        "what was sent before or between is gone"
    );
}

#[tokio::test]
async fn a_crash_is_seen_at_once_and_told_from_a_goodbye() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut node = Node::start(config(1, ca.node(1))).await;
    node.dials(2, listener.local_addr().unwrap().to_string());
    let tls = ca.node(2);
    let (stream, lane) = raw_acceptor(&tls, &identity(2), &listener).await;
    node.wait_up(2, lane, Direction::Outgoing).await;
    drop(stream);
    let reason = node.wait_down(2, lane, Direction::Outgoing).await;
    assert!(reason.is_crash_sign(), "{reason}");
    drop(listener);
    let probed = node.transport.probe(NodeId(2), PATIENCE).await;
    assert!(matches!(probed, Err(ProbeError::Connect(_))), "{probed:?}");
}

#[tokio::test]
async fn a_probe_asks_the_process_not_the_kernel() {
    let (one, two) = pair().await;
    one.transport.probe(NodeId(2), PATIENCE).await.unwrap();
    one.transport.probe(NodeId(1), PATIENCE).await.unwrap();
    assert!(matches!(
        one.transport.probe(NodeId(5), PATIENCE).await,
        Err(ProbeError::NoPeer(_))
    ));
    // A frozen process: its kernel accepts, nobody answers.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.dials(2, frozen.local_addr().unwrap().to_string());
    let brief = Duration::from_millis(50);
    let probed = one.transport.probe(NodeId(2), brief).await;
    assert!(matches!(probed, Err(ProbeError::Timeout(_))), "{probed:?}");
    drop(two);
}

#[tokio::test]
async fn a_silent_peer_is_found_dead_on_the_gossip_lane() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut quick = config(1, ca.node(1));
    quick.limits.gossip.ping_interval = Duration::from_millis(50);
    quick.limits.gossip.idle_timeout = Duration::from_millis(200);
    let mut node = Node::start(quick).await;
    node.dials(2, listener.local_addr().unwrap().to_string());
    let tls = ca.node(2);
    let mut silent = Vec::new();
    for _ in Lane::ALL {
        silent.push(raw_acceptor(&tls, &identity(2), &listener).await);
    }
    assert_eq!(
        node.wait_down(2, Lane::Gossip, Direction::Outgoing).await,
        DownReason::Timeout
    );
}

#[tokio::test]
async fn pings_keep_an_idle_connection_alive() {
    let ca = Ca::new();
    let quick = |node| {
        let mut config = config(node, ca.node(node));
        config.limits.gossip.ping_interval = Duration::from_millis(20);
        config.limits.gossip.idle_timeout = Duration::from_millis(2000);
        config
    };
    let mut one = Node::start(quick(1)).await;
    let mut node = Node::start(quick(2)).await;
    one.dials(2, node.address());
    node.wait_up(1, Lane::Gossip, Direction::Incoming).await;
    one.wait_connected(2).await;
    // A peer that only reads sees the pings of an idle opener.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let three = ca.node(3);
    one.transport.set_peers(&[
        (NodeId(2), node.address()),
        (NodeId(3), listener.local_addr().unwrap().to_string()),
    ]);
    let mut gossip = loop {
        let (stream, lane) = raw_acceptor(&three, &identity(3), &listener).await;
        if lane == Lane::Gossip {
            break stream;
        }
    };
    for _ in 0..5 {
        let mut ping = [0; HEADER_BYTES];
        gossip.read_exact(&mut ping).await.unwrap();
        assert_eq!(
            ping[4..6],
            [super::super::control::Control::Ping as u8, flags::CONTROL]
        );
    }
    assert!(
        one.transport.connected(NodeId(2), Lane::Gossip),
        "node 2 answered its pings"
    );
}

#[tokio::test]
async fn a_replaced_connection_delivers_nothing_any_more() {
    let ca = Ca::new();
    let mut node = Node::start(config(1, ca.node(1))).await;
    let tls = ca.node(2);
    let frame = |sequence: u64| {
        let mut bytes = bytes::BytesMut::new();
        Frame {
            sequence,
            ..Frame::new(IGNORE, "")
        }
        .put_header(&mut bytes);
        bytes
    };
    let mut first = raw_opener(&tls, &identity(2), &node, Lane::Route).await;
    first.write_all(&frame(1)).await.unwrap();
    assert_eq!(node.wait_frame().await.2.sequence, 1);
    let mut second = raw_opener(&tls, &identity(2), &node, Lane::Route).await;
    assert_eq!(
        node.wait_down(2, Lane::Route, Direction::Incoming).await,
        DownReason::Replaced
    );
    node.wait_up(2, Lane::Route, Direction::Incoming).await;
    // The node may have closed the first already; then it can't be written to.
    drop(first.write_all(&frame(2)).await);
    drop(first.flush().await);
    let mut goodbye = Vec::new();
    drop(
        tokio::time::timeout(PATIENCE, first.read_to_end(&mut goodbye))
            .await
            .expect("the node closes it"),
    );
    second.write_all(&frame(3)).await.unwrap();
    assert_eq!(node.wait_frame().await.2.sequence, 3, "never frame 2");
}

#[tokio::test]
async fn removed_nodes_are_cut_off_both_ways() {
    let (mut one, mut two) = pair().await;
    one.transport.set_peers(&[]);
    assert_eq!(
        one.wait_down(2, Lane::Bulk, Direction::Outgoing).await,
        DownReason::Removed
    );
    assert_eq!(
        two.wait_down(1, Lane::Bulk, Direction::Incoming).await,
        DownReason::Goodbye
    );
    assert_eq!(
        one.transport.send(NodeId(2), Lane::Raft, Frame::default()),
        Err(SendError::NoPeer(NodeId(2)))
    );
    one.dials(2, two.address());
    two.wait_up(1, Lane::Bulk, Direction::Incoming).await;
    two.recorder.strangers.lock().unwrap().insert(NodeId(1));
    two.transport.set_peers(&[]);
    assert_eq!(
        two.wait_down(1, Lane::Bulk, Direction::Incoming).await,
        DownReason::Removed
    );
    let probed = one.transport.probe(NodeId(2), PATIENCE).await.unwrap_err();
    assert!(probed.to_string().contains("not a member"), "{probed}");
}

#[tokio::test]
async fn an_incarnation_that_becomes_known_is_told_to_everybody() {
    let ca = Ca::new();
    let mut starting = config(1, ca.node(1));
    starting.incarnation = Incarnation(0);
    let mut one = Node::start(starting).await;
    let mut two = Node::start(config(2, ca.node(2))).await;
    one.dials(2, two.address());
    two.dials(1, one.address());
    one.wait_connected(2).await;
    two.wait_connected(1).await;
    assert_eq!(
        two.wait_up(1, Lane::Route, Direction::Incoming).await,
        Incarnation(0)
    );
    one.transport.set_incarnation(Incarnation(50));
    assert_eq!(
        two.wait_up(1, Lane::Route, Direction::Incoming).await,
        Incarnation(50)
    );
    one.wait_up(2, Lane::Route, Direction::Outgoing).await;
    assert_eq!(
        one.wait_down(2, Lane::Route, Direction::Outgoing).await,
        DownReason::Local
    );
}

#[tokio::test]
async fn shutting_down_flushes_what_was_queued() {
    let (one, mut two) = pair().await;
    for number in 0..500 {
        let frame = Frame {
            sequence: number,
            ..Frame::new(IGNORE, vec![0; 1000])
        };
        one.transport.send(NodeId(2), Lane::Route, frame).unwrap();
    }
    one.transport.shutdown().await;
    for number in 0..500 {
        assert_eq!(two.wait_frame().await.2.sequence, number);
    }
    assert_eq!(
        two.wait_down(1, Lane::Route, Direction::Incoming).await,
        DownReason::Goodbye
    );
    assert_eq!(
        one.transport.send(NodeId(2), Lane::Route, Frame::default()),
        Err(SendError::Disconnected)
    );
    one.transport.set_peers(&[(NodeId(3), two.address())]);
    assert!(!one.transport.connected(NodeId(3), Lane::Raft));
}
