//! Talk in rooms while nodes die: members that keep sending, move when their node goes, and write down what they see.
//!
//! A [`Crowd`] is a task a member. Each sends one message after another, never two at once, and goes on as soon as the
//! last is acknowledged: by the room's reflection, or by `h` where stream management is on. A member whose node dies
//! logs in elsewhere, joins under the same nickname, and goes home once its node serves again.

mod archive;
mod gaps;
mod member;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Login;
use crate::history::{Recorder, What};
use crate::pool::{Pool, ROOMS};
use crate::wait::until;

pub use archive::read_archive;
pub use gaps::{Gaps, gaps};

/// What all members do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Talk,
    Listen,
    End,
}

/// Somebody who talks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The account, which is also the nickname.
    pub user: String,
    /// The room's bare JID.
    pub room: String,
    /// The node the member prefers.
    pub home: u64,
    /// Whether it uses stream management.
    pub stream_management: bool,
}

/// What members share.
struct Stage {
    recorder: Arc<Recorder>,
    logins: Vec<(u64, Login)>,
    alive: Mutex<BTreeSet<u64>>,
    /// Sessions that ended or were removed from their room though their node lived.
    betrayed: Mutex<Vec<String>>,
    /// Numbers of sessions handed out.
    sessions: std::sync::atomic::AtomicU32,
    phase: watch::Receiver<Phase>,
}

impl Stage {
    fn is_alive(&self, node: u64) -> bool {
        self.alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&node)
    }

    fn alive_nodes(&self) -> Vec<u64> {
        self.alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }

    fn betray(&self, what: String) {
        self.betrayed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }
}

/// All members of a test.
pub struct Crowd {
    stage: Arc<Stage>,
    phase: watch::Sender<Phase>,
    members: JoinSet<()>,
    seats: Vec<Seat>,
}

/// Two members a node and room: one with stream management, one without.
pub fn seats(rooms: &[&str], nodes: &[u64]) -> Vec<Seat> {
    let mut seats = Vec::new();
    for room in rooms {
        for home in nodes {
            for stream_management in [true, false] {
                let kind = if stream_management { "sm" } else { "plain" };
                seats.push(Seat {
                    user: format!("{room}-{home}-{kind}"),
                    room: format!("{room}@{ROOMS}"),
                    home: *home,
                    stream_management,
                });
            }
        }
    }
    seats
}

impl Crowd {
    /// Makes the accounts and the rooms, seats the members and lets them talk.
    pub async fn start(pool: &Pool, seats: Vec<Seat>, recorder: Arc<Recorder>) -> Result<Crowd> {
        pool.add_users(seats.iter().map(|seat| seat.user.as_str()))
            .await?;
        let rooms: BTreeSet<&str> = seats.iter().map(|seat| seat.room.as_str()).collect();
        for room in rooms {
            member::create_room(pool, room, &seats).await?;
        }
        let (phase, receiver) = watch::channel(Phase::Talk);
        let stage = Arc::new(Stage {
            recorder,
            logins: pool
                .ids()
                .into_iter()
                .map(|id| (id, pool.login(id, "")))
                .collect(),
            alive: Mutex::new(pool.running().into_iter().collect()),
            betrayed: Mutex::default(),
            sessions: std::sync::atomic::AtomicU32::new(0),
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

    /// Tells the members that a node is about to die.
    pub fn node_dies(&self, node: u64) {
        self.stage
            .alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&node);
    }

    /// Tells them that it serves again.
    pub fn node_lives(&self, node: u64) {
        self.stage
            .alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node);
    }

    /// Members that are in their room.
    pub fn members_in(&self) -> usize {
        let joined = |what: &What| matches!(what, What::Joined { .. });
        let left = |what: &What| matches!(what, What::Left { .. });
        let recorder = &self.stage.recorder;
        // Left first: between the two counts somebody may join, and is then counted a moment too early at most.
        let gone = recorder.count(left);
        recorder.count(joined).saturating_sub(gone)
    }

    /// Waits until every member is in its room.
    pub async fn all_in(&self, limit: Duration) -> Result<()> {
        let all = self.seats.len();
        let what = format!("{all} members are in their rooms");
        until(&what, limit, async || {
            (self.members_in() == all).then_some(())
        })
        .await
    }

    /// Acknowledged messages so far.
    pub fn acked(&self) -> usize {
        self.stage
            .recorder
            .count(|what| matches!(what, What::Ok { .. }))
    }

    /// Waits for so many further acknowledgements.
    pub async fn acks(&self, more: usize, limit: Duration) -> Result<()> {
        let goal = self.acked() + more;
        let what = format!("{more} more acknowledged messages");
        until(&what, limit, async || (self.acked() >= goal).then_some(())).await
    }

    /// Nobody sends any more; what is under way comes to its end.
    pub async fn fall_silent(&self, limit: Duration) -> Result<()> {
        self.phase.send_replace(Phase::Listen);
        let recorder = &self.stage.recorder;
        until("every message has its outcome", limit, async || {
            let open = crate::checker::undecided(&recorder.events());
            (open == 0).then_some(())
        })
        .await
    }

    /// Ends all members; gives what happened to them that must not.
    pub async fn end(mut self) -> Vec<String> {
        self.phase.send_replace(Phase::End);
        while self.members.join_next().await.is_some() {}
        std::mem::take(
            &mut self
                .stage
                .betrayed
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
