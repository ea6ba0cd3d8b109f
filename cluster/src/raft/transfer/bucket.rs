//! The token bucket in front of all that a node sends of snapshots: pure, time comes in.
//!
//! Instead of tokens it keeps the moment at which all that was let through is paid for; whoever asks waits for what was let
//! through before. So the order of asking is the order of sending, and a large frame passes at any rate.

use std::time::Duration;

/// What may be sent at once after a pause: a tenth of a second's worth.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second, and up to when they are spent.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    paid_until: Duration,
}

impl Bucket {
    /// So many bytes a second, at least one.
    pub(super) fn new(rate: u64) -> Bucket {
        Bucket {
            rate: rate.max(1),
            paid_until: Duration::ZERO,
        }
    }

    /// How long to wait before so many bytes may go, at `now` since any fixed moment.
    pub(super) fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let start = self.paid_until.max(now.saturating_sub(BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_until = start.saturating_add(cost);
        start.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_a_second_is_the_rate_and_a_burst() {
        let mut bucket = Bucket::new(1000);
        let mut now = Duration::from_secs(5);
        let mut sent = 0;
        while now < Duration::from_secs(15) {
            now += bucket.take(now, 50);
            sent += 50;
        }
        assert!((10_000..=10_200).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        let mut bucket = Bucket::new(1000);
        let check = |bucket: &mut Bucket, now, bytes, wait| {
            let waits = bucket.take(Duration::from_millis(now), bytes);
            assert_eq!(waits, Duration::from_millis(wait), "{bytes} at {now}");
        };
        check(&mut bucket, 10_000, 100, 0);
        check(&mut bucket, 10_000, 4000, 0);
        check(&mut bucket, 10_000, 1, 4000);
        check(&mut bucket, 60_000, 100, 0);
        check(&mut bucket, 60_000, 100, 0);
        check(&mut bucket, 60_000, 100, 100);
        check(&mut bucket, 60_000, u64::MAX, 200);
    }
}
