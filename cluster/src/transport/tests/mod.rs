//! The transport against itself and against hand-made peers, over real sockets on the loopback.

mod connections;
mod delivery;
mod places;
mod security;
mod versions;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::hello::{Hello, Identity, Purpose};
use super::tls::{TlsContext, server_name};
use super::*;
use crate::VersionRange;
use crate::node_id::PoolId;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the recording handler does with a request, by the frame's kind.
const ECHO: u8 = 1;
const IGNORE: u8 = 2;
const HOLD: u8 = 3;
const PANIC: u8 = 4;

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> ClusterTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        ClusterTls::new(
            vec![self.0.der().clone()],
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    fn node(&self, node: u64) -> ClusterTls {
        self.issue(&certificate_name(NodeId(node), &pool()), |_| {})
    }
}

fn pool() -> PoolId {
    "test".parse().unwrap()
}

fn config(node: u64, tls: ClusterTls) -> TransportConfig {
    TransportConfig {
        node: NodeId(node),
        pool_id: pool(),
        incarnation: Incarnation(100 + node),
        listen: "127.0.0.1:0".parse().unwrap(),
        tls,
        protocol: VersionRange::UNTOLD,
        route_runtimes: Vec::new(),
        limits: TransportLimits::default(),
    }
}

#[derive(Debug)]
enum Seen {
    Frame(NodeId, Lane, Frame),
    Peer(PeerEvent),
}

/// Records everything in the order it is told.
struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    held: Mutex<Vec<Reply>>,
    strangers: Mutex<HashSet<NodeId>>,
    /// What was told last of each peer's versions.
    skews: Mutex<HashMap<NodeId, Option<VersionRange>>>,
}

impl FrameHandler for Recorder {
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Frame, reply: Option<Reply>) {
        let kind = frame.kind;
        assert_ne!(kind, PANIC, "asked to");
        match reply {
            Some(reply) if kind == ECHO => reply.send(Frame { kind: 9, ..frame }).unwrap(),
            Some(reply) if kind == HOLD => self.held.lock().unwrap().push(reply),
            _ => self
                .seen
                .send(Seen::Frame(from, lane, frame))
                .unwrap_or_default(),
        }
    }

    fn on_peer(&self, event: PeerEvent) {
        self.seen.send(Seen::Peer(event)).unwrap_or_default();
    }

    fn on_skew(&self, node: NodeId, theirs: Option<VersionRange>) {
        self.skews.lock().unwrap().insert(node, theirs);
    }

    fn is_member(&self, node: NodeId) -> bool {
        !self.strangers.lock().unwrap().contains(&node)
    }
}

struct Node {
    transport: Transport,
    recorder: Arc<Recorder>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Node {
    async fn start(config: TransportConfig) -> Node {
        let (tx, seen) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder {
            seen: tx,
            held: Mutex::default(),
            strangers: Mutex::default(),
            skews: Mutex::default(),
        });
        let transport = Transport::start(config, recorder.clone()).await.unwrap();
        Node {
            transport,
            recorder,
            seen,
        }
    }

    fn address(&self) -> String {
        self.transport.local_addr().to_string()
    }

    fn dials(&self, peer: u64, address: String) {
        self.transport.set_peers(&[(NodeId(peer), address)]);
    }

    /// Skips what is seen until `pick` finds what it looks for.
    async fn wait<T>(&mut self, mut pick: impl FnMut(&Seen) -> Option<T>) -> T {
        let found = async {
            loop {
                let seen = self
                    .seen
                    .recv()
                    .await
                    .expect("the handler lives as long as its transport");
                if let Some(found) = pick(&seen) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .expect("it happens in time")
    }

    async fn wait_up(&mut self, peer: u64, lane: Lane, wanted: Direction) -> Incarnation {
        self.wait(|seen| match seen {
            Seen::Peer(PeerEvent::Up {
                node,
                lane: of,
                direction,
                incarnation,
                ..
            }) if (*node, *of, *direction) == (NodeId(peer), lane, wanted) => Some(*incarnation),
            _ => None,
        })
        .await
    }

    async fn wait_down(&mut self, peer: u64, lane: Lane, wanted: Direction) -> DownReason {
        self.wait(|seen| match seen {
            Seen::Peer(PeerEvent::Down {
                node,
                lane: of,
                direction,
                reason,
                ..
            }) if (*node, *of, *direction) == (NodeId(peer), lane, wanted) => Some(*reason),
            _ => None,
        })
        .await
    }

    async fn wait_frame(&mut self) -> (NodeId, Lane, Frame) {
        self.wait(|seen| match seen {
            Seen::Frame(from, lane, frame) => Some((*from, *lane, frame.clone())),
            Seen::Peer(_) => None,
        })
        .await
    }

    /// Waits until all lanes to the peer take frames.
    async fn wait_connected(&mut self, peer: u64) {
        for lane in Lane::ALL {
            let all = async {
                while !self.transport.connected(NodeId(peer), lane) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, all)
                .await
                .expect("it connects in time");
        }
    }
}

/// Node 1 dialling node 2, connected.
async fn pair() -> (Node, Node) {
    let ca = Ca::new();
    let mut one = Node::start(config(1, ca.node(1))).await;
    let two = Node::start(config(2, ca.node(2))).await;
    one.dials(2, two.address());
    one.wait_connected(2).await;
    (one, two)
}

fn identity(node: u64) -> Identity {
    Identity {
        node: NodeId(node),
        pool: pool(),
        incarnation: Incarnation(100 + node),
        protocol: VersionRange::UNTOLD,
    }
}

/// A peer whose every byte the test decides, past TLS and hello.
async fn raw_opener(
    tls: &ClusterTls,
    own: &Identity,
    target: &Node,
    lane: Lane,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let context = TlsContext::new(tls, own.node, &pool()).unwrap();
    let tcp = TcpStream::connect(target.transport.local_addr())
        .await
        .unwrap();
    let name = server_name(target.transport.node(), &pool());
    let mut stream = context.connector.connect(name, tcp).await.unwrap();
    stream
        .write_all(&Hello::opening(own, Purpose::Lane(lane)).encode())
        .await
        .unwrap();
    let answer = Hello::decode(&super::dial::read_hello(&mut stream).await.unwrap()).unwrap();
    answer.check_answer(own, target.transport.node()).unwrap();
    stream
}

/// The other side of it: accepts one connection and answers its hello.
async fn raw_acceptor(
    tls: &ClusterTls,
    own: &Identity,
    listener: &TcpListener,
) -> (tokio_rustls::server::TlsStream<TcpStream>, Lane) {
    let context = TlsContext::new(tls, own.node, &pool()).unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let mut stream = context.acceptor.accept(tcp).await.unwrap();
    let hello = Hello::decode(&super::dial::read_hello(&mut stream).await.unwrap()).unwrap();
    stream
        .write_all(&Hello::answering(own, hello.purpose, None).encode())
        .await
        .unwrap();
    stream.flush().await.unwrap();
    (stream, Lane::from_code(hello.purpose).unwrap())
}
