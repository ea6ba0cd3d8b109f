//! `muster join`: a new machine becomes a node of a pool that is there, by a one-time token.
//!
//! The machine makes its key itself; the key never leaves it. What the pool answers is put into a folder like those of
//! `muster init`, which gets its name when it is whole.
//!
//! Invariant: whenever this ends (a crash, a lost answer), the same command goes on: key and request are kept in
//! `DIR.joining` until the folder is whole, and the pool gives the same request the same answer. So a token makes one node.

mod door;
mod token;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use cluster::node_id::NodeId;
use cluster::version::{BUILD_NAME, VersionRange};
use web::report::RefusalReport;
use web::report::cluster::BuildReport;
use web::report::join::{JoinReply, JoinRequest};

use crate::authority::{self, Issued};
use crate::backend::versions::span;
use crate::cli::{JoinArgs, Listed};
use crate::config::pool_file::PoolFile;
use crate::ctl::client::{exit_of, is_unsent};
use crate::exit::{Exit, Failure, print};
use crate::init::{
    NodePlan, at, choose_port, config_text, loopback, make_data, make_dir, refuse_existing, write,
    write_issued,
};
use crate::secret_file::Readers;
use door::Door;
pub(crate) use token::JoinToken;

/// The files of a machine that has not joined yet.
const KEY: &str = "cluster-key.pem";
const REQUEST: &str = "request.pem";

/// `muster join`
pub(crate) fn join(args: &JoinArgs) -> Result<(), Failure> {
    let typed = match args.token.as_str() {
        "-" => read_line(io::stdin().lock())?,
        typed => typed.to_owned(),
    };
    let token =
        JoinToken::parse(&typed).map_err(|error| Failure::from_error(Exit::CommandLine, &error))?;
    print(&make(args, &token)?)
}

/// One line of at most so many bytes as a token can have.
fn read_line(input: impl BufRead) -> Result<String, Failure> {
    const LINE_BYTES_MAX: u64 = 8192;
    let mut line = String::new();
    let read = input.take(LINE_BYTES_MAX).read_line(&mut line);
    read.map_err(|error| Failure::new(Exit::Failed, format!("standard input: {error}")))?;
    Ok(line)
}

/// Where the new node will be; its id is not known yet.
struct Ports {
    clients: SocketAddr,
    clients_tls: SocketAddr,
    cluster: SocketAddr,
    control: u16,
}

fn make(args: &JoinArgs, token: &JoinToken) -> Result<String, Failure> {
    let dir = &args.dir;
    refuse_existing(dir)?;
    let mut taken = BTreeSet::new();
    let ports = ports(args, &mut taken)?;
    let building = joining_dir(dir)?;
    let request = request(&building)?;
    let reply = ask(args, token, &ports, &request)?;
    let pool = PoolFile::parse(&building.join("pool.toml"), &reply.pool)?;
    let control = control(args, &reply, &ports, &mut taken)?;
    let plan = NodePlan {
        id: NodeId(reply.node),
        clients: ports.clients,
        clients_tls: ports.clients_tls,
        cluster: ports.cluster,
        control,
    };
    build(&building, &pool, &plan, &reply)?;
    fs::rename(&building, dir).map_err(|error| at(dir, &error))?;
    // Not before: whoever dies in between goes on with the same request.
    let request = dir.join(REQUEST);
    fs::remove_file(&request).map_err(|error| at(&request, &error))?;
    Ok(report(args, &pool, &plan))
}

fn ports(args: &JoinArgs, taken: &mut BTreeSet<SocketAddr>) -> Result<Ports, Failure> {
    let (bind, ports) = (args.bind, &args.ports);
    if bind.is_unspecified() {
        let message = format!("--bind: {bind} is no address at which the other nodes reach a node");
        return Err(Failure::new(Exit::CommandLine, message));
    }
    let mut port = |wanted| choose_port(taken, bind, wanted, ports.next_free_ports);
    Ok(Ports {
        clients: port(ports.client_port)?,
        clients_tls: port(ports.direct_tls_port)?,
        cluster: port(ports.cluster_port)?,
        control: ports.control_port,
    })
}

/// As in `muster init`: nobody reaches the control port from elsewhere unless that is asked for.
fn control(
    args: &JoinArgs,
    reply: &JoinReply,
    ports: &Ports,
    taken: &mut BTreeSet<SocketAddr>,
) -> Result<SocketAddr, Failure> {
    let own = u16::try_from(reply.node).map_or(args.bind, loopback);
    let address: IpAddr = match args.control_bind {
        Some(address) => address,
        None if args.bind.is_loopback() => args.bind,
        None => own,
    };
    choose_port(taken, address, ports.control, args.ports.next_free_ports)
}

/// Where key and request wait until the folder is whole.
fn joining_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let name = dir.file_name().ok_or_else(|| {
        let message = format!("{} is no name of a folder", dir.display());
        Failure::new(Exit::Failed, message)
    })?;
    let mut joining = name.to_owned();
    joining.push(".joining");
    Ok(dir.with_file_name(joining))
}

