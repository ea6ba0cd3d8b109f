//! One life of a node: configuration, data folder, start, ready, signal, graceful stop.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::runtime::{
    ClientListener, ClientSettings, Member, NodeHandle, Settings, StartError, StorageSettings,
    start,
};
use cluster::raft::GroupsError;
use cluster::transport::TransportError;
use cluster::version::{BUILD_NAME, Build};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use storage::data_dir::{DataDir, DataDirError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use web::{ControlServer, ControlServerError, ControlSettings, ControlToken, ReservedPort};

use crate::backend::Backend;
use crate::check::places;
use crate::cli::RunArgs;
use crate::config::pool_file::refuse_exposed;
use crate::config::validate::{ClientsConfig, ControlConfig};
use crate::config::{ConfigFile, NodeConfig};
use crate::disk::DataDisk;
use crate::exit::{Exit, Failure, print};
use crate::init::TOKEN_BYTES;
use crate::issuing::Issuing;
use crate::logging;
use crate::machine;
use crate::rotation::{LOOK_EVERY, Rotation};
use crate::secret_file::{Readers, create, random_hex};

/// How often a node that has started looks whether all partitions have owners.
const READY_EVERY: Duration = Duration::from_millis(50);

/// What a shell reports of a process that SIGINT or SIGTERM ended.
const SIGNALLED: i32 = 128;

/// `muster run`
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let file = ConfigFile::load(&args.config)?;
    logging::start(&file)?;
    #[cfg(feature = "planted-bugs")]
    tracing::warn!(
        bug = ?std::env::var_os(planted::CHOICE),
        "this build has planted bugs and is for tests alone"
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = NodeConfig::validate(&file, Arc::clone(&provider))?;
    raise_open_files();
    let disk = DataDisk::new(&config.data_dir, config.log_options.disk_free_bytes_min);
    let shown = (
        Arc::clone(&config.clients.shown),
        Arc::clone(&config.control.shown),
    );
    let pool = config.pool.clone();
    let issuing = Issuing::new(file.clone(), pool.clone(), Arc::clone(&provider));
    let rotation = Rotation::new(file, pool, provider, shown, config.ends.clone());
    live(config, (rotation, issuing), args, disk.clone()).map_err(|failure| match failure.exit {
        Exit::Data | Exit::Failed => disk.explain(failure),
        _ => failure,
    })
}

fn live(
    mut config: NodeConfig,
    files: (Rotation, Issuing),
    args: &RunArgs,
    disk: DataDisk,
) -> Result<(), Failure> {
    config.raft.on_failure = disk.on_failure();
    let data = open_data(&config, args.new_data)?;
    let token = control_token(&config.control.token_file)?;
    actix_rt::System::new().block_on(serve((config, data), files, token))
}

/// Every client is an open file: the hard limit is what the operator means.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(files = ?limit.maximum, "open files"),
        Err(error) => tracing::warn!(%error, files = ?limit.current, "few files may be open"),
    }
}

/// The folder must be this node's. An empty one is a lost disk: a node that forgot what it promised would vote twice.
fn open_data(config: &NodeConfig, new_data: bool) -> Result<DataDir, Failure> {
    let path = &config.data_dir;
    let failed = |error: DataDirError| Failure::from_error(Exit::Data, &error);
    if !new_data && DataDir::identity_of(path).map_err(failed)?.is_none() {
        let message = format!(
            "the data folder {} is empty: if node {} has ever run it has lost its disk and must not come back \
             under this id; if it is new, start it once with --new-data",
            path.display(),
            config.node.0
        );
        return Err(Failure::new(Exit::Data, message));
    }
    DataDir::open(path, config.pool.id.as_str(), config.node.0).map_err(failed)
}

/// The token of the control port, made if there is none.
fn control_token(path: &Path) -> Result<ControlToken, Failure> {
    if let Some(token) = present_token(path)? {
        return Ok(token);
    }
    let token = random_hex(TOKEN_BYTES);
    create(path, &format!("{token}\n"), Readers::Owner)
        .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", path.display())))?;
    present_token(path)?
        .ok_or_else(|| Failure::new(Exit::Config, format!("{}: it has gone", path.display())))
}

/// The token that is there already.
pub(crate) fn present_token(path: &Path) -> Result<Option<ControlToken>, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, format!("{}: {error}", path.display()))
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    refuse_exposed(path)?;
    ControlToken::new(text.trim())
        .map(Some)
        .map_err(|error| failed(&error))
}

