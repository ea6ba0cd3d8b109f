//! Talk in rooms while nodes die: members that keep sending, move when their node goes, and write down what they see.
//!
//! A [`Crowd`] is a task a member. Without stream management each sends one message after another, never two at once, and
//! goes on as soon as the room has reflected the last; with it several are open at a time, until `h` covers them. A member
//! whose node dies logs in elsewhere, joins under the same nickname, and goes home once its node serves again. All that it
//! does not know the fate of it sends again, in order and under the same origin-ids. Forgetful ones act now and then as if
//! their connection had gone before the acknowledgement of messages that are committed: so that there is always something
//! sent twice.
//!
//! Lasting ones have sessions that outlive their connections (XEP-0198 §5). They lose these now and then, go on over any
//! node, and send again what `h` does not cover.
//!
//! Others write to a user instead of a room, round in a ring: what they send goes through two logs. Who is written to
//! reads in the archive, at each login, what came meanwhile.

mod archive;
mod gaps;
mod member;
mod resuming;
mod session;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Login;
use crate::history::{Recorder, What};
use crate::pool::{DOMAIN, Pool, ROOMS};
use crate::wait::until;

pub use archive::{read_archive, read_newest};
pub use gaps::{Gaps, gaps, silences};
pub use member::{create_room, join};
pub(crate) use member::{create_room_as, login_of};

/// What all members do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Talk,
    Listen,
    End,
}

/// To whom somebody talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Those in a room.
    Room,
    /// One user.
    User,
}

/// Somebody who talks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The account, which is also the nickname.
    pub user: String,
    /// Whether `to` is a room.
    pub audience: Audience,
    /// The bare JID of the room, or of the other user.
    pub to: String,
    /// Who writes to a user.
    pub writer: Option<String>,
    /// The node the member prefers.
    pub home: u64,
    /// Whether it uses stream management.
    pub stream_management: bool,
    /// Whether it sends again, now and then, what is committed already.
    pub forgetful: bool,
    /// Whether its session outlives its connection: then it loses that now and then, goes on over any node, and has no home.
    pub lasting: bool,
    /// Whether its connections use STARTTLS.
    pub secured: bool,
}

/// What members share.
struct Stage {
    recorder: Arc<Recorder>,
    logins: Vec<(u64, Login)>,
    alive: Mutex<BTreeSet<u64>>,
    /// Nodes without a quorum, and since when: they must acknowledge nothing that was sent after that.
    cut_off: Mutex<BTreeMap<u64, Instant>>,
    /// Members that are in their room or online, and on which node.
    inside: Mutex<BTreeMap<String, u64>>,
    /// What happened to members that must not.
    betrayed: Mutex<Vec<String>>,
    /// Streams of living nodes that ended.
    disturbed: Mutex<Vec<String>>,
    /// Numbers of sessions handed out.
    sessions: AtomicU32,
    /// Messages sent again that were committed, for certain.
    retries: AtomicUsize,
    /// What each member is about, and since when: said where something is waited for in vain.
    doing: Mutex<BTreeMap<String, (Instant, String)>>,
    phase: watch::Receiver<Phase>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    fn is_alive(&self, node: u64) -> bool {
        locked(&self.alive).contains(&node)
    }

    fn alive_nodes(&self) -> Vec<u64> {
        locked(&self.alive).iter().copied().collect()
    }

    fn betray(&self, what: String) {
        let now = Duration::from_nanos(self.recorder.now());
        let what = format!("at {:.1} s {what}", now.as_secs_f64());
        locked(&self.betrayed).push(what);
    }

    fn disturb(&self, what: String) {
        locked(&self.disturbed).push(what);
    }

    /// A member begins something.
    fn does(&self, user: &str, what: String) {
        locked(&self.doing).insert(user.to_owned(), (Instant::now(), what));
    }

    /// What everybody is about.
    fn whereabouts(&self) -> String {
        let inside = locked(&self.inside).clone();
        let doing = locked(&self.doing);
        let line = |(user, (since, what)): (&String, &(Instant, String))| {
            let place = inside.get(user);
            let place = place.map_or("nowhere".to_owned(), |node| format!("in on node {node}"));
            format!("  {user}, {place}, for {:?}: {what}", since.elapsed())
        };
        let lines: Vec<String> = doing.iter().map(line).collect();
        format!(
            "nodes that count as alive: {:?}; members:\n{}",
            self.alive_nodes(),
            lines.join("\n")
        )
    }

