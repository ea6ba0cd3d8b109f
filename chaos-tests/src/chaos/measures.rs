//! What a history shows of a fault's effect on those who talk: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::history::{Event, What};

/// Messages that were acknowledged in a time.
pub(super) fn acked_within(events: &[Event], from: u64, to: u64) -> u64 {
    let within = events
        .iter()
        .filter(|event| (from..=to).contains(&event.at));
    within
        .filter(|event| matches!(event.what, What::Ok { .. }))
        .count() as u64
}

/// How long messages of those without stream management, which were sent in a time, took until the room reflected them, in
/// milliseconds: nothing but the way there, the commit, and the way back. One that never came counts up to the end of the
/// history.
pub(super) fn reflections(events: &[Event], from: u64, to: u64) -> Vec<u64> {
    let plain: BTreeSet<u32> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Joined {
                session,
                stream_management: false,
                reads_archive: false,
                ..
            } => Some(*session),
            _ => None,
        })
        .collect();
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    let mut took = Vec::new();
    for event in events {
        match &event.what {
            What::Invoke { session, token, .. }
                if plain.contains(session) && (from..=to).contains(&event.at) =>
            {
                sent.insert(token, event.at);
            }
            What::Ok { token } => {
                let began = sent.remove(token.as_str());
                took.extend(began.map(|began| milliseconds(event.at - began)));
            }
            // Who loses its connection doesn't hear; what became of it is for others to judge.
            What::Info { token } | What::Fail { token } => {
                sent.remove(token.as_str());
            }
            _ => {}
        }
    }
    let end = events.last().map_or(0, |last| last.at);
    took.extend(sent.values().map(|began| milliseconds(end - began)));
    took
}

/// How many streams of nodes to which nothing was done ended between a fault and the next heal.
pub(super) fn disturbed(events: &[Event], fault: u64) -> u64 {
    let behind = events.iter().filter(|event| event.at >= fault);
    let until_healed = behind.take_while(|event| event.what != What::Healed);
    until_healed
        .filter(|event| matches!(event.what, What::Disturbed { .. }))
        .count() as u64
}

/// What became of those who lost their connection in a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Returns {
    /// How long sessions were without one, in milliseconds.
    pub(super) resumed: Vec<u64>,
    /// Sessions that were not to be had again.
    pub(super) lost: u64,
    /// Messages that were refused.
    pub(super) refused: u64,
}

/// Of sessions that can be resumed, for whatever reason they lost the connection; one that gives up is lost, too. Refusals are
/// those of sessions with numbers below `court`: others are refused on purpose.
pub(super) fn returns(events: &[Event], (from, to): (u64, u64), court: u32) -> Returns {
    let mut found = Returns::default();
    let mut away: BTreeMap<u32, u64> = BTreeMap::new();
    let ours: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Invoke { session, token, .. } if *session < court => Some(token.as_str()),
            _ => None,
        })
        .collect();
    for event in events.iter().filter(|event| event.at >= from) {
        let in_time = event.at <= to;
        match &event.what {
            What::Dropped { session } if in_time => {
                away.insert(*session, event.at);
            }
            What::Resumed { session, .. } => {
                let since = away.remove(session);
                found
                    .resumed
                    .extend(since.map(|since| milliseconds(event.at - since)));
            }
            What::Lost { session, .. } | What::Left { session } => {
                found.lost += u64::from(away.remove(session).is_some());
            }
            What::Fail { token } if in_time && ours.contains(token.as_str()) => found.refused += 1,
            _ => {}
        }
    }
    let end = events.last().map_or(0, |last| last.at);
    found
        .resumed
        .extend(away.values().map(|since| milliseconds(end - since)));
    found
}

/// How long after each mend that is followed by ten seconds without a fault each watcher was shown another one wrongly, in
/// milliseconds. Of users who did not come or go meanwhile; where nothing ran the time begins when the pool must serve.
pub(super) fn shown_after_mends(events: &[Event]) -> Vec<u64> {
    let mut found = Vec::new();
    for (number, mend) in events.iter().enumerate() {
        let What::Mended { from_nothing } = mend.what else {
            continue;
        };
        let from = mend.at + if from_nothing { STARTED } else { 0 };
        let (due, behind) = (from + CONVERGES, number + 1);
        let rest = events.get(behind..).unwrap_or_default();
        let is_over =
            |event: &&Event| matches!(event.what, What::Fault { .. } | What::Mended { .. });
        let over = rest.iter().find(is_over).or(events.last());
        if over.is_some_and(|over| over.at >= due) {
            found.extend(shown_within(events, from, due));
        }
    }
    found
}

