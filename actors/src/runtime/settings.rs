//! What operators decide, checked and complete.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster::node_id::{NodeId, PoolId};
use cluster::raft::RaftSettings;
use cluster::transport::ClusterTls;
use cluster::version::Build;
use messaging::apply::PoolConstants;
use storage::data_dir::DataDir;
use storage::log::LogOptions;
use storage::state_store::Engine;
#[cfg(not(feature = "simulation"))]
use tokio::runtime::Builder;
use tokio::runtime::{Handle, Runtime};
use xmpp::jid::BareJid;
use xmpp::scan::Limits;
use xmpp::shaper::{Pace, StreamPaces};
use xmpp::stream::NegotiationLimits;
use xmpp::stream_management::{InboundLimits, OutboundLimits};

use crate::allowance::UserPaces;

/// A member of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its cluster port, `host:port`.
    pub address: String,
}

/// A port for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListener {
    /// Where.
    pub address: SocketAddr,
    /// TLS from the first byte (XEP-0368), else STARTTLS.
    pub direct_tls: bool,
}

/// How clients are treated.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where clients reach this node, as RFC 6120 §4.9.3.19 writes it, if they may be told.
    pub address: Option<String>,
    /// Sessions that this node may have.
    pub sessions_max: u64,
    /// SASL PLAIN without TLS; for tests on loopback.
    pub allow_plaintext_auth: bool,
    /// Nothing but STARTTLS on a plain connection.
    pub tls_required: bool,
    /// XEP-0077.
    pub registration: bool,
    /// Accounts that one address may make.
    pub registrations: Option<Pace>,
    /// Domains that were served once; each a prepared domain.
    pub retired_domains: Vec<BareJid>,
    /// Iterations of new passwords.
    pub scram_iterations: u32,
    /// Bounds on elements before authentication.
    pub limits_before_auth: Limits,
    /// Bounds on elements after it.
    pub limits_after_auth: Limits,
    /// Bounds on streams before bind.
    pub negotiation: NegotiationLimits,
    /// Sessions a user may have.
    pub resources_max: usize,
    /// Unauthenticated streams an address may have; further ones queue.
    pub unauthenticated_per_address_max: u32,
    /// Connections that may queue at once, all addresses together.
    pub queued_max: usize,
    /// How long each may.
    pub queue_within: Duration,
    /// Networks that these limits, paces and the limit of registrations don't hold for: address and prefix length.
    pub trusted_networks: Vec<(IpAddr, u8)>,
    /// Networks whose connections begin with a PROXY header.
    pub proxy_networks: Vec<(IpAddr, u8)>,
    /// How fast a session is read.
    pub stream_paces: StreamPaces,
    /// What a user may ask of others.
    pub user_paces: UserPaces,
    /// Silence after which the kernel probes a client's connection.
    pub probe_after: Duration,
    /// Bytes that may wait for a client's socket.
    pub outgoing_bytes_max: usize,
    /// Acknowledgements to clients.
    pub sm_inbound: Arc<InboundLimits>,
    /// Acknowledgements of clients.
    pub sm_outbound: Arc<OutboundLimits>,
    /// How long a session waits for its client without a connection; zero: resumption is not offered.
    pub resume_within: Duration,
    /// Bytes that may wait on this node for all sessions without a connection.
    pub detached_bytes_max: usize,
    /// Rows in a page of an archive.
    pub archive_page_max: u32,
    /// Archive queries of a session under way at once.
    pub archive_queries_max: usize,
}

impl ClientSettings {
    /// Whether an address is in a trusted network.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        any_contains(&self.trusted_networks, address)
    }

    /// Whether connections from an address begin with a PROXY header.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        any_contains(&self.proxy_networks, address)
    }
}

