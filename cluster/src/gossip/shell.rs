//! Runs the gossip core over the transport's GOSSIP lane: a clock, random numbers, and frames.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior};

use super::clock::MemberClocks;
use super::figures::{Figures, HeardFigures};
use super::message::GossipMessage;
use super::{Gossip, GossipFull, GossipKey, GossipValue, Liveness, TICK_INTERVAL};
use crate::node_id::{Epoch, Incarnation, NodeId, PartitionId};
use crate::transport::{Frame, Lane, SendError, Transport};

/// The `kind` of gossip's frames on the GOSSIP lane.
pub const FRAME_KIND: u8 = 1;

/// The `kind` of frames that say what time it is: eight octets, little endian, ms since 1970.
const CLOCK_KIND: u8 = 2;

/// The `kind` of frames with a node's figures.
const FIGURES_KIND: u8 = 3;

/// Who has heard no other member's clock for so long after its start trusts its own.
const CLOCKS_WAIT: Duration = Duration::from_secs(10);

/// The core behind a lock that is held for one step of it, never over an await.
pub struct Gossiper {
    core: Mutex<Gossip>,
    clocks: Mutex<MemberClocks>,
    figures: Mutex<HeardFigures>,
    start: Instant,
    transport: OnceLock<Transport>,
}

impl Gossiper {
    /// A node that knows only itself. Make it before the transport, whose handler feeds it.
    pub fn new(own: NodeId, generation: Incarnation) -> Gossiper {
        Gossiper {
            core: Mutex::new(Gossip::new(own, generation)),
            clocks: Mutex::default(),
            figures: Mutex::default(),
            start: Instant::now(),
            transport: OnceLock::new(),
        }
    }

