//! Commit points that ride on entries: half of Raft's messages, left out.
//!
//! When an entry is committed, openraft tells each follower at once, in a request without entries. Nothing waits for that: what
//! is acknowledged is acknowledged by the leader, and reads are its own. So such a request waits for the next entries, which
//! say the same, or for [`WAIT_MAX`].
//!
//! Invariants: a request that asks something (a probe, which ends its stream) goes at once. No answer is made up: requests
//! that were left out are answered by the follower's answer to the one that went, which was sent later and says more. Nothing is
//! held while a request is under way, for the next one is only asked for when its answer has been taken.

use std::time::Duration;

use futures_util::stream::{Stream, StreamExt, unfold};
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout_at};

use super::type_config::TypeConfig;

/// How long a follower may not hear of a commit, if nothing else is said.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(250);

/// What openraft wants to send.
type Request = AppendEntriesRequest<TypeConfig>;

/// The requests of a stream without those that only say what the next one says too.
pub(crate) fn riding<S>(
    requests: S,
    wait_max: Duration,
) -> impl Stream<Item = Request> + Send + Unpin + 'static
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    let next = move |requests: Option<S>| async move {
        let mut requests = requests?;
        let mut request = requests.next().await?;
        let deadline = Instant::now() + wait_max;
        while request.entries.is_empty() {
            match timeout_at(deadline, requests.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) => return Some((request, None)),
                Err(_) => break,
            }
        }
        Some((request, Some(requests)))
    };
    Box::pin(unfold(Some(requests), next))
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{iter, pending};

    use super::super::record::{EntryRecord, LogIdRecord, VoteRecord};
    use super::super::type_config::{LogId, entry};
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A request with an entry of this index, if any, that says what is committed.
    fn request(index: Option<u64>, committed: u64) -> Request {
        let id = |index| LogIdRecord {
            term: 1,
            node: 1,
            index,
        };
        let vote = VoteRecord {
            term: 1,
            node: 1,
            committed: true,
        };
        Request {
            vote: vote.into(),
            prev_log_id: None,
            entries: index
                .map(|index| entry(id(index), EntryRecord::Blank))
                .into_iter()
                .collect(),
            leader_commit: Some(LogId::from(id(committed))),
        }
    }

    async fn sent(requests: Vec<Request>, wait: Duration) -> Vec<Request> {
        riding(iter(requests), wait).collect().await
    }

    #[tokio::test]
    async fn what_the_next_entries_say_too_is_left_out() {
        let [one, two] = [request(Some(1), 0), request(Some(2), 1)];
        let words = vec![one.clone(), request(None, 1), request(None, 1), two.clone()];
        assert_eq!(sent(words, LONG).await, [one, two]);
    }

    /// A probe is the last of its stream.
    #[tokio::test]
    async fn the_last_word_of_a_stream_goes_at_once() {
        let [one, last] = [request(Some(1), 0), request(None, 1)];
        let words = vec![one.clone(), request(None, 0), last.clone()];
        assert_eq!(sent(words, LONG).await, [one, last.clone()]);
        assert_eq!(sent(vec![last.clone()], LONG).await, [last]);
        assert_eq!(sent(Vec::new(), LONG).await, []);
    }

    #[tokio::test]
    async fn a_commit_is_told_in_the_end_though_nothing_follows() {
        let word = request(None, 1);
        let words = iter(vec![request(None, 0), word.clone()]).chain(pending());
        let mut sent = riding(words, Duration::from_millis(1));
        assert_eq!(sent.next().await, Some(word));
    }
}
