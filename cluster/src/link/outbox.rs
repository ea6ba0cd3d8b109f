//! The sender of a partition's outbox, at its owner, for one reign.
//!
//! ```text
//!   Effect::Outbox ─► way to partition q: 5 6 7 8 … ── OutboxPropose ──► owner of q
//!                            ▲ lowest open             ◄─ OutboxAnswer ─┘
//!                            └─ OutboxAnswered is proposed, so that the entry leaves the replicated state
//! ```
//!
//! Nobody waits for the end of a message that was not refused, so it has no write of its own: it rides on the partition's next
//! batch ([`OutboxSender::settle`]), or goes with its like after [`SETTLE_AFTER`] or when there are [`SETTLED_MAX`] of them. A
//! reign that ends before that leaves its successor some entries to send once more. The end of a subscription stanza goes at
//! once, like a refusal: presence follows from it.
//!
//! Invariant: entries of one way leave in their order, at most [`WINDOW`] of them without an answer. On a new owner, on
//! a hole and after [`RESEND_AFTER`] without an answer they are sent again from the lowest open one; the target's link
//! record makes that harmless. What the replicated state holds when the reign begins is all that must be sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use messaging::command::Command;
use messaging::outbox::OutboxKey;
use xmpp::stanza_error::StanzaError;

use super::protocol::Across;
use crate::node_id::{Epoch, NodeId, PartitionId};

/// The most entries of a way on the wire without an answer; well below the answers a target keeps.
pub const WINDOW: u64 = 256;

/// How long to wait for an answer before sending again.
pub const RESEND_AFTER: Duration = Duration::from_secs(2);

/// How long the end of an entry waits at most for a batch to ride on.
pub const SETTLE_AFTER: Duration = Duration::from_millis(500);

/// The most ends that wait. With [`WINDOW`] still far fewer than the answers a target keeps.
pub const SETTLED_MAX: usize = 128;

/// What the owner's shell must do.
#[derive(Debug, PartialEq, Eq)]
pub enum OutboxAction {
    /// Send a frame to the owner of a partition; if it can't be queued it is sent again by itself.
    Send {
        /// That owner.
        to: NodeId,
        /// Its epoch, for the header.
        epoch: Epoch,
        /// The partition, for the header.
        target: PartitionId,
        /// The body.
        across: Across,
    },
    /// Propose an owner's command to this partition: an entry was answered.
    Propose(Command),
}

#[derive(Default)]
struct Way {
    /// Entries without an answer.
    open: BTreeMap<u64, Command>,
    /// The highest sequence this reign knows of; effects that trail behind the state bring no entry twice.
    known: u64,
    /// The next sequence to send.
    next: u64,
    /// The target's owner: its node while it is reachable, and its epoch.
    node: Option<NodeId>,
    epoch: Epoch,
    /// When to send again.
    resend: Option<Instant>,
}

impl Way {
    fn lowest(&self) -> Option<u64> {
        self.open.first_key_value().map(|(sequence, _)| *sequence)
    }

    /// Everything without an answer is to be sent again.
    fn rewind(&mut self) {
        self.next = self.lowest().unwrap_or(0);
        self.resend = None;
    }
}

/// The core of an outbox's sender. See the module docs.
pub struct OutboxSender {
    partition: PartitionId,
    ways: BTreeMap<PartitionId, Way>,
    actions: VecDeque<OutboxAction>,
    /// Entries that were answered and not refused, and are still in the replicated state.
    settled: Vec<OutboxKey>,
    settle_at: Option<Instant>,
}

impl std::fmt::Debug for OutboxSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open: usize = self.ways.values().map(|way| way.open.len()).sum();
        f.debug_struct("OutboxSender")
            .field("partition", &self.partition)
            .field("open", &open)
            .finish_non_exhaustive()
    }
}

impl OutboxSender {
    /// A reign begins with these entries in the replicated state.
    pub fn begin(
        partition: PartitionId,
        entries: impl Iterator<Item = (OutboxKey, Command)>,
        now: Instant,
    ) -> Self {
        let mut sender = OutboxSender {
            partition,
            ways: BTreeMap::new(),
            actions: VecDeque::new(),
            settled: Vec::new(),
            settle_at: None,
        };
        for (key, command) in entries {
            sender.push(key, command, now);
        }
        sender
    }

    /// A new entry, in the order of its way.
    pub fn push(&mut self, key: OutboxKey, command: Command, now: Instant) {
        let (target, sequence) = (PartitionId(key.0), key.1);
        let way = self.ways.entry(target).or_default();
        if sequence > way.known {
            way.known = sequence;
            way.open.insert(sequence, command);
            self.pump(target, now);
        }
    }

