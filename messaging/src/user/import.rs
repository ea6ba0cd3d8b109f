//! Accounts that come from another server, piece by piece.
//!
//! ```text
//!  begin: an account without credentials ─► contacts, rows of the archive, what its client would set ─► credentials
//! ```
//!
//! Invariants: nothing comes to an account that has credentials. Until it has some nobody logs in, so there are no sessions that would
//! have to be told, and it takes no messages: all rows of its log are imported ones. Each piece may be sent twice: contacts and items
//! are put, and rows have their places in the order of the import, however they are cut into pieces. How many there are is
//! counted in `State::imports`, never made out from the log, whose numbers leap when a pool is restored
//! ([`crate::founding`]). The count is there exactly while the account is imported.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::Condition;

use super::roster::{self, RosterItem};
use super::subscription::SubscriptionRequest;
use super::{account, blocking, private};
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

/// What a client would set, one at a time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportedItem {
    /// Blocked addresses. XEP-0191.
    Blocked(Vec<Jid>),
    /// A private element. XEP-0049.
    Private {
        /// Its `{namespace}name`.
        name: String,
        /// The element, canonical.
        element: Bytes,
    },
    /// The vCard, canonical. XEP-0054.
    Vcard(Bytes),
}

// What users store and send isn't shown.
impl std::fmt::Debug for ImportedItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ImportedItem::Blocked(_) => "Blocked(…)",
            ImportedItem::Private { .. } => "Private(…)",
            ImportedItem::Vcard(_) => "Vcard(…)",
        })
    }
}

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

/// Whether there is an account that somebody can use: one that is being imported takes and sends nothing yet.
pub(crate) fn is_usable(state: &State, user: &BareJid) -> bool {
    state.accounts.get(user).is_some() && state.imports.get(user).is_none()
}

/// How many rows of an account were imported, if it is being imported.
fn rows_so_far(state: &State, user: &BareJid) -> Option<u64> {
    let account = state.accounts.get(user)?;
    let count = state.imports.get(user).copied()?;
    is_unfinished(&account.credentials).then_some(count)
}

/// [`crate::command::Command::BeginImport`].
pub(crate) fn begin(state: &mut State, ctx: &mut Context<'_>, user: BareJid) -> Answer {
    if state.accounts.contains(&user) {
        return match rows_so_far(state, &user) {
            Some(_) => Answer::Done { seq: 0 },
            None => refuse(Condition::Conflict),
        };
    }
    let made = account::create(state, ctx, user.clone(), StoredCredentials::default());
    if matches!(made, Answer::Done { .. }) {
        state.imports.insert(user, 0);
    }
    made
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
        let request = |request: ImportedRequest| {
            Box::new(SubscriptionRequest {
                id: request.id,
                lang: request.lang,
                payload: request.payload,
            })
        };
        let mut item = RosterItem {
            to: contact.to,
            from: contact.from,
            pending_out: contact.pending_out,
            pending_in: contact.pending_in.map(request),
            approved: contact.approved,
            listed: contact.listed,
            ..RosterItem::default()
        };
        item.set_label(contact.name, contact.groups);
        roster::store(state, ctx, &user, &key, item);
    }
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::ImportRows`]: rows that are there already are left as they are. Of what is said to be from later than
/// now the time becomes now: clocks of other machines decide on nothing.
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
    if rows.len() > ROWS_MAX {
        return refuse_because(Condition::NotAcceptable, "There are too many messages.");
    }
    if !rows.is_sorted_by_key(|(time_ms, _)| *time_ms) {
        return refuse_because(Condition::NotAcceptable, "The messages' times fall.");
    }
    let Some(known) = have.checked_sub(after) else {
        let why = "Messages that come before these are missing.";
        return refuse_because(Condition::UnexpectedRequest, why);
    };
    let known = usize::try_from(known).unwrap_or(usize::MAX);
    let new = rows.len().saturating_sub(known) as u64;
    if new == 0 {
        return Answer::Done { seq: 0 };
    }
    let Some(log) = state.logs.get_mut(&user) else {
        return refuse(Condition::UnexpectedRequest);
    };
    let first = log.head + 1;
    log.head += new;
    if !waiting && log.delivered + 1 == first {
        log.delivered = log.head;
    }
    state.imports.insert(user.clone(), have + new);
    let now = ctx.time_ms;
    for ((time_ms, record), seq) in rows.into_iter().skip(known).zip(first..) {
        ctx.effect(Effect::Archive(Arc::new(ArchiveRow {
            key: user.clone(),
            seq,
            time_ms: time_ms.min(now),
            record: ArchiveRecord::Message(record),
        })));
    }
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::ImportItem`].
pub(crate) fn item(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    item: ImportedItem,
) -> Answer {
    if rows_so_far(state, &user).is_none() {
        return refuse(Condition::Conflict);
    }
    match item {
        ImportedItem::Blocked(items) => blocking::block(state, ctx, user, items),
        ImportedItem::Private { name, element } => private::set_private(state, user, name, element),
        ImportedItem::Vcard(element) => private::set_vcard(state, user, element),
    }
}

/// [`crate::command::Command::FinishImport`].
pub(crate) fn finish(state: &mut State, user: BareJid, credentials: StoredCredentials) -> Answer {
    if is_unfinished(&credentials) {
        return refuse(Condition::NotAcceptable);
    }
    match state.accounts.get(&user) {
        Some(account) if is_unfinished(&account.credentials) => {
            account::set_credentials(state, user, credentials)
        }
        Some(account) if account.credentials == credentials => Answer::Done { seq: 0 },
        Some(_) => refuse(Condition::Conflict),
        None => refuse(Condition::ItemNotFound),
    }
}
