//! Latencies: counts in buckets whose width grows with the value, so that every percentile is within 1.6 %.
//!
//! Values are whole microseconds. Below 64 each has its own bucket; above, each power of two has 64 of them.

use std::time::Duration;

/// Buckets to each power of two.
const STEPS: u64 = 64;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();

/// How many values fell where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Adds one value.
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket_of(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(micros);
    }

    /// Adds another's values.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> u64 {
        self.total
    }

    /// The greatest value.
    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// The value that this share of all values does not exceed; zero if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper_edge(bucket).min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = micros.ilog2();
    let row = u64::from(power - STEPS_LOG2) + 1;
    let step = (micros >> (power - STEPS_LOG2)) - STEPS;
    (row * STEPS + step) as usize
}

/// The greatest value of a bucket.
fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (row, step) = (bucket / STEPS, bucket % STEPS);
    let width_log2 = (row - 1) as u32;
    let above = u128::from(STEPS + step + 1) << width_log2;
    u64::try_from(above - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_together_are_one() {
        let of = |values: &[u64]| {
            let mut histogram = Histogram::default();
            for value in values {
                histogram.record(Duration::from_micros(*value));
            }
            histogram
        };
        let mut both = of(&[5, 100]);
        both.merge(&of(&[7, 1_000_000]));
        both.merge(&Histogram::default());
        assert_eq!(both.len(), 4);
        for share in [0.25, 0.5, 0.75, 1.0] {
            let expect = of(&[5, 7, 100, 1_000_000]).quantile(share);
            assert_eq!(both.quantile(share), expect);
        }
    }

    #[test]
    fn quantiles_of_known_values() {
        let check = |values: &[u64], share: f64, expect: u64| {
            let mut histogram = Histogram::default();
            for value in values {
                histogram.record(Duration::from_micros(*value));
            }
            assert_eq!(
                histogram.quantile(share).as_micros() as u64,
                expect,
                "{values:?} {share}"
            );
        };
        check(&[], 0.5, 0);
        check(&[7], 0.5, 7);
        check(&[1, 2, 3, 4], 0.5, 2);
        check(&[1, 2, 3, 4], 1.0, 4);
        check(&[1, 2, 3, 4], 0.0, 1);
        check(&[10, 1_000_000], 0.99, 1_000_000);
        check(&[u64::MAX], 0.5, u64::MAX);
    }

    proptest! {
        #[test]
        fn each_value_lies_in_its_bucket(micros: u64) {
            let bucket = bucket_of(micros);
            let upper = upper_edge(bucket);
            prop_assert!(micros <= upper);
            prop_assert!(bucket == 0 || upper_edge(bucket - 1) < micros);
            prop_assert!((upper - micros) as f64 <= micros as f64 / STEPS as f64 + 1.0);
        }

        #[test]
        fn a_quantile_is_close_to_the_sorted_value(
            mut values in proptest::collection::vec(0u64..10_000_000, 1..200),
            share in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(Duration::from_micros(*value));
            }
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let found = histogram.quantile(share).as_micros() as f64;
            prop_assert!(found >= exact && found <= exact * (1.0 + 1.0 / STEPS as f64) + 1.0);
        }
    }
}
