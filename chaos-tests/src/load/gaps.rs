//! How long writers waited after each fault.

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
        let mut sent = std::collections::BTreeSet::new();
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
}
