//! Sessions: what nodes say of them, and what the owner keeps of each.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use xmpp::jid::{FullJid, Jid};
use xmpp::ns;
use xmpp::stanza::Stanza;

use super::contacts::Row;
use super::moving::{MovedFrom, Mover, ResumptionToken};
use super::seldom::Seldom;

/// A session, unmistakably: a resource may be bound again by another stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The node that holds the socket.
    pub node: u64,
    /// Unique on that node during its incarnation.
    pub number: u64,
    /// Its address.
    pub jid: FullJid,
}

/// What a session asked for besides messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFlags {
    /// XEP-0280 is on.
    pub carbons: bool,
    /// It asked for the roster: it gets pushes (RFC 6121 §2.1.6).
    pub roster: bool,
    /// It asked for the blocklist: it gets pushes (XEP-0191 §3.2).
    pub blocklist: bool,
    /// It asked its archive before its first presence: no offline rows for it.
    pub archive_first: bool,
}

/// A session as its node describes it on attaching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Which.
    pub key: SessionKey,
    /// What it asked for.
    pub flags: SessionFlags,
    /// Its last broadcast presence; `None`: not available.
    pub presence: Option<Stanza>,
    /// Whom it sent directed presence (RFC 6121 §4.6), rooms excepted.
    pub directed: Vec<Jid>,
    /// Rows it was sent and has not acknowledged, in the order of sending.
    pub unacknowledged: Vec<u64>,
    /// The newest row it was ever sent as a row, acknowledged or not; 0: none. A new owner tells by it what this session
    /// was offered from what never left the old owner.
    pub newest_row: u64,
    /// Its presence was taken by an owner that was lost so soon after that contacts may not have been told.
    pub untold: bool,
}

/// Bytes of the JIDs that one session may have sent directed presence; they are part of every attachment.
const DIRECTED_BYTES_MAX: usize = 64 * 1024;

/// Whether a session may send directed presence to one more: both the owner and the session's node keep whom it was
/// sent, and must agree. `directed`: the others.
pub fn directed_has_room<'a>(
    directed: impl Iterator<Item = &'a Jid>,
    to: &Jid,
    directed_max: usize,
) -> bool {
    let (count, bytes) = directed.fold((0, 0), |(count, bytes), jid| {
        (count + 1, bytes + jid.as_str().len())
    });
    count < directed_max && bytes + to.as_str().len() <= DIRECTED_BYTES_MAX
}

/// What a node says of a user's session. Numbered and taken in order by the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    /// It asked for something.
    Flags {
        /// Which session.
        key: SessionKey,
        /// All its flags now.
        flags: SessionFlags,
    },
    /// Broadcast presence, available or unavailable (RFC 6121 §4.2, §4.4, §4.5); `from` is the full JID.
    Presence {
        /// Which session.
        key: SessionKey,
        /// The presence, without `to`.
        stanza: Stanza,
    },
    /// Directed presence (RFC 6121 §4.6).
    Directed {
        /// Which session.
        key: SessionKey,
        /// The presence, with `to`.
        stanza: Stanza,
    },
    /// It acknowledged every row it was sent up to this one, in the order of sending: rows that another session left
    /// behind may come after newer ones.
    Acknowledged {
        /// Which session.
        key: SessionKey,
        /// The last row in that order which is acknowledged.
        seq: u64,
    },
    /// The stream has ended.
    Down {
        /// Which session.
        key: SessionKey,
        /// The unavailable presence to broadcast if it was available.
        stanza: Stanza,
    },
    /// It sends somebody a stanza that is in no log: a message without durability, an iq to a full JID, an error.
    /// It takes the way of its presence, so that none overtakes another.
    Sends {
        /// Which session.
        key: SessionKey,
        /// The stanza, with `from` and `to`.
        stanza: Stanza,
    },
    /// Everything that it sent is settled and said: another node may have it.
    Yields {
        /// Which session.
        key: SessionKey,
        /// What its key will be.
        to: SessionKey,
    },
    /// It stays where it is, whoever wants it.
    Stays {
        /// Which session.
        key: SessionKey,
        /// What its key would have been.
        to: SessionKey,
    },
    /// Its node wants to be rid of it: any other one may have it.
    Leaves {
        /// Which session.
        key: SessionKey,
        /// By what it is resumed.
        token: ResumptionToken,
    },
}

