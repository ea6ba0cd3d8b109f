//! Raft's settings: every time and size with its default, checked before anything starts.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::runtime::Handle;

use crate::link::batcher::BATCH_BYTES_MAX;

use super::error::GroupsError;
use super::failure::OnFailure;
use super::runtime;

/// What an entry must hold: a full batch of an owner, with what stands around its commands.
pub const PAYLOAD_BYTES_LEAST: usize = BATCH_BYTES_MAX as usize + (64 << 10);

/// The threads on which a node's groups run.
#[derive(Clone, Debug)]
pub enum GroupThreads {
    /// So many of their own. [`super::Groups::halt`] then stops everything at once, as a crash would.
    Own(usize),
    /// Those of this runtime, which must be a multi-thread one and never an actor's: best the transport's, for a message
    /// between nodes then wakes one thread instead of two.
    Of(Handle),
}

/// How the groups of a node run.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// How often a leader tells its followers that it lives. Default 250 ms.
    pub heartbeat: Duration,
    /// Shortest wait for a sign of the leader before an election, behind `election_max` in which its lease ends. Default 900 ms.
    pub election_min: Duration,
    /// Longest wait for a sign of the leader before an election; as long is its lease. Default 1.3 s.
    pub election_max: Duration,
    /// How long the answer to entries may take. Default 5 s: a slow disk must not make a leader send them again.
    pub append_timeout: Duration,
    /// How long the answer to a vote or a handover may take. Default 1 s.
    pub vote_timeout: Duration,
    /// Longest payload of one entry; default, and least where owners write: [`PAYLOAD_BYTES_LEAST`]. It must stay below a quarter of the log's `segment_bytes`: what the log
    /// refuses stops the group.
    pub payload_bytes_max: usize,
    /// Most payload that may wait or be under way in one group; further submissions are refused. Default 32 MiB.
    pub submitted_bytes_max: usize,
    /// Most submissions that may wait for one group's leader task. Default 8,192.
    pub submissions_max: usize,
    /// Most payload in one message to a follower, unless one entry is longer. Default 1 MiB.
    pub append_bytes_max: usize,
    /// Most reads that may wait for one group's next barrier. Default 65,536.
    pub reads_max: usize,
    /// How long a read barrier waits for a quorum. Default 3 s.
    pub read_timeout: Duration,
    /// Log written since the last snapshot that brings the next. Default 256 MiB.
    pub snapshot_bytes: u64,
    /// Age of the last snapshot that brings the next, if anything was applied since. Default 15 min.
    pub snapshot_interval: Duration,
    /// What the log of one group keeps for members that lag: who lags by more is sent a snapshot. Default 512 MiB.
    pub log_keep_bytes: u64,
    /// Bytes of snapshots and archives that the node sends to others in a second, all transfers together. Default 64 MiB.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots that the node sends at once, and that it receives at once; further ones wait. Default 2.
    pub snapshot_transfers_max: usize,
    /// How often the node looks after its groups: snapshots, purges, spreading leaders. Default 500 ms.
    pub upkeep_interval: Duration,
    /// Whether leaders move to their preferred nodes, so that they are spread. Default yes.
    pub spread_leaders: bool,
    /// How long a leader leads before it may hand over to the preferred one. Default 5 s.
    pub spread_after: Duration,
    /// How long after a handover the next of the same group may come. Default 30 s.
    pub spread_again_after: Duration,
    /// How long the probe of a node that may have crashed may take. Default 50 ms.
    pub crash_probe: Duration,
    /// How much later each further rank of the survivors starts its election. Default 60 ms.
    pub crash_rank_delay: Duration,
    /// How often a survivor tries again to be elected. Default 20 ms.
    pub crash_retry: Duration,
    /// When a survivor leaves it to the timers. Default 1 s.
    pub crash_give_up: Duration,
    /// On which threads the groups run. Default: two of their own.
    pub threads: GroupThreads,
    /// What is done when a group fails on this node. Default: log and abort the process.
    pub on_failure: OnFailure,
}

impl Default for RaftSettings {
    fn default() -> RaftSettings {
        RaftSettings {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(900),
            election_max: Duration::from_millis(1300),
            append_timeout: Duration::from_secs(5),
            vote_timeout: Duration::from_secs(1),
            // A full batch of the owner's with what stands around its commands.
            payload_bytes_max: PAYLOAD_BYTES_LEAST,
            submitted_bytes_max: 32 << 20,
            submissions_max: 8192,
            append_bytes_max: 1 << 20,
            reads_max: 65_536,
            read_timeout: Duration::from_secs(3),
            snapshot_bytes: 256 << 20,
            snapshot_interval: Duration::from_secs(15 * 60),
            log_keep_bytes: 512 << 20,
            snapshot_bytes_per_second: 64 << 20,
            snapshot_transfers_max: 2,
            upkeep_interval: Duration::from_millis(500),
            spread_leaders: true,
            spread_after: Duration::from_secs(5),
            spread_again_after: Duration::from_secs(30),
            crash_probe: Duration::from_millis(50),
            crash_rank_delay: Duration::from_millis(60),
            crash_retry: Duration::from_millis(20),
            crash_give_up: Duration::from_secs(1),
            threads: GroupThreads::Own(2),
            on_failure: OnFailure::default(),
        }
    }
}

