//! Servers that are started to be measured: Muster pools, and the peers as Debian packages them.
//!
//! ```text
//!  Kind ─► Server::start (own folder, own configuration, free loopback ports, the run's certificate) ─► target ─► stop
//! ```
//!
//! Each server has one domain, the same certificate, SCRAM-SHA-1 with 4,096 iterations, in-band registration, stream
//! management, carbons, archives for users and rooms, and no bounds on rates. All else is its default.

mod certificates;
mod cluster;
mod ejabberd;
mod peer;
mod prosody;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rand::RngExt;

use crate::cli::TargetArgs;
use crate::pool::{Pool, PoolPlan};
use crate::processes::Processes;
use crate::site::Site;
use crate::target::{Security, Target, trust};
use crate::wire::Wire;

pub(crate) use certificates::Certificates;
pub(crate) use cluster::Cluster;
use peer::Peer;

/// The domain that every server is given.
pub(crate) const DOMAIN: &str = "localhost";

/// How long a server that listens may take until streams open.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

/// How often that is tried.
const SERVES_POLL: Duration = Duration::from_millis(200);

/// SCRAM iterations of passwords, where that can be set.
pub(crate) const SCRAM_ITERATIONS: u32 = 4096;

/// What is compared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// ejabberd, from Debian
    Ejabberd,
    /// Prosody, from Debian
    Prosody,
    /// One node of Muster
    #[value(name = "muster-1")]
    #[serde(rename = "muster-1")]
    Muster1,
    /// Three nodes of Muster
    #[value(name = "muster-3")]
    #[serde(rename = "muster-3")]
    Muster3,
}

impl Kind {
    /// All, in the order in which they are measured.
    pub(crate) const ALL: [Kind; 4] = [Kind::Ejabberd, Kind::Prosody, Kind::Muster1, Kind::Muster3];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ejabberd => "ejabberd",
            Kind::Prosody => "Prosody",
            Kind::Muster1 => "Muster, 1 node",
            Kind::Muster3 => "Muster, 3 nodes",
        }
    }

    /// How many processes of Muster; none for the others.
    pub(crate) fn nodes(self) -> Option<usize> {
        match self {
            Kind::Muster1 => Some(1),
            Kind::Muster3 => Some(3),
            Kind::Ejabberd | Kind::Prosody => None,
        }
    }
}

/// A server of several nodes, one of which may be in trouble.
pub(crate) trait Nodes {
    /// Kills a node's process, as a crash would (SIGKILL).
    fn kill(&mut self, node: usize) -> anyhow::Result<()>;

    /// Stops a node from running (SIGSTOP).
    fn freeze(&self, node: usize) -> anyhow::Result<()>;

    /// Lets it run again (SIGCONT).
    fn thaw(&self, node: usize) -> anyhow::Result<()>;

    /// Starts a node that was killed, from its folder, and waits until it serves.
    fn bring_back(&mut self, node: usize) -> impl Future<Output = anyhow::Result<()>>;
}

/// A server that runs; killed when it is dropped.
pub(crate) enum Server {
    /// Muster's nodes.
    Muster(Pool),
    /// Another server.
    Peer(Peer),
}

impl Server {
    /// Starts one from nothing and waits until it serves.
    pub(crate) async fn start(
        kind: Kind,
        site: &Site,
        args: &TargetArgs,
    ) -> anyhow::Result<Server> {
        if let Some(nodes) = kind.nodes() {
            let plan = PoolPlan {
                nodes,
                binary: site.binary.clone(),
                dir: site.dir.clone(),
                keep: site.keep,
                certificates: Some(Arc::clone(&site.certificates)),
                partitions: None,
                occupants_max: None,
            };
            return Ok(Server::Muster(Pool::start(&plan).await?));
        }
        let folder = folder(site, kind)?;
        let ports = Ports::free()?;
        let command = match kind {
            Kind::Ejabberd => ejabberd::prepare(folder.path(), ports, &site.certificates, None)?,
            _ => prosody::prepare(folder.path(), ports, &site.certificates)?,
        };
        let server = Server::Peer(Peer::start(command, folder, ports).await?);
        for security in [Security::Plain, Security::Tls] {
            until_it_serves(&*server.target(security, site, "", args)?, 0).await?;
        }
        Ok(server)
    }

