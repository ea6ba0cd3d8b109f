//! Whether the process has stood still: stopped, or its machine without a processor for it. What clients sent before has been
//! sent again elsewhere since, and must not take effect late.
//!
//! ```text
//!   a client's stanza ─► session ─► link: the session is of before the standstill? ─► outcome unknown, the stream ends
//! ```
//!
//! Invariant: nothing is proposed for a session's connection that began before a standstill, wherever it had waited: in the
//! socket, the session, or the link's mailbox. What a link had taken before is withdrawn when its time is over
//! (`cluster::link::origin`). A shorter stop than [`LIMIT`] is none: what is sent twice then is recognised by its origin-id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// As long as a client may wait for an outcome: after that its stream ends, and it sends again what it does not know of.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Milliseconds since the start, in the lower bits.
const TIME_BITS: u32 = 44;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// What is known of it.
#[derive(Debug)]
pub struct Standstill {
    start: Instant,
    /// How often it has stood still, and when it was last looked: in one word, so that whoever looks first sees it and nobody
    /// who looks later misses it.
    seen: AtomicU64,
}

impl Default for Standstill {
    fn default() -> Standstill {
        Standstill {
            start: Instant::now(),
            seen: AtomicU64::new(0),
        }
    }
}

impl Standstill {
    /// How often it has stood still, this moment included. To be asked more often than once in [`LIMIT`], or it seems so.
    pub fn times(&self) -> u64 {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(TIME);
        self.times_at(now.min(TIME))
    }

    fn times_at(&self, now: u64) -> u64 {
        let limit = u64::try_from(LIMIT.as_millis()).unwrap_or(TIME);
        let next = |seen: u64| {
            let (times, last) = (seen >> TIME_BITS, seen & TIME);
            let stood = now.saturating_sub(last) > limit;
            ((times + u64::from(stood)) << TIME_BITS) | now.max(last)
        };
        let mut seen = self.seen.load(Ordering::Acquire);
        loop {
            let found = next(seen);
            let put =
                self.seen
                    .compare_exchange_weak(seen, found, Ordering::AcqRel, Ordering::Acquire);
            match put {
                Ok(_) => return found >> TIME_BITS,
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_after_a_standstill_sees_it() {
        let standstill = Standstill::default();
        let check = |now, expect| assert_eq!(standstill.times_at(now), expect, "{now}");
        check(0, 0);
        check(10_000, 0);
        check(20_000, 0);
        // All but a moment of it was somebody else's work.
        check(30_001, 1);
        check(30_001, 1);
        // A clock that was read before and looked at later.
        check(20_500, 1);
        check(30_500, 1);
        check(3_630_500, 2);
        check(3_631_500, 2);
    }

    #[test]
    fn it_is_seen_by_all_threads_or_none() {
        let standstill = Standstill::default();
        let told: Vec<u64> = std::thread::scope(|scope| {
            let look = || standstill.times_at(60_000);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(told, [1; 4]);
    }
}
