//! From what was written to a value that cannot be wrong: what belongs together, and the files that are named.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actors::allowance::UserPaces;
use cluster::node_id::NodeId;
use cluster::raft::{OnFailure, PAYLOAD_BYTES_LEAST, RaftSettings};
use cluster::transport::ClusterTls;
use messaging::user::archive_page::PAGE_ROWS_MAX;
use rustls::crypto::CryptoProvider;
use storage::log::LogOptions;
use xmpp::jid::BareJid;
use xmpp::scan::Limits;
use xmpp::shaper::{Pace, StreamPaces};
use xmpp::stream::NegotiationLimits;
use xmpp::stream_management::{InboundLimits, OutboundLimits};

use super::error::ConfigError;
use super::file::ConfigFile;
use super::knob::Size;
use super::paces;
use super::pool_file::PoolFile;
use super::sections::{Clients, Control, Storage};
use crate::certificate::{Shown, ShownByName};
use crate::identities::{CertificateEnd, Identities};
use crate::tickets::PoolTickets;

/// A configuration that a node can start with.
pub(crate) struct NodeConfig {
    pub(crate) node: NodeId,
    pub(crate) data_dir: PathBuf,
    pub(crate) pool: PoolFile,
    pub(crate) cluster: ClusterConfig,
    pub(crate) clients: ClientsConfig,
    pub(crate) control: ControlConfig,
    pub(crate) storage: Storage,
    pub(crate) log_options: LogOptions,
    pub(crate) raft: RaftSettings,
    /// For replication and the connections between nodes; 0: to be chosen.
    pub(crate) replication_threads: usize,
    /// When its certificates end.
    pub(crate) ends: Vec<CertificateEnd>,
}

/// The node among the others.
pub(crate) struct ClusterConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) members: Vec<(NodeId, String)>,
    pub(crate) tls: ClusterTls,
    pub(crate) quorum_wait: Duration,
}

/// The node towards clients.
pub(crate) struct ClientsConfig {
    pub(crate) section: Clients,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// What `tls` shows.
    pub(crate) shown: Arc<Shown>,
    pub(crate) scram_iterations: NonZeroU32,
    pub(crate) negotiation: NegotiationLimits,
    pub(crate) limits_before_auth: Limits,
    pub(crate) limits_after_auth: Limits,
    pub(crate) inbound: InboundLimits,
    pub(crate) outbound: OutboundLimits,
    pub(crate) resume_within: Duration,
    pub(crate) detached_bytes_max: usize,
    pub(crate) outgoing_bytes_max: usize,
    pub(crate) retired_domains: Vec<BareJid>,
    pub(crate) stream_paces: StreamPaces,
    pub(crate) user_paces: UserPaces,
    pub(crate) registrations: Option<Pace>,
}

/// The control port, but for its token, which a check of the configuration does not make.
pub(crate) struct ControlConfig {
    pub(crate) section: Control,
    pub(crate) tls: rustls::ServerConfig,
    /// What `tls` shows.
    pub(crate) shown: Arc<ShownByName>,
    pub(crate) token_file: PathBuf,
}

/// More threads than any machine that this runs on has cores.
const THREADS_MAX: usize = 256;

/// Every acknowledgement may wait so long; more is a mistake in the unit.
const SYNC_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// RFC 5802 §5.1: at least 4096.
const SCRAM_ITERATIONS_MIN: u32 = 4096;
/// More would make a login a denial of service.
const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

/// ALPN of direct TLS (XEP-0368 §3).
const ALPN_CLIENT: &[u8] = b"xmpp-client";