impl SessionEvent {
    /// Which session it is about.
    pub fn key(&self) -> &SessionKey {
        match self {
            SessionEvent::Flags { key, .. }
            | SessionEvent::Presence { key, .. }
            | SessionEvent::Directed { key, .. }
            | SessionEvent::Acknowledged { key, .. }
            | SessionEvent::Down { key, .. }
            | SessionEvent::Sends { key, .. }
            | SessionEvent::Yields { key, .. }
            | SessionEvent::Stays { key, .. }
            | SessionEvent::Leaves { key, .. } => key,
        }
    }
}

/// A session as the owner keeps it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Its number within the publication: holders of rows are kept by it.
    pub(super) id: u64,
    pub(super) key: SessionKey,
    pub(super) flags: SessionFlags,
    /// Its last broadcast presence; `None`: not available.
    pub(super) presence: Option<Stanza>,
    /// The priority in that presence; 0 where it says none.
    priority: i8,
    /// Whom it sent directed presence.
    pub(super) directed: Seldom<BTreeSet<Jid>>,
    /// Whether the log says it is up, or is about to.
    pub(super) noted: bool,
    /// How often that is under way. Until it is in the log nobody else is shown the session: an owner that died meanwhile
    /// with the session's node would leave a ghost, since the next one knows nothing of it.
    pub(super) notes_under_way: u32,
    pub(super) reader: Reader,
    /// Who wants it, in their order.
    pub(super) movers: Seldom<Vec<Mover>>,
    /// Where it was, if it has moved.
    pub(super) moved_from: Option<Box<MovedFrom>>,
}

/// How far a session has come in reading the user's log.
///
/// Rows up to `next` were considered for the session. A session whose `next` is the log's head is in step: it gets new
/// rows as they come. One that isn't reads the archive until it is.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    /// Rows up to here were considered.
    pub(super) next: u64,
    /// Rows after this are considered for the first time: they go by the rules of delivery. Rows up to here are looked
    /// at again only for those that wait.
    pub(super) fresh_after: u64,
    /// The head of the log when the session was bound.
    pub(super) bound_at: u64,
    /// The newest row it was sent under an earlier owner.
    pub(super) newest_row: u64,
    /// The newest row it was ever sent.
    pub(super) offered: u64,
    /// The read under way; most of the time there is none.
    pub(super) reading: Option<Box<Reading>>,
    /// New rows that follow the read under way without a gap.
    pub(super) held: Seldom<VecDeque<Row>>,
    /// Rows it was sent and has not acknowledged, in the order of sending.
    pub(super) sent: Seldom<VecDeque<u64>>,
    /// The row with which a read had brought enough bytes: the next one waits until it is acknowledged.
    pub(super) pause: Option<u64>,
}

/// Rows asked of the archive for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) after: u64,
    pub(super) upto: u64,
    /// Meanwhile rows at or before `after` came to wait: reading begins there again.
    pub(super) again_from: Option<u64>,
}

impl Reader {
    /// Of a session that begins at this place of the log.
    pub(super) fn at(position: u64) -> Reader {
        Reader {
            next: position,
            fresh_after: position,
            bound_at: position,
            newest_row: 0,
            offered: 0,
            reading: None,
            held: Seldom::default(),
            sent: Seldom::default(),
            pause: None,
        }
    }

    /// Whether the row after `previous` can be given at once.
    pub(super) fn in_step(&self, previous: u64, unacknowledged_max: usize) -> bool {
        self.reading.is_none() && self.next == previous && self.sent.len() < unacknowledged_max
    }

