//! `muster-bench pool`: a Muster pool of its own, made, started, loaded, stopped and removed.
//!
//! The pool is made by `muster init` with default settings but for these: authentication without TLS is allowed, so that
//! both can be measured; accounts may be made in-band; the generator's network has no bound on logins; passwords get
//! fewer SCRAM iterations, which matters to making accounts, not to logging in with SCRAM.

mod node;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use rand::RngExt;
use rustix::process::Signal;
use toml::{Table, Value};

use crate::cli::TargetArgs;
use crate::processes::Processes;
use crate::report::Row;
use crate::server::{Certificates, DOMAIN, Kind, Nodes, SCRAM_ITERATIONS, description};
use crate::site::SiteArgs;
use crate::suite::{self, Part, Scale};
use crate::target::Security;
use node::Node;

/// `muster-bench pool`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PoolArgs {
    /// Nodes of the pool: 1 or 3
    #[arg(long, default_value = "1", value_parser = ["1", "3"])]
    pub(crate) nodes: String,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    /// Only these parts of the suite, with commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    #[command(flatten)]
    pub(crate) scale: Scale,
}

/// Runs the suite. Gives what the server is, and the rows.
pub(crate) async fn run(
    args: &PoolArgs,
    target: &TargetArgs,
) -> anyhow::Result<(String, Vec<Row>)> {
    let kind = match args.nodes.as_str() {
        "1" => Kind::Muster1,
        _ => Kind::Muster3,
    };
    let site = args.site.site()?;
    let version = description(kind, &site)?;
    let security = target.security.unwrap_or(Security::Plain);
    let plan = suite::Plan {
        parts: Part::chosen(&args.only),
        scale: args.scale,
        security,
    };
    let mut measured = Vec::new();
    suite::run(kind, &site, &plan, target, &mut measured).await?;
    let rows = measured.into_iter().map(|measured| measured.row).collect();
    Ok((format!("{version}; {} node(s)", args.nodes), rows))
}

/// What a pool shall be.
#[derive(Clone, Debug)]
pub(crate) struct PoolPlan {
    pub(crate) nodes: usize,
    pub(crate) binary: PathBuf,
    /// Where its folder is made.
    pub(crate) dir: PathBuf,
    /// Whether its folder is kept.
    pub(crate) keep: bool,
    /// What clients see; `None`: a certificate of its own.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// Into how many Raft groups users and rooms are spread; `None`: the default.
    pub(crate) partitions: Option<u16>,
    /// Occupants that a room may have; `None`: the default.
    pub(crate) occupants_max: Option<usize>,
}

/// A pool that runs.
pub(crate) struct Pool {
    nodes: Vec<Node>,
    binary: PathBuf,
    /// Removed with this.
    dir: tempfile::TempDir,
}

impl Pool {
    /// Makes a pool and starts its nodes.
    pub(crate) async fn start(plan: &PoolPlan) -> anyhow::Result<Pool> {
        let mut dir = tempfile::Builder::new()
            .prefix("bench-pool-")
            .tempdir_in(&plan.dir)
            .with_context(|| format!("{}", plan.dir.display()))?;
        dir.disable_cleanup(plan.keep);
        let folder = dir.path().join("pool");
        init(plan, &folder)?;
        let mut pool = Pool {
            nodes: Vec::with_capacity(plan.nodes),
            binary: plan.binary.clone(),
            dir,
        };
        for number in 1..=plan.nodes {
            let folder = folder.join(format!("node-{number}"));
            configure(&folder.join("muster.toml"), plan.certificates.as_deref())?;
            if let Some(occupants) = plan.occupants_max {
                set_occupants_max(&folder.join("pool.toml"), occupants)?;
            }
            pool.nodes.push(Node::start(&plan.binary, &folder)?);
        }
        for node in &mut pool.nodes {
            node.ready().await?;
        }
        Ok(pool)
    }

    /// Where clients connect, one address a node.
    pub(crate) fn addresses(&self, security: Security) -> anyhow::Result<Vec<SocketAddr>> {
        let key = match security {
            Security::Tls => "listen_tls",
            Security::Plain | Security::Starttls => "listen",
        };
        let mut addresses = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let table = read_table(&node.folder.join("muster.toml"))?;
            let listed = table.get("clients").and_then(|clients| clients.get(key));
            let first = listed
                .and_then(Value::as_array)
                .and_then(|list| list.first());
            let first = first
                .and_then(Value::as_str)
                .context("a node without an address")?;
            addresses.push(first.parse()?);
        }
        Ok(addresses)
    }

    /// The nodes' processes.
    pub(crate) fn processes(&self) -> Processes {
        Processes::new(self.nodes.iter().map(Node::pid).collect())
    }

    /// Starts `muster ctl import` of a file at one of the nodes; what it says goes to a file beside it.
    pub(crate) fn start_import(&self, node: usize, file: &Path) -> anyhow::Result<Child> {
        let node = node.checked_rem(self.nodes.len()).unwrap_or_default();
        let node = self.nodes.get(node).context("no such node")?;
        let said = std::fs::File::create(file.with_extension("said"))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["ctl", "--config"])
            .arg(node.folder.join("muster.toml"))
            .arg("import")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let started = command.spawn();
        started.with_context(|| format!("{}: cannot be run", self.binary.display()))
    }

    /// The pool's folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops all nodes.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.terminate()?;
        }
        for node in &mut self.nodes {
            node.ended().await?;
        }
        Ok(())
    }
}

