//! The threads.
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::super::queue::Shared;
use super::super::writer::Writer;
use super::super::{LogError, keeper};

/// The log's two threads.
pub(in crate::log) struct Threads {
    shared: Arc<Shared>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(in crate::log) fn start(writer: Writer, _dir: &Path) -> Result<Self, LogError> {
        let shared = writer.shared();
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let kept = Arc::clone(&shared);
        let keeper = named("log-keeper")
            .spawn(move || keeper::run(&kept))
            .map_err(LogError::io("start a thread"))?;
        let started = named("log-writer")
            .spawn(move || writer.run())
            .map_err(LogError::io("start a thread"));
        if started.is_err() {
            shared.lock().dead = true;
            shared.keep.notify_all();
        }
        Ok(Self {
            shared,
            running: Mutex::new(vec![started?, keeper]),
        })
    }

    pub(in crate::log) fn close(&self) {
        self.shared.lock().closing = true;
        for waiting in [&self.shared.work, &self.shared.room, &self.shared.keep] {
            waiting.notify_all();
        }
        let running =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        if running.is_empty()
            || running
                .iter()
                .any(|thread| thread.thread().id() == thread::current().id())
        {
            // A callback dropped the last handle: the threads end by themselves, and with them the lock.
            return;
        }
        for thread in running {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
        if let Err(error) = self.shared.dir.unlock() {
            tracing::warn!(%error, "the log folder could not be unlocked");
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets nobody wait for a writer that has ended, even by a panic.
pub(in crate::log) struct EndOfWriter(Arc<Shared>);

impl EndOfWriter {
    pub(in crate::log) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Drop for EndOfWriter {
    fn drop(&mut self) {
        let left = {
            let mut inner = self.0.lock();
            inner.dead = true;
            std::mem::take(&mut inner.queue)
        };
        self.0.room.notify_all();
        self.0.keep.notify_all();
        for op in left {
            (op.done)(Err(LogError::Closed));
        }
    }
}
