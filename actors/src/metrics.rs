//! What a node counts, in Prometheus' text form.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters and gauges of a node.
pub struct Metrics {
    registry: Registry,
    /// Client connections accepted.
    pub connections: Counter,
    /// Client connections closed at once because too many queue.
    pub connections_refused: Counter,
    /// Bound sessions.
    pub sessions: Gauge,
    /// Sessions ended because their client didn't keep up.
    pub slow_sessions: Counter,
    /// Stanzas received from clients.
    pub stanzas_in: Counter,
    /// Stanzas sent to clients.
    pub stanzas_out: Counter,
    /// Requests refused because a link was full.
    pub links_full: Counter,
    /// Batches put into the logs.
    pub batches: Counter,
    /// Proposals in them.
    pub proposals: Counter,
    /// Events of rooms fanned out.
    pub room_events: Counter,
    /// Recipients of them.
    pub room_deliveries: Counter,
    /// Times this node began to own a partition.
    pub reigns: Counter,
    /// Pieces of the partitions' work given up because a mailbox was full.
    pub mailboxes_full: Counter,
    /// Frames carried between two other nodes.
    pub frames_relayed: Counter,
    /// Rooms, users, owners and links that panicked and were replaced.
    pub panics: Counter,
    certificates: Family<[(&'static str, &'static str); 1], Gauge>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("muster");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let connections = counter("client_connections", "Client connections accepted");
        let connections_refused = counter(
            "client_connections_refused",
            "Client connections refused, too many queue",
        );
        let slow_sessions = counter(
            "slow_sessions",
            "Sessions ended because their client did not keep up",
        );
        let stanzas_in = counter("stanzas_received", "Stanzas received from clients");
        let stanzas_out = counter("stanzas_sent", "Stanzas sent to clients");
        let links_full = counter("links_full", "Requests refused because a link was full");
        let batches = counter("batches", "Batches put into the logs");
        let proposals = counter("proposals", "Proposals put into the logs");
        let room_events = counter("room_events", "Room events fanned out");
        let room_deliveries = counter("room_deliveries", "Recipients of room events");
        let reigns = counter("reigns", "Times this node began to own a partition");
        let frames_relayed = counter(
            "frames_relayed",
            "Frames carried between two nodes that do not reach each other",
        );
        let panics = counter(
            "panics",
            "Rooms, users, owners and links that panicked and were replaced",
        );
        let mailboxes_full = counter("mailboxes_full", "Work given up because a mailbox was full");
        let sessions = Gauge::default();
        registry.register("sessions", "Bound sessions", sessions.clone());
        let certificates = Family::default();
        registry.register_with_unit(
            "certificate_not_after_timestamp",
            "When a certificate ends, since 1970",
            Unit::Seconds,
            certificates.clone(),
        );
        Metrics {
            registry,
            connections,
            connections_refused,
            sessions,
            slow_sessions,
            stanzas_in,
            stanzas_out,
            links_full,
            batches,
            proposals,
            room_events,
            room_deliveries,
            reigns,
            mailboxes_full,
            frames_relayed,
            panics,
            certificates,
        }
    }
}

impl Metrics {
    /// When one of the node's certificates ends, in seconds since 1970.
    pub fn certificate_ends(&self, what: &'static str, ends: i64) {
        let label = [("certificate", what)];
        self.certificates.get_or_create(&label).set(ends);
    }

    /// Prometheus' text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}