/// Entries of one message to a follower; the bytes are limited apart.
const APPEND_ENTRIES_MAX: u64 = 1024;

/// Encoded, the largest message must still fit the lane: its entries' bytes, or one entry that is longer, and for each
/// entry its id and kind.
const APPEND_OVERHEAD: usize = APPEND_ENTRIES_MAX as usize * 64 + 4096;

impl RaftSettings {
    /// The most that a message to a follower takes on the wire.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.append_bytes_max.max(self.payload_bytes_max) + APPEND_OVERHEAD
    }

    /// openraft's configuration, if the settings make sense.
    pub(crate) fn openraft(&self) -> Result<Config, GroupsError> {
        self.check()
            .map_err(|reason| GroupsError::Settings(reason.to_owned()))?;
        let config = Config {
            cluster_name: "muster".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            // A follower that acknowledged entries within a heartbeat's time needs no heartbeat.
            heartbeat_min_interval: Some(millis(self.heartbeat)),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            max_payload_entries: APPEND_ENTRIES_MAX,
            // Snapshots and purges are ours to decide: openraft purges without regard to followers that lag.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: u64::MAX,
            api_channel_size: Some(8192),
            enable_pre_vote: Some(true),
            // Current reads and owners rely on an election after every start.
            enable_leader_restore: Some(false),
            // A quarantined replica comes back with less log than it acknowledged. It gives no vote until it has
            // caught up, which is what makes sending it everything anew safe.
            allow_log_reversion: Some(true),
            backoff: "20ms 40ms 80ms 160ms ...500ms".to_owned(),
            ..Config::default()
        };
        config
            .validate()
            .map_err(|error| GroupsError::Settings(error.to_string()))
    }

    /// Three heartbeats, as far apart as they leave: a follower that has heard none for so long may doubt its leader, not before.
    pub fn silence_least(&self) -> Duration {
        runtime::on_the_grid(self.heartbeat) * 3
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.heartbeat.is_zero()
            || self.election_min < self.silence_least()
            || self.election_max <= self.election_min
        {
            return Err(
                "elections must start between three heartbeats and a longer, different time",
            );
        }
        if self.payload_bytes_max == 0 || self.submitted_bytes_max < self.payload_bytes_max {
            return Err("submitted_bytes_max must hold at least one payload of payload_bytes_max");
        }
        if self.append_bytes_max == 0
            || self.submissions_max == 0
            || self.reads_max == 0
            || matches!(self.threads, GroupThreads::Own(0))
        {
            return Err("sizes and the number of threads must be positive");
        }
        if self.snapshot_bytes_per_second == 0 || self.snapshot_transfers_max == 0 {
            return Err("snapshot_bytes_per_second and snapshot_transfers_max must be positive");
        }
        if self.upkeep_interval.is_zero() || self.crash_retry.is_zero() {
            return Err("upkeep_interval and crash_retry must be positive");
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_nonsense_is_refused() {
        let config = RaftSettings::default().openraft().unwrap();
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(
            (config.enable_pre_vote, config.enable_leader_restore),
            (Some(true), Some(false))
        );
        let check = |change: fn(&mut RaftSettings)| {
            let mut settings = RaftSettings::default();
            change(&mut settings);
            assert!(matches!(settings.openraft(), Err(GroupsError::Settings(_))));
        };
        check(|s| s.election_min = s.heartbeat);
        // They leave every 420 ms.
        check(|s| s.heartbeat = Duration::from_millis(290));
        check(|s| s.election_max = s.election_min);
        check(|s| s.submitted_bytes_max = 1);
        check(|s| s.threads = GroupThreads::Own(0));
        check(|s| s.crash_retry = Duration::ZERO);
        check(|s| s.snapshot_bytes_per_second = 0);
        check(|s| s.snapshot_transfers_max = 0);
    }

    #[test]
    fn messages_fit_the_raft_lane() {
        let lane = crate::transport::TransportLimits::default().raft.body_max;
        assert!(RaftSettings::default().message_bytes_max() <= lane);
    }
}
