//! The byte-bounded queue in front of one connection's writer.
//!
//! Many senders push, one writer drains. The lock is a `std::sync::Mutex`: it is held for a few
//! instructions and never over an await.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::transport::error::SendError;
use crate::transport::event::DownReason;
use crate::transport::frame::{Frame, FrameTooLarge};

/// Room that the transport's own small frames have beyond the budget, so that a pong or a "no reply" gets
/// out of a full queue.
const CONTROL_BYTES: usize = 64 * 1024;

pub(crate) struct Queue {
    state: Mutex<QueueState>,
    ready: Notify,
    ended: Notify,
    budget: usize,
    body_max: usize,
}

struct QueueState {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: Option<DownReason>,
}

/// What the writer got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Frames were moved to the writer's batch.
    Frames,
    /// The queue is closed and empty.
    End(DownReason),
}

impl Queue {
    pub(crate) fn new(budget: usize, body_max: usize) -> Queue {
        Queue {
            state: Mutex::new(QueueState {
                frames: VecDeque::new(),
                bytes: 0,
                end: None,
            }),
            ready: Notify::new(),
            ended: Notify::new(),
            budget,
            body_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing under this lock can panic half-way, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame, or says at once why not.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), SendError> {
        if frame.body.len() > self.body_max {
            return Err(FrameTooLarge {
                length: frame.body.len(),
                limit: self.body_max,
            }
            .into());
        }
        self.push_within(frame, self.budget)
    }

    /// Appends a frame of the transport's own, for which some room beyond the budget is kept.
    pub(crate) fn push_control(&self, frame: Frame) -> Result<(), SendError> {
        self.push_within(frame, self.budget + CONTROL_BYTES)
    }

    fn push_within(&self, frame: Frame, budget: usize) -> Result<(), SendError> {
        let was_empty = {
            let mut state = self.lock();
            if state.end.is_some() {
                return Err(SendError::Disconnected);
            }
            let bytes = frame.wire_bytes();
            if state.bytes + bytes > budget {
                return Err(SendError::Full);
            }
            state.bytes += bytes;
            state.frames.push_back(frame);
            state.frames.len() == 1
        };
        // A writer that drains sees whatever was pushed meanwhile; only an idle one needs waking.
        if was_empty {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Moves frames of together at most `bytes_max` (but at least one) to `batch`, waiting while there are
    /// none. Only one task may drain.
    pub(crate) async fn drain(&self, batch: &mut Vec<Frame>, bytes_max: usize) -> Drained {
        loop {
            if let Some(drained) = self.drain_now(batch, bytes_max) {
                return drained;
            }
            self.ready.notified().await;
        }
    }

    fn drain_now(&self, batch: &mut Vec<Frame>, bytes_max: usize) -> Option<Drained> {
        let mut state = self.lock();
        let mut taken = 0;
        while let Some(frame) = state.frames.front() {
            let bytes = frame.wire_bytes();
            if taken > 0 && taken + bytes > bytes_max {
                break;
            }
            taken += bytes;
            state.bytes -= bytes;
            batch.extend(state.frames.pop_front());
        }
        if taken > 0 {
            return Some(Drained::Frames);
        }
        state.end.map(Drained::End)
    }

    /// Takes no more frames; the writer still gets those that are queued, then `reason`.
    pub(crate) fn finish(&self, reason: DownReason) {
        self.lock().end.get_or_insert(reason);
        self.ready.notify_one();
        self.ended.notify_one();
    }

    /// Waits until [`Queue::finish`] was called. Only one task may wait.
    pub(crate) async fn finished(&self) -> DownReason {
        loop {
            let end = self.lock().end;
            if let Some(reason) = end {
                return reason;
            }
            self.ended.notified().await;
        }
    }

    /// Takes no more frames and drops those that are queued.
    pub(crate) fn close(&self, reason: DownReason) {
        {
            let mut state = self.lock();
            state.end.get_or_insert(reason);
            state.frames = VecDeque::new();
            state.bytes = 0;
        }
        self.ready.notify_one();
        self.ended.notify_one();
    }

    /// Whether frames are still taken.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().end.is_none()
    }

    /// Bytes waiting.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::frame::HEADER_BYTES;

    fn frame(body: usize) -> Frame {
        Frame::new(1, vec![0; body])
    }

    #[tokio::test]
    async fn the_budget_counts_headers_and_is_given_back() {
        let queue = Queue::new(2 * HEADER_BYTES + 10, 100);
        assert_eq!(queue.push(frame(10)), Ok(()));
        assert_eq!(queue.push(frame(1)), Err(SendError::Full));
        assert_eq!(queue.push(frame(0)), Ok(()));
        assert_eq!(queue.bytes(), 2 * HEADER_BYTES + 10);
        let mut batch = Vec::new();
        assert_eq!(queue.drain(&mut batch, 1000).await, Drained::Frames);
        assert_eq!((batch.len(), queue.bytes()), (2, 0));
        assert_eq!(queue.push(frame(10)), Ok(()));
    }

    #[tokio::test]
    async fn a_batch_is_bounded_but_never_empty() {
        let queue = Queue::new(10_000, 1000);
        for body in [500, 100, 100] {
            queue.push(frame(body)).unwrap();
        }
        let mut batch = Vec::new();
        queue.drain(&mut batch, 300).await;
        assert_eq!(batch.len(), 1, "a frame larger than the batch goes alone");
        batch.clear();
        queue.drain(&mut batch, 300).await;
        assert_eq!(batch.len(), 2);
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused() {
        let queue = Queue::new(10_000, 100);
        assert_eq!(
            queue.push(frame(101)),
            Err(SendError::TooLarge(FrameTooLarge {
                length: 101,
                limit: 100
            }))
        );
    }

    #[tokio::test]
    async fn finishing_flushes_closing_drops() {
        let queue = Queue::new(10_000, 100);
        queue.push(frame(1)).unwrap();
        queue.finish(DownReason::Local);
        assert_eq!(queue.push(frame(1)), Err(SendError::Disconnected));
        let mut batch = Vec::new();
        assert_eq!(queue.drain(&mut batch, 100).await, Drained::Frames);
        assert_eq!(
            queue.drain(&mut batch, 100).await,
            Drained::End(DownReason::Local)
        );
        assert_eq!(queue.finished().await, DownReason::Local);

        let queue = Queue::new(10_000, 100);
        queue.push(frame(1)).unwrap();
        queue.close(DownReason::Reset);
        assert_eq!(
            queue.drain(&mut batch, 100).await,
            Drained::End(DownReason::Reset)
        );
    }

    #[test]
    fn control_frames_fit_into_a_full_queue_but_not_without_end() {
        let queue = Queue::new(HEADER_BYTES, 100);
        queue.push(frame(0)).unwrap();
        assert_eq!(queue.push(frame(0)), Err(SendError::Full));
        let fitting = (0..)
            .take_while(|_| queue.push_control(frame(0)).is_ok())
            .count();
        assert_eq!(fitting, CONTROL_BYTES / HEADER_BYTES);
    }
}
