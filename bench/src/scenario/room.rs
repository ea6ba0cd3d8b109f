//! `room`: messages in rooms: what one delivery to one occupant costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::crowd::Crowd;
use crate::ledger::Ledger;
use crate::login::LoginOptions;
use crate::pace::Pace;
use crate::report::Row;
use crate::scenario::{
    Handles, Ids, Meter, SECONDS_MAX, Tally, chat, drain, enter, open_loop, wait_until,
};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// How long a room's occupants may take to join.
const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// Occupants of all rooms together.
const OCCUPANTS_MAX: usize = 1_000_000;

/// `muster-bench room`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RoomArgs {
    /// Rooms
    #[arg(long, default_value_t = 20)]
    pub(crate) rooms: usize,
    /// Occupants of each room
    #[arg(long, default_value_t = 50)]
    pub(crate) occupants: usize,
    /// Sessions; fewer than rooms × occupants makes each an occupant of several rooms [default: rooms × occupants]
    #[arg(long)]
    pub(crate) sessions: Option<usize>,
    /// Messages a second, over all rooms together
    #[arg(long, default_value_t = 20.0)]
    pub(crate) rate: f64,
    /// Seconds of sending
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Messages ask not to be archived (XEP-0334)
    #[arg(long)]
    pub(crate) no_store: bool,
    /// Without stream management
    #[arg(long)]
    pub(crate) no_stream_management: bool,
}

/// Who is in which room: room `r` has the sessions from `r × occupants` on, round and round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seating {
    pub(crate) rooms: usize,
    pub(crate) occupants: usize,
    pub(crate) sessions: usize,
}

impl Seating {
    /// The session of a room's occupant.
    pub(crate) fn session(self, room: usize, occupant: usize) -> usize {
        (room * self.occupants + occupant) % self.sessions.max(1)
    }

    /// The place of a session among a room's occupants.
    pub(crate) fn occupant(self, room: usize, session: usize) -> Option<usize> {
        let first = self.session(room, 0);
        let occupant = (session + self.sessions).checked_sub(first)? % self.sessions.max(1);
        (room < self.rooms && occupant < self.occupants).then_some(occupant)
    }
}

/// XEP-0045 §7.2, without history.
pub(crate) fn join_stanza(room: &str, occupant: usize) -> Bytes {
    let mut presence = XmlWriter::new(ns::CLIENT);
    presence
        .start("presence")
        .attr("to", &format!("{room}/n{occupant}"));
    presence
        .start_ns("x", ns::MUC)
        .start("history")
        .attr("maxstanzas", "0");
    presence.finish()
}

/// XEP-0045 §10.1.2: an instant room takes the default configuration.
pub(crate) fn open_stanza(room: &str, id: &str) -> Bytes {
    let mut iq = XmlWriter::new(ns::CLIENT);
    iq.start("iq").attr("type", "set").attr("to", room);
    iq.attr("id", id).start_ns("query", ns::MUC_OWNER);
    iq.start_ns("x", ns::DATA_FORM).attr("type", "submit");
    iq.finish()
}

/// What one's own presence in a room says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// One that was there.
    ARoom,
    /// One that is locked until it is configured (XEP-0045 §10.1.1).
    ANewRoom,
}

/// Whether a presence of a room is the receiver's own, who has entered it (XEP-0045 §7.2.2).
pub(crate) fn entered(presence: Element<'_>) -> Option<Entered> {
    let user = presence.child("x", ns::MUC_USER)?;
    let says = |code: &str| {
        let mut statuses = user.children().filter(|child| child.name() == "status");
        statuses.any(|status| status.attr("code").as_deref() == Some(code))
    };
    if !says("110") || presence.attr("type").is_some() {
        return None;
    }
    Some(match says("201") {
        true => Entered::ANewRoom,
        false => Entered::ARoom,
    })
}

/// Rooms, who is in them, and what was said there.
pub(crate) struct Rooms {
    ids: Ids,
    domain: String,
    seating: Seating,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    pub(crate) handles: Handles,
    joined: Vec<AtomicBool>,
    configured: Vec<AtomicBool>,
    no_store: bool,
}

