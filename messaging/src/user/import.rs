//! Accounts that come from another server, piece by piece.
//!
//! ```text
//!  begin: an account without credentials ─► contacts, rows of the archive, what its client would set ─► credentials
//! ```
//!
//! Invariants: no contacts, rows or credentials come to an account that has credentials. Until it has some nobody logs in, so there are no sessions that would
//! have to be told. Each piece may be sent twice: contacts are put, and rows have their places, counted from the account's
//! beginning.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::Condition;

use super::account;
use super::log::UserLog;
use super::roster::{self, RosterItem};
use super::subscription::SubscriptionRequest;
use crate::apply::Context;
use crate::archive::{ArchiveRecord, ArchiveRow, MessageRecord};
use crate::command::Answer;
use crate::effect::Effect;
use crate::refusal::{refuse, refuse_because};
use crate::state::State;

/// Rows in one piece, far fewer than sequences lie between two entries.
pub const ROWS_MAX: usize = 256;

/// Contacts in one piece.
pub const CONTACTS_MAX: usize = 256;

/// A contact as another server had it. RFC 6121 §2.1.2.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedContact {
    /// Who.
    pub contact: BareJid,
    /// The name the user gave.
    pub name: Option<String>,
    /// The groups the user put it in.
    pub groups: Vec<String>,
    /// The user sees the contact's presence.
    pub to: bool,
    /// The contact sees the user's presence.
    pub from: bool,
    /// The user asked to see the contact and waits.
    pub pending_out: bool,
    /// Approved before it was asked (RFC 6121 §3.4).
    pub approved: bool,
    /// Whether it is in the roster; a request that waits needs no item there.
    pub listed: bool,
    /// The contact asked to see the user and waits.
    pub pending_in: Option<ImportedRequest>,
}

/// A request that waits. RFC 6121 §3.1.3.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedRequest {
    /// The stanza's id.
    pub id: Option<String>,
    /// The language of its texts.
    pub lang: Option<String>,
    /// Its child elements, canonical.
    pub payload: Bytes,
}

// What users store and send isn't shown.
impl std::fmt::Debug for ImportedContact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedContact")
            .field("contact", &self.contact)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ImportedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedRequest")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Whether an account is one whose import has not come to its end.
pub fn is_unfinished(credentials: &StoredCredentials) -> bool {
    *credentials == StoredCredentials::default()
}

/// How many rows an account has got, if it is being imported.
fn rows_so_far(state: &State, user: &BareJid) -> Option<u64> {
    let account = state.accounts.get(user)?;
    if !is_unfinished(&account.credentials) {
        return None;
    }
    let begin = UserLog::created_at(account.generation).head;
    let head = state.logs.get(user).map_or(begin, |log| log.head);
    Some(head.saturating_sub(begin))
}

/// [`crate::command::Command::BeginImport`].
pub(crate) fn begin(state: &mut State, ctx: &mut Context<'_>, user: BareJid) -> Answer {
    if !state.accounts.contains(&user) {
        return account::create(state, ctx, user, StoredCredentials::default());
    }
    match rows_so_far(state, &user) {
        Some(_) => Answer::Done { seq: 0 },
        None => refuse(Condition::Conflict),
    }
}

/// [`crate::command::Command::ImportContacts`]. All of them, or none.
pub(crate) fn contacts(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    contacts: Vec<ImportedContact>,
) -> Answer {
    if rows_so_far(state, &user).is_none() {
        return refuse(Condition::Conflict);
    }
    if contacts.len() > CONTACTS_MAX {
        return refuse(Condition::NotAcceptable);
    }
    let mut new = 0;
    for contact in &contacts {
        if contact.contact == user {
            return refuse(Condition::NotAllowed);
        }
        if let Err(refusal) = roster::check_item(contact.name.as_deref(), &contact.groups) {
            return refusal;
        }
        let key = (user.clone(), contact.contact.clone());
        let was_listed = state.roster.get(&key).is_some_and(|item| item.listed);
        new += usize::from(contact.listed && !was_listed);
    }
    let listed = state.roster.rows_of(&user);
    let listed = listed.filter(|(_, item)| item.listed).count();
    if listed + new > ctx.pool.contacts_max as usize {
        return refuse_because(Condition::ResourceConstraint, roster::FULL);
    }
    for contact in contacts {
        let key = contact.contact.clone();
        let item = RosterItem {
            name: contact.name.filter(|name| !name.is_empty()),
            groups: contact.groups,
            to: contact.to,
            from: contact.from,
            pending_out: contact.pending_out,
            pending_in: contact.pending_in.map(|request| SubscriptionRequest {
                id: request.id,
                lang: request.lang,
                payload: request.payload,
            }),
            approved: contact.approved,
            listed: contact.listed,
            version: 0,
        };
        roster::store(state, ctx, &user, &key, item);
    }
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::ImportRows`]: rows that are there already are left as they are.
pub(crate) fn rows(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    after: u64,
    waiting: bool,
    rows: Vec<(u64, MessageRecord)>,
) -> Answer {
    let Some(have) = rows_so_far(state, &user) else {
        return refuse(Condition::Conflict);
    };
    let times_rise = rows.is_sorted_by_key(|(time_ms, _)| *time_ms);
    let now = ctx.time_ms;
    if rows.len() > ROWS_MAX || !times_rise || rows.iter().any(|(time_ms, _)| *time_ms > now) {
        return refuse(Condition::NotAcceptable);
    }
    if after.saturating_add(rows.len() as u64) <= have {
        return Answer::Done { seq: 0 };
    }
    // Something else was written to the account meanwhile, or a piece is missing.
    if after != have {
        return refuse(Condition::UnexpectedRequest);
    }
    let Some(log) = state.logs.get_mut(&user) else {
        return refuse(Condition::UnexpectedRequest);
    };
    let first = log.head + 1;
    log.head += rows.len() as u64;
    if !waiting && log.delivered + 1 == first {
        log.delivered = log.head;
    }
    for ((time_ms, record), seq) in rows.into_iter().zip(first..) {
        ctx.effect(Effect::Archive(Arc::new(ArchiveRow {
            key: user.clone(),
            seq,
            time_ms,
            record: ArchiveRecord::Message(record),
        })));
    }
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::FinishImport`].
pub(crate) fn finish(state: &mut State, user: BareJid, credentials: StoredCredentials) -> Answer {
    if is_unfinished(&credentials) {
        return refuse(Condition::NotAcceptable);
    }
    match state.accounts.get_mut(&user) {
        Some(account) if is_unfinished(&account.credentials) => {
            account.credentials = credentials;
            Answer::Done { seq: 0 }
        }
        Some(account) if account.credentials == credentials => Answer::Done { seq: 0 },
        Some(_) => refuse(Condition::Conflict),
        None => refuse(Condition::ItemNotFound),
    }
}
