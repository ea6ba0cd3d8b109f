//! When proposals become a batch: at once while the pipeline is idle, else after a short wait or when a batch is full.
//!
//! One batch is one write and one fsync of the log, so the wait is worth it only while another batch is on its way.
//! Proposals leave in the order in which they came. What waits is bounded by the links' windows.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use messaging::command::{Command, Proposal};

use super::size::measure_command;

/// The most bytes of commands in a batch, unless a single command is larger.
pub const BATCH_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// How large batches are, how long they wait, how many are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// The most proposals in a batch. Default 64.
    pub proposals_max: usize,
    /// The longest a proposal waits while another batch is on its way and there is room for one more. Default 2 ms.
    pub wait: Duration,
    /// The most batches on their way to the log. Default 2.
    pub in_flight_max: usize,
}

impl Default for BatchSettings {
    fn default() -> Self {
        BatchSettings {
            proposals_max: 64,
            wait: Duration::from_millis(2),
            in_flight_max: 2,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    proposal: Proposal,
    bytes: u64,
    since: Instant,
}

/// The proposals of one reign that are not yet on their way to the log.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    waiting: VecDeque<Waiting>,
    in_flight: usize,
}

impl Batcher {
    /// Nothing waits.
    pub fn new(settings: BatchSettings) -> Self {
        Batcher {
            settings,
            waiting: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Adds a proposal.
    pub fn push(&mut self, mut proposal: Proposal, now: Instant) {
        let (command, bytes) =
            measure_command(mem::replace(&mut proposal.command, Command::Nothing));
        proposal.command = command;
        self.waiting.push_back(Waiting {
            proposal,
            bytes,
            since: now,
        });
    }

    /// The next batch if it is time for one; it counts as on its way until [`Batcher::done`].
    pub fn poll_batch(&mut self, now: Instant) -> Option<Vec<Proposal>> {
        let due = self.poll_timeout()?;
        let full = self.waiting.len() >= self.settings.proposals_max;
        if self.in_flight > 0 && !full && due > now {
            return None;
        }
        self.in_flight += 1;
        Some(self.take())
    }

    fn take(&mut self) -> Vec<Proposal> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        while batch.len() < self.settings.proposals_max.max(1)
            && let Some(next) = self.waiting.front()
            && (batch.is_empty() || bytes + next.bytes <= BATCH_BYTES_MAX)
            && let Some(next) = self.waiting.pop_front()
        {
            bytes += next.bytes;
            batch.push(next.proposal);
        }
        batch
    }

    /// A batch has reached the log.
    pub fn done(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// When [`Batcher::poll_batch`] is to be asked again at the latest; `None` while nothing waits or nothing may leave.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        if self.in_flight >= self.settings.in_flight_max.max(1) {
            return None;
        }
        let wait = if self.in_flight == 0 {
            Duration::ZERO
        } else {
            self.settings.wait
        };
        Some(oldest.since + wait)
    }

    /// The reign has ended: everything is dropped, since origins send again to the next owner.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.in_flight = 0;
    }

    /// How many batches are on their way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many proposals wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use messaging::link_record::LinkOrigin;
    use xmpp::jid::BareJid;

    fn proposal(sequence: u64) -> Proposal {
        Proposal {
            origin: LinkOrigin::Node(1),
            incarnation: 1,
            sequence,
            command: Command::Nothing,
        }
    }

    fn sequences(batch: Option<Vec<Proposal>>) -> Vec<u64> {
        batch
            .unwrap_or_default()
            .iter()
            .map(|proposal| proposal.sequence)
            .collect()
    }

    #[test]
    fn an_idle_pipeline_takes_at_once_and_a_busy_one_after_the_wait() {
        let start = Instant::now();
        let mut batcher = Batcher::new(BatchSettings::default());
        assert_eq!(batcher.poll_timeout(), None);
        batcher.push(proposal(1), start);
        assert_eq!(sequences(batcher.poll_batch(start)), [1]);
        batcher.push(proposal(2), start);
        batcher.push(proposal(3), start);
        assert_eq!(sequences(batcher.poll_batch(start)), []);
        let due = start + Duration::from_millis(2);
        assert_eq!(batcher.poll_timeout(), Some(due));
        assert_eq!(sequences(batcher.poll_batch(due)), [2, 3]);
        batcher.push(proposal(4), start);
        assert_eq!(batcher.poll_timeout(), None, "two are on their way");
        assert_eq!(
            sequences(batcher.poll_batch(due + Duration::from_secs(1))),
            []
        );
        batcher.done();
        batcher.done();
        assert_eq!(sequences(batcher.poll_batch(start)), [4], "idle again");
    }

    #[test]
    fn a_full_batch_does_not_wait() {
        let start = Instant::now();
        let mut batcher = Batcher::new(BatchSettings {
            proposals_max: 3,
            ..BatchSettings::default()
        });
        batcher.push(proposal(1), start);
        assert_eq!(sequences(batcher.poll_batch(start)), [1]);
        (2..=5).for_each(|sequence| batcher.push(proposal(sequence), start));
        assert_eq!(sequences(batcher.poll_batch(start)), [2, 3, 4]);
        assert_eq!(batcher.waiting(), 1);
        batcher.clear();
        assert_eq!(batcher.waiting(), 0);
        assert_eq!(sequences(batcher.poll_batch(start)), []);
    }

    #[test]
    fn large_commands_make_small_batches() {
        let start = Instant::now();
        let mut batcher = Batcher::new(BatchSettings::default());
        let large = |sequence| Proposal {
            command: Command::SetVcard {
                user: BareJid::parse("juliet@localhost").unwrap(),
                element: Bytes::from(vec![b' '; 1024 * 1024 - 100]),
            },
            ..proposal(sequence)
        };
        (1..=3).for_each(|sequence| batcher.push(large(sequence), start));
        assert_eq!(sequences(batcher.poll_batch(start)), [1, 2]);
        batcher.done();
        assert_eq!(sequences(batcher.poll_batch(start)), [3]);
    }
}
