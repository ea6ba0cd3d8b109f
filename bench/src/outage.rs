//! `muster-bench outage`: a node of three is killed, and one stands still, on Muster and on a cluster of ejabberd in turn.
//!
//! The same rooms, occupants and rate on both, as in the part `failover` of the suite. A row in which something was lost is void
//! as any other; here that is what is to be seen, and its figures are printed all the same.

use std::sync::Arc;

use rand::RngExt;

use crate::cli::TargetArgs;
use crate::pool::{Pool, PoolPlan};
use crate::report::Row;
use crate::scenario::failover::{self, FailoverArgs, Trouble};
use crate::server::{Cluster, Kind, Nodes, description, until_it_serves};
use crate::site::{Site, SiteArgs};
use crate::target::{Security, Target, trust};

/// Who can be measured: servers of several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pooled {
    /// Three nodes of ejabberd, from Debian
    Ejabberd,
    /// Three nodes of Muster
    Muster,
}

/// `muster-bench outage`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OutageArgs {
    /// The servers, with commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ejabberd,muster"
    )]
    pub(crate) servers: Vec<Pooled>,
    /// Rooms
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(3..=1000))]
    pub(crate) rooms: u16,
    /// Messages a second, over all rooms together
    #[arg(long, default_value_t = 150.0)]
    pub(crate) rate: f64,
    /// Seconds of load for each kill
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..=600))]
    pub(crate) seconds: u64,
    /// Seconds of load while a node stands still, 4 at least; 0: none does
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=600))]
    pub(crate) frozen_seconds: u64,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
}

/// Occupants of a room, as many on each of the three nodes.
const OCCUPANTS: usize = 6;

impl OutageArgs {
    fn load(&self, trouble: Trouble) -> FailoverArgs {
        let (turns, seconds) = match trouble {
            Trouble::Killed => (3, self.seconds),
            // Whoever notices late notices late of each.
            Trouble::Frozen => (1, self.frozen_seconds),
        };
        FailoverArgs {
            trouble,
            rooms: self.rooms.into(),
            occupants: OCCUPANTS,
            rate: self.rate,
            turns,
            seconds,
        }
    }
}

/// Runs it. Gives what the servers are, and the rows.
pub(crate) async fn run(
    args: &OutageArgs,
    target: &TargetArgs,
) -> anyhow::Result<(String, Vec<Row>)> {
    let site = args.site.site()?;
    let (mut servers, mut rows) = (Vec::new(), Vec::new());
    for server in &args.servers {
        let kind = match server {
            Pooled::Ejabberd => Kind::Ejabberd,
            Pooled::Muster => Kind::Muster3,
        };
        servers.push(description(kind, &site)?);
        for trouble in [Trouble::Killed, Trouble::Frozen] {
            if trouble == Trouble::Frozen && args.frozen_seconds == 0 {
                continue;
            }
            eprintln!("{server:?}: {trouble:?} …");
            let load = args.load(trouble);
            match Box::pin(one(*server, &site, target, &load)).await {
                Ok(mut row) => {
                    row.setup = format!("{server:?}, 3 nodes: {}", row.setup);
                    rows.push(row);
                }
                // What the others do is told all the same.
                Err(error) => eprintln!("{server:?}: {trouble:?}: {error:#}"),
            }
        }
    }
    Ok((servers.join("; "), rows))
}

/// A new server, its load and its trouble.
async fn one(
    server: Pooled,
    site: &Site,
    args: &TargetArgs,
    load: &FailoverArgs,
) -> anyhow::Result<Row> {
    let security = args.security.unwrap_or(Security::Tls);
    match server {
        Pooled::Ejabberd => {
            let mut cluster = Cluster::start(site).await?;
            let (addresses, processes) = (cluster.addresses(security), cluster.processes());
            let target = target(site, (addresses, processes), security, args)?;
            let row = load_it(&target, load, &mut cluster).await?;
            stopped(cluster.stop().await);
            Ok(row)
        }
        Pooled::Muster => {
            let mut pool = Pool::start(&PoolPlan {
                nodes: 3,
                binary: site.binary.clone(),
                dir: site.dir.clone(),
                keep: site.keep,
                certificates: Some(Arc::clone(&site.certificates)),
                partitions: None,
                occupants_max: None,
            })
            .await?;
            let (addresses, processes) = (pool.addresses(security)?, pool.processes());
            let target = target(site, (addresses, processes), security, args)?;
            let row = load_it(&target, load, &mut pool).await?;
            stopped(pool.stop().await);
            Ok(row)
        }
    }
}

/// A node that does not stop in time is killed; what was measured before is good.
fn stopped(ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        eprintln!("{error:#}");
    }
}

async fn load_it(
    target: &Arc<Target>,
    load: &FailoverArgs,
    nodes: &mut impl Nodes,
) -> anyhow::Result<Row> {
    for node in 0..target.nodes.len() {
        until_it_serves(target, node).await?;
    }
    Box::pin(failover::run(target, load, nodes)).await
}

fn target(
    site: &Site,
    (addresses, processes): (Vec<std::net::SocketAddr>, crate::processes::Processes),
    security: Security,
    args: &TargetArgs,
) -> anyhow::Result<Arc<Target>> {
    let password = format!("{:016x}", rand::rng().random::<u64>());
    let tls = match security {
        Security::Plain => None,
        security => Some(trust(&site.certificates.ca(), security)?),
    };
    let target = Target::of_own_server(addresses, security, tls, processes, &password, args);
    target.refuse_other_machines()?;
    Ok(Arc::new(target))
}
