//! Frames arrive whole and in order, calls find their replies, and nothing grows without bound.

use futures_util::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_order() {
    let (one, mut two) = pair().await;
    let sizes = [
        0,
        1,
        23,
        24,
        1000,
        32 * 1024 - 24,
        32 * 1024 - 23,
        65_535,
        65_536,
        200_000,
        4 << 20,
    ];
    let count = 600;
    let send = async {
        for number in 0..count {
            let size = if number % 50 == 0 {
                sizes[(number / 50) as usize % sizes.len()]
            } else {
                40
            };
            let frame = Frame {
                kind: IGNORE,
                flags: 0b1010_1111,
                partition: crate::PartitionId(7),
                epoch: crate::Epoch(8),
                sequence: number,
                body: vec![number as u8; size].into(),
            };
            while one.transport.send(NodeId(2), Lane::Route, frame.clone()) == Err(SendError::Full)
            {
                tokio::task::yield_now().await;
            }
        }
    };
    let receive = async {
        for number in 0..count {
            let (from, lane, frame) = two.wait_frame().await;
            assert_eq!(
                (from, lane, frame.sequence),
                (NodeId(1), Lane::Route, number)
            );
            assert_eq!(
                (frame.partition.0, frame.epoch.0, frame.flags),
                (7, 8, 0b1010_0000)
            );
            assert!(frame.body.iter().all(|byte| *byte == number as u8));
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_are_in_flight_at_once() {
    let (one, _two) = pair().await;
    let call = |number: u32| {
        let transport = one.transport.clone();
        async move {
            let body = number.to_be_bytes().to_vec();
            let reply = transport
                .call(
                    NodeId(2),
                    Lane::Raft,
                    Frame::new(ECHO, body.clone()),
                    PATIENCE,
                )
                .await;
            let reply = reply.unwrap();
            assert_eq!(
                (reply.kind, reply.flags, &reply.body[..]),
                (9, 0, &body[..])
            );
        }
    };
    join_all((0..1000).map(call)).await;
}

#[tokio::test]
async fn a_call_without_reply_says_what_is_known() {
    let (one, two) = pair().await;
    let call = |kind, size, limit| {
        one.transport.call(
            NodeId(2),
            Lane::Gossip,
            Frame::new(kind, vec![0; size]),
            limit,
        )
    };
    assert_eq!(call(IGNORE, 0, PATIENCE).await, Err(CallError::NoReply));
    let brief = Duration::from_millis(10);
    assert_eq!(call(HOLD, 0, brief).await, Err(CallError::Timeout(brief)));
    let too_large = call(ECHO, 1 << 20, PATIENCE).await.unwrap_err();
    assert!(matches!(
        too_large,
        CallError::NotSent(SendError::TooLarge(_))
    ));
    assert!(!too_large.is_outcome_unknown());
    let stranger = one
        .transport
        .call(NodeId(9), Lane::Raft, Frame::new(ECHO, ""), PATIENCE)
        .await;
    assert_eq!(
        stranger,
        Err(CallError::NotSent(SendError::NoPeer(NodeId(9))))
    );
    let (lost, ()) = tokio::join!(call(HOLD, 0, PATIENCE), two.transport.shutdown());
    assert!(
        lost.as_ref().is_err_and(|error| *error == CallError::Lost),
        "{lost:?}"
    );
}

#[tokio::test]
async fn frames_to_ourselves_take_the_same_handler_in_order() {
    let ca = Ca::new();
    let mut node = Node::start(config(1, ca.node(1))).await;
    for number in 0..100 {
        node.transport
            .send(
                NodeId(1),
                Lane::Route,
                Frame {
                    sequence: number,
                    ..Frame::new(IGNORE, "x")
                },
            )
            .unwrap();
    }
    for number in 0..100 {
        let (from, lane, frame) = node.wait_frame().await;
        assert_eq!(
            (from, lane, frame.sequence),
            (NodeId(1), Lane::Route, number)
        );
    }
    let call = |kind| {
        node.transport
            .call(NodeId(1), Lane::Route, Frame::new(kind, "self"), PATIENCE)
    };
    assert_eq!(call(ECHO).await.unwrap().body, "self");
    assert_eq!(call(IGNORE).await, Err(CallError::NoReply));
    assert_eq!(call(PANIC).await, Err(CallError::NoReply));
    assert_eq!(call(ECHO).await.unwrap().body, "self");
    let body_max = TransportLimits::default().gossip.body_max;
    assert!(
        node.transport
            .send(
                NodeId(1),
                Lane::Gossip,
                Frame::new(IGNORE, vec![0; body_max + 1])
            )
            .is_err()
    );
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_a_bounded_queue() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::start(config(1, ca.node(1))).await;
    node.dials(2, listener.local_addr().unwrap().to_string());
    let tls = ca.node(2);
    let mut silent = Vec::new();
    while silent.iter().all(|(_, lane)| *lane != Lane::Gossip) {
        silent.push(raw_acceptor(&tls, &identity(2), &listener).await);
    }
    while !node.transport.connected(NodeId(2), Lane::Gossip) {
        tokio::task::yield_now().await;
    }
    let budget = TransportLimits::default().gossip.queue_bytes;
    let mut sent = 0_usize;
    let full = loop {
        match node
            .transport
            .send(NodeId(2), Lane::Gossip, Frame::new(IGNORE, vec![0; 10_000]))
        {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(node.transport.queued_bytes(NodeId(2), Lane::Gossip) <= budget);
        // The kernel takes some; the queue fills once it takes no more.
        tokio::task::yield_now().await;
        assert!(sent < 10_000, "the queue has no bound");
    };
    assert_eq!(full, SendError::Full);
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_connection() {
    let (mut one, mut two) = pair().await;
    one.transport
        .send(NodeId(2), Lane::Route, Frame::new(PANIC, ""))
        .unwrap();
    assert_eq!(
        two.wait_down(1, Lane::Route, Direction::Incoming).await,
        DownReason::Local
    );
    one.wait_down(2, Lane::Route, Direction::Outgoing).await;
    one.wait_connected(2).await;
    let reply = one
        .transport
        .call(NodeId(2), Lane::Route, Frame::new(ECHO, "again"), PATIENCE)
        .await;
    assert_eq!(reply.unwrap().body, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_to_ourselves_come_one_at_a_time_and_in_their_order() {
    let mut node = Node::start(config(1, Ca::new().node(1))).await;
    node.wait_up(1, Lane::Route, Direction::Incoming).await;
    let (senders, each) = (4_u16, 2_000_u64);
    let threads: Vec<_> = (0..senders)
        .map(|sender| {
            let transport = node.transport.clone();
            std::thread::spawn(move || {
                for number in 0..each {
                    let frame = Frame {
                        kind: IGNORE,
                        partition: crate::PartitionId(sender),
                        sequence: number,
                        ..Frame::default()
                    };
                    while transport
                        .send(NodeId(1), Lane::Route, frame.clone())
                        .is_err()
                    {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = vec![0; usize::from(senders)];
    for _ in 0..u64::from(senders) * each {
        let (_, _, frame) = node.wait_frame().await;
        let expected = &mut next[usize::from(frame.partition.0)];
        assert_eq!(frame.sequence, *expected);
        *expected += 1;
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}
