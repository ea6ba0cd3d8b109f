//! Submissions: bounded and ordered on their way in, a future for their outcome.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot};

use super::error::SubmitError;
use super::type_config::{Answer, TypeConfig};

type Outcome = ClientWriteResult<TypeConfig>;

/// Payload bytes under way, given back on drop.
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    fn take(used: &Arc<AtomicUsize>, bytes: usize, max: usize) -> Option<Budget> {
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            now.checked_add(bytes).filter(|then| *then <= max)
        });
        taken.ok().map(|_| Budget {
            used: used.clone(),
            bytes,
        })
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A payload on its way to the group's leader task.
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) answer: Answer<Outcome>,
}

/// The way into one group. Clones share it, and its order.
#[derive(Clone)]
pub(crate) struct Intake {
    queue: mpsc::Sender<Proposal>,
    used: Arc<AtomicUsize>,
    payload_bytes_max: usize,
    bytes_max: usize,
}

impl Intake {
    /// The way in, and the end at which the leader task takes out.
    pub(crate) fn new(
        submissions_max: usize,
        payload_bytes_max: usize,
        bytes_max: usize,
    ) -> (Intake, mpsc::Receiver<Proposal>) {
        let (queue, proposals) = mpsc::channel(submissions_max);
        (
            Intake {
                queue,
                used: Arc::default(),
                payload_bytes_max,
                bytes_max,
            },
            proposals,
        )
    }

    pub(crate) fn submit(&self, payload: Bytes) -> Submission {
        let bytes = payload.len();
        if bytes > self.payload_bytes_max {
            return Submission::refused(SubmitError::TooLarge {
                bytes,
                limit: self.payload_bytes_max,
            });
        }
        let Some(budget) = Budget::take(&self.used, bytes, self.bytes_max) else {
            return Submission::refused(SubmitError::Busy);
        };
        let (to, outcome) = oneshot::channel();
        match self.queue.try_send(Proposal {
            payload,
            answer: Answer { to, budget },
        }) {
            Ok(()) => Submission {
                state: State::Waiting(outcome),
            },
            Err(mpsc::error::TrySendError::Full(_)) => Submission::refused(SubmitError::Busy),
            // The group has stopped here.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Submission::refused(SubmitError::NotLeader { leader: None })
            }
        }
    }

    pub(crate) fn bytes_waiting(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// The outcome of a submission: the index of its entry once that is applied on this node, or why not.
///
/// A leader that lost its followers may keep a submission waiting until it hears of its successor; callers put a limit
/// on it and count it as [`SubmitError::Unknown`] then. Dropping it recalls nothing.
#[derive(Debug)]
#[must_use = "a submission's outcome must be looked at"]
pub struct Submission {
    state: State,
}

#[derive(Debug)]
enum State {
    Refused(SubmitError),
    Waiting(oneshot::Receiver<Outcome>),
}

impl Submission {
    pub(crate) fn refused(error: SubmitError) -> Submission {
        Submission {
            state: State::Refused(error),
        }
    }
}

impl Submission {
    /// Whether it was refused for want of room: surely not proposed, and worth another try.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Refused(SubmitError::Busy))
    }
}

impl Future for Submission {
    type Output = Result<u64, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Refused(error) => Poll::Ready(Err(*error)),
            State::Waiting(outcome) => Pin::new(outcome).poll(ctx).map(|outcome| match outcome {
                Ok(Ok(written)) => Ok(written.log_id.index),
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                    Err(SubmitError::NotLeader {
                        leader: forward.leader_id,
                    })
                }
                Ok(Err(_)) | Err(_) => Err(SubmitError::Unknown),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_in_is_bounded_in_number_and_bytes() {
        let (intake, mut proposals) = Intake::new(2, 10, 15);
        let refused = |submission: Submission| match submission.state {
            State::Refused(error) => Some(error),
            State::Waiting(_) => None,
        };
        assert_eq!(
            refused(intake.submit(Bytes::from(vec![0; 11]))),
            Some(SubmitError::TooLarge {
                bytes: 11,
                limit: 10
            })
        );
        let first = intake.submit(Bytes::from(vec![0; 10]));
        assert!(!first.is_busy() && intake.submit(Bytes::from(vec![0; 10])).is_busy());
        assert!(!intake.submit(Bytes::from(vec![0; 11])).is_busy());
        assert_eq!(
            refused(intake.submit(Bytes::from(vec![0; 10]))),
            Some(SubmitError::Busy)
        );
        let _second = intake.submit(Bytes::from(vec![0; 5]));
        assert_eq!(
            refused(intake.submit(Bytes::new())),
            Some(SubmitError::Busy)
        );
        assert_eq!(intake.bytes_waiting(), 15);
        // Dropped without an answer: the outcome is unknown and the bytes are free again.
        drop(proposals.recv().await);
        assert_eq!(first.await, Err(SubmitError::Unknown));
        assert_eq!(intake.bytes_waiting(), 5);
        drop(proposals);
        assert_eq!(
            intake.submit(Bytes::new()).await,
            Err(SubmitError::NotLeader { leader: None })
        );
    }
}
