//! A node from start to stop: log, replicas, transport, groups, actors, listeners, in this order.

mod access;
mod backup;
mod dispatch;
mod figures;
mod first_start;
mod follow;
mod giving_away;
mod members;
mod meta_road;
mod operations;
mod reach;
mod reconcile;
mod retire;
mod settings;
mod start_entry;
mod start_error;
mod status;
mod stores;
mod versions;

#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod panic_tests;
#[cfg(test)]
mod reign_tests;
#[cfg(test)]
mod row_tests;
#[cfg(test)]
pub(crate) mod stage;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod yield_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::gossip::shell::Gossiper;
use cluster::machine::Replica;
use cluster::meta::MetaReplica;
use cluster::meta::placement::initial;
use cluster::node_id::{Group, Incarnation, NodeId, PartitionId};
use cluster::raft::{GroupStatus, GroupThreads, Groups, GroupsError, Machine, RaftSettings};
use cluster::replica_hash::ReplicaHash;
use cluster::transport::{ClusterTls, Transport, TransportConfig, TransportError, TransportLimits};
use messaging::apply::Surroundings;
use messaging::slot::PartitionTable;
use storage::archive::{Archive, ArchiveOptions};
use storage::log::Log;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;
use xmpp::stream::{ServedDomains, StreamConfig, StreamManagementOffer};

pub use backup::{Backups, Captured};
pub use members::MemberList;
pub use meta_road::OperationError;
pub use operations::{
    DrainOptions, MemberInfo, NewMember, Operation, Plan, PlanStep, Progress, RemoveOptions,
};
pub use settings::{
    ClientListener, ClientSettings, Member, Memory, Network, Settings, StorageSettings,
};
pub use start_error::StartError;
pub use status::{MemberStatus, PartitionStatus, PoolStatus, Readiness};
pub use versions::{Finalisation, MemberBuild, PoolVersions};

use crate::control::{self, ControlError, ImportPiece};
use crate::fabric::{Fabric, FabricParts, PartitionActors, PartitionPlace};
use crate::history::Sample;
use crate::link::LinkActor;
use crate::metrics::Metrics;
use crate::owner::{OwnerActor, ToOwner};
use crate::session::ToSession;
use crate::threads::{Arbiter, start_on};
use dispatch::Dispatcher;
use follow::Follower;
use meta_road::MetaRoad;
use reconcile::Reconciler;

/// The time, in ms since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
    road: MetaRoad,
    removed: watch::Receiver<bool>,
    started: Instant,
    arbiters: Vec<Arbiter>,
    /// Looks whether the partitions' actors live.
    watch: tokio::task::JoinHandle<()>,
    /// The runtime of transport and Raft; it ends with the process.
    _network: Network,
}

/// Starts a node. To be called inside an actix system.
///
/// # Errors
/// [`StartError`], each a sentence for the operator.
pub async fn start(settings: Settings) -> Result<NodeHandle, StartError> {
    versions::refuse_folder(&settings)?;
    let network = Network::start(settings.replication_threads).map_err(StartError::Runtime)?;
    let arbiters: Vec<Arbiter> = (0..settings.arbiters.max(1))
        .map(|_| Arbiter::new())
        .collect();
    let ports = reserve_client_ports(&settings)?;
    let (archive, log) = open_files(&settings).await?;
    let incarnation = Arc::new(AtomicU64::new(0));
    let meta: Arc<MetaReplica> = Arc::default();
    let table = PartitionTable::even(settings.partitions);
    let replicas = replicas(&settings, &table, &archive);
    let stores = stores::Stores::new(&settings, Arc::clone(&incarnation), Arc::clone(&meta));
    let (known, members) = known_members(&settings, &stores, &replicas, &meta)?;
    let gossip = Arc::new(Gossiper::new(settings.node, Incarnation(0)));
    let on = (&network, &arbiters[..]);
    let (dispatcher, transport) =
        open_cluster_port(&settings, on, &members, (&gossip, &meta)).await?;
    // Before the node gives a vote or takes an entry.
    first_start::be_admitted(&settings, &transport, &dispatcher).await?;

    let on = (&network, &transport);
    let groups = start_groups(&settings, log, on, (&stores, &replicas), known).await?;
    judge_damage(&settings, &groups, &meta)?;
    dispatcher.set_groups(groups.clone());
    initialize(&settings, &groups, &meta).await?;
    let road = MetaRoad {
        node: settings.node,
        groups: groups.clone(),
        transport: transport.clone(),
    };
    let following = follow::at_start(&network.handle(), (&meta, &members), (&groups, &transport));
    let identity = (&*gossip, &*incarnation);
    let life = begin_life(&settings, &road, identity, (&meta, &dispatcher))
        .await
        .map_err(|error| dispatcher.explain(&settings, &meta, error))?;
    wait_for_recovery(&settings, &groups, &meta).await?;

    let fabric = make_fabric(
        settings,
        (table, replicas),
        &groups,
        (&transport, &gossip),
        (life, meta, members),
    );
    start_actors(&fabric, &arbiters);
    dispatcher.set_fabric(Arc::clone(&fabric));
    run_gossip(&network, &gossip, &groups, &transport, &fabric);
    let removed = run_membership(&network, &fabric, &road);
    following.abort();
    accept_clients(&fabric, &arbiters, ports)?;
    let watch = look_after(&network, &fabric, &groups, &gossip);
    let inner = Inner {
        fabric,
        groups,
        transport,
        gossip,
        road,
        removed,
        started: Instant::now(),
        arbiters,
        watch,
        _network: network,
    };
    Ok(NodeHandle {
        inner: Arc::new(inner),
    })
}

