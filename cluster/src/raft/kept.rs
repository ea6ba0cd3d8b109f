//! Up to where a leader keeps its group's log, and for whom.
//!
//! A member that lags by no more than `keep_bytes` of the log is sent entries. One that lags by more is sent a snapshot, and needs
//! what comes behind it. While that goes over a thin link, more may be written than `keep_bytes`: were it purged, the member would
//! need the next snapshot, and so on for ever. So a snapshot that is being sent keeps the log behind it, up to as many bytes as it
//! has itself, until the member has caught up. By then the link has carried at least as much as was written meanwhile, or the
//! member could not follow the group by entries either. The disk needs room for one more snapshot of the group at most.

use std::collections::BTreeMap;

use super::status::{FollowerStatus, GroupStatus};
use crate::node_id::NodeId;

/// What a leader keeps of its group's log.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// How much of the log is kept for each member that lags.
    keep_bytes: u64,
    /// The snapshots that were sent to members that have not caught up yet.
    snapshots: BTreeMap<NodeId, Sent>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The last entry in the snapshot.
    index: u64,
    bytes: u64,
}

impl Kept {
    pub(crate) fn new(keep_bytes: u64) -> Kept {
        Kept {
            keep_bytes,
            snapshots: BTreeMap::new(),
        }
    }

    /// Notes which snapshots are being sent, and forgets those of members that have caught up, are none any more, or lag by more
    /// than is kept for them.
    pub(crate) fn note(&mut self, status: &GroupStatus) {
        if !status.is_leader {
            self.snapshots.clear();
            return;
        }
        let sending = status.sending.iter().map(|transfer| {
            let (index, bytes) = (transfer.index, transfer.bytes_total);
            (transfer.peer, Sent { index, bytes })
        });
        self.snapshots.extend(sending);
        let is_sent = |node| status.sending.iter().any(|transfer| transfer.peer == node);
        let keep_bytes = self.keep_bytes;
        self.snapshots.retain(|node, sent| {
            let mut followers = status.followers.iter();
            let member = followers.find(|follower| follower.node == *node);
            let is_lagging = |member: &FollowerStatus| {
                let has = member.matched.max(Some(sent.index));
                let lag = lag_bytes(status, has);
                let has_caught_up = member.matched >= Some(sent.index) && lag <= keep_bytes;
                !has_caught_up && lag <= keep_bytes.max(sent.bytes)
            };
            is_sent(*node) || member.is_some_and(is_lagging)
        });
    }

    /// Up to where no member will need entries; `None` if this node doesn't lead or one may need all there are. A member that
    /// lags by more than is kept for it counts no more, nor does one whose entries are purged already: it is sent a snapshot, and
    /// needs what comes behind that. Alone, all of it.
    pub(crate) fn floor(&self, status: &GroupStatus) -> Option<u64> {
        if !status.is_leader {
            return None;
        }
        let others = (status.voters.len() + status.learners.len()).saturating_sub(1);
        let unshown = others.saturating_sub(status.followers.len());
        // Of whom nothing is known we take for granted that it lacks all.
        let unshown = std::iter::repeat_n((status.purged, self.keep_bytes), unshown);
        let shown = status.followers.iter().filter_map(|one| {
            let index = self.needs_behind(status, one)?;
            Some((index, self.bytes_for(one.node)))
        });
        let served = shown
            .chain(unshown)
            .filter(|(index, bytes)| lag_bytes(status, *index) <= *bytes);
        let needed = served.map(|(index, _)| index);
        needed.min().unwrap_or(status.applied)
    }

    /// The members that lag by more of the log than is kept for them, as far as it is still there.
    pub(crate) fn given_up(&self, status: &GroupStatus) -> impl Iterator<Item = NodeId> {
        let lags = move |one: &&FollowerStatus| {
            let needed = self.needs_behind(status, one);
            needed.is_some_and(|index| lag_bytes(status, index) > self.bytes_for(one.node))
        };
        status.followers.iter().filter(lags).map(|one| one.node)
    }

    /// How much of the log is kept for this member.
    fn bytes_for(&self, node: NodeId) -> u64 {
        let sent = self.snapshots.get(&node);
        sent.map_or(self.keep_bytes, |sent| self.keep_bytes.max(sent.bytes))
    }

    /// Behind which entry a member needs the log; `None` if that is purged.
    fn needs_behind(&self, status: &GroupStatus, follower: &FollowerStatus) -> Option<Option<u64>> {
        let sent = self.snapshots.get(&follower.node);
        match follower.matched.max(sent.map(|sent| sent.index)) {
            None => Some(status.purged),
            has if has < status.purged => None,
            has => Some(has),
        }
    }
}