fn any_contains(networks: &[(IpAddr, u8)], address: IpAddr) -> bool {
    // An IPv4 client of a socket that takes both kinds.
    let address = address.to_canonical();
    networks
        .iter()
        .any(|(network, prefix)| contains(*network, *prefix, address))
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let (network, address, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (
            u128::from(network.to_bits()),
            u128::from(address.to_bits()),
            32,
        ),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let host_bits = u32::from(bits - prefix.min(bits));
    (network ^ address).checked_shr(host_bits).unwrap_or(0) == 0
}

/// How things are stored.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// Cache of the archive.
    pub archive_cache_bytes: u64,
    /// Cache of all state stores together.
    pub state_cache_bytes: u64,
    /// The log.
    pub log: LogOptions,
    /// The state stores' engine.
    pub state_engine: Engine,
}

/// Memory of a node; zeroes where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What its process uses.
    pub used_bytes: u64,
    /// What its machine has free.
    pub free_bytes: u64,
}

/// Everything a node needs to start.
pub struct Settings {
    /// What this program is, and which versions it supports.
    pub build: Build,
    /// This node.
    pub node: NodeId,
    /// The pool.
    pub pool_id: PoolId,
    /// The members of a new pool, this node among them; or, of a node that was added to a pool, those to dial first. The
    /// meta group's word replaces it.
    pub members: Vec<Member>,
    /// Sessions that a drain of this node moves a second, unless the operator says otherwise.
    pub drain_sessions_per_second: u32,
    /// Partitions, fixed at the pool's creation.
    pub partitions: u16,
    /// What every replica agrees on.
    pub constants: PoolConstants,
    /// SHA-256 over the pool file: every node must have the same.
    pub pool_digest: [u8; 32],
    /// The pool's secret.
    pub secret: [u8; 32],
    /// The data folder.
    pub data: Arc<DataDir>,
    /// The cluster port.
    pub cluster_listen: SocketAddr,
    /// Its certificates.
    pub cluster_tls: ClusterTls,
    /// Ports for clients.
    pub client_listeners: Vec<ClientListener>,
    /// Their certificates.
    pub client_tls: Arc<rustls::ServerConfig>,
    /// How clients are treated.
    pub client: ClientSettings,
    /// How things are stored.
    pub storage: StorageSettings,
    /// How the groups run.
    pub raft: RaftSettings,
    /// How long a start waits for a quorum.
    pub quorum_wait: Duration,
    /// What the process uses of memory and the machine has free.
    pub memory: fn() -> Memory,
    /// Threads for sessions, rooms and partitions.
    pub arbiters: usize,
    /// Threads for replication and the connections between nodes.
    pub replication_threads: usize,
}

/// The runtime of the transport and of Raft: their tasks must not wait for an actor's thread.
pub struct Network(Option<Runtime>);

impl Network {
    /// Starts it with so many threads, at least one.
    ///
    /// # Errors
    /// When the threads can't be made.
    #[cfg(not(feature = "simulation"))]
    pub fn start(threads: usize) -> std::io::Result<Network> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("replication")
            .enable_all()
            .build()?;
        Ok(Network(Some(runtime)))
    }

    /// There is one runtime for everything.
    ///
    /// # Errors
    /// None.
    #[cfg(feature = "simulation")]
    pub fn start(_threads: usize) -> std::io::Result<Network> {
        Ok(Network(None))
    }

    /// Where its tasks are spawned.
    pub fn handle(&self) -> Handle {
        self.0
            .as_ref()
            .map(Runtime::handle)
            .cloned()
            .unwrap_or_else(Handle::current)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A runtime must not be dropped where tasks run.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let check = |network: &str, prefix, address: &str, expect| {
            let (network, address) = (network.parse().unwrap(), address.parse().unwrap());
            assert_eq!(
                contains(network, prefix, address),
                expect,
                "{network}/{prefix} {address}"
            );
        };
        check("127.0.0.0", 8, "127.1.2.3", true);
        check("127.0.0.0", 8, "128.0.0.1", false);
        check("10.1.0.0", 16, "10.1.255.1", true);
        check("10.1.0.0", 16, "10.2.0.1", false);
        check("192.0.2.7", 32, "192.0.2.7", true);
        check("192.0.2.7", 32, "192.0.2.8", false);
        check("0.0.0.0", 0, "8.8.8.8", true);
        check("::1", 128, "::1", true);
        check("2001:db8::", 32, "2001:db8:1::1", true);
        check("2001:db8::", 32, "127.0.0.1", false);
    }
}
