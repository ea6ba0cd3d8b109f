//! A node that has lost the quorum: at once it is not ready, after 10 s it takes no logins, after 30 s its clients' streams end, so that they
//! move to nodes that can serve them.
//!
//! ```text
//!   groups, gossip ─► quorum_heard ─► Isolation ─► Standing ─► negotiation (no logins), readiness
//!                                                     └──────► streams end, spread over 10 s
//! ```
//!
//! It takes seconds to be sure that a quorum is lost; the 10 s and 30 s count from when it was last heard of.
//!
//! The streams end without `</stream:stream>`: what their clients have not been told of they send again elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use cluster::gossip::SUSPECT_AFTER;
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

/// A leader that no quorum has answered for so long is not in touch with it.
const ANSWER_FRESH: Duration = Duration::from_secs(2);

/// Nor is a follower that has not heard of its leader and a quorum for so long; the gossip is slower than Raft.
const GOSSIP_FRESH: Duration = SUSPECT_AFTER;

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
    /// It is in touch, and an operator wants it empty: it takes no logins.
    Draining = 5,
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
            Standing::Draining => "draining",
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
            Standing::Draining,
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
    draining: AtomicBool,
}

impl StandingCell {
    /// The standing now.
    pub fn get(&self) -> Standing {
        if self.stopping.load(Ordering::Acquire) {
            return Standing::Stopping;
        }
        let seen = Standing::from_u8(self.seen.load(Ordering::Relaxed));
        match seen.unwrap_or(Standing::CutOff) {
            Standing::InTouch if self.draining.load(Ordering::Relaxed) => Standing::Draining,
            // A drain changes nothing about a quorum that is lost, but it takes no logins either way.
            Standing::NoQuorum if self.draining.load(Ordering::Relaxed) => Standing::NoLogins,
            seen => seen,
        }
    }

    /// Whether somebody may log in.
    pub fn takes_logins(&self) -> bool {
        self.get().takes_logins()
    }

    /// The node stops, for good. Whoever sees it sees whatever was done before, too.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether an operator wants the node empty.
    pub fn drain(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    fn set(&self, standing: Standing) {
        self.seen.store(standing as u8, Ordering::Relaxed);
    }
}

/// What a group, or the best of all groups, tells of the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumHeard {
    /// Whether that is so fresh that the node is in touch with it.
    pub in_touch: bool,
    /// How long ago it was last heard of.
    pub age: Duration,
}

/// Counts how long a node has been without a quorum.
#[derive(Debug, Default)]
pub struct Isolation {
    /// When the quorum was last heard of, as far as any look saw.
    heard: Option<Instant>,
    looked: Option<Instant>,
    /// The process stood still until here: what it could not hear before is nobody's silence.
    awake: Option<Instant>,
    lost: Option<Instant>,
}

