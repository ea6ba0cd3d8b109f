//! What a node counts, in Prometheus' text form.

use std::fmt;
use std::time::Duration;

use cluster::raft::TransferMetrics;
use cluster::version::{BUILD_NAME, FIRST};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use storage::log::LogMetrics;
use storage::process::ProcessUsage;

use crate::history::History;
use crate::latencies::Latencies;

/// The names of all metrics begin with it.
const PREFIX: &str = "muster";

macro_rules! metrics {
    ($($field:ident: $name:literal, $help:literal;)*) => {
        /// Counters and gauges of a node.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: Counter,)*
            /// Bound sessions.
            pub sessions: Gauge,
            /// From the submission of a batch by its owner to its commit and the end of its application here.
            commits: Histogram,
            /// The same, in finer steps.
            pub commit_latencies: Latencies,
            /// What was counted lately.
            pub history: History,
            certificates: Family<[(&'static str, &'static str); 1], Gauge>,
            versions: WrittenVersions,
        }

        impl Default for Metrics {
            fn default() -> Metrics {
                let mut registry = Registry::with_prefix(PREFIX);
                let version = Info::new([("version", BUILD_NAME)]);
                registry.register("build", "The program", version);
                $(
                    let $field = Counter::default();
                    registry.register($name, $help, $field.clone());
                )*
                Metrics {
                    $($field,)*
                    sessions: sessions(&mut registry),
                    commits: commits(&mut registry),
                    commit_latencies: Latencies::default(),
                    history: History::default(),
                    certificates: certificates(&mut registry),
                    versions: WrittenVersions::new(&mut registry),
                    registry,
                }
            }
        }
    };
}

metrics! {
    connections: "client_connections", "Client connections accepted";
    connections_refused: "client_connections_refused", "Client connections refused, too many queue";
    proxy_headers_bad: "proxy_headers_bad", "Connections closed because their PROXY header was missing or bad";
    wrong_passwords: "wrong_passwords", "Wrong passwords of clients";
    registrations_refused: "registrations_refused", "Accounts refused because their address made too many";
    pauses: "client_pauses", "Times a client was not read because it sent too fast";
    too_fast: "requests_too_fast", "Joins, subscriptions and first messages refused because a user made too many";
    logins: "logins", "Sessions that clients began by logging in";
    slow_sessions: "slow_sessions", "Sessions ended because their client did not keep up";
    sessions_detached: "sessions_detached", "Times a session lost its connection and waited to be resumed";
    sessions_resumed: "sessions_resumed", "Sessions resumed over a new connection";
    sessions_adopted: "sessions_adopted", "Sessions taken over from other nodes";
    resumptions_refused: "resumptions_refused", "Requests to resume a session that is not there";
    stanzas_in: "stanzas_received", "Stanzas received from clients";
    stanzas_out: "stanzas_sent", "Stanzas sent to clients";
    links_full: "links_full", "Requests refused because a link was full";
    batches: "batches", "Batches put into the logs";
    proposals: "proposals", "Proposals put into the logs";
    room_events: "room_events", "Room events fanned out";
    room_deliveries: "room_deliveries", "Recipients of room events";
    reigns: "reigns", "Times this node began to own a partition";
    mailboxes_full: "mailboxes_full", "Work given up because a mailbox was full";
    frames_relayed: "frames_relayed", "Frames carried between two nodes that do not reach each other";
    panics: "panics", "Rooms, users, owners and links that panicked and were replaced";
}

