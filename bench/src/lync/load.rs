//! What the sessions of a Lync pool say and hear, all of it followed: chat, presence, and posts in rooms.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::ledger::{Ledger, Sum};
use crate::lync::plan::Plan;
use crate::progress::Progress;
use crate::scenario::room::{Entered, entered, join_stanza, open_stanza};
use crate::scenario::{Handles, Ids, Tally, chat, enter};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// Rooms that are being entered at once.
const JOINS: u32 = 256;

/// How long the answer to one of them may take.
const JOIN_WITHIN: Duration = Duration::from_secs(120);

/// Messages of one kind.
pub(crate) struct Stream {
    ids: Ids,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
}

impl Stream {
    fn new(ledger: Ledger) -> Stream {
        Stream {
            ids: Ids::new(),
            ledger,
            tally: Tally::default(),
        }
    }
}

/// All of it.
pub(crate) struct Load {
    plan: Plan,
    user_prefix: String,
    domain: String,
    rooms_domain: String,
    pub(crate) chat: Stream,
    pub(crate) presence: Stream,
    pub(crate) posts: Stream,
    pub(crate) handles: Handles,
    joined: Vec<AtomicBool>,
    joins: Semaphore,
}

impl Load {
    /// So many messages of each kind are to come.
    pub(crate) fn new(
        plan: &Plan,
        target: &Target,
        chats: usize,
        changes: usize,
        posts: usize,
    ) -> anyhow::Result<Load> {
        let start = Instant::now();
        let occupants = (0..posts).map(|post| plan.occupants(plan.post(post).0));
        Ok(Load {
            user_prefix: target.user_prefix.clone(),
            domain: target.domain.clone(),
            rooms_domain: target.rooms_domain.clone(),
            chat: Stream::new(Ledger::new(chats, 2, start)?),
            presence: Stream::new(Ledger::new(changes, plan.watchers(), start)?),
            posts: Stream::new(Ledger::of(occupants, start)?),
            handles: Handles::default(),
            joined: (0..plan.seats()).map(|_| AtomicBool::new(false)).collect(),
            joins: Semaphore::new(JOINS as usize),
            plan: plan.clone(),
        })
    }

    fn room_address(&self, room: usize) -> String {
        format!("{}@{}", self.posts.ids.id(room), self.rooms_domain)
    }

    /// The room of an address, if it is one of this run's.
    fn room(&self, from: &str) -> Option<usize> {
        let (local, rest) = from.split_once('@')?;
        let domain = rest.split('/').next()?;
        let room = self.posts.ids.message(local)?;
        (domain == self.rooms_domain && room < self.plan.rooms()).then_some(room)
    }

    fn send(&self, session: usize, stanza: bytes::Bytes, tally: &Tally) -> bool {
        let handle = self.handles.get(session);
        let is_sent = handle.and_then(|handle| handle.send(stanza)).is_some();
        if !is_sent {
            tally.not_sent();
        }
        is_sent
    }

    /// The next message between users.
    pub(crate) fn say(&self, message: usize, due: Instant) {
        let (session, to) = self.plan.chat(message);
        self.chat.ledger.sent(message, due);
        let to = format!("{}{to}@{}", self.user_prefix, self.domain);
        let stanza = chat::stanza(&to, "chat", &self.chat.ids.id(message), false, true);
        self.send(session, stanza.finish(), &self.chat.tally);
    }

    /// The next change of presence.
    pub(crate) fn change(&self, change: usize, due: Instant) {
        self.presence.ledger.sent(change, due);
        let is_even = (change / self.plan.sessions).is_multiple_of(2);
        let mut presence = XmlWriter::new(ns::CLIENT);
        presence.start("presence");
        presence.leaf("show", if is_even { "away" } else { "dnd" });
        presence.leaf("status", &self.presence.ids.id(change));
        let session = self.plan.presence(change);
        self.send(session, presence.finish(), &self.presence.tally);
    }

    /// The next message to a room.
    pub(crate) fn post(&self, post: usize, due: Instant) {
        let (room, occupant) = self.plan.post(post);
        let Some(session) = self.plan.seated(room, occupant) else {
            return self.posts.tally.not_sent();
        };
        self.posts.ledger.sent(post, due);
        let (to, id) = (self.room_address(room), self.posts.ids.id(post));
        let stanza = chat::stanza(&to, "groupchat", &id, false, true);
        self.send(session, stanza.finish(), &self.posts.tally);
    }

    /// Everybody enters their rooms: first those who make them, then the others, a row of all rooms at a time.
    pub(crate) async fn fill(&self, progress: &mut Progress) -> anyhow::Result<()> {
        let rows = self.plan.occupants_max();
        let mut entered = 0;
        for row in 0..rows {
            for room in (0..self.plan.rooms()).filter(|room| row < self.plan.occupants(*room)) {
                let turn = tokio::time::timeout(JOIN_WITHIN, self.joins.acquire());
                let turn = turn.await.with_context(|| self.stuck())??;
                // Given back when the answer comes.
                turn.forget();
                self.join(room, row);
                entered += 1;
                progress.at(entered);
            }
            // A room can be entered when it is made.
            if row == 0 {
                self.all_answered().await?;
            }
        }
        self.all_answered().await?;
        let is_in = |flag: &&AtomicBool| flag.load(Ordering::Relaxed);
        let inside = self.joined.iter().filter(is_in).count();
        if inside < self.plan.seats() {
            anyhow::bail!(
                "{inside} of {} entered their rooms: {}",
                self.plan.seats(),
                self.stuck()
            );
        }
        Ok(())
    }

