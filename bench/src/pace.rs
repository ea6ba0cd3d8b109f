//! The open loop's clock: when each message is due, whatever the server does.

use std::time::Duration;

/// A steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    per_second: f64,
}

impl Pace {
    /// So many a second; `None` unless that is a positive number.
    pub(crate) fn new(per_second: f64) -> Option<Pace> {
        (per_second.is_finite() && per_second > 0.0).then_some(Pace { per_second })
    }

    /// When the message is due, after the start.
    pub(crate) fn due(self, message: usize) -> Duration {
        Duration::try_from_secs_f64(message as f64 / self.per_second).unwrap_or(Duration::MAX)
    }

    /// How many messages are due within this time.
    pub(crate) fn messages(self, within: Duration) -> usize {
        (within.as_secs_f64() * self.per_second).floor() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces() {
        let check = |rate: f64, message, millis: u64, within: u64, count| {
            let pace = Pace::new(rate).unwrap();
            assert_eq!(pace.due(message), Duration::from_millis(millis));
            assert_eq!(pace.messages(Duration::from_secs(within)), count);
        };
        check(500.0, 0, 0, 10, 5000);
        check(500.0, 500, 1000, 1, 500);
        check(0.5, 1, 2000, 5, 2);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Pace::new(bad).is_none());
        }
        assert_eq!(Pace::new(1e-300).unwrap().due(usize::MAX), Duration::MAX);
    }
}
