//! New pools: everything that N nodes need to start, made at once or not at all.
//!
//! ```text
//!  DIR/ca/ca.pem, ca-key.pem       the pool's own CA: clients trust it; its key belongs off the machine
//!  DIR/node-N/muster.toml          the configuration
//!            /pool.toml, ca.pem    the same on every node
//!            /cluster*.pem         the certificate towards other nodes
//!            /issuer*.pem          certifies nodes that join, and nothing else; the same on every node
//!            /clients*.pem         … towards clients
//!            /control*.pem         … towards operators
//!            /data/                the data folder with the control port's token
//! ```
//!
//! A node's folder is complete: copied to another machine, the node runs there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use cluster::node_id::NodeId;
use rustls_pki_types::ServerName;
use storage::data_dir::DataDir;

use crate::authority::{Authority, Issued};
use crate::certificate::as_certified;
use crate::cli::{InitArgs, Listed};
use crate::config::ConfigError;
use crate::config::pool_file::PoolFile;
use crate::exit::{Exit, Failure, print};
use crate::secret_file::{Readers, create, random_hex};

/// Bytes of a control port's token.
pub(crate) const TOKEN_BYTES: usize = 32;

/// A node that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) id: NodeId,
    pub(crate) clients: SocketAddr,
    pub(crate) clients_tls: SocketAddr,
    pub(crate) cluster: SocketAddr,
    pub(crate) control: SocketAddr,
}

/// `muster init`
pub(crate) fn init(args: &InitArgs) -> Result<(), Failure> {
    print(&make(args)?)
}

/// Makes a pool, and says what was made.
pub(crate) fn make(args: &InitArgs) -> Result<String, Failure> {
    refuse_existing(&args.dir)?;
    let pool = new_pool(args)?;
    let plans = make_as(args, &pool, |_, _| Ok(()))?;
    Ok(report(args, &pool, &plans))
}

/// Makes the folders of a pool that is as this pool file says. `fill` gets the folder in which each node is made, before all
/// of them get their names.
pub(crate) fn make_as(
    args: &InitArgs,
    pool: &PoolFile,
    fill: impl Fn(&Path, &NodePlan) -> Result<(), Failure>,
) -> Result<Vec<NodePlan>, Failure> {
    let dir = &args.dir;
    refuse_existing(dir)?;
    let plans = plan(args)?;
    let client_names = client_names(args, pool, &plans)?;
    let building = building_dir(dir)?;
    let node_dir = |plan: &NodePlan| building.join(format!("node-{}", plan.id.0));
    let made = build(&building, &client_names, pool, &plans)
        .and_then(|()| {
            plans
                .iter()
                .try_for_each(|plan| fill(&node_dir(plan), plan))
        })
        .and_then(|()| fs::rename(&building, dir).map_err(|error| at(dir, &error)));
    if let Err(failure) = made {
        // What was half made is of no use; the failure is what the user must hear of.
        let _ = fs::remove_dir_all(&building);
        return Err(failure);
    }
    Ok(plans)
}

pub(crate) fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

/// A pool is never overwritten, nor is anything else.
pub(crate) fn refuse_existing(dir: &Path) -> Result<(), Failure> {
    let refused = |what: &str| {
        let message = format!(
            "{} {what}: nothing was changed; choose another folder",
            dir.display()
        );
        Err(Failure::new(Exit::Failed, message))
    };
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => refused("is no folder"),
        Err(error) => Err(at(dir, &error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) if dir.join("ca").exists() => refused("holds a pool already"),
            Some(_) => refused("is not empty"),
        },
    }
}

/// The folder in which it is made before it gets its name.
pub(crate) fn building_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let name = dir.file_name().ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("{} is no name of a folder", dir.display()),
        )
    })?;
    let mut building = name.to_owned();
    building.push(format!(".{}.part", random_hex(4)));
    Ok(dir.with_file_name(building))
}

fn new_pool(args: &InitArgs) -> Result<PoolFile, Failure> {
    let id = format!("muster-{}", random_hex(6));
    let conference = format!("conference.{}", args.domain);
    let rooms_domain = args.rooms_domain.as_deref().unwrap_or(&conference);
    let path = args.dir.join("pool.toml");
    PoolFile::new(&path, &id, &args.domain, rooms_domain, args.partitions).map_err(|error| {
        match error {
            // There is no such file yet: what is wrong in it came from an option.
            ConfigError::Invalid { key, reason, .. } => {
                let option = key.replace('_', "-");
                Failure::new(Exit::CommandLine, format!("--{option}: {reason}"))
            }
            other => other.into(),
        }
    })
}

