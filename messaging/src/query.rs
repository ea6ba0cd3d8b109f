//! What may be read from a partition's state, at its owner, after a ReadIndex.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::StanzaError;

use crate::room::query::RoomQuery;
use crate::state::State;

/// A question about one key (or, for lists, about one partition).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// An account's credentials.
    Credentials {
        /// The account.
        user: BareJid,
    },
    /// RFC 6121 §2.2: the roster; with the version the client has (XEP-0237).
    Roster {
        /// Whose.
        user: BareJid,
        /// The version the client has.
        version: Option<String>,
    },
    /// XEP-0191.
    Blocklist {
        /// Whose.
        user: BareJid,
    },
    /// XEP-0049.
    Private {
        /// Whose.
        user: BareJid,
        /// `{namespace}name`.
        name: String,
        /// What is answered where nothing is stored: the empty element.
        empty: Bytes,
    },
    /// XEP-0054; others may read a vCard, so the asker doesn't matter.
    Vcard {
        /// Whose.
        user: BareJid,
    },
    /// XEP-0030 at an account: may the asker see the account (own or subscribed)?
    AccountInfo {
        /// Whose.
        user: BareJid,
        /// Who asks.
        asker: Jid,
    },
    /// XEP-0313 at an account or a room; rows are read from the archive by the shell.
    Archive(ArchiveQuery),
    /// All accounts of this partition, for operators.
    Accounts {
        /// Only those after this one.
        after: Option<BareJid>,
        /// At most so many.
        limit: u32,
    },
    /// A question about a room.
    Room(RoomQuery),
}

/// XEP-0313: a page of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveQuery {
    /// Whose archive: a user's or a room's.
    pub key: BareJid,
    /// Who asks.
    pub asker: FullJid,
    /// Only with this peer.
    pub with: Option<Jid>,
    /// From this time, ms since 1970.
    pub start_ms: Option<u64>,
    /// To this time, ms since 1970.
    pub end_ms: Option<u64>,
    /// Only after this sequence (RSM `<after/>`, and `after-id`).
    pub after: Option<u64>,
    /// Only before this sequence (RSM `<before/>` and `before-id`).
    pub before: Option<u64>,
    /// From the end: `<before/>`, empty or with an id.
    pub backward: bool,
    /// Rows a page, already capped.
    pub max: u32,
}

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Credentials, if the account exists.
    Credentials(Option<StoredCredentials>),
    /// The payload of an iq result.
    Payload(Bytes),
    /// JIDs.
    Jids(Vec<BareJid>),
    /// The asker may read the archive; the shell reads the rows.
    ArchiveAllowed,
    /// Several messages in order and then the payload of the iq result (a page of an archive).
    Page {
        /// The messages, complete stanzas.
        messages: Vec<Bytes>,
        /// The `<fin/>`.
        fin: Bytes,
    },
    /// Refused.
    Refused(Box<StanzaError>),
}

/// Answers from the state alone.
pub fn answer(state: &State, query: &Query) -> Reply {
    match query {
        Query::Room(query) => crate::room::query::answer(state, query),
        other => crate::user::query::answer(state, other),
    }
}