/// Looks whether the partitions' actors live, and whether this node hears of a majority.
fn look_after(
    network: &Network,
    fabric: &Arc<Fabric>,
    groups: &Groups,
    gossip: &Arc<Gossiper>,
) -> tokio::task::JoinHandle<()> {
    let looking = crate::isolation::watch(Arc::clone(fabric), groups.clone(), Arc::clone(gossip));
    network.handle().spawn(looking);
    let watch = crate::supervision::watch(Arc::clone(fabric));
    network.handle().spawn(watch)
}

/// First of all: who is a member, as far as this node knew when it ended. Gives the meta group's machine, which says so.
fn known_members(
    settings: &Settings,
    stores: &stores::Stores<'_>,
    replicas: &[Arc<Replica>],
    meta: &MetaReplica,
) -> Result<(Box<dyn Machine>, Arc<MemberList>), StartError> {
    let machine = stores.machine(Group::META, replicas).map_err(|source| {
        StartError::Groups(GroupsError::Machine {
            group: Group::META,
            source,
        })
    })?;
    start_entry::refuse_removed(settings, meta)?;
    versions::refuse_skew(settings, meta)?;
    let members = MemberList::new(settings.node, settings.members.clone());
    members.follow(&meta.state(), &[]);
    Ok((machine, Arc::new(members)))
}

