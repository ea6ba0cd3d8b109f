//! A node from start to stop: log, replicas, transport, groups, actors, listeners, in this order.

mod dispatch;
mod first_start;
mod reach;
mod settings;
mod start_entry;
mod status;
mod stores;

#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod panic_tests;
#[cfg(test)]
mod reign_tests;
#[cfg(test)]
pub(crate) mod stage;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix::Actor;
use actix_rt::Arbiter;
use cluster::gossip::shell::Gossiper;
use cluster::machine::Replica;
use cluster::meta::MetaState;
use cluster::node_id::{Group, Incarnation, NodeId, PartitionId};
use cluster::raft::{Groups, GroupsError};
use cluster::replica_hash::ReplicaHash;
use cluster::transport::{
    ClusterTls, ProtocolRange, Transport, TransportConfig, TransportError, TransportLimits,
};
use messaging::apply::Surroundings;
use messaging::slot::PartitionTable;
use storage::archive::{Archive, ArchiveError, ArchiveOptions};
use storage::data_dir::DataDirError;
use storage::log::{Log, LogError};
use xmpp::jid::{BareJid, FullJid};
use xmpp::sasl::Password;
use xmpp::stream::{ServedDomains, StreamConfig, StreamManagementOffer};

pub use settings::{ClientListener, ClientSettings, Member, Network, Settings, StorageSettings};
pub use status::{MemberStatus, PartitionStatus, PoolStatus, Readiness};

use crate::control::{self, ControlError};
use crate::fabric::{Fabric, FabricParts, PartitionActors, PartitionPlace};
use crate::link::LinkActor;
use crate::metrics::Metrics;
use crate::owner::{OwnerActor, ToOwner};
use crate::session::ToSession;
use dispatch::Dispatcher;

/// The time, in ms since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Why a node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port that clients would use is not to be had.
    #[error("the client port {address} can't be opened: {source}")]
    ClientPort {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster port is not to be had, or its certificates are no good.
    #[error("the cluster port can't be opened: {0}")]
    Cluster(#[from] TransportError),
    /// The log can't be opened.
    #[error("the log in {} can't be opened: {source}", path.display())]
    Log {
        /// Its folder.
        path: std::path::PathBuf,
        /// Why.
        source: LogError,
    },
    /// The data folder can't be written.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The archive can't be opened.
    #[error("the archive can't be opened: {0}")]
    Archive(#[from] ArchiveError),
    /// Raft didn't start.
    #[error("the replicas can't be started: {0}")]
    Groups(#[from] GroupsError),
    /// Too few members could be reached.
    #[error(
        "no quorum: after {waited:?} no majority of the members ({members}) could be reached; start more of them"
    )]
    NoQuorum {
        /// For how long.
        waited: Duration,
        /// Who they are.
        members: String,
    },
    /// The others have seen this node begin with another data folder.
    #[error(
        "the data folder {} is empty, but {witness} has seen {node} begin with another one: a node that has lost its \
         folder has forgotten what it promised; put the old folder back, or bring the machine in under a new id",
        path.display()
    )]
    BegunBefore {
        /// This node.
        node: NodeId,
        /// Who has seen it.
        witness: NodeId,
        /// The folder.
        path: std::path::PathBuf,
    },
    /// Too few members could be asked whether this node has begun before.
    #[error(
        "no quorum: a node that starts for the first time asks the others whether they know it with another data folder, \
         and after {waited:?} answers of {missing} more were missing ({silent}); start them too"
    )]
    FirstStartUnheard {
        /// For how long.
        waited: Duration,
        /// How many more answers are needed.
        missing: usize,
        /// Who did not answer.
        silent: String,
    },
    /// The log has lost records, and no other nodes can say which.
    #[error(
        "the log in {} was damaged: what {groups} Raft group(s) had recorded last may be lost, and a pool of {nodes} node(s) has no \
         others to prove what is missing; put back a copy of the whole data folder, of the time when the pool was stopped",
        path.display()
    )]
    DamagedLog {
        /// Its folder.
        path: std::path::PathBuf,
        /// How many groups are concerned.
        groups: usize,
        /// How many nodes the pool has.
        nodes: usize,
    },
    /// The pool was made with another description.
    #[error(
        "the pool file differs from the one this pool was made with: every node must have the same"
    )]
    OtherPool,
    /// A thread or runtime could not be made.
    #[error("a runtime can't be started: {0}")]
    Runtime(std::io::Error),
}

