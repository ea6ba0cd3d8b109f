//! Three nodes of ejabberd that are one cluster, as `ejabberdctl join_cluster` makes it: each at an address of the loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use rustix::process::Signal;

use crate::processes::Processes;
use crate::server::ejabberd::{self, JOINED, Member};
use crate::server::peer::Peer;
use crate::server::{Kind, Nodes, Ports, folder};
use crate::site::Site;
use crate::target::Security;

/// How many nodes.
const NODES: u8 = 3;

/// How long a node may take to join.
const JOINS_WITHIN: Duration = Duration::from_secs(60);

/// A cluster that runs. Its processes are killed if they still run when this is dropped.
pub(crate) struct Cluster {
    nodes: Vec<Peer>,
    member: Member,
    site: Site,
}

impl Cluster {
    /// Starts the first node, and lets the others join one by one.
    pub(crate) async fn start(site: &Site) -> anyhow::Result<Cluster> {
        let (port, cookie) = (
            rand::rng().random_range(4370..5000),
            rand::rng().random::<u64>(),
        );
        let first = Ipv4Addr::LOCALHOST;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            member: Member {
                port,
                cookie: format!("bench{cookie:x}"),
                joins: None,
            },
            site: site.clone(),
        };
        for number in 1..=NODES {
            let host = Ipv4Addr::new(127, 0, 0, number);
            let (folder, ports) = (folder(site, Kind::Ejabberd)?, Ports::free_at(host)?);
            let member = Member {
                joins: (host != first).then_some(first),
                ..cluster.member.clone()
            };
            let command =
                ejabberd::prepare(folder.path(), ports, &site.certificates, Some(&member))?;
            let mut node = Peer::start(command, folder, ports).await?;
            let joined = node.folder.path().join(JOINED);
            if host != first {
                let joins = node.until(JOINS_WITHIN, || joined.exists()).await;
                joins.with_context(|| format!("node {number} of ejabberd did not join"))?;
            }
            // It stopped and started in order to join.
            node.ready().await?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Where clients connect, one address a node.
    pub(crate) fn addresses(&self, security: Security) -> Vec<SocketAddr> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.ports.address(security)).collect()
    }

    /// The nodes' processes.
    pub(crate) fn processes(&self) -> Processes {
        Processes::new(self.nodes.iter().map(Peer::pid).collect())
    }

    /// Stops all nodes.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for node in self.nodes {
            node.stop().await?;
        }
        Ok(())
    }

    fn node(&self, node: usize) -> anyhow::Result<&Peer> {
        self.nodes.get(node).context("no such node")
    }
}

impl Nodes for Cluster {
    fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.node(node)?.signal(Signal::KILL)
    }

    fn freeze(&self, node: usize) -> anyhow::Result<()> {
        self.node(node)?.signal(Signal::STOP)
    }

    fn thaw(&self, node: usize) -> anyhow::Result<()> {
        self.node(node)?.signal(Signal::CONT)
    }

    async fn bring_back(&mut self, node: usize) -> anyhow::Result<()> {
        let place = self.nodes.get_mut(node).context("no such node")?;
        let (folder, ports) = (place.folder.path(), place.ports);
        let certificates = &self.site.certificates;
        let command = ejabberd::prepare(folder, ports, certificates, Some(&self.member))?;
        place.again(command).await
    }
}
