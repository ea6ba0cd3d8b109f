//! Effects on other keys, kept in the replicated state until the other key's partition has answered.
//!
//! The owner sends an entry to the target's partition under (this partition, its sequence on that way); it is at least
//! once on the wire and exactly once in effect, since the target's [`crate::link_record`] admits each sequence once.
//! The entry goes when [`crate::command::Command::OutboxAnswered`] is applied.
//!
//! Sequences are per way (this partition → that partition) and start at 1 without holes. Even an effect on a key
//! of the same partition takes this road, so that there is one.
//!
//! Invariant: where a target's partition answers nothing, no client makes a way to it hold more than
//! [`WAY_ENTRIES_MAX`] entries, or [`WAY_BYTES_MAX`] bytes and one command: what would open a further entry is refused
//! before anything of it is done, with `resource-constraint` and the advice to wait. What the server itself must not lose
//! (the end of an account, the answer to a subscription) may exceed that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use crate::command::Command;
use crate::slot::PartitionId;
use crate::state::State;

/// Entries without an answer on one way above which clients' commands open no more.
pub const WAY_ENTRIES_MAX: usize = 16_384;

/// The same in bytes, as far as clients decide on them.
pub const WAY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What clients are told whose stanza found a way full.
pub(crate) const WAY_FULL: &str = "too much waits for the recipient already";

/// (target partition, sequence on that way).
pub type OutboxKey = (u16, u64);

/// One effect that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// The key in whose partition the command is to be applied.
    pub target: BareJid,
    /// What is to be applied there.
    pub command: Command,
    /// What follows the answer.
    pub on_answer: OnAnswer,
}

/// What the origin does when the target has answered. It is an effect of the entry that takes the answer
/// ([`Command::OutboxAnswered`]), so it happens once, whoever owns the partition by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnAnswer {
    /// Nothing: the effect was a courtesy.
    Nothing,
    /// Refused: send the error to this session of this partition's user, with the id of the stanza it answers.
    Bounce {
        /// Who sent the stanza.
        sender: FullJid,
        /// The refused stanza without payload: enough for the error's addresses, type and id.
        stanza: Box<xmpp::stanza::Stanza>,
    },
    /// Done: tell the target this user's presence. It was told `subscribed`; presence must not come before that.
    ShowPresence {
        /// Whose presence.
        user: BareJid,
    },
    /// Refused: like [`OnAnswer::Bounce`], as XEP-0045 §7.8.2 says it. Who blocks the room looks like nobody.
    NotInvited {
        /// Who invited.
        sender: FullJid,
        /// The invitation without payload.
        stanza: Box<xmpp::stanza::Stanza>,
    },
}

/// What an entry takes beside its stanzas. A number of its own: layouts differ from build to build, and every replica has
/// to come to the same sum.
const ENTRY_BYTES: usize = 512;

impl OutboxEntry {
    /// About how much memory it takes, the same on every replica.
    fn bytes(&self) -> usize {
        let command = match &self.command {
            Command::ReceiveMessage(message) => message.stanza.size_hint(),
            Command::FileSent { stanza, .. } | Command::ReceiveSubscription { stanza, .. } => {
                stanza.size_hint()
            }
            _ => 0,
        };
        let answer = match &self.on_answer {
            OnAnswer::Bounce { stanza, .. } | OnAnswer::NotInvited { stanza, .. } => {
                stanza.size_hint()
            }
            OnAnswer::Nothing | OnAnswer::ShowPresence { .. } => 0,
        };
        ENTRY_BYTES + command + answer
    }
}

/// What waits on one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    entries: usize,
    bytes: usize,
}

/// What waits on each way; neither replicated nor stored, but counted from the entries when it is asked for first, and kept
/// in step from then on.
#[derive(Clone, Debug, Default)]
pub struct OutboxLoads(Option<BTreeMap<u16, Load>>);

impl OutboxLoads {
    fn added(&mut self, partition: u16, entry: &OutboxEntry) {
        if let Some(loads) = &mut self.0 {
            let load = loads.entry(partition).or_default();
            load.entries += 1;
            load.bytes += entry.bytes();
        }
    }

    fn removed(&mut self, partition: u16, entry: &OutboxEntry) {
        if let Some(load) = self.0.as_mut().and_then(|loads| loads.get_mut(&partition)) {
            load.entries = load.entries.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(entry.bytes());
        }
    }
}

impl State {
    /// Whether a client's command may open one entry for each of these partitions.
    pub fn outbox_has_room(&mut self, partitions: impl Iterator<Item = PartitionId>) -> bool {
        if self.outbox_loads.0.is_none() {
            let mut counted = OutboxLoads(Some(BTreeMap::new()));
            for ((partition, _), entry) in self.outbox.iter() {
                counted.added(*partition, entry);
            }
            self.outbox_loads = counted;
        }
        let mut wanted: BTreeMap<u16, usize> = BTreeMap::new();
        for partition in partitions {
            *wanted.entry(partition.0).or_default() += 1;
        }
        let loads = self.outbox_loads.0.iter().flatten();
        let mut loads = loads.filter_map(|(way, load)| Some((load, wanted.get(way)?)));
        loads.all(|(load, wanted)| {
            load.entries + wanted <= WAY_ENTRIES_MAX && load.bytes < WAY_BYTES_MAX
        })
    }

    /// The newest entry for a partition that has no answer yet.
    pub fn newest_outbox(&self, partition: u16) -> Option<u64> {
        let mut entries = self.outbox.range((partition, 0)..=(partition, u64::MAX));
        entries.next_back().map(|((_, sequence), _)| *sequence)
    }

    /// Appends an entry for a partition and returns its key.
    pub fn push_outbox(&mut self, partition: PartitionId, entry: OutboxEntry) -> OutboxKey {
        let partition = partition.0;
        let next = self.outbox_next.get_or_insert_with(&partition, || 1);
        let key = (partition, *next);
        *next += 1;
        self.outbox_loads.added(partition, &entry);
        self.outbox.insert(key, entry);
        key
    }

    /// Takes out an entry that was answered.
    pub(crate) fn take_outbox(&mut self, key: OutboxKey) -> Option<OutboxEntry> {
        let entry = self.outbox.remove(&key)?;
        self.outbox_loads.removed(key.0, &entry);
        Some(entry)
    }
}
