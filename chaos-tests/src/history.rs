//! Histories: what clients did and saw, on one monotonic clock, one JSON line an event.
//!
//! `Info` means *unknown*: the message may show up later and is never taken as absent (specs of P1–P6). Bodies are
//! unique tokens, so that a line needs nothing else to name a message.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One event and when it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since the history began.
    pub at: u64,
    /// What was seen.
    #[serde(flatten)]
    pub what: What,
}

/// What a client did or saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum What {
    /// A message is about to be sent.
    Invoke {
        /// The sending session.
        session: u32,
        /// The room or the other user.
        log: String,
        /// The message.
        token: String,
    },
    /// A message of unknown outcome is about to be sent again, under the same origin-id (XEP-0359): as clients do after a
    /// lost connection.
    Resend {
        /// The sending session, which is another than before.
        session: u32,
        /// The room or the other user.
        log: String,
        /// The message.
        token: String,
    },
    /// It is acknowledged: `h` covers it, or the room reflected it.
    Ok {
        /// The message.
        token: String,
    },
    /// It was refused with an error.
    Fail {
        /// The message.
        token: String,
    },
    /// Nobody knows: a time-out or a lost connection.
    Info {
        /// The message.
        token: String,
    },
    /// A session is in: from here on it receives everything.
    Joined {
        /// The session.
        session: u32,
        /// The room, or what another writes to the user.
        log: String,
        /// The node that holds it.
        node: u64,
        /// The node that its user prefers.
        home: u64,
        /// Whether it uses stream management.
        stream_management: bool,
        /// A user's session, which reads in the archive what came before it; a room's begins with what is said next.
        reads_archive: bool,
    },
    /// A user's session has read in the archive what it had not seen, up to then.
    CaughtUp {
        /// The session.
        session: u32,
        /// What it follows.
        log: String,
        /// The newest message that sessions before it had seen without a hole; `None`: it began at the beginning.
        after: Option<String>,
        /// Messages and their ids, oldest first.
        rows: Vec<(String, String)>,
    },
    /// A session is out, or its node is dead: nothing more is owed to it.
    Left {
        /// The session.
        session: u32,
    },
    /// A session received a message.
    Received {
        /// The session.
        session: u32,
        /// The room, or what another writes to the user.
        log: String,
        /// The message.
        token: String,
        /// Its archive id (XEP-0359).
        id: String,
    },
    /// A fault was caused.
    Fault {
        /// For people.
        what: String,
    },
    /// Faults are taken back: the network passes again, processes were started or go on, disks have their space. What is
    /// promised of a healed pool counts from here, however long it takes until it is.
    Mended {
        /// No quorum ran: nodes have to start and to read their disks first.
        from_nothing: bool,
    },
    /// The pool is as before: nodes serve and everybody is in. This ends what counts as done during faults.
    Healed,
    /// An archive was read from one end to the other after everything was healed.
    Archive {
        /// Who read it where and in which direction, for people.
        reading: String,
        /// The room.
        log: String,
        /// Messages and their ids, oldest first.
        rows: Vec<(String, String)>,
    },
    /// Something that has one value at a time was set, and that was acknowledged.
    Set {
        /// What.
        register: String,
        /// Its new value.
        value: String,
    },
    /// All that can be set was read.
    Values {
        /// Who read it where, for people.
        reading: String,
        /// What there was.
        values: BTreeMap<String, String>,
    },
    /// Whose session this is.
    Named {
        /// The session.
        session: u32,
        /// The account's local part, which also begins the tokens of what it sends.
        user: String,
    },
    /// A session's connection has ended; it may be resumed (XEP-0198 §5). Its requests count as given up.
    Dropped {
        /// The session.
        session: u32,
    },
    /// A session's stream ended, though nothing was done to its node.
    Disturbed {
        /// The session.
        session: u32,
    },
    /// A session goes on over a new connection.
    Resumed {
        /// The session, under its old number.
        session: u32,
        /// The node that it is on now.
        node: u64,
        /// Stanzas that the server says it has handled.
        h: u32,
        /// Stanzas that had been acknowledged before.
        acked: u32,
        /// Stanzas that had been sent.
        sent: u32,
        /// Messages that `h` does not cover, oldest first: the client sends them again.
        open: Vec<String>,
    },
    /// A session can't be resumed: `<failed/>`.
    Lost {
        /// The session.
        session: u32,
        /// Stanzas that the server says had been handled, if it says so.
        h: Option<u32>,
        /// Stanzas that had been acknowledged before.
        acked: u32,
        /// Stanzas that had been sent.
        sent: u32,
    },
    /// An archive, or its newest part, was read while others wrote.
    Read {
        /// Who read it where, for people.
        reader: String,
        /// The room.
        log: String,
        /// When it was asked for, on the history's clock.
        began: u64,
        /// It begins with the first message there ever was.
        whole: bool,
        /// Messages, oldest first.
        rows: Vec<String>,
    },
    /// A register is about to be set or read, maybe by several at a time.
    Call {
        /// The call's own number.
        call: u64,
        /// The node that is asked.
        node: u64,
        /// What: see [`affiliation`], [`configuration`] and [`block`].
        register: String,
        /// The new value; `None`: it is read.
        set: Option<String>,
    },
    /// A call was answered.
    Answered {
        /// The call.
        call: u64,
        /// What was read; of one that sets: nothing.
        value: Option<String>,
    },
    /// A call was refused: surely nothing was done.
    Refused {
        /// The call.
        call: u64,
    },
    /// Nobody knows what became of a call.
    Unanswered {
        /// The call.
        call: u64,
    },
    /// A node named a partition's owner.
    Owner {
        /// Who was asked.
        via: u64,
        /// Its incarnation: what an earlier life had seen it need not know yet.
        life: u64,
        /// The partition.
        partition: u64,
        /// Whether faults aim at its owner.
        targeted: bool,
        /// The owner's reign.
        epoch: u64,
        /// The owner.
        owner: u64,
    },
    /// The pool was split, and where the targeted partition's leader was.
    Split {
        /// The nodes without a quorum.
        minority: Vec<u64>,
        /// Who led the targeted partition.
        leader: u64,
    },
    /// A node took over snapshots that others sent it.
    SnapshotInstalled {
        /// The node.
        node: u64,
    },
    /// The only users that may see what is said in a log.
    Audience {
        /// The room, or what one user writes to another.
        log: String,
        /// Local parts of accounts.
        users: Vec<String>,
    },
    /// A place where no message may be was searched for all tokens.
    Searched {
        /// A file, or what somebody uninvolved was sent.
        place: String,
        /// Tokens that were there.
        found: Vec<String>,
    },
    /// What a user is shown of another.
    Presence {
        /// Who looks.
        observer: String,
        /// Who is shown.
        user: String,
        /// As what.
        online: bool,
    },
    /// Whether a user is there, in truth.
    Online {
        /// The user.
        user: String,
        /// Whether some session of theirs is.
        online: bool,
    },
    /// What a replica holds.
    Replica {
        /// The partition.
        partition: u64,
        /// The node.
        node: u64,
        /// The applied index.
        applied: u64,
        /// The hash of state and archive there.
        hash: String,
    },
    /// A node is about to be stopped from running (SIGSTOP, or its disk is held): it can answer nobody.
    Frozen {
        /// The node.
        node: u64,
    },
    /// A node's process ended without a word.
    Died {
        /// The node.
        node: u64,
    },
    /// It has gone on.
    Thawed {
        /// The node.
        node: u64,
    },
}