    /// Whether a node had no quorum from this time on until now.
    fn is_cut_off_since(&self, node: u64, since: Instant) -> bool {
        locked(&self.cut_off)
            .get(&node)
            .is_some_and(|cut| *cut <= since)
    }
}

/// All members of a test.
pub struct Crowd {
    stage: Arc<Stage>,
    phase: watch::Sender<Phase>,
    members: JoinSet<()>,
    seats: Vec<Seat>,
}

impl Seat {
    /// The name of the log that the history has for what is said here.
    pub fn log(&self) -> String {
        match self.audience {
            Audience::Room => self.to.clone(),
            Audience::User => format!("{} to {}", self.user, self.to),
        }
    }

    /// The name of the log of what is heard here: the room's, or that of who writes to the user.
    fn hears(&self) -> String {
        match &self.writer {
            Some(writer) => format!("{writer} to {}@{DOMAIN}", self.user),
            None => self.log(),
        }
    }

    /// What the addresses begin with from which messages come.
    fn speaker(&self) -> String {
        match &self.writer {
            Some(writer) => format!("{writer}@{DOMAIN}/"),
            None => format!("{}/", self.to),
        }
    }

    /// Whether a message is one that this user is written.
    fn is_heard(&self, token: &str) -> bool {
        let number = |writer| token.strip_prefix(writer)?.strip_prefix('-');
        self.writer.as_deref().and_then(number).is_some()
    }
}

/// Two members a node and room: one with stream management, one without. One of the first node's is forgetful.
pub fn seats(rooms: &[&str], nodes: &[u64]) -> Vec<Seat> {
    let mut seats = Vec::new();
    for room in rooms {
        for home in nodes {
            for stream_management in [true, false] {
                let kind = if stream_management { "sm" } else { "plain" };
                seats.push(Seat {
                    user: format!("{room}-{home}-{kind}"),
                    audience: Audience::Room,
                    to: format!("{room}@{ROOMS}"),
                    writer: None,
                    home: *home,
                    stream_management,
                    forgetful: stream_management && nodes.first() == Some(home),
                    lasting: false,
                    secured: false,
                });
            }
        }
    }
    seats
}

/// One user a node who writes to that of the next, with stream management: nothing else acknowledges a message to a user.
pub fn ring(nodes: &[u64]) -> Vec<Seat> {
    let user = |node: &u64| format!("ring-{node}");
    let next = nodes.iter().cycle().skip(1);
    let last = nodes.iter().cycle().skip(nodes.len().saturating_sub(1));
    let seat = |((home, next), last): ((&u64, &u64), &u64)| Seat {
        user: user(home),
        audience: Audience::User,
        to: format!("{}@{DOMAIN}", user(next)),
        writer: Some(user(last)),
        home: *home,
        stream_management: true,
        forgetful: false,
        lasting: false,
        secured: false,
    };
    nodes.iter().zip(next).zip(last).map(seat).collect()
}

impl Crowd {
    /// Makes the accounts and the rooms, seats the members and lets them talk.
    pub async fn start(pool: &Pool, seats: Vec<Seat>, recorder: Arc<Recorder>) -> Result<Crowd> {
        pool.add_users(seats.iter().map(|seat| seat.user.as_str()))
            .await?;
        let logins = pool.ids().into_iter().map(|id| (id, pool.login(id, "")));
        Crowd::seat(logins.collect(), &pool.running(), seats, recorder).await
    }

    /// The same, of accounts that are there: `logins` says how to come to each node, `alive` which of them run.
    pub async fn seat(
        logins: Vec<(u64, Login)>,
        alive: &[u64],
        seats: Vec<Seat>,
        recorder: Arc<Recorder>,
    ) -> Result<Crowd> {
        let mut rooms = BTreeSet::new();
        for seat in seats.iter().filter(|seat| seat.audience == Audience::Room) {
            if rooms.insert(seat.to.as_str()) {
                let login = logins.iter().find(|(node, _)| *node == seat.home);
                let (_, login) = login.context("a seat is on one of the nodes")?;
                create_room_as(&login_of(login, &seat.user), &seat.to).await?;
            }
        }
        let (phase, receiver) = watch::channel(Phase::Talk);
        let stage = Arc::new(Stage {
            recorder,
            logins,
            alive: Mutex::new(alive.iter().copied().collect()),
            cut_off: Mutex::default(),
            inside: Mutex::default(),
            betrayed: Mutex::default(),
            disturbed: Mutex::default(),
            sessions: AtomicU32::new(0),
            retries: AtomicUsize::new(0),
            doing: Mutex::default(),
            phase: receiver,
        });
        let mut members = JoinSet::new();
        for seat in seats.clone() {
            members.spawn(member::live(Arc::clone(&stage), seat));
        }
        let crowd = Crowd {
            stage,
            phase,
            members,
            seats,
        };
        crowd.all_in(Duration::from_secs(30)).await?;
        Ok(crowd)
    }

