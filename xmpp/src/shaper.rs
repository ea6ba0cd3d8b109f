//! Shapers: how much of something may come in how little time. Token buckets, without a clock.
//!
//! A [`Pace`] is what operators set, a [`Bucket`] what is kept for one stream or user: only the time at which it will be
//! full again. What can be refused is *taken* beforehand; what has already come (bytes off a socket) is *charged*, and
//! the reader then waits until the debt is paid. Neither ends a stream: clients give up all they had under way then.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// So much in each span of time, after so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    amount: NonZeroU64,
    per: Duration,
    burst: NonZeroU64,
}

impl Pace {
    /// `amount` in each `per`, after `burst` at once; `None`, which stands for no bound, if `amount` or `burst` is 0.
    pub fn new(amount: u64, per: Duration, burst: u64) -> Option<Pace> {
        Some(Pace {
            amount: NonZeroU64::new(amount)?,
            per,
            burst: NonZeroU64::new(burst)?,
        })
    }

    /// How long so much takes at this pace.
    fn time_of(&self, count: u64) -> Duration {
        let nanos = u128::from(count).saturating_mul(self.per.as_nanos());
        let nanos = nanos / u128::from(self.amount.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn time_of_burst(&self) -> Duration {
        self.time_of(self.burst.get())
    }
}

/// A token bucket; full at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// `None`: it is full.
    full_at: Option<Instant>,
}

impl Bucket {
    /// How long it takes until it is full.
    fn owed(&self, now: Instant) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(now);
        self.full_at.map_or(Duration::ZERO, until)
    }

    /// Takes so much if it is there.
    pub fn take(&mut self, pace: &Pace, count: u64, now: Instant) -> bool {
        let owed = self.owed(now).saturating_add(pace.time_of(count));
        let fits = owed <= pace.time_of_burst();
        if fits {
            self.full_at = now.checked_add(owed);
        }
        fits
    }

    /// Takes so much whether it is there or not.
    pub fn charge(&mut self, pace: &Pace, count: u64, now: Instant) {
        let owed = self.owed(now).saturating_add(pace.time_of(count));
        self.full_at = now.checked_add(owed).or(self.full_at);
    }

    /// When what was charged beyond the burst is paid; `None`: it is now.
    pub fn paid_at(&self, pace: &Pace, now: Instant) -> Option<Instant> {
        let debt = self.owed(now).checked_sub(pace.time_of_burst())?;
        (debt > Duration::ZERO).then(|| now + debt)
    }

    /// Whether nothing was taken for so long that it is as good as new.
    pub fn is_full(&self, now: Instant) -> bool {
        self.owed(now).is_zero()
    }
}

/// What one stream may send; `None`: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPaces {
    /// Bytes, decrypted where there is TLS.
    pub bytes: Option<Pace>,
    /// Stanzas.
    pub stanzas: Option<Pace>,
}

/// Counts what one stream sends. Whoever owns it reads on when both paces allow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamShaper {
    bytes: Bucket,
    stanzas: Bucket,
}

impl StreamShaper {
    /// So many bytes came.
    pub fn bytes(&mut self, paces: &StreamPaces, count: usize, now: Instant) {
        if let Some(pace) = &paces.bytes {
            self.bytes.charge(pace, count as u64, now);
        }
    }

    /// A stanza came.
    pub fn stanza(&mut self, paces: &StreamPaces, now: Instant) {
        if let Some(pace) = &paces.stanzas {
            self.stanzas.charge(pace, 1, now);
        }
    }