/// A running node.
#[derive(Clone)]
pub struct NodeHandle {
    inner: Arc<Inner>,
}

struct Inner {
    fabric: Arc<Fabric>,
    groups: Groups,
    transport: Transport,
    gossip: Arc<Gossiper>,
    started: Instant,
    arbiters: Vec<Arbiter>,
    /// Looks whether the partitions' actors live.
    watch: tokio::task::JoinHandle<()>,
    /// The transport's own runtime; it ends with the process.
    _network: Network,
}

/// Starts a node. To be called inside an actix system.
///
/// # Errors
/// [`StartError`], each a sentence for the operator.
pub async fn start(settings: Settings) -> Result<NodeHandle, StartError> {
    let network = Network::start().map_err(StartError::Runtime)?;
    let ports = reserve_client_ports(&settings)?;
    let (archive, log) = open_files(&settings)?;
    let gossip = Arc::new(Gossiper::new(settings.node, Incarnation(0)));
    let dispatcher = Arc::new(Dispatcher::new(&settings, Arc::clone(&gossip)));
    let transport = start_transport(&settings, &network, Arc::clone(&dispatcher)).await?;
    // Before the node gives a vote or takes an entry.
    first_start::be_admitted(&settings, &transport).await?;

    let table = PartitionTable::even(settings.partitions);
    let incarnation = Arc::new(AtomicU64::new(0));
    let meta = Arc::default();
    let replicas = replicas(&settings, &table, &archive);
    let stores = stores::Stores::new(&settings, Arc::clone(&incarnation), Arc::clone(&meta));
    let machines = |group: Group| stores.machine(group, &replicas);
    let count = settings.partitions + 1;
    let groups = Groups::start(
        settings.raft.clone(),
        settings.node,
        log,
        transport.clone(),
        machines,
        count,
    )
    .await?;
    judge_damage(&settings, &groups)?;
    dispatcher.set_groups(groups.clone());
    initialize(&settings, &groups).await?;
    let identity = (&transport, &*gossip, &*incarnation);
    let life = begin_life(&settings, &groups, identity, &meta).await?;
    wait_for_recovery(&settings, &groups).await?;

    let arbiters = settings.arbiters.max(1);
    let fabric = make_fabric(
        settings,
        table,
        replicas,
        &groups,
        (&transport, &gossip),
        (life, meta),
    );
    let arbiters: Vec<Arbiter> = (0..arbiters).map(|_| Arbiter::new()).collect();
    start_actors(&fabric, &arbiters);
    dispatcher.set_fabric(Arc::clone(&fabric));
    run_gossip(&network, &gossip, &groups, &transport, &fabric);
    accept_clients(&fabric, &arbiters, ports)?;
    let watch = crate::supervision::watch(Arc::clone(&fabric));
    let watch = network.handle().spawn(watch);
    let looking = crate::isolation::watch(Arc::clone(&fabric), groups.clone(), Arc::clone(&gossip));
    network.handle().spawn(looking);
    let inner = Inner {
        fabric,
        groups,
        transport,
        gossip,
        started: Instant::now(),
        arbiters,
        watch,
        _network: network,
    };
    Ok(NodeHandle {
        inner: Arc::new(inner),
    })
}

fn open_files(settings: &Settings) -> Result<(Archive, Log), StartError> {
    let archive_options = ArchiveOptions {
        cache_bytes: settings.storage.archive_cache_bytes,
        ..ArchiveOptions::default()
    };
    let archive = Archive::open(&settings.data.archive_dir(), &archive_options)?;
    let path = settings.data.log_dir();
    let opened = Log::open(&path, settings.storage.log.clone());
    let (log, _recovered) = opened.map_err(|source| StartError::Log { path, source })?;
    Ok((archive, log))
}

async fn begin_life(
    settings: &Settings,
    groups: &Groups,
    (transport, gossip, incarnation): (&Transport, &Gossiper, &AtomicU64),
    meta: &Arc<std::sync::Mutex<cluster::meta::MetaState>>,
) -> Result<Incarnation, StartError> {
    let life = start_entry::begin(settings, groups, transport, meta).await?;
    incarnation.store(life.0, Ordering::Release);
    transport.set_incarnation(life);
    gossip.renew(life);
    tracing::info!(
        node = settings.node.0,
        incarnation = life.0,
        "the node has begun its life"
    );
    Ok(life)
}