/// Addresses and ports of all nodes.
fn plan(args: &InitArgs) -> Result<Vec<NodePlan>, Failure> {
    let addresses = match a_node_each("--bind", &Listed::flat(&args.bind), args.nodes)? {
        bind if bind.is_empty() => (1..=args.nodes).map(loopback).collect(),
        bind => bind,
    };
    if let Some(any) = addresses.iter().find(|address| address.is_unspecified()) {
        let message = format!("--bind: {any} is no address at which the other nodes reach a node");
        return Err(Failure::new(Exit::CommandLine, message));
    }
    let mut operators = a_node_each(
        "--control-bind",
        &Listed::flat(&args.control_bind),
        args.nodes,
    )?;
    if operators.is_empty() {
        // Whoever has the token may do everything: nobody reaches the port from elsewhere unless that is asked for.
        let own = |(number, address): (u16, &IpAddr)| match address.is_loopback() {
            true => *address,
            false => loopback(number),
        };
        operators = (1..).zip(&addresses).map(own).collect();
    }
    let mut taken = BTreeSet::new();
    let mut plans = Vec::with_capacity(addresses.len());
    for ((id, address), operator) in (1..).zip(addresses).zip(operators) {
        let mut port =
            |address, wanted| choose_port(&mut taken, address, wanted, args.ports.next_free_ports);
        plans.push(NodePlan {
            id: NodeId(id),
            clients: port(address, args.ports.client_port)?,
            clients_tls: port(address, args.ports.direct_tls_port)?,
            cluster: port(address, args.ports.cluster_port)?,
            control: port(operator, args.ports.control_port)?,
        });
    }
    Ok(plans)
}

/// The loopback address that is a node's own.
pub(crate) fn loopback(node: u16) -> IpAddr {
    let [high, low] = node.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 0, high, low))
}

/// The addresses of an option, one a node; none if it was not given.
fn a_node_each(option: &str, given: &[IpAddr], nodes: u16) -> Result<Vec<IpAddr>, Failure> {
    let nodes = usize::from(nodes);
    match given {
        [one] => Ok(vec![*one; nodes]),
        given if given.is_empty() || given.len() == nodes => Ok(given.to_vec()),
        given => {
            let message = format!(
                "{option}: {} addresses for {nodes} nodes: give one, or one a node",
                given.len()
            );
            Err(Failure::new(Exit::CommandLine, message))
        }
    }
}

/// The wanted port, or one of the next: another node of this pool may share the address, another program may have it.
pub(crate) fn choose_port(
    taken: &mut BTreeSet<SocketAddr>,
    address: IpAddr,
    wanted: u16,
    only_free: bool,
) -> Result<SocketAddr, Failure> {
    /// Steps keep the pairs of ports together: 5222 and 5223, then 5232 and 5233.
    const STEP: usize = 10;
    for port in (wanted..=u16::MAX).step_by(STEP) {
        let candidate = SocketAddr::new(address, port);
        let free = !only_free || TcpListener::bind(candidate).is_ok();
        if free && taken.insert(candidate) {
            return Ok(candidate);
        }
    }
    let message = format!("no free port on {address} from {wanted} on");
    Err(Failure::new(Exit::Port, message))
}

fn build(
    dir: &Path,
    client_names: &BTreeSet<String>,
    pool: &PoolFile,
    plans: &[NodePlan],
) -> Result<(), Failure> {
    let uncertified = |error: rcgen::Error| {
        Failure::new(
            Exit::Failed,
            format!("the certificates cannot be made: {error}"),
        )
    };
    let authority = Authority::new(&pool.id).map_err(uncertified)?;
    let ca_dir = dir.join("ca");
    make_dir(&ca_dir)?;
    write(&ca_dir.join("ca.pem"), &authority.certificate, Readers::All)?;
    write(&ca_dir.join("ca-key.pem"), &authority.key, Readers::Owner)?;
    let issuer = authority.issue_issuer(&pool.id).map_err(uncertified)?;
    let member = |plan: &NodePlan| (plan.id.0, plan.cluster.to_string());
    let members: Vec<_> = plans.iter().map(member).collect();
    for plan in plans {
        let node_dir = dir.join(format!("node-{}", plan.id.0));
        make_dir(&node_dir)?;
        write(
            &node_dir.join("muster.toml"),
            &config_text(pool, plan, &members),
            Readers::All,
        )?;
        write(&node_dir.join("pool.toml"), &pool.text(), Readers::Owner)?;
        write(
            &node_dir.join("ca.pem"),
            &authority.certificate,
            Readers::All,
        )?;
        let cluster = authority
            .issue_for_node(plan.id, &pool.id)
            .map_err(uncertified)?;
        write_issued(&node_dir, "cluster", &cluster)?;
        write_issued(&node_dir, "issuer", &issuer)?;
        let clients = authority
            .issue_for_server(&pool.constants.domain, client_names)
            .map_err(uncertified)?;
        write_issued(&node_dir, "clients", &clients)?;
        // The node's own address too: `[control] listen` may be moved there.
        let names = BTreeSet::from([
            "localhost".to_owned(),
            plan.control.ip().to_string(),
            plan.clients.ip().to_string(),
        ]);
        let about = format!("control port of node {}", plan.id.0);
        let control = authority
            .issue_for_server(&about, &names)
            .map_err(uncertified)?;
        write_issued(&node_dir, "control", &control)?;
        make_data(&node_dir, pool, plan.id)?;
    }
    Ok(())
}

