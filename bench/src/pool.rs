//! `muster-bench pool`: a Muster pool of its own, made, started, loaded, stopped and removed.
//!
//! The pool is made by `muster init` with default settings but for these: authentication without TLS is allowed, so that
//! both can be measured; accounts may be made in-band; the generator's network has no bound on logins; passwords get
//! fewer SCRAM iterations, which matters to making accounts, not to logging in with SCRAM.

mod node;
mod suite;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, bail};
use rand::RngExt;
use toml::{Table, Value};

use crate::cli::TargetArgs;
use crate::processes::Processes;
use crate::report::Row;
use crate::sasl::SaltedPasswords;
use crate::target::{Security, Target, trust};
use node::Node;

pub(crate) use suite::Part;

const DOMAIN: &str = "localhost";

/// `muster-bench pool`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PoolArgs {
    /// Nodes of the pool: 1 or 3
    #[arg(long, default_value = "1", value_parser = ["1", "3"])]
    pub(crate) nodes: String,
    /// The server's binary
    #[arg(long, default_value = "target/release/muster")]
    pub(crate) binary: PathBuf,
    /// Where the pool's folder is made, on the disk that is to be measured [default: beside the binary]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the pool's folder with its logs
    #[arg(long)]
    pub(crate) keep: bool,
    /// Only these parts of the suite, with commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Seconds of load in each part
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) seconds: u64,
    /// Sessions of the idle parts
    #[arg(long, default_value_t = 1000)]
    pub(crate) idle_sessions: usize,
}

/// Runs the suite. Gives what the server is, and the rows.
pub(crate) async fn run(
    args: &PoolArgs,
    target: &TargetArgs,
) -> anyhow::Result<(String, Vec<Row>)> {
    let version = Command::new(&args.binary).arg("--version").output();
    let version = version.with_context(|| format!("{}: cannot be run", args.binary.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let rows = suite::run(args, target).await?;
    Ok((
        format!("{version}, {} node(s), this pool's defaults", args.nodes),
        rows,
    ))
}

/// A pool that runs.
pub(crate) struct Pool {
    nodes: Vec<Node>,
    password: String,
    dir: tempfile::TempDir,
}

impl Pool {
    /// Makes a pool and starts its nodes.
    pub(crate) async fn start(args: &PoolArgs) -> anyhow::Result<Pool> {
        let parent = match &args.dir {
            Some(dir) => dir.as_path(),
            None => args.binary.parent().unwrap_or(Path::new(".")),
        };
        let mut dir = tempfile::Builder::new()
            .prefix("bench-pool-")
            .tempdir_in(parent)?;
        dir.disable_cleanup(args.keep);
        let count: usize = args.nodes.parse()?;
        init(args, &dir.path().join("pool"))?;
        let password = format!("{:016x}", rand::rng().random::<u64>());
        let mut pool = Pool {
            nodes: Vec::with_capacity(count),
            password,
            dir,
        };
        for number in 1..=count {
            let folder = pool.dir.path().join("pool").join(format!("node-{number}"));
            configure(&folder.join("muster.toml"))?;
            pool.nodes.push(Node::start(&args.binary, &folder)?);
        }
        for node in &mut pool.nodes {
            node.ready().await?;
        }
        Ok(pool)
    }

    /// The pool as a server to load.
    pub(crate) fn target(
        &self,
        security: Security,
        args: &TargetArgs,
    ) -> anyhow::Result<Arc<Target>> {
        let key = if security == Security::Tls {
            "listen_tls"
        } else {
            "listen"
        };
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let table = read_table(&node.folder.join("muster.toml"))?;
            let addresses = table.get("clients").and_then(|clients| clients.get(key));
            let address = addresses
                .and_then(Value::as_array)
                .and_then(|list| list.first());
            let address = address
                .and_then(Value::as_str)
                .context("a node without an address")?;
            nodes.push(address.parse()?);
        }
        let ca = self.dir.path().join("pool/ca/ca.pem");
        let tls = match security {
            Security::Plain => None,
            security => Some(trust(&ca, security)?),
        };
        let target = Target {
            nodes,
            domain: DOMAIN.to_owned(),
            rooms_domain: format!("conference.{DOMAIN}"),
            security,
            tls,
            mechanism: args.mechanism,
            user_prefix: "bench".to_owned(),
            password: self.password.clone(),
            register: true,
            registered: AtomicUsize::new(0),
            logins_at_once: args.logins_at_once,
            processes: Processes::new(self.nodes.iter().map(Node::pid).collect()),
            salted_passwords: SaltedPasswords::default(),
        };
        target.refuse_other_machines()?;
        Ok(Arc::new(target))
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

fn init(args: &PoolArgs, dir: &Path) -> anyhow::Result<()> {
    // Below the ports that the system gives to outgoing connections.
    let port: u16 = rand::rng().random_range(1000..3000) * 10;
    let ports = [
        ("--client-port", 0),
        ("--direct-tls-port", 1),
        ("--cluster-port", 2),
        ("--control-port", 3),
    ];
    let mut command = Command::new(&args.binary);
    command
        .arg("init")
        .arg("--dir")
        .arg(dir)
        .args(["--nodes", &args.nodes, "--domain", DOMAIN]);
    command.arg("--next-free-ports").stdout(Stdio::null());
    for (name, offset) in ports {
        command.arg(name).arg((port + offset).to_string());
    }
    let ended = command
        .status()
        .with_context(|| format!("{}: cannot be run", args.binary.display()))?;
    if !ended.success() {
        bail!("muster init failed: {ended}");
    }
    Ok(())
}

/// The settings in which a measured pool differs from a new one.
fn configure(file: &Path) -> anyhow::Result<()> {
    let mut table = read_table(file)?;
    let clients = table.get_mut("clients").and_then(Value::as_table_mut);
    let clients = clients.context("a configuration without [clients]")?;
    for key in ["allow_plaintext_auth", "registration"] {
        clients.insert(key.to_owned(), Value::Boolean(true));
    }
    clients.insert("tls_required".to_owned(), Value::Boolean(false));
    clients.insert("scram_iterations".to_owned(), Value::Integer(4096));
    let network = Value::String("127.0.0.0/8".to_owned());
    clients.insert("trusted_networks".to_owned(), Value::Array(vec![network]));
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
        configure(&file).unwrap();
        let table = read_table(&file).unwrap();
        assert_eq!(table["node"]["id"].as_integer(), Some(1));
        assert_eq!(table["clients"]["listen"][0].as_str(), Some("127.0.0.1:1"));
        assert_eq!(table["clients"]["tls_required"].as_bool(), Some(false));
        std::fs::write(&file, "[node]\n").unwrap();
        assert!(configure(&file).is_err());
    }
}
