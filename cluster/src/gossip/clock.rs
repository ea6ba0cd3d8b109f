//! What time it is, by all members' clocks: the own one, within five seconds of their median.
//!
//! The time of an entry never falls, so one clock that is a year ahead would move the time of whatever it owned for good.
//! Where two clocks are in the middle the earlier one counts: a time that is too early is put right by the next entry, one
//! that is too late stays.

use std::collections::BTreeMap;

use crate::node_id::NodeId;

/// How far the own clock may be from the median.
const APART_MAX_MS: i64 = 5_000;

/// The others' clocks, as far from the own one as they were when they were last heard of.
#[derive(Clone, Debug, Default)]
pub(super) struct MemberClocks {
    ahead_ms: BTreeMap<NodeId, i64>,
}

impl MemberClocks {
    /// A member said what time it is; how long that was on its way doesn't matter here. Times in ms since 1970.
    pub(super) fn heard(&mut self, member: NodeId, theirs: u64, own: u64) {
        let ahead = i128::from(theirs) - i128::from(own);
        let ahead = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        self.ahead_ms.insert(member, ahead);
    }

    /// Whether anybody was heard of.
    pub(super) fn has_heard(&self) -> bool {
        !self.ahead_ms.is_empty()
    }

    /// The time to use when the own clock says this.
    pub(super) fn clamp(&self, own: u64) -> u64 {
        let mut ahead: Vec<i64> = self.ahead_ms.values().copied().chain([0]).collect();
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

    fn check(others_ahead: &[i64], expect_ahead: i64) {
        let mut clocks = MemberClocks::default();
        for (member, ahead) in (1..).zip(others_ahead) {
            clocks.heard(NodeId(member), NOW.saturating_add_signed(*ahead), NOW);
        }
        let expect = NOW.saturating_add_signed(expect_ahead);
        assert_eq!(clocks.clamp(NOW), expect, "{others_ahead:?}");
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
        clocks.heard(NodeId(1), u64::MAX, 0);
        clocks.heard(NodeId(2), u64::MAX, 0);
        assert!(clocks.clamp(0) > 0);
        clocks.heard(NodeId(1), 0, u64::MAX);
        clocks.heard(NodeId(2), 0, u64::MAX);
        assert!(clocks.clamp(u64::MAX) < u64::MAX);
    }
}
