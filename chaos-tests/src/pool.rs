//! Pools of real processes for a test: made by `muster init`, run by `muster run`, killed by their id.
//!
//! Every pool has loopback addresses of its own, so that tests may run beside each other. What a pool leaves behind
//! when a test fails is the end of each node's log, on standard error.

mod certificates;
mod growth;
mod process;
mod program;
mod replicas;
mod standing;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use messaging::slot::PartitionTable;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;
use xmpp::jid::BareJid;

use crate::client::{Hash, Login, Mechanism, Security};
use crate::clock::Clock;
use crate::control::ControlPort;
use crate::network::{Network, SUBNET};
use crate::switch;
use crate::wait::until;
pub use certificates::Towards;
use planted::Bug;
use process::NodeProcess;
pub use program::{Program, variant};
pub use replicas::Agreement;

/// The domain of every test pool.
pub const DOMAIN: &str = "localhost";

/// The domain of its rooms.
pub const ROOMS: &str = "conference.localhost";

/// How long a pool may take until it serves; generous because tests share two cores.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// What a pool is made of.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// How many nodes.
    pub nodes: u16,
    /// Keys of `muster.toml` that differ from the tests' own: section, key, value.
    pub keys: Vec<(&'static str, &'static str, toml::Value)>,
    /// Where the nodes are instead of on loopback addresses.
    pub network: Option<Network>,
    /// How many of the nodes the pool begins with; the others are let in later. `None`: all.
    pub first: Option<u16>,
    /// Whether what nodes say to each other goes over a switch, whose devices the network's namespaces have.
    pub switched: bool,
    /// Whether each node has a clock of its own.
    pub clocks: bool,
    /// What its nodes run.
    pub program: Program,
}

impl PoolSettings {
    /// So many nodes.
    pub fn nodes(nodes: u16) -> PoolSettings {
        PoolSettings {
            nodes,
            keys: Vec::new(),
            network: None,
            first: None,
            switched: false,
            clocks: false,
            program: Program::Released,
        }
    }

    /// What nodes say to each other goes over a switch of this network.
    pub fn switched(mut self) -> PoolSettings {
        self.switched = true;
        self
    }

    /// Each node has a clock that can be set.
    pub fn clocks(mut self) -> PoolSettings {
        self.clocks = true;
        self
    }

    /// Its nodes run the variant of the binary, with this bug planted, or none.
    pub fn planted(mut self, bug: Option<Bug>) -> PoolSettings {
        self.program = Program::Planted(bug);
        self
    }

    /// The pool begins with so many of its nodes; the folders of the others are ready.
    pub fn beginning_with(mut self, first: u16) -> PoolSettings {
        self.first = Some(first);
        self
    }

    /// Places each node into its namespace of a network.
    pub fn network(mut self, network: &Network) -> PoolSettings {
        self.network = Some(network.clone());
        self
    }

    /// Sets a key.
    pub fn set(
        mut self,
        section: &'static str,
        key: &'static str,
        value: impl Into<toml::Value>,
    ) -> PoolSettings {
        self.keys.push((section, key, value.into()));
        self
    }
}

/// The settings in which a test's pool differs from a real one: cheap passwords, plain text allowed, small log.
fn test_keys() -> Vec<(&'static str, &'static str, toml::Value)> {
    vec![
        ("clients", "scram_iterations", 4096.into()),
        ("clients", "tls_required", false.into()),
        ("clients", "allow_plaintext_auth", true.into()),
        (
            "clients",
            "trusted_networks",
            vec!["127.0.0.0/8", SUBNET].into(),
        ),
        ("storage", "log_segment_bytes", "8 MiB".into()),
        ("log", "filter", "info,openraft=error".into()),
    ]
}

/// A node of a test's pool.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where clients connect with TLS from the first byte.
    pub clients_tls: SocketAddr,
    /// Its control port.
    pub control: ControlPort,
    /// Its configuration.
    pub config: PathBuf,
    /// The network namespace it runs in, if it is not the test's own.
    namespace: Option<String>,
    program: Program,
    /// Its own clock, if it is not the machine's.
    clock: Option<Clock>,
    process: Option<NodeProcess>,
}