/// A quarantine ends when two other voters have elected a leader. Where there are none it would never end.
///
/// Going on with what is left is no way out: a partition that forgot the end of its outbox numbers new entries like those
/// that it forgot, and the others take them for entries that they have seen.
fn judge_damage(settings: &Settings, groups: &Groups) -> Result<(), StartError> {
    let nodes = settings.members.len();
    let damaged = groups
        .status()
        .iter()
        .filter(|group| group.quarantined)
        .count();
    if nodes > 2 || damaged == 0 {
        return Ok(());
    }
    Err(StartError::DamagedLog {
        path: settings.data.log_dir(),
        groups: damaged,
        nodes,
    })
}

/// On a fresh pool each node gives every group the same first voters.
async fn initialize(settings: &Settings, groups: &Groups) -> Result<(), StartError> {
    let voters: Vec<NodeId> = settings.members.iter().map(|member| member.id).collect();
    for group in groups.groups().collect::<Vec<_>>() {
        groups.initialize(group, &voters).await?;
    }
    Ok(())
}

/// A port for clients that is this node's; whether TLS begins with the first byte.
type Reserved = (SocketAddr, socket2::Socket, bool);

fn accept_clients(
    fabric: &Arc<Fabric>,
    arbiters: &[Arbiter],
    reserved: Vec<Reserved>,
) -> Result<(), StartError> {
    for (address, socket, direct_tls) in reserved {
        let listener = crate::listener::listen(socket)
            .map_err(|source| StartError::ClientPort { address, source })?;
        let handles = arbiters.iter().map(Arbiter::handle).collect();
        actix_rt::spawn(crate::listener::accept(
            Arc::clone(fabric),
            listener,
            direct_tls,
            handles,
        ));
    }
    Ok(())
}

/// While the node waits for a quorum, clients are refused and try another node.
fn reserve_client_ports(settings: &Settings) -> Result<Vec<Reserved>, StartError> {
    let reserve = |listener: &ClientListener| {
        let address = listener.address;
        let socket = crate::listener::reserve(address)
            .map_err(|source| StartError::ClientPort { address, source })?;
        Ok((address, socket, listener.direct_tls))
    };
    settings.client_listeners.iter().map(reserve).collect()
}

async fn start_transport(
    settings: &Settings,
    network: &Network,
    dispatcher: Arc<Dispatcher>,
) -> Result<Transport, StartError> {
    let config = TransportConfig {
        node: settings.node,
        pool_id: settings.pool_id.clone(),
        incarnation: Incarnation(0),
        listen: settings.cluster_listen,
        tls: settings.cluster_tls.clone(),
        protocol: ProtocolRange { min: 1, max: 1 },
        limits: TransportLimits::default(),
    };
    let started = network
        .handle()
        .spawn(Transport::start(config, dispatcher))
        .await;
    let transport =
        started.map_err(|error| StartError::Runtime(std::io::Error::other(error)))??;
    let peers: Vec<_> = settings
        .members
        .iter()
        .map(|member| (member.id, member.address.clone()))
        .collect();
    let dialling = transport.clone();
    let dialled = network
        .handle()
        .spawn(async move { dialling.set_peers(&peers) })
        .await;
    dialled.map_err(|error| StartError::Runtime(std::io::Error::other(error)))?;
    Ok(transport)
}

fn replicas(settings: &Settings, table: &PartitionTable, archive: &Archive) -> Vec<Arc<Replica>> {
    let replica = |partition| {
        let (table, pool) = (table.clone(), settings.constants.clone());
        Arc::new(Replica::new(
            Surroundings {
                partition,
                table,
                pool,
            },
            archive.clone(),
        ))
    };
    table.iter().map(replica).collect()
}

/// What this node holds may be older than what it showed before its restart: it catches up before it serves.
async fn wait_for_recovery(settings: &Settings, groups: &Groups) -> Result<(), StartError> {
    match groups.wait_for_recovery(settings.quorum_wait).await {
        Err(GroupsError::Timeout { .. }) => Err(no_quorum(settings)),
        other => Ok(other?),
    }
}

fn no_quorum(settings: &Settings) -> StartError {
    StartError::NoQuorum {
        waited: settings.quorum_wait,
        members: names(settings, |_| true),
    }
}