impl NodeConfig {
    /// Checks a file and all it names.
    pub(crate) fn validate(
        file: &ConfigFile,
        provider: Arc<CryptoProvider>,
    ) -> Result<NodeConfig, ConfigError> {
        let pool = PoolFile::load(&file.existing("pool", "file", &file.pool.file)?)?;
        check_listeners(file)?;
        check_members(file)?;
        let identities = Identities::load(file, &pool, &provider)?;
        Ok(NodeConfig {
            node: NodeId(file.node.id),
            data_dir: file.resolve(&file.node.data_dir),
            cluster: cluster(file, &identities),
            clients: clients(file, &pool, &identities, provider.clone())?,
            control: control(file, &pool, &identities, provider)?,
            storage: file.storage.clone(),
            log_options: log_options(file)?,
            raft: raft(file)?,
            replication_threads: file.raft.threads,
            ends: identities.ends(),
            pool,
        })
    }
}

/// No two listeners want the same port.
fn check_listeners(file: &ConfigFile) -> Result<(), ConfigError> {
    let clients = &file.clients;
    if clients.listen.is_empty() && clients.listen_tls.is_empty() {
        return Err(file.invalid("clients", "listen", "clients need at least one address"));
    }
    let mut seen = BTreeSet::new();
    let all = (clients.listen.iter().map(|a| ("clients", "listen", a)))
        .chain(
            clients
                .listen_tls
                .iter()
                .map(|a| ("clients", "listen_tls", a)),
        )
        .chain([("cluster", "listen", &file.cluster.listen)])
        .chain([("control", "listen", &file.control.listen)]);
    for (section, key, address) in all {
        if address.port() == 0 {
            let reason = format!("{address} names no port");
            return Err(file.invalid(section, key, reason));
        }
        if !seen.insert(*address) {
            return Err(file.invalid(
                section,
                key,
                format!("{address} is used twice in this file"),
            ));
        }
    }
    Ok(())
}

/// Each member is there once. This node is one of them, or was added to the pool by an operator.
fn check_members(file: &ConfigFile) -> Result<(), ConfigError> {
    let members = &file.cluster.members;
    let ids: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
    let addresses: BTreeSet<&str> = members
        .iter()
        .map(|member| member.address.as_str())
        .collect();
    if ids.len() < members.len() || addresses.len() < members.len() {
        return Err(file.invalid("cluster", "members", "an id or an address is there twice"));
    }
    if members.is_empty() {
        return Err(file.invalid("cluster", "members", "there must be at least one"));
    }
    Ok(())
}

fn cluster(file: &ConfigFile, identities: &Identities) -> ClusterConfig {
    ClusterConfig {
        listen: file.cluster.listen,
        members: file
            .cluster
            .members
            .iter()
            .map(|member| (NodeId(member.id), member.address.clone()))
            .collect(),
        tls: identities.cluster_tls(),
        quorum_wait: file.cluster.quorum_wait.0,
    }
}

/// What needs nothing but the section itself.
fn check_clients(file: &ConfigFile) -> Result<(), ConfigError> {
    let section = &file.clients;
    if section.allow_plaintext_auth && section.tls_required {
        let reason = "passwords without TLS need tls_required = false";
        return Err(file.invalid("clients", "allow_plaintext_auth", reason));
    }
    for (key, value) in [
        (
            "unauthenticated_per_address_max",
            section.unauthenticated_per_address_max,
        ),
        (
            "drain_sessions_per_second",
            section.drain_sessions_per_second,
        ),
        ("archive_page_max", section.archive_page_max),
    ] {
        if value == 0 {
            return Err(file.invalid("clients", key, "must be at least 1"));
        }
    }
    if section.archive_page_max > PAGE_ROWS_MAX {
        let reason = format!("at most {PAGE_ROWS_MAX}");
        return Err(file.invalid("clients", "archive_page_max", reason));
    }
    for (key, value) in [
        ("resources_max", section.resources_max),
        ("queued_max", section.queued_max),
        ("archive_queries_max", section.archive_queries_max),
    ] {
        if value == 0 {
            return Err(file.invalid("clients", key, "must be at least 1"));
        }
    }
    if section.threads > THREADS_MAX {
        let reason = format!("at most {THREADS_MAX}");
        return Err(file.invalid("clients", "threads", reason));
    }
    if !section.address.is_empty() && !is_address(&section.address) {
        let reason = "must be a host, or host:port; an IPv6 address stands in brackets";
        return Err(file.invalid("clients", "address", reason));
    }
    // The kernel's own bounds.
    if !(1..=32_767).contains(&section.probe_after.0.as_secs()) {
        return Err(file.invalid("clients", "probe_after", "must be 1 s to 9 h"));
    }
    Ok(())
}

