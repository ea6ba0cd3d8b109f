//! What was sent and who got it: one cell for each message and recipient.
//!
//! Fixed in size when it is made, without locks. A message is a number; its cells count how often it came. When it
//! was *due* (not when it was sent) stands beside them, so that latencies are free of coordinated omission: a
//! generator that fell behind makes the messages late, not few.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cells of one ledger.
pub(crate) const CELLS_MAX: usize = 64_000_000;

/// Messages and their recipients.
#[derive(Debug)]
pub(crate) struct Ledger {
    start: Instant,
    recipients: usize,
    /// Nanoseconds since `start`, plus one; zero: not sent.
    due: Vec<AtomicU64>,
    came: Vec<AtomicU8>,
}

/// What a message's arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// As it should be, so long after it was due.
    First(Duration),
    /// It has been here before.
    Doubled,
    /// Nobody sent this to them.
    Unknown,
}

/// The sum of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Messages sent.
    pub(crate) sent: u64,
    /// Arrivals that were the first of theirs.
    pub(crate) delivered: u64,
    /// Arrivals beyond the first.
    pub(crate) doubled: u64,
    /// Cells of sent messages into which nothing came.
    pub(crate) missing: u64,
}

impl Ledger {
    /// For so many messages of so many recipients each.
    pub(crate) fn new(
        messages: usize,
        recipients: usize,
        start: Instant,
    ) -> anyhow::Result<Ledger> {
        let cells = messages.saturating_mul(recipients);
        if cells > CELLS_MAX {
            anyhow::bail!(
                "{messages} messages of {recipients} recipients are more than can be followed ({CELLS_MAX})"
            );
        }
        Ok(Ledger {
            start,
            recipients,
            due: (0..messages).map(|_| AtomicU64::new(0)).collect(),
            came: (0..cells).map(|_| AtomicU8::new(0)).collect(),
        })
    }

    /// How many messages it can hold.
    pub(crate) fn messages(&self) -> usize {
        self.due.len()
    }

    /// The message goes out now, and was due then.
    pub(crate) fn sent(&self, message: usize, due: Instant) {
        if let Some(cell) = self.due.get(message) {
            let nanos = due.saturating_duration_since(self.start).as_nanos();
            cell.store(
                u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// When it was due, if it was sent.
    pub(crate) fn due(&self, message: usize) -> Option<Instant> {
        let nanos = self
            .due
            .get(message)?
            .load(Ordering::Relaxed)
            .checked_sub(1)?;
        Some(self.start + Duration::from_nanos(nanos))
    }

    /// The message has come to a recipient.
    pub(crate) fn arrived(&self, message: usize, recipient: usize, at: Instant) -> Arrival {
        let Some(due) = self.due(message).filter(|_| recipient < self.recipients) else {
            return Arrival::Unknown;
        };
        let Some(cell) = self.came.get(message * self.recipients + recipient) else {
            return Arrival::Unknown;
        };
        let before = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            Some(count.saturating_add(1))
        });
        match before {
            Ok(0) => Arrival::First(at.saturating_duration_since(due)),
            _ => Arrival::Doubled,
        }
    }

    /// Whether it has come to this recipient.
    pub(crate) fn has(&self, message: usize, recipient: usize) -> bool {
        let cell = self.came.get(message * self.recipients + recipient);
        recipient < self.recipients && cell.is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// What has come of all that was sent.
    pub(crate) fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for (message, cells) in self.came.chunks(self.recipients.max(1)).enumerate() {
            if self.due(message).is_none() {
                continue;
            }
            sum.sent += 1;
            for cell in cells {
                let count = u64::from(cell.load(Ordering::Relaxed));
                sum.delivered += count.min(1);
                sum.doubled += count.saturating_sub(1);
                sum.missing += u64::from(count == 0);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_told_from_what_did_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let ledger = Ledger::new(3, 2, start).unwrap();
        assert_eq!(
            ledger.arrived(0, 0, at(1)),
            Arrival::Unknown,
            "not sent yet"
        );
        ledger.sent(0, at(10));
        ledger.sent(1, at(20));
        assert_eq!(
            ledger.arrived(0, 0, at(15)),
            Arrival::First(Duration::from_millis(5))
        );
        assert_eq!(ledger.arrived(0, 0, at(16)), Arrival::Doubled);
        assert_eq!(
            ledger.arrived(1, 1, at(19)),
            Arrival::First(Duration::ZERO),
            "before it was due"
        );
        for (message, recipient) in [(3, 0), (0, 2), (2, 0), (usize::MAX, 0), (0, usize::MAX)] {
            assert_eq!(ledger.arrived(message, recipient, at(30)), Arrival::Unknown);
        }
        assert!(ledger.has(1, 1) && !ledger.has(1, 0) && !ledger.has(0, 2));
        assert_eq!(
            ledger.sum(),
            Sum {
                sent: 2,
                delivered: 2,
                doubled: 1,
                missing: 2
            }
        );
    }

    #[test]
    fn a_ledger_is_bounded() {
        let check = |messages, recipients, good| {
            assert_eq!(
                Ledger::new(messages, recipients, Instant::now()).is_ok(),
                good
            );
        };
        check(0, 0, true);
        check(10, 0, true);
        check(usize::MAX, 2, false);
        check(CELLS_MAX + 1, 1, false);
    }
}
