//! Accounts: credentials and when they were made.
//!
//! An account that is removed may leave something in any partition: affiliations with rooms, occupants. Its partition
//! tells all of them through the outbox, and until each has answered nobody registers the name: so whoever does finds
//! nothing of the one before, in whatever order things arrive.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::Condition;

use super::log::UserLog;
use super::roster;
use crate::apply::Context;
use crate::command::{Answer, Command};
use crate::effect::{Effect, UserEffect};
use crate::outbox::{OnAnswer, OutboxEntry};
use crate::refusal::refuse;
use crate::state::State;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// How it authenticates.
    pub credentials: StoredCredentials,
    /// When it was made, ms since 1970.
    pub created_ms: u64,
    /// The log index of its creation: tells it from earlier accounts of the name.
    pub generation: u64,
}

/// [`crate::command::Command::CreateAccount`]. XEP-0077 §3.1: `conflict` where the name is taken; `resource-constraint`
/// (wait) while some partition has not yet forgotten an earlier account of the name.
pub(crate) fn create(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: BareJid,
    credentials: StoredCredentials,
) -> Answer {
    if state.accounts.contains(&user) {
        return refuse(Condition::Conflict);
    }
    if user.local().is_none() {
        return refuse(Condition::NotAcceptable);
    }
    if is_being_forgotten(state, &user) {
        return refuse(Condition::ResourceConstraint);
    }
    state
        .logs
        .insert(user.clone(), UserLog::created_at(ctx.index));
    state.accounts.insert(
        user,
        Account {
            credentials,
            created_ms: ctx.time_ms,
            generation: ctx.index,
        },
    );
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::SetCredentials`]. If the account was being imported, that ends with it.
pub(crate) fn set_credentials(
    state: &mut State,
    user: BareJid,
    credentials: StoredCredentials,
) -> Answer {
    match state.accounts.get_mut(&user) {
        Some(account) => {
            account.credentials = credentials;
            state.imports.remove(&user);
            Answer::Done { seq: 0 }
        }
        None => refuse(Condition::ItemNotFound),
    }
}

/// [`crate::command::Command::RemoveAccount`]: nothing of the user stays in this partition; contacts are told.
pub(crate) fn remove(state: &mut State, ctx: &mut Context<'_>, user: BareJid) -> Answer {
    let Some(account) = state.accounts.remove(&user) else {
        return refuse(Condition::ItemNotFound);
    };
    let contacts: Vec<BareJid> = state
        .roster
        .rows_of(&user)
        .map(|(contact, _)| contact.clone())
        .collect();
    for contact in contacts {
        if let Some(item) = state.roster.remove(&(user.clone(), contact.clone())) {
            roster::end_subscriptions(state, ctx, &user, &contact, &item);
        }
    }
    let blocked: Vec<_> = state
        .blocks
        .rows_of(&user)
        .map(|(jid, ())| jid.clone())
        .collect();
    for jid in blocked {
        state.blocks.remove(&(user.clone(), jid));
    }
    let names: Vec<String> = state
        .private
        .rows_of(&user)
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        state.private.remove(&(user.clone(), name));
    }
    state.vcards.remove(&user);
    let last_row = state.logs.remove(&user).map_or(0, |log| log.head);
    state.sent_ids.remove(&user);
    state.imports.remove(&user);
    let sessions: Vec<FullJid> = state
        .online
        .iter()
        .filter(|(session, _)| session.bare() == user)
        .map(|(session, _)| session.clone())
        .collect();
    for session in sessions {
        state.online.remove(&session);
    }
    for partition in ctx.table.iter() {
        let entry = OutboxEntry {
            target: user.clone(),
            command: Command::ForgetAccount {
                user: user.clone(),
                generation: account.generation,
            },
            on_answer: OnAnswer::Nothing,
        };
        ctx.outbox_to(state, partition, entry);
    }
    ctx.effect(Effect::DropArchive {
        key: user.clone(),
        upto: last_row,
    });
    ctx.user_effect(&user, UserEffect::AccountRemoved);
    Answer::Done { seq: 0 }
}

/// Whether a partition has not answered yet that it forgot an account of this name.
fn is_being_forgotten(state: &State, name: &BareJid) -> bool {
    state.outbox.iter().any(
        |(_, entry)| matches!(&entry.command, Command::ForgetAccount { user, .. } if user == name),
    )
}