/// Whether this is `domainpart`, or `domainpart:port`, as RFC 6120 §4.9.3.19 has it.
fn is_address(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return false;
    }
    match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_of_host =
                |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            !host.is_empty() && host.len() <= 253 && host.bytes().all(is_of_host)
        }
    }
}

fn clients(
    file: &ConfigFile,
    pool: &PoolFile,
    identities: &Identities,
    provider: Arc<CryptoProvider>,
) -> Result<ClientsConfig, ConfigError> {
    check_clients(file)?;
    let section = file.clients.clone();
    let iterations = section.scram_iterations;
    let scram_iterations = NonZeroU32::new(iterations)
        .filter(|_| (SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&iterations))
        .ok_or_else(|| {
            let reason =
                format!("{iterations} is not {SCRAM_ITERATIONS_MIN} to {SCRAM_ITERATIONS_MAX}");
            file.invalid("clients", "scram_iterations", reason)
        })?;
    let (mut tls, shown) = identities.clients.server_config(provider)?;
    tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
    tls.ticketer = Arc::new(PoolTickets::new(&pool.secret));
    let limits_after_auth = limits_after_auth(file)?;
    let outgoing_bytes_max = bytes(
        file,
        "clients",
        "outgoing_bytes_max",
        section.outgoing_bytes_max,
    )?;
    if outgoing_bytes_max < 2 * limits_after_auth.stanza_bytes_max {
        let reason = "must hold two stanzas of [limits_after_auth] stanza_bytes_max";
        return Err(file.invalid("clients", "outgoing_bytes_max", reason));
    }
    let (stream_paces, user_paces) = paces::paces(file)?;
    Ok(ClientsConfig {
        retired_domains: retired_domains(file, pool)?,
        stream_paces,
        user_paces,
        registrations: paces::registrations(file)?,
        tls: Arc::new(tls),
        shown,
        scram_iterations,
        negotiation: negotiation(file)?,
        limits_before_auth: limits_before_auth(file)?,
        limits_after_auth,
        inbound: inbound(file)?,
        outbound: outbound(file)?,
        resume_within: resume_within(file)?,
        detached_bytes_max: bytes(
            file,
            "stream_management",
            "detached_bytes_max",
            file.stream_management.detached_bytes_max,
        )?,
        outgoing_bytes_max,
        section,
    })
}

fn retired_domains(file: &ConfigFile, pool: &PoolFile) -> Result<Vec<BareJid>, ConfigError> {
    let invalid = |reason| file.invalid("clients", "retired_domains", reason);
    let domain = |text: &String| match BareJid::parse(text) {
        Ok(jid) if jid.local().is_some() => Err(invalid(format!("{text} is no domain"))),
        Ok(jid) if jid.as_str() == pool.constants.domain => {
            Err(invalid(format!("{text} is the domain of this pool")))
        }
        Ok(jid) => Ok(jid),
        Err(_) => Err(invalid(format!("{text} is no domain"))),
    };
    file.clients.retired_domains.iter().map(domain).collect()
}

fn negotiation(file: &ConfigFile) -> Result<NegotiationLimits, ConfigError> {
    let section = &file.negotiation;
    let limits = NegotiationLimits {
        step: section.step.0,
        total: section.total.0,
        elements_max: section.elements_max,
        bytes_max: bytes(file, "negotiation", "bytes_max", section.bytes_max)?,
        wrong_proofs_max: section.wrong_proofs_max,
        close: section.close.0,
    };
    if limits.step.is_zero() || limits.total < limits.step {
        return Err(file.invalid(
            "negotiation",
            "total",
            "must be at least one step above zero",
        ));
    }
    if limits.elements_max < 4 {
        return Err(file.invalid("negotiation", "elements_max", "a login takes at least 4"));
    }
    if limits.wrong_proofs_max == 0 {
        return Err(file.invalid("negotiation", "wrong_proofs_max", "must be at least 1"));
    }
    Ok(limits)
}