/// The two signals that end a node, and the one that makes it read its certificates anew.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Signals, Failure> {
        let catch = |kind| signal(kind).map_err(|error| Failure::from_error(Exit::Failed, &error));
        Ok(Signals {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// The number of the next one that ends the node.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }

    /// `None`: the one that does not end the node.
    async fn next_or_hangup(&mut self) -> Option<i32> {
        tokio::select! {
            _ = self.interrupt.recv() => Some(SignalKind::interrupt().as_raw_value()),
            _ = self.terminate.recv() => Some(SignalKind::terminate().as_raw_value()),
            _ = self.hangup.recv() => None,
        }
    }
}

async fn serve(
    (config, data): (NodeConfig, DataDir),
    (rotation, issuing): (Rotation, Issuing),
    token: ControlToken,
) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let places = places(&config);
    let domain = config.pool.constants.domain.clone();
    let pool = config.pool.clone();
    let control = control_settings(&config, token);
    let refused = |error: ControlServerError| Failure::from_error(Exit::Port, &error);
    let control_port = ReservedPort::new(config.control.section.listen).map_err(refused)?;
    tracing::info!(version = BUILD_NAME, "starting: {places}");
    let starting = start(settings(config, data));
    let node = tokio::select! {
        started = starting => started.map_err(|error| start_failure(&error))?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the node was up");
            return Ok(());
        }
    };
    let backend = Backend {
        node: node.clone(),
        domain,
        pool,
        issuing,
    };
    let control = match ControlServer::start(control_port, control, backend) {
        Ok(control) => control,
        Err(error) => {
            node.stop().await;
            return Err(refused(error));
        }
    };
    let ended = serve_until(&node, &places, rotation, &mut signals).await?;
    match ended {
        Ended::Signal(signal) => {
            tracing::info!(signal, "stopping; a second signal ends the process at once")
        }
        Ended::Removed => tracing::info!("stopping; a signal ends the process at once"),
    }
    tokio::select! {
        // The control port goes last: until then it says that the node is not ready, and why.
        () = async { node.stop().await; control.stop().await } => {
            tracing::info!("stopped");
            match ended {
                Ended::Signal(_) => Ok(()),
                Ended::Removed => Err(Failure::new(
                    Exit::Removed,
                    "this node was removed from the pool; its data folder is of no more use",
                )),
            }
        }
        signal = signals.next() => std::process::exit(SIGNALLED + signal),
    }
}

/// What ends a node that serves.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// A signal.
    Signal(i32),
    /// The pool does without it from now on.
    Removed,
}

/// Says when the node is ready, and returns what ends it.
async fn serve_until(
    node: &NodeHandle,
    places: &str,
    mut rotation: Rotation,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    rotation.look(node, false);
    loop {
        let readiness = node.ready();
        if readiness.is_ready() {
            break;
        }
        tokio::select! {
            signal = signals.next() => return Ok(Ended::Signal(signal)),
            () = node.removed() => return Ok(Ended::Removed),
            () = tokio::time::sleep(READY_EVERY) => {}
        }
    }
    tracing::info!("ready");
    print(&format!("ready: {places}\n"))?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            signal = signals.next_or_hangup() => match signal {
                Some(signal) => return Ok(Ended::Signal(signal)),
                None => rotation.look(node, true),
            },
            () = node.removed() => return Ok(Ended::Removed),
            _ = looks.tick() => rotation.look(node, false),
        }
    }
}

/// Each cause has its code.
fn start_failure(error: &StartError) -> Failure {
    let exit = match error {
        StartError::ClientPort { .. } | StartError::Cluster(TransportError::Bind { .. }) => {
            Exit::Port
        }
        StartError::Cluster(_) | StartError::OtherPool => Exit::Config,
        StartError::Groups(GroupsError::Settings(_)) => Exit::Config,
        StartError::NoQuorum { .. } | StartError::FirstStartUnheard { .. } => Exit::NoQuorum,
        StartError::Log { .. } | StartError::Archive(_) | StartError::Data(_) => Exit::Data,
        StartError::BegunBefore { .. } | StartError::DamagedLog { .. } => Exit::Data,
        StartError::VersionSkew(_) => Exit::VersionSkew,
        StartError::Removed(_) | StartError::NotAMember { .. } => Exit::Removed,
        StartError::Groups(GroupsError::Machine { .. } | GroupsError::Log { .. }) => Exit::Data,
        _ => Exit::Failed,
    };
    Failure::from_error(exit, error)
}

