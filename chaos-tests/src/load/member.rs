//! One member's life: log in, join, talk, move.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use xmpp::ns;
use xmpp::scan::{Document, Element};

use super::{Audience, Phase, Seat, Stage, locked};
use crate::client::{Client, Incoming, Login};
use crate::history::What;
use crate::pool::{Pool, password};
use crate::wait::PROMPT;

/// The pause between an acknowledgement and the next message.
const PAUSE: Duration = Duration::from_millis(60);

/// When an outcome counts as unknown: the server gives up after 10 s and ends the stream.
const UNKNOWN_AFTER: Duration = Duration::from_secs(15);

/// How long joining may take; a room without an owner answers after the next election.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// The pause before a node that refused is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Of so many messages a forgetful member forgets one.
const FORGETS_EVERY: u64 = 8;

/// Makes a persistent room, with its first member as the owner, who leaves again.
pub(super) async fn create_room(pool: &Pool, room: &str, seats: &[Seat]) -> Result<()> {
    let owner = seats
        .iter()
        .find(|seat| seat.to == room)
        .context("a room has members")?;
    let mut client = Client::connect(&pool.login(owner.home, &owner.user)).await?;
    join(&mut client, room, "creator").await?;
    let form = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
         <field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>",
        ns::MUC_OWNER,
        ns::MUC_ROOM_CONFIG
    );
    client.iq_ok("set", Some(room), &form).await?;
    client.close().await
}

/// Joins without history; returns when the subject has come, which ends the join (XEP-0045 §7.1).
async fn join(client: &mut Client, room: &str, nick: &str) -> Result<()> {
    let presence = format!(
        "<presence to='{room}/{nick}'><x xmlns='{}'><history maxstanzas='0'/></x></presence>",
        ns::MUC
    );
    client.send(&presence).await?;
    client
        .find("the end of the join", JOIN_LIMIT, |document| {
            let root = document.root();
            let from_room = root.attr("from").is_some_and(|from| from.starts_with(room));
            match root.name() {
                "presence" if from_room && root.attr("type").as_deref() == Some("error") => {
                    Some(Err(document.source().to_owned()))
                }
                "message" if from_room && root.child("subject", ns::CLIENT).is_some() => {
                    Some(Ok(()))
                }
                _ => None,
            }
        })
        .await?
        .map_err(|refused| anyhow::anyhow!("the join was refused: {refused}"))
}

/// Lives until the crowd ends.
pub(super) async fn live(stage: Arc<Stage>, seat: Seat) {
    let mut phase = stage.phase.clone();
    let mut number = 0;
    let mut unsettled = None;
    let mut tries = 0_usize;
    let mut pace = interval(TRY_AGAIN);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while *phase.borrow() != Phase::End {
        let Some(node) = choose(&stage, seat.home, tries) else {
            pace.tick().await;
            continue;
        };
        match enter(&stage, &seat, node).await {
            Ok(client) => {
                tries = 0;
                let id = stage.sessions.fetch_add(1, Ordering::Relaxed);
                if seat.audience == Audience::Room {
                    stage.recorder.record(What::Joined {
                        session: id,
                        log: seat.log(),
                        node,
                        home: seat.home,
                        stream_management: seat.stream_management,
                    });
                }
                locked(&stage.inside).insert(seat.user.clone(), node);
                let mut session = Session {
                    stage: &stage,
                    seat: &seat,
                    node,
                    id,
                    client,
                    number: &mut number,
                    unsettled: &mut unsettled,
                    open: None,
                };
                session.run(&mut phase).await;
                session.leave();
                locked(&stage.inside).remove(&seat.user);
            }
            Err(error) => {
                tries += 1;
                // XEP-0045 §7.2.8: nobody's own nickname is taken by the same user's lost session.
                if format!("{error:#}").contains("<conflict") {
                    stage.betray(format!("{} met a conflict: {error:#}", seat.user));
                }
                // Only what a living node refused is worth a line.
                if stage.is_alive(node) && tries.is_multiple_of(10) {
                    println!("{} cannot get in on node {node}: {error:#}", seat.user);
                }
                pace.tick().await;
            }
        }
    }
}