/// Two sections with the same keys.
macro_rules! limits {
    ($file:ident, $section:ident) => {
        Limits {
            stanza_bytes_max: bytes(
                $file,
                stringify!($section),
                "stanza_bytes_max",
                $file.$section.stanza_bytes_max,
            )?,
            depth_max: $file.$section.depth_max,
            elements_max: $file.$section.elements_max,
            attributes_max: $file.$section.attributes_max,
            namespaces_max: $file.$section.namespaces_max,
        }
    };
}

fn limits_before_auth(file: &ConfigFile) -> Result<Limits, ConfigError> {
    let limits = limits!(file, limits_before_auth);
    check_limits(file, "limits_before_auth", limits, 2048)
}

fn limits_after_auth(file: &ConfigFile) -> Result<Limits, ConfigError> {
    let limits = limits!(file, limits_after_auth);
    // RFC 6120 §13.12: a server must not set the limit below 10,000 bytes.
    check_limits(file, "limits_after_auth", limits, 10_000)
}

fn check_limits(
    file: &ConfigFile,
    section: &'static str,
    limits: Limits,
    stanza_bytes_min: usize,
) -> Result<Limits, ConfigError> {
    /// A stanza is one entry of the log, and one frame between nodes.
    const STANZA_BYTES_MAX: usize = 1 << 20;
    if !(stanza_bytes_min..=STANZA_BYTES_MAX).contains(&limits.stanza_bytes_max) {
        let reason = format!(
            "{} B is not {stanza_bytes_min} to {STANZA_BYTES_MAX}",
            limits.stanza_bytes_max
        );
        return Err(file.invalid(section, "stanza_bytes_max", reason));
    }
    for (key, value) in [
        ("depth_max", limits.depth_max),
        ("elements_max", limits.elements_max),
        ("attributes_max", limits.attributes_max),
        ("namespaces_max", limits.namespaces_max),
    ] {
        if value < 4 {
            return Err(file.invalid(section, key, "a login takes at least 4"));
        }
    }
    Ok(limits)
}

/// Every request is answered, refused, or its stream closed within this time.
const SETTLE_WITHIN_MAX: Duration = Duration::from_secs(10);

fn inbound(file: &ConfigFile) -> Result<InboundLimits, ConfigError> {
    let section = &file.stream_management;
    if section.unsettled_max == 0 {
        return Err(file.invalid("stream_management", "unsettled_max", "must be at least 1"));
    }
    let within = section.settle_within.0;
    if within < Duration::from_secs(1) || within > SETTLE_WITHIN_MAX {
        return Err(file.invalid("stream_management", "settle_within", "from 1 s to 10 s"));
    }
    Ok(InboundLimits {
        unsettled_max: section.unsettled_max,
        answer_within: section.answer_within.0,
        settle_within: within,
    })
}

/// A presence that nobody stands behind for longer would be a lie.
const RESUME_WITHIN_MAX: Duration = Duration::from_secs(60 * 60);

fn resume_within(file: &ConfigFile) -> Result<Duration, ConfigError> {
    let within = file.stream_management.resume_within.0;
    if within > RESUME_WITHIN_MAX || within.subsec_nanos() != 0 {
        let reason = "whole seconds, at most an hour";
        return Err(file.invalid("stream_management", "resume_within", reason));
    }
    Ok(within)
}