impl Nodes for Pool {
    fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes.get_mut(node).context("no such node")?.kill()
    }

    fn freeze(&self, node: usize) -> anyhow::Result<()> {
        let node = self.nodes.get(node).context("no such node")?;
        node.signal(Signal::STOP)
    }

    fn thaw(&self, node: usize) -> anyhow::Result<()> {
        let node = self.nodes.get(node).context("no such node")?;
        node.signal(Signal::CONT)
    }

    async fn bring_back(&mut self, node: usize) -> anyhow::Result<()> {
        let place = self.nodes.get_mut(node).context("no such node")?;
        let folder = place.folder.clone();
        *place = Node::start(&self.binary, &folder)?;
        place.ready().await
    }
}

fn init(plan: &PoolPlan, dir: &Path) -> anyhow::Result<()> {
    // Below the ports that the system gives to outgoing connections.
    let port: u16 = rand::rng().random_range(1000..3000) * 10;
    let ports = [
        ("--client-port", 0),
        ("--direct-tls-port", 1),
        ("--cluster-port", 2),
        ("--control-port", 3),
    ];
    let mut command = Command::new(&plan.binary);
    command.arg("init").arg("--dir").arg(dir).args([
        "--nodes",
        &plan.nodes.to_string(),
        "--domain",
        DOMAIN,
    ]);
    command.arg("--next-free-ports").stdout(Stdio::null());
    if let Some(partitions) = plan.partitions {
        command.arg("--partitions").arg(partitions.to_string());
    }
    for (name, offset) in ports {
        command.arg(name).arg((port + offset).to_string());
    }
    let ended = command
        .status()
        .with_context(|| format!("{}: cannot be run", plan.binary.display()))?;
    if !ended.success() {
        bail!("muster init failed: {ended}");
    }
    Ok(())
}

/// The settings in which a measured pool differs from a new one.
fn configure(file: &Path, certificates: Option<&Certificates>) -> anyhow::Result<()> {
    let mut table = read_table(file)?;
    let clients = table.get_mut("clients").and_then(Value::as_table_mut);
    let clients = clients.context("a configuration without [clients]")?;
    for key in ["allow_plaintext_auth", "registration"] {
        clients.insert(key.to_owned(), Value::Boolean(true));
    }
    clients.insert("tls_required".to_owned(), Value::Boolean(false));
    let iterations = Value::Integer(SCRAM_ITERATIONS.into());
    clients.insert("scram_iterations".to_owned(), iterations);
    if let Some(certificates) = certificates {
        let files = [
            ("certificate", certificates.certificate()),
            ("key", certificates.key()),
        ];
        for (name, file) in files {
            let file = file.canonicalize()?;
            let path = Value::String(file.to_string_lossy().into_owned());
            clients.insert(name.to_owned(), path);
        }
    }
    let network = Value::String("127.0.0.0/8".to_owned());
    clients.insert("trusted_networks".to_owned(), Value::Array(vec![network]));
    std::fs::write(file, toml::to_string(&table)?)?;
    Ok(())
}

/// The same on every node: it is part of what the pool is.
fn set_occupants_max(file: &Path, occupants: usize) -> anyhow::Result<()> {
    let mut table = read_table(file)?;
    let section = table.get_mut("pool").and_then(Value::as_table_mut);
    let section = section.context("a pool file without [pool]")?;
    let occupants = Value::Integer(i64::try_from(occupants)?);
    section.insert("occupants_max".to_owned(), occupants);
    // Written in place, so that it stays readable for its owner only.
    std::fs::write(file, toml::to_string(&table)?)?;
    Ok(())
}

fn read_table(file: &Path) -> anyhow::Result<Table> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    text.parse().with_context(|| format!("{}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_made_ready_to_be_measured() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("muster.toml");
        std::fs::write(
            &file,
            "[node]\nid = 1\n\n[clients]\nlisten = [\"127.0.0.1:1\"]\n",
        )
        .unwrap();
        configure(&file, None).unwrap();
        let table = read_table(&file).unwrap();
        assert_eq!(table["node"]["id"].as_integer(), Some(1));
        assert_eq!(table["clients"]["listen"][0].as_str(), Some("127.0.0.1:1"));
        assert_eq!(table["clients"]["tls_required"].as_bool(), Some(false));
        std::fs::write(&file, "[node]\n").unwrap();
        assert!(configure(&file, None).is_err());
        std::fs::write(&file, "[pool]\nid = \"a\"\n").unwrap();
        set_occupants_max(&file, 16_000).unwrap();
        let pool = &read_table(&file).unwrap()["pool"];
        assert_eq!(pool["occupants_max"].as_integer(), Some(16_000));
        assert_eq!(pool["id"].as_str(), Some("a"));
        std::fs::write(&file, "id = 1\n").unwrap();
        assert!(set_occupants_max(&file, 1).is_err());
    }
}
