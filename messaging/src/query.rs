//! What may be read from a partition's state, at its owner, after a ReadIndex.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza_error::{Condition, StanzaError};

use crate::room::query::RoomQuery;
use crate::room::state::{Affiliation, Role};
use crate::state::State;
use crate::user::streams::StreamId;

/// A question about one key (or, for lists, about one partition).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// An account's credentials.
    Credentials {
        /// The account.
        user: BareJid,
    },
    /// RFC 6121 §2.2: the roster; an empty payload where the client has the current version (§2.6.3).
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
    /// XEP-0054; everybody may read a vCard who isn't blocked.
    Vcard {
        /// Whose.
        user: BareJid,
        /// Who asks.
        asker: Jid,
    },
    /// XEP-0030 §8 at an account: an empty payload where the asker may see it (own or subscribed); else
    /// service-unavailable, with and without an account.
    AccountInfo {
        /// Whose.
        user: BareJid,
        /// Who asks.
        asker: Jid,
    },
    /// XEP-0313 at an account or a room; rows are read from the archive by the shell.
    Archive(ArchiveQuery),
    /// XEP-0313 §5: the first and the last message of an archive; rows are read by the shell.
    ArchiveMetadata {
        /// Whose archive: a user's or a room's.
        key: BareJid,
        /// Who asks.
        asker: FullJid,
    },
    /// All accounts of this partition, for operators.
    Accounts {
        /// Only those after this one.
        after: Option<BareJid>,
        /// At most so many.
        limit: u32,
    },
    /// A question about a room.
    Room(RoomQuery),
    /// XEP-0191 §3.2, for a stanza of the user's that the server answers itself: an empty payload where the user does not
    /// block whom it is for, else the refusal.
    Blocks {
        /// Who sends it.
        user: BareJid,
        /// Whom it is for.
        jid: Jid,
    },
    /// XEP-0198 §5: how many of a stream's stanzas are handled, for a client whose session is gone.
    Handled {
        /// Whose session it was.
        user: BareJid,
        /// Its stream.
        stream: StreamId,
    },
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
    /// Only these sequences, in rising order; empty: all.
    pub ids: Vec<u64>,
    /// Every sequence that the client named by its id: one that isn't in the archive means item-not-found.
    pub named: Vec<u64>,
    /// From the end: `<before/>`, empty or with an id.
    pub backward: bool,
    /// Rows a page, already capped.
    pub max: u32,
    /// `<flip-page/>`: the page's messages are sent newest first.
    pub flip: bool,
    /// The client's `queryid`, repeated in every result.
    pub query_id: Option<String>,
}

/// What a question is answered with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Credentials and generation, if the account exists.
    Credentials(Option<Box<(StoredCredentials, u64)>>),
    /// The payload of an iq result.
    Payload(Bytes),
    /// JIDs.
    Jids(Vec<BareJid>),
    /// The asker may read the archive; the shell reads the rows.
    ArchiveAllowed {
        /// Whether the asker may see who is behind a room's nicknames.
        real_jids: bool,
    },
    /// Several messages in order and then the payload of the iq result (a page of an archive).
    Page {
        /// The messages, complete stanzas.
        messages: Vec<Bytes>,
        /// The `<fin/>`.
        fin: Bytes,
    },
    /// An iq to an occupant goes to this session, from this occupant's nickname.
    Occupant {
        /// The session behind the nickname.
        session: FullJid,
        /// The nickname under which the asker is in the room.
        asker_nick: String,
    },
    /// Refused.
    Refused(Box<StanzaError>),
    /// So many, at least; `None`: it isn't known.
    Handled(Option<u64>),
}

// Payloads may hold messages and private elements: only their sizes are shown.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reply::Credentials(credentials) => f
                .debug_tuple("Credentials")
                .field(&credentials.is_some())
                .finish(),
            Reply::Payload(payload) => f
                .debug_struct("Payload")
                .field("bytes", &payload.len())
                .finish(),
            Reply::Jids(jids) => f.debug_tuple("Jids").field(jids).finish(),
            Reply::ArchiveAllowed { real_jids } => f
                .debug_struct("ArchiveAllowed")
                .field("real_jids", real_jids)
                .finish(),
            Reply::Page { messages, .. } => f
                .debug_struct("Page")
                .field("messages", &messages.len())
                .finish(),
            Reply::Occupant {
                session,
                asker_nick,
            } => f
                .debug_struct("Occupant")
                .field("session", session)
                .field("asker_nick", asker_nick)
                .finish(),
            Reply::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            Reply::Handled(handled) => f.debug_tuple("Handled").field(handled).finish(),
        }
    }
}

