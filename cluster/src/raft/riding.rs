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
    use futures_util::FutureExt;
    use futures_util::stream::{iter, pending};

    use super::super::record::{EntryRecord, LogIdRecord, VoteRecord};
    use super::super::type_config::{LogId, entry};
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A request with an entry of this index, if any, that says what is committed.
    fn request((index, committed): Word) -> Request {
        let id = |index| LogIdRecord { term: 1, index };
        let vote = VoteRecord {
            term: 1,
            node: 1,
            committed: true,
        };
        let entries = index.map(|index| entry(id(index), EntryRecord::Blank));
        Request {
            vote: vote.into(),
            prev_log_id: None,
            entries: entries.into_iter().collect(),
            leader_commit: Some(LogId::from(id(committed))),
        }
    }

    fn word(request: &Request) -> Word {
        let index = request.entries.first().map(|entry| entry.log_id.index);
        let committed = request.leader_commit.as_ref().map_or(0, |id| id.index);
        (index, committed)
    }

    /// The index of a request's entry, and what is committed.
    type Word = (Option<u64>, u64);

    #[track_caller]
    fn check(words: &[Word], expect: &[Word]) {
        let requests: Vec<_> = words.iter().copied().map(request).collect();
        let sent = riding(iter(requests), LONG)
            .collect::<Vec<_>>()
            .now_or_never();
        let sent: Vec<Word> = sent.expect("nothing waits").iter().map(word).collect();
        assert_eq!(sent, expect);
    }

    #[tokio::test]
    async fn what_the_next_entries_say_too_is_left_out() {
        check(
            &[(Some(1), 0), (None, 1), (None, 1), (Some(2), 1)],
            &[(Some(1), 0), (Some(2), 1)],
        );
    }

    /// A probe is the last of its stream.
    #[tokio::test]
    async fn the_last_word_of_a_stream_goes_at_once() {
        check(
            &[(Some(1), 0), (None, 0), (None, 1)],
            &[(Some(1), 0), (None, 1)],
        );
        check(&[(None, 1)], &[(None, 1)]);
        check(&[], &[]);
    }

    #[tokio::test]
    async fn a_commit_is_told_in_the_end_though_nothing_follows() {
        let words = iter([request((None, 0)), request((None, 1))]).chain(pending());
        let mut sent = riding(words, Duration::from_millis(1));
        assert_eq!(sent.next().await.as_ref().map(word), Some((None, 1)));
    }
}