impl Isolation {
    /// Takes what was just seen. Call it every [`LOOK_EVERY`].
    pub fn observe(&mut self, seen: Option<QuorumHeard>, now: Instant) -> Standing {
        let stood_still = |looked| now.saturating_duration_since(looked) > STANDSTILL;
        if self.looked.replace(now).is_none_or(stood_still) {
            self.awake = Some(now);
        }
        let heard = seen.and_then(|seen| now.checked_sub(seen.age));
        self.heard = self.heard.max(heard);
        if seen.is_some_and(|seen| seen.in_touch) {
            self.lost = None;
            return Standing::InTouch;
        }
        // Never earlier than it once was, and never taken back by a late word.
        let since = self.heard.max(self.awake).unwrap_or(now);
        let lost = *self.lost.insert(since);
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

/// What a group tells of the quorum: as its leader, when one last answered; else, when its leader and enough of its voters
/// were last heard of, `age` being how long ago a node was.
pub fn quorum_heard(
    group: &GroupStatus,
    own: NodeId,
    age: &impl Fn(NodeId) -> Option<Duration>,
) -> Option<QuorumHeard> {
    let heard = |age, fresh| QuorumHeard {
        in_touch: age <= fresh,
        age,
    };
    if group.voters == [own] {
        return (group.leader == Some(own)).then(|| heard(Duration::ZERO, Duration::ZERO));
    }
    if group.is_leader {
        return group.quorum_age.map(|age| heard(age, ANSWER_FRESH));
    }
    // A leader on this side of a split is no proof: it may not have noticed yet.
    let leader = age(group.leader.filter(|leader| *leader != own)?)?;
    let others = group.voters.iter().filter(|voter| **voter != own);
    let mut ages: Vec<Duration> = others.filter_map(|voter| age(*voter)).collect();
    ages.sort_unstable();
    let needed =
        (group.voters.len() / 2 + 1).saturating_sub(usize::from(group.voters.contains(&own)));
    let majority = match needed.checked_sub(1) {
        Some(last) => *ages.get(last)?,
        None => Duration::ZERO,
    };
    Some(heard(leader.max(majority), GOSSIP_FRESH))
}

/// How often the node looks where it stands.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A look that comes so late says that the process stood still: frozen, or its machine asleep.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Looks where the node stands for as long as it lives.
pub async fn watch(fabric: Arc<Fabric>, groups: Groups, gossip: Arc<Gossiper>) {
    let mut isolation = Isolation::default();
    let mut before = Standing::InTouch;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    // A process that was stopped for a while must not count that time tick by tick.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        fabric.standstill.times();
        let age = |node| gossip.age(node);
        let statuses = groups.status();
        // One group is enough: another's trouble may be its own. Of a group that the node has left it would hear nothing,
        // and believe what it heard last.
        let counts = |group: &&GroupStatus| {
            let partition = group.group.partition();
            partition.is_none_or(|partition| fabric.votes_in(partition))
        };
        let seen = statuses
            .iter()
            .filter(counts)
            .filter_map(|group| quorum_heard(group, fabric.node, &age))
            .min_by_key(|heard| (!heard.in_touch, heard.age));
        let now = Instant::now();
        let lasted = isolation.lasts(now).unwrap_or_default();
        let standing = isolation.observe(seen, now);
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
        Standing::Stopping | Standing::Draining => {}
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

    fn heard(in_touch: bool, age: Duration) -> Option<QuorumHeard> {
        Some(QuorumHeard { in_touch, age })
    }

    /// A node's watch, told the truth about a quorum that is silent in some spans of time; it notices silence late.
    struct Story {
        isolation: Isolation,
        start: Instant,
        /// How long a silence lasts before it is noticed.
        notice: Duration,
    }

    impl Story {
        fn new(notice: u64) -> Story {
            Story {
                isolation: Isolation::default(),
                start: Instant::now(),
                notice: Duration::from_secs(notice),
            }
        }

        /// Looks as often as the watch does until `to`, the quorum having been heard last at `last`; gives each change.
        fn run(&mut self, from: u64, to: u64, last: Option<u64>) -> Vec<(u64, Standing)> {
            let (mut at, to) = (Duration::from_secs(from), Duration::from_secs(to));
            let mut changes: Vec<(u64, Standing)> = Vec::new();
            while at < to {
                let age = last.map_or(Duration::ZERO, |last| at - Duration::from_secs(last));
                let now = self.start + at;
                let standing = self.isolation.observe(heard(age <= self.notice, age), now);
                if changes.last().is_none_or(|(_, before)| *before != standing) {
                    changes.push((at.as_secs(), standing));
                }
                at += LOOK_EVERY;
            }
            changes
        }
    }

    #[test]
    fn logins_end_first_and_streams_later() {
        use Standing::{CutOff, InTouch, NoLogins, NoQuorum};
        // However late it is noticed, all counts from when the quorum was last heard of.
        for notice in [2, 5] {
            let mut story = Story::new(notice);
            assert_eq!(story.run(0, 100, None), [(0, InTouch)]);
            let changes = story.run(100, 150, Some(100));
            let expect = [
                (100, InTouch),
                (100 + notice, NoQuorum),
                (110, NoLogins),
                (130, CutOff),
            ];
            assert_eq!(changes, expect, "noticed after {notice} s");
            assert_eq!(story.run(150, 160, None), [(150, InTouch)]);
            // Each silence counts for itself.
            let changes = story.run(160, 171, Some(160));
            assert_eq!(
                changes,
                [(160, InTouch), (160 + notice, NoQuorum), (170, NoLogins)]
            );
        }
    }

    #[test]
    fn a_pause_of_the_process_counts_only_from_the_first_look_after_it() {
        use Standing::{InTouch, NoLogins, NoQuorum};
        let mut story = Story::new(2);
        assert_eq!(story.run(0, 10, None), [(0, InTouch)]);
        let changes = story.run(500, 511, Some(10));
        assert_eq!(changes, [(500, NoQuorum), (510, NoLogins)]);
        assert_eq!(story.run(511, 512, None), [(511, InTouch)]);
    }

    /// A group that knows no leader says nothing, and what was heard before still counts.
    #[test]
    fn silence_of_all_groups_counts_from_the_last_word() {
        let start = Instant::now();
        let mut isolation = Isolation::default();
        isolation.observe(heard(true, Duration::ZERO), start);
        let mut at = Duration::ZERO;
        let mut refused = None;
        while refused.is_none() && at < STREAMS_END_AFTER {
            at += LOOK_EVERY;
            let standing = isolation.observe(None, start + at);
            refused = (standing == Standing::NoLogins).then_some(at);
        }
        assert_eq!(refused, Some(LOGINS_END_AFTER));
        // A node that has never heard anybody counts from its first look.
        let mut new = Isolation::default();
        assert_eq!(new.observe(None, start), Standing::NoQuorum);
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
        isolation.observe(None, start);
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
        isolation.observe(heard(true, Duration::ZERO), start + STREAMS_END_AFTER);
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
        cell.set(Standing::InTouch);
        cell.drain(true);
        assert_eq!(cell.get(), Standing::Draining);
        assert!(!cell.takes_logins());
        cell.set(Standing::NoQuorum);
        assert!(!cell.takes_logins());
        cell.drain(false);
        assert!(cell.takes_logins());
        cell.stop();
        cell.set(Standing::InTouch);
        assert_eq!(cell.get(), Standing::Stopping);
        assert!(!cell.takes_logins());
    }

    #[test]
    fn numbers_in_the_gossip_are_standings() {
        for number in 0..=5 {
            let standing = Standing::from_u8(number).unwrap();
            assert_eq!(standing as u8, number);
        }
        assert_eq!(Standing::from_u8(6), None);
    }

    fn group(leader: Option<u64>, quorum_age: Option<u64>, voters: &[u64]) -> GroupStatus {
        GroupStatus {
            group: Group(1),
            term: 3,
            leader: leader.map(NodeId),
            is_leader: leader == Some(OWN.0),
            voters: voters.iter().copied().map(NodeId).collect(),
            is_joint: false,
            is_settled: true,
            learners: Vec::new(),
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            purged: None,
            purge_floor: None,
            log_bytes: 0,
            receiving: None,
            sending: Vec::new(),
            followers: Vec::new(),
            quorum_age: quorum_age.map(Duration::from_millis),
            quarantined: false,
            submitted_bytes: 0,
            failed: None,
        }
    }

    /// What a group tells; `ages`: which nodes were heard of, and how many ms ago. Whether in touch, and how many ms ago.
    fn told(
        leader: Option<u64>,
        quorum_age: Option<u64>,
        voters: &[u64],
        ages: &[(u64, u64)],
    ) -> Option<(bool, u128)> {
        let group = group(leader, quorum_age, voters);
        let age = |node: NodeId| {
            let found = ages.iter().find(|(id, _)| *id == node.0);
            found.map(|(_, age)| Duration::from_millis(*age))
        };
        let told = quorum_heard(&group, OWN, &age);
        told.map(|told| (told.in_touch, told.age.as_millis()))
    }

    #[test]
    fn a_leader_is_in_touch_by_the_answers_of_a_quorum_alone() {
        let check = |quorum_age, ages: &[(u64, u64)], expect| {
            let told = told(Some(1), quorum_age, &[1, 2, 3], ages);
            assert_eq!(told, expect, "{quorum_age:?}, {ages:?}");
        };
        let all = [(2, 0), (3, 0)];
        check(Some(100), &[], Some((true, 100)));
        check(Some(2_000), &all, Some((true, 2_000)));
        check(Some(2_001), &all, Some((false, 2_001)));
        check(None, &all, None);
        // Alone there is nobody to lose.
        assert_eq!(told(Some(1), None, &[1], &[]), Some((true, 0)));
        assert_eq!(told(None, None, &[1], &[]), None);
    }

    #[test]
    fn a_follower_is_in_touch_by_its_leader_and_a_majority() {
        let check = |voters: &[u64], ages: &[(u64, u64)], expect| {
            let told = told(Some(2), None, voters, ages);
            assert_eq!(told, expect, "{ages:?} of {voters:?}");
        };
        let fresh = GOSSIP_FRESH.as_millis();
        let three = [1, 2, 3];
        check(&three, &[(2, 1_000)], Some((true, 1_000)));
        check(&three, &[(2, fresh as u64)], Some((true, fresh)));
        check(&three, &[(2, fresh as u64 + 1)], Some((false, fresh + 1)));
        check(&three, &[(2, 60_000), (3, 1_000)], Some((false, 60_000)));
        check(&three, &[(2, 1_000), (3, 60_000)], Some((true, 1_000)));
        check(&three, &[(3, 1_000)], None);
        check(&three, &[], None);
        assert_eq!(told(None, None, &three, &[(2, 1_000), (3, 1_000)]), None);
        // Two of five have split off with a leader.
        let five = [1, 2, 3, 4, 5];
        check(&five, &[(2, 1_000)], None);
        check(&five, &[(2, 1_000), (3, 60_000)], Some((false, 60_000)));
        check(&five, &[(2, 1_000), (3, 2_000)], Some((true, 2_000)));
    }
}
