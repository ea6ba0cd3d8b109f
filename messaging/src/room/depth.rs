//! How deep a room's log is kept, and what is remembered of the events that went.
//!
//! Archived messages stay. Of everything else (joins, parts, presences, messages that the archive doesn't show) the newest
//! 1,000 stay, and up to 99 more: rows go a hundred at a time, up to a sequence that the state names, so that every replica
//! removes the same ones whatever its archive held when the entry was applied, a replay included.
//!
//! A node whose cursor lies below that floor can't be shown each event. What it needs instead is remembered: the
//! nicknames that were given up (so that no client keeps a ghost), whether messages went that no archive has, and
//! whether the configuration changed.

use serde::{Deserialize, Serialize};

/// Events that stay at least.
pub const EVENTS_KEPT: usize = 1_000;

/// Events that go at once.
const STRIDE: u32 = 100;

/// Nicknames given up that are remembered.
pub const DEPARTURES_KEPT: u32 = 1_000;

/// The depth of one room's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDepth {
    /// The last of each hundred events, oldest first.
    strides: Vec<Stride>,
    /// Events since the last of them.
    since: u32,
    /// Whether one of those was a message.
    messages_since: bool,
    /// Events up to this row are gone; 0: none is.
    pub floor: u64,
    /// Up to this row messages are gone that no archive has; 0: none is.
    pub messages_floor: u64,
    /// The row of the last change of the configuration; 0: there was none.
    pub configured: u64,
    /// How many departures are remembered.
    pub departures: u32,
    /// Departures up to this row are forgotten; 0: none is.
    pub departures_floor: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stride {
    seq: u64,
    messages: bool,
}

impl LogDepth {
    /// An event has been added: up to which row older ones go now. `message`: one that no archive shows.
    pub(super) fn event(&mut self, seq: u64, message: bool) -> Option<u64> {
        self.since += 1;
        self.messages_since |= message;
        if self.since < STRIDE {
            return None;
        }
        let messages = std::mem::take(&mut self.messages_since);
        self.since = 0;
        self.strides.push(Stride { seq, messages });
        if self.strides.len() * STRIDE as usize <= EVENTS_KEPT {
            return None;
        }
        let gone = self.strides.remove(0);
        self.floor = gone.seq;
        if gone.messages {
            self.messages_floor = gone.seq;
        }
        Some(gone.seq)
    }

    /// Whether a node that has seen the log up to `cursor` can be brought up to date without the events that went.
    pub fn can_be_bridged_from(&self, cursor: u64) -> bool {
        cursor >= self.messages_floor && cursor >= self.departures_floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_a_thousand_events_stay_and_less_than_eleven_hundred() {
        let mut depth = LogDepth::default();
        let mut floor = 0;
        // Every third row is an archived message and counts for nothing.
        for (count, seq) in (1..=10_000u64).filter(|seq| seq % 3 != 0).enumerate() {
            if let Some(upto) = depth.event(seq, false) {
                assert!(upto > floor && upto == depth.floor);
                floor = upto;
            }
            let kept = (floor + 1..=seq).filter(|seq| seq % 3 != 0).count();
            assert_eq!(
                kept,
                if count + 1 < 1_100 {
                    count + 1
                } else {
                    1_000 + (count + 1) % 100
                }
            );
        }
        assert_eq!(depth.messages_floor, 0);
        assert!(depth.can_be_bridged_from(0));
    }

    #[test]
    fn messages_that_no_archive_has_are_missed() {
        let mut depth = LogDepth::default();
        for seq in 1..=1_199 {
            depth.event(seq, seq == 150);
        }
        assert_eq!((depth.floor, depth.messages_floor), (100, 0));
        depth.event(1_200, false);
        assert_eq!((depth.floor, depth.messages_floor), (200, 200));
        assert!(!depth.can_be_bridged_from(199));
        assert!(depth.can_be_bridged_from(200));
    }
}
