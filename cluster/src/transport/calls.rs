//! Calls: requests in flight on a connection, and the handle through which they are answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::transport::control::Control;
use crate::transport::error::{CallError, SendError};
use crate::transport::frame::{Frame, flags};
use crate::transport::queue::Queue;

type Answer = Result<Frame, CallError>;

/// The requests of one outgoing connection that wait for replies.
pub(crate) struct Calls {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next: AtomicU64,
    max: usize,
}

/// A waiting call; dropping it forgets the call, so that a reply that comes too late is ignored.
pub(crate) struct Waiting {
    calls: Arc<Calls>,
    sequence: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Calls {
    pub(crate) fn new(max: usize) -> Calls {
        Calls {
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request and registers for its reply. The reply is registered first: it may arrive before
    /// `push` returns.
    pub(crate) fn begin(
        self: &Arc<Calls>,
        queue: &Queue,
        mut frame: Frame,
    ) -> Result<Waiting, SendError> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, answer) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.len() >= self.max {
                return Err(SendError::Full);
            }
            waiting.insert(sequence, tx);
        }
        let call = Waiting {
            calls: self.clone(),
            sequence,
            answer,
        };
        frame.flags = (frame.flags & flags::APPLICATION) | flags::REQUEST;
        frame.sequence = sequence;
        queue.push(frame)?;
        Ok(call)
    }

    /// A reply arrived. One that nobody waits for (any more) is dropped.
    pub(crate) fn complete(&self, frame: Frame) {
        self.finish(frame.sequence, Ok(frame));
    }

    /// The peer said that no reply will come.
    pub(crate) fn refuse(&self, sequence: u64) {
        self.finish(sequence, Err(CallError::NoReply));
    }

    fn finish(&self, sequence: u64, answer: Answer) {
        let waiting = self.lock().remove(&sequence);
        if let Some(tx) = waiting {
            // The caller may have given up this instant; then the answer is of no use to anybody.
            drop(tx.send(answer));
        }
    }

    /// The connection ended: whoever waits learns that the outcome is unknown. The queue must have been
    /// closed before, so that no call can begin after this.
    pub(crate) fn lose_all(&self) {
        self.lock().clear();
    }
}

impl Waiting {
    /// The reply. Losing the connection drops the sender's half.
    pub(crate) async fn answer(&mut self) -> Answer {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Lost),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.sequence);
    }
}

/// Answers one request. Dropped unused, it tells the caller at once that no reply will come.
pub struct Reply {
    to: Option<ReplyTo>,
}

enum ReplyTo {
    Connection { queue: Arc<Queue>, sequence: u64 },
    Loopback { calls: Arc<Calls>, sequence: u64 },
}

impl Reply {
    pub(crate) fn over(queue: Arc<Queue>, sequence: u64) -> Reply {
        Reply {
            to: Some(ReplyTo::Connection { queue, sequence }),
        }
    }

    pub(crate) fn local(calls: Arc<Calls>, sequence: u64) -> Reply {
        Reply {
            to: Some(ReplyTo::Loopback { calls, sequence }),
        }
    }

    /// Sends the answer back on the connection the request came on. On an error the caller learns, if it
    /// can be told anything, that no reply will come.
    pub fn send(mut self, mut frame: Frame) -> Result<(), SendError> {
        frame.flags = (frame.flags & flags::APPLICATION) | flags::REPLY;
        match self.to.take() {
            Some(ReplyTo::Connection { queue, sequence }) => {
                frame.sequence = sequence;
                let sent = queue.push(frame);
                if sent.is_err() {
                    self.to = Some(ReplyTo::Connection { queue, sequence });
                }
                sent
            }
            Some(ReplyTo::Loopback { calls, sequence }) => {
                frame.sequence = sequence;
                calls.complete(frame);
                Ok(())
            }
            None => Err(SendError::Disconnected),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match self.to.take() {
            // If even this finds no room, the caller's own time limit ends its wait.
            Some(ReplyTo::Connection { queue, sequence }) => {
                let _ = queue.push_control(Control::NoReply.frame(sequence));
            }
            Some(ReplyTo::Loopback { calls, sequence }) => calls.refuse(sequence),
            None => {}
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(1 << 20, 1 << 16))
    }

    #[tokio::test]
    async fn replies_find_their_calls_in_any_order() {
        let (calls, queue) = (Arc::new(Calls::new(8)), queue());
        let mut first = calls.begin(&queue, Frame::new(1, "a")).unwrap();
        let mut second = calls.begin(&queue, Frame::new(1, "b")).unwrap();
        for (call, body) in [(&second, "B"), (&first, "A")] {
            calls.complete(Frame {
                sequence: call.sequence,
                ..Frame::new(2, body)
            });
        }
        assert_eq!(first.answer().await.unwrap().body, "A");
        assert_eq!(second.answer().await.unwrap().body, "B");
    }

    #[tokio::test]
    async fn calls_are_bounded_and_forgotten_when_dropped() {
        let (calls, queue) = (Arc::new(Calls::new(2)), queue());
        let first = calls.begin(&queue, Frame::new(1, "")).unwrap();
        let mut second = calls.begin(&queue, Frame::new(1, "")).unwrap();
        assert_eq!(
            calls.begin(&queue, Frame::new(1, "")).err(),
            Some(SendError::Full)
        );
        drop(first);
        assert!(calls.begin(&queue, Frame::new(1, "")).is_ok());
        queue.close(DownReason::Reset);
        calls.lose_all();
        assert_eq!(second.answer().await, Err(CallError::Lost));
        assert_eq!(
            calls.begin(&queue, Frame::new(1, "")).err(),
            Some(SendError::Disconnected)
        );
        assert!(
            calls.lock().len() <= 1,
            "the failed call left nothing behind"
        );
    }

    #[tokio::test]
    async fn a_dropped_reply_says_so() {
        let queue = queue();
        drop(Reply::over(queue.clone(), 7));
        Reply::over(queue.clone(), 8)
            .send(Frame::new(3, "yes"))
            .unwrap();
        let mut batch = Vec::new();
        queue.drain(&mut batch, 1 << 16).await;
        assert_eq!(Control::read(&batch[0]), Some(Control::NoReply));
        assert_eq!((batch[0].sequence, batch[1].sequence), (7, 8));
        assert_eq!(batch[1].flags, flags::REPLY);
    }

    use crate::transport::event::DownReason;
}
