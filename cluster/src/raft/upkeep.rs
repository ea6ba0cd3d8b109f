//! What a node does for its groups every half second: snapshots, purges, spreading leaders, ending quarantines.
//!
//! The log is purged only up to what is in a snapshot here *and* is needed by no member, so that a member that was away for a
//! while is sent entries. Who lags by more than [`RaftSettings::log_keep_bytes`] holds nothing back any more, and is sent a
//! snapshot; what comes behind that is kept until it has caught up ([`super::kept`]). The leader decides; followers learn the index from it, as they may have to send the entries next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::group::GroupNode;
use super::hand_over::Retire;
use super::kept::Kept;
use super::quarantine;
use super::settings::RaftSettings;
use super::status::GroupStatus;
use super::transfer;
use super::{Avoided, lock};
use crate::node_id::NodeId;

/// Ticks between two tries to end a quarantine by an election.
const QUARANTINE_TICKS: u64 = 4;

/// What upkeep remembers of a group.
struct Memory {
    snapshot_at: Instant,
    snapshot_bytes: u64,
    snapshot_index: Option<u64>,
    led_since: Option<(u64, Instant)>,
    handed_over_at: Option<Instant>,
    /// What was committed at the last look, and at the one before.
    committed: [Option<u64>; 2],
    failure_told: bool,
    kept: Kept,
    /// Members for which the log is kept no longer.
    given_up: BTreeSet<NodeId>,
}

impl Memory {
    fn new(now: Instant, keep_bytes: u64) -> Memory {
        Memory {
            snapshot_at: now,
            snapshot_bytes: 0,
            snapshot_index: None,
            led_since: None,
            handed_over_at: None,
            committed: [None; 2],
            failure_told: false,
            kept: Kept::new(keep_bytes),
            given_up: BTreeSet::new(),
        }
    }
}

