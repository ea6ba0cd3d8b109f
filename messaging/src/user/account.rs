//! Accounts: credentials and when they were made.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::Condition;

use super::log::UserLog;
use super::roster;
use crate::apply::Context;
use crate::command::Answer;
use crate::effect::{Effect, UserEffect};
use crate::refusal::refuse;
use crate::state::State;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// How it authenticates.
    pub credentials: StoredCredentials,
    /// When it was made, ms since 1970.
    pub created_ms: u64,
}

/// [`crate::command::Command::CreateAccount`]. XEP-0077 §3.1: `conflict` where the name is taken.
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
    state
        .logs
        .insert(user.clone(), UserLog::created_at(ctx.index));
    state.accounts.insert(
        user,
        Account {
            credentials,
            created_ms: ctx.time_ms,
        },
    );
    Answer::Done { seq: 0 }
}

/// [`crate::command::Command::SetCredentials`].
pub(crate) fn set_credentials(
    state: &mut State,
    user: BareJid,
    credentials: StoredCredentials,
) -> Answer {
    match state.accounts.get_mut(&user) {
        Some(account) => {
            account.credentials = credentials;
            Answer::Done { seq: 0 }
        }
        None => refuse(Condition::ItemNotFound),
    }
}

/// [`crate::command::Command::RemoveAccount`]: nothing of the user stays in this partition; contacts are told.
pub(crate) fn remove(state: &mut State, ctx: &mut Context<'_>, user: BareJid) -> Answer {
    if state.accounts.remove(&user).is_none() {
        return refuse(Condition::ItemNotFound);
    }
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
    state.logs.remove(&user);
    state.sent_ids.remove(&user);
    ctx.effect(Effect::DropArchive(user.clone()));
    ctx.user_effect(&user, UserEffect::AccountRemoved);
    Answer::Done { seq: 0 }
}