    /// How many entries have no answer.
    pub fn open(&self) -> usize {
        self.ways.values().map(|way| way.open.len()).sum()
    }

    /// Who owns a target partition, as far as is known; a higher epoch wins.
    pub fn owner_is(&mut self, target: PartitionId, node: NodeId, epoch: Epoch, now: Instant) {
        let way = self.ways.entry(target).or_default();
        let back = way.epoch == epoch && way.node.is_none();
        if epoch > way.epoch || back {
            way.node = Some(node);
            way.epoch = epoch;
            way.rewind();
            self.pump(target, now);
        }
    }

    /// A node can't be reached: entries for what it owns wait until [`OutboxSender::owner_is`], and leave at once then.
    pub fn node_lost(&mut self, node: NodeId) {
        for way in self.ways.values_mut().filter(|way| way.node == Some(node)) {
            way.node = None;
            way.resend = None;
        }
    }

    /// The target has answered an entry.
    pub fn answered(
        &mut self,
        by: PartitionId,
        sequence: u64,
        refused: Option<Box<StanzaError>>,
        now: Instant,
    ) {
        let Some(way) = self.ways.get_mut(&by) else {
            return;
        };
        let Some(command) = way.open.remove(&sequence) else {
            return;
        };
        way.resend = way.resend.map(|_| now + RESEND_AFTER);
        // The contact gets the user's presence by this entry's end (RFC 6121 §3.1.5).
        let is_awaited = matches!(command, Command::ReceiveSubscription { .. });
        if refused.is_some() || is_awaited {
            self.end((by.0, sequence), refused);
        } else {
            self.settled.push((by.0, sequence));
            self.settle_at.get_or_insert(now + SETTLE_AFTER);
            if self.settled.len() >= SETTLED_MAX {
                self.settle();
            }
        }
        self.pump(by, now);
    }

    /// How many ends wait.
    pub fn settled(&self) -> usize {
        self.settled.len()
    }

    /// Proposes the ends that wait: another batch is about to be written anyway.
    pub fn settle(&mut self) {
        self.settle_at = None;
        for key in std::mem::take(&mut self.settled) {
            self.end(key, None);
        }
    }

    fn end(&mut self, (partition, sequence): OutboxKey, refused: Option<Box<StanzaError>>) {
        let command = Command::OutboxAnswered {
            partition,
            sequence,
            refused,
        };
        self.actions.push_back(OutboxAction::Propose(command));
    }

    /// The target misses entries from this one on.
    pub fn hole(&mut self, by: PartitionId, expected: u64, now: Instant) {
        if let Some(way) = self.ways.get_mut(&by)
            && expected < way.next
        {
            way.next = expected;
            self.pump(by, now);
        }
    }

    /// The entry has left the replicated state, whoever saw to that.
    pub fn removed(&mut self, key: OutboxKey) {
        if let Some(way) = self.ways.get_mut(&PartitionId(key.0)) {
            way.open.remove(&key.1);
            way.known = way.known.max(key.1);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let overdue = |way: &Way| way.resend.is_some_and(|due| due <= now);
        let targets: Vec<PartitionId> = self
            .ways
            .iter()
            .filter(|(_, way)| overdue(way))
            .map(|(target, _)| *target)
            .collect();
        for target in targets {
            if let Some(way) = self.ways.get_mut(&target) {
                way.rewind();
            }
            self.pump(target, now);
        }
        if self.settle_at.is_some_and(|due| due <= now) {
            self.settle();
        }
    }

    /// When [`OutboxSender::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let resends = self.ways.values().filter_map(|way| way.resend);
        resends.chain(self.settle_at).min()
    }

    /// The next action.
    pub fn poll_action(&mut self) -> Option<OutboxAction> {
        self.actions.pop_front()
    }

    fn pump(&mut self, target: PartitionId, now: Instant) {
        let Some(way) = self.ways.get_mut(&target) else {
            return;
        };
        let (Some(lowest), Some(to)) = (way.lowest(), way.node) else {
            way.resend = None;
            return;
        };
        let upto = lowest + WINDOW;
        if way.next < upto {
            for (sequence, command) in way.open.range(way.next..upto) {
                let (from, sequence) = (self.partition, *sequence);
                let across = Across::OutboxPropose {
                    from,
                    sequence,
                    command: command.clone(),
                };
                self.actions.push_back(OutboxAction::Send {
                    to,
                    epoch: way.epoch,
                    target,
                    across,
                });
                way.next = sequence + 1;
            }
        }
        way.resend.get_or_insert(now + RESEND_AFTER);
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