/// Looks after the groups until the runtime ends.
pub(crate) async fn run(
    groups: Vec<Arc<GroupNode>>,
    settings: Arc<RaftSettings>,
    (avoided, retire): (Avoided, Retire),
) {
    let now = Instant::now();
    let memory = |_| Memory::new(now, settings.log_keep_bytes);
    let mut memories: Vec<Memory> = groups.iter().map(memory).collect();
    let mut ticks = interval(settings.upkeep_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = 0_u64;
    loop {
        ticks.tick().await;
        tick += 1;
        // One dump and one handover at a time, so that neither the disk nor the clients feel all groups at once.
        let (mut may_dump, mut may_hand_over) = (true, settings.spread_leaders);
        for (node, memory) in groups.iter().zip(&mut memories) {
            let now = Instant::now();
            let status = node.status();
            if status.failed.is_some() {
                tell_failure(node, memory);
                continue;
            }
            note_progress(node, &status, memory, now);
            purge(node, &status).await;
            // A snapshot that does not fit is a failure of the group; what is still free is for what is committed.
            if may_dump
                && !node.shared.log.disk_is_low()
                && wants_snapshot(
                    &settings,
                    &status,
                    memory,
                    node.shared.log.appended_bytes(),
                    now,
                )
            {
                may_dump = !dump(node, memory, now).await;
                // Who leads needs no snapshot: what an earlier transfer left is of no use.
                if status.is_leader {
                    transfer::tidy(node);
                }
            }
            if may_hand_over
                && wants_to_hand_over(&settings, &status, memory, now)
                && !status
                    .preferred_leader()
                    .is_some_and(|preferred| lock(&avoided).contains(&preferred))
            {
                may_hand_over = !hand_over(node, &retire, &status, memory, now);
            }
            if tick.is_multiple_of(QUARANTINE_TICKS) || node.shared.learnt_commit().is_some() {
                quarantine::tend(node).await;
            }
        }
    }
}

fn tell_failure(node: &GroupNode, memory: &mut Memory) {
    if let Some(reason) = node.failure()
        && !std::mem::replace(&mut memory.failure_told, true)
    {
        let shared = &node.shared;
        shared.settings.on_failure.tell(shared.group, &reason);
    }
}

fn note_progress(node: &GroupNode, status: &GroupStatus, memory: &mut Memory, now: Instant) {
    memory.kept.note(status);
    if let Some(index) = memory.kept.floor(status) {
        node.shared.learn_purge_floor(index);
    }
    let given_up: BTreeSet<NodeId> = memory.kept.given_up(status).collect();
    for lagging in given_up.difference(&memory.given_up) {
        tracing::warn!(group = %status.group, node = %lagging, log_bytes = status.log_bytes, "a member lags so far that the log is no longer kept for it: it will be sent a snapshot");
    }
    memory.given_up = given_up;
    if status.snapshot > memory.snapshot_index {
        memory.snapshot_index = status.snapshot;
    }
    memory.committed = [status.committed, memory.committed[0]];
    memory.led_since = match memory.led_since {
        _ if !status.is_leader => None,
        Some((term, since)) if term == status.term => Some((term, since)),
        _ => Some((status.term, now)),
    };
}

/// Up to where the log may be purged now, if that is further than it is.
fn purgeable(status: &GroupStatus) -> Option<u64> {
    let upto = status.snapshot?.min(status.purge_floor?);
    (status.purged.is_none_or(|purged| upto > purged)).then_some(upto)
}

async fn purge(node: &GroupNode, status: &GroupStatus) {
    let Some(upto) = purgeable(status) else {
        return;
    };
    if let Err(error) = node.raft().trigger().purge_log(upto).await {
        tracing::warn!(group = %status.group, %error, "the log was not purged");
    }
}

fn wants_snapshot(
    settings: &RaftSettings,
    status: &GroupStatus,
    memory: &Memory,
    appended: u64,
    now: Instant,
) -> bool {
    let is_new = status.applied > memory.snapshot_index;
    let is_large = appended.saturating_sub(memory.snapshot_bytes) >= settings.snapshot_bytes;
    is_new && (is_large || now.duration_since(memory.snapshot_at) >= settings.snapshot_interval)
}

async fn dump(node: &GroupNode, memory: &mut Memory, now: Instant) -> bool {
    let appended = node.shared.log.appended_bytes();
    match node.raft().trigger().snapshot().await {
        Ok(()) => {
            (memory.snapshot_at, memory.snapshot_bytes) = (now, appended);
            true
        }
        Err(error) => {
            tracing::warn!(group = %node.shared.group, %error, "no snapshot was written");
            false
        }
    }
}

fn wants_to_hand_over(
    settings: &RaftSettings,
    status: &GroupStatus,
    memory: &Memory,
    now: Instant,
) -> bool {
    let passed = |since: Instant, time: Duration| now.duration_since(since) >= time;
    let has_led = memory
        .led_since
        .is_some_and(|(_, since)| passed(since, settings.spread_after));
    let is_calm = memory
        .handed_over_at
        .is_none_or(|at| passed(at, settings.spread_again_after));
    let preferred = status
        .preferred_leader()
        .filter(|preferred| Some(*preferred) != status.leader);
    // A member without room hears heartbeats and takes no entries: it would only hand over again.
    let takes_entries = |node| status.has_upto(node, memory.committed[1]);
    has_led
        && is_calm
        && preferred.is_some_and(|preferred| {
            status.can_take_over(preferred, settings.election_min) && takes_entries(preferred)
        })
}

/// Beside this task: what the group's users have begun comes to its end first.
fn hand_over(
    node: &Arc<GroupNode>,
    retire: &Retire,
    status: &GroupStatus,
    memory: &mut Memory,
    now: Instant,
) -> bool {
    let Some(preferred) = status.preferred_leader() else {
        return false;
    };
    memory.handed_over_at = Some(now);
    tracing::info!(group = %status.group, to = %preferred, "handing over to the preferred leader");
    let (node, retire) = (node.clone(), retire.clone());
    tokio::spawn(async move {
        if let Err(error) = super::hand_over::hand_over(&node, &retire, preferred).await {
            tracing::warn!(group = %node.shared.group, %error, "leadership was not handed over");
        }
    });
    true
}
