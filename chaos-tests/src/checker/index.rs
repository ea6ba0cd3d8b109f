//! A history sorted by what the rules ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::Dose;
use super::facts::Facts;
use crate::history::{Event, What};

/// How a message fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged at this time.
    Ok(u64),
    /// Refused.
    Fail,
    /// Unknown.
    Info,
}

/// A message that somebody tried to send.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) session: u32,
    pub(super) log: &'a str,
    pub(super) invoked: u64,
    pub(super) outcome: Outcome,
    /// The sessions that sent it again, and when they first did.
    pub(super) resent: BTreeMap<u32, u64>,
    /// When it was acknowledged (each time, if it was sent again), refused or given up.
    pub(super) closed: Vec<u64>,
}

impl Attempt<'_> {
    /// When it was first acknowledged, refused or given up after it was sent then.
    pub(super) fn closed_after(&self, sent: u64) -> Option<u64> {
        self.closed.iter().copied().find(|at| *at >= sent)
    }

    /// The sessions that sent it, and when each first did.
    pub(super) fn sends(&self) -> impl Iterator<Item = (u32, u64)> {
        let again = self.resent.iter().map(|(session, at)| (*session, *at));
        let again = again.filter(|(session, _)| *session != self.session);
        std::iter::once((self.session, self.invoked)).chain(again)
    }
}

/// So many acknowledgements during faults make a kind of session count as covered.
pub(super) const KIND_ACKS: usize = 10;

/// What kind of session: on which node, and whether with stream management.
type Kind = (u64, bool);

/// What a session read in the archive.
#[derive(Debug)]
pub(super) struct CatchUp<'a> {
    pub(super) after: Option<&'a str>,
    pub(super) rows: &'a [(String, String)],
}

/// All that was set before, and what was read.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) reading: &'a str,
    pub(super) set: BTreeMap<&'a str, &'a str>,
    pub(super) read: &'a BTreeMap<String, String>,
}

/// A session's time in a room, or a user's online.
#[derive(Debug)]
pub(super) struct Stay<'a> {
    pub(super) session: u32,
    pub(super) log: &'a str,
    pub(super) kind: Kind,
    is_away: bool,
    pub(super) joined: u64,
    /// `None`: to the end of the history.
    pub(super) left: Option<u64>,
    /// Tokens and ids in the order in which they came.
    pub(super) received: Vec<(&'a str, &'a str)>,
    /// When each of them came.
    pub(super) received_at: Vec<u64>,
    /// Whether it reads the archive for what it missed.
    pub(super) reads_archive: bool,
    /// What it found there; `None`: it came to its end before.
    pub(super) caught_up: Option<CatchUp<'a>>,
}

impl<'a> Stay<'a> {
    /// What it found in the archive, like [`Stay::received`].
    pub(super) fn found(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let rows = self
            .caught_up
            .as_ref()
            .map_or(&[][..], |caught| caught.rows);
        rows.iter().map(|(token, id)| (token.as_str(), id.as_str()))
    }
}

/// One reading of an archive.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    pub(super) rows: &'a [(String, String)],
}

/// Where in a log each message stands.
pub(super) type Positions<'a> = BTreeMap<&'a str, usize>;

impl<'a> Reading<'a> {
    fn positions(&self) -> Positions<'a> {
        let rows = self.rows.iter().enumerate();
        rows.map(|(at, (token, _))| (token.as_str(), at)).collect()
    }
}

/// The whole history.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) attempts: BTreeMap<&'a str, Attempt<'a>>,
    pub(super) stays: Vec<Stay<'a>>,
    pub(super) readings: BTreeMap<&'a str, Vec<Reading<'a>>>,
    /// Received by a session that was not in.
    pub(super) strays: Vec<(u32, &'a str)>,
    /// Tokens that were sent twice by the test itself: the history is worth nothing.
    pub(super) reused: BTreeSet<&'a str>,
    positions: BTreeMap<&'a str, Positions<'a>>,
    /// Readings of what was set.
    pub(super) values: Vec<Values<'a>>,
    /// The newest value of each register.
    set: BTreeMap<&'a str, &'a str>,
    in_flight: InFlight<'a>,
    /// From the first fault to the healing of all, again and again.
    troubles: Vec<Trouble>,
    /// When faults were caused.
    pub(super) faults: Vec<u64>,
    /// When faults were taken back.
    pub(super) mends: Vec<Mend>,
    /// The last trouble is mended, and not healed.
    is_mended: bool,
    /// When sessions ended.
    pub(super) left: BTreeMap<u32, u64>,
    /// All else.
    pub(super) facts: Facts<'a>,
}