/// Some of the members and where they are.
fn names(settings: &Settings, which: impl Fn(NodeId) -> bool) -> String {
    let named: Vec<_> = settings
        .members
        .iter()
        .filter(|member| which(member.id))
        .map(|member| format!("{} at {}", member.id, member.address))
        .collect();
    named.join(", ")
}

fn make_fabric(
    settings: Settings,
    table: PartitionTable,
    replicas: Vec<Arc<Replica>>,
    groups: &Groups,
    (transport, gossip): (&Transport, &Arc<Gossiper>),
    (incarnation, meta): (Incarnation, Arc<Mutex<MetaState>>),
) -> Arc<Fabric> {
    let places = replicas.into_iter().filter_map(|replica| {
        let id = replica.surroundings.partition;
        let group = groups.handle(Group::of(id))?;
        Some(PartitionPlace {
            id,
            replica,
            group,
            link_missed: AtomicBool::new(false),
        })
    });
    let partitions = places.collect();
    let streams = Arc::new(stream_config(&settings));
    let (node, transport, metrics) = (settings.node, transport.clone(), Metrics::default());
    Fabric::new(FabricParts {
        node,
        incarnation,
        meta,
        table,
        partitions,
        transport,
        gossip: Arc::clone(gossip),
        settings,
        streams,
        metrics,
    })
}

fn stream_config(settings: &Settings) -> StreamConfig {
    let client = &settings.client;
    let domain = BareJid::parse(&settings.constants.domain)
        .expect("the domain was checked with the settings");
    let iterations =
        std::num::NonZeroU32::new(client.scram_iterations).unwrap_or(std::num::NonZeroU32::MIN);
    let domains = client
        .retired_domains
        .iter()
        .fold(ServedDomains::new(&domain), ServedDomains::retire);
    let mut streams = StreamConfig::new(domains, settings.secret, iterations);
    streams.limits_before_auth = client.limits_before_auth;
    streams.limits_after_auth = client.limits_after_auth;
    streams.negotiation = client.negotiation.clone();
    streams.tls_required = client.tls_required;
    streams.allow_plaintext_auth = client.allow_plaintext_auth;
    streams.registration = client.registration;
    streams.stream_management = match client.resume_within.as_secs() {
        0 => StreamManagementOffer::Acks,
        _ => StreamManagementOffer::Resumable,
    };
    streams
}

/// Partitions are spread over the arbiters; a partition's two actors, its rooms and publications share one.
fn start_actors(fabric: &Arc<Fabric>, arbiters: &[Arbiter]) {
    let start = |(number, place): (usize, &PartitionPlace)| {
        let arbiter = arbiters[number % arbiters.len()].handle();
        let (shared, id) = (Arc::clone(fabric), place.id);
        let link = LinkActor::start_in_arbiter(&arbiter, move |_| LinkActor::new(shared, id));
        let shared = Arc::clone(fabric);
        let owner = OwnerActor::start_in_arbiter(&arbiter, move |_| OwnerActor::new(shared, id));
        PartitionActors { link, owner }
    };
    fabric.set_actors(fabric.partitions.iter().enumerate().map(start).collect());
}

fn run_gossip(
    network: &Network,
    gossip: &Arc<Gossiper>,
    groups: &Groups,
    transport: &Transport,
    fabric: &Arc<Fabric>,
) {
    let (gossip, transport, shared) = (Arc::clone(gossip), transport.clone(), Arc::clone(fabric));
    let own = fabric.node;
    let peers = move || {
        shared
            .settings
            .members
            .iter()
            .map(|member| member.id)
            .filter(|id| *id != own)
            .collect()
    };
    network.handle().spawn(dispatch::spread_hints(
        Arc::clone(fabric),
        groups.clone(),
        Arc::clone(&gossip),
    ));
    network
        .handle()
        .spawn(async move { gossip.run(transport, peers).await });
}

impl NodeHandle {
    /// What operators see.
    pub fn status(&self) -> PoolStatus {
        let inner = &self.inner;
        status::of(
            &inner.fabric,
            &inner.groups,
            &inner.transport,
            &inner.gossip,
            inner.started,
        )
    }

    /// Whether clients can be served.
    pub fn ready(&self) -> Readiness {
        status::readiness(&self.inner.fabric, &self.inner.groups)
    }

