//! Requests to a follower, with commit points that ride on entries.
//!
//! A follower needs entries at once, for the quorum waits for its disk. That they are committed it needs for nothing that
//! anybody waits for: it serves no reads. So a request without entries, which openraft makes for each commit, waits for the
//! next one that has some and that carries the same commit point or a later one. At the end of the wait it goes alone.
//!
//! Invariant: requests leave in their order, and of those that are left out a later one says all they said. None is answered
//! on the follower's behalf: an answer is also its word that it follows this leader.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Sleep, sleep};

use super::type_config::TypeConfig;

type Request = AppendEntriesRequest<TypeConfig>;

/// A follower's requests, those without entries put off. See the module docs.
pub(crate) struct LateCommits<S> {
    input: S,
    wait: Duration,
    held: Option<(Request, Pin<Box<Sleep>>)>,
    ended: bool,
}

impl<S> LateCommits<S> {
    /// Puts off by at most `wait`.
    pub(crate) fn new(input: S, wait: Duration) -> LateCommits<S> {
        LateCommits {
            input,
            wait,
            held: None,
            ended: false,
        }
    }

    fn take_held(&mut self) -> Option<Request> {
        self.held.take().map(|(request, _)| request)
    }
}

impl<S: Stream<Item = Request> + Unpin> Stream for LateCommits<S> {
    type Item = Request;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = &mut *self;
        while !this.ended {
            match this.input.poll_next_unpin(ctx) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => {
                    let wait = this.wait;
                    let timer = this.held.take().map(|(_, timer)| timer);
                    // The first commit point that waits sets the time.
                    let timer = timer.unwrap_or_else(|| Box::pin(sleep(wait)));
                    this.held = Some((request, timer));
                }
                Poll::Ready(Some(request)) => {
                    this.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => break,
            }
        }
        if this.ended {
            // A probe is a request without entries and the only one of its stream: it never waits.
            return Poll::Ready(this.take_held());
        }
        let due = this
            .held
            .as_mut()
            .is_some_and(|(_, timer)| timer.as_mut().poll(ctx).is_ready());
        if due {
            Poll::Ready(this.take_held())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_id::NodeId;
    use crate::raft::record::{EntryRecord, LogIdRecord};
    use crate::raft::type_config::{LogId, Vote, entry};
    use futures_util::stream;
    use openraft::vote::{RaftLeaderId, leader_id_std};

    const WAIT: Duration = Duration::from_millis(50);
    /// Nobody waits so long: what is given out under it was not put off.
    const FOR_EVER: Duration = Duration::from_secs(86_400);

    fn request(committed: u64, entries: u64) -> Request {
        let at = |index| LogIdRecord { term: 1, index };
        AppendEntriesRequest {
            vote: Vote {
                leader_id: leader_id_std::LeaderId::new(1, NodeId(1)),
                committed: true,
            },
            prev_log_id: Some(LogId::from(at(committed))),
            leader_commit: Some(LogId::from(at(committed))),
            entries: (1..=entries)
                .map(|entry_at| entry(at(committed + entry_at), EntryRecord::Blank))
                .collect(),
        }
    }

    fn said(request: Option<Request>) -> Option<(u64, usize)> {
        request.map(|request| {
            let committed = request.leader_commit.map_or(0, |id| id.index);
            (committed, request.entries.len())
        })
    }

    /// These requests, and then a leader that has nothing more to say for now.
    fn waiting(requests: Vec<Request>) -> impl Stream<Item = Request> + Unpin {
        stream::iter(requests).chain(stream::pending())
    }

    #[tokio::test]
    async fn a_commit_point_rides_on_the_next_entries() {
        let said_one_by_one = vec![request(5, 0), request(6, 0), request(6, 2), request(8, 1)];
        let mut requests = LateCommits::new(waiting(said_one_by_one), FOR_EVER);
        assert_eq!(said(requests.next().await), Some((6, 2)));
        assert_eq!(said(requests.next().await), Some((8, 1)));
    }

    #[tokio::test]
    async fn without_entries_the_newest_commit_point_goes_after_the_wait() {
        let begin = tokio::time::Instant::now();
        let mut requests = LateCommits::new(waiting(vec![request(5, 0), request(7, 0)]), WAIT);
        assert_eq!(said(requests.next().await), Some((7, 0)));
        assert!(begin.elapsed() >= WAIT);
    }

    #[tokio::test]
    async fn a_probe_goes_at_once() {
        let mut requests = LateCommits::new(stream::iter([request(5, 0)]), FOR_EVER);
        assert_eq!(said(requests.next().await), Some((5, 0)));
        assert_eq!(said(requests.next().await), None);
    }
}