/// A counter for each version.
type ByVersion = Family<[(&'static str, u32); 1], Counter>;

/// As of which versions of the pool this node has written.
struct WrittenVersions {
    entries: ByVersion,
    frames: ByVersion,
    #[cfg(feature = "next-version")]
    words: Histogram,
}

impl WrittenVersions {
    fn new(registry: &mut Registry) -> WrittenVersions {
        let (entries, frames) = (ByVersion::default(), ByVersion::default());
        registry.register(
            "version_batches",
            "Batches put into the logs, by the version as of which they are written",
            entries.clone(),
        );
        registry.register(
            "version_frames",
            "Frames from owners to nodes, by the version as of which they are written",
            frames.clone(),
        );
        for written in [&entries, &frames] {
            // From the start on, so that a rate begins at nought.
            drop(written.get_or_create(&[("version", u32::from(FIRST))]));
        }
        WrittenVersions {
            entries,
            frames,
            #[cfg(feature = "next-version")]
            words: words(registry),
        }
    }
}

#[cfg(feature = "next-version")]
fn words(registry: &mut Registry) -> Histogram {
    let words = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
    registry.register_with_unit(
        "word",
        "From the word of another node's owner to its arrival here, by the clocks of both",
        Unit::Seconds,
        words.clone(),
    );
    words
}

fn sessions(registry: &mut Registry) -> Gauge {
    let sessions = Gauge::default();
    registry.register("sessions", "Bound sessions", sessions.clone());
    sessions
}

fn commits(registry: &mut Registry) -> Histogram {
    // 0.5 ms to 4 s: a fast disk's sync, and the longest that a batch waits for its quorum.
    let commits = Histogram::new(exponential_buckets(0.0005, 2.0, 14));
    registry.register_with_unit(
        "commit",
        "From a batch's submission to its commit, at its owner",
        Unit::Seconds,
        commits.clone(),
    );
    commits
}

fn certificates(registry: &mut Registry) -> Family<[(&'static str, &'static str); 1], Gauge> {
    let certificates = Family::default();
    registry.register_with_unit(
        "certificate_not_after_timestamp",
        "When a certificate ends, since 1970",
        Unit::Seconds,
        certificates.clone(),
    );
    certificates
}

/// What is not counted but looked at when somebody asks.
#[derive(Debug, Clone)]
pub struct Readings {
    /// The log.
    pub log: LogMetrics,
    /// Snapshots between nodes.
    pub transfers: TransferMetrics,
    /// Partitions that this node owns, as it knows.
    pub partitions_owned: usize,
    /// Other members that this node has a connection to.
    pub members_connected: usize,
    /// Whether this node is in touch with a majority of the pool.
    pub quorum: bool,
    /// How long the process has run, in seconds.
    pub uptime_seconds: u64,
    /// What the process has used, where the system says so.
    pub usage: Option<ProcessUsage>,
    /// The versions of the pool and its members.
    pub versions: VersionReadings,
}

/// The versions of the pool and its members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionReadings {
    /// What the pool is at.
    pub pool: u16,
    /// Partitions with a replica here whose log has not come to it yet.
    pub partitions_behind: usize,
    /// The members whose builds are known: id, build, lowest and highest supported version.
    pub members: Vec<(u64, String, u16, u16)>,
}

impl Metrics {
    /// When one of the node's certificates ends, in seconds since 1970.
    pub fn certificate_ends(&self, what: &'static str, ends: i64) {
        let label = [("certificate", what)];
        self.certificates.get_or_create(&label).set(ends);
    }

    /// A batch was committed so long after its submission.
    pub fn committed(&self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
        self.commit_latencies.observe(took);
    }

    /// A batch is put into the log.
    pub fn entries_of(&self, version: u32) {
        let entries = &self.versions.entries;
        entries.get_or_create(&[("version", version)]).inc();
    }

    /// Frames leave for a node.
    pub fn frames_of(&self, version: u16, count: usize) {
        let label = [("version", u32::from(version))];
        let frames = self.versions.frames.get_or_create(&label);
        frames.inc_by(count as u64);
    }

    /// A word of another node's owner has arrived, which has said when it was said, in ms since 1970.
    pub fn heard(&self, said_ms: Option<u64>) {
        #[cfg(feature = "next-version")]
        if let Some(said_ms) = said_ms {
            let age = crate::runtime::now_ms().saturating_sub(said_ms);
            self.versions.words.observe(age as f64 / 1e3);
        }
        let _ = said_ms;
    }

    /// Prometheus' text form, with what was looked at just now.
    pub fn text(&self, readings: &Readings) -> String {
        let mut text = String::new();
        if self.write(&mut text, readings).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }

    fn write(&self, out: &mut impl fmt::Write, readings: &Readings) -> fmt::Result {
        encode_registry(out, &self.registry)?;
        encode_registry(out, &readings.registry())?;
        encode_eof(out)
    }
}

impl Readings {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        self.gauges(&mut registry);
        self.counters(&mut registry);
        self.transfers(&mut registry);
        self.usage(&mut registry);
        self.versions(&mut registry);
        registry
    }

    fn gauges(&self, registry: &mut Registry) {
        let log = &self.log;
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge),
                None => registry.register(name, help, gauge),
            }
        };
        gauge(
            "disk_free",
            "Free on the file system of the log",
            Some(Unit::Bytes),
            log.disk_free_bytes,
        );
        gauge(
            "log_segments",
            "Segments of the log in use",
            None,
            log.segments as u64,
        );
        gauge(
            "log_live",
            "Entries of the log that are still wanted",
            Some(Unit::Bytes),
            log.live_bytes,
        );
        gauge(
            "log_queued",
            "What waits to be written to the log",
            Some(Unit::Bytes),
            log.queued_bytes as u64,
        );
        gauge(
            "log_full",
            "1 while the log takes no entries because its disk is full",
            None,
            u64::from(log.full),
        );
        gauge(
            "partitions_owned",
            "Partitions that this node owns",
            None,
            self.partitions_owned as u64,
        );
        gauge(
            "members_connected",
            "Other nodes that this node has a connection to",
            None,
            self.members_connected as u64,
        );
        gauge(
            "quorum",
            "1 while this node is in touch with a majority of the pool",
            None,
            u64::from(self.quorum),
        );
        gauge(
            "uptime",
            "How long the process has run",
            Some(Unit::Seconds),
            self.uptime_seconds,
        );
    }

    /// What the process has used; nothing where the system does not say.
    fn usage(&self, registry: &mut Registry) {
        let Some(usage) = self.usage else {
            return;
        };
        let resident = i64::try_from(usage.resident_bytes).unwrap_or(i64::MAX);
        registry.register_with_unit(
            "process_resident",
            "Memory of the process",
            Unit::Bytes,
            ConstGauge::new(resident),
        );
        registry.register_with_unit(
            "process_cpu",
            "Time that the process has spent on processors",
            Unit::Seconds,
            ConstCounter::new(usage.cpu.as_secs_f64()),
        );
    }

    fn versions(&self, registry: &mut Registry) {
        let VersionReadings {
            pool,
            partitions_behind,
            members,
        } = &self.versions;
        let behind = i64::try_from(*partitions_behind).unwrap_or(i64::MAX);
        for (name, help, value) in [
            (
                "pool_version",
                "The version that the pool is at",
                i64::from(*pool),
            ),
            (
                "partitions_behind_version",
                "Partitions with a replica here that have not come to the pool's version yet",
                behind,
            ),
        ] {
            registry.register(name, help, ConstGauge::new(value));
        }
        let builds: Family<[(&'static str, String); 4], Gauge> = Family::default();
        for (node, build, min, max) in members {
            let labels = [
                ("node", node.to_string()),
                ("version", build.clone()),
                ("min", min.to_string()),
                ("max", max.to_string()),
            ];
            builds.get_or_create(&labels).set(1);
        }
        registry.register(
            "member_build",
            "1 for the build of each member's last start, and the pool's versions that it supports",
            builds,
        );
    }

    /// Snapshots between nodes: those under way, and what came of the others.
    fn transfers(&self, registry: &mut Registry) {
        let transfers = &self.transfers;
        for (name, help, count) in [
            (
                "snapshots_sending",
                "Snapshots that this node is sending to others",
                transfers.sending,
            ),
            (
                "snapshots_receiving",
                "Snapshots that this node is being sent",
                transfers.receiving,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let mut counter = |name: &str, help: &str, value: u64| {
            registry.register(name, help, ConstCounter::new(value));
        };
        counter(
            "snapshots_installed",
            "Snapshots that this node was sent and has taken over",
            transfers.installed,
        );
        counter(
            "snapshots_failed",
            "Transfers of snapshots to this node that came to no end",
            transfers.failed,
        );
        for (name, help, bytes) in [
            (
                "snapshots_sent",
                "Sent to other nodes of snapshots and archives",
                transfers.bytes_sent,
            ),
            (
                "snapshots_received",
                "Received from other nodes of snapshots and archives",
                transfers.bytes_received,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, ConstCounter::new(bytes));
        }
    }

    fn counters(&self, registry: &mut Registry) {
        let log = &self.log;
        let mut counter = |name: &str, help: &str, value: u64| {
            registry.register(name, help, ConstCounter::new(value));
        };
        counter("log_syncs", "Writes of the log with their sync", log.syncs);
        counter("log_entries", "Entries written to the log", log.entries);
        let written = ConstCounter::new(log.bytes);
        registry.register_with_unit("log_written", "Written to the log", Unit::Bytes, written);
        let seconds = ConstCounter::new(log.sync_micros as f64 / 1e6);
        registry.register_with_unit(
            "log_sync",
            "Time spent in writes and syncs of the log",
            Unit::Seconds,
            seconds,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenMetrics 1.0: each family is described before its samples, counters end in `_total`, `# EOF` comes last.
    #[test]
    fn the_text_is_openmetrics() {
        let metrics = Metrics::default();
        metrics.stanzas_in.inc_by(3);
        metrics.committed(Duration::from_millis(3));
        let readings = Readings {
            log: LogMetrics {
                disk_free_bytes: 5 << 30,
                sync_micros: 1_500_000,
                full: true,
                ..LogMetrics::default()
            },
            transfers: TransferMetrics {
                bytes_sent: 7,
                receiving: 2,
                ..TransferMetrics::default()
            },
            partitions_owned: 5,
            members_connected: 2,
            quorum: true,
            uptime_seconds: 60,
            usage: Some(ProcessUsage {
                cpu: Duration::from_millis(2500),
                resident_bytes: 1 << 20,
            }),
            versions: VersionReadings {
                pool: 2,
                partitions_behind: 3,
                members: vec![(1, "0.1".to_owned(), 1, 2)],
            },
        };
        metrics.entries_of(1);
        metrics.frames_of(2, 4);
        let text = metrics.text(&readings);
        let lines: Vec<&str> = text.lines().collect();
        for expected in [
            "muster_stanzas_received_total 3",
            "# UNIT muster_disk_free_bytes bytes",
            "muster_disk_free_bytes 5368709120",
            "muster_log_full 1",
            "muster_snapshots_receiving 2",
            "muster_snapshots_sent_bytes_total 7",
            "muster_log_sync_seconds_total 1.5",
            "muster_partitions_owned 5",
            "muster_members_connected 2",
            "muster_quorum 1",
            "muster_process_resident_bytes 1048576",
            "muster_process_cpu_seconds_total 2.5",
            "muster_pool_version 2",
            "muster_partitions_behind_version 3",
            "muster_member_build{node=\"1\",version=\"0.1\",min=\"1\",max=\"2\"} 1",
            "muster_version_batches_total{version=\"1\"} 1",
            "muster_version_frames_total{version=\"2\"} 4",
            "# TYPE muster_commit_seconds histogram",
            "muster_commit_seconds_count 1",
            "muster_commit_seconds_bucket{le=\"0.004\"} 1",
            &*format!("muster_build_info{{version=\"{BUILD_NAME}\"}} 1"),
        ] {
            assert!(lines.contains(&expected), "{expected} is missing:\n{text}");
        }
        assert_eq!(lines.iter().filter(|line| **line == "# EOF").count(), 1);
        assert_eq!(lines.last(), Some(&"# EOF"));
        let mut described = "";
        for line in lines {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                described = rest.split(' ').next().unwrap_or_default();
                assert!(rest.len() > described.len() + 1, "no help: {line}");
            } else if !line.starts_with('#') {
                assert!(
                    line.starts_with(described),
                    "{line} stands under {described}"
                );
            }
        }
    }
}
