//! The rules for one user: account, roster, subscriptions, messages, blocking, private data, presence.
//!
//! The durable side ([`apply`]) changes the replicated state; the soft side ([`publication`]) is the owner's picture
//! of a user who is online.

pub mod account;
pub mod archive_page;
pub mod blocking;
pub mod dedup;
pub mod delivery;
pub mod import;
pub mod log;
pub mod message;
pub mod private;
pub mod publication;
pub mod query;
pub mod roster;
pub mod streams;
pub mod subscription;

use xmpp::jid::FullJid;
use xmpp::stanza_error::Condition;

use crate::apply::Context;
use crate::command::{Answer, Command};
use crate::effect::UserEffect;
use crate::refusal::refuse;
use crate::state::{OnlineRecord, State};

/// Applies a command on a user's key.
pub fn apply(state: &mut State, ctx: &mut Context<'_>, command: Command) -> Answer {
    match command {
        Command::CreateAccount { user, credentials } => {
            account::create(state, ctx, user, credentials)
        }
        Command::SetCredentials { user, credentials } => {
            account::set_credentials(state, user, credentials)
        }
        Command::RemoveAccount { user } => account::remove(state, ctx, user),
        Command::SendMessage(message) => message::send(state, ctx, message),
        Command::ReceiveMessage(message) => message::receive(state, ctx, message),
        Command::FileSent { user, stanza } => message::file_sent(state, ctx, user, stanza),
        Command::SetContact {
            user,
            contact,
            name,
            groups,
        } => roster::set(state, ctx, user, contact, name, groups),
        Command::RemoveContact { user, contact } => roster::remove(state, ctx, user, contact),
        Command::SendSubscription {
            user,
            contact,
            stanza,
        } => subscription::send(state, ctx, user, contact, stanza),
        Command::ReceiveSubscription {
            user,
            contact,
            stanza,
        } => subscription::receive(state, ctx, user, contact, stanza),
        Command::Block { user, items } => blocking::block(state, ctx, user, items),
        Command::Unblock { user, items } => blocking::unblock(state, ctx, user, items),
        Command::SetPrivate {
            user,
            name,
            element,
        } => private::set_private(state, user, name, element),
        Command::SetVcard { user, element } => private::set_vcard(state, user, element),
        Command::AdvanceCursor { user, delivered } => log::advance_cursor(state, &user, delivered),
        Command::NoteSessions { up, down } => note_sessions(state, ctx, up, down),
        Command::NoteStreams { notes } => streams::note(state, ctx, notes),
        Command::BeginImport { user } => import::begin(state, ctx, user),
        Command::ImportContacts { user, contacts } => import::contacts(state, ctx, user, contacts),
        Command::ImportRows {
            user,
            after,
            waiting,
            rows,
        } => import::rows(state, ctx, user, after, waiting, rows),
        Command::FinishImport { user, credentials } => import::finish(state, user, credentials),
        Command::ImportItem { user, item } => import::item(state, ctx, user, item),
        // `crate::apply` keeps these for itself and for rooms.
        Command::Nothing
        | Command::Room(_)
        | Command::ForgetAccount { .. }
        | Command::OutboxAnswered { .. } => refuse(Condition::BadRequest),
    }
}

/// [`Command::NoteSessions`]: for the owner that comes next. Sessions of an account that is gone aren't expected.
fn note_sessions(
    state: &mut State,
    ctx: &mut Context<'_>,
    up: Vec<(FullJid, u64, u64)>,
    down: Vec<FullJid>,
) -> Answer {
    for session in down {
        state.online.remove(&session);
    }
    for (session, node, incarnation) in up {
        let user = session.bare();
        if state.accounts.contains(&user) {
            let record = OnlineRecord { node, incarnation };
            state.online.insert(session.clone(), record);
            ctx.user_effect(&user, UserEffect::Noted(session));
        }
    }
    Answer::Done { seq: 0 }
}