fn outbound(file: &ConfigFile) -> Result<OutboundLimits, ConfigError> {
    let section = &file.stream_management;
    if section.unacked_max == 0 || section.request_after == 0 {
        return Err(file.invalid(
            "stream_management",
            "unacked_max",
            "must be at least 1, like request_after",
        ));
    }
    Ok(OutboundLimits {
        unacked_max: section.unacked_max,
        unacked_bytes_max: bytes(
            file,
            "stream_management",
            "unacked_bytes_max",
            section.unacked_bytes_max,
        )?,
        request_after: section.request_after,
        request_within: section.request_within.0,
        answer_within: section.acknowledge_within.0,
    })
}

/// What the names of a pool's nodes end with.
pub(crate) fn node_names(pool: &PoolFile) -> String {
    format!(".{}.muster", pool.id)
}

fn control(
    file: &ConfigFile,
    pool: &PoolFile,
    identities: &Identities,
    provider: Arc<CryptoProvider>,
) -> Result<ControlConfig, ConfigError> {
    let section = file.control.clone();
    if section.connections_max == 0 || section.request_timeout.0.is_zero() {
        return Err(file.invalid(
            "control",
            "connections_max",
            "must be at least 1, and request_timeout above zero",
        ));
    }
    if section.body_bytes_max.0 < 4096 {
        return Err(file.invalid("control", "body_bytes_max", "must be at least 4 KiB"));
    }
    let joining = (node_names(pool), &identities.joining);
    let (tls, shown) = identities.control.control_config(joining, provider)?;
    Ok(ControlConfig {
        tls,
        shown,
        token_file: file.resolve(&section.token_file),
        section,
    })
}

fn log_options(file: &ConfigFile) -> Result<LogOptions, ConfigError> {
    let section = &file.storage;
    let segment = section.log_segment_bytes.0;
    if !(8 << 10..=1 << 30).contains(&segment) {
        return Err(file.invalid("storage", "log_segment_bytes", "must be 8 KiB to 1 GiB"));
    }
    let positive = |key, size: Size| match bytes(file, "storage", key, size)? {
        0 => Err(file.invalid("storage", key, "must be above zero")),
        bytes => Ok(bytes),
    };
    if section.log_sync_interval.0 > SYNC_INTERVAL_MAX {
        return Err(file.invalid("storage", "log_sync_interval", "must be at most 100 ms"));
    }
    if section.log_share_within.0 > SYNC_INTERVAL_MAX {
        return Err(file.invalid("storage", "log_share_within", "must be at most 100 ms"));
    }
    Ok(LogOptions {
        segment_bytes: segment,
        queue_bytes_max: positive("log_queue_bytes_max", section.log_queue_bytes_max)?,
        batch_bytes_max: positive("log_batch_bytes_max", section.log_batch_bytes_max)?,
        cache_bytes_max: positive("log_cache_bytes_max", section.log_cache_bytes_max)?,
        disk_free_bytes_min: section.disk_free_bytes_min.0,
        sync_interval: section.log_sync_interval.0,
        share_within: section.log_share_within.0,
        ..LogOptions::default()
    })
}