/// Answers from the state alone.
pub fn answer(state: &State, query: &Query) -> Reply {
    match query {
        Query::Room(query) => crate::room::query::answer(state, query),
        Query::Archive(ArchiveQuery { key, asker, .. }) | Query::ArchiveMetadata { key, asker }
            if state.rooms.contains(key) =>
        {
            room_archive(state, key, asker)
        }
        other => crate::user::query::answer(state, other),
    }
}

/// XEP-0313 §5.1.2: who may enter a room may read its archive.
fn room_archive(state: &State, room: &BareJid, asker: &FullJid) -> Reply {
    let refused = |condition| Reply::Refused(Box::new(StanzaError::new(condition)));
    let Some(record) = state.rooms.get(room) else {
        return refused(Condition::ItemNotFound);
    };
    let person = asker.bare();
    // XEP-0045 §9.2: a person's own affiliation counts before that of the domain.
    let listed = |jid: BareJid| {
        state
            .affiliations
            .get(&(room.clone(), jid))
            .map(|listed| listed.affiliation)
    };
    let affiliation = listed(person.clone())
        .or_else(|| listed(person.to_domain()))
        .unwrap_or(Affiliation::None);
    let occupant = state.occupants.get(&(room.clone(), asker.clone()));
    let config = &record.config;
    if record.locked && affiliation < Affiliation::Owner {
        return refused(Condition::ItemNotFound);
    }
    let closed = config.members_only || config.password.is_some();
    if affiliation == Affiliation::Outcast
        || (closed && affiliation < Affiliation::Member && occupant.is_none())
    {
        return refused(Condition::Forbidden);
    }
    if !config.archived {
        return refused(Condition::ServiceUnavailable);
    }
    let moderates = occupant.is_some_and(|occupant| occupant.role == Role::Moderator);
    let real_jids = config.non_anonymous || moderates || affiliation >= Affiliation::Admin;
    Reply::ArchiveAllowed { real_jids }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::depth::LogDepth;
    use crate::room::state::{AffiliationRecord, RoomConfig, RoomRecord, Secret, Subject};

    fn check(config: RoomConfig, locked: bool, listed: &[(&str, Affiliation)], expect: &str) {
        let room = BareJid::parse("den@conference.localhost").unwrap();
        let asker = FullJid::parse("alice@localhost/a").unwrap();
        let mut state = State::default();
        let record = RoomRecord {
            created_ms: 0,
            locked,
            config: config.clone(),
            subject: Subject::default(),
            base: 0,
            head: 0,
            depth: LogDepth::default(),
        };
        state.rooms.insert(room.clone(), record);
        for (jid, affiliation) in listed {
            let record = AffiliationRecord {
                affiliation: *affiliation,
                reason: None,
            };
            state
                .affiliations
                .insert((room.clone(), BareJid::parse(jid).unwrap()), record);
        }
        let shown = match answer(&state, &Query::ArchiveMetadata { key: room, asker }) {
            Reply::ArchiveAllowed { real_jids: true } => "with real JIDs".to_owned(),
            Reply::ArchiveAllowed { real_jids: false } => "allowed".to_owned(),
            Reply::Refused(error) => error.condition.to_string(),
            other => panic!("unexpected: {other:?}"),
        };
        assert_eq!(shown, expect, "{config:?}, locked: {locked}, {listed:?}");
    }

    #[test]
    fn who_may_enter_a_room_may_read_its_archive() {
        let open = RoomConfig::default;
        let members = || RoomConfig {
            members_only: true,
            ..open()
        };
        let secret = || RoomConfig {
            password: Some(Secret("x".into())),
            ..open()
        };
        let alice = |affiliation| [("alice@localhost", affiliation)];
        check(open(), false, &[], "allowed");
        check(open(), false, &alice(Affiliation::Member), "allowed");
        check(open(), false, &alice(Affiliation::Admin), "with real JIDs");
        check(
            RoomConfig {
                non_anonymous: true,
                ..open()
            },
            false,
            &[],
            "with real JIDs",
        );
        check(open(), false, &alice(Affiliation::Outcast), "forbidden");
        check(
            open(),
            false,
            &[("localhost", Affiliation::Outcast)],
            "forbidden",
        );
        let own_first = [
            ("alice@localhost", Affiliation::Member),
            ("localhost", Affiliation::Outcast),
        ];
        check(open(), false, &own_first, "allowed");
        check(members(), false, &[], "forbidden");
        check(members(), false, &alice(Affiliation::Member), "allowed");
        check(secret(), false, &[], "forbidden");
        check(secret(), false, &alice(Affiliation::Member), "allowed");
        check(open(), true, &[], "item-not-found");
        check(open(), true, &alice(Affiliation::Owner), "with real JIDs");
        check(
            RoomConfig {
                archived: false,
                ..open()
            },
            false,
            &[],
            "service-unavailable",
        );
    }
}
