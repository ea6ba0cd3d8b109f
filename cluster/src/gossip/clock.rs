//! What time it is, by all members' clocks: the own one, within five seconds of their median.
//!
//! The time of an entry never falls, so one clock that is a year ahead would move the time of whatever it owned for good.
//! Where two clocks are in the middle the earlier one counts: a time that is too early is put right by the next entry, one
//! that is too late stays.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::node_id::NodeId;

/// How far the own clock may be from the median.
const APART_MAX_MS: i64 = 5_000;

/// The others' clocks. What they show now goes by how much time has passed, which no own clock tells that may be set: one that
/// was just put ahead by a year is that far from the others at once, not when they are heard of next.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberClocks {
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// In ms since 1970.
    theirs: u64,
    /// When that was, on the process's own clock that only runs.
    at: Duration,
}

impl Heard {
    fn shows(self, now: Duration) -> u64 {
        let passed = now.saturating_sub(self.at).as_millis();
        self.theirs
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

impl MemberClocks {
    /// A member said what time it is, in ms since 1970; how long that was on its way doesn't matter here.
    pub(super) fn heard(&mut self, member: NodeId, theirs: u64, at: Duration) {
        self.heard.insert(member, Heard { theirs, at });
    }

    /// Whether anybody was heard of.
    pub(super) fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// The time to use when the own clock says this.
    pub(super) fn clamp(&self, own: u64, now: Duration) -> u64 {
        let ahead = |heard: &Heard| {
            let ahead = i128::from(heard.shows(now)) - i128::from(own);
            i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
        };
        let mut ahead: Vec<i64> = self.heard.values().map(ahead).chain([0]).collect();
        ahead.sort_unstable();
        let median = ahead.get((ahead.len() - 1) / 2).copied().unwrap_or(0);
        let (least, most) = (
            median.saturating_sub(APART_MAX_MS),
            median.saturating_add(APART_MAX_MS),
        );
        own.saturating_add_signed(0.clamp(least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const YEAR: i64 = 365 * 24 * 3_600 * 1_000;
    const START: Duration = Duration::from_secs(100);

    fn check(others_ahead: &[i64], expect_ahead: i64) {
        let mut clocks = MemberClocks::default();
        for (member, ahead) in (1..).zip(others_ahead) {
            clocks.heard(NodeId(member), NOW.saturating_add_signed(*ahead), START);
        }
        let expect = NOW.saturating_add_signed(expect_ahead);
        assert_eq!(clocks.clamp(NOW, START), expect, "{others_ahead:?}");
        assert_eq!(clocks.has_heard(), !others_ahead.is_empty());
    }

    #[test]
    fn a_clock_near_the_others_is_as_it_is() {
        check(&[], 0);
        check(&[3], 0);
        check(&[4_000, -4_000], 0);
        check(&[5_000, 5_000], 0);
        check(&[-5_000, -5_000], 0);
        check(&[10, 20, 30, 40], 0);
    }

    #[test]
    fn a_clock_far_from_the_others_comes_within_five_seconds_of_the_median() {
        check(&[-YEAR, -YEAR], 5_000 - YEAR);
        check(&[YEAR, YEAR + 7], YEAR - 5_000);
        check(&[-YEAR, -YEAR + 9_000], 14_000 - YEAR);
        check(&[-60_000, -60_000, -60_000, 5], -55_000);
    }

    #[test]
    fn one_wrong_clock_moves_nobody_else() {
        check(&[0, YEAR], 0);
        check(&[0, -YEAR], 0);
        check(&[0, 0, YEAR, -YEAR], 0);
    }

    #[test]
    fn of_two_clocks_the_earlier_counts() {
        check(&[YEAR], 0);
        check(&[-YEAR], 5_000 - YEAR);
    }

    #[test]
    fn clocks_at_the_ends_of_time_are_no_defect() {
        let mut clocks = MemberClocks::default();
        clocks.heard(NodeId(1), u64::MAX, START);
        clocks.heard(NodeId(2), u64::MAX, START);
        assert!(clocks.clamp(0, START * 2) > 0);
        clocks.heard(NodeId(1), 0, START);
        clocks.heard(NodeId(2), 0, START);
        assert!(clocks.clamp(u64::MAX, START) < u64::MAX);
    }

    #[test]
    fn an_own_clock_that_was_just_set_is_clamped_before_the_others_are_heard_of_again() {
        let mut clocks = MemberClocks::default();
        let second = Duration::from_secs(1);
        clocks.heard(NodeId(1), NOW, START);
        clocks.heard(NodeId(2), NOW + 7, START);
        let then = |ahead| (NOW + 1_000).saturating_add_signed(ahead);
        let check = |ahead, expect| {
            let time = clocks.clamp(then(ahead), START + second);
            assert_eq!(time, then(expect), "{ahead} ms ahead");
        };
        check(0, 0);
        check(YEAR, 7 + 5_000);
        check(3_600_000, 7 + 5_000);
        check(-3_600_000, -5_000);
        // A minute without a word: time goes on.
        let minute = START + 60 * second;
        assert_eq!(clocks.clamp(NOW + 60_000, minute), NOW + 60_000);
    }
}