fn check_raft(file: &ConfigFile) -> Result<(), ConfigError> {
    let section = &file.raft;
    let times = RaftSettings {
        heartbeat: section.heartbeat.0,
        ..RaftSettings::default()
    };
    let least = times.silence_least();
    if section.heartbeat.0.is_zero() || section.election_min.0 < least {
        let reason = format!(
            "must be at least three heartbeats, which leave every {} ms: {} ms",
            least.as_millis() / 3,
            least.as_millis()
        );
        return Err(file.invalid("raft", "election_min", reason));
    }
    if section.election_max.0 <= section.election_min.0 {
        return Err(file.invalid("raft", "election_max", "must be longer than election_min"));
    }
    if section.payload_bytes_max.0 < PAYLOAD_BYTES_LEAST as u64 {
        return Err(file.invalid(
            "raft",
            "payload_bytes_max",
            "must hold a full batch: at least 2112 KiB",
        ));
    }
    if section.submitted_bytes_max.0 < section.payload_bytes_max.0 {
        return Err(file.invalid(
            "raft",
            "submitted_bytes_max",
            "must hold one entry of payload_bytes_max",
        ));
    }
    if section.threads > THREADS_MAX {
        return Err(file.invalid("raft", "threads", format!("at most {THREADS_MAX}")));
    }
    for (key, value) in [
        ("submissions_max", section.submissions_max),
        ("reads_max", section.reads_max),
    ] {
        if value == 0 {
            return Err(file.invalid("raft", key, "must be at least 1"));
        }
    }
    if section.snapshot_bytes_per_second.0 == 0 || section.snapshot_transfers_max == 0 {
        return Err(file.invalid(
            "raft",
            "snapshot_transfers_max",
            "must be at least 1, like snapshot_bytes_per_second",
        ));
    }
    if section.upkeep_interval.0.is_zero() || section.crash_retry.0.is_zero() {
        return Err(file.invalid(
            "raft",
            "upkeep_interval",
            "must be above zero, like crash_retry",
        ));
    }
    Ok(())
}

fn raft(file: &ConfigFile) -> Result<RaftSettings, ConfigError> {
    check_raft(file)?;
    let section = &file.raft;
    let bytes = |key, size: Size| match bytes(file, "raft", key, size)? {
        0 => Err(file.invalid("raft", key, "must be above zero")),
        bytes => Ok(bytes),
    };
    Ok(RaftSettings {
        heartbeat: section.heartbeat.0,
        election_min: section.election_min.0,
        election_max: section.election_max.0,
        append_timeout: section.append_timeout.0,
        vote_timeout: section.vote_timeout.0,
        payload_bytes_max: bytes("payload_bytes_max", section.payload_bytes_max)?,
        submitted_bytes_max: bytes("submitted_bytes_max", section.submitted_bytes_max)?,
        submissions_max: section.submissions_max,
        append_bytes_max: bytes("append_bytes_max", section.append_bytes_max)?,
        reads_max: section.reads_max,
        read_timeout: section.read_timeout.0,
        snapshot_bytes: section.snapshot_bytes.0,
        snapshot_interval: section.snapshot_interval.0,
        log_keep_bytes: section.log_keep_bytes.0,
        snapshot_bytes_per_second: section.snapshot_bytes_per_second.0,
        snapshot_transfers_max: section.snapshot_transfers_max,
        upkeep_interval: section.upkeep_interval.0,
        spread_leaders: section.spread_leaders,
        spread_after: section.spread_after.0,
        spread_again_after: section.spread_again_after.0,
        crash_probe: section.crash_probe.0,
        crash_rank_delay: section.crash_rank_delay.0,
        crash_retry: section.crash_retry.0,
        crash_give_up: section.crash_give_up.0,
        on_failure: OnFailure::default(),
        ..RaftSettings::default()
    })
}

/// A size that fits this machine's memory addresses.
fn bytes(
    file: &ConfigFile,
    section: &'static str,
    key: &'static str,
    size: Size,
) -> Result<usize, ConfigError> {
    usize::try_from(size.0).map_err(|_| file.invalid(section, key, "is too large for this machine"))
}

#[cfg(test)]
mod address_tests {
    use super::is_address;

    #[test]
    fn addresses_are_hosts_with_or_without_a_port() {
        let check = |text: &str, expect| assert_eq!(is_address(text), expect, "{text}");
        for good in [
            "xmpp.example.org",
            "xmpp.example.org:5222",
            "192.0.2.7:5222",
            "[2001:db8::1]:5222",
            "[2001:db8::1]",
        ] {
            check(good, true);
        }
        for bad in [
            "",
            ":5222",
            "host:0",
            "host:70000",
            "host:port",
            "2001:db8::1",
            "[2001:db8::1",
            "[host]:5222",
            "a host:5222",
            "host/../x:5222",
            "<host>",
        ] {
            check(bad, false);
        }
    }
}
