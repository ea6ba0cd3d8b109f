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

/// Of the nanoseconds of a history.
pub(super) fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000
}

/// By how much the term of one of the groups has grown at most, in ten seconds; a time that is shorter counts as ten.
pub(super) fn elections(
    before: &BTreeMap<u64, u64>,
    after: &BTreeMap<u64, u64>,
    span: Duration,
) -> u64 {
    let grown = after
        .iter()
        .map(|(group, term)| term.saturating_sub(before.get(group).copied().unwrap_or(*term)));
    let seconds = span.as_secs().max(10);
    (grown.max().unwrap_or(0) * 10).div_ceil(seconds)
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
    fn elections_are_those_of_the_group_that_had_most() {
        let before = [(1, 4), (2, 9)].into();
        let after = [(1, 7), (2, 10), (3, 50)].into();
        let of = |seconds| elections(&before, &after, Duration::from_secs(seconds));
        assert_eq!([of(5), of(10), of(15), of(30)], [3, 3, 2, 1]);
        assert_eq!(elections(&before, &before, Duration::from_secs(5)), 0);
    }
}
