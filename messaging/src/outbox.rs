//! Effects on other keys, kept in the replicated state until the other key's partition has answered.
//!
//! The owner sends an entry to the target's partition under (this partition, its sequence on that way); it is at least
//! once on the wire and exactly once in effect, since the target's [`crate::link_record`] admits each sequence once.
//! The entry goes when [`crate::command::Command::OutboxAnswered`] is applied.
//!
//! Sequences are per way (this partition → that partition) and start at 1 without holes. Even an effect on a key
//! of the same partition takes this road, so that there is one.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use crate::command::Command;
use crate::slot::PartitionId;
use crate::state::State;

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

impl State {
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
        self.outbox.insert(key, entry);
        key
    }
}
