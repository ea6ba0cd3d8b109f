//! Tokio as openraft's runtime, with its timers brought into step.
//!
//! openraft gives each group a clock that ticks five times a heartbeat, each with a phase of its own. A node with 17 groups
//! would wake up 340 times a second for nothing, and send each heartbeat in a write of its own. Here ticks are put off to the
//! next line of a grid that all groups of the process share, two fifths of a heartbeat apart: they wake together, and the
//! frames they send to a node leave together.
//!
//! The grid begins at a different time in each process, so nodes do not campaign in step.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::{AsyncRuntime, Instant as _};
use tokio::time::Instant;

#[allow(
    deprecated,
    reason = "openraft re-exports its tokio runtime under a deprecated path only"
)]
use openraft::impls::TokioRuntime;

/// Distance of the grid's lines in microseconds; no grid while it is the maximum.
static GRID_MICROS: AtomicU64 = AtomicU64::new(u64::MAX);
static GRID_BEGIN: OnceLock<Instant> = OnceLock::new();

/// Shorter waits than this only let other tasks run: tokio's timers are no finer than a millisecond, and openraft waits a
/// microsecond for more flushes to come before it looks at one.
const SHORT: Duration = Duration::from_micros(100);

/// Puts ticks on a grid that suits this heartbeat. With several in a process the shortest counts.
pub(crate) fn keep_step(heartbeat: Duration) {
    let micros = u64::try_from((heartbeat * 2 / 5).as_micros()).unwrap_or(u64::MAX);
    GRID_BEGIN.get_or_init(Instant::now);
    GRID_MICROS.fetch_min(micros.max(1), Ordering::Relaxed);
}

/// `offset` behind the grid's begin, put off to the next line.
fn on_grid(offset: Duration, grid_micros: u64) -> Duration {
    let grid = u128::from(grid_micros.max(1));
    let lines = offset.as_micros().div_ceil(grid);
    Duration::from_micros(u64::try_from(lines * grid).unwrap_or(u64::MAX))
}

/// The wait for a deadline.
pub(crate) enum Pause {
    /// Others run first, once.
    Yield,
    /// It is over.
    Over,
    /// A timer.
    Timer(Pin<Box<tokio::time::Sleep>>),
}

impl Pause {
    /// Waits so long, and to the next line of the grid.
    fn in_step(wait: Duration) -> Pause {
        if wait < SHORT {
            return Pause::Yield;
        }
        let grid = GRID_MICROS.load(Ordering::Relaxed);
        let until = Instant::now() + wait;
        let until = match GRID_BEGIN.get() {
            Some(begin) if grid != u64::MAX => {
                *begin + on_grid(until.saturating_duration_since(*begin), grid)
            }
            _ => until,
        };
        Pause::Timer(Box::pin(tokio::time::sleep_until(until)))
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Pause::Yield => {
                *self = Pause::Over;
                ctx.waker().wake_by_ref();
                Poll::Pending
            }
            Pause::Over => Poll::Ready(()),
            Pause::Timer(timer) => timer.as_mut().poll(ctx),
        }
    }
}

/// Tokio, with ticks in step. See the module docs.
#[derive(Debug)]
pub(crate) struct InStep(TokioRuntime);

type Tokio<T> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;

impl AsyncRuntime for InStep {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = Tokio<T>;
    type Sleep = Pause;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Pause {
        Pause::Timer(Box::pin(tokio::time::sleep(duration)))
    }

    /// openraft's ticks, and the wait for more flushes.
    fn sleep_until(deadline: Self::Instant) -> Pause {
        let now = Self::Instant::now();
        Pause::in_step(if deadline > now {
            deadline - now
        } else {
            Duration::ZERO
        })
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        InStep(TokioRuntime::new(threads))
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
    fn ticks_are_put_off_to_the_next_line() {
        let micros = Duration::from_micros;
        for (offset, expect) in [(0, 0), (1, 100), (99, 100), (100, 100), (101, 200)] {
            assert_eq!(on_grid(micros(offset), 100), micros(expect));
        }
    }

    #[tokio::test]
    async fn a_wait_of_a_microsecond_is_no_timer() {
        let mut pause = Pause::in_step(Duration::from_micros(1));
        assert!(futures_util::poll!(&mut pause).is_pending());
        assert!(futures_util::poll!(&mut pause).is_ready());
    }

    #[tokio::test]
    async fn groups_wake_together() {
        keep_step(Duration::from_millis(250));
        let begin = *GRID_BEGIN.get().unwrap();
        let grid = GRID_MICROS.load(Ordering::Relaxed);
        let first = Pause::in_step(Duration::from_micros(grid / 2));
        let Pause::Timer(timer) = first else {
            panic!("it is not short");
        };
        let offset = timer.deadline() - begin;
        assert_eq!(offset.as_micros() % u128::from(grid), 0);
    }
}
