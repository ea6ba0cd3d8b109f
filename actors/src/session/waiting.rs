//! What waits for all sessions of the node that have no connection: bounded together, as each is by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait on this node for clients without a connection.
#[derive(Debug, Default)]
pub struct WaitingBytes(AtomicUsize);

/// One session's share of them; given back when it goes.
#[derive(Debug)]
pub(super) struct Share {
    all: Arc<WaitingBytes>,
    bytes: usize,
    max: usize,
}

impl WaitingBytes {
    /// How many there are.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Of a session for which so many bytes wait; all together may have `max`.
    pub(super) fn new(all: &Arc<WaitingBytes>, bytes: usize, max: usize) -> Share {
        let mut share = Share {
            all: Arc::clone(all),
            bytes: 0,
            max,
        };
        share.grow(bytes);
        share
    }

    /// More waits for it.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether more waits for all sessions together than may, and some of it for this one.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > 0 && self.all.get() > self.max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_adds_to_what_is_too_much_hears_of_it_and_gives_its_share_back() {
        let all = Arc::<WaitingBytes>::default();
        let mut first = Share::new(&all, 60, 100);
        let empty = Share::new(&all, 0, 100);
        let second = Share::new(&all, 40, 100);
        assert!(!first.is_too_much() && !second.is_too_much());
        first.grow(1);
        assert!(first.is_too_much() && second.is_too_much());
        assert!(!empty.is_too_much(), "its end would help nobody");
        drop(second);
        assert!(!first.is_too_much());
        drop((first, empty));
        assert_eq!(all.get(), 0);
    }
}