/// A start of all nodes, and P14's bound.
const STARTED: u64 = 15_000_000_000;
const CONVERGES: u64 = 10_000_000_000;

fn shown_within(events: &[Event], from: u64, due: u64) -> Vec<u64> {
    let mut truth: BTreeMap<&str, bool> = BTreeMap::new();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    let mut views: BTreeMap<(&str, &str), Vec<(u64, bool)>> = BTreeMap::new();
    for event in events.iter().take_while(|event| event.at <= due) {
        match &event.what {
            What::Online { user, online } => {
                truth.insert(user, *online);
                if event.at >= from {
                    changed.insert(user);
                }
            }
            What::Presence {
                observer,
                user,
                online,
            } => views
                .entry((observer, user))
                .or_default()
                .push((event.at, *online)),
            _ => {}
        }
    }
    let steady = views
        .iter()
        .filter(|((_, user), _)| !changed.contains(user));
    steady
        .map(|((_, user), views)| {
            let is = truth.get(user).copied().unwrap_or(false);
            // Nothing is shown before the first; each view lasts until the next.
            let begins = std::iter::once((0, false)).chain(views.iter().copied());
            let ends = views.iter().map(|(at, _)| *at).chain([due]);
            let wrong = begins.zip(ends).filter(|((_, online), _)| *online != is);
            let last = wrong.map(|(_, end)| end).max().unwrap_or(0);
            milliseconds(last.saturating_sub(from))
        })
        .collect()
}

/// Of the nanoseconds of a history.
pub(super) fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000
}

/// How far groups have come: their terms, and how often leaders have handed them over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reigns {
    /// The newest term of each group.
    pub(super) terms: BTreeMap<u64, u64>,
    /// Handovers of each group, which begin a term without an election of need.
    pub(super) handovers: BTreeMap<u64, u64>,
}

impl Reigns {
    /// Adds the handovers that a node's log tells of.
    pub(super) fn read(&mut self, log: &str) {
        let lines = log.lines().filter(|line| line.contains("handing over"));
        for line in lines {
            let group = line.split_once("group=group of partition ");
            let group = group.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            if let Some(group) = group {
                *self.handovers.entry(group).or_default() += 1;
            }
        }
    }