    /// What this node's replica of a partition holds, to be compared with others'.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn partition_hash(&self, partition: u16) -> Result<ReplicaHash, ControlError> {
        control::partition_hash(&self.inner.fabric, partition).await
    }

    /// Prometheus' text form.
    pub fn metrics(&self) -> String {
        let inner = &self.inner;
        let readings = status::readings(
            &inner.fabric,
            &inner.groups,
            &inner.transport,
            inner.started,
        );
        inner.fabric.metrics.text(&readings)
    }

    /// Certificates and key towards other nodes from now on; open connections stay.
    ///
    /// # Errors
    /// They are not this node's.
    pub fn reload_cluster_tls(&self, tls: &ClusterTls) -> Result<(), TransportError> {
        self.inner.transport.reload_tls(tls)
    }

    /// When one of the node's certificates ends, in seconds since 1970: for the metrics.
    pub fn certificate_ends(&self, what: &'static str, ends: i64) {
        self.inner.fabric.metrics.certificate_ends(what, ends);
    }

    /// Makes an account.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_account(
        &self,
        user: BareJid,
        password: Password,
    ) -> Result<(), ControlError> {
        control::create_account(&self.inner.fabric, user, password, self.iterations()).await
    }

    /// Sets an account's password.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn set_password(
        &self,
        user: BareJid,
        password: Password,
    ) -> Result<(), ControlError> {
        control::set_password(&self.inner.fabric, user, password, self.iterations()).await
    }

    /// Removes an account.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn remove_account(&self, user: BareJid) -> Result<(), ControlError> {
        control::remove_account(&self.inner.fabric, user).await
    }

    /// Accounts in alphabetical order.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn list_accounts(
        &self,
        after: Option<BareJid>,
        limit: u32,
    ) -> Result<Vec<BareJid>, ControlError> {
        control::list_accounts(&self.inner.fabric, after, limit).await
    }

    fn iterations(&self) -> u32 {
        self.inner.fabric.settings.client.scram_iterations
    }

    /// Sends a session to another node. Its client's connection ends without the end of the stream, and the client goes on
    /// wherever it connects next; its presence stays for two minutes meanwhile. A session that can't be resumed ends.
    /// `false`: there is no such session here.
    pub fn move_session(&self, jid: &FullJid) -> bool {
        let session = self.inner.fabric.directory.find(jid, 0);
        session.is_some_and(|entry| entry.session.try_send(ToSession::Depart).is_ok())
    }

    /// The addresses of the sessions on this node, with a connection or without.
    pub fn sessions(&self) -> Vec<FullJid> {
        self.inner.fabric.directory.jids()
    }

    /// Ends streams, hands leaderships over, closes the stores. The process is to end after it.
    pub async fn stop(&self) {
        let inner = &self.inner;
        inner.fabric.standing.stop();
        inner.watch.abort();
        inner.fabric.connections.stop();
        for entry in inner.fabric.directory.all() {
            if entry.session.try_send(ToSession::Depart).is_err() {
                tracing::debug!("a session was gone before it could be told of the stop");
            }
        }
        let ended = inner.fabric.connections.ended();
        if tokio::time::timeout(STREAMS_END_MAX, ended).await.is_err() {
            tracing::info!("some clients did not take the end of their streams in time");
        }
        for place in &inner.fabric.partitions {
            if let Some(actors) = inner.fabric.actors(place.id)
                && actors.owner.send(ToOwner::Stop).await.is_err()
            {
                tracing::debug!("a partition's owner was gone before the stop");
            }
        }
        let kept = inner.groups.step_down_all(HAND_OVER_MAX).await;
        if !kept.is_empty() && inner.fabric.settings.members.len() > 1 {
            tracing::info!(
                groups = kept.len(),
                "no other node could take these groups over; who is there elects anew"
            );
        }
        inner.transport.shutdown().await;
        inner.groups.clone().shutdown().await;
        for arbiter in &inner.arbiters {
            arbiter.stop();
        }
    }
}

/// How long a stop waits for clients to take the end of their streams, and for other nodes to take sessions over.
const STREAMS_END_MAX: Duration = Duration::from_secs(10);
const HAND_OVER_MAX: Duration = Duration::from_secs(3);

/// The partition's place in a list.
pub(crate) fn index(partition: PartitionId) -> usize {
    usize::from(partition.0)
}
