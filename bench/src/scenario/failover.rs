//! `failover`: rooms are written to while a node of the pool is killed, or stands still: how long the others wait, and what they
//! miss.
//!
//! ```text
//!  each room has occupants on every node; those of the doomed node only listen and are not followed
//!  load ──────────── kill -9 ─────────── load goes on ──────────► drain ─► the node comes back ─► the next node's turn
//!                       │◄── gap ──►│ the room's first message that was due after the kill
//! ```
//!
//! A room in which nothing comes any more until the load ends is *silent*; it has no gap.
//!
//! From outside nobody sees which node answered for which room. With three nodes it is a third of the rooms that lose
//! theirs, so the gaps of the slowest third are shown apart; those of all rooms together would flatter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use xmpp::scan::Element;

use crate::crowd::Crowd;
use crate::histogram::Histogram;
use crate::login::LoginOptions;
use crate::pace::Pace;
use crate::report::{Faults, Row};
use crate::scenario::room::{Rooms, Seating};
use crate::scenario::{drain, enter};
use crate::server::{Nodes, until_it_serves};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// The load before the kill.
const BEFORE: Duration = Duration::from_secs(1);

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// `kill -9`.
    Killed,
    /// SIGSTOP, until the load has ended.
    Frozen,
}

impl Trouble {
    fn word(self) -> &'static str {
        match self {
            Trouble::Killed => "kills",
            Trouble::Frozen => "nodes frozen",
        }
    }
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) struct FailoverArgs {
    /// To a node.
    pub(crate) trouble: Trouble,
    /// Rooms.
    pub(crate) rooms: usize,
    /// Occupants of each room, a multiple of the nodes.
    pub(crate) occupants: usize,
    /// Messages a second, over all rooms together.
    pub(crate) rate: f64,
    /// How many of the nodes have their turn.
    pub(crate) turns: usize,
    /// Seconds of load for each.
    pub(crate) seconds: u64,
}

/// The rooms of one kill.
struct Doomed {
    rooms: Rooms,
    seating: Seating,
    survivors: Survivors,
    killed: OnceLock<Instant>,
    /// By room: microseconds from the kill to the first message to a survivor that was due after it.
    gaps: Vec<AtomicU64>,
    delivered: AtomicU64,
}

impl Doomed {
    fn new(
        target: &Target,
        seating: Seating,
        survivors: Survivors,
        messages: usize,
    ) -> anyhow::Result<Doomed> {
        let gaps = (0..seating.rooms).map(|_| AtomicU64::new(u64::MAX));
        Ok(Doomed {
            rooms: Rooms::new(target, seating, messages, survivors.count(), false)?,
            seating,
            survivors,
            killed: OnceLock::new(),
            gaps: gaps.collect(),
            delivered: AtomicU64::new(0),
        })
    }

    /// Survivors whose streams ended.
    fn broken(&self) -> u64 {
        let is_broken = |session: &usize| {
            let occupant = session % self.survivors.occupants;
            let handle = self.rooms.handles.get(*session);
            self.survivors.place(occupant).is_some() && handle.is_some_and(|one| one.is_broken())
        };
        (0..self.seating.sessions).filter(is_broken).count() as u64
    }
}

/// Which occupants are on nodes that live on: occupant `o` is on node `o mod nodes`.
#[derive(Clone, Copy, Debug)]
struct Survivors {
    nodes: usize,
    doomed: usize,
    occupants: usize,
}

impl Survivors {
    fn count(self) -> usize {
        self.occupants / self.nodes.max(1) * (self.nodes - 1)
    }

    /// The number of a survivor among the survivors of its room.
    fn place(self, occupant: usize) -> Option<usize> {
        let (row, node) = (occupant / self.nodes, occupant % self.nodes);
        let before = node > self.doomed;
        (node != self.doomed).then(|| row * (self.nodes - 1) + node - usize::from(before))
    }

    /// The occupant in a place.
    fn occupant(self, place: usize) -> usize {
        let others = (self.nodes - 1).max(1);
        let (row, node) = (place / others, place % others);
        row * self.nodes + node + usize::from(node >= self.doomed)
    }
}