impl Rooms {
    /// Rooms of a new run, with so many messages to come, each to `recipients` who are followed.
    pub(crate) fn new(
        target: &Target,
        seating: Seating,
        messages: usize,
        recipients: usize,
        no_store: bool,
    ) -> anyhow::Result<Rooms> {
        let flags = |count| (0..count).map(|_| AtomicBool::new(false)).collect();
        Ok(Rooms {
            ids: Ids::new(),
            domain: target.rooms_domain.clone(),
            seating,
            ledger: Ledger::new(messages, recipients, Instant::now())?,
            tally: Tally::default(),
            handles: Handles::default(),
            joined: flags(seating.rooms * seating.occupants),
            configured: flags(seating.rooms),
            no_store,
        })
    }

    fn address(&self, room: usize) -> String {
        format!("{}@{}", self.ids.id(room), self.domain)
    }

    /// The room of an address, full or bare.
    fn room(&self, address: &str) -> Option<usize> {
        let (local, rest) = address.split_once('@')?;
        let domain = rest.split('/').next()?;
        self.ids
            .message(local)
            .filter(|room| *room < self.seating.rooms && domain == self.domain)
    }

    fn seat(&self, room: usize, occupant: usize) -> usize {
        room * self.seating.occupants + occupant
    }

    fn join(&self, room: usize, occupant: usize) {
        let presence = join_stanza(&self.address(room), occupant);
        let session = self.handles.get(self.seating.session(room, occupant));
        if session.and_then(|session| session.send(presence)).is_none() {
            self.tally.not_sent();
        }
    }

    fn has_joined(&self, room: usize, occupant: usize) -> bool {
        let seat = self.joined.get(self.seat(room, occupant));
        seat.is_some_and(|seat| seat.load(Ordering::Relaxed))
    }

    fn configure(&self, session: &Handle, room: usize) {
        let iq = open_stanza(&self.address(room), &self.ids.id(room));
        if session.send(iq).is_none() {
            self.tally.not_sent();
        }
    }

    fn presence(&self, session: &Handle, presence: Element<'_>, room: usize) {
        if presence.attr("type").as_deref() == Some("error") {
            return self.tally.error(presence);
        }
        match entered(presence) {
            None => return,
            Some(Entered::ANewRoom) => self.configure(session, room),
            Some(Entered::ARoom) => self.set(&self.configured, room),
        }
        if let Some(occupant) = self.seating.occupant(room, session.index) {
            self.set(&self.joined, self.seat(room, occupant));
        }
    }

