//! Notices of what is committed wait for company.
//!
//! As soon as an entry is committed openraft tells the followers, by a request without entries. Nobody waits for that: a
//! client was answered by the leader, and a follower that becomes the leader applies what it has anyhow. By itself it costs
//! either side as much as a request with entries. So it waits for the next entries, which say the same, or for a tick.

use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, unfold};
use openraft::OptionalSend;
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout_at};

use super::type_config::TypeConfig;

type Request = AppendEntriesRequest<TypeConfig>;

/// Holds back requests without entries as long as `wait` says, and leaves them out where another request comes meanwhile, which
/// says as much. Not the first one, which finds out where the follower's log ends.
pub(super) fn notices_wait<S>(
    input: S,
    wait: fn() -> Duration,
) -> impl Stream<Item = Request> + OptionalSend + Unpin + 'static
where
    S: Stream<Item = Request> + OptionalSend + Unpin + 'static,
{
    let next = move |(input, is_first): (Option<S>, bool)| async move {
        let mut input = input?;
        let mut request = input.next().await?;
        let until = Instant::now() + wait();
        while !is_first && request.entries.is_empty() {
            match timeout_at(until, input.next()).await {
                Ok(Some(later)) => request = later,
                Ok(None) => return Some((request, (None, false))),
                Err(_) => break,
            }
        }
        Some((request, (Some(input), false)))
    };
    Box::pin(unfold((Some(input), true), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::record::{EntryRecord, LogIdRecord, VoteRecord};
    use crate::raft::type_config::{LogId, Vote, entry};
    use tokio::sync::mpsc;

    fn id(index: u64) -> LogIdRecord {
        LogIdRecord { term: 1, index }
    }

    fn request(committed: u64, entries: std::ops::Range<u64>) -> Request {
        let vote = VoteRecord {
            term: 1,
            node: 1,
            committed: true,
        };
        AppendEntriesRequest {
            vote: Vote::from(vote),
            prev_log_id: None,
            leader_commit: Some(LogId::from(id(committed))),
            entries: entries
                .map(|index| entry(id(index), EntryRecord::Blank))
                .collect(),
        }
    }

    fn seen(request: &Request) -> (u64, usize) {
        let committed = request.leader_commit.map_or(0, |id| id.index);
        (committed, request.entries.len())
    }

    /// A stream that waits so long, and the end at which requests go in.
    fn held(
        wait: fn() -> Duration,
    ) -> (
        mpsc::UnboundedSender<Request>,
        impl Stream<Item = Request> + Unpin,
    ) {
        let (send, receive) = mpsc::unbounded_channel();
        let input = unfold(receive, |mut receive| async {
            let request: Request = receive.recv().await?;
            Some((request, receive))
        });
        (send, notices_wait(Box::pin(input), wait))
    }

    #[tokio::test]
    async fn a_notice_waits_for_entries() {
        let (send, mut held) = held(|| Duration::from_secs(3600));
        // The first one asks where the log ends.
        send.send(request(1, 0..0)).unwrap();
        assert_eq!(seen(&held.next().await.unwrap()), (1, 0));
        // Entries go at once.
        send.send(request(1, 2..3)).unwrap();
        assert_eq!(seen(&held.next().await.unwrap()), (1, 1));
        // They say what the notices before them said.
        for request in [request(2, 0..0), request(3, 0..0), request(3, 4..6)] {
            send.send(request).unwrap();
        }
        assert_eq!(seen(&held.next().await.unwrap()), (3, 2));
        // At the end nothing is held back or lost.
        send.send(request(5, 0..0)).unwrap();
        drop(send);
        assert_eq!(seen(&held.next().await.unwrap()), (5, 0));
        assert!(held.next().await.is_none());
    }

    #[tokio::test]
    async fn a_notice_goes_when_its_time_is_over() {
        let (send, mut held) = held(|| Duration::from_millis(5));
        for request in [request(1, 0..0), request(2, 0..0), request(3, 0..0)] {
            send.send(request).unwrap();
        }
        assert_eq!(seen(&held.next().await.unwrap()), (1, 0));
        // Of several the last one.
        assert_eq!(seen(&held.next().await.unwrap()), (3, 0));
    }
}