/// About how many bytes of the log come behind an entry.
fn lag_bytes(status: &GroupStatus, index: Option<u64>) -> u64 {
    let end = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
    let all = end(status.last_log).saturating_sub(end(status.purged));
    let lacking = end(status.last_log).saturating_sub(end(index)).min(all);
    let bytes = u128::from(status.log_bytes) * u128::from(lacking) / u128::from(all.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::status::tests::status;
    use crate::raft::transfer::TransferStatus;

    fn kept(status: &GroupStatus, keep_bytes: u64) -> Kept {
        let mut kept = Kept::new(keep_bytes);
        kept.note(status);
        kept
    }

    fn transfer(index: u64, bytes_total: u64) -> TransferStatus {
        TransferStatus {
            peer: NodeId(3),
            index,
            bytes: 0,
            bytes_total,
            keys: 0,
            keys_total: 0,
            rows: 0,
        }
    }

    #[test]
    fn the_slowest_member_holds_purges_back_as_long_as_it_is_near() {
        // The log is 5,000 entries of 10 bytes.
        let log = |status: GroupStatus| GroupStatus {
            last_log: Some(4999),
            log_bytes: 50_000,
            ..status
        };
        let check = |status: GroupStatus, keep_bytes, expect: Option<u64>, given_up: &[u64]| {
            let kept = kept(&status, keep_bytes);
            assert_eq!(kept.floor(&status), expect, "{status:?}");
            let lag: Vec<u64> = kept.given_up(&status).map(|node| node.0).collect();
            assert_eq!(lag, given_up, "{status:?}");
        };
        let two = |one, other| log(status(&[(2, one, None), (3, other, None)]));
        check(two(Some(4000), Some(10)), 50_000, Some(10), &[]);
        check(two(Some(4000), Some(10)), 49_000, Some(4000), &[3]);
        check(two(Some(4000), Some(10)), 5_000, Some(5000), &[2, 3]);
        check(two(Some(4000), None), 50_000, None, &[]);
        check(two(Some(4000), None), 49_000, Some(4000), &[3]);
        check(log(status(&[])), 50_000, Some(5000), &[]);
        let learner = GroupStatus {
            learners: vec![NodeId(9)],
            ..log(status(&[(2, Some(4000), None)]))
        };
        check(learner, 50_000, None, &[]);
        let follower = GroupStatus {
            is_leader: false,
            ..log(status(&[(2, Some(4000), None)]))
        };
        check(follower, 50_000, None, &[]);
    }

    /// The log is 1,000 entries of 10 bytes, behind entry 999.
    fn purged(matched: Option<u64>, sending: Option<TransferStatus>) -> GroupStatus {
        GroupStatus {
            purged: Some(999),
            last_log: Some(1999),
            log_bytes: 10_000,
            sending: sending.into_iter().collect(),
            ..status(&[(2, Some(1900), None), (3, matched, None)])
        }
    }

    #[test]
    fn who_needs_a_snapshot_holds_back_what_comes_behind_it() {
        let check = |matched, snapshot: Option<u64>, keep_bytes, expect| {
            let status = purged(matched, snapshot.map(|index| transfer(index, 0)));
            let floor = kept(&status, keep_bytes).floor(&status);
            assert_eq!(floor, expect, "{matched:?} {snapshot:?}");
        };
        check(Some(10), None, 10_000, Some(1900));
        check(Some(10), Some(1200), 10_000, Some(1200));
        check(Some(10), Some(1200), 7_000, Some(1900));
        check(None, Some(1200), 10_000, Some(1200));
        // It may have just answered nobody yet: a leader that begins knows of nobody.
        check(None, None, 10_000, Some(999));
        check(None, None, 9_999, Some(1900));
        check(Some(999), None, 10_000, Some(999));
    }

    #[test]
    fn what_is_written_while_a_snapshot_is_sent_is_kept_up_to_its_size() {
        // 7,990 bytes come behind the snapshot, and only 1,000 are kept for who needs none.
        let check = |bytes, expect| {
            let status = purged(Some(10), Some(transfer(1200, bytes)));
            let floor = kept(&status, 1_000).floor(&status);
            assert_eq!(floor, Some(expect), "{bytes}");
        };
        check(8_000, 1200);
        check(7_000, 1900);
    }

    #[test]
    fn the_log_behind_a_snapshot_is_kept_until_the_member_has_caught_up() {
        let mut kept = Kept::new(1_000);
        let mut check = |matched, sending: Option<TransferStatus>, expect| {
            let status = purged(matched, sending);
            kept.note(&status);
            assert_eq!(kept.floor(&status), Some(expect), "{matched:?} {sending:?}");
        };
        check(Some(10), Some(transfer(1200, 8_000)), 1200);
        // Sent, and the member has not said so yet.
        check(Some(10), None, 1200);
        check(Some(1200), None, 1200);
        check(Some(1500), None, 1500);
        // Caught up: from now on it is kept as much for as for the others.
        check(Some(1950), None, 1900);
        check(Some(1500), None, 1900);
        // Sent again, and purged meanwhile as far as it lags too far.
        check(Some(10), Some(transfer(1200, 8_000)), 1200);
        check(Some(10), Some(transfer(1100, 8_000)), 1900);
        check(Some(10), None, 1900);
        check(Some(10), Some(transfer(1300, 8_000)), 1300);
    }

    #[test]
    fn who_leads_no_more_or_is_no_member_keeps_nothing() {
        let sent = purged(Some(10), Some(transfer(1200, 8_000)));
        let mut others_lead = sent.clone();
        others_lead.is_leader = false;
        let mut removed = purged(None, None);
        removed.followers.retain(|one| one.node != NodeId(3));
        removed.voters.retain(|node| *node != NodeId(3));
        for between in [others_lead, removed] {
            let mut kept = kept(&sent, 1_000);
            kept.note(&between);
            let later = purged(Some(10), None);
            kept.note(&later);
            assert_eq!(kept.floor(&later), Some(1900), "{between:?}");
        }
    }
}