impl Observer for Doomed {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        let Some((message, occupant)) = self.rooms.received(session, stanza) else {
            return;
        };
        let place = match occupant {
            // Whoever is on the doomed node is not followed.
            Some(occupant) => match self.survivors.place(occupant) {
                Some(place) => Some(place),
                None => return,
            },
            None => None,
        };
        if !enter(
            &self.rooms.ledger,
            &self.rooms.tally,
            message,
            place,
            stanza,
            at,
        ) {
            return;
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let due = self.rooms.ledger.due(message);
        if let (Some(killed), Some(due)) = (self.killed.get(), due)
            && due >= *killed
            && let Some(gap) = self.gaps.get(message % self.seating.rooms)
        {
            let micros = at.saturating_duration_since(*killed).as_micros();
            gap.fetch_min(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// What the kills found.
#[derive(Default)]
struct Found {
    gaps: Vec<Duration>,
    /// Rooms in which nothing came any more.
    silent: u64,
    latencies: Histogram,
    faults: Faults,
    ready: Histogram,
    delivered: u64,
}

impl Found {
    fn add(&mut self, load: &Doomed) {
        let tally = &load.rooms.tally;
        self.faults
            .add(tally.faults(load.rooms.ledger.sum(), load.broken()));
        for gap in &load.gaps {
            match gap.load(Ordering::Relaxed) {
                u64::MAX => self.silent += 1,
                gap => self.gaps.push(Duration::from_micros(gap)),
            }
        }
        self.latencies.merge(&tally.latencies());
        self.delivered += load.delivered.load(Ordering::Relaxed);
    }
}

/// Runs it: nodes have their trouble in turn, each once.
pub(crate) async fn run(
    target: &Arc<Target>,
    args: &FailoverArgs,
    pool: &mut impl Nodes,
) -> anyhow::Result<Row> {
    let nodes = target.nodes.len();
    if nodes < 3 || args.rooms == 0 || args.occupants == 0 || !args.occupants.is_multiple_of(nodes)
    {
        bail!("three nodes at least, and as many occupants on each");
    }
    // One in which nothing is due would pass for silent.
    let behind = args.seconds.saturating_sub(BEFORE.as_secs() + 1) as f64;
    if args.rate * behind < args.rooms as f64 {
        bail!("too few messages a second: each room must have one when a node is in trouble");
    }
    Crowd::register(target, args.rooms * args.occupants).await?;
    let mut found = Found::default();
    for doomed in 0..args.turns.min(nodes) {
        one_turn(target, args, pool, doomed, &mut found).await?;
    }
    let setup = format!(
        "{} × {}, {} msg/s, {} s, {} {}, {}",
        args.rooms,
        args.occupants,
        args.rate,
        args.seconds,
        args.turns.min(nodes),
        args.trouble.word(),
        target.security.name()
    );
    let mut row = Row::new("failover", setup);
    found.gaps.sort();
    let all = found.gaps.len() + usize::try_from(found.silent)?;
    // Those that are silent are the slowest of all.
    let third = found.gaps.len().min(all - all / nodes);
    let (others, slowest) = found.gaps.split_at(third);
    let silent = usize::try_from(found.silent)?;
    let mut gap = |name, gaps: &[Duration], all: usize, share: f64| {
        let at = ((all as f64 * share).ceil() as usize).saturating_sub(1);
        // None where the rank is that of a room that stays silent.
        if let Some(gap) = gaps.get(at) {
            row.figure(name, gap.as_secs_f64() * 1e3, "ms");
        }
    };
    let slow = slowest.len() + silent;
    gap("gap p50", slowest, slow, 0.5);
    gap("gap p99", slowest, slow, 0.99);
    gap("gap of the others p50", others, others.len(), 0.5);
    row.figure("rooms that stay silent", found.silent as f64, "");
    row.figure("of rooms", all as f64, "");
    row.latencies(&found.latencies);
    row.figure("deliveries", found.delivered as f64, "");
    if args.trouble == Trouble::Killed {
        row.figure("back after", found.ready.max().as_secs_f64(), "s");
    }
    Ok(row.judged(found.faults))
}

/// One node's turn: users log in anew, write, the node dies or stands still, and comes back when all is told.
async fn one_turn(
    target: &Arc<Target>,
    args: &FailoverArgs,
    pool: &mut impl Nodes,
    doomed: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    let seating = Seating {
        rooms: args.rooms,
        occupants: args.occupants,
        sessions: args.rooms * args.occupants,
    };
    let survivors = Survivors {
        nodes: target.nodes.len(),
        doomed,
        occupants: args.occupants,
    };
    let pace = Pace::new(args.rate).context("the rate must be a positive number")?;
    let count = pace.messages(Duration::from_secs(args.seconds));
    let load = Arc::new(Doomed::new(target, seating, survivors, count)?);
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let crowd = Crowd::log_in(target, seating.sessions, options, load.clone()).await?;
    load.rooms.handles.set(crowd.handles());
    load.rooms.fill().await?;
    let start = Instant::now();
    let sending = async {
        for message in 0..count {
            let due = start + pace.due(message);
            tokio::time::sleep_until(due.into()).await;
            // In turn among the survivors of the room.
            let turn = message / args.rooms % survivors.count().max(1);
            load.rooms.send(message, survivors.occupant(turn), due);
        }
    };
    let killing = async {
        tokio::time::sleep(BEFORE).await;
        let killed = match args.trouble {
            Trouble::Killed => pool.kill(doomed),
            Trouble::Frozen => pool.freeze(doomed),
        };
        // After the signal: what was answered before it is no part of the gap.
        let _ = load.killed.set(Instant::now());
        killed
    };
    let ((), killed) = tokio::join!(sending, killing);
    killed?;
    let expected = (count as u64).saturating_mul(survivors.count() as u64);
    drain(|| load.delivered.load(Ordering::Relaxed) >= expected).await;
    found.add(&load);
    let back = Instant::now();
    match args.trouble {
        Trouble::Killed => pool.bring_back(doomed).await?,
        Trouble::Frozen => pool.thaw(doomed)?,
    }
    until_it_serves(target, doomed).await?;
    found.ready.record(back.elapsed());
    crowd.log_out().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_have_places_without_holes() {
        for (nodes, occupants) in [(3, 3), (3, 6), (5, 10)] {
            for doomed in 0..nodes {
                let survivors = Survivors {
                    nodes,
                    doomed,
                    occupants,
                };
                let places: Vec<usize> = (0..occupants)
                    .filter_map(|occupant| survivors.place(occupant))
                    .collect();
                let expect: Vec<usize> = (0..survivors.count()).collect();
                assert_eq!(places, expect, "{survivors:?}");
                for place in places {
                    let occupant = survivors.occupant(place);
                    assert_eq!(survivors.place(occupant), Some(place), "{survivors:?}");
                }
            }
        }
    }
}
