//! A simulated machine: a folder, a disk that may lose its power, certificates, and the node that runs on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors::runtime::{
    ClientListener, ClientSettings, Member, Memory, NodeHandle, Settings, StorageSettings,
};
use anyhow::Result;
use cluster::node_id::NodeId;
use cluster::raft::{OnFailure, RaftSettings};
use cluster::transport::{ClusterTls, certificate_name};
use cluster::version::Build;
use messaging::apply::PoolConstants;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use storage::data_dir::DataDir;
use storage::log::LogOptions;
use storage::simulation::LogSteps;
use storage::state_store::Engine;
use xmpp::scan::Limits;

use crate::disk::Disk;
use crate::trace::Trace;

/// Ports of every machine.
pub const CLUSTER_PORT: u16 = 5270;
/// For clients, without TLS.
pub const CLIENT_PORT: u16 = 5222;

const POOL: &str = "simulated";

/// Snapshots come so often, and the log keeps so little for who lags, that a story has many of them: who was away for a moment
/// is sent one.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);
const LOG_KEEP_BYTES: u64 = 8 << 10;

/// What all machines of a pool have in common.
pub struct Pool {
    ca: CertifiedIssuer<'static, KeyPair>,
    /// Nodes that the pool begins with.
    pub first: Vec<u64>,
    /// Partitions.
    pub partitions: u16,
    trace: Arc<Trace>,
}

impl Pool {
    /// A new pool.
    pub fn new(first: Vec<u64>, partitions: u16, trace: Arc<Trace>) -> Result<Pool> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Pool {
            ca: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            first,
            partitions,
            trace,
        })
    }
}

/// The name of a machine on the simulated network.
pub fn host(node: u64) -> String {
    format!("node{node}")
}

/// How others reach a machine: the simulated network gives addresses in the order of registration.
pub fn address(node: u64) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, u8::try_from(node).unwrap_or(u8::MAX))
}

/// A machine.
pub struct Machine {
    /// The id of its node.
    pub node: u64,
    folder: PathBuf,
    /// Its disk.
    pub disk: Disk,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    steps: RefCell<Option<LogSteps>>,
    /// Its node, while that runs and has started.
    pub handle: RefCell<Option<NodeHandle>>,
    /// How often it has started.
    pub starts: RefCell<u64>,
}

thread_local! {
    static MACHINES: RefCell<BTreeMap<PathBuf, Rc<Machine>>> = const { RefCell::new(BTreeMap::new()) };
}

impl Machine {
    /// A machine with an empty disk below `folder`.
    pub fn new(
        pool: &Pool,
        node: u64,
        folder: &Path,
        seed: u64,
        lies: bool,
    ) -> Result<Rc<Machine>> {
        let key = KeyPair::generate()?;
        let pool_id = POOL.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
        let params = CertificateParams::new(vec![certificate_name(NodeId(node), &pool_id)])?;
        let machine = Rc::new(Machine {
            node,
            folder: folder.join(host(node)),
            disk: Disk::new(seed, lies, Arc::clone(&pool.trace)),
            chain: vec![params.signed_by(&key, &pool.ca)?.der().clone()],
            key: key.serialize_der(),
            steps: RefCell::default(),
            handle: RefCell::default(),
            starts: RefCell::default(),
        });
        MACHINES.with(|machines| {
            let log = machine.folder.join("log");
            machines.borrow_mut().insert(log, Rc::clone(&machine));
        });
        Ok(machine)
    }

    /// Runs its node, from start to crash. An error is that of the start.
    pub async fn run(self: Rc<Machine>, pool: Rc<Pool>) -> Result<(), String> {
        *self.starts.borrow_mut() += 1;
        let settings = self.settings(&pool).map_err(|error| format!("{error:#}"))?;
        let started = actors::runtime::start(settings).await;
        let handle = started.map_err(|error| sentence(&error))?;
        *self.handle.borrow_mut() = Some(handle.clone());
        handle.removed().await;
        handle.stop().await;
        self.handle.borrow_mut().take();
        std::future::pending().await
    }

    fn settings(&self, pool: &Pool) -> Result<Settings> {
        let key = || PrivateKeyDer::Pkcs8(self.key.clone().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client_tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key())?;
        let data = DataDir::open(&self.folder, POOL, self.node)?;
        // An archive in memory leaves its folder empty, which is how a lost disk looks.
        std::fs::write(data.archive_dir().join("in-memory"), [])?;
        let member = |node: &u64| Member {
            id: NodeId(*node),
            address: format!("{}:{CLUSTER_PORT}", address(*node)),
        };
        let all = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Ok(Settings {
            build: Build::own(),
            node: NodeId(self.node),
            pool_id: POOL.parse().map_err(|error| anyhow::anyhow!("{error}"))?,
            members: pool.first.iter().map(member).collect(),
            drain_sessions_per_second: 100,
            partitions: pool.partitions,
            constants: PoolConstants {
                id_key: [1; 16],
                domain: chaos_tests::pool::DOMAIN.to_owned(),
                rooms_domain: chaos_tests::pool::ROOMS.to_owned(),
                contacts_max: 100,
                occupants_max: 100,
                rooms_owned_max: 100,
            },
            pool_digest: [2; 32],
            secret: [3; 32],
            data: Arc::new(data),
            cluster_listen: all(CLUSTER_PORT),
            cluster_tls: ClusterTls::new(vec![pool.ca.der().clone()], self.chain.clone(), key()),
            client_listeners: vec![ClientListener {
                address: all(CLIENT_PORT),
                direct_tls: false,
            }],
            client_tls: Arc::new(client_tls),
            client: client_settings(),
            storage: StorageSettings {
                archive_cache_bytes: 1 << 20,
                state_cache_bytes: 1 << 20,
                log: self.log_options(),
                state_engine: Engine::Fjall,
            },
            raft: RaftSettings {
                on_failure: OnFailure::new(|group, reason| {
                    let what = format!("group {group} failed: {reason}");
                    FAILURES.with(|failures| failures.borrow_mut().push(what));
                }),
                snapshot_interval: SNAPSHOT_INTERVAL,
                log_keep_bytes: LOG_KEEP_BYTES,
                ..RaftSettings::default()
            },
            quorum_wait: Duration::from_secs(120),
            memory: Memory::default,
            arbiters: 1,
            replication_threads: 1,
        })
    }