/// Faults were taken back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mend {
    pub(super) at: u64,
    /// No quorum ran.
    pub(super) from_nothing: bool,
}

/// A time with at least one fault that is not healed.
#[derive(Debug)]
struct Trouble {
    from: u64,
    /// `None`: to the end of the history.
    to: Option<u64>,
}

/// Messages without an outcome, by session.
#[derive(Debug, Default)]
struct InFlight<'a> {
    sender: BTreeMap<&'a str, u32>,
    open: BTreeMap<u32, usize>,
    most: usize,
}

impl<'a> InFlight<'a> {
    fn sent(&mut self, session: u32, token: &'a str) {
        self.settled(token);
        self.sender.insert(token, session);
        let open = self.open.entry(session).or_default();
        *open += 1;
        self.most = self.most.max(*open);
    }

    fn settled(&mut self, token: &str) {
        let sender = self.sender.remove(token);
        if let Some(open) = sender.and_then(|session| self.open.get_mut(&session)) {
            *open -= 1;
        }
    }
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event]) -> Index<'a> {
        let mut index = Index {
            attempts: BTreeMap::new(),
            stays: Vec::new(),
            readings: BTreeMap::new(),
            strays: Vec::new(),
            reused: BTreeSet::new(),
            positions: BTreeMap::new(),
            values: Vec::new(),
            set: BTreeMap::new(),
            in_flight: InFlight::default(),
            troubles: Vec::new(),
            faults: Vec::new(),
            mends: Vec::new(),
            is_mended: false,
            left: BTreeMap::new(),
            facts: Facts::default(),
        };
        for event in events {
            index.add(event);
        }
        let firsts = index.readings.iter();
        let firsts = firsts.filter_map(|(log, all)| Some((*log, all.first()?)));
        index.positions = firsts
            .map(|(log, first)| (log, first.positions()))
            .collect();
        index
    }

    fn add(&mut self, event: &'a Event) {
        let at = event.at;
        self.facts.end = at;
        match &event.what {
            What::Invoke {
                session,
                log,
                token,
            } => self.invoked(*session, log, token, at),
            What::Resend {
                session,
                log,
                token,
            } => self.resent(*session, log, token, at),
            What::Ok { token } => {
                self.closed(token, at);
                self.settle(token, Outcome::Ok(at));
            }
            What::Fail { token } => {
                self.closed(token, at);
                self.settle(token, Outcome::Fail);
            }
            What::Info { token } => {
                self.closed(token, at);
                self.in_flight.settled(token);
            }
            What::Joined { .. } => self.joined(at, &event.what),
            What::CaughtUp {
                session,
                log,
                after,
                rows,
            } => {
                let after = after.as_deref();
                if let Some(stay) = self.stay(*session, log) {
                    stay.caught_up = Some(CatchUp { after, rows });
                }
            }
            What::Left { session } => {
                self.left.insert(*session, at);
                let open = |stay: &&mut Stay<'_>| stay.session == *session && stay.left.is_none();
                for stay in self.stays.iter_mut().filter(open) {
                    stay.left = Some(at);
                }
            }
            What::Received { .. } => self.received(at, &event.what),
            What::Fault { .. } => self.fault(at),
            What::Mended { from_nothing } => self.mended(at, *from_nothing),
            What::Healed => self.healed(at),
            What::Archive { reading, log, rows } => {
                let name = reading;
                let reading = Reading { name, rows };
                self.readings.entry(log).or_default().push(reading);
            }
            What::Set { register, value } => {
                self.set.insert(register, value);
            }
            What::Values { reading, values } => self.values.push(Values {
                reading,
                set: self.set.clone(),
                read: values,
            }),
            _ => self.facts.add(event),
        }
    }

    fn received(&mut self, at: u64, what: &'a What) {
        let What::Received {
            session,
            log,
            token,
            id,
        } = what
        else {
            return;
        };
        match self.stay(*session, log) {
            Some(stay) => {
                stay.received.push((token, id));
                stay.received_at.push(at);
            }
            None => self.strays.push((*session, token)),
        }
    }

    fn invoked(&mut self, session: u32, log: &'a str, token: &'a str, at: u64) {
        self.in_flight.sent(session, token);
        let attempt = Attempt {
            session,
            log,
            invoked: at,
            outcome: Outcome::Info,
            resent: BTreeMap::new(),
            closed: Vec::new(),
        };
        if self.attempts.insert(token, attempt).is_some() {
            self.reused.insert(token);
        }
    }

    fn joined(&mut self, at: u64, what: &'a What) {
        let What::Joined {
            session,
            log,
            node,
            home,
            stream_management,
            reads_archive,
        } = what
        else {
            return;
        };
        self.stays.push(Stay {
            session: *session,
            log,
            kind: (*node, *stream_management),
            is_away: node != home,
            joined: at,
            left: None,
            received: Vec::new(),
            received_at: Vec::new(),
            reads_archive: *reads_archive,
            caught_up: None,
        });
    }

    /// A session's time in a log that is not over.
    fn stay(&mut self, session: u32, log: &str) -> Option<&mut Stay<'a>> {
        let here = |stay: &&mut Stay<'_>| stay.session == session && stay.log == log;
        let newest = self.stays.iter_mut().rev().find(here);
        newest.filter(|stay| stay.left.is_none())
    }

    fn resent(&mut self, session: u32, log: &str, token: &'a str, at: u64) {
        self.in_flight.sent(session, token);
        match self.attempts.get_mut(token) {
            Some(attempt) if attempt.log == log => {
                attempt.resent.entry(session).or_insert(at);
            }
            _ => {
                self.reused.insert(token);
            }
        }
    }

    fn closed(&mut self, token: &str, at: u64) {
        if let Some(attempt) = self.attempts.get_mut(token) {
            attempt.closed.push(at);
        }
    }

    fn mended(&mut self, at: u64, from_nothing: bool) {
        self.mends.push(Mend { at, from_nothing });
        self.is_mended = true;
    }

    fn healed(&mut self, at: u64) {
        // Who says only that all is healed has mended nothing before that.
        if !self.is_mended {
            self.mended(at, false);
        }
        self.is_mended = false;
        if let Some(trouble) = self.troubles.last_mut() {
            trouble.to.get_or_insert(at);
        }
    }

    fn fault(&mut self, at: u64) {
        self.faults.push(at);
        self.is_mended = false;
        if self.troubles.last().is_none_or(|last| last.to.is_some()) {
            self.troubles.push(Trouble { from: at, to: None });
        }
    }

    /// The first acknowledgement counts: `h` and the reflection both tell.
    fn settle(&mut self, token: &'a str, outcome: Outcome) {
        self.in_flight.settled(token);
        if let Some(attempt) = self.attempts.get_mut(token)
            && attempt.outcome == Outcome::Info
            // What was sent twice and refused once may still have been done the other time.
            && (outcome != Outcome::Fail || attempt.resent.is_empty())
        {
            attempt.outcome = outcome;
        }
    }

    /// Whether a session sent a message again: it may get the first one's reflection, whenever that was, besides the
    /// message in its turn.
    pub(super) fn is_retry_of(&self, session: u32, token: &str) -> bool {
        let attempt = self.attempts.get(token);
        attempt.is_some_and(|attempt| attempt.resent.contains_key(&session))
    }

    /// Messages that were sent again although they were committed: something behind them was acknowledged before that. And
    /// those of them that a fault lay between.
    fn suppressed(&self) -> (usize, usize) {
        let (mut found, mut over_faults) = (0, 0);
        for rows in self
            .readings
            .values()
            .filter_map(|all| all.first())
            .map(|reading| reading.rows)
        {
            let mut earliest_ack_behind = u64::MAX;
            for attempt in rows
                .iter()
                .rev()
                .filter_map(|(token, _)| self.attempts.get(token.as_str()))
            {
                let again = || {
                    let all = attempt.resent.values();
                    all.filter(|at| **at > earliest_ack_behind)
                };
                let is_over = |at: &u64| {
                    let mut faults = self.faults.iter();
                    faults.any(|fault| (earliest_ack_behind..*at).contains(fault))
                };
                found += usize::from(again().next().is_some());
                over_faults += usize::from(again().any(is_over));
                if let Outcome::Ok(at) = attempt.outcome {
                    earliest_ack_behind = earliest_ack_behind.min(at);
                }
            }
        }
        (found, over_faults)
    }

    /// The positions of a log's messages, by its first reading.
    pub(super) fn positions(&self, log: &str) -> &Positions<'a> {
        static NONE: Positions<'static> = Positions::new();
        self.positions.get(log).unwrap_or(&NONE)
    }

    pub(super) fn acked_count(&self) -> usize {
        self.outcomes(|outcome| matches!(outcome, Outcome::Ok(_)))
    }

    pub(super) fn unknown_count(&self) -> usize {
        self.outcomes(|outcome| outcome == Outcome::Info)
    }

    pub(super) fn failed_count(&self) -> usize {
        self.outcomes(|outcome| outcome == Outcome::Fail)
    }

    fn outcomes(&self, accept: impl Fn(Outcome) -> bool) -> usize {
        self.attempts
            .values()
            .filter(|attempt| accept(attempt.outcome))
            .count()
    }

    /// Whether there was no trouble from one time to another.
    pub(super) fn is_calm(&self, from: u64, to: u64) -> bool {
        let overlaps =
            |trouble: &Trouble| trouble.from <= to && trouble.to.is_none_or(|end| from <= end);
        !self.troubles.iter().any(overlaps)
    }

    /// Whether there was trouble at that time.
    fn in_trouble(&self, at: u64) -> bool {
        let holds = |trouble: &Trouble| trouble.from <= at && trouble.to.is_none_or(|to| at <= to);
        self.troubles.iter().any(holds)
    }

    pub(super) fn dose(&self) -> Dose {
        let kinds: BTreeMap<u32, Kind> = self
            .stays
            .iter()
            .map(|stay| (stay.session, stay.kind))
            .collect();
        let mut acked: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut acked_during_faults = 0;
        for attempt in self.attempts.values() {
            if matches!(attempt.outcome, Outcome::Ok(at) if self.in_trouble(at)) {
                acked_during_faults += 1;
                if let Some(kind) = kinds.get(&attempt.session) {
                    *acked.entry(*kind).or_default() += 1;
                }
            }
        }
        let direct = self.stays.iter().filter(|stay| stay.reads_archive);
        let (suppressed, over_faults) = self.suppressed();
        Dose {
            faults: self.faults.len(),
            acked_during_faults,
            kinds_acked: acked.values().filter(|acks| **acks >= KIND_ACKS).count(),
            moves: self.stays.iter().filter(|stay| stay.is_away).count(),
            suppressed,
            over_faults,
            received: self.stays.iter().map(|stay| stay.received.len()).sum(),
            readings: self.readings.values().map(Vec::len).sum(),
            direct: direct.clone().map(|stay| stay.received.len()).sum(),
            late: direct.clone().map(|stay| self.late(stay)).sum(),
            found: direct.map(|stay| stay.found().count()).sum(),
            in_flight: self.in_flight.most,
            resent_in_order: self.resent_in_order(),
            values_read: self.values.len(),
        }
    }

    /// Whether a message was sent after a session joined.
    pub(super) fn is_sent_behind_join(&self, stay: &Stay<'_>, token: &str) -> bool {
        let sent = self.attempts.get(token).map(|attempt| attempt.invoked);
        sent.is_some_and(|invoked| invoked > stay.joined)
    }

    /// How many messages a session received that were sent before it was there.
    fn late(&self, stay: &Stay<'_>) -> usize {
        let received = stay.received.iter();
        received
            .filter(|(token, _)| !self.is_sent_behind_join(stay, token))
            .count()
    }

    /// Sessions that sent at least two messages again.
    fn resent_in_order(&self) -> usize {
        let mut resent: BTreeMap<u32, usize> = BTreeMap::new();
        let sessions = self.attempts.values().flat_map(|a| a.resent.keys());
        for session in sessions {
            *resent.entry(*session).or_default() += 1;
        }
        resent.values().filter(|messages| **messages >= 2).count()
    }
}