/// A pool of processes.
pub struct Pool {
    nodes: Vec<Node>,
    tls: Arc<rustls::ClientConfig>,
    partitions: PartitionTable,
    /// The highest id among those that the pool began with.
    first: u64,
    dir: TempDir,
}

/// The binary under test: the one beside the test's own folder.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MUSTER_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let folder = own
        .parent()
        .and_then(Path::parent)
        .context("a test lies in target/release/deps")?;
    let binary = folder.join("muster");
    if !binary.exists() {
        bail!(
            "{} is missing: cargo build --release -p muster-node",
            binary.display()
        );
    }
    Ok(binary)
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(args).output()?)
}

/// Runs the binary, which must succeed.
pub fn run_ok(args: &[&str]) -> Result<String> {
    let output = run(args)?;
    if !output.status.success() {
        bail!(
            "muster {args:?}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Loopback addresses that no other test uses: free for the ports of a pool.
pub fn loopback_addresses(count: u16) -> Result<Vec<Ipv4Addr>> {
    /// Tries before something else must be wrong.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let [a, b] = rand::random::<[u8; 2]>();
        let address = |last| Ipv4Addr::new(127, a.max(1), b, last);
        let all: Vec<_> = (1..=count).map(|last| address(last as u8)).collect();
        if all
            .iter()
            .all(|address| TcpListener::bind((*address, 5222)).is_ok())
        {
            return Ok(all);
        }
    }
    bail!("no free loopback addresses");
}

/// How a pool's keys are spread.
fn partitions_of(root: &Path) -> Result<PartitionTable> {
    let pool_file: Table = std::fs::read_to_string(root.join("node-1/pool.toml"))?.parse()?;
    let partitions = pool_file
        .get("pool")
        .and_then(|pool| pool.get("partitions"))
        .and_then(toml::Value::as_integer)
        .context("the pool file lacks partitions")?;
    Ok(PartitionTable::even(u16::try_from(partitions)?))
}

impl Pool {
    /// Makes a pool's folder and configuration without starting a node.
    pub fn prepare(settings: &PoolSettings) -> Result<Pool> {
        let dir = TempDir::with_prefix("muster-test-")?;
        let root = dir.path().join("pool");
        let addresses = match &settings.network {
            Some(network) => network.addresses(),
            None => loopback_addresses(settings.nodes)?,
        };
        let bind = addresses
            .iter()
            .map(Ipv4Addr::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let nodes = settings.nodes.to_string();
        let place = root
            .to_str()
            .context("temporary folders have plain names")?;
        // In network namespaces a loopback is each node's own, and the tests sit outside.
        run_ok(&[
            "init",
            "--dir",
            place,
            "--nodes",
            &nodes,
            "--domain",
            DOMAIN,
            "--bind",
            &bind,
            "--control-bind",
            &bind,
        ])?;
        let tls = trusting(&root.join("ca/ca.pem"))?;
        let nodes = (1..=u64::from(settings.nodes))
            .map(|id| Node::configure(&root, id, settings, &tls))
            .collect::<Result<Vec<Node>>>()?;
        let partitions = partitions_of(&root)?;
        let first = settings.first.unwrap_or(settings.nodes);
        if settings.first.is_some() {
            nodes
                .iter()
                .try_for_each(|node| growth::begin_with(node, first))?;
        }
        let pool = Pool {
            nodes,
            tls,
            partitions,
            first: u64::from(first),
            dir,
        };
        if settings.switched {
            pool.over_the_switch()?;
        }
        Ok(pool)
    }

    /// Has the nodes listen and dial at their addresses at the switch.
    fn over_the_switch(&self) -> Result<()> {
        for id in self.ids() {
            let at = |id| -> Result<SocketAddr> {
                let port = self.cluster_address(id)?.port();
                Ok(SocketAddr::from((switch::address(id), port)))
            };
            for other in self.ids() {
                self.set_member(id, other, at(other)?)?;
            }
        }
        for id in self.ids() {
            let port = self.cluster_address(id)?.port();
            let listen = SocketAddr::from((switch::address(id), port));
            self.set(id, "cluster", "listen", listen.to_string())?;
        }
        Ok(())
    }

    /// Sets a node's clock against the machine's: `+1h`, `-1h`, `+1y`, `+0`.
    pub fn set_clock(&self, id: u64, offset: &str) -> Result<()> {
        let clock = self.node(id).clock.as_ref();
        clock
            .with_context(|| format!("node {id} goes by the machine's clock"))?
            .set(offset)
    }

    /// Makes a pool, starts all its nodes and waits until they serve.
    pub async fn start(settings: &PoolSettings) -> Result<Pool> {
        let mut pool = Pool::prepare(settings)?;
        pool.start_all()?;
        pool.all_ready().await?;
        Ok(pool)
    }

    /// Starts every node of the pool's beginning that does not run.
    pub fn start_all(&mut self) -> Result<()> {
        let first = self.first;
        self.nodes
            .iter_mut()
            .filter(|node| node.id <= first && node.process.is_none())
            .try_for_each(Node::spawn)
    }

    /// Waits until every node that runs serves.
    pub async fn all_ready(&mut self) -> Result<()> {
        for id in self.running() {
            self.ready(id).await?;
        }
        Ok(())
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// With how many nodes the pool began.
    pub fn began_with(&self) -> usize {
        usize::try_from(self.first).unwrap_or(usize::MAX)
    }

    /// The ids of all nodes that run.
    pub fn running(&self) -> Vec<u64> {
        self.nodes
            .iter()
            .filter(|node| node.process.is_some())
            .map(|node| node.id)
            .collect()
    }

    /// A node.
    ///
    /// # Panics
    /// If the pool has no such node.
    pub fn node(&self, id: u64) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .expect("a node of this pool")
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|node| node.id == id)
            .expect("a node of this pool")
    }

    /// Where the other nodes reach a node.
    pub fn cluster_address(&self, id: u64) -> Result<SocketAddr> {
        let file: Table = std::fs::read_to_string(&self.node(id).config)?.parse()?;
        let listen = file
            .get("cluster")
            .and_then(|section| section.get("listen"));
        let listen = listen.and_then(toml::Value::as_str);
        Ok(listen.context("cluster.listen is missing")?.parse()?)
    }

    /// Changes where `from` dials `to`. Before `from` is started.
    pub fn set_member(&self, from: u64, to: u64, address: SocketAddr) -> Result<()> {
        let config = &self.node(from).config;
        let mut file: Table = std::fs::read_to_string(config)?.parse()?;
        let members = file
            .get_mut("cluster")
            .and_then(|section| section.get_mut("members"))
            .and_then(toml::Value::as_array_mut)
            .context("cluster.members is missing")?;
        let prefix = format!("{to}=");
        let is_of = |member: &&mut toml::Value| {
            member
                .as_str()
                .is_some_and(|text| text.starts_with(&prefix))
        };
        let member = members.iter_mut().find(is_of).context("no such member")?;
        *member = format!("{prefix}{address}").into();
        std::fs::write(config, toml::to_string(&file)?)?;
        Ok(())
    }

    /// Sets a key for one node only. Before that is started.
    pub fn set(
        &self,
        node: u64,
        section: &str,
        key: &str,
        value: impl Into<toml::Value>,
    ) -> Result<()> {
        let config = &self.node(node).config;
        let mut file: Table = std::fs::read_to_string(config)?.parse()?;
        let section = file.get_mut(section).and_then(toml::Value::as_table_mut);
        let section = section.context("the section is missing")?;
        section.insert(key.to_owned(), value.into());
        std::fs::write(config, toml::to_string(&file)?)?;
        Ok(())
    }

    /// The pool's folder, as `muster init` made it.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("pool")
    }

    /// A node's data folder.
    pub fn data_dir(&self, node: u64) -> PathBuf {
        self.root().join(format!("node-{node}/data"))
    }

    /// Which partition a user or a room is in.
    pub fn partitions(&self) -> &PartitionTable {
        &self.partitions
    }

    /// The CA's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.root().join("ca/ca.pem")
    }

    /// A client configuration that trusts the pool's CA and nothing else.
    pub fn tls(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// Starts a node that does not run.
    pub fn spawn(&mut self, id: u64) -> Result<()> {
        self.node_mut(id).spawn()
    }

    /// Ends a node as if its power had gone: SIGKILL.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        let node = self.node_mut(id);
        let mut process = node
            .process
            .take()
            .with_context(|| format!("node {id} does not run"))?;
        process.kill()
    }

    /// Ends a node with SIGTERM and gives what it said at the end.
    pub async fn stop(&mut self, id: u64) -> Result<()> {
        let node = self.node_mut(id);
        let mut process = node
            .process
            .take()
            .with_context(|| format!("node {id} does not run"))?;
        process.terminate()?;
        let ended = until("the end of a node", READY_LIMIT, async || process.ended()).await?;
        if !ended.success() {
            bail!("node {id} ended with {ended}");
        }
        Ok(())
    }

    /// How a node ended by itself, if it has; it can then be started again.
    pub fn ended(&mut self, id: u64) -> Option<ExitStatus> {
        let node = self.node_mut(id);
        let ended = node.process.as_mut().and_then(NodeProcess::ended);
        if ended.is_some() {
            node.process = None;
        }
        ended
    }

    /// The process id of a node that runs.
    pub fn pid(&self, id: u64) -> Result<u32> {
        let process = self.node(id).process.as_ref();
        let process = process.with_context(|| format!("node {id} does not run"))?;
        Ok(process.pid())
    }

    /// Freezes a node: SIGSTOP.
    pub fn pause(&self, id: u64) -> Result<()> {
        let process = self.node(id).process.as_ref();
        let process = process.with_context(|| format!("node {id} does not run"))?;
        process.freeze()
    }

    /// Wakes it: SIGCONT.
    pub fn resume(&self, id: u64) -> Result<()> {
        self.signal(id, rustix::process::Signal::CONT)
    }

    /// Asks a node to read its certificates anew: SIGHUP.
    pub fn hangup(&self, id: u64) -> Result<()> {
        self.signal(id, rustix::process::Signal::HUP)
    }

    fn signal(&self, id: u64, signal: rustix::process::Signal) -> Result<()> {
        let process = self.node(id).process.as_ref();
        process
            .with_context(|| format!("node {id} does not run"))?
            .signal(signal)
    }

    /// Waits until a node serves: in touch with a quorum, every partition owned.
    pub async fn ready(&mut self, id: u64) -> Result<()> {
        let control = self.node(id).control.clone();
        let node = self.node_mut(id);
        let what = format!("node {id} is ready");
        let ready = until(&what, READY_LIMIT, async || {
            if let Some(status) = node.process.as_mut().and_then(NodeProcess::ended) {
                return Some(Err(status));
            }
            let answer = control.request("GET", "/health/ready", None).await.ok()?;
            (answer.status == 200).then_some(Ok(()))
        })
        .await;
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!(
                "node {id} ended with {status}:\n{}",
                self.node(id).log_end()
            ),
            Err(error) => Err(error.context(self.node(id).log_end())),
        }
    }

    /// Makes accounts over the control port of a node that runs.
    pub async fn add_users<'a>(&self, users: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let via = *self.running().first().context("no node runs")?;
        let control = &self.node(via).control;
        for user in users {
            let account = json!({ "user": format!("{user}@{DOMAIN}"), "password": password(user) });
            control.ok("POST", "/v1/users", Some(&account)).await?;
        }
        Ok(())
    }

    /// The pool as a node sees it: what `muster ctl status --json` says.
    pub async fn status(&self, via: u64) -> Result<Value> {
        self.node(via)
            .control
            .ok("GET", "/v1/status", None)
            .await?
            .json()
    }

    /// Waits until every partition is owned by the node that leadership prefers. From then on, as long as nothing fails,
    /// no owner changes; until then clients may be told once more what a change of owner might have swallowed.
    pub async fn owners_settled(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let ids = self.running();
        let via = *ids.first().context("no node runs")?;
        // By turns, and group 0 is the meta group.
        let preferred = |partition: u64| {
            let turn = usize::try_from(partition + 1).ok()? % ids.len();
            ids.get(turn).copied()
        };
        let settled = async || {
            let status = self.status(via).await.ok()?;
            let settles = |row: &Value| {
                let owner = row["owner"].as_u64();
                owner.is_some() && owner == row["id"].as_u64().and_then(preferred)
            };
            let rows = status["partitions"].as_array()?;
            (!rows.is_empty() && rows.iter().all(settles)).then_some(())
        };
        until("every owner is at its place", LIMIT, settled).await
    }

    /// The node that owns a user or a room, as `via` sees it; `None` while there is none.
    pub async fn owner_of(&self, key: &str, via: u64) -> Result<Option<u64>> {
        let partition = self.partitions.partition_of(&BareJid::parse(key)?).0;
        let status = self.status(via).await?;
        let partitions = status["partitions"]
            .as_array()
            .context("the status lacks partitions")?;
        let of_key = partitions.iter().find(|row| row["id"] == json!(partition));
        Ok(of_key.with_context(|| format!("no partition {partition}"))?["owner"].as_u64())
    }

    /// How a user of [`add_users`](Self::add_users) logs in on a node.
    pub fn login(&self, node: u64, user: &str) -> Login {
        Login {
            address: self.node(node).clients,
            domain: DOMAIN.to_owned(),
            user: user.to_owned(),
            password: password(user),
            resource: None,
            security: Security::Plain,
            mechanism: Mechanism::Scram(Hash::Sha1),
            stream_management: false,
            tls: self.tls(),
        }
    }
}