    /// What everybody is about.
    pub fn whereabouts(&self) -> String {
        self.stage.whereabouts()
    }

    /// Everybody's seat.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Tells the members that a node is about to die.
    pub fn node_dies(&self, node: u64) {
        locked(&self.stage.alive).remove(&node);
    }

    /// Tells them that a node has no quorum from now on: its members look for another once their streams end.
    pub fn node_is_cut_off(&self, node: u64) {
        self.node_dies(node);
        locked(&self.stage.cut_off).insert(node, Instant::now());
    }

    /// Tells them that a node is about to be in touch with the others again.
    pub fn node_is_in_touch(&self, node: u64) {
        locked(&self.stage.cut_off).remove(&node);
    }

    /// Tells them that it serves again.
    pub fn node_lives(&self, node: u64) {
        locked(&self.stage.alive).insert(node);
    }

    /// Members that are in their room, on a node that lives: at home if that does.
    pub fn members_in(&self) -> usize {
        let inside = locked(&self.stage.inside);
        let is_in = |seat: &&Seat| match inside.get(&seat.user) {
            Some(node) if *node == seat.home || seat.lasting => self.stage.is_alive(*node),
            Some(node) => self.stage.is_alive(*node) && !self.stage.is_alive(seat.home),
            None => false,
        };
        self.seats.iter().filter(is_in).count()
    }

    /// Waits for something of the members; where it does not come, says what each is about.
    async fn waits(
        &self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut() -> bool,
    ) -> Result<()> {
        let waited = until(what, limit, async || holds().then_some(())).await;
        waited.with_context(|| self.stage.whereabouts())
    }

    /// Waits until every member is in its room, on a node that lives: at home if that does.
    pub async fn all_in(&self, limit: Duration) -> Result<()> {
        let all = self.seats.len();
        let what = format!("{all} members are in their rooms");
        self.waits(&what, limit, || self.members_in() == all).await
    }

    /// Waits for so many further acknowledgements.
    pub async fn acks(&self, more: usize, limit: Duration) -> Result<()> {
        self.acks_of("", more, limit).await
    }

    /// Waits for so many further acknowledgements of members whose names begin so.
    pub async fn acks_of(&self, members: &str, more: usize, limit: Duration) -> Result<()> {
        let acked = || {
            self.stage
                .recorder
                .count(|what| matches!(what, What::Ok { token } if token.starts_with(members)))
        };
        let goal = acked() + more;
        let what = format!("{more} more acknowledged messages of {members}…");
        self.waits(&what, limit, || acked() >= goal).await
    }

    /// Waits until so many messages in all were sent again that were committed, for certain.
    pub async fn retries(&self, count: usize, limit: Duration) -> Result<()> {
        let what = format!("{count} messages are sent again");
        let retries = || self.stage.retries.load(Ordering::Relaxed);
        self.waits(&what, limit, || retries() >= count).await
    }

    /// Nobody sends any more; what is under way comes to its end.
    pub async fn fall_silent(&self, limit: Duration) -> Result<()> {
        self.phase.send_replace(Phase::Listen);
        let recorder = &self.stage.recorder;
        let open = || crate::checker::undecided(&recorder.events());
        self.waits("every message has its outcome", limit, || open() == 0)
            .await
    }

    /// Ends all members; gives what happened to them that must not, whatever is done to nodes, and which streams of living
    /// nodes ended.
    pub async fn end(mut self) -> (Vec<String>, Vec<String>) {
        self.phase.send_replace(Phase::End);
        while self.members.join_next().await.is_some() {}
        let taken = |of: &Mutex<Vec<String>>| std::mem::take(&mut *locked(of));
        (taken(&self.stage.betrayed), taken(&self.stage.disturbed))
    }
}
