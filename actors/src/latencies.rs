//! How long something took lately: counts in buckets an eighth apart, without a lock, from which quantiles of the last
//! second can be told. Prometheus gets a histogram of its own with fewer buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Eight buckets for each doubling, up to 2³² µs: more than an hour.
const BUCKETS: usize = 8 * 30;

/// Counts since the start.
pub struct Latencies {
    counts: [AtomicU64; BUCKETS],
}

/// How often each bucket was met.
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyCounts([u64; BUCKETS]);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

impl Default for LatencyCounts {
    fn default() -> LatencyCounts {
        LatencyCounts([0; BUCKETS])
    }
}

impl Latencies {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if let Some(count) = self.counts.get(bucket(micros)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that was counted.
    pub fn counts(&self) -> LatencyCounts {
        let mut counts = LatencyCounts::default();
        for (to, from) in counts.0.iter_mut().zip(&self.counts) {
            *to = from.load(Ordering::Relaxed);
        }
        counts
    }
}

impl LatencyCounts {
    /// What came after an earlier look.
    pub fn since(&self, earlier: &LatencyCounts) -> LatencyCounts {
        let mut since = self.clone();
        for (count, before) in since.0.iter_mut().zip(&earlier.0) {
            *count = count.saturating_sub(*before);
        }
        since
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that `permille` thousandths of them did not exceed, in µs, at most an eighth too high; `None`: there are none.
    pub fn quantile_us(&self, permille: u64) -> Option<u32> {
        let wanted = (self.total() * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(highest(bucket));
            }
        }
        None
    }
}

/// The bucket of a time: eight of one µs each, then eight for each doubling.
fn bucket(micros: u32) -> usize {
    let exponent = micros.max(8).ilog2();
    let shift = exponent - 3;
    (shift * 8 + (micros >> shift)) as usize
}

/// The highest time of a bucket.
fn highest(bucket: usize) -> u32 {
    let bucket = bucket as u64;
    let shift = (bucket / 8).saturating_sub(1);
    let next = (bucket - shift * 8 + 1) << shift;
    u32::try_from(next - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_is_an_eighth_wide(micros: u32) {
            let found = bucket(micros);
            prop_assert!(found < BUCKETS);
            let highest = u64::from(highest(found));
            prop_assert!(highest >= u64::from(micros));
            prop_assert!(highest <= u64::from(micros) + u64::from(micros) / 8);
        }
    }

    #[test]
    fn the_end_of_the_scale() {
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
        assert_eq!(highest(BUCKETS - 1), u32::MAX);
        assert_eq!((bucket(7), bucket(8), highest(7)), (7, 8, 7));
    }

    #[test]
    fn quantiles_of_what_came_since() {
        let latencies = Latencies::default();
        latencies.observe(Duration::from_secs(9));
        let before = latencies.counts();
        assert_eq!(before.since(&before).quantile_us(500), None);
        for millis in 1..=100 {
            latencies.observe(Duration::from_millis(millis));
        }
        let since = latencies.counts().since(&before);
        assert_eq!(since.total(), 100);
        let check = |permille, millis: u32| {
            let told = since.quantile_us(permille).expect("there are some");
            let exact = millis * 1000;
            assert!(
                (exact..=exact + exact / 8).contains(&told),
                "{permille}: {told}"
            );
        };
        check(500, 50);
        check(990, 99);
        check(1000, 100);
        check(0, 1);
    }
}