/// The register of what a user is in a room (XEP-0045 §5.2).
pub fn affiliation(room: &str, user: &str) -> String {
    format!("affiliation {room} {user}")
}

/// The register of a room's name, which is a part of its configuration (XEP-0045 §10.2).
pub fn configuration(room: &str) -> String {
    format!("configuration {room}")
}

/// The register of whether a user has blocked another (XEP-0191); its values are `blocked` and `open`.
pub fn block(user: &str, foe: &str) -> String {
    format!("block {user} {foe}")
}

/// Takes events of many tasks.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            began: Instant::now(),
            events: Mutex::new(Vec::new()),
        }
    }
}

impl Recorder {
    /// Records an event that is seen now.
    pub fn record(&self, what: What) {
        // The clock is read inside the lock: the order of events is the order of their times.
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.now();
        events.push(Event { at, what });
    }

    /// The time on the history's clock, in nanoseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Events so far that a predicate accepts.
    pub fn count(&self, accept: impl Fn(&What) -> bool) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| accept(&event.what)).count()
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes everything so far to a file, one JSON line an event.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = Vec::new();
        for event in self.events() {
            serde_json::to_writer(&mut text, &event)?;
            text.write_all(b"\n")?;
        }
        Ok(std::fs::write(path, text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_in_order_and_come_back_from_their_lines() {
        let recorder = Recorder::default();
        recorder.record(What::Invoke {
            session: 1,
            log: "room".into(),
            token: "a".into(),
        });
        recorder.record(What::Ok { token: "a".into() });
        recorder.record(What::Archive {
            reading: "node 1, forward".into(),
            log: "room".into(),
            rows: vec![("a".into(), "1".into())],
        });
        recorder.record(What::Values {
            reading: "node 1".into(),
            values: [("subject".to_owned(), "roses".to_owned())].into(),
        });
        let events = recorder.events();
        assert!(events.is_sorted_by_key(|event| event.at));
        for event in events {
            let line = serde_json::to_string(&event).expect("writes");
            assert_eq!(serde_json::from_str::<Event>(&line).expect("reads"), event);
        }
        assert_eq!(recorder.count(|what| matches!(what, What::Ok { .. })), 1);
    }
}
