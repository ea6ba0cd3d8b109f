//! One user's sessions under test: short conversations, and properties under random events.

mod conversations;
mod first_words;
mod moves;
mod once_again;
mod properties;
mod slow_readers;
mod soft_stanzas;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};

use super::*;
use crate::archive::{ArchiveIds, ArchiveRecord, ArchiveRow, MessageRecord};

const USER: &str = "romeo@montague.lit";

fn bare(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

fn full(text: &str) -> FullJid {
    FullJid::parse(text).unwrap()
}

fn ids() -> ArchiveIds {
    ArchiveIds::new(&[5; 16])
}

/// The replicated state, as far as a publication reads it.
#[derive(Default)]
struct Contactbook {
    watchers: Vec<&'static str>,
    watched: Vec<&'static str>,
    blocked: Vec<&'static str>,
    requests: Vec<Stanza>,
    /// Listed contacts, and the version of the roster at which each changed last.
    versions: Vec<(&'static str, u64)>,
    removed: bool,
    delivered: u64,
    head: u64,
}

impl Contacts for Contactbook {
    fn watchers(&self, user: &BareJid) -> Vec<BareJid> {
        let mut watchers = self.subscribers(user);
        watchers.retain(|contact| !self.blocks(user, &Jid::from(contact)));
        watchers
    }
    fn watched(&self, _: &BareJid) -> Vec<BareJid> {
        self.watched.iter().map(|contact| bare(contact)).collect()
    }
    fn may_see(&self, user: &BareJid, asker: &BareJid) -> bool {
        user == asker || self.watchers.contains(&asker.as_str())
    }
    fn blocks(&self, _: &BareJid, other: &Jid) -> bool {
        self.blocked
            .iter()
            .any(|blocked| *blocked == other.as_str() || *blocked == other.bare_str())
    }
    fn requests(&self, _: &BareJid) -> Vec<Stanza> {
        self.requests.clone()
    }
    fn subscribers(&self, _: &BareJid) -> Vec<BareJid> {
        self.watchers.iter().map(|contact| bare(contact)).collect()
    }
    fn item_version(&self, _: &BareJid, contact: &BareJid) -> Option<u64> {
        let mut versions = self.versions.iter();
        let listed = versions.find(|(listed, _)| *listed == contact.as_str())?;
        Some(listed.1)
    }
    fn exists(&self, user: &BareJid) -> bool {
        user.as_str() == USER && !self.removed
    }
    fn positions(&self, _: &BareJid) -> (u64, u64) {
        (self.delivered, self.head)
    }
}

/// The session `resource` of the user on a node.
fn key(node: u64, number: u64, resource: &str) -> SessionKey {
    SessionKey {
        node,
        number,
        jid: full(&format!("{USER}/{resource}")),
    }
}

fn presence(type_: &str, payload: &'static str) -> Stanza {
    Stanza {
        type_: (!type_.is_empty()).then(|| type_.into()),
        payload: Bytes::from_static(payload.as_bytes()),
        ..Stanza::new(StanzaKind::Presence)
    }
}

fn message(from: &str, to: &str, type_: &str, payload: &'static str) -> Stanza {
    Stanza {
        kind: StanzaKind::Message,
        from: Some(jid(from)),
        to: Some(jid(to)),
        ..presence(type_, payload)
    }
}

/// A row of the user's log. From the user itself: sent.
fn row(seq: u64, from: &str, to: &str) -> Row {
    let sent = from.starts_with(USER) && !to.starts_with(USER);
    let stanza = message(from, to, "chat", "<body>hi</body>");
    let record = ArchiveRecord::Message(MessageRecord {
        sent,
        peer: jid(if sent { to } else { from }),
        sender: jid(from).to_full().filter(|_| from.starts_with(USER)),
        stanza,
    });
    Arc::new(ArchiveRow {
        key: bare(USER),
        seq,
        time_ms: seq * 1_000,
        record,
    })
}

/// What is to be done, one line each; stanzas by what tells them apart.
fn show(actions: &[PublicationAction]) -> String {
    let mut out = String::new();
    for action in actions {
        let line = match action {
            PublicationAction::Deliver {
                sessions,
                stanza,
                row,
            } => {
                let to: Vec<&str> = sessions
                    .iter()
                    .map(|session| session.jid.resource())
                    .collect();
                let row = row.map_or(String::new(), |row| format!(" (row {row})"));
                format!("{} <- {}{row}", to.join(","), show_stanza(stanza))
            }
            PublicationAction::Position {
                nodes,
                previous,
                seq,
            } => {
                format!("position {nodes:?} {previous}..{seq}")
            }
            PublicationAction::Broadcast { contacts, stanza } => {
                format!("broadcast {} {}", names(contacts), show_stanza(stanza))
            }
            PublicationAction::Probe { contacts } => format!("probe {}", names(contacts)),
            PublicationAction::Route(stanza) => format!(
                "route {} {}",
                stanza.to.as_ref().map_or("-", Jid::as_str),
                show_stanza(stanza)
            ),
            PublicationAction::ReadRows {
                session,
                after,
                upto,
            } => {
                format!("read {} {after}..{upto}", session.jid.resource())
            }
            PublicationAction::AdvanceCursor(seq) => format!("cursor {seq}"),
            PublicationAction::NoteSessions { up, down } => {
                let up = up.iter().map(|key| format!("+{}", key.jid.resource()));
                let down = down.iter().map(|jid| format!("-{}", jid.resource()));
                format!("note {}", up.chain(down).collect::<Vec<_>>().join(" "))
            }
            PublicationAction::Expel(key) => format!("expel {}#{}", key.jid.resource(), key.number),
            PublicationAction::Kick(key) => format!("kick {}#{}", key.jid.resource(), key.number),
            moving => show_moving(moving),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

fn show_moving(action: &PublicationAction) -> String {
    let named = |key: &SessionKey| format!("{}#{}", key.jid.resource(), key.number);
    let place = |key: &SessionKey| format!("{}#{}", key.node, key.number);
    match action {
        PublicationAction::Yield { session, to } => {
            format!("yield {} to {}", named(session), place(&to.key))
        }
        PublicationAction::Release { session, to } => {
            format!("release {} to {}", named(session), place(to))
        }
        PublicationAction::Stay { session, to } => {
            format!("stay {} of {}", named(session), place(to))
        }
        PublicationAction::Moved { ask, state } => {
            assert_eq!(*ask, state.key.number);
            let presence = state.presence.as_ref().map_or("", |_| " presence");
            let carbons = if state.flags.carbons { " carbons" } else { "" };
            let (unacknowledged, newest) = (&state.unacknowledged, state.newest_row);
            let key = named(&state.key);
            format!(
                "moved {key}{presence}{carbons} unacknowledged {unacknowledged:?} newest {newest}"
            )
        }
        PublicationAction::MoveRefused { to, ask, for_now } => {
            assert_eq!(*ask, to.number);
            let for_now = if *for_now { " for now" } else { "" };
            format!("refuse {}{for_now}", place(to))
        }
        other => panic!("{other:?}"),
    }
}

fn names(contacts: &[BareJid]) -> String {
    contacts
        .iter()
        .filter_map(BareJid::local)
        .collect::<Vec<_>>()
        .join(",")
}

fn show_stanza(stanza: &Stanza) -> String {
    let from = stanza.from.as_ref().map_or(String::new(), |from| {
        let local = from.local().unwrap_or(from.domain());
        format!(
            " from {local}{}",
            from.resource()
                .map_or(String::new(), |name| format!("/{name}"))
        )
    });
    let type_ = stanza
        .type_
        .as_deref()
        .map_or(String::new(), |type_| format!(" {type_}"));
    let text = std::str::from_utf8(&stanza.payload).unwrap();
    let marks = [
        ("<received ", " copy-in"),
        ("<sent ", " copy-out"),
        ("<delay ", " delayed"),
        ("<stanza-id ", " id"),
    ];
    let marks: String = marks
        .iter()
        .filter(|(mark, _)| text.contains(mark))
        .map(|(_, name)| *name)
        .collect();
    let error = match text.split_once("<error") {
        Some((_, rest)) => rest
            .split('<')
            .nth(1)
            .and_then(|tag| tag.split(' ').next())
            .map(|name| format!(" {name}")),
        None => None,
    };
    format!(
        "{}{type_}{from}{marks}{}",
        stanza.kind.name(),
        error.unwrap_or_default()
    )
}

/// Whose coming up is proposed.
fn noted(actions: &[PublicationAction]) -> Vec<FullJid> {
    let notes = actions.iter().filter_map(|action| match action {
        PublicationAction::NoteSessions { up, .. } => Some(up),
        _ => None,
    });
    notes.flatten().map(|key| key.jid.clone()).collect()
}
