//! What all actors of a node share: who it is, where partitions live, how frames leave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use actix::Addr;
use bytes::Bytes;
use cluster::gossip::shell::Gossiper;
use cluster::link::protocol::{Across, Down, RouteKind, Up};
use cluster::machine::Replica;
use cluster::meta::MetaReplica;
use cluster::node_id::{Epoch, Group, Incarnation, NodeId, PartitionId};
use cluster::raft::GroupHandle;
use cluster::transport::{Frame, Lane, SendError, Transport};
use cluster::version::FIRST;
use messaging::archive::ArchiveIds;
use messaging::slot::PartitionTable;
use messaging::user::publication::PublicationSettings;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stream::StreamConfig;
use xmpp::stream_management::ResumptionIds;

use crate::adoption::Berths;
use crate::allowance::Allowances;
use crate::connections::Connections;
use crate::directory::Directory;
use crate::door::Door;
use crate::isolation::StandingCell;
use crate::link::LinkActor;
use crate::metrics::Metrics;
use crate::owner::OwnerActor;
use crate::relay;
use crate::runtime::{Backups, Member, MemberList, Settings};
use crate::session::WaitingBytes;
use crate::soft::{RecentWords, Reign, Told};
use crate::standstill::Standstill;

/// One partition as a node sees it.
pub struct PartitionPlace {
    /// Its number.
    pub id: PartitionId,
    /// The local replica.
    pub replica: Arc<Replica>,
    /// Its Raft group.
    pub group: GroupHandle,
    /// A frame of the owner found the link's mailbox full: the link has to attach again.
    pub link_missed: AtomicBool,
}

/// The mailboxes of a partition's two actors.
pub struct PartitionActors {
    /// The node's end of the link.
    pub link: Addr<LinkActor>,
    /// The owner's end, idle while another node owns the partition.
    pub owner: Addr<OwnerActor>,
}

/// What all actors of a node share.
pub struct Fabric {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// What the meta group has decided, as far as this node's replica has heard.
    pub meta: Arc<MetaReplica>,
    /// Who is in the pool, by the meta group.
    pub member_list: Arc<MemberList>,
    /// Which partition a key belongs to.
    pub table: PartitionTable,
    /// The partitions by number.
    pub partitions: Vec<PartitionPlace>,
    /// The way to other nodes.
    pub transport: Transport,
    /// What nodes tell about themselves, their clocks included.
    pub gossip: Arc<Gossiper>,
    /// The node's sessions.
    pub directory: Directory,
    /// The clients' connections, bound or not.
    pub connections: Arc<Connections>,
    /// Who may come in, and make accounts.
    pub door: Door,
    /// What users may ask of others.
    pub allowances: Allowances,
    /// What operators set.
    pub settings: Settings,
    /// Limits of each user's sessions.
    pub publications: Arc<PublicationSettings>,
    /// How streams are negotiated.
    pub streams: Arc<StreamConfig>,
    /// Counters.
    pub metrics: Metrics,
    /// How the node stands to the quorum.
    pub standing: StandingCell,
    /// Whether the node has stood still.
    pub standstill: Standstill,
    /// Opaque ids of archive rows.
    pub ids: ArchiveIds,
    /// Ids by which clients resume their streams.
    pub resumption_ids: ResumptionIds,
    /// Sessions of other nodes that are on their way here.
    pub berths: Berths,
    /// What waits for clients without a connection.
    pub waiting_bytes: Arc<WaitingBytes>,
    /// What was captured for backups.
    pub backups: Backups,
    owners: RwLock<Vec<Option<(NodeId, Epoch)>>>,
    /// Nodes that we don't meet, and through whom frames go to each.
    relays: RwLock<BTreeMap<NodeId, NodeId>>,
    /// What was said lately to the owner of each partition, and in which order.
    recent: Vec<Mutex<RecentWords>>,
    actors: OnceLock<Vec<PartitionActors>>,
    session_numbers: AtomicU64,
    /// See [`Fabric::may_write`].
    written: AtomicU16,
}

