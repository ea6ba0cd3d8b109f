//! One session of a member: what it sends, what it is told of that, and what it is sent.
//!
//! Without stream management nothing but the room's reflection tells a message's outcome, and the member waits for it. With
//! it, some messages go out in one write, and `<r/>` ahead of the next ones asks for those before: whenever the connection
//! ends, some are open. The next session sends them again, in order and before anything else.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::{Document, Element};

use super::archive::read_behind;
use super::window::Window;
use super::{Audience, Phase, Seat, Stage};
use crate::client::{Client, Incoming, Lasting};
use crate::history::What;
use crate::pool::DOMAIN;
use crate::wait::PROMPT;

/// The pause between an acknowledgement and the next message of who waits for it.
const PAUSE: Duration = Duration::from_millis(60);

/// Messages that a member with stream management sends in one write.
const BURST: usize = 4;

/// Messages that it has open at most.
const OPEN_MAX: usize = 8;

/// Messages that a session of a forgetful member sends before it goes.
const FORGETS_AFTER: u32 = 8;

/// When an outcome counts as unknown: the server gives up after 10 s and ends the stream.
const UNKNOWN_AFTER: Duration = Duration::from_secs(15);

/// What a member keeps from one session to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// Messages it has ever sent.
    number: u64,
    /// Those whose fate is unknown, in the order of sending: they are sent again before anything else.
    unsettled: VecDeque<String>,
    /// Messages that were committed, for certain, when a session gave them up.
    committed: BTreeSet<String>,
    /// Those of them that were sent again.
    retried: BTreeSet<String>,
    /// The newest message with nothing missing before it, and its archive id.
    known: Option<(String, String)>,
}

