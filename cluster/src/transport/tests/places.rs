//! Where frames are handed over.

use std::thread::{self, ThreadId};

use tokio::sync::oneshot;

use super::*;

/// Sends the thread on which each frame is handed over, with the frame's lane.
struct Places(mpsc::UnboundedSender<(Lane, ThreadId)>);

impl FrameHandler for Places {
    fn on_frame(&self, _: NodeId, lane: Lane, _: Frame, _: Option<Reply>) {
        let here = thread::current().id();
        self.0.send((lane, here)).unwrap_or_default();
    }

    fn on_peer(&self, _: PeerEvent) {}

    fn is_member(&self, _: NodeId) -> bool {
        true
    }
}

/// A runtime of one thread, until the sender is dropped.
fn runtime_of_one_thread() -> (Handle, ThreadId, oneshot::Sender<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let (keep, kept) = oneshot::channel::<()>();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tell.send((runtime.handle().clone(), thread::current().id()))
            .unwrap();
        runtime.block_on(async {
            // An error: the test is over.
            kept.await.unwrap_or_default();
        });
    });
    let (handle, thread) = told.recv().unwrap();
    (handle, thread, keep)
}

async fn place(seen: &mut mpsc::UnboundedReceiver<(Lane, ThreadId)>, lane: Lane) -> ThreadId {
    let found = async {
        loop {
            let (of, thread) = seen.recv().await.unwrap();
            if of == lane {
                return thread;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap()
}

#[tokio::test]
async fn the_route_lane_is_on_the_threads_of_those_it_is_for() {
    let ca = Ca::new();
    let (handle, routes, keep) = runtime_of_one_thread();
    let mut config_of_two = config(2, ca.node(2));
    config_of_two.route_runtimes = vec![handle];
    let (sender, mut seen) = mpsc::unbounded_channel();
    let two = Transport::start(config_of_two, Arc::new(Places(sender)));
    let two = two.await.unwrap();
    let mut one = Node::start(config(1, ca.node(1))).await;
    one.dials(2, two.local_addr().to_string());
    two.set_peers(&[(NodeId(1), one.address())]);
    one.wait_connected(2).await;

    let frame = |number| Frame {
        kind: IGNORE,
        flags: 0,
        partition: crate::PartitionId(0),
        epoch: crate::Epoch(0),
        sequence: number,
        body: bytes::Bytes::from_static(b"where"),
    };
    let here = thread::current().id();
    for (lane, place_of_lane) in [(Lane::Route, routes), (Lane::Raft, here)] {
        // A peer's, on the connection that it opened, and our own.
        one.transport.send(NodeId(2), lane, frame(1)).unwrap();
        assert_eq!(place(&mut seen, lane).await, place_of_lane, "{lane}");
        two.send(NodeId(2), lane, frame(2)).unwrap();
        assert_eq!(place(&mut seen, lane).await, place_of_lane, "{lane}");
    }
    one.transport.shutdown().await;
    two.shutdown().await;
    drop(keep);
}
