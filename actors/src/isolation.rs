//! A node that has lost the quorum: at once it is not ready, after 10 s it takes no logins, after 30 s its clients' streams end, so that they
//! move to nodes that can serve them.
//!
//! ```text
//!   groups, gossip ─► hears_quorum ─► Isolation ─► Standing ─► negotiation (no logins), readiness
//!                                                     └──────► streams end, spread over 10 s
//! ```
//!
//! The streams end without `</stream:stream>`: what their clients have not been told of they send again elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use cluster::gossip::Liveness;
use cluster::gossip::shell::Gossiper;
use cluster::node_id::NodeId;
use cluster::raft::{GroupStatus, Groups};

use crate::fabric::Fabric;
use crate::session::ToSession;

/// Without a quorum for so long, a node takes no logins.
pub const LOGINS_END_AFTER: Duration = Duration::from_secs(10);

/// Without a quorum for so long, a node begins to end its clients' streams.
pub const STREAMS_END_AFTER: Duration = Duration::from_secs(30);

/// The streams' ends are spread over this time, so that the nodes they move to are not stormed.
pub const STREAMS_END_WITHIN: Duration = Duration::from_secs(10);

/// A leader that no quorum has answered for so long doesn't count.
const QUORUM_FRESH: Duration = Duration::from_secs(2);

/// How a node stands to the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It hears a quorum, or did a moment ago.
    InTouch = 0,
    /// It has just lost the quorum: what has to be remembered waits.
    NoQuorum = 1,
    /// It takes no logins.
    NoLogins = 2,
    /// It sends its clients away.
    CutOff = 3,
    /// An operator has ended it.
    Stopping = 4,
}

impl Standing {
    /// The word for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::InTouch => "in-touch",
            Standing::NoQuorum => "no-quorum",
            Standing::NoLogins => "no-logins",
            Standing::CutOff => "cut-off",
            Standing::Stopping => "stopping",
        }
    }

    /// The standing that goes by this number in the gossip.
    pub fn from_u8(number: u8) -> Option<Standing> {
        [
            Standing::InTouch,
            Standing::NoQuorum,
            Standing::NoLogins,
            Standing::CutOff,
            Standing::Stopping,
        ]
        .into_iter()
        .find(|standing| *standing as u8 == number)
    }

    /// Whether somebody may log in.
    pub fn takes_logins(self) -> bool {
        matches!(self, Standing::InTouch | Standing::NoQuorum)
    }
}

/// The standing as all of a node's threads see it.
#[derive(Debug, Default)]
pub struct StandingCell {
    seen: AtomicU8,
    stopping: AtomicBool,
}

impl StandingCell {
    /// The standing now.
    pub fn get(&self) -> Standing {
        if self.stopping.load(Ordering::Relaxed) {
            return Standing::Stopping;
        }
        Standing::from_u8(self.seen.load(Ordering::Relaxed)).unwrap_or(Standing::CutOff)
    }

    /// Whether somebody may log in.
    pub fn takes_logins(&self) -> bool {
        self.get().takes_logins()
    }

    /// The node stops, for good.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn set(&self, standing: Standing) {
        self.seen.store(standing as u8, Ordering::Relaxed);
    }
}

/// Counts how long a node has been without a quorum.
#[derive(Debug, Default)]
pub struct Isolation {
    lost: Option<Instant>,
}

impl Isolation {
    /// Takes what was just seen.
    pub fn observe(&mut self, hears_quorum: bool, now: Instant) -> Standing {
        if hears_quorum {
            self.lost = None;
            return Standing::InTouch;
        }
        let lost = *self.lost.get_or_insert(now);
        match now.saturating_duration_since(lost) {
            so_long if so_long >= STREAMS_END_AFTER => Standing::CutOff,
            so_long if so_long >= LOGINS_END_AFTER => Standing::NoLogins,
            _ => Standing::NoQuorum,
        }
    }

    /// For how long there has been no quorum.
    pub fn lasts(&self, now: Instant) -> Option<Duration> {
        self.lost.map(|lost| now.saturating_duration_since(lost))
    }