    fn log_options(&self) -> LogOptions {
        LogOptions {
            segment_bytes: 8 << 20,
            sync_interval: Duration::ZERO,
            disk_free_bytes_min: 0,
            on_disk_error: |error| panic!("{PLANTED}: {error}"),
            disk: Arc::new(self.disk.clone()),
            ..LogOptions::default()
        }
    }

    /// Before the crash of the process: from now on it does nothing to its log any more. With `power` the machine goes, too,
    /// perhaps in the middle of a write.
    pub fn stop_writing(&self, power: bool) -> Result<()> {
        let steps = self.steps.borrow_mut().take();
        if let Some(steps) = steps {
            if power && self.disk.chance(1) == 1 && steps.has_work() {
                self.disk.die();
                // What it was writing is on its way to the disk, and its fdatasync never ends.
                let step = catch_unwind(AssertUnwindSafe(|| steps.step()));
                anyhow::ensure!(step.is_err(), "a step ended though the power was gone");
            }
            steps.kill();
        }
        self.handle.borrow_mut().take();
        Ok(())
    }

    /// After the crash of the process: what becomes of what was not synced. Gives how many sectors were lost.
    pub fn settle(&self, power: bool) -> Result<usize> {
        crate::process::release_locks(&self.folder)?;
        if !power {
            self.disk.process_died();
            return Ok(0);
        }
        self.disk.remember(&self.folder.join("log"))?;
        storage::simulation::cut_power(&self.folder, |unsynced| self.disk.chance(unsynced));
        // A machine that comes back has another boot id: its state stores are filled anew from snapshots and the log.
        for store in std::fs::read_dir(self.folder.join("state"))? {
            let marker = store?.path().join("marker");
            if marker.exists() {
                std::fs::remove_file(marker)?;
            }
        }
        Ok(self.disk.cut_power()?)
    }
}

/// In the message of every panic that the simulation itself causes.
pub const PLANTED: &str = "planted";

/// Lets the logs of this thread's machines take their steps: each after the time that an fdatasync takes.
pub fn drive_logs() {
    storage::simulation::on_log_opened(|steps| {
        let machine = MACHINES.with(|machines| machines.borrow().get(steps.dir()).cloned());
        let Some(machine) = machine else { return };
        *machine.steps.borrow_mut() = Some(steps.clone());
        tokio::task::spawn_local(async move {
            loop {
                steps.wanted().await;
                while steps.has_work() {
                    // What nobody waits for waits for company, and is lost with the process.
                    let wait = steps.may_wait().unwrap_or_default();
                    if tokio::time::timeout(wait, steps.wanted()).await.is_ok() {
                        continue;
                    }
                    tokio::time::sleep(machine.disk.latency()).await;
                    if !steps.step() {
                        return;
                    }
                }
            }
        });
    });
}

thread_local! {
    static FAILURES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Groups that failed, on any node.
pub fn failures() -> Vec<String> {
    FAILURES.with(|failures| failures.borrow().clone())
}

fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn client_settings() -> ClientSettings {
    ClientSettings {
        address: None,
        sessions_max: 1_000,
        allow_plaintext_auth: true,
        tls_required: false,
        registration: false,
        registrations: None,
        retired_domains: Vec::new(),
        scram_iterations: 1,
        limits_before_auth: Limits::BEFORE_AUTH,
        limits_after_auth: Limits::AFTER_AUTH,
        negotiation: Default::default(),
        resources_max: 10,
        unauthenticated_per_address_max: 100,
        queued_max: 100,
        queue_within: Duration::from_secs(20),
        trusted_networks: vec![(Ipv4Addr::new(192, 168, 0, 0).into(), 16)],
        proxy_networks: Vec::new(),
        stream_paces: Default::default(),
        user_paces: Default::default(),
        probe_after: Duration::from_secs(20),
        outgoing_bytes_max: 1 << 20,
        sm_inbound: Default::default(),
        sm_outbound: Default::default(),
        resume_within: Duration::from_secs(60),
        detached_bytes_max: 1 << 20,
        archive_page_max: 50,
        archive_queries_max: 4,
    }
}