/// Home if it lives, else one of the others, another one each time.
fn choose(stage: &Stage, home: u64, tries: usize) -> Option<u64> {
    if stage.is_alive(home) && tries.is_multiple_of(2) {
        return Some(home);
    }
    let alive = stage.alive_nodes();
    alive
        .get((home as usize + tries) % alive.len().max(1))
        .copied()
}

async fn enter(stage: &Stage, seat: &Seat, node: u64) -> Result<Client> {
    let found = stage.logins.iter().find(|(id, _)| *id == node);
    let (_, login) = found.context("a node of the pool")?;
    let login = Login {
        user: seat.user.clone(),
        password: password(&seat.user),
        stream_management: seat.stream_management,
        ..login.clone()
    };
    let mut client = Client::connect(&login).await?;
    match seat.audience {
        Audience::Room => join(&mut client, &seat.to, &seat.user).await?,
        Audience::User => client.send("<presence/>").await?,
    }
    Ok(client)
}

/// A message whose outcome is open.
struct Open {
    token: String,
    /// Its number among the stanzas sent.
    number: u32,
    since: Instant,
    /// No acknowledgement of it is noticed.
    forgotten: Option<Forgotten>,
}

/// What tells that a message is committed without its acknowledgement.
#[derive(Default)]
struct Forgotten {
    /// It was reflected.
    seen: bool,
    /// Messages that came behind it: once one of them is acknowledged nobody can doubt it.
    behind: Vec<String>,
}

/// A message that the last session gave up.
struct Unsettled {
    token: String,
    /// It was committed, for certain.
    committed: bool,
}

struct Session<'a> {
    stage: &'a Stage,
    seat: &'a Seat,
    node: u64,
    id: u32,
    client: Client,
    number: &'a mut u64,
    /// The message whose fate is unknown: it is sent again before anything else.
    unsettled: &'a mut Option<Unsettled>,
    open: Option<Open>,
}