    /// As a target of load.
    pub(crate) fn target(
        &self,
        security: Security,
        site: &Site,
        password: &str,
        args: &TargetArgs,
    ) -> anyhow::Result<Arc<Target>> {
        let (nodes, processes) = match self {
            Server::Muster(pool) => (pool.addresses(security)?, pool.processes()),
            Server::Peer(peer) => (
                vec![peer.ports.address(security)],
                Processes::new(vec![peer.pid()]),
            ),
        };
        let tls = match security {
            Security::Plain => None,
            security => Some(trust(&site.certificates.ca(), security)?),
        };
        let target = Target::of_own_server(nodes, security, tls, processes, password, args);
        target.refuse_other_machines()?;
        Ok(Arc::new(target))
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Server::Muster(pool) => pool.stop().await,
            Server::Peer(peer) => peer.stop().await,
        }
    }
}

/// Waits until streams open for a session, at the node where it connects. A peer may listen before it can do anything with a
/// connection.
pub(crate) async fn until_it_serves(target: &Target, session: usize) -> anyhow::Result<()> {
    let end = Instant::now() + SERVES_WITHIN;
    loop {
        match Wire::connect(target, session).await {
            Ok((mut wire, _)) => return wire.send(b"</stream:stream>").await,
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(SERVES_POLL).await,
        }
    }
}

/// What a server says that it is, and which settings matter.
pub(crate) fn description(kind: Kind, site: &Site) -> anyhow::Result<String> {
    match kind {
        Kind::Ejabberd => ejabberd::description(),
        Kind::Prosody => prosody::description(),
        Kind::Muster1 | Kind::Muster3 => {
            let said = first_line(std::process::Command::new(&site.binary).arg("--version"))?;
            Ok(format!(
                "{said}; archive and state on the disks of a quorum before anything is acknowledged"
            ))
        }
    }
}

/// The first line that a command says.
fn first_line(command: &mut std::process::Command) -> anyhow::Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("{shown}: cannot be run"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    if !output.status.success() || line.is_empty() {
        bail!("{shown} did not say its version: {}", output.status);
    }
    Ok(line)
}

/// The version of a Debian package.
fn package(name: &str) -> anyhow::Result<String> {
    let mut query = std::process::Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Version}\n", name]);
    first_line(&mut query).with_context(|| format!("is the package {name} installed?"))
}

/// A new folder for a server.
fn folder(site: &Site, kind: Kind) -> anyhow::Result<tempfile::TempDir> {
    let prefix = format!("bench-{}-", kind.name().to_lowercase());
    let mut folder = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(&site.dir)
        .with_context(|| format!("{}", site.dir.display()))?;
    folder.disable_cleanup(site.keep);
    Ok(folder)
}

/// Where a peer listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// An address of the loopback.
    pub(crate) host: Ipv4Addr,
    /// Without TLS, or with STARTTLS.
    pub(crate) plain: u16,
    /// With TLS from the first byte.
    pub(crate) tls: u16,
}

impl Ports {
    /// Two that nobody has now, below those that the system gives to outgoing connections.
    fn free() -> anyhow::Result<Ports> {
        Ports::free_at(Ipv4Addr::LOCALHOST)
    }

    /// The same, at another address of the loopback.
    fn free_at(host: Ipv4Addr) -> anyhow::Result<Ports> {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let plain: u16 = rand::rng().random_range(10_000..30_000);
            let ports = Ports {
                host,
                plain,
                tls: plain + 1,
            };
            let is_free = |security| TcpListener::bind(ports.address(security)).is_ok();
            if is_free(Security::Plain) && is_free(Security::Tls) {
                return Ok(ports);
            }
        }
        bail!("no free ports on the loopback")
    }

    /// The address for this kind of connection.
    pub(crate) fn address(self, security: Security) -> SocketAddr {
        let port = match security {
            Security::Tls => self.tls,
            Security::Plain | Security::Starttls => self.plain,
        };
        SocketAddr::from((self.host, port))
    }
}