/// Everything a [`Fabric`] is made of that exists before the actors do.
pub struct FabricParts {
    /// See [`Fabric::node`].
    pub node: NodeId,
    /// See [`Fabric::incarnation`].
    pub incarnation: Incarnation,
    /// See [`Fabric::meta`].
    pub meta: Arc<MetaReplica>,
    /// See [`Fabric::member_list`].
    pub member_list: Arc<MemberList>,
    /// See [`Fabric::table`].
    pub table: PartitionTable,
    /// See [`Fabric::partitions`].
    pub partitions: Vec<PartitionPlace>,
    /// See [`Fabric::transport`].
    pub transport: Transport,
    /// See [`Fabric::gossip`].
    pub gossip: Arc<Gossiper>,
    /// See [`Fabric::settings`].
    pub settings: Settings,
    /// See [`Fabric::streams`].
    pub streams: Arc<StreamConfig>,
    /// See [`Fabric::metrics`].
    pub metrics: Metrics,
}

impl Fabric {
    /// Puts the parts together; the actors follow by [`Fabric::set_actors`].
    pub fn new(parts: FabricParts) -> Arc<Fabric> {
        let FabricParts {
            node,
            incarnation,
            meta,
            member_list,
            table,
            partitions,
            transport,
            gossip,
            settings,
            streams,
            metrics,
        } = parts;
        let owners = RwLock::new(vec![None; partitions.len()]);
        let recent = partitions.iter().map(|_| Mutex::default()).collect();
        let ids = ArchiveIds::new(&settings.constants.id_key);
        let resumption_ids = ResumptionIds::new(&settings.secret);
        let publications = Arc::new(PublicationSettings {
            resources_max: settings.client.resources_max,
            ..PublicationSettings::default()
        });
        Arc::new(Fabric {
            node,
            incarnation,
            meta,
            member_list,
            table,
            partitions,
            transport,
            gossip,
            directory: Directory::default(),
            connections: Arc::default(),
            door: Door::new(&settings.client),
            allowances: Allowances::new(settings.client.user_paces),
            settings,
            publications,
            streams,
            metrics,
            standing: StandingCell::default(),
            standstill: Standstill::default(),
            ids,
            resumption_ids,
            berths: Berths::default(),
            waiting_bytes: Arc::default(),
            backups: Backups::default(),
            owners,
            relays: RwLock::default(),
            recent,
            actors: OnceLock::new(),
            session_numbers: AtomicU64::new(1),
            written: AtomicU16::new(FIRST),
        })
    }

    /// The version as of which this node may write: what the pool is at, once the node goes by it (`runtime::versions`). It
    /// never falls.
    pub fn may_write(&self) -> u16 {
        self.written.load(Ordering::Acquire)
    }

    /// From now on this node may write as of a version.
    pub(crate) fn write_as_of(&self, version: u16) {
        self.written.fetch_max(version, Ordering::AcqRel);
    }

    /// Makes the partitions' actors known; once, before anything is accepted.
    pub fn set_actors(&self, actors: Vec<PartitionActors>) {
        let _ = self.actors.set(actors);
    }

    /// The actors of a partition; `None` before they exist or for a number out of range.
    pub fn actors(&self, partition: PartitionId) -> Option<&PartitionActors> {
        self.actors.get()?.get(usize::from(partition.0))
    }

    /// The time for an entry of the log, in ms since 1970: by this node's clock, within the bounds of the others'. It may be
    /// below that of entries before, which then counts. 0: no other clock was heard of yet.
    pub fn time_ms(&self) -> u64 {
        self.gossip.time_ms(self.members().len() == 1)
    }

    /// Whether a node has begun this life; an incarnation from nowhere would shut out all that the node is given later.
    pub fn has_begun(&self, node: NodeId, life: Incarnation) -> bool {
        self.meta.state().has_begun(node, life)
    }

