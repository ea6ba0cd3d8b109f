//! The head and the cursor of a user's log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use crate::apply::Context;
use crate::archive::{ArchiveRecord, ArchiveRow, MessageRecord};
use crate::command::Answer;
use crate::effect::{Effect, UserEffect};
use crate::state::State;
use crate::user::streams::{self, StreamCount};

/// How far apart the first sequences of two creations of a key are for each log entry between them.
///
/// A command adds fewer rows than this, so sequences of a later creation lie above those of an earlier one.
const SEQUENCES_PER_ENTRY: u64 = 4_096;

/// A user's log: every 1:1 message sent or received is a row; offline delivery is the part after the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLog {
    /// The sequence of the newest row; the first of a generation is creation index × 4,096 + 1.
    pub head: u64,
    /// Rows up to here are delivered.
    pub delivered: u64,
    /// The roster's version; begins where the log begins, so that an account made again never shows an old version.
    pub roster_version: u64,
    /// How many of its sessions' stanzas are handled, in the order in which they began. Here, because a message changes this row
    /// in any case.
    pub streams: Vec<StreamCount>,
}

impl UserLog {
    /// The log of an account that is created by the entry at this index of the Raft log.
    pub fn created_at(index: u64) -> UserLog {
        let start = index.saturating_mul(SEQUENCES_PER_ENTRY);
        UserLog {
            head: start,
            delivered: start,
            roster_version: start,
            streams: Vec::new(),
        }
    }

    /// Whether the archive must have the row at the head. A log in which nothing was written since it began, or since its pool
    /// was restored, has none there.
    pub fn has_row_at_head(&self) -> bool {
        !self.head.is_multiple_of(SEQUENCES_PER_ENTRY)
    }
}

/// Adds a message to a user's log; gives the row's sequence. The account must exist.
pub(crate) fn append(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: &BareJid,
    record: MessageRecord,
    sender: Option<FullJid>,
    also: Vec<FullJid>,
) -> u64 {
    let index = ctx.index;
    let log = state
        .logs
        .get_or_insert_with(user, || UserLog::created_at(index));
    let previous = log.head;
    log.head += 1;
    streams::drop_old(log, ctx.time_ms);
    let seq = log.head;
    let row = Arc::new(ArchiveRow {
        key: user.clone(),
        seq,
        time_ms: ctx.time_ms,
        record: ArchiveRecord::Message(record),
    });
    ctx.effect(Effect::Archive(row.clone()));
    ctx.user_effect(
        user,
        UserEffect::Logged {
            previous,
            row,
            also,
            sender,
        },
    );
    seq
}

/// Moves the delivery cursor forward; a cursor never goes back nor beyond the head.
pub(crate) fn advance_cursor(state: &mut State, user: &BareJid, delivered: u64) -> Answer {
    let moves = state
        .logs
        .get(user)
        .is_some_and(|log| delivered.min(log.head) > log.delivered);
    if moves && let Some(log) = state.logs.get_mut(user) {
        log.delivered = delivered.min(log.head);
    }
    Answer::Done { seq: 0 }
}
