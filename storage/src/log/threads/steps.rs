//! A log without threads: whoever simulates the disk says when the writer takes its next step.
//!
//! What was queued and not written when the last handle goes is lost, as in a crash; [`Log::close`](crate::log::Log::close)
//! writes it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::super::queue::Shared;
use super::super::writer::Writer;
use super::super::{LogError, keeper};

type Opened = Box<dyn Fn(LogSteps)>;

thread_local! {
    static OPENED: RefCell<Option<Opened>> = const { RefCell::new(None) };
}

/// From now on `opened` is given each log that this thread opens, to let it take its steps.
pub fn on_log_opened(opened: impl Fn(LogSteps) + 'static) {
    OPENED.with(|hook| *hook.borrow_mut() = Some(Box::new(opened)));
}

/// Where a thread would wait: remembers that it was notified.
pub(in crate::log) struct Condvar {
    notified: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Condvar {
    pub(in crate::log) fn new() -> Condvar {
        Condvar {
            notified: AtomicBool::new(false),
            waker: Mutex::new(None),
        }
    }

    pub(in crate::log) fn notify_one(&self) {
        self.notified.store(true, Ordering::Relaxed);
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(in crate::log) fn notify_all(&self) {
        self.notify_one();
    }

    /// Never called: a step is taken only where there is something to do.
    pub(in crate::log) fn wait<T>(&self, _guard: T) -> Result<T, PoisonError<T>> {
        panic!("a log's step has nothing to do");
    }

    /// Never called, either.
    pub(in crate::log) fn wait_timeout<T>(
        &self,
        _guard: T,
        _timeout: Duration,
    ) -> Result<(T, bool), PoisonError<(T, bool)>> {
        panic!("a log's step has nothing to do");
    }

    async fn notified(&self) {
        poll_fn(|context| {
            if self.notified.swap(false, Ordering::Relaxed) {
                return Poll::Ready(());
            }
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            *waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Inner {
    shared: Arc<Shared>,
    dir: PathBuf,
    writer: Mutex<Option<Writer>>,
}

impl Inner {
    /// Takes one step, if there is anything to do; `false`: the log has ended.
    fn step(&self) -> bool {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = writer.as_mut() else {
            return false;
        };
        let goes_on = !running.has_work() || running.turn();
        if goes_on {
            keeper::chores(&self.shared);
        } else {
            *writer = None;
        }
        goes_on
    }

    fn kill(&self) {
        {
            let mut inner = self.shared.lock();
            inner.closing = true;
            inner.dead = true;
            // Their callers are as dead as the log is.
            std::mem::forget(std::mem::take(&mut inner.queue));
        }
        // A callback may have dropped the last handle: then the writer is in the middle of its step, and ends with it.
        if let Ok(mut writer) = self.writer.try_lock() {
            *writer = None;
        }
        if let Err(error) = self.shared.dir.unlock() {
            tracing::warn!(%error, "the log folder could not be unlocked");
        }
    }
}

/// A log's writer, to be driven.
#[derive(Clone)]
pub struct LogSteps {
    inner: Arc<Inner>,
}

impl LogSteps {
    /// The log's folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Returns when there may be something to write.
    pub async fn wanted(&self) {
        self.inner.shared.work.notified().await;
    }

    /// Whether there is something to write.
    pub fn has_work(&self) -> bool {
        let mut writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        writer.as_mut().is_some_and(Writer::has_work)
    }

    /// How long what there is to write may wait for company; `None`: there is nothing.
    pub fn may_wait(&self) -> Option<Duration> {
        let inner = self.inner.shared.lock();
        inner.may_wait(&self.inner.shared.options)
    }

    /// One write and one fdatasync of all that waits; then the callbacks. `false`: the log has ended.
    pub fn step(&self) -> bool {
        self.inner.step()
    }

    /// The process is dead: what waits is lost, and nobody is told anything.
    pub fn kill(&self) {
        self.inner.kill();
    }
}

/// A log from its opening to its end.
pub(in crate::log) struct Threads {
    inner: Arc<Inner>,
}

impl Threads {
    pub(in crate::log) fn start(writer: Writer, dir: &Path) -> Result<Threads, LogError> {
        let shared = writer.shared();
        keeper::chores(&shared);
        let inner = Arc::new(Inner {
            shared,
            dir: dir.to_owned(),
            writer: Mutex::new(Some(writer)),
        });
        OPENED.with(|hook| {
            if let Some(opened) = &*hook.borrow() {
                opened(LogSteps {
                    inner: Arc::clone(&inner),
                });
            }
        });
        Ok(Threads { inner })
    }

    pub(in crate::log) fn close(&self) {
        {
            let mut inner = self.inner.shared.lock();
            if inner.dead {
                return;
            }
            inner.closing = true;
        }
        let mut writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mut running) = writer.take() {
            while running.turn() {}
        }
        drop(writer);
        self.inner.kill();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.kill();
    }
}
