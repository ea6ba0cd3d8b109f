//! Questions about users.

use std::ops::Bound;

use bytes::Bytes;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza_error::{Condition, StanzaError};

use super::{blocking, private, roster, streams};
use crate::query::{Query, Reply};
use crate::state::State;

/// Accounts in one answer at most.
const ACCOUNTS_MAX: u32 = 1_000;

/// Answers a question about a user.
pub fn answer(state: &State, query: &Query) -> Reply {
    match query {
        Query::Credentials { user } => Reply::Credentials(
            state
                .accounts
                .get(user)
                .map(|account| Box::new((account.credentials.clone(), account.generation))),
        ),
        Query::Roster { user, version } => {
            with_account(state, user, || roster(state, user, version.as_deref()))
        }
        Query::Blocklist { user } => with_account(state, user, || {
            Reply::Payload(blocking::blocklist_payload(state, user))
        }),
        Query::Private { user, name, empty } => with_account(state, user, || {
            Reply::Payload(private::private_payload(state, user, name, empty))
        }),
        // XEP-0054 §3.3: the same answer with and without an account, so that names can't be guessed.
        // XEP-0191 §3.2: to who is blocked it looks as if nobody answered for the account.
        Query::Vcard { user, asker } if blocking::is_blocked(state, user, asker) => {
            refused(Condition::ServiceUnavailable)
        }
        Query::Vcard { user, .. } => match state.vcards.get(user) {
            Some(vcard) => Reply::Payload(vcard.clone()),
            None => refused(Condition::ItemNotFound),
        },
        Query::AccountInfo { user, asker } => account_info(state, user, asker),
        Query::Blocks { user, jid } => match blocking::is_blocked(state, user, jid) {
            true => Reply::Refused(Box::new(crate::refusal::blocked())),
            false => Reply::Payload(Bytes::new()),
        },
        Query::Handled { user, stream } => Reply::Handled(streams::handled(state, user, *stream)),
        Query::Accounts { after, limit } => accounts(state, after.as_ref(), *limit),
        Query::Archive(query) => archive(state, &query.key, &query.asker.bare()),
        Query::ArchiveMetadata { key, asker } => archive(state, key, &asker.bare()),
        Query::Room(query) => crate::room::query::answer(state, query),
    }
}

/// RFC 6121 §2.6.3: a client that has the current version gets an empty result.
fn roster(state: &State, user: &BareJid, version: Option<&str>) -> Reply {
    let current = state.logs.get(user).map_or(0, |log| log.roster_version);
    if version.is_some_and(|version| version == current.to_string()) {
        return Reply::Payload(Bytes::new());
    }
    Reply::Payload(roster::result_payload(
        state.roster.rows_of(user),
        version.map(|_| current),
    ))
}

/// XEP-0030 §8: who isn't subscribed can't tell an account from none. An empty payload: the asker may see it.
fn account_info(state: &State, user: &BareJid, asker: &Jid) -> Reply {
    let asker_bare = asker.bare();
    let subscribed = state
        .roster
        .get(&(user.clone(), asker_bare.clone()))
        .is_some_and(|item| item.from);
    let sees = asker_bare == *user || (subscribed && !blocking::is_blocked(state, user, asker));
    match state.accounts.contains(user) && sees {
        true => Reply::Payload(Bytes::new()),
        false => refused(Condition::ServiceUnavailable),
    }
}

fn accounts(state: &State, after: Option<&BareJid>, limit: u32) -> Reply {
    let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
    let limit = limit.min(ACCOUNTS_MAX) as usize;
    let jids = state
        .accounts
        .range((start, Bound::Unbounded))
        .take(limit)
        .map(|(jid, _)| jid.clone());
    Reply::Jids(jids.collect())
}

/// A user's archive is the user's alone. Others are told the same with and without an account, so that names can't be
/// guessed.
fn archive(state: &State, key: &BareJid, asker: &BareJid) -> Reply {
    if key != asker {
        // A room that isn't there comes here too: nobody's archive has that name.
        return refused(match key.domain() == asker.domain() {
            true => Condition::Forbidden,
            false => Condition::ItemNotFound,
        });
    }
    with_account(state, key, || Reply::ArchiveAllowed { real_jids: false })
}

fn with_account(state: &State, user: &BareJid, reply: impl FnOnce() -> Reply) -> Reply {
    match state.accounts.contains(user) {
        true => reply(),
        false => refused(Condition::ItemNotFound),
    }
}

fn refused(condition: Condition) -> Reply {
    Reply::Refused(Box::new(StanzaError::new(condition)))
}
