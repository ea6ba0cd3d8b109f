//! A sum over all that happened: two runs of one seed have the same.

use std::sync::atomic::{AtomicU64, Ordering};

const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The sum so far.
pub struct Trace(AtomicU64);

impl Default for Trace {
    fn default() -> Trace {
        Trace(AtomicU64::new(0xcbf2_9ce4_8422_2325))
    }
}

impl Trace {
    /// Something happened.
    pub fn add(&self, numbers: &[u64], bytes: &[u8]) {
        let mut sum = self.0.load(Ordering::Relaxed);
        for byte in numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .chain(bytes.iter().copied())
        {
            sum = (sum ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The sum.
    pub fn sum(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