    /// Gossips with the nodes `peers` names, until the future is dropped. Call it once.
    pub async fn run(&self, transport: Transport, peers: impl Fn() -> Vec<NodeId>) {
        let transport = self.transport.get_or_init(|| transport);
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let peers = peers();
            let messages = self.lock().tick(self.now(), &peers, rand::random());
            for (peer, message) in messages {
                tell_time(transport, peer);
                send(transport, peer, &message);
            }
        }
    }

    /// Feeds a frame of the GOSSIP lane; call it from the transport's handler. It never waits.
    pub fn on_frame(&self, from: NodeId, frame: &Frame) {
        if frame.kind == CLOCK_KIND {
            return self.hear_time(from, frame);
        }
        if frame.kind == FIGURES_KIND {
            return self.hear_figures(from, frame);
        }
        if frame.kind != FRAME_KIND {
            return;
        }
        match GossipMessage::decode(&frame.body) {
            Ok(message) => {
                let answer = self.lock().handle(from, message, self.now());
                if let (Some(answer), Some(transport)) = (answer, self.transport.get()) {
                    send(transport, from, &answer);
                }
            }
            Err(error) => tracing::debug!(%from, %error, "gossip was not understood"),
        }
    }

    fn hear_time(&self, from: NodeId, frame: &Frame) {
        let Ok(theirs) = <[u8; 8]>::try_from(&frame.body[..]) else {
            return tracing::debug!(%from, "a clock was not understood");
        };
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.heard(from, u64::from_le_bytes(theirs), self.now());
    }

    fn hear_figures(&self, from: NodeId, frame: &Frame) {
        match Figures::decode(&frame.body) {
            Some(figures) => self.heard_figures().heard(from, figures, self.now()),
            None => tracing::debug!(%from, "figures were not understood"),
        }
    }

    /// Tells the peers our figures, and forgets those of others. Who can't be told now is told the next ones.
    pub fn tell_figures(&self, figures: &Figures, peers: &[NodeId]) {
        self.heard_figures().keep(peers);
        let Some(transport) = self.transport.get() else {
            return;
        };
        let body = figures.encode();
        for peer in peers {
            let frame = Frame::new(FIGURES_KIND, body.clone());
            if let Err(error) = transport.send(*peer, Lane::Gossip, frame) {
                tracing::trace!(to = %peer, %error, "figures were not told");
            }
        }
    }

    /// The figures of the peers that have told them lately.
    pub fn figures(&self) -> BTreeMap<NodeId, Figures> {
        self.heard_figures().fresh(self.now())
    }

    fn heard_figures(&self) -> MutexGuard<'_, HeardFigures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is, in ms since 1970: by the own clock, within five seconds of the members' median. `alone`: there are
    /// no other members. 0 for the first seconds of a node that has heard of no other clock: entries then keep the time of
    /// those before.
    pub fn time_ms(&self, alone: bool) -> u64 {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        if alone || clocks.has_heard() || self.start.elapsed() >= CLOCKS_WAIT {
            clocks.clamp(now_ms(), self.now())
        } else {
            0
        }
    }

    /// Tells everybody a value.
    pub fn set(&self, key: GossipKey, value: GossipValue) -> Result<(), GossipFull> {
        self.lock().set(key, value)
    }

    /// Our incarnation became known.
    pub fn renew(&self, generation: Incarnation) {
        self.lock().renew(generation);
    }

    /// The owner with the highest epoch that anybody told of.
    pub fn owner_hint(&self, partition: PartitionId) -> Option<(NodeId, Epoch)> {
        self.lock().owner_hint(partition)
    }

    /// How fresh a node's heartbeat is; one never heard of is dead.
    pub fn liveness(&self, node: NodeId) -> Liveness {
        let now = self.now();
        self.lock()
            .view()
            .get(&node)
            .map_or(Liveness::Dead, |view| view.liveness(now))
    }

    /// How long ago a node was last heard of; `None`: never.
    pub fn age(&self, node: NodeId) -> Option<Duration> {
        let now = self.now();
        self.lock().view().get(&node).map(|view| view.age(now))
    }

    /// Reads several things at once. Keep it short: senders and the lane's reader wait meanwhile.
    pub fn with_core<T>(&self, read: impl FnOnce(&Gossip, Duration) -> T) -> T {
        let now = self.now();
        read(&self.lock(), now)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Gossip> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn tell_time(transport: &Transport, to: NodeId) {
    let body = Bytes::copy_from_slice(&now_ms().to_le_bytes());
    if let Err(error) = transport.send(to, Lane::Gossip, Frame::new(CLOCK_KIND, body)) {
        tracing::trace!(%to, %error, "the time was not told");
    }
}

/// A message that can't be sent is as good as lost: the next tick tells the same.
fn send(transport: &Transport, to: NodeId, message: &GossipMessage) {
    match transport.send(to, Lane::Gossip, Frame::new(FRAME_KIND, message.encode())) {
        Ok(()) | Err(SendError::Disconnected | SendError::NoPeer(_)) => {}
        Err(error) => tracing::debug!(%to, %error, "gossip was not sent"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::VersionRange;
    use crate::transport::{
        ClusterTls, FrameHandler, PeerEvent, Reply, TransportConfig, TransportLimits,
        certificate_name,
    };

    struct Handler(Arc<Gossiper>);

    impl FrameHandler for Handler {
        fn on_frame(&self, from: NodeId, lane: Lane, frame: Frame, _: Option<Reply>) {
            assert_eq!(lane, Lane::Gossip);
            self.0.on_frame(from, &frame);
        }

        fn on_peer(&self, _: PeerEvent) {}

        fn is_member(&self, _: NodeId) -> bool {
            true
        }
    }

    async fn node(ca: &CertifiedIssuer<'static, KeyPair>, id: u64) -> (Arc<Gossiper>, Transport) {
        let pool: crate::PoolId = "test".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![certificate_name(NodeId(id), &pool)]).unwrap();
        let certificate = params.signed_by(&key, ca).unwrap();
        let tls = ClusterTls::from_pem(
            ca.pem().as_bytes(),
            certificate.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
        );
        let gossiper = Arc::new(Gossiper::new(NodeId(id), Incarnation(id)));
        let config = TransportConfig {
            node: NodeId(id),
            pool_id: pool,
            incarnation: Incarnation(id),
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: tls.unwrap(),
            protocol: VersionRange::SUPPORTED,
            route_runtimes: Vec::new(),
            limits: TransportLimits::default(),
        };
        let transport = Transport::start(config, Arc::new(Handler(gossiper.clone())))
            .await
            .unwrap();
        (gossiper, transport)
    }

    #[tokio::test]
    async fn hints_travel_over_the_gossip_lane() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ((one, to_one), (two, to_two)) = (node(&ca, 1).await, node(&ca, 2).await);
        let members = [
            (NodeId(1), to_one.local_addr().to_string()),
            (NodeId(2), to_two.local_addr().to_string()),
        ];
        to_one.set_peers(&members);
        to_two.set_peers(&members);
        let partition = PartitionId(4);
        one.set(
            GossipKey::Owner(partition),
            GossipValue::Owner(NodeId(1), Epoch(77)),
        )
        .unwrap();
        assert_eq!(two.liveness(NodeId(1)), Liveness::Dead, "nothing heard yet");
        assert_eq!(two.time_ms(false), 0);
        assert!(two.time_ms(true) > 0);
        let ids = || vec![NodeId(1), NodeId(2)];
        let figures = Figures {
            sessions: 7,
            ..Figures::default()
        };
        let arrives = async {
            while two.owner_hint(partition).is_none() || two.figures().is_empty() {
                one.tell_figures(&figures, &[NodeId(2)]);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = one.run(to_one.clone(), ids) => {}
            () = two.run(to_two.clone(), ids) => {}
            arrived = tokio::time::timeout(Duration::from_secs(20), arrives) => arrived.unwrap(),
        }
        assert_eq!(two.owner_hint(partition), Some((NodeId(1), Epoch(77))));
        assert_eq!(two.liveness(NodeId(1)), Liveness::Alive);
        assert_eq!(two.figures(), BTreeMap::from([(NodeId(1), figures)]));
        // Its clock came before its hints did.
        assert!(now_ms().abs_diff(two.time_ms(false)) < 1_000);
    }
}
