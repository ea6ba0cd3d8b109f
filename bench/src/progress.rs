//! How far something long has come, on standard error, every few seconds.

use std::time::{Duration, Instant};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(5);

/// Something that takes a while.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    start: Instant,
    said: Instant,
}

impl Progress {
    /// It begins now.
    pub(crate) fn new(what: &'static str, total: usize) -> Progress {
        let start = Instant::now();
        Progress {
            what,
            total,
            start,
            said: start,
        }
    }

    /// So much is done.
    pub(crate) fn at(&mut self, done: usize) {
        let now = Instant::now();
        if now.duration_since(self.said) >= EVERY {
            self.said = now;
            let rate = done as f64 / self.took().as_secs_f64().max(1e-3);
            eprintln!("{}: {done} of {} ({rate:.0}/s)", self.what, self.total);
        }
    }

    /// All is done: says how long it took.
    pub(crate) fn end(&self) -> Duration {
        let took = self.took();
        let rate = self.total as f64 / took.as_secs_f64().max(1e-3);
        eprintln!(
            "{}: {} in {:.0} s ({rate:.0}/s)",
            self.what,
            self.total,
            took.as_secs_f64()
        );
        took
    }

    fn took(&self) -> Duration {
        self.start.elapsed()
    }
}