    /// Whether what was read last is still on its way to the client.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some_and(|row| self.sent.contains(&row))
    }

    /// A read under way brings nothing: what it was to bring is still to be read.
    pub(super) fn give_up_reading(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.held.take();
            let from = reading.again_from.unwrap_or(reading.after);
            self.next = from.min(reading.after);
        }
    }

    /// Looks again at the rows after this one.
    pub(super) fn rewind(&mut self, after: u64) {
        match &mut self.reading {
            // What lies within the read is looked at when its rows arrive.
            Some(reading) if after >= reading.after => {}
            Some(reading) => {
                let from = reading.again_from.map_or(after, |from| from.min(after));
                reading.again_from = Some(from);
            }
            None => self.next = self.next.min(after),
        }
    }
}

impl Session {
    pub(super) fn new(id: u64, key: SessionKey, reader: Reader) -> Session {
        Session {
            id,
            key,
            flags: SessionFlags::default(),
            presence: None,
            priority: 0,
            directed: Seldom::default(),
            noted: false,
            notes_under_way: 0,
            reader,
            movers: Seldom::default(),
            moved_from: None,
        }
    }

    /// RFC 6121 §4.2: it has sent presence.
    pub(super) fn is_available(&self) -> bool {
        self.presence.is_some()
    }

    /// Its presence, as far as others may see it.
    pub(super) fn shown(&self) -> Option<&Stanza> {
        self.presence.as_ref().filter(|_| self.notes_under_way == 0)
    }

    /// The priority of an available session. RFC 6121 §4.7.2.3.
    pub(super) fn priority(&self) -> Option<i8> {
        self.presence.is_some().then_some(self.priority)
    }

    /// Whether messages for the bare JID go to it: available with a priority that isn't negative.
    pub(super) fn is_eligible(&self) -> bool {
        self.priority().is_some_and(|priority| priority >= 0)
    }

    /// Whether it has sent its presence to this address, or to all sessions of the account. RFC 6121 §4.6.
    pub(super) fn is_shown_to(&self, jid: &Jid) -> bool {
        self.directed.contains(jid) || self.directed.contains(&Jid::from(jid.bare()))
    }

    /// A presence that is kept as long as the session shares the text of its address.
    fn with_own_address(&self, mut presence: Stanza) -> Stanza {
        let own = Jid::from(self.key.jid.clone());
        if presence.from.as_ref() == Some(&own) {
            presence.from = Some(own);
        }
        presence
    }

    /// Replaces its presence; `None`: no longer available.
    pub(super) fn set_presence(&mut self, presence: Option<Stanza>) -> Option<Stanza> {
        self.priority = presence.as_ref().map_or(0, priority_in);
        let presence = presence.map(|presence| self.with_own_address(presence));
        std::mem::replace(&mut self.presence, presence)
    }
}

/// RFC 6121 §4.7.2.3: -128 to 127, 0 where it isn't said. The session's node has refused what is no such number.
fn priority_in(presence: &Stanza) -> i8 {
    if presence.payload.is_empty() {
        return 0;
    }
    let Ok(document) = presence.payload_document() else {
        return 0;
    };
    let priority = document
        .roots()
        .find(|element| element.is("priority", ns::CLIENT))
        .map(|element| element.text().trim().parse());
    priority.and_then(Result::ok).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directed_presence_is_bounded_in_number_and_bytes() {
        let check = |jids: usize, bytes: usize, expect| {
            let jid =
                |n: usize| Jid::parse(&format!("{n:04}{}@localhost", "x".repeat(bytes))).unwrap();
            let directed: Vec<Jid> = (0..jids).map(jid).collect();
            let room = directed_has_room(directed.iter(), &jid(jids), 1_000);
            assert_eq!(room, expect, "{jids} of {bytes} bytes");
        };
        check(0, 10, true);
        check(999, 10, true);
        check(1_000, 10, false);
        check(60, 1_000, true);
        check(64, 1_000, false);
    }
}