    fn stuck(&self) -> String {
        let faults = self.posts.tally.faults(Sum::default(), 0);
        format!("entering rooms is stuck: {}", faults.list().join(", "))
    }

    async fn all_answered(&self) -> anyhow::Result<()> {
        let all = tokio::time::timeout(JOIN_WITHIN, self.joins.acquire_many(JOINS));
        drop(all.await.with_context(|| self.stuck())??);
        Ok(())
    }

    fn join(&self, room: usize, occupant: usize) {
        let session = self.plan.seated(room, occupant).unwrap_or(usize::MAX);
        let stanza = join_stanza(&self.room_address(room), occupant);
        if !self.send(session, stanza, &self.posts.tally) {
            self.joins.add_permits(1);
        }
    }

    fn room_presence(&self, session: &Handle, presence: Element<'_>, room: usize) {
        if presence.attr("type").as_deref() == Some("error") {
            self.posts.tally.error(presence);
            return self.joins.add_permits(1);
        }
        let Some(entered) = entered(presence) else {
            return;
        };
        let occupant = self.plan.occupant(room, session.index);
        let seat = occupant.and_then(|occupant| self.plan.seat(room, occupant));
        match seat.and_then(|seat| self.joined.get(seat)) {
            // A second self-presence answers nothing.
            Some(flag) if flag.swap(true, Ordering::Relaxed) => return,
            Some(_) => {}
            None => self.posts.tally.error(presence),
        }
        if entered == Entered::ANewRoom {
            let open = open_stanza(&self.room_address(room), &self.posts.ids.id(room));
            // The answer to this ends the turn.
            if session.send(open).is_some() {
                return;
            }
            self.posts.tally.not_sent();
        }
        self.joins.add_permits(1);
    }

    fn user_presence(&self, session: &Handle, presence: Element<'_>, at: Instant) {
        if presence.attr("type").as_deref() == Some("error") {
            return self.presence.tally.error(presence);
        }
        let status = presence.child("status", ns::CLIENT);
        let change = status.and_then(|status| self.presence.ids.message(&status.text()));
        let Some(change) = change else { return };
        let owner = self.plan.user(self.plan.presence(change));
        // One's own other session is told, too.
        if owner == self.plan.user(session.index) {
            return;
        }
        let place = self.plan.watcher(change, session.index);
        let Stream { ledger, tally, .. } = &self.presence;
        enter(ledger, tally, change, place, presence, at);
    }

    fn message(&self, session: &Handle, message: Element<'_>, at: Instant) {
        let room = message.attr("from").and_then(|from| self.room(&from));
        let stream = match room {
            Some(_) => &self.posts,
            None => &self.chat,
        };
        if message.attr("type").as_deref() == Some("error") {
            return stream.tally.error(message);
        }
        let number = message.attr("id").and_then(|id| stream.ids.message(&id));
        let Some(number) = number else { return };
        let recipient = match room {
            Some(room) => {
                let is_there = self.plan.post(number).0 == room;
                let occupant = self.plan.occupant(room, session.index);
                occupant.filter(|_| is_there)
            }
            None => {
                let is_to = self.plan.chat(number).1 == self.plan.user(session.index);
                is_to.then(|| self.plan.which(session.index))
            }
        };
        enter(
            &stream.ledger,
            &stream.tally,
            number,
            recipient,
            message,
            at,
        );
    }

    /// What has come of the messages between users. Whether one goes to one session of its recipient or to both is the
    /// server's affair (RFC 6121 §8.5.2.1.1): it must have come to one.
    pub(crate) fn chat_sum(&self) -> Sum {
        let ledger = &self.chat.ledger;
        ledger.sum_of(|message, which| which == 0 && !ledger.has(message, 1))
    }

    /// What has come of the changes of presence: each session of each contact must have it.
    pub(crate) fn presence_sum(&self) -> Sum {
        let ledger = &self.presence.ledger;
        ledger.sum_of(|change, place| self.plan.has_watcher(change, place))
    }

    /// What has come of the posts: each occupant must have it.
    pub(crate) fn posts_sum(&self) -> Sum {
        self.posts.ledger.sum()
    }

    /// Whether all that was sent has come.
    pub(crate) fn is_complete(&self) -> bool {
        let sums = [self.chat_sum(), self.presence_sum(), self.posts_sum()];
        sums.iter().all(|sum| sum.missing == 0)
    }
}

impl Observer for Load {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        match stanza.name() {
            "message" => self.message(session, stanza, at),
            "presence" => {
                let from = stanza.attr("from").unwrap_or_default();
                match self.room(&from) {
                    Some(room) => self.room_presence(session, stanza, room),
                    None => self.user_presence(session, stanza, at),
                }
            }
            // The answer of a room that was opened.
            _ => {
                let room = stanza.attr("from").and_then(|from| self.room(&from));
                let kind = stanza.attr("type");
                match (room, kind.as_deref()) {
                    (Some(_), Some("result")) => {}
                    (Some(_), Some("error")) => self.posts.tally.error(stanza),
                    _ => return,
                }
                self.joins.add_permits(1);
            }
        }
    }
}