pub(super) struct Session<'a> {
    pub(super) stage: &'a Stage,
    pub(super) seat: &'a Seat,
    pub(super) id: u32,
    pub(super) node: u64,
    pub(super) client: Client,
    memory: &'a mut Memory,
    pub(super) window: Window,
    /// The last `<r/>` has no answer yet.
    pub(super) asked: bool,
    /// The last `h`.
    pub(super) handled: u32,
    /// A user's session has read its archive: what it is sent now follows that without a hole.
    pub(super) is_caught_up: bool,
    /// What it can be resumed by.
    pub(super) lasting: Option<Lasting>,
    /// How many stanzas had been sent when its connection began.
    pub(super) begun: u32,
    /// It is not to be resumed.
    pub(super) is_over: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        stage: &'a Stage,
        seat: &'a Seat,
        (id, node): (u32, u64),
        client: Client,
        memory: &'a mut Memory,
    ) -> Session<'a> {
        Session {
            stage,
            seat,
            id,
            node,
            client,
            memory,
            window: Window::default(),
            asked: false,
            handled: 0,
            is_caught_up: false,
            lasting: None,
            begun: 0,
            is_over: false,
        }
    }

    /// Lives until the stream or the crowd ends. `early`: what came before the session was known to be in.
    pub(super) async fn run(&mut self, early: Vec<Document>, phase: &mut watch::Receiver<Phase>) {
        self.stage.does(&self.seat.user, "reads its archive".into());
        if self.seat.audience == Audience::User
            && !self.is_caught_up
            && let Err(error) = self.catch_up(early).await
        {
            self.is_over = true;
            if self.stage.is_alive(self.node) {
                println!("{} did not catch up: {error:#}", self.seat.user);
            }
            return;
        }
        let burst = u32::try_from(self.burst()).unwrap_or(u32::MAX);
        let mut ticks: Interval = interval(PAUSE * burst);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = *phase.borrow();
            if now == Phase::End {
                return;
            }
            let step = tokio::select! {
                changed = phase.changed() => match changed {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                },
                incoming = self.client.next(PROMPT) => self.take(incoming),
                _ = ticks.tick() => self.talk(now).await,
            };
            if step.is_break() {
                return;
            }
        }
    }

    /// Reads in the own archive what came since the newest message that is known. The presence has been sent before: what
    /// comes behind the end of the archive is sent to this session.
    async fn catch_up(&mut self, early: Vec<Document>) -> Result<()> {
        let archive = format!("{}@{DOMAIN}", self.seat.user);
        let known = self.memory.known.clone();
        let (after, after_id) = known.clone().unzip();
        let mut came = early;
        let rows = read_behind(&mut self.client, &archive, after_id.as_deref(), &mut came).await;
        for document in came {
            // Nobody can be refused or removed who has said nothing yet.
            let _ = self.element(&document);
        }
        let mut rows = rows.context("the own archive")?;
        rows.retain(|(token, _)| self.seat.is_heard(token));
        self.memory.known = rows.last().cloned().or(known);
        self.is_caught_up = true;
        self.stage.recorder.record(What::CaughtUp {
            session: self.id,
            log: self.seat.hears(),
            after,
            rows,
        });
        Ok(())
    }

    /// Messages in one write.
    fn burst(&self) -> usize {
        match self.seat.stream_management {
            true => BURST,
            false => 1,
        }
    }

    /// Messages that may be open.
    fn open_max(&self) -> usize {
        match self.seat.stream_management {
            true => OPEN_MAX,
            false => 1,
        }
    }

    /// Sends the next messages, goes home, or gives outcomes up.
    async fn talk(&mut self, phase: Phase) -> ControlFlow<()> {
        let waits_since = self.window.oldest();
        self.says_what(phase, waits_since);
        if self.lasting.is_some() && self.changes_connection(phase, waits_since) {
            return ControlFlow::Break(());
        }
        if waits_since.is_some_and(|since| since.elapsed() > UNKNOWN_AFTER) {
            self.give_up();
        }
        if self.lasting.is_none()
            && self.node != self.seat.home
            && self.stage.is_alive(self.seat.home)
        {
            return ControlFlow::Break(());
        }
        if phase == Phase::Talk && self.forgets() {
            return ControlFlow::Break(());
        }
        let mut written = String::new();
        if self.seat.stream_management && !self.window.is_empty() && !self.asked {
            self.asked = true;
            written.push_str(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT));
        }
        if phase == Phase::Talk {
            let room = self.open_max().saturating_sub(self.window.len());
            for _ in 0..room.min(self.burst()) {
                written.push_str(&self.next_message());
            }
        }
        if !written.is_empty() {
            // The end of the stream comes in its turn.
            let _ = self.client.send_raw(&written).await;
        }
        ControlFlow::Continue(())
    }

    fn says_what(&self, phase: Phase, waits_since: Option<Instant>) {
        let waits = waits_since.map(|since| since.elapsed()).unwrap_or_default();
        let what = format!(
            "{phase:?}s as session {}: {} sent, {} of them handled, {} open, the oldest for {waits:?}",
            self.id,
            self.client.sent(),
            self.handled,
            self.window.len()
        );
        self.stage.does(&self.seat.user, what);
    }

    /// A forgetful member goes when messages are surely committed that `h` has not covered, and sends them again when it is
    /// back: a client that lost its connection before the acknowledgement could come. Where nobody talks it stays.
    fn forgets(&self) -> bool {
        let has_sent = self.client.sent() >= FORGETS_AFTER;
        self.seat.forgetful && has_sent && self.window.committed() > 0
    }

    /// What is sent next, and writes it down: what the last session left unknown, else something new.
    fn next_message(&mut self) -> String {
        let token = self.next_token();
        let number = self.client.count_sent();
        self.window.push(token.clone(), number, Instant::now());
        self.message_of(&token)
    }

    /// A message as it is sent, for the first time or again.
    pub(super) fn message_of(&self, token: &str) -> String {
        let kind = match self.seat.audience {
            Audience::Room => "groupchat",
            Audience::User => "chat",
        };
        format!(
            "<message type='{kind}' id='{token}' to='{}'><body>{token}</body>\
             <origin-id xmlns='{}' id='{token}'/></message>",
            self.seat.to,
            ns::STANZA_ID
        )
    }

    fn next_token(&mut self) -> String {
        let (session, log) = (self.id, self.seat.log());
        let memory = &mut self.memory;
        let (token, what) = match memory.unsettled.pop_front() {
            Some(token) => {
                if memory.committed.contains(&token) && memory.retried.insert(token.clone()) {
                    self.stage.retries.fetch_add(1, Ordering::Relaxed);
                }
                (
                    token.clone(),
                    What::Resend {
                        session,
                        log,
                        token,
                    },
                )
            }
            None => {
                memory.number += 1;
                let token = format!("{}-{}", self.seat.user, memory.number);
                (
                    token.clone(),
                    What::Invoke {
                        session,
                        log,
                        token,
                    },
                )
            }
        };
        self.stage.recorder.record(what);
        token
    }

    /// Nobody knows what became of the open messages. Those that a room has reflected are sent again all the same: clients go
    /// by `h`.
    fn give_up(&mut self) {
        let committed = self.window.committed();
        let given_up = self.window.give_up();
        let committed = given_up.iter().take(committed);
        let committed = committed.map(|open| open.token.clone());
        self.memory.committed.extend(committed);
        for open in given_up.iter().filter(|open| !open.is_reflected) {
            let token = open.token.clone();
            self.stage.recorder.record(What::Info { token });
        }
        // What this session had no time to send again comes behind.
        let left = std::mem::take(&mut self.memory.unsettled);
        let given_up = given_up.into_iter().map(|open| open.token);
        self.memory.unsettled = given_up.chain(left).collect();
    }

    fn take(&mut self, incoming: Result<Incoming>) -> ControlFlow<()> {
        match incoming {
            // Nothing came for a while.
            Err(_) => ControlFlow::Continue(()),
            Ok(Incoming::Closed(why)) => {
                if self.stage.is_alive(self.node) {
                    self.stage
                        .recorder
                        .record(What::Disturbed { session: self.id });
                    self.stage.disturb(format!(
                        "{}'s stream on node {}, which lives, ended: {why}",
                        self.seat.user, self.node
                    ));
                }
                ControlFlow::Break(())
            }
            Ok(Incoming::Acked(h)) => {
                self.settle(h);
                ControlFlow::Continue(())
            }
            Ok(Incoming::Element(document)) => self.element(&document),
        }
    }

    /// Everything up to `h` has its outcome.
    pub(super) fn settle(&mut self, h: u32) {
        self.asked = false;
        // XEP-0198 §4: neither more than was sent, nor less than was said before.
        if h > self.client.sent() || h < self.handled {
            let (user, sent, before) = (&self.seat.user, self.client.sent(), self.handled);
            self.stage.betray(format!(
                "{user} sent {sent} and was told {before}, then {h}"
            ));
        }
        self.handled = h;
        for open in self.window.settle(h) {
            if !open.is_reflected {
                self.acked(open.token, open.since);
            }
        }
    }

    pub(super) fn element(&mut self, document: &Document) -> ControlFlow<()> {
        let root = document.root();
        let from = root.attr("from").unwrap_or_default();
        let kind = root.attr("type");
        match (root.name(), kind.as_deref()) {
            ("message", Some("groupchat" | "chat")) if from.starts_with(&self.seat.speaker()) => {
                self.message(root);
            }
            ("message", Some("error")) if from.starts_with(&self.seat.to) => {
                let token = root.attr("id").unwrap_or_default().into_owned();
                if self.window.close(&token) {
                    self.stage.recorder.record(What::Fail { token });
                }
            }
            ("presence", Some("unavailable"))
                if from.starts_with(&self.seat.to) && is_own(root) =>
            {
                self.stage.betray(format!(
                    "{} was removed: {}",
                    self.seat.user,
                    document.source()
                ));
                self.is_over = true;
                return ControlFlow::Break(());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn message(&mut self, root: Element<'_>) {
        let Some(body) = root.child("body", ns::CLIENT) else {
            return;
        };
        let token = body.text().into_owned();
        let id = root
            .children()
            .find(|child| child.is("stanza-id", ns::STANZA_ID))
            .and_then(|child| child.attr("id"))
            .unwrap_or_default()
            .into_owned();
        self.stage.recorder.record(What::Received {
            session: self.id,
            log: self.seat.hears(),
            token: token.clone(),
            id: id.clone(),
        });
        // What comes late (XEP-0203) is older than what the archive had.
        if self.is_caught_up && root.child("delay", ns::DELAY).is_none() {
            self.memory.known = Some((token.clone(), id));
        }
        if let Some(since) = self.window.reflected(&token) {
            self.acked(token.clone(), since);
            if !self.seat.stream_management {
                self.window.close(&token);
            }
        }
    }

    pub(super) fn acked(&self, token: String, since: Instant) {
        if self.stage.is_cut_off_since(self.node, since) {
            self.stage.betray(format!(
                "{token} was acknowledged by node {}, which had no quorum",
                self.node
            ));
        }
        self.stage.recorder.record(What::Ok { token });
    }

    /// The session is over; the connection goes without a word, as when a node or a network dies.
    pub(super) fn leave(&mut self) {
        self.give_up();
        self.stage.recorder.record(What::Left { session: self.id });
    }
}

/// Status 110: this is about oneself.
fn is_own(presence: Element<'_>) -> bool {
    presence.child("x", ns::MUC_USER).is_some_and(|x| {
        x.children()
            .any(|child| child.name() == "status" && child.attr("code").as_deref() == Some("110"))
    })
}
