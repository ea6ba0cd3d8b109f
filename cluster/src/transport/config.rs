//! What the transport is started with: who we are, where we listen, and every limit with its default.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::node_id::{Incarnation, NodeId, PoolId};
use crate::transport::error::TransportError;
use crate::transport::frame::{HEADER_BYTES, Lane};
use crate::transport::tls::ClusterTls;
use crate::version::VersionRange;

/// All that [`Transport::start`](crate::transport::Transport::start) needs.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Our own id; the certificate must carry it.
    pub node: NodeId,
    /// The pool we belong to; the certificate must carry it.
    pub pool_id: PoolId,
    /// This process life, or zero while its start entry is not yet committed.
    pub incarnation: Incarnation,
    /// Where other nodes reach us; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The pool's CA, our certificate chain and our key.
    pub tls: ClusterTls,
    /// The versions we speak.
    pub protocol: VersionRange,
    /// Budgets and times.
    pub limits: TransportLimits,
    /// Runtimes of those whom the ROUTE lane's frames are for, spread by the peer's id: a frame that comes in on the thread
    /// that works on it wakes no other one. None: all lanes are on the runtime of the start.
    pub route_runtimes: Vec<Handle>,
}

/// Every budget and time of the transport.
#[derive(Clone, Debug)]
pub struct TransportLimits {
    /// How long a TCP connection may take to open. Default 2 s.
    pub connect_timeout: Duration,
    /// How long TLS and hello may take together. Default 3 s.
    pub handshake_timeout: Duration,
    /// First pause after a failed connection; doubles from there, with jitter. Default 20 ms.
    pub backoff_min: Duration,
    /// Longest pause between two attempts. Default 1 s.
    pub backoff_max: Duration,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged. Default 5 s.
    pub user_timeout: Duration,
    /// How long a connection may flush what is queued when it is closed on purpose. Default 500 ms.
    pub linger: Duration,
    /// Incoming handshakes at once; further connections wait in the listen queue. Default 256.
    pub handshakes_max: usize,
    /// Calls in flight per peer and lane. Default 4,096.
    pub calls_max: usize,
    /// Raft's lane. Default: bodies to 8 MiB, queue 16 MiB.
    pub raft: LaneLimits,
    /// The links' lane. Default: bodies to 4 MiB, queue 16 MiB.
    pub route: LaneLimits,
    /// The lane of snapshots and archives. Default: bodies to 2 MiB, queue 4 MiB.
    pub bulk: LaneLimits,
    /// Gossip's lane. Default: bodies to 64 KiB, queue 256 KiB; pings every 500 ms, dead after 3 s.
    pub gossip: LaneLimits,
}

/// The limits of one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneLimits {
    /// Largest body in bytes; a longer one is refused unread.
    pub body_max: usize,
    /// Bytes that may be queued per connection.
    pub queue_bytes: usize,
    /// How long the opener waits without reading anything before it pings.
    pub ping_interval: Duration,
    /// How long without a sign of life before the connection counts as dead.
    pub idle_timeout: Duration,
}

const MIB: usize = 1024 * 1024;

impl Default for TransportLimits {
    fn default() -> TransportLimits {
        let lane = |body_max, queue_bytes| LaneLimits {
            body_max,
            queue_bytes,
            ping_interval: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(6),
        };
        TransportLimits {
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            user_timeout: Duration::from_secs(5),
            linger: Duration::from_millis(500),
            handshakes_max: 256,
            calls_max: 4096,
            raft: lane(8 * MIB, 16 * MIB),
            route: lane(4 * MIB, 16 * MIB),
            bulk: lane(2 * MIB, 4 * MIB),
            gossip: LaneLimits {
                body_max: MIB / 16,
                queue_bytes: MIB / 4,
                ping_interval: Duration::from_millis(500),
                idle_timeout: Duration::from_secs(3),
            },
        }
    }
}

impl TransportLimits {
    /// The limits of `lane`.
    pub fn lane(&self, lane: Lane) -> &LaneLimits {
        match lane {
            Lane::Raft => &self.raft,
            Lane::Route => &self.route,
            Lane::Bulk => &self.bulk,
            Lane::Gossip => &self.gossip,
        }
    }

    pub(crate) fn check(&self) -> Result<(), TransportError> {
        if self.handshakes_max == 0 || self.calls_max == 0 {
            return Err(TransportError::Limits(
                "handshakes_max and calls_max must be at least 1",
            ));
        }
        if self.backoff_min.is_zero() || self.backoff_max < self.backoff_min {
            return Err(TransportError::Limits(
                "backoff must be above zero and its maximum not below its minimum",
            ));
        }
        for lane in Lane::ALL {
            let limits = self.lane(lane);
            if limits.body_max == 0 || u32::try_from(limits.body_max).is_err() {
                return Err(TransportError::Limits("body_max must be 1 byte to 4 GiB"));
            }
            if limits.queue_bytes < limits.body_max + HEADER_BYTES {
                return Err(TransportError::Limits(
                    "queue_bytes must hold at least one frame of body_max",
                ));
            }
            if limits.ping_interval.is_zero() || limits.idle_timeout < limits.ping_interval * 2 {
                return Err(TransportError::Limits(
                    "idle_timeout must be at least twice a ping_interval above zero",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_consistent_and_nonsense_is_refused() {
        assert!(TransportLimits::default().check().is_ok());
        let check = |change: fn(&mut TransportLimits)| {
            let mut limits = TransportLimits::default();
            change(&mut limits);
            assert!(matches!(limits.check(), Err(TransportError::Limits(_))));
        };
        check(|l| l.calls_max = 0);
        check(|l| l.backoff_min = Duration::ZERO);
        check(|l| l.backoff_max = Duration::from_millis(1));
        check(|l| l.route.body_max = 0);
        check(|l| l.route.queue_bytes = l.route.body_max);
        check(|l| l.gossip.idle_timeout = Duration::from_millis(600));
    }
}
