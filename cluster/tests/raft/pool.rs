//! A pool of nodes in one process: real sockets, real logs, each node on runtimes of its own so that it can be killed.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::raft::{GroupHandle, GroupStatus, Groups, RaftSettings, SubmitError};
use cluster::transport::{
    ClusterTls, Frame, FrameHandler, Lane, PeerEvent, Reply, Transport, TransportConfig,
    TransportLimits, certificate_name,
};
use cluster::{Group, Incarnation, NodeId, PoolId, VersionRange};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use storage::archive::{Archive, ArchiveError, ArchiveOptions, PartitionHash, PartitionId};
use storage::log::{Log, LogError, LogOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::machine::{Journal, TestMachine};

/// How long anything may take before a test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Links that are cut, as (from, to).
type Cuts = Arc<Mutex<HashSet<(NodeId, NodeId)>>>;

/// The layer above the transport: hands frames of the RAFT lane to the groups.
struct Handler {
    node: NodeId,
    groups: Mutex<Option<Groups>>,
    cuts: Cuts,
    bulk_left: Arc<AtomicU64>,
    answers_crashes: bool,
}

impl Handler {
    /// Whether another frame of the BULK lane comes through.
    fn takes_bulk(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.bulk_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}

impl FrameHandler for Handler {
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Frame, reply: Option<Reply>) {
        let cuts = self.cuts.lock().unwrap();
        if cuts.contains(&(from, self.node)) || cuts.contains(&(self.node, from)) {
            return;
        }
        drop(cuts);
        let groups = self.groups.lock().unwrap();
        let (Some(reply), Some(groups)) = (reply, groups.as_ref()) else {
            return;
        };
        match lane {
            Lane::Raft => groups.on_raft_frame(from, frame, reply),
            Lane::Bulk if self.takes_bulk() => groups.on_bulk_frame(from, frame, reply),
            _ => {}
        }
    }

    fn on_peer(&self, event: PeerEvent) {
        if let PeerEvent::Down { node, reason, .. } = event
            && reason.is_crash_sign()
            && self.answers_crashes
            && let Some(groups) = self.groups.lock().unwrap().as_ref()
        {
            groups.on_peer_lost(node);
        }
    }

    fn is_member(&self, _node: NodeId) -> bool {
        true
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) groups: Groups,
    pub(crate) transport: Transport,
    pub(crate) journals: Vec<Journal>,
    archive: Archive,
    handler: Arc<Handler>,
    runtime: Runtime,
}

/// Up to three nodes, some of which may be down.
pub(crate) struct Pool {
    pub(crate) nodes: Vec<Option<Node>>,
    pub(crate) settings: RaftSettings,
    pub(crate) count: u16,
    pub(crate) answers_crashes: bool,
    pub(crate) log_options: LogOptions,
    /// How many more frames of the BULK lane come through, in the whole pool.
    pub(crate) bulk_left: Arc<AtomicU64>,
    cuts: Cuts,
    ca: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// Settings that make upkeep quick.
pub(crate) fn quick() -> RaftSettings {
    RaftSettings {
        upkeep_interval: Duration::from_millis(50),
        spread_after: Duration::from_millis(200),
        spread_again_after: Duration::from_secs(2),
        ..RaftSettings::default()
    }
}

impl Pool {
    /// Three nodes that run `count` groups, all of which have a leader.
    pub(crate) async fn start(count: u16, settings: RaftSettings) -> Pool {
        Pool::start_with(count, settings, 3).await
    }

    /// The first `voters` nodes of the pool; the others are down, and no members.
    pub(crate) async fn start_with(count: u16, settings: RaftSettings, voters: usize) -> Pool {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut pool = Pool {
            nodes: vec![None, None, None],
            settings,
            count,
            answers_crashes: true,
            log_options: LogOptions {
                segment_bytes: 1 << 20,
                ..LogOptions::default()
            },
            bulk_left: Arc::new(AtomicU64::new(u64::MAX)),
            cuts: Cuts::default(),
            ca,
            folder: tempfile::tempdir().unwrap(),
        };
        for place in 0..voters {
            pool.nodes[place] = Some(pool.start_node(place).await);
        }
        pool.introduce();
        let voters: Vec<NodeId> = (1..).take(voters).map(NodeId).collect();
        for node in pool.nodes.iter().flatten() {
            for group in node.groups.groups().collect::<Vec<_>>() {
                node.groups.initialize(group, &voters).await.unwrap();
                node.groups.initialize(group, &voters).await.unwrap();
            }
        }
        pool.wait("every group has a leader", |pool| {
            (0..count).all(|group| pool.leader(Group(u32::from(group))).is_some())
        })
        .await;
        pool
    }

    /// Starts the nodes that are down.
    pub(crate) async fn start_all(&mut self) {
        for place in 0..self.nodes.len() {
            if self.nodes[place].is_none() {
                self.nodes[place] = Some(self.start_node(place).await);
            }
        }
        self.introduce();
    }

    /// Starts one node again.
    pub(crate) async fn restart(&mut self, node: NodeId) {
        let place = place(node);
        self.nodes[place] = Some(self.start_node(place).await);
        self.introduce();
    }

    fn introduce(&self) {
        let peers: Vec<(NodeId, String)> = self
            .nodes
            .iter()
            .flatten()
            .map(|node| (node.groups.node(), node.transport.local_addr().to_string()))
            .collect();
        for node in self.nodes.iter().flatten() {
            node.transport.set_peers(&peers);
        }
    }

    /// Where a node's data lies.
    pub(crate) fn data_folder(&self, node: NodeId) -> PathBuf {
        self.folder.path().join(node.0.to_string())
    }

    fn tls(&self, node: NodeId, pool_id: &PoolId) -> ClusterTls {
        let params = CertificateParams::new(vec![certificate_name(node, pool_id)]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let key = key.serialize_pem();
        ClusterTls::from_pem(
            self.ca.pem().as_bytes(),
            certificate.pem().as_bytes(),
            key.as_bytes(),
        )
        .unwrap()
    }

    async fn start_node(&self, place: usize) -> Node {
        let node = NodeId(place as u64 + 1);
        let folder = self.data_folder(node);
        let log = self.open_log(node).await;
        let archive = self.open_archive(node).await;
        let handler = Arc::new(Handler {
            node,
            groups: Mutex::default(),
            cuts: self.cuts.clone(),
            bulk_left: self.bulk_left.clone(),
            answers_crashes: self.answers_crashes,
        });
        let pool_id: PoolId = "pool".parse().unwrap();
        let config = TransportConfig {
            node,
            tls: self.tls(node, &pool_id),
            pool_id,
            incarnation: Incarnation(1),
            listen: SocketAddr::from(([127, 0, 0, node.0 as u8], 0)),
            protocol: VersionRange::SUPPORTED,
            route_runtimes: Vec::new(),
            limits: TransportLimits::default(),
        };
        let runtime = Runtime::new().unwrap();
        let starting = runtime.spawn(Transport::start(config, handler.clone()));
        let transport = starting.await.unwrap().unwrap();
        let journals: Vec<Journal> = (0..self.count).map(|_| Journal::default()).collect();
        let machines = |group: Group| {
            let journal = journals[group.0 as usize].clone();
            let folder = folder.join(format!("machine-{}", group.0));
            let machine = TestMachine::open(folder, group.0, archive.clone(), journal);
            Ok(Box::new(machine) as Box<dyn cluster::raft::Machine>)
        };
        let settings = self.settings.clone();
        let groups = Groups::start(settings, node, log, transport.clone(), machines, self.count)
            .await
            .unwrap();
        *handler.groups.lock().unwrap() = Some(groups.clone());
        Node {
            groups,
            transport,
            journals,
            archive,
            handler,
            runtime,
        }
    }

    async fn open_archive(&self, node: NodeId) -> Archive {
        let folder = self.data_folder(node).join("archive");
        let deadline = Instant::now() + LIMIT;
        loop {
            match Archive::open(&folder, &ArchiveOptions::default()) {
                Ok(archive) => return archive,
                Err(ArchiveError::Locked) if Instant::now() < deadline => pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The hash of a node's part of the archive.
    pub(crate) fn archive_hash(&self, node: NodeId, group: Group) -> PartitionHash {
        let archive = &self.node(node).archive;
        archive.hash(PartitionId(group.0 as u16), None).unwrap()
    }

    /// A killed node's threads may hold the log for a moment.
    async fn open_log(&self, node: NodeId) -> Log {
        let folder = self.data_folder(node).join("log");
        std::fs::create_dir_all(&folder).unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            match Log::open(&folder, self.log_options.clone()) {
                Ok((log, _)) => return log,
                Err(LogError::Locked) if Instant::now() < deadline => pause().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Kills a node as a crash of its process would: no goodbye, sockets closed by the kernel.
    pub(crate) fn kill(&mut self, node: NodeId) {
        let Some(node) = self.nodes[place(node)].take() else {
            return;
        };
        *node.handler.groups.lock().unwrap() = None;
        node.runtime.shutdown_background();
        node.groups.halt();
    }

    /// Cuts a node off from the others, without closing a connection.
    pub(crate) fn cut_off(&self, node: NodeId) {
        let others = (1..=3).map(NodeId).filter(|other| *other != node);
        self.cuts
            .lock()
            .unwrap()
            .extend(others.map(|other| (node, other)));
    }

    /// Ends all cuts.
    pub(crate) fn heal(&self) {
        self.cuts.lock().unwrap().clear();
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        self.nodes[place(node)].as_ref().unwrap()
    }

    pub(crate) fn handle(&self, node: NodeId, group: Group) -> GroupHandle {
        self.node(node).groups.handle(group).unwrap()
    }

    pub(crate) fn status(&self, node: NodeId, group: Group) -> GroupStatus {
        let status = self.node(node).groups.status();
        status
            .into_iter()
            .find(|status| status.group == group)
            .unwrap()
    }

    /// The node that leads, if all nodes that are up agree.
    pub(crate) fn leader(&self, group: Group) -> Option<NodeId> {
        let mut leaders = self
            .nodes
            .iter()
            .flatten()
            .map(|node| *node.groups.handle(group).unwrap().leadership().borrow());
        let first = leaders.next()?;
        let leader = first.leader?;
        let is_up = self.nodes[place(leader)].is_some();
        leaders
            .all(|other| (other.leader, other.term) == (first.leader, first.term))
            .then_some(leader)
            .filter(|_| is_up)
    }

    /// Submits until it is acknowledged, wherever the leader is. Only what surely was not proposed is tried again.
    pub(crate) async fn submit(&self, group: Group, payload: impl Into<Bytes>) -> u64 {
        let payload = payload.into();
        let deadline = Instant::now() + LIMIT;
        loop {
            for node in self.nodes.iter().flatten() {
                match node
                    .groups
                    .handle(group)
                    .unwrap()
                    .submit(payload.clone())
                    .await
                {
                    Ok(index) => return index,
                    Err(SubmitError::NotLeader { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(
                Instant::now() < deadline,
                "nobody took a submission of {group}"
            );
            pause().await;
        }
    }

    /// A node's journal of one group.
    pub(crate) fn journal(&self, node: NodeId, group: Group) -> Vec<(u64, Bytes)> {
        self.node(node).journals[group.0 as usize]
            .lock()
            .unwrap()
            .clone()
    }

    /// Waits until all nodes that are up have the same journal of `length` entries.
    pub(crate) async fn wait_for_journal(&self, group: Group, length: usize) -> Vec<(u64, Bytes)> {
        self.wait(&format!("{length} entries of {group} everywhere"), |pool| {
            pool.nodes
                .iter()
                .flatten()
                .all(|node| node.journals[group.0 as usize].lock().unwrap().len() >= length)
        })
        .await;
        let journals: Vec<_> = self
            .nodes
            .iter()
            .flatten()
            .map(|node| node.groups.node())
            .collect();
        let journals: Vec<_> = journals
            .into_iter()
            .map(|node| self.journal(node, group))
            .collect();
        assert!(
            journals.windows(2).all(|pair| pair[0] == pair[1]),
            "all replicas apply the same in the same order"
        );
        assert_eq!(journals[0].len(), length);
        journals.into_iter().next().unwrap()
    }

    /// Waits for a condition.
    pub(crate) async fn wait(&self, what: &str, mut condition: impl FnMut(&Pool) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            pause().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        (1..=3).for_each(|node| self.kill(NodeId(node)));
    }
}

fn place(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// Between two looks at a condition.
async fn pause() {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    looks.tick().await;
    looks.tick().await;
}