async fn start_groups(
    settings: &Settings,
    log: Log,
    (network, transport): (&Network, &Transport),
    (stores, replicas): (&stores::Stores<'_>, &[Arc<Replica>]),
    meta: Box<dyn Machine>,
) -> Result<Groups, StartError> {
    let mut meta = Some(meta);
    let machines = |group: Group| match meta.take_if(|_| group == Group::META) {
        Some(machine) => Ok(machine),
        None => stores.machine(group, replicas),
    };
    let raft = RaftSettings {
        threads: GroupThreads::Of(network.handle()),
        ..settings.raft.clone()
    };
    let transport = transport.clone();
    let count = settings.partitions + 1;
    let groups = Groups::start(raft, settings.node, log, transport, machines, count);
    Ok(groups.await?)
}

/// Follows the meta group, and does this node's part of what it decides. Tells when this node was removed.
fn run_membership(
    network: &Network,
    fabric: &Arc<Fabric>,
    road: &MetaRoad,
) -> watch::Receiver<bool> {
    let owners = retire::Owners::new(Arc::clone(fabric));
    road.groups.tell_of_hand_overs(Arc::new(owners));
    let (removes, removed) = watch::channel(false);
    let follower = Follower::new(Arc::clone(fabric), road.clone(), removes);
    network.handle().spawn(follower.run());
    let reconciler = Reconciler::new(Arc::clone(fabric), road.clone());
    network.handle().spawn(reconciler.run());
    let removing = giving_away::run(Arc::clone(fabric), road.clone());
    network.handle().spawn(removing);
    removed
}

/// Archive and log, without what was given away.
async fn open_files(settings: &Settings) -> Result<(Archive, Log), StartError> {
    let archive_options = ArchiveOptions {
        cache_bytes: settings.storage.archive_cache_bytes,
        ..ArchiveOptions::default()
    };
    let archive = Archive::open(&settings.data.archive_dir(), &archive_options)?;
    let path = settings.data.log_dir();
    let opened = Log::open(&path, settings.storage.log.clone());
    let (log, _recovered) = opened.map_err(|source| StartError::Log { path, source })?;
    giving_away::finish(settings, &log, &archive).await?;
    Ok((archive, log))
}

async fn begin_life(
    settings: &Settings,
    road: &MetaRoad,
    (gossip, incarnation): (&Gossiper, &AtomicU64),
    (meta, dispatcher): (&MetaReplica, &Dispatcher),
) -> Result<Incarnation, StartError> {
    let life = start_entry::begin(settings, road, meta, || dispatcher.skew(settings)).await?;
    incarnation.store(life.0, Ordering::Release);
    road.transport.set_incarnation(life);
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
fn judge_damage(
    settings: &Settings,
    groups: &Groups,
    meta: &MetaReplica,
) -> Result<(), StartError> {
    let statuses = groups.status();
    let members = match meta.state().members.present().count() {
        0 => settings.members.len(),
        members => members,
    };
    let voters = |group: &GroupStatus| match group.voters.len() {
        // The damage may have taken the members' entry, too; or the node has no part in the group.
        0 => members,
        voters => voters,
    };
    let given_away = |group: &GroupStatus| {
        let state = meta.state();
        let row = state.placements.rows.get(&group.group);
        row.is_some_and(|row| !row.voters.contains(&settings.node))
    };
    // What was given away is empty and gives no vote: nothing is lost with it.
    let damaged = statuses
        .iter()
        .filter(|group| group.quarantined && !given_away(group));
    let hopeless: Vec<usize> = damaged.map(voters).filter(|voters| *voters <= 2).collect();
    let Some(nodes) = hopeless.iter().max().copied() else {
        return Ok(());
    };
    Err(StartError::DamagedLog {
        path: settings.data.log_dir(),
        groups: hopeless.len(),
        nodes,
    })
}

/// On a fresh pool each node gives every group that it votes in the same first voters. A node that isn't among the members
/// of its configuration was added to a pool that runs, and waits for the leaders; so does one that knows its pool already.
async fn initialize(
    settings: &Settings,
    groups: &Groups,
    meta: &MetaReplica,
) -> Result<(), StartError> {
    let nodes: BTreeSet<NodeId> = settings.members.iter().map(|member| member.id).collect();
    if !nodes.contains(&settings.node) || !meta.state().members.rows.is_empty() {
        return Ok(());
    }
    let first = initial(&nodes, u32::from(settings.partitions) + 1);
    for (group, voters) in (0..).map(Group).zip(first) {
        if voters.contains(&settings.node) {
            groups.initialize(group, &voters).await?;
        }
    }
    Ok(())
}

/// A port for clients that is this node's; whether TLS begins with the first byte.
type Reserved = (SocketAddr, crate::listener::ReservedPort, bool);

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

/// The runtimes of the arbiters' threads.
async fn runtimes(arbiters: &[Arbiter]) -> Result<Vec<Handle>, StartError> {
    let mut handles = Vec::with_capacity(arbiters.len());
    for arbiter in arbiters {
        let (sender, handle) = oneshot::channel();
        arbiter.spawn(async move {
            // Nobody waits only if the start has failed.
            let _ = sender.send(Handle::current());
        });
        let handle = handle.await;
        handles.push(handle.map_err(|error| StartError::Runtime(std::io::Error::other(error)))?);
    }
    Ok(handles)
}

/// The cluster port, and who takes what comes in there. Nothing older is spoken than what the pool is at.
async fn open_cluster_port(
    settings: &Settings,
    on: (&Network, &[Arbiter]),
    members: &Arc<MemberList>,
    (gossip, meta): (&Arc<Gossiper>, &MetaReplica),
) -> Result<(Arc<Dispatcher>, Transport), StartError> {
    let handler = Dispatcher::new(settings, Arc::clone(members), Arc::clone(gossip));
    let dispatcher = Arc::new(handler);
    let pool_version = meta.state().versions.pool();
    let handler = (Arc::clone(&dispatcher), pool_version);
    let transport = start_transport(settings, on, members, handler).await?;
    Ok((dispatcher, transport))
}

async fn start_transport(
    settings: &Settings,
    (network, arbiters): (&Network, &[Arbiter]),
    members: &MemberList,
    (dispatcher, pool_version): (Arc<Dispatcher>, u16),
) -> Result<Transport, StartError> {
    let config = TransportConfig {
        node: settings.node,
        pool_id: settings.pool_id.clone(),
        incarnation: Incarnation(0),
        listen: settings.cluster_listen,
        tls: settings.cluster_tls.clone(),
        protocol: settings.build.supports.from(pool_version),
        limits: TransportLimits::default(),
        route_runtimes: runtimes(arbiters).await?,
    };
    let started = network
        .handle()
        .spawn(Transport::start(config, dispatcher))
        .await;
    let transport =
        started.map_err(|error| StartError::Runtime(std::io::Error::other(error)))??;
    let peers: Vec<_> = members
        .peers()
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
async fn wait_for_recovery(
    settings: &Settings,
    groups: &Groups,
    meta: &MetaReplica,
) -> Result<(), StartError> {
    let counts = |group: Group| {
        let state = meta.state();
        let row = state.placements.rows.get(&group);
        // Meta is followed by all; a pool whose members are not noted yet is as it began.
        group == Group::META
            || match row {
                Some(row) => row.voters.contains(&settings.node),
                None => groups.handle(group).is_some_and(|group| group.is_voter()),
            }
    };
    match groups.wait_for_recovery(settings.quorum_wait, counts).await {
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
    (table, replicas): (PartitionTable, Vec<Arc<Replica>>),
    groups: &Groups,
    (transport, gossip): (&Transport, &Arc<Gossiper>),
    (incarnation, meta, member_list): (Incarnation, Arc<MetaReplica>, Arc<MemberList>),
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
        member_list,
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
        let link = start_on(&arbiter, move |_| LinkActor::new(shared, id));
        let shared = Arc::clone(fabric);
        let owner = start_on(&arbiter, move |_| OwnerActor::new(shared, id));
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
        let members = shared.members();
        let others = members.iter().map(|member| member.id);
        others.filter(|id| *id != own).collect()
    };
    network.handle().spawn(dispatch::spread_hints(
        Arc::clone(fabric),
        groups.clone(),
        Arc::clone(&gossip),
    ));
    let sampled = crate::history::keep(Arc::clone(fabric), Arc::clone(&gossip));
    network.handle().spawn(sampled);
    network.handle().spawn(figures::tell(
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

    /// What the nodes did, second by second, behind a time in ms since 1970.
    pub fn history(&self, after_ms: u64) -> Vec<Sample> {
        self.inner.fabric.metrics.history.after(after_ms)
    }

    /// Sessions of each node that has told its figures lately.
    pub fn sessions_by_node(&self) -> BTreeMap<u64, u64> {
        let newest = self.inner.fabric.metrics.history.newest();
        let nodes = newest.map(|sample| sample.nodes).unwrap_or_default();
        let told = nodes
            .iter()
            .map(|(node, told)| (node.0, u64::from(told.sessions)));
        let own = (
            self.inner.fabric.node.0,
            self.inner.fabric.directory.len() as u64,
        );
        told.chain([own]).collect()
    }

    /// Addresses of sessions of this node, in order, behind `after`, that contain a text; at most `limit`.
    pub fn sessions(&self, after: &str, containing: &str, limit: usize) -> Vec<String> {
        self.inner.fabric.directory.page(after, containing, limit)
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

    /// Does a piece of the import of an account.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn import(&self, user: BareJid, piece: ImportPiece) -> Result<(), ControlError> {
        control::import(&self.inner.fabric, user, piece, self.iterations()).await
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

    /// Returns when this node was removed from the pool: it is to stop.
    pub async fn removed(&self) {
        let mut removed = self.inner.removed.clone();
        if removed.wait_for(|removed| *removed).await.is_err() {
            // Nobody is there who could tell.
            std::future::pending::<()>().await;
        }
    }

    /// Ends streams, hands leaderships over, closes the stores. The process is to end after it.
    pub async fn stop(&self) {
        let inner = &self.inner;
        // In this order: whoever is refused something for the standing finds the stop, and tells its client of that instead.
        inner.fabric.connections.stop();
        inner.fabric.standing.stop();
        inner.watch.abort();
        for entry in inner.fabric.directory.all() {
            if entry.session.try_send(ToSession::Depart).is_err() {
                tracing::debug!("a session was gone before it could be told of the stop");
            }
        }
        let ended = inner.fabric.connections.ended();
        if tokio::time::timeout(STREAMS_END_MAX, ended).await.is_err() {
            tracing::info!("some clients did not take the end of their streams in time");
        }
        // Each owner finishes what it has before its partition goes.
        let kept = inner.groups.step_down_all(HAND_OVER_MAX).await;
        if !kept.is_empty() && inner.fabric.members().len() > 1 {
            tracing::info!(
                groups = kept.len(),
                "no other node could take these groups over; who is there elects anew"
            );
        }
        for place in &inner.fabric.partitions {
            if let Some(actors) = inner.fabric.actors(place.id)
                && actors.owner.send(ToOwner::Stop).await.is_err()
            {
                tracing::debug!("a partition's owner was gone before the stop");
            }
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
