//! The knobs of `muster.toml`. The doc comments are what `muster config reference` prints.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use storage::state_store::Engine;

use super::knob::{MemberAddress, Network, Size, Span};
use super::section::section;

const fn ms(millis: u64) -> Span {
    Span(Duration::from_millis(millis))
}

const fn s(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

const fn kib(count: u64) -> Size {
    Size(count << 10)
}

const fn mib(count: u64) -> Size {
    Size(count << 20)
}

section! {
    /// Who this node is and where its data lies.
    struct Node["node"] {
        /// This node's id, one of `members`. Ids are never used again, not even after a disk was lost.
        id: u64,
        /// The folder of this node's data. It belongs to this node for ever.
        data_dir: PathBuf = PathBuf::from("data"),
    }
}

section! {
    /// What all nodes of the pool share.
    struct Pool["pool"] {
        /// The pool file that `muster init` wrote: the same on every node, secret, part of every backup.
        file: PathBuf,
    }
}

section! {
    /// How nodes reach each other: TLS 1.3, both ends certified by the pool's own CA.
    struct Cluster["cluster"] {
        /// Where other nodes reach this one.
        listen: SocketAddr,
        /// The first members of a new pool with the addresses where the others reach them; the same on all of them. A node
        /// that is added to a pool later names some of those that are there, and not itself. Once a node has been in its
        /// pool, the pool says who the members are; where this names one of them, this node reaches it at this address.
        members: Vec<MemberAddress>,
        /// The pool's CA certificate; two of them while the CA is being replaced.
        ca: PathBuf = PathBuf::from("ca.pem"),
        /// This node's certificate. Its one name is `node-<id>.<pool id>.muster`.
        certificate: PathBuf = PathBuf::from("cluster.pem"),
        /// Its key.
        key: PathBuf = PathBuf::from("cluster-key.pem"),
        /// The certificate that lets this node sign those of nodes that join; there need be none.
        issuer: PathBuf = PathBuf::from("issuer.pem"),
        /// Its key.
        issuer_key: PathBuf = PathBuf::from("issuer-key.pem"),
        /// How long a starting node waits for a quorum of the pool; then it gives up and says so.
        quorum_wait: Span = s(60),
    }
}

section! {
    /// XMPP clients.
    struct Clients["clients"] {
        /// Where clients connect and then turn to TLS (STARTTLS).
        listen: Vec<SocketAddr>,
        /// Where clients connect with TLS from the first byte (XEP-0368).
        listen_tls: Vec<SocketAddr> = Vec::new(),
        /// Where clients reach `listen` from outside, `host:port`, or `host` for port 5222; an IPv6 address in brackets. Nothing: it
        /// is told to nobody. Clients that can't be moved are sent to it by nodes that are drained or stop (RFC 6120
        /// §4.9.3.19), and those of this node are told to come back to it (XEP-0198 §3), as their sessions are here.
        address: String = String::new(),
        /// Sessions that this node may have; who logs in beyond that is told to wait. 0: as many as there may be open files
        /// (`ulimit -Hn`), less 1,024, and one at most for each 64 KiB of memory.
        sessions_max: u32 = 0,
        /// The certificate that clients see; it must name the pool's domain.
        certificate: PathBuf = PathBuf::from("clients.pem"),
        /// Its key.
        key: PathBuf = PathBuf::from("clients-key.pem"),
        /// Whether nothing is accepted before TLS (RFC 7590).
        tls_required: bool = true,
        /// Whether clients on this machine's loopback may send passwords in plain text (PLAIN without TLS): only for tests. Needs
        /// `tls_required = false`.
        allow_plaintext_auth: bool = false,
        /// Domains that the pool has served once; streams to them are told that they are gone.
        retired_domains: Vec<String> = Vec::new(),
        /// Whether anybody may make an account (XEP-0077).
        registration: bool = false,
        /// Accounts that one address may make on this node in `registrations_within`, attempts included; 0: no bound.
        registrations_per_address_max: u32 = 5,
        /// See there.
        registrations_within: Span = s(60 * 60),
        /// SCRAM's iterations for new passwords. More cost both sides and thieves more. 4,096 (RFC 5802) to
        /// 1,000,000.
        scram_iterations: u32 = 10_000,
        /// Sessions of one user; at least 1.
        resources_max: usize = 10,
        /// Connections of one address (IPv6: of one network of 64 bits) that have not logged in; further ones queue.
        unauthenticated_per_address_max: u32 = 20,
        /// Connections that may queue, all addresses together.
        queued_max: usize = 1024,
        /// How long each may queue.
        queue_within: Span = s(30),
        /// Networks whose connections must begin with a header of the PROXY protocol, version 1 or 2, that names the
        /// client: load balancers. Its address is then the one that counts everywhere. No other connection may have one.
        proxy_networks: Vec<Network> = Vec::new(),
        /// Networks whose addresses have no such bounds and whose clients are not held to the paces of `[shaping]`: load
        /// generators, gateways.
        trusted_networks: Vec<Network> = Vec::new(),
        /// Silence after which the kernel asks whether a client's machine is still there; without an answer within about
        /// `acknowledge_within` its session ends. Whole seconds.
        probe_after: Span = s(120),
        /// What may be due to one client; a client whose socket does not take some of it in time is detached.
        outgoing_bytes_max: Size = mib(4),
        /// Messages in one page of an archive; at most 250.
        archive_page_max: u32 = 250,
        /// Archive queries of one session at once; further ones wait, for 5 s at most.
        archive_queries_max: usize = 4,
        /// Sessions that are moved to other nodes a second while this node is drained, unless the drain says otherwise.
        drain_sessions_per_second: u32 = 100,
        /// Threads for sessions and owners, at most 256; 0: half as many as there are cores, at least one.
        threads: usize = 0,
    }
}

section! {
    /// Bounds on a stream that is not bound to a resource yet.
    struct Negotiation["negotiation"] {
        /// Time for each step.
        step: Span = s(30),
        /// Time for all steps together.
        total: Span = s(120),
        /// Elements before authentication.
        elements_max: u32 = 32,
        /// Bytes before authentication.
        bytes_max: Size = kib(32),
        /// Wrong passwords, at least 1; RFC 6120 §6.4.5 asks for 2 to 5.
        wrong_proofs_max: u32 = 3,
        /// How long the client of a stream that is over may take to close its connection, before the server cuts it.
        close: Span = s(5),
    }
}

section! {
    /// What one element may cost before authentication. More ends the stream with `policy-violation`.
    struct LimitsBeforeAuth["limits_before_auth"] {
        /// Bytes of one element, 2 KiB to 1 MiB.
        stanza_bytes_max: Size = kib(8),
        /// Depth of nesting.
        depth_max: usize = 8,
        /// Elements within one element, itself included.
        elements_max: usize = 32,
        /// Attributes of one tag.
        attributes_max: usize = 16,
        /// Namespace declarations within one element.
        namespaces_max: usize = 8,
    }
}

section! {
    /// What one element may cost after authentication.
    struct LimitsAfterAuth["limits_after_auth"] {
        /// Bytes of one stanza, 10,000 (RFC 6120 §13.12) to 1 MiB.
        stanza_bytes_max: Size = kib(256),
        /// Depth of nesting.
        depth_max: usize = 64,
        /// Elements within one stanza, itself included.
        elements_max: usize = 4096,
        /// Attributes of one tag.
        attributes_max: usize = 64,
        /// Namespace declarations within one stanza.
        namespaces_max: usize = 32,
    }
}

section! {
    /// How fast a client may be that is not in one of `trusted_networks`. No stream is ended for it: bytes and stanzas beyond
    /// their pace stay in the socket, what a user asks of others beyond it is refused as `resource-constraint`, to be tried
    /// again later. Each pace allows a burst first. A pace of 0 is no bound.
    struct Shaping["shaping"] {
        /// Bytes that one session may send.
        bytes_per_second: Size = mib(1),
        /// So many at once.
        bytes_burst: Size = mib(8),
        /// Stanzas that one session may send.
        stanzas_per_second: u32 = 500,
        /// So many at once.
        stanzas_burst: u32 = 5000,
        /// Rooms that one user may enter, all sessions on this node together.
        joins_per_minute: u32 = 60,
        /// So many at once.
        joins_burst: u32 = 300,
        /// Subscriptions that one user may request.
        subscriptions_per_minute: u32 = 20,
        /// So many at once.
        subscriptions_burst: u32 = 200,
        /// Users that one user may write to or invite who are not among the last 256.
        new_recipients_per_minute: u32 = 60,
        /// So many at once.
        new_recipients_burst: u32 = 300,
    }
}

section! {
    /// Stream management (XEP-0198): what is acknowledged, and what waits for it.
    struct StreamManagement["stream_management"] {
        /// Stanzas from a client whose outcome is not certain yet; then its socket is not read.
        unsettled_max: usize = 1024,
        /// How long a client's request for an acknowledgement waits for the stanzas before it.
        answer_within: Span = ms(250),
        /// How long an outcome may stay unknown before the stream is dropped, so that the client sends again: 1 s to 10 s.
        settle_within: Span = s(10),
        /// Stanzas to a client that it has not acknowledged; more wait, except for answers to what it asks.
        unacked_max: usize = 2048,
        /// Their bytes.
        unacked_bytes_max: Size = mib(4),
        /// Stanzas after which the client is asked for an acknowledgement at once.
        request_after: usize = 32,
        /// How long the last stanzas of a burst wait until it is asked. A stanza after a pause of that length brings its request.
        request_within: Span = ms(500),
        /// How long the client's answer may take before it counts as gone.
        acknowledge_within: Span = s(60),
        /// How long a session whose client has lost its connection waits to be resumed, on this node or another. Until then it
        /// shows its presence and stays in its rooms. Whole seconds, at most an hour; 0: sessions end with their connections.
        resume_within: Span = s(300),
        /// What may wait on this node for all sessions without a connection. Beyond that those end for which more comes; their
        /// messages wait in the archive.
        detached_bytes_max: Size = mib(256),
    }
}

section! {
    /// The control port of operators: HTTPS with a bearer token.
    struct Control["control"] {
        /// Where it listens. Keep it on the loopback or on a network of operators.
        listen: SocketAddr,
        /// Its certificate.
        certificate: PathBuf = PathBuf::from("control.pem"),
        /// Its key.
        key: PathBuf = PathBuf::from("control-key.pem"),
        /// The CA certificate that `muster ctl` trusts.
        ca: PathBuf = PathBuf::from("ca.pem"),
        /// The file with the token; made at the first start, readable for the owner only.
        token_file: PathBuf = PathBuf::from("data/control.token"),
        /// Whether `/health/live` and `/health/ready` answer without the token.
        health_open: bool = true,
        /// Whether `/metrics` answers without the token.
        metrics_open: bool = false,
        /// Whether there is the console page, at `/console`, and signing in to it.
        console: bool = true,
        /// Connections at once.
        connections_max: usize = 64,
        /// Bytes of a request's body.
        body_bytes_max: Size = kib(16),
        /// How long the head of a request may take.
        request_timeout: Span = s(5),
    }
}

section! {
    /// The log, the archive and the state store.
    struct Storage["storage"] {
        /// The engine of the state store.
        state_engine: Engine = Engine::Sled,
        /// Cache of the state stores, all partitions together.
        state_cache_bytes: Size = mib(128),
        /// Cache of the archive.
        archive_cache_bytes: Size = mib(64),
        /// Length of one file of the log, 8 KiB to 1 GiB.
        log_segment_bytes: Size = mib(64),
        /// What may wait to be written to the log; then writers wait.
        log_queue_bytes_max: Size = mib(32),
        /// What is written to the log with one fdatasync.
        log_batch_bytes_max: Size = mib(4),
        /// Least time from the start of one fdatasync of the log to that of the next; what comes in between shares the next.
        /// What comes after a time of rest is never held up. At most 100 ms; 0: as fast as the disk is.
        log_sync_interval: Span = ms(1),
        /// Longest that entries which no commit waits for wait for others to share their fdatasync. At most 100 ms; 0: they don't
        /// wait.
        log_share_within: Span = ms(25),
        /// What of the log is kept in memory.
        log_cache_bytes_max: Size = mib(64),
        /// What the log leaves free on its disk for the other stores. With less than that free, nothing new is taken.
        disk_free_bytes_min: Size = mib(128),
    }
}

section! {
    /// Replication. The defaults are measured; the times must be the same on all nodes.
    struct Raft["raft"] {
        /// How often a leader tells its followers that it lives; it does so at multiples of 140 ms, at the next one.
        heartbeat: Span = ms(250),
        /// Shortest wait for a sign of the leader before an election; at least three heartbeats, as they leave.
        election_min: Span = ms(900),
        /// Longest wait.
        election_max: Span = ms(1300),
        /// How long the answer to entries may take.
        append_timeout: Span = s(5),
        /// How long the answer to a vote or a handover may take.
        vote_timeout: Span = s(1),
        /// Longest entry; at least 2112 KiB, for a full batch.
        payload_bytes_max: Size = kib(2112),
        /// What may wait or be under way in one group; further entries are refused.
        submitted_bytes_max: Size = mib(32),
        /// Entries that may wait for one group's leader.
        submissions_max: usize = 8192,
        /// What one message to a follower carries, unless one entry is longer.
        append_bytes_max: Size = mib(1),
        /// Reads that may wait for one group's next barrier.
        reads_max: usize = 65_536,
        /// How long a read waits for a quorum.
        read_timeout: Span = s(3),
        /// Log written since the last snapshot that brings the next.
        snapshot_bytes: Size = mib(256),
        /// Age of the last snapshot that brings the next.
        snapshot_interval: Span = s(15 * 60),
        /// What the log keeps, for each partition, for nodes that are away; one that lags by more is sent a snapshot when it
        /// comes back.
        log_keep_bytes: Size = mib(512),
        /// What the node sends of snapshots and archives in a second, to all nodes together.
        snapshot_bytes_per_second: Size = mib(64),
        /// Snapshots that the node sends at once, and that it receives at once.
        snapshot_transfers_max: usize = 2,
        /// How often the node looks after its groups.
        upkeep_interval: Span = ms(500),
        /// Whether leaders move to their preferred nodes, so that they are spread.
        spread_leaders: bool = true,
        /// How long a leader leads before it may hand over to the preferred one.
        spread_after: Span = s(5),
        /// How long after a handover the next of the same group may come.
        spread_again_after: Span = s(30),
        /// How long the probe of a node that may have crashed may take.
        crash_probe: Span = ms(50),
        /// How much later each further survivor starts its election.
        crash_rank_delay: Span = ms(60),
        /// How often a survivor tries again to be elected.
        crash_retry: Span = ms(20),
        /// When a survivor leaves it to the timers.
        crash_give_up: Span = s(1),
        /// Threads of replication and of the connections between nodes, at most 256; 0: half as many as there are cores, at
        /// least one.
        threads: usize = 0,
    }
}

section! {
    /// What the process says about itself, on its standard error. Never passwords, tokens, keys or messages.
    struct Log["log"] {
        /// What is said: `error`, `warn`, `info`, `debug`, `trace`, also by module as in `info,cluster=debug`. The
        /// environment's MUSTER_LOG goes first.
        filter: String = "info,openraft=error,actix_server=warn".to_owned(),
        /// Whether lines begin with the time; off where the journal adds its own.
        time: bool = true,
    }
}
