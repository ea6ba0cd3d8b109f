//! Sessions that outlive their connections (XEP-0198 §5).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::member::login;
use super::session::Session;
use super::{Phase, locked};
use crate::client::{Client, Incoming, Resumption};
use crate::history::What;

/// Stanzas that go over one connection at least, until the session changes it.
const CHANGES_AFTER: u32 = 32;

/// When a session on a node that is said to be in trouble looks for another.
const LEAVES_AFTER: Duration = Duration::from_secs(4);

/// When what a connection was told is waited for no longer: the server ends such a stream after ten seconds.
const ANSWERED: Duration = Duration::from_secs(11);

/// How long a client tries to come back before it begins anew.
const COMES_BACK: Duration = Duration::from_secs(40);

/// The pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

impl Session<'_> {
    /// Whether it is time to lose the connection: by chance, or because nothing comes over it any more.
    pub(super) fn changes_connection(&self, phase: Phase, waits_since: Option<Instant>) -> bool {
        let waits = waits_since.map(|since| since.elapsed()).unwrap_or_default();
        let is_stuck = waits > LEAVES_AFTER && !self.stage.is_alive(self.node);
        let carried = self.client.sent().saturating_sub(self.begun);
        let by_chance = phase == Phase::Talk && carried >= CHANGES_AFTER + self.id % 16;
        is_stuck || by_chance || waits > ANSWERED
    }

    /// Goes on over a new connection to any node; `false`: it is over.
    pub(super) async fn come_back(&mut self, phase: &watch::Receiver<Phase>) -> bool {
        let Some(lasting) = self.lasting.clone().filter(|_| !self.is_over) else {
            return false;
        };
        if *phase.borrow() == Phase::End {
            return false;
        }
        locked(&self.stage.inside).remove(&self.seat.user);
        for incoming in self.client.hang_up().await {
            match incoming {
                Incoming::Element(document) => drop(self.element(&document)),
                Incoming::Acked(h) => self.settle(h),
                Incoming::Closed(_) => {}
            }
        }
        self.stage
            .recorder
            .record(What::Dropped { session: self.id });
        let received = self.client.received();
        let deadline = Instant::now() + COMES_BACK;
        let mut pace = interval(TRY_AGAIN);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < deadline && *phase.borrow() != Phase::End && !self.is_over {
            pace.tick().await;
            let alive = self.stage.alive_nodes();
            let at = rand::random_range(0..alive.len().max(1));
            let Some(node) = alive.get(at).copied() else {
                continue;
            };
            let Ok(login) = login(self.stage, self.seat, node) else {
                return false;
            };
            let user = &self.seat.user;
            self.stage
                .does(user, format!("resumes session {} on node {node}", self.id));
            match Client::resume(&login, &lasting, received).await {
                Ok(Resumption::Resumed(client, h)) => {
                    self.goes_on(client, node, h).await;
                    return true;
                }
                Ok(Resumption::Lost(h)) => {
                    self.is_lost(h);
                    return false;
                }
                // Nobody there, or nobody who can tell where the session is.
                Err(error) => self.stage.does(
                    user,
                    format!(
                        "did not resume session {} on node {node}: {error:#}",
                        self.id
                    ),
                ),
            }
        }
        false
    }

    /// `<resumed h='…'/>`: what it covers is done, the rest is sent again in order.
    async fn goes_on(&mut self, client: Client, node: u64, h: u32) {
        let (acked, sent) = (self.handled, self.client.sent());
        self.client = client;
        (self.node, self.handled, self.asked, self.begun) = (node, h, false, h);
        for open in self.window.settle(h) {
            if !open.is_reflected {
                self.acked(open.token, open.since);
            }
        }
        let open = self.window.again(h, Instant::now());
        let recorder = &self.stage.recorder;
        recorder.record(What::Resumed {
            session: self.id,
            node,
            h,
            acked,
            sent,
            open: open.clone(),
        });
        // All that was sent besides messages was answered before the first of them: `h` covers it.
        if (acked..=sent).contains(&h) && (sent - h) as usize != open.len() {
            self.stage.betray(format!(
                "{} was resumed with h {h} of {sent}, and {} of its messages were open",
                self.seat.user,
                open.len()
            ));
        }
        let mut written = String::new();
        for token in open {
            self.client.count_sent();
            written.push_str(&self.message_of(&token));
            recorder.record(What::Resend {
                session: self.id,
                log: self.seat.log(),
                token,
            });
        }
        if !written.is_empty() {
            // A connection that ends shows in its turn.
            let _ = self.client.send_raw(&written).await;
        }
        locked(&self.stage.inside).insert(self.seat.user.clone(), node);
    }

    /// `<failed/>`: the session is gone; what the server says it had handled is done.
    fn is_lost(&mut self, h: Option<u32>) {
        self.stage.recorder.record(What::Lost {
            session: self.id,
            h,
            acked: self.handled,
            sent: self.client.sent(),
        });
        if let Some(h) = h {
            self.settle(h);
        }
    }
}
