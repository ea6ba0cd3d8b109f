//! How long writers waited after each fault, and how long readers heard nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::history::{Event, What};

/// The waits, shortest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps(Vec<Duration>);

/// For each fault: from the fault to the first acknowledgement of a message to `log` that was sent after it.
pub fn gaps(events: &[Event], log: &str) -> Gaps {
    let mut gaps = Vec::new();
    for (at, fault) in events.iter().enumerate() {
        if !matches!(fault.what, What::Fault { .. }) {
            continue;
        }
        let rest = events.get(at..).unwrap_or_default();
        let mut sent = BTreeSet::new();
        for event in rest {
            match &event.what {
                What::Invoke { log: to, token, .. } if to == log => {
                    sent.insert(token);
                }
                What::Ok { token } if sent.contains(token) => {
                    gaps.push(Duration::from_nanos(event.at.saturating_sub(fault.at)));
                    break;
                }
                _ => {}
            }
        }
    }
    gaps.sort();
    Gaps(gaps)
}

/// How long those in a room heard nothing new after something happened to some nodes: of each user who was in over another
/// node then, the time from the blow to the first message that was sent after it had `struck` (it takes a moment), over
/// whatever session it came. Who was never sent one counts until the end of the history; who went over to one of these nodes
/// meanwhile does not count.
pub fn silences(
    events: &[Event],
    log: &str,
    (blow, struck): (u64, u64),
    nodes: &[u64],
) -> Vec<Duration> {
    let (mut users, mut inside) = (BTreeMap::new(), BTreeMap::new());
    let behind = events.partition_point(|event| event.at <= blow);
    let (before, after) = events.split_at(behind);
    for event in events {
        if let What::Named { session, user } = &event.what {
            users.insert(*session, user.as_str());
        }
    }
    for event in before {
        match &event.what {
            What::Joined {
                session,
                log: at,
                node,
                ..
            } if at == log => {
                inside.insert(*session, *node);
            }
            What::Resumed { session, node, .. } if inside.contains_key(session) => {
                inside.insert(*session, *node);
            }
            What::Left { session } => {
                inside.remove(session);
            }
            _ => {}
        }
    }
    let others = inside.iter().filter(|(_, node)| !nodes.contains(*node));
    let mut waiting: BTreeSet<&str> = others
        .filter_map(|(session, _)| users.get(session).copied())
        .collect();
    let (mut sent, mut heard) = (BTreeSet::new(), Vec::new());
    let since_blow = |at: u64| Duration::from_nanos(at.saturating_sub(blow));
    for event in after {
        match &event.what {
            What::Invoke { log: to, token, .. } if to == log && event.at >= struck => {
                sent.insert(token.as_str());
            }
            What::Resumed { session, node, .. } | What::Joined { session, node, .. }
                if nodes.contains(node) =>
            {
                if let Some(user) = users.get(session) {
                    waiting.remove(user);
                }
            }
            What::Received { session, token, .. } if sent.contains(token.as_str()) => {
                let user = users.get(session);
                if user.is_some_and(|user| waiting.remove(user)) {
                    heard.push(since_blow(event.at));
                }
            }
            _ => {}
        }
    }
    let end = events.last().map_or(0, |last| last.at);
    heard.extend(waiting.iter().map(|_| since_blow(end)));
    heard
}

impl From<Vec<Duration>> for Gaps {
    fn from(mut gaps: Vec<Duration>) -> Gaps {
        gaps.sort();
        Gaps(gaps)
    }
}

impl Gaps {
    /// How many faults were followed by an acknowledgement.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The wait that so many percent did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile(percent).as_millis());
        write!(
            f,
            "{} faults, first acknowledgement after p50 {p50} ms, p99 {p99} ms, max {max} ms",
            self.count()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_ends_with_the_first_acknowledgement_of_what_was_sent_after_the_fault() {
        let invoke = |token: &str| What::Invoke {
            session: 1,
            log: "room".into(),
            token: token.into(),
        };
        let ok = |token: &str| What::Ok {
            token: token.into(),
        };
        let fault = || What::Fault {
            what: "kill".into(),
        };
        let story = [
            (0, invoke("a")),
            (10, fault()),
            (20, ok("a")),
            (30, invoke("b")),
            (90, ok("b")),
        ];
        let story = story.into_iter().chain([
            (100, fault()),
            (110, invoke("c")),
            (120, ok("c")),
            (130, fault()),
        ]);
        let events: Vec<Event> = story.map(|(at, what)| Event { at, what }).collect();
        let gaps = gaps(&events, "room");
        assert_eq!(gaps.count(), 2);
        assert_eq!(gaps.percentile(50), Duration::from_nanos(20));
        assert_eq!(gaps.percentile(99), Duration::from_nanos(80));
        assert_eq!(Gaps::default().percentile(50), Duration::ZERO);
    }

    #[test]
    fn a_silence_is_that_of_those_on_other_nodes_and_ends_with_what_was_sent_after_the_blow() {
        let named = |session, user: &str| What::Named {
            session,
            user: user.into(),
        };
        let joined = |session, node| What::Joined {
            session,
            log: "room".into(),
            node,
            home: node,
            stream_management: true,
            reads_archive: false,
        };
        let invoke = |token: &str| What::Invoke {
            session: 1,
            log: "room".into(),
            token: token.into(),
        };
        let resumed = |session, node| What::Resumed {
            session,
            node,
            h: 0,
            acked: 0,
            sent: 0,
            open: Vec::new(),
        };
        let received = |session, token: &str| What::Received {
            session,
            log: "room".into(),
            token: token.into(),
            id: token.into(),
        };
        let story = [
            (0, named(1, "on the dead node")),
            (1, named(2, "another")),
            (2, named(3, "deaf")),
            (3, named(4, "gone")),
            (3, named(6, "mover")),
            (4, joined(1, 1)),
            (5, joined(2, 2)),
            (6, joined(3, 3)),
            (7, joined(4, 3)),
            (7, joined(6, 2)),
            (8, What::Left { session: 4 }),
            (9, invoke("before")),
            // The blow, to node 1.
            (20, received(2, "before")),
            (30, invoke("after")),
            (31, named(5, "another")),
            (40, resumed(6, 1)),
            (70, received(5, "after")),
            (80, received(2, "after")),
            (90, received(1, "after")),
            (100, What::Healed),
        ];
        let events: Vec<Event> = story.map(|(at, what)| Event { at, what }).into();
        let heard = |nodes: &[u64]| {
            let gaps = Gaps::from(silences(&events, "room", (10, 10), nodes));
            let gaps = gaps.0.iter().map(Duration::as_nanos);
            gaps.collect::<Vec<_>>()
        };
        // What was sent while it had not yet struck is no news.
        let late = silences(&events, "room", (10, 95), &[1]);
        assert!(late.iter().all(|gap| gap.as_nanos() == 90), "{late:?}");
        assert_eq!(heard(&[1]), [60, 90]);
        assert_eq!(heard(&[1, 3]), [60]);
        assert_eq!(heard(&[]), [60, 80, 90, 90]);
    }
}