/// The password of a test's user.
pub fn password(user: &str) -> String {
    format!("{user}-password")
}

/// A client configuration that trusts one CA and nothing else.
pub fn trusting(ca: &Path) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).context("the CA's certificate")? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Node {
    fn configure(
        root: &Path,
        id: u64,
        settings: &PoolSettings,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Node> {
        let folder = root.join(format!("node-{id}"));
        let config = folder.join("muster.toml");
        let mut file: Table = std::fs::read_to_string(&config)?.parse()?;
        for (section, key, value) in test_keys().into_iter().chain(settings.keys.iter().cloned()) {
            let section = file.entry(section).or_insert_with(|| Table::new().into());
            let section = section.as_table_mut().context("a section is a table")?;
            section.insert(key.to_owned(), value);
        }
        std::fs::write(&config, toml::to_string(&file)?)?;
        let address = |section: &str, key: &str| -> Result<SocketAddr> {
            let value = file.get(section).and_then(|section| section.get(key));
            let value = value.and_then(|value| value.get(0).or(Some(value)));
            let text = value.and_then(toml::Value::as_str);
            Ok(text
                .with_context(|| format!("{section}.{key} is missing"))?
                .parse()?)
        };
        let token = std::fs::read_to_string(folder.join("data/control.token"))?;
        let control = ControlPort {
            address: address("control", "listen")?,
            token: token.trim().to_owned(),
            tls: Arc::clone(tls),
        };
        Ok(Node {
            id,
            clients: address("clients", "listen")?,
            clients_tls: address("clients", "listen_tls")?,
            control,
            config,
            namespace: settings
                .network
                .as_ref()
                .map(|network| network.namespace(id)),
            program: settings.program,
            clock: match settings.clocks {
                true => Some(Clock::new(&folder)?),
                false => None,
            },
            process: None,
        })
    }

    fn spawn(&mut self) -> Result<()> {
        let namespace = self.namespace.as_deref();
        let clock = self.clock.as_ref();
        let process = NodeProcess::spawn(&self.config, namespace, self.program, clock)?;
        self.process = Some(process);
        Ok(())
    }

    /// All that the node said.
    pub fn log(&self) -> Result<String> {
        process::log(&self.config)
    }

    /// Where its log is: of all its lives.
    pub fn log_file(&self) -> PathBuf {
        process::log_file(&self.config)
    }

    /// The end of the node's log.
    pub fn log_end(&self) -> String {
        process::log_end(self.id, &self.config)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("{}", node.log_end());
            }
            if std::env::var_os("MUSTER_KEEP").is_some() {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir.path().display());
            }
        }
    }
}