/// The request of an earlier try, or a new one; whatever else an earlier try has left is removed.
fn request(building: &Path) -> Result<String, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let (key, request) = (building.join(KEY), building.join(REQUEST));
    if key.is_file() && request.is_file() {
        let entries = fs::read_dir(building).map_err(|error| at(building, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| at(building, &error))?.path();
            if path != key && path != request {
                let removed = match path.is_dir() {
                    true => fs::remove_dir_all(&path),
                    false => fs::remove_file(&path),
                };
                removed.map_err(|error| at(&path, &error))?;
            }
        }
        return fs::read_to_string(&request).map_err(|error| at(&request, &error));
    }
    match fs::remove_dir_all(building) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(building, &error)),
        _ => {}
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(building)
        .map_err(|error| at(building, &error))?;
    let (key_text, request_text) = authority::request().map_err(|error| uncertified(&error))?;
    write(&key, &key_text, Readers::Owner)?;
    write(&request, &request_text, Readers::Owner)?;
    Ok(request_text)
}

fn uncertified(error: &rcgen::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the key cannot be made: {error}"))
}

/// Asks at one control port after the other until one has answered.
fn ask(
    args: &JoinArgs,
    token: &JoinToken,
    ports: &Ports,
    request: &str,
) -> Result<JoinReply, Failure> {
    let given = Listed::flat(&args.server);
    let places = match given.is_empty() {
        true => &token.at,
        false => &given,
    };
    let body = JoinRequest {
        secret: token.secret.clone(),
        request: request.to_owned(),
        address: ports.cluster.to_string(),
        build: Some(BuildReport {
            name: BUILD_NAME.to_owned(),
            supports: span(VersionRange::SUPPORTED),
        }),
    };
    let body =
        serde_json::to_string(&body).map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let mut failures = Vec::new();
    let mut exit = Exit::Unavailable;
    for place in places {
        let asked = Door::find(token, place).and_then(|door| ask_at(&door, body.clone()));
        match asked {
            Ok(reply) => return Ok(reply),
            Err(failure) if matches!(failure.exit, Exit::Unavailable | Exit::OutcomeUnknown) => {
                // Another node may know; what one of them has begun is told by the next.
                if failure.exit == Exit::OutcomeUnknown {
                    exit = Exit::OutcomeUnknown;
                }
                failures.push(failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
    }
    let more = match exit {
        Exit::OutcomeUnknown => "; run the same command again: it goes on from there",
        _ if given.is_empty() => {
            "; if this machine reaches the pool by another address, name it with --server HOST:PORT"
        }
        _ => "",
    };
    Err(Failure::new(exit, failures.join("; ")).and(more))
}

fn ask_at(door: &Door, body: String) -> Result<JoinReply, Failure> {
    let place = &door.place;
    let (status, text) = door.post("/v1/join", body).map_err(|error| {
        let exit = match is_unsent(&error) {
            true => Exit::Unavailable,
            false => Exit::OutcomeUnknown,
        };
        Failure::new(exit, format!("{place}: {error}"))
    })?;
    if status == 200 {
        return serde_json::from_str(&text).map_err(|error| {
            let message = format!(
                "{place}: the answer does not read: {error}; is that node of another version?"
            );
            Failure::new(Exit::Failed, message)
        });
    }
    let message = match serde_json::from_str::<RefusalReport>(&text) {
        Ok(refusal) => refusal.message,
        Err(_) => format!("HTTP status {status}"),
    };
    Err(Failure::new(exit_of(status), format!("{place}: {message}")))
}

fn build(dir: &Path, pool: &PoolFile, plan: &NodePlan, reply: &JoinReply) -> Result<(), Failure> {
    make_dir(dir)?;
    // A node that was added names others, not itself: that it is a member it hears from them.
    let others = reply
        .members
        .iter()
        .filter(|member| member.id != reply.node);
    let others: Vec<_> = others
        .map(|member| (member.id, member.address.clone()))
        .collect();
    write(
        &dir.join("muster.toml"),
        &config_text(pool, plan, &others),
        Readers::All,
    )?;
    write(&dir.join("pool.toml"), &reply.pool, Readers::Owner)?;
    write(&dir.join("ca.pem"), &reply.ca, Readers::All)?;
    write(&dir.join("cluster.pem"), &reply.certificate, Readers::All)?;
    let issued = |certified: &web::report::join::Certified| Issued {
        certificate: certified.certificate.clone(),
        key: certified.key.clone(),
    };
    write_issued(dir, "issuer", &issued(&reply.issuer))?;
    write_issued(dir, "clients", &issued(&reply.clients))?;
    let names = BTreeSet::from([
        "localhost".to_owned(),
        plan.control.ip().to_string(),
        plan.clients.ip().to_string(),
    ]);
    let about = format!("control port of node {}", plan.id.0);
    let control = authority::self_signed(&about, &names).map_err(|error| uncertified(&error))?;
    write_issued(dir, "control", &control)?;
    make_data(dir, pool, plan.id)
}

/// What was made, and how to go on.
fn report(args: &JoinArgs, pool: &PoolFile, plan: &NodePlan) -> String {
    let dir = args.dir.display();
    format!(
        "Made {dir}: node {} of the pool {}, domain {}.\n\
         Clients at {} (STARTTLS) and {} (TLS), nodes at {}, operators at {}\n\n\
         Start it; it becomes a member when it has caught up:\n  \
         muster run --config {dir}/muster.toml\n\
         Then look at the members:\n  \
         muster ctl --config {dir}/muster.toml node list\n",
        plan.id.0,
        pool.id,
        pool.constants.domain,
        plan.clients,
        plan.clients_tls,
        plan.cluster,
        plan.control,
    )
}
