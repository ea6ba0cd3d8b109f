//! openraft's view of tokio, with two rules of our own about waiting until a moment.
//!
//! Each group has a clock of its own that ticks twenty times a second, and openraft spreads their phases at random. With
//! seventeen groups a thread then wakes for each tick, and each heartbeat is a write of its own. Here all clocks of a process
//! tick together ([`GRID`]): one wake-up serves all groups, and their heartbeats to one node leave in one write. Nodes
//! don't tick together, as each counts from its own start.
//!
//! The other wait until a moment follows each write to the log, for a microsecond, so that several notices become one. A
//! timer of tokio's takes a millisecond at least, which is longer than the write; so that wait is none ([`SHORT`]).

use std::future::{Future, Ready, ready};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use openraft::{AsyncRuntime, OptionalSend};
use tokio::time::Sleep;

#[allow(
    deprecated,
    reason = "openraft re-exports its tokio runtime under a deprecated path only"
)]
mod tokio_runtime {
    pub(super) use openraft::impls::TokioRuntime as Tokio;
}
use tokio_runtime::Tokio;

/// From one common tick to the next. More than half a heartbeat of 250 ms, with some time to spare: so a leader's heartbeat is due at the
/// second tick, also where that is late, and not at the third.
const GRID: Duration = Duration::from_millis(140);

/// Waits up to here are none. Not where time is simulated: it stands still while nobody waits, and a tick that is due in a moment would come
/// for ever.
const SHORT: Duration = match cfg!(feature = "simulation") {
    true => Duration::ZERO,
    false => Duration::from_micros(10),
};

/// What is longer is a tick, which may come with the others.
const TICK_LEAST: Duration = Duration::from_millis(2);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// See the module.
#[derive(Debug)]
pub(crate) struct Runtime(Tokio);

/// How long a wait takes that was asked to take so long, `since` the start of the process; `None`: it is none.
fn wait(asked: Duration, since: Duration) -> Option<Duration> {
    if asked <= SHORT {
        return None;
    }
    if asked < TICK_LEAST {
        return Some(asked);
    }
    let behind_line = (since + asked).as_nanos() % GRID.as_nanos();
    match u64::try_from(behind_line) {
        Ok(behind) if behind > 0 => Some(asked + GRID - Duration::from_nanos(behind)),
        _ => Some(asked),
    }
}

/// How far apart heartbeats are that are due so often: they leave at common ticks.
pub(super) fn on_the_grid(asked: Duration) -> Duration {
    wait(asked, Duration::ZERO).unwrap_or_default()
}

/// The time to the next common tick.
pub(super) fn next_tick() -> Duration {
    wait(TICK_LEAST, START.elapsed()).unwrap_or_default()
}

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Either<Ready<()>, Sleep>;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Either::Right(Tokio::sleep(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        let now = <Self::Instant as openraft::Instant>::now();
        let asked = if deadline > now {
            deadline - now
        } else {
            Duration::ZERO
        };
        match wait(asked, START.elapsed()) {
            None => Either::Left(ready(())),
            Some(wait) => Either::Right(Tokio::sleep(wait)),
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Runtime(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_meet_on_the_grid_and_short_waits_are_none() {
        let ms = Duration::from_millis;
        let check = |asked: Duration, since: Duration, expect: Option<Duration>| {
            assert_eq!(wait(asked, since), expect, "{asked:?} at {since:?}");
        };
        check(Duration::ZERO, ms(7), None);
        check(Duration::from_micros(1), ms(7), None);
        check(Duration::from_micros(10), ms(7), None);
        check(
            Duration::from_micros(11),
            ms(7),
            Some(Duration::from_micros(11)),
        );
        check(ms(1), ms(139), Some(ms(1)));
        // To 140, to 280, to 280, and exactly there.
        check(ms(2), ms(45), Some(ms(95)));
        check(ms(50), ms(101), Some(ms(179)));
        check(ms(141), ms(7), Some(ms(273)));
        check(ms(50), ms(230), Some(ms(50)));
        let years = Duration::from_millis(140 << 40);
        check(ms(50), years + ms(139), Some(ms(141)));
    }
}