    /// Whether it is a session's turn to end, by the number of the session.
    pub fn is_due(&self, session: u64, now: Instant) -> bool {
        let spread = u64::try_from(STREAMS_END_WITHIN.as_millis()).unwrap_or(u64::MAX);
        // Numbers are given one after the other; the product scatters them.
        let turn = (session.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % spread;
        let due = STREAMS_END_AFTER + Duration::from_millis(turn);
        self.lost
            .is_some_and(|lost| now.saturating_duration_since(lost) >= due)
    }
}

/// Whether a group tells that the node is in touch with a quorum: as the leader it was answered by one, or its leader and
/// enough of its voters are heard of.
pub fn hears_quorum(group: &GroupStatus, own: NodeId, is_alive: &impl Fn(NodeId) -> bool) -> bool {
    if group.voters == [own] {
        return group.leader == Some(own);
    }
    if group.is_leader {
        return group.quorum_age.is_some_and(|age| age <= QUORUM_FRESH);
    }
    let is_heard = |node: NodeId| node == own || is_alive(node);
    let heard = group
        .voters
        .iter()
        .filter(|voter| is_heard(**voter))
        .count();
    // A leader on this side of a split is no proof: it may not have noticed yet.
    group
        .leader
        .is_some_and(|leader| leader != own && is_alive(leader))
        && heard > group.voters.len() / 2
}

/// How often the node looks where it stands.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks where the node stands for as long as it lives.
pub async fn watch(fabric: Arc<Fabric>, groups: Groups, gossip: Arc<Gossiper>) {
    let mut isolation = Isolation::default();
    let mut before = Standing::InTouch;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    // A process that was stopped for a while must not count that time tick by tick.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let is_alive = |node| gossip.liveness(node) == Liveness::Alive;
        let statuses = groups.status();
        // One group is enough: another's trouble may be its own.
        let hears = statuses
            .iter()
            .any(|group| hears_quorum(group, fabric.node, &is_alive));
        let now = Instant::now();
        let lasted = isolation.lasts(now).unwrap_or_default();
        let standing = isolation.observe(hears, now);
        if standing != before {
            say(standing, lasted);
            fabric.standing.set(standing);
            before = standing;
        }
        if standing == Standing::CutOff {
            end_streams(&fabric, &isolation, now);
        }
    }
}

/// One line for each change. A stop says itself what it does.
fn say(standing: Standing, lasted: Duration) {
    let seconds = lasted.as_secs();
    match standing {
        Standing::InTouch => {
            tracing::info!(seconds, "quorum again: this node serves as before")
        }
        Standing::NoQuorum => tracing::warn!(
            "no quorum: this node hears of no majority of the pool; what has to be remembered waits"
        ),
        Standing::NoLogins => tracing::warn!(seconds, "no quorum yet: no logins from now on"),
        Standing::CutOff => {
            tracing::warn!(
                seconds,
                "no quorum yet: the clients' streams are being ended"
            )
        }
        Standing::Stopping => {}
    }
}