    /// How many elections there were since then in the group that had most, in ten seconds; a time that is shorter counts as
    /// ten.
    pub(super) fn elections_since(&self, before: &Reigns, span: Duration) -> u64 {
        let grown = |of: fn(&Reigns) -> &BTreeMap<u64, u64>, group: &u64| {
            let [now, then] = [self, before].map(|reigns| of(reigns).get(group).copied());
            now.unwrap_or(0).saturating_sub(then.unwrap_or(0))
        };
        let known = self
            .terms
            .keys()
            .filter(|group| before.terms.contains_key(group));
        let elections = known.map(|group| {
            let handovers = grown(|reigns| &reigns.handovers, group);
            grown(|reigns| &reigns.terms, group).saturating_sub(handovers)
        });
        (elections.max().unwrap_or(0) * 10).div_ceil(span.as_secs().max(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn history(story: Vec<(u64, What)>) -> Vec<Event> {
        let event = |(at, what)| Event { at: at * MS, what };
        story.into_iter().map(event).collect()
    }

    fn joined(session: u32, stream_management: bool) -> What {
        What::Joined {
            session,
            log: "room".into(),
            node: 1,
            home: 1,
            stream_management,
            reads_archive: false,
        }
    }

    fn invoke(session: u32, token: &str) -> What {
        What::Invoke {
            session,
            log: "room".into(),
            token: token.into(),
        }
    }

    fn ok(token: &str) -> What {
        What::Ok {
            token: token.into(),
        }
    }

    #[test]
    fn what_was_sent_in_a_time_is_measured() {
        let events = history(vec![
            (0, joined(1, false)),
            (0, joined(2, true)),
            (5, invoke(1, "before")),
            (10, invoke(1, "a")),
            (11, invoke(2, "managed")),
            (12, ok("before")),
            (15, ok("managed")),
            (40, ok("a")),
            (50, invoke(1, "lost")),
            (
                55,
                What::Info {
                    token: "lost".into(),
                },
            ),
            (60, invoke(1, "never")),
            (70, invoke(1, "behind")),
            (100, ok("behind")),
        ]);
        assert_eq!(reflections(&events, 10 * MS, 65 * MS), [30, 40]);
        assert_eq!(acked_within(&events, 12 * MS, 40 * MS), 3);
    }

    #[test]
    fn who_loses_a_connection_comes_back_or_does_not() {
        let dropped = |session| What::Dropped { session };
        let resumed = |session| What::Resumed {
            session,
            node: 2,
            h: 0,
            acked: 0,
            sent: 0,
            open: Vec::new(),
        };
        let lost = |session| What::Lost {
            session,
            h: None,
            acked: 0,
            sent: 0,
        };
        let refused = || What::Fail { token: "a".into() };
        let events = history(vec![
            (0, invoke(1, "a")),
            (0, invoke(100, "at court")),
            (1, dropped(9)),
            (2, refused()),
            (10, dropped(1)),
            (11, dropped(2)),
            (12, resumed(9)),
            (15, refused()),
            (20, dropped(3)),
            (25, dropped(4)),
            (40, resumed(1)),
            (41, lost(2)),
            // Seldom, both are told of one.
            (42, What::Left { session: 2 }),
            (45, What::Left { session: 4 }),
            (50, refused()),
            (
                51,
                What::Fail {
                    token: "at court".into(),
                },
            ),
            // Its time is over, those of before still count.
            (60, dropped(5)),
            (70, lost(5)),
            (80, invoke(7, "end")),
        ]);
        let expect = Returns {
            resumed: vec![30, 60],
            lost: 2,
            refused: 2,
        };
        assert_eq!(returns(&events, (10 * MS, 55 * MS), 100), expect);
    }

    #[test]
    fn streams_that_end_count_up_to_the_heal() {
        let ends = || What::Disturbed { session: 1 };
        let events = history(vec![
            (1, ends()),
            (5, ends()),
            (6, ends()),
            (7, What::Healed),
            (8, ends()),
        ]);
        assert_eq!(disturbed(&events, 2 * MS), 2);
        assert_eq!(disturbed(&events, 7 * MS), 0);
    }

    #[test]
    fn watchers_are_shown_the_truth_some_time_after_a_mend() {
        let shown = |online| What::Presence {
            observer: "romeo".into(),
            user: "juliet".into(),
            online,
        };
        let there = |online| What::Online {
            user: "juliet".into(),
            online,
        };
        let mended = |from_nothing| What::Mended { from_nothing };
        let fault = || What::Fault {
            what: "kill".into(),
        };
        let check = |story: Vec<(u64, What)>, expect: &[u64]| {
            let begin = vec![(1, there(true)), (2, shown(true)), (3, shown(false))];
            let events = history([begin, story].concat());
            assert_eq!(shown_after_mends(&events), expect, "{events:?}");
        };
        let end = |at| (at, fault());
        check(
            vec![(10, mended(false)), (4_010, shown(true)), end(20_000)],
            &[4_000],
        );
        check(vec![(10, mended(false)), end(20_000)], &[10_000]);
        // It was wrong once more.
        let again = vec![
            (10, mended(false)),
            (1_000, shown(true)),
            (2_000, shown(false)),
            (3_010, shown(true)),
            end(20_000),
        ];
        check(again, &[3_000]);
        // Right before it began to count; too short to tell; and a user who goes.
        check(
            vec![(10, mended(true)), (9_000, shown(true)), end(30_000)],
            &[0],
        );
        check(vec![(10, mended(false)), end(9_000)], &[]);
        check(
            vec![(10, mended(false)), (50, there(false)), end(20_000)],
            &[],
        );
    }

    #[test]
    fn elections_are_those_of_the_group_that_had_most() {
        let before = Reigns {
            terms: [(1, 4), (2, 9)].into(),
            handovers: [(1, 2)].into(),
        };
        let mut after = Reigns {
            terms: [(1, 8), (2, 10), (3, 50)].into(),
            handovers: before.handovers.clone(),
        };
        let of =
            |after: &Reigns, seconds| after.elections_since(&before, Duration::from_secs(seconds));
        assert_eq!(
            [5, 10, 15, 40].map(|seconds| of(&after, seconds)),
            [4, 4, 3, 1]
        );
        assert_eq!(of(&before, 5), 0);
        // One of four was a handover.
        after.read(
            "… INFO cluster::raft::upkeep: handing over to the preferred leader group=group of partition 1 to=node 3\n\
             … INFO cluster::raft::upkeep: something else group=group of partition 1 to=node 3\n",
        );
        assert_eq!(after.handovers, [(1, 3)].into());
        assert_eq!(of(&after, 5), 3);
    }
}