/// A node's data folder, with the control port's token.
pub(crate) fn make_data(node_dir: &Path, pool: &PoolFile, node: NodeId) -> Result<(), Failure> {
    let data = node_dir.join("data");
    DataDir::open(&data, pool.id.as_str(), node.0)
        .map_err(|error| Failure::from_error(Exit::Data, &error))?;
    write(
        &data.join("control.token"),
        &format!("{}\n", random_hex(TOKEN_BYTES)),
        Readers::Owner,
    )
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| at(dir, &error))
}

pub(crate) fn write(path: &Path, text: &str, readers: Readers) -> Result<(), Failure> {
    create(path, text, readers).map_err(|error| at(path, &error))
}

pub(crate) fn write_issued(dir: &Path, name: &str, issued: &Issued) -> Result<(), Failure> {
    write(
        &dir.join(format!("{name}.pem")),
        &issued.certificate,
        Readers::All,
    )?;
    write(
        &dir.join(format!("{name}-key.pem")),
        &issued.key,
        Readers::Owner,
    )
}

/// Under these names clients may reach any node.
fn client_names(
    args: &InitArgs,
    pool: &PoolFile,
    plans: &[NodePlan],
) -> Result<BTreeSet<String>, Failure> {
    let constants = &pool.constants;
    let rooms = match args.rooms_domain {
        Some(_) => "--rooms-domain",
        None => "--domain",
    };
    let given = [
        ("--domain", &constants.domain),
        // Who gave only the one knows nothing of the other.
        (rooms, &constants.rooms_domain),
    ];
    let names = Listed::flat(&args.names);
    let given = given
        .into_iter()
        .chain(names.iter().map(|name| ("--names", name)))
        .map(|(option, name)| certified_name(option, name))
        .collect::<Result<Vec<_>, Failure>>()?;
    let loopback = (1..=3).map(|last| Ipv4Addr::new(127, 0, 0, last).to_string());
    let own = plans.iter().map(|plan| plan.clients.ip().to_string());
    Ok(loopback
        .chain(own)
        .chain(["localhost".to_owned()])
        .chain(given)
        .collect())
}

/// A domain, a wildcard (`*.example.org`) or an IP address in the form that certificates have.
fn certified_name(option: &str, name: &str) -> Result<String, Failure> {
    let certified = as_certified(name);
    let host = certified.strip_prefix("*.").unwrap_or(&certified);
    if ServerName::try_from(host).is_ok() {
        return Ok(certified);
    }
    let message = format!("{option}: {name:?} is no name that a certificate can have");
    Err(Failure::new(Exit::CommandLine, message))
}

/// The keys that have to be given; all others have good defaults.
pub(crate) fn config_text(pool: &PoolFile, plan: &NodePlan, members: &[(u64, String)]) -> String {
    let NodePlan {
        id,
        clients,
        clients_tls,
        cluster,
        control,
    } = plan;
    let members: Vec<String> = members
        .iter()
        .map(|(id, address)| format!("    \"{id}={address}\",\n"))
        .collect();
    format!(
        "# Node {id} of the pool {pool}. All keys: `muster config reference`.\n\
         \n[node]\nid = {id}\n\
         \n[pool]\nfile = \"pool.toml\"\n\
         \n[cluster]\nlisten = \"{cluster}\"\nmembers = [\n{members}]\n\
         \n[clients]\nlisten = [\"{clients}\"]\nlisten_tls = [\"{clients_tls}\"]\n\
         \n[control]\nlisten = \"{control}\"\n",
        id = id.0,
        pool = pool.id,
        members = members.concat(),
    )
}

/// What was made, and how to go on.
pub(crate) fn report(args: &InitArgs, pool: &PoolFile, plans: &[NodePlan]) -> String {
    let dir = args.dir.display();
    let mut out = format!(
        "Made the pool {} in {dir}: {} node(s), domain {}, rooms at {}.\n\n\
         {dir}/ca/ca.pem      the certificate that clients must trust\n\
         {dir}/ca/ca-key.pem  its key: keep it, but not on a machine that serves\n",
        pool.id,
        plans.len(),
        pool.constants.domain,
        pool.constants.rooms_domain,
    );
    for plan in plans {
        out.push_str(&format!(
            "{dir}/{:<14} clients at {} (STARTTLS) and {} (TLS), nodes at {}, operators at {}\n",
            format!("node-{}/", plan.id.0),
            plan.clients,
            plan.clients_tls,
            plan.cluster,
            plan.control
        ));
    }
    out.push_str(&format!(
        "\nStart every node, here or with its folder copied to its machine:\n  \
         muster run --config {dir}/node-1/muster.toml\n\
         Then make the first account:\n  \
         muster ctl --config {dir}/node-1/muster.toml user add alice@{}\n",
        pool.constants.domain
    ));
    out
}

#[cfg(test)]
mod tests;