fn control_settings(config: &NodeConfig, token: ControlToken) -> ControlSettings {
    let control: &ControlConfig = &config.control;
    let section = &control.section;
    ControlSettings {
        tls: control.tls.clone(),
        token,
        root: format!("root@node-{}", config.node.0),
        health_open: section.health_open,
        metrics_open: section.metrics_open,
        console: section.console,
        connections_max: section.connections_max,
        body_bytes_max: usize::try_from(section.body_bytes_max.0).unwrap_or(usize::MAX),
        request_timeout: section.request_timeout.0,
    }
}

/// What the runtime starts with.
fn settings(config: NodeConfig, data: DataDir) -> Settings {
    let arbiters = threads(config.clients.section.threads);
    let replication_threads = threads(config.replication_threads);
    let pool_digest = config.pool.digest();
    let member = |(id, address)| Member { id, address };
    Settings {
        build: Build::own(),
        node: config.node,
        pool_id: config.pool.id,
        members: config.cluster.members.into_iter().map(member).collect(),
        drain_sessions_per_second: config.clients.section.drain_sessions_per_second,
        partitions: config.pool.partitions,
        constants: config.pool.constants,
        pool_digest,
        secret: config.pool.secret,
        data: Arc::new(data),
        cluster_listen: config.cluster.listen,
        cluster_tls: config.cluster.tls,
        client_listeners: client_listeners(&config.clients),
        client_tls: Arc::clone(&config.clients.tls),
        client: client_settings(config.clients),
        storage: StorageSettings {
            archive_cache_bytes: config.storage.archive_cache_bytes.0,
            state_cache_bytes: config.storage.state_cache_bytes.0,
            log: config.log_options,
            state_engine: config.storage.state_engine,
        },
        raft: config.raft,
        quorum_wait: config.cluster.quorum_wait,
        memory: machine::memory,
        arbiters,
        replication_threads,
    }
}

/// How many threads, by a setting. Half the cores each for clients and for replication: a word that passes from one idle
/// thread to another costs more than most of what is done with it.
fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        threads => threads,
    }
}

fn client_listeners(clients: &ClientsConfig) -> Vec<ClientListener> {
    let listener = |direct_tls| {
        move |address: &_| ClientListener {
            address: *address,
            direct_tls,
        }
    };
    let starttls = clients.section.listen.iter().map(listener(false));
    starttls
        .chain(clients.section.listen_tls.iter().map(listener(true)))
        .collect()
}

fn client_settings(clients: ClientsConfig) -> ClientSettings {
    let section = clients.section;
    let network = |network: &crate::config::knob::Network| (network.address, network.prefix);
    let address = (!section.address.is_empty()).then_some(section.address);
    ClientSettings {
        address,
        sessions_max: machine::sessions_max(section.sessions_max),
        allow_plaintext_auth: section.allow_plaintext_auth,
        tls_required: section.tls_required,
        registration: section.registration,
        registrations: clients.registrations,
        retired_domains: clients.retired_domains,
        scram_iterations: clients.scram_iterations.get(),
        limits_before_auth: clients.limits_before_auth,
        limits_after_auth: clients.limits_after_auth,
        negotiation: clients.negotiation,
        resources_max: section.resources_max,
        unauthenticated_per_address_max: section.unauthenticated_per_address_max,
        queued_max: section.queued_max,
        queue_within: section.queue_within.0,
        stream_paces: clients.stream_paces,
        user_paces: clients.user_paces,
        proxy_networks: section.proxy_networks.iter().map(network).collect(),
        trusted_networks: section.trusted_networks.iter().map(network).collect(),
        probe_after: section.probe_after.0,
        outgoing_bytes_max: clients.outgoing_bytes_max,
        sm_inbound: Arc::new(clients.inbound),
        sm_outbound: Arc::new(clients.outbound),
        resume_within: clients.resume_within,
        detached_bytes_max: clients.detached_bytes_max,
        archive_page_max: section.archive_page_max,
        archive_queries_max: section.archive_queries_max,
    }
}