    /// When more may be read; `None`: now.
    pub fn reads_at(&self, paces: &StreamPaces, now: Instant) -> Option<Instant> {
        let due = |pace: &Option<Pace>, bucket: &Bucket| bucket.paid_at(pace.as_ref()?, now);
        due(&paces.bytes, &self.bytes).max(due(&paces.stanzas, &self.stanzas))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn no_amount_and_no_burst_are_no_bound() {
        assert_eq!(Pace::new(0, S, 5), None);
        assert_eq!(Pace::new(5, S, 0), None);
        let mut shaper = StreamShaper::default();
        let (paces, now) = (StreamPaces::default(), Instant::now());
        shaper.bytes(&paces, usize::MAX, now);
        shaper.stanza(&paces, now);
        assert_eq!(shaper.reads_at(&paces, now), None);
    }

    /// Steps: after so many ms, whether one more is given.
    fn check(pace: Pace, steps: &[(u64, bool)]) {
        let begin = Instant::now();
        let mut bucket = Bucket::default();
        for (ms, expect) in steps {
            let now = begin + Duration::from_millis(*ms);
            assert_eq!(
                bucket.take(&pace, 1, now),
                *expect,
                "at {ms} ms of {steps:?}"
            );
        }
    }

    #[test]
    fn after_the_burst_comes_the_pace() {
        let two_a_second = Pace::new(2, S, 3).unwrap();
        check(two_a_second, &[(0, true), (0, true), (0, true), (0, false)]);
        let after = [(0, true), (0, true), (0, true), (499, false), (500, true)];
        check(two_a_second, &after);
        // What is refused costs nothing, and rest fills the bucket but no further.
        let rest = [
            (0, true),
            (0, true),
            (0, true),
            (0, false),
            (0, false),
            (9_000, true),
            (9_000, true),
            (9_000, true),
            (9_000, false),
        ];
        check(two_a_second, &rest);
        check(
            Pace::new(1, 60 * S, 1).unwrap(),
            &[(0, true), (59_999, false), (60_000, true), (60_001, false)],
        );
    }

    #[test]
    fn what_came_beyond_the_burst_is_waited_for() {
        let begin = Instant::now();
        let paces = StreamPaces {
            bytes: Pace::new(1_000, S, 4_000),
            stanzas: Pace::new(10, S, 5),
        };
        let mut shaper = StreamShaper::default();
        shaper.bytes(&paces, 4_000, begin);
        assert_eq!(shaper.reads_at(&paces, begin), None);
        shaper.bytes(&paces, 500, begin);
        let paid = begin + S / 2;
        assert_eq!(shaper.reads_at(&paces, begin), Some(paid));
        assert_eq!(shaper.reads_at(&paces, begin + S / 4), Some(paid));
        assert_eq!(shaper.reads_at(&paces, paid), None);
        // The later of the two counts.
        for _ in 0..12 {
            shaper.stanza(&paces, begin);
        }
        assert_eq!(shaper.reads_at(&paces, begin), Some(begin + 7 * S / 10));
    }

    #[test]
    fn a_bucket_is_full_again_after_a_while() {
        let begin = Instant::now();
        let pace = Pace::new(1, S, 10).unwrap();
        let mut bucket = Bucket::default();
        assert!(bucket.is_full(begin));
        assert!(bucket.take(&pace, 3, begin));
        assert!(!bucket.is_full(begin + 2 * S));
        assert!(bucket.is_full(begin + 3 * S));
    }

    #[test]
    fn the_largest_values_do_no_harm() {
        let now = Instant::now();
        let slow = Pace::new(1, Duration::MAX, u64::MAX).unwrap();
        let mut bucket = Bucket::default();
        bucket.charge(&slow, u64::MAX, now);
        bucket.charge(&slow, u64::MAX, now);
        bucket.take(&slow, u64::MAX, now);
        bucket.paid_at(&slow, now);
    }

    proptest! {
        /// In any span, no more is given than the burst and what the pace allows for the span.
        #[test]
        fn no_span_gets_more_than_burst_and_pace(
            amount in 1u64..50, burst in 1u64..50,
            steps in prop::collection::vec((0u64..300, 1u64..5), 1..80),
        ) {
            let pace = Pace::new(amount, S, burst).unwrap();
            let begin = Instant::now();
            let mut bucket = Bucket::default();
            let (mut at, mut given) = (0, Vec::new());
            for (ms, count) in steps {
                at += ms;
                if bucket.take(&pace, count, begin + Duration::from_millis(at)) {
                    given.push((at, count));
                }
            }
            for (from, (start, _)) in given.iter().enumerate() {
                let mut sum = 0u64;
                for (end, count) in &given[from..] {
                    sum += count;
                    let allowed = burst as f64 + amount as f64 * (end - start) as f64 / 1000.0;
                    prop_assert!(sum as f64 <= allowed + 1e-3);
                }
            }
        }
    }
}
