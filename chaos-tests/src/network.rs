//! A network of namespaces, one a node, whose links can be cut: inside an [`enclave`](crate::enclave).
//!
//! ```text
//!   node-1 ── link-1 ┐
//!   node-2 ── link-2 ┼─ bridge ── the test and its clients
//!   node-3 ── link-3 ┘
//! ```
//!
//! A cut drops frames between nodes in the bridge, both ways and without a word, as a broken switch does: nobody gets a
//! reset. The test itself still reaches every node. What goes over a [`switch`](crate::switch) instead of the bridge is cut
//! where it comes in, one way at a time: [`Network::part`].

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::enclave::command;
use crate::switch;

/// The first three bytes of all addresses.
const PREFIX: [u8; 3] = [10, 77, 0];

/// All addresses.
pub const SUBNET: &str = "10.77.0.0/24";

/// The end of the test's own address.
const OWN: u8 = 254;

/// The bridge and a namespace for each node.
#[derive(Debug, Clone)]
pub struct Network {
    nodes: u8,
}

impl Network {
    /// Makes it. The calling process must be in an enclave.
    pub fn new(nodes: u8) -> Result<Network> {
        let network = Network { nodes };
        ip("link add bridge type bridge")?;
        ip(&format!("address add {}/24 dev bridge", address(OWN)))?;
        ip("link set bridge up")?;
        for node in 1..=nodes {
            let (name, link) = (network.namespace(node.into()), link(node.into()));
            ip(&format!("netns add {name}"))?;
            ip(&format!(
                "link add {link} type veth peer name eth0 netns {name}"
            ))?;
            ip(&format!("link set {link} master bridge up"))?;
            ip(&format!(
                "-netns {name} address add {}/24 dev eth0",
                address(node)
            ))?;
            ip(&format!("-netns {name} link set eth0 up"))?;
            ip(&format!("-netns {name} link set lo up"))?;
            nft_in(&name, "add table inet cuts")?;
            nft_in(
                &name,
                "add chain inet cuts from { type filter hook input priority 0; }",
            )?;
        }
        nft("add table bridge cuts")?;
        nft("add chain bridge cuts between { type filter hook forward priority 0; }")?;
        Ok(network)
    }

    /// The nodes' addresses.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        (1..=self.nodes).map(address).collect()
    }

    /// The name of a node's namespace.
    pub fn namespace(&self, node: u64) -> String {
        format!("node-{node}")
    }

    /// Cuts a node off from all others, both ways. One command: there is no moment with half a cut.
    pub fn cut_off(&self, node: u64) -> Result<()> {
        let link = link(node);
        nft(&format!(
            "add rule bridge cuts between iifname {link} drop; add rule bridge cuts between oifname {link} drop"
        ))
    }

    /// What these nodes send to those over the switch does not come in.
    pub fn part(&self, from: &[u64], to: &[u64]) -> Result<()> {
        for to in to {
            let rules: Vec<String> = from
                .iter()
                .filter(|from| *from != to)
                .map(|from| {
                    let address = switch::address(*from);
                    format!("add rule inet cuts from ip saddr {address} drop")
                })
                .collect();
            if !rules.is_empty() {
                nft_in(&self.namespace(*to), &rules.join("; "))?;
            }
        }
        Ok(())
    }

    /// Mends all links.
    pub fn heal(&self) -> Result<()> {
        for node in 1..=self.nodes {
            nft_in(&self.namespace(node.into()), "flush chain inet cuts from")?;
        }
        nft("flush chain bridge cuts between")
    }
}

fn address(last: u8) -> Ipv4Addr {
    let [a, b, c] = PREFIX;
    Ipv4Addr::new(a, b, c, last)
}

fn link(node: u64) -> String {
    format!("link-{node}")
}

fn ip(words: &str) -> Result<()> {
    command("ip", words.split(' ')).map(drop)
}

fn nft(commands: &str) -> Result<()> {
    command("nft", [commands]).map(drop)
}

fn nft_in(namespace: &str, commands: &str) -> Result<()> {
    let enter = format!("--net=/run/netns/{namespace}");
    command("nsenter", [enter.as_str(), "nft", commands]).map(drop)
}