    /// The members as of now, this node among them.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.member_list.members()
    }

    /// Whether this node has a vote in a partition, as far as the meta group has noted.
    pub fn votes_in(&self, partition: PartitionId) -> bool {
        let state = self.meta.state();
        match state.placements.rows.get(&Group::of(partition)) {
            Some(row) => row.voters.contains(&self.node),
            // Members are noted within the first moments of a pool, and until then all of them vote.
            None => true,
        }
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &BareJid) -> PartitionId {
        self.table.partition_of(key)
    }

    /// The node's end of the link for a key.
    pub fn link_of(&self, key: &BareJid) -> Option<&Addr<LinkActor>> {
        self.actors(self.partition_of(key))
            .map(|actors| &actors.link)
    }

    /// A number for a new session, never used before in this life of the node.
    pub fn next_session_number(&self) -> u64 {
        self.session_numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The owner of a partition, as far as is known: a hint, never authority.
    pub fn owner(&self, partition: PartitionId) -> Option<(NodeId, Epoch)> {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(usize::from(partition.0)).copied().flatten()
    }

    /// All owners as far as they are known, by partition.
    pub fn owners(&self) -> Vec<Option<(NodeId, Epoch)>> {
        self.owners
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn_owner(&self, partition: PartitionId, owner: NodeId, epoch: Epoch) -> bool {
        let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = owners.get_mut(usize::from(partition.0)) else {
            return false;
        };
        if known.is_some_and(|(_, known)| known >= epoch) {
            return false;
        }
        *known = Some((owner, epoch));
        true
    }

    /// Through whom frames go to a node; `None`: straight.
    pub fn relay(&self, to: NodeId) -> Option<NodeId> {
        let relays = self.relays.read().unwrap_or_else(PoisonError::into_inner);
        relays.get(&to).copied()
    }

    /// Whether frames get to a node, straight or by a relay.
    pub fn reaches(&self, node: NodeId) -> bool {
        node == self.node
            || self.relay(node).is_some()
            || self.transport.connected(node, Lane::Route)
    }

    /// Takes the relays as they are from now on; gives the nodes to which the way has changed. What was on the old way may
    /// be lost or come late.
    pub(crate) fn set_relays(&self, relays: &BTreeMap<NodeId, NodeId>) -> Vec<NodeId> {
        let mut known = self.relays.write().unwrap_or_else(PoisonError::into_inner);
        if *known == *relays {
            return Vec::new();
        }
        let before = std::mem::replace(&mut *known, relays.clone());
        let members = self.members();
        let nodes = members.iter().map(|member| member.id);
        nodes
            .filter(|node| before.get(node) != known.get(node))
            .collect()
    }

    /// Sends a node's request to an owner.
    ///
    /// # Errors
    /// When the frame can't be queued; links send again.
    pub fn send_up(
        &self,
        to: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        up: &Up,
    ) -> Result<(), FabricError> {
        self.send(to, RouteKind::Up, partition, epoch, up.encode()?)
    }

    /// Sends an owner's word to a node.
    ///
    /// # Errors
    /// When a frame can't be queued; the node finds the hole and attaches again.
    pub fn send_down(
        &self,
        to: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        down: &Down,
    ) -> Result<(), FabricError> {
        let version = self.spoken_with(to);
        let said_ms = crate::runtime::now_ms();
        let written = crate::framing::bodies(down, |down| down.encode_as(version, said_ms))?;
        self.metrics.frames_of(version, written.len());
        for body in written {
            self.send(to, RouteKind::Down, partition, epoch, body)?;
        }
        Ok(())
    }

    /// The version of frames to a node. That the pool is at it is what counts: a relay's next hop is not known here.
    fn spoken_with(&self, to: NodeId) -> u16 {
        let version = self.may_write();
        if version == FIRST {
            return version;
        }
        let next = self.relay(to).unwrap_or(to);
        let agreed = self.transport.protocol(next, Lane::Route);
        agreed.map_or(FIRST, |agreed| agreed.min(version))
    }

    /// Sends an owner's word to another owner. `epoch` is that owner's.
    ///
    /// # Errors
    /// When the frame can't be queued.
    pub fn send_across(
        &self,
        to: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        across: &Across,
    ) -> Result<(), FabricError> {
        self.send(to, RouteKind::Across, partition, epoch, across.encode()?)
    }

    /// Sends soft state to the owner of a partition, if one is known, and keeps it for the next owner.
    ///
    /// # Errors
    /// When no owner is known or the frame can't be queued; then it waits for the next owner.
    pub fn send_to_owner(
        &self,
        partition: PartitionId,
        across: &Across,
    ) -> Result<(), FabricError> {
        let body = across.encode()?;
        // Locked until it is queued: a new owner is told older words first.
        let mut recent = self.recent_words(partition)?;
        let owner = self.owner(partition);
        self.say(&mut recent, partition, owner, across, body)
    }

    /// Sends a word, and keeps it for the next owner.
    fn say(
        &self,
        recent: &mut RecentWords,
        partition: PartitionId,
        owner: Option<(NodeId, Epoch)>,
        across: &Across,
        body: Bytes,
    ) -> Result<(), FabricError> {
        let sent = match owner {
            Some((owner, epoch)) => {
                self.send(owner, RouteKind::Across, partition, epoch, body.clone())
            }
            None => Err(FabricError::NoOwner(partition)),
        };
        let reign = |jid: &Jid| self.reign_over(jid);
        recent.keep(across, body, sent.is_ok(), reign, Instant::now());
        sent
    }

    /// Soft state came to this node for a partition that it doesn't own: it goes to the owner, if that is another node, or
    /// waits for the next.
    ///
    /// # Errors
    /// When it waits.
    pub(crate) fn hand_on(
        &self,
        partition: PartitionId,
        across: &Across,
    ) -> Result<(), FabricError> {
        let body = across.encode()?;
        // Locked before the owner is looked at: whoever learns of another tells it what was kept until then.
        let mut recent = self.recent_words(partition)?;
        let elsewhere = self
            .owner(partition)
            .filter(|(owner, _)| *owner != self.node);
        self.say(&mut recent, partition, elsewhere, across, body)
    }

    /// Takes a hint; `true` when it is news. Then the new owner is told what the old one may never have heard, before
    /// anything newer: both is one step, for who sends to an owner waits for the same lock.
    pub fn new_owner(&self, partition: PartitionId, owner: NodeId, epoch: Epoch) -> bool {
        let ended = self.ended_for_good(partition);
        let Ok(mut recent) = self.recent_words(partition) else {
            return false;
        };
        if !self.learn_owner(partition, owner, epoch) {
            return false;
        }
        self.say_again(&mut recent, partition, (owner, epoch), &ended);
        true
    }

    /// What a node may not have got, because the way to it was lost: said again, where it still owns what it was for.
    pub fn reached_again(&self, node: NodeId) {
        for partition in (0_u16..).map(PartitionId).take(self.partitions.len()) {
            let ended = self.ended_for_good(partition);
            let Ok(mut recent) = self.recent_words(partition) else {
                continue;
            };
            let owner = self.owner(partition).filter(|(owner, _)| *owner == node);
            if let Some(owner) = owner {
                self.say_again(&mut recent, partition, owner, &ended);
            }
        }
    }

    fn say_again(
        &self,
        recent: &mut RecentWords,
        partition: PartitionId,
        (owner, epoch): (NodeId, Epoch),
        ended: &HashSet<Jid>,
    ) {
        // Asked once a partition, not once a word: Raft answers with a copy of its metrics, and whoever has something to say to an
        // owner waits meanwhile.
        let mut led = HashMap::new();
        let mut is_led = |partition| {
            let asked = || self.is_led_by(partition, self.node);
            *led.entry(partition).or_insert_with(asked)
        };
        let mut is_last_word = |told: &Told| {
            let reign = self.reign_over(&told.from);
            // Whoever was cut off may have been followed without having heard of it.
            let is_own = reign.is_some_and(|(owner, _)| owner == self.node);
            let mut surely = || is_led(self.partition_of(&told.from.bare()));
            told.is_last_word_of(self.node, reign) && (!is_own || surely())
        };
        let holds = |told: &Told| is_last_word(told) || ended.contains(&told.from);
        for body in recent.again(Instant::now(), holds) {
            if let Err(error) = self.send(owner, RouteKind::Across, partition, epoch, body) {
                tracing::debug!(%error, %owner, "soft state was not said again");
            }
        }
    }

    /// Whether a node leads a partition's group, and nobody else can have been elected meanwhile.
    fn is_led_by(&self, partition: PartitionId, node: NodeId) -> bool {
        let place = self.partitions.get(usize::from(partition.0));
        place.is_some_and(|place| place.group.living_leader() == Some(node))
    }

    /// Whether the replica here is as of now: its leader is alive and known as the owner, and what it has committed is applied.
    fn is_up_to_date(&self, partition: PartitionId) -> bool {
        let place = self.partitions.get(usize::from(partition.0));
        let owner = self.owner(partition);
        owner.is_some_and(|(owner, _)| self.is_led_by(partition, owner))
            && place.is_some_and(|place| place.group.has_applied_all())
    }

    /// Who is known to own a user, and to tell its presence.
    fn reign_over(&self, jid: &Jid) -> Option<Reign> {
        self.owner(self.partition_of(&jid.bare()))
    }

    /// Sessions whose end this node has lately told the owner of a partition, and which are not in the log, so that no later
    /// owner of theirs can have told otherwise. A log that lags, as that of a node that was cut off, tells nothing. Looked up before any lock is taken: the apply task may wait for a reader.
    fn ended_for_good(&self, partition: PartitionId) -> HashSet<Jid> {
        let told = self.recent_words(partition).map(|recent| recent.ends());
        let told = told.unwrap_or_default().into_iter();
        // Raft is asked once a partition.
        let mut as_of_now = HashMap::new();
        told.filter(|jid| {
            let partition = self.partition_of(&jid.bare());
            let place = self.partitions.get(usize::from(partition.0));
            let session = FullJid::parse(jid.as_str());
            match (place, session) {
                (Some(place), Ok(session)) => {
                    *as_of_now
                        .entry(partition)
                        .or_insert_with(|| self.is_up_to_date(partition))
                        && !place.replica.state().online.contains(&session)
                }
                _ => false,
            }
        })
        .collect()
    }

    /// Drops what no new owner needs to hear any more.
    pub(crate) fn forget_old_words(&self) {
        for recent in &self.recent {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.forget(Instant::now());
        }
    }

    fn recent_words(
        &self,
        partition: PartitionId,
    ) -> Result<MutexGuard<'_, RecentWords>, FabricError> {
        let recent = self.recent.get(usize::from(partition.0));
        let recent = recent.ok_or(FabricError::NoOwner(partition))?;
        Ok(recent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(
        &self,
        to: NodeId,
        kind: RouteKind,
        partition: PartitionId,
        epoch: Epoch,
        body: Bytes,
    ) -> Result<(), FabricError> {
        let frame = Frame {
            kind: kind as u8,
            flags: 0,
            partition,
            epoch,
            sequence: 0,
            body,
        };
        let (next, frame) = match self.relay(to) {
            Some(relay) => (relay, relay::asking(frame, to)),
            None => (to, frame),
        };
        Ok(self.transport.send(next, Lane::Route, frame)?)
    }
}

/// Why a frame did not leave.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// Nobody is known to own the partition.
    #[error("no owner is known for {0}")]
    NoOwner(PartitionId),
    /// The body is larger than a frame may be.
    #[error("a frame could not be encoded")]
    Codec(#[from] storage::codec::CodecError),
    /// The lane is full or down.
    #[error("a frame could not be queued")]
    Send(#[from] SendError),
}
