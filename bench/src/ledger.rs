//! What was sent and who got it: one cell for each message and recipient.
//!
//! Fixed in size when it is made, without locks. Messages may have different numbers of recipients. A message is a number; its cells count how often it came. When it
//! was *due* (not when it was sent) stands beside them, so that latencies are free of coordinated omission: a
//! generator that fell behind makes the messages late, not few.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cells of one ledger.
pub(crate) const CELLS_MAX: usize = 64_000_000;

/// Messages and their recipients.
#[derive(Debug)]
pub(crate) struct Ledger {
    start: Instant,
    shape: Shape,
    /// Nanoseconds since `start`, plus one; zero: not sent.
    due: Vec<AtomicU64>,
    came: Vec<AtomicU8>,
}

/// Which cells are a message's.
#[derive(Debug)]
enum Shape {
    /// Each has as many recipients.
    Each(usize),
    /// Where each begins, and where the last one ends.
    From(Vec<usize>),
}

impl Shape {
    fn cells(&self, message: usize) -> Range<usize> {
        match self {
            Shape::Each(recipients) => {
                let first = message.saturating_mul(*recipients);
                first..first.saturating_add(*recipients)
            }
            Shape::From(starts) => match (starts.get(message), starts.get(message + 1)) {
                (Some(first), Some(end)) => *first..*end,
                _ => 0..0,
            },
        }
    }

    fn cell(&self, message: usize, recipient: usize) -> Option<usize> {
        let cells = self.cells(message);
        let cell = cells.start.checked_add(recipient)?;
        (cell < cells.end).then_some(cell)
    }
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
            shape: Shape::Each(recipients),
            due: (0..messages).map(|_| AtomicU64::new(0)).collect(),
            came: (0..cells).map(|_| AtomicU8::new(0)).collect(),
        })
    }

    /// For messages of which each has a number of recipients of its own.
    pub(crate) fn of(
        recipients: impl Iterator<Item = usize>,
        start: Instant,
    ) -> anyhow::Result<Ledger> {
        let mut starts = vec![0];
        let mut cells: usize = 0;
        for count in recipients {
            cells = cells.saturating_add(count);
            if cells > CELLS_MAX {
                anyhow::bail!("more recipients of messages than can be followed ({CELLS_MAX})");
            }
            starts.push(cells);
        }
        Ok(Ledger {
            start,
            due: (1..starts.len()).map(|_| AtomicU64::new(0)).collect(),
            came: (0..cells).map(|_| AtomicU8::new(0)).collect(),
            shape: Shape::From(starts),
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
        let Some(due) = self.due(message) else {
            return Arrival::Unknown;
        };
        let Some(cell) = self.cell(message, recipient) else {
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
        let cell = self.cell(message, recipient);
        cell.is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    fn cell(&self, message: usize, recipient: usize) -> Option<&AtomicU8> {
        self.came.get(self.shape.cell(message, recipient)?)
    }

    /// What has come of all that was sent.
    pub(crate) fn sum(&self) -> Sum {
        self.sum_of(|_, _| true)
    }

    /// What has come of all that was sent; only these cells, by message and recipient, must have something in them.
    pub(crate) fn sum_of(&self, must_have: impl Fn(usize, usize) -> bool) -> Sum {
        let mut sum = Sum::default();
        for message in (0..self.messages()).filter(|message| self.due(*message).is_some()) {
            sum.sent += 1;
            let cells = self.came.get(self.shape.cells(message));
            for (recipient, cell) in cells.unwrap_or_default().iter().enumerate() {
                let count = u64::from(cell.load(Ordering::Relaxed));
                sum.delivered += count.min(1);
                sum.doubled += count.saturating_sub(1);
                sum.missing += u64::from(count == 0 && must_have(message, recipient));
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
    fn messages_with_different_numbers_of_recipients() {
        let start = Instant::now();
        let ledger = Ledger::of([2, 0, 3].into_iter(), start).unwrap();
        assert_eq!(ledger.messages(), 3);
        for message in 0..3 {
            ledger.sent(message, start);
        }
        let first = Arrival::First(Duration::ZERO);
        for (message, recipient, expect) in [
            (0, 1, first),
            (0, 2, Arrival::Unknown),
            (1, 0, Arrival::Unknown),
            (2, 0, first),
            (2, 0, Arrival::Doubled),
            (2, 3, Arrival::Unknown),
            (3, 0, Arrival::Unknown),
        ] {
            assert_eq!(ledger.arrived(message, recipient, start), expect);
        }
        let sum = |missing| Sum {
            sent: 3,
            delivered: 2,
            doubled: 1,
            missing,
        };
        assert_eq!(ledger.sum(), sum(3));
        assert_eq!(ledger.sum_of(|message, _| message == 0), sum(1));
        let many = [CELLS_MAX, 1].into_iter();
        assert!(Ledger::of(many, start).is_err());
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