    fn set(&self, flags: &[AtomicBool], index: usize) {
        if let Some(flag) = flags.get(index) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// All enter: first the one who makes the room, then the others, a row of all rooms at a time.
    pub(crate) async fn fill(&self) -> anyhow::Result<()> {
        let rooms = self.seating.rooms;
        for occupant in 0..self.seating.occupants {
            for room in 0..rooms {
                self.join(room, occupant);
            }
            let all_in = || {
                let is_in = |room| self.has_joined(room, occupant);
                let is_open = |room: usize| {
                    self.configured
                        .get(room)
                        .is_some_and(|flag| flag.load(Ordering::Relaxed))
                };
                (0..rooms).all(|room| is_in(room) && is_open(room))
            };
            if !wait_until(JOIN_WITHIN, all_in).await {
                let first_error = self.tally.faults(self.ledger.sum(), 0).first_error;
                bail!("occupant {occupant} could not join every room: {first_error:?}");
            }
        }
        Ok(())
    }

    /// Sends a message to its room, in the name of the occupant.
    pub(crate) fn send(&self, message: usize, occupant: usize, due: Instant) {
        let room = message % self.seating.rooms;
        let session = self.seating.session(room, occupant);
        self.ledger.sent(message, due);
        let id = self.ids.id(message);
        let stanza = chat::stanza(&self.address(room), "groupchat", &id, self.no_store, false);
        if self
            .handles
            .get(session)
            .and_then(|session| session.send(stanza.finish()))
            .is_none()
        {
            self.tally.not_sent();
        }
    }

    /// Sees to a stanza. A message of this run is given back, with the occupant that it came to.
    pub(crate) fn received(
        &self,
        session: &Handle,
        stanza: Element<'_>,
    ) -> Option<(usize, Option<usize>)> {
        let room = stanza.attr("from").and_then(|from| self.room(&from))?;
        match stanza.name() {
            "presence" => self.presence(session, stanza, room),
            "iq" => match stanza.attr("type").as_deref() {
                Some("result") => self.set(&self.configured, room),
                _ => self.tally.error(stanza),
            },
            _ if stanza.attr("type").as_deref() == Some("error") => self.tally.error(stanza),
            _ => {
                let message = self.ids.message(&stanza.attr("id")?)?;
                let is_its_room = message % self.seating.rooms == room;
                let occupant = self.seating.occupant(room, session.index);
                return Some((message, occupant.filter(|_| is_its_room)));
            }
        }
        None
    }
}

impl Observer for Rooms {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        if let Some((message, occupant)) = self.received(session, stanza) {
            enter(&self.ledger, &self.tally, message, occupant, stanza, at);
        }
    }
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &RoomArgs) -> anyhow::Result<Row> {
    let occupants = args.rooms.saturating_mul(args.occupants);
    if occupants == 0 || occupants > OCCUPANTS_MAX {
        bail!("rooms × occupants must be 1 to {OCCUPANTS_MAX}");
    }
    let sessions = args.sessions.unwrap_or(occupants).min(occupants);
    if sessions < args.occupants {
        bail!("a room of {} needs as many sessions", args.occupants);
    }
    let pace = Pace::new(args.rate).context("the rate must be a positive number")?;
    let count = pace.messages(Duration::from_secs(args.seconds));
    Crowd::register(target, sessions).await?;
    let seating = Seating {
        rooms: args.rooms,
        occupants: args.occupants,
        sessions,
    };
    let rooms = Rooms::new(target, seating, count, args.occupants, args.no_store)?;
    let rooms = Arc::new(rooms);
    let options = LoginOptions {
        stream_management: !args.no_stream_management,
        available: true,
    };
    let crowd = Crowd::log_in(target, sessions, options, rooms.clone()).await?;
    rooms.handles.set(crowd.handles());
    let joining = Instant::now();
    rooms.fill().await?;
    let joined_in = joining.elapsed();
    let meter = Meter::start(&target.processes).await?;
    open_loop(pace, count, Instant::now(), |message, due| {
        rooms.send(message, message / args.rooms % args.occupants, due);
    })
    .await;
    let expected = (count as u64).saturating_mul(args.occupants as u64);
    drain(|| rooms.tally.latencies().len() >= expected).await;
    let sum = rooms.ledger.sum();
    let kept = if args.no_store {
        "no-store"
    } else {
        "archived"
    };
    let (count, size) = (args.rooms, args.occupants);
    let setup = format!(
        "{count} × {size}, {} msg/s, {sessions} sessions, {kept}, {} s",
        args.rate, args.seconds
    );
    let mut row = Row::new("room", setup);
    meter.add_to(&mut row, sum.delivered, "µs/delivery", 1e6)?;
    row.figure(
        "rate",
        sum.delivered as f64 / meter.elapsed().as_secs_f64(),
        "deliveries/s",
    );
    row.latencies(&rooms.tally.latencies());
    row.figure("joins", occupants as f64 / joined_in.as_secs_f64(), "/s");
    let faults = rooms.tally.faults(sum, crowd.broken());
    crowd.log_out().await;
    Ok(row.judged(faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_and_sessions_agree() {
        for (rooms, occupants, sessions) in [(20, 50, 1000), (20, 50, 50), (3, 4, 7), (1, 1, 1)] {
            let seating = Seating {
                rooms,
                occupants,
                sessions,
            };
            for room in 0..rooms {
                for occupant in 0..occupants {
                    let session = seating.session(room, occupant);
                    assert!(session < sessions);
                    assert_eq!(
                        seating.occupant(room, session),
                        Some(occupant),
                        "{seating:?}"
                    );
                }
                let seated = (0..sessions).filter_map(|session| seating.occupant(room, session));
                assert_eq!(seated.count(), occupants);
            }
            assert_eq!(seating.occupant(rooms, 0), None);
        }
    }
}