fn end_streams(fabric: &Fabric, isolation: &Isolation, now: Instant) {
    for entry in fabric.directory.all() {
        if isolation.is_due(entry.number, now) && entry.session.try_send(ToSession::Leave).is_err()
        {
            tracing::debug!(
                session = entry.number,
                "a session could not be sent away yet"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::node_id::Group;

    use super::*;

    const OWN: NodeId = NodeId(1);

    #[test]
    fn logins_end_first_and_streams_later() {
        let start = Instant::now();
        let check = |seen: &[(u64, bool, Standing)]| {
            let mut isolation = Isolation::default();
            for (seconds, hears, expect) in seen {
                let now = start + Duration::from_secs(*seconds);
                assert_eq!(
                    isolation.observe(*hears, now),
                    *expect,
                    "at {seconds} s of {seen:?}"
                );
            }
        };
        use Standing::{CutOff, InTouch, NoLogins, NoQuorum};
        check(&[(0, true, InTouch), (100, true, InTouch)]);
        check(&[
            (0, false, NoQuorum),
            (9, false, NoQuorum),
            (10, false, NoLogins),
        ]);
        check(&[
            (0, false, NoQuorum),
            (29, false, NoLogins),
            (30, false, CutOff),
        ]);
        check(&[
            (0, false, NoQuorum),
            (9, true, InTouch),
            (10, false, NoQuorum),
            (20, false, NoLogins),
        ]);
        check(&[
            (0, false, NoQuorum),
            (40, false, CutOff),
            (41, true, InTouch),
            (42, false, NoQuorum),
        ]);
        // A pause of the process counts only from the first look after it.
        check(&[
            (0, true, InTouch),
            (500, false, NoQuorum),
            (509, false, NoQuorum),
            (510, false, NoLogins),
        ]);
    }

    #[test]
    fn streams_end_one_after_the_other_and_all() {
        let start = Instant::now();
        let mut isolation = Isolation::default();
        let ended = |isolation: &Isolation, after: Duration| {
            (1..=1_000)
                .filter(|number| isolation.is_due(*number, start + after))
                .count()
        };
        assert_eq!(ended(&isolation, STREAMS_END_AFTER * 2), 0);
        isolation.observe(false, start);
        assert_eq!(
            ended(&isolation, STREAMS_END_AFTER - Duration::from_millis(1)),
            0
        );
        let quarters: Vec<usize> = (1..=4)
            .map(|quarter| {
                ended(
                    &isolation,
                    STREAMS_END_AFTER + STREAMS_END_WITHIN * quarter / 4,
                )
            })
            .collect();
        for (quarter, ended) in quarters.iter().enumerate() {
            let fair = (quarter + 1) * 250;
            assert!(ended.abs_diff(fair) <= 60, "{quarters:?}");
        }
        assert_eq!(quarters.last(), Some(&1_000));
        isolation.observe(true, start + STREAMS_END_AFTER);
        assert_eq!(ended(&isolation, STREAMS_END_AFTER * 2), 0);
    }

    #[test]
    fn a_stopping_node_takes_no_logins_whatever_it_hears() {
        let cell = StandingCell::default();
        assert!(cell.takes_logins());
        cell.set(Standing::NoQuorum);
        assert!(cell.takes_logins());
        cell.set(Standing::NoLogins);
        assert!(!cell.takes_logins());
        cell.stop();
        cell.set(Standing::InTouch);
        assert_eq!(cell.get(), Standing::Stopping);
        assert!(!cell.takes_logins());
    }

    #[test]
    fn numbers_in_the_gossip_are_standings() {
        for number in 0..=4 {
            let standing = Standing::from_u8(number).unwrap();
            assert_eq!(standing as u8, number);
        }
        assert_eq!(Standing::from_u8(5), None);
    }

    fn group(leader: Option<u64>, quorum_age: Option<u64>, voters: &[u64]) -> GroupStatus {
        GroupStatus {
            group: Group(1),
            term: 3,
            leader: leader.map(NodeId),
            is_leader: leader == Some(OWN.0),
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: Vec::new(),
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
            matched_by_all: None,
            followers: Vec::new(),
            quorum_age: quorum_age.map(Duration::from_millis),
            quarantined: false,
            submitted_bytes: 0,
            failed: None,
        }
    }

    #[test]
    fn a_group_tells_of_a_quorum() {
        let check = |leader, quorum_age, voters: &[u64], alive: &[u64], expect| {
            let group = group(leader, quorum_age, voters);
            let is_alive = |node: NodeId| alive.contains(&node.0);
            let told = hears_quorum(&group, OWN, &is_alive);
            assert_eq!(
                told, expect,
                "leader {leader:?} {quorum_age:?}, {alive:?} of {voters:?}"
            );
        };
        // Leading.
        check(Some(1), Some(100), &[1, 2, 3], &[], true);
        check(Some(1), Some(2_000), &[1, 2, 3], &[2, 3], true);
        check(Some(1), Some(2_001), &[1, 2, 3], &[2, 3], false);
        check(Some(1), None, &[1, 2, 3], &[2, 3], false);
        // Following.
        check(Some(2), None, &[1, 2, 3], &[2], true);
        check(Some(2), None, &[1, 2, 3], &[3], false);
        check(Some(2), None, &[1, 2, 3], &[], false);
        check(None, None, &[1, 2, 3], &[2, 3], false);
        // Two of five have split off with a leader.
        check(Some(2), None, &[1, 2, 3, 4, 5], &[2], false);
        check(Some(2), None, &[1, 2, 3, 4, 5], &[2, 3], true);
        // Alone there is nobody to lose.
        check(Some(1), None, &[1], &[], true);
        check(None, None, &[1], &[], false);
    }
}