impl Session<'_> {
    async fn run(&mut self, phase: &mut watch::Receiver<Phase>) {
        let mut ticks: Interval = interval(PAUSE);
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

    /// Sends the next message, goes home, or gives an outcome up.
    async fn talk(&mut self, phase: Phase) -> ControlFlow<()> {
        if let Some(open) = &self.open {
            if open.since.elapsed() > UNKNOWN_AFTER {
                self.give_up();
            }
            return self.forget(phase);
        }
        if self.node != self.seat.home && self.stage.is_alive(self.seat.home) {
            return ControlFlow::Break(());
        }
        if phase != Phase::Talk {
            return ControlFlow::Continue(());
        }
        let (token, forgotten) = self.next_token();
        let kind = match self.seat.audience {
            Audience::Room => "groupchat",
            Audience::User => "chat",
        };
        let message = format!(
            "<message type='{kind}' id='{token}' to='{}'><body>{token}</body>\
             <origin-id xmlns='{}' id='{token}'/></message>",
            self.seat.to,
            ns::STANZA_ID
        );
        let sent = self.client.send(&message).await;
        self.open = Some(Open {
            token,
            number: self.client.sent(),
            since: Instant::now(),
            forgotten,
        });
        let asked = match self.seat.stream_management {
            true => {
                self.client
                    .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
                    .await
            }
            false => Ok(()),
        };
        match sent.and(asked) {
            Ok(()) => ControlFlow::Continue(()),
            // The end of the stream comes in its turn.
            Err(_) => ControlFlow::Continue(()),
        }
    }

    /// What is sent next, and writes it down: what the last session left unknown, else something new; and whether it is
    /// to be forgotten.
    fn next_token(&mut self) -> (String, Option<Forgotten>) {
        let (session, log) = (self.id, self.seat.log());
        if let Some(Unsettled { token, committed }) = self.unsettled.take() {
            self.stage.recorder.record(What::Resend {
                session,
                log,
                token: token.clone(),
            });
            if committed {
                self.stage.retries.fetch_add(1, Ordering::Relaxed);
            }
            return (token, None);
        }
        *self.number += 1;
        let token = format!("{}-{}", self.seat.user, self.number);
        self.stage.recorder.record(What::Invoke {
            session,
            log,
            token: token.clone(),
        });
        let forgets = self.seat.forgetful && self.number.is_multiple_of(FORGETS_EVERY);
        (token, forgets.then(Forgotten::default))
    }

    /// A forgetful member goes when the message that it forgot is surely committed, and sends it again when it is back: a
    /// client that lost its connection before the acknowledgement could come. Where nobody talks it remembers.
    fn forget(&mut self, phase: Phase) -> ControlFlow<()> {
        if phase != Phase::Talk {
            let is_seen = |open: &mut Open| {
                let forgotten = open.forgotten.as_ref();
                forgotten.is_some_and(|forgotten| forgotten.seen)
            };
            if let Some(open) = self.open.take_if(is_seen) {
                self.acked(open);
            }
            return ControlFlow::Continue(());
        }
        match self.open.as_ref() {
            Some(open) if self.is_committed(open) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Whether something that stands behind a forgotten message is acknowledged.
    fn is_committed(&self, open: &Open) -> bool {
        let behind = open.forgotten.as_ref().map(|forgotten| &forgotten.behind);
        let Some(behind) = behind.filter(|behind| !behind.is_empty()) else {
            return false;
        };
        let acked = |what: &What| matches!(what, What::Ok { token } if behind.contains(token));
        self.stage.recorder.count(acked) > 0
    }

    /// Nobody knows what became of the open message.
    fn give_up(&mut self) {
        if let Some(open) = self.open.take() {
            let (committed, token) = (self.is_committed(&open), open.token.clone());
            self.stage.recorder.record(What::Info { token });
            *self.unsettled = Some(Unsettled {
                token: open.token,
                committed,
            });
        }
    }

    fn take(&mut self, incoming: Result<Incoming>) -> ControlFlow<()> {
        match incoming {
            // Nothing came for a while.
            Err(_) => ControlFlow::Continue(()),
            Ok(Incoming::Closed(why)) => {
                if self.stage.is_alive(self.node) {
                    self.stage.betray(format!(
                        "{}'s stream on node {}, which lives, ended: {why}",
                        self.seat.user, self.node
                    ));
                }
                ControlFlow::Break(())
            }
            Ok(Incoming::Acked(h)) => {
                let acked = |open: &mut Open| open.number <= h && open.forgotten.is_none();
                if let Some(open) = self.open.take_if(acked) {
                    self.acked(open);
                }
                ControlFlow::Continue(())
            }
            Ok(Incoming::Element(document)) => self.element(&document),
        }
    }

    fn element(&mut self, document: &Document) -> ControlFlow<()> {
        let root = document.root();
        let from = root.attr("from").unwrap_or_default();
        if !from.starts_with(&self.seat.to) {
            return ControlFlow::Continue(());
        }
        match (root.name(), root.attr("type").as_deref()) {
            ("message", Some("groupchat")) => self.message(root),
            ("message", Some("error")) => {
                let refused = root.attr("id").unwrap_or_default();
                if let Some(open) = self.open.take_if(|open| open.token == refused) {
                    self.stage.recorder.record(What::Fail { token: open.token });
                }
            }
            ("presence", Some("unavailable")) if is_own(root) => {
                self.stage.betray(format!(
                    "{} was removed: {}",
                    self.seat.user,
                    document.source()
                ));
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
            log: self.seat.log(),
            token: token.clone(),
            id,
        });
        let open = self.open.as_mut();
        if let Some((open, forgotten)) =
            open.and_then(|open| Some((&open.token, open.forgotten.as_mut()?)))
        {
            match forgotten.seen {
                true => forgotten.behind.push(token),
                false => forgotten.seen = *open == token,
            }
            return;
        }
        // Also when `h` came first: the checker counts the first acknowledgement.
        if let Some(open) = self.open.take_if(|open| open.token == token) {
            self.acked(open);
        }
    }

    fn acked(&self, open: Open) {
        if self.stage.is_cut_off_since(self.node, open.since) {
            self.stage.betray(format!(
                "{} was acknowledged by node {}, which had no quorum",
                open.token, self.node
            ));
        }
        self.stage.recorder.record(What::Ok { token: open.token });
    }

    /// The session is over; the connection goes without a word, as when a node or a network dies.
    fn leave(&mut self) {
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

/// Reads `what` from an element or says what is missing.
pub(super) fn required<'a>(element: Option<Element<'a>>, what: &str) -> Result<Element<'a>> {
    match element {
        Some(element) => Ok(element),
        None => bail!("{what} is missing"),
    }
}
