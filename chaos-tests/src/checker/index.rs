//! A history sorted by what the rules ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::Dose;
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
}

/// A session's time in a room.
#[derive(Debug)]
pub(super) struct Stay<'a> {
    pub(super) session: u32,
    pub(super) log: &'a str,
    pub(super) joined: u64,
    /// `None`: to the end of the history.
    pub(super) left: Option<u64>,
    /// Tokens and ids in the order in which they came.
    pub(super) received: Vec<(&'a str, &'a str)>,
}

/// One reading of an archive.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    pub(super) rows: &'a [(String, String)],
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
    faults: Vec<u64>,
    last_healed: Option<u64>,
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event]) -> Index<'a> {
        let mut index = Index {
            attempts: BTreeMap::new(),
            stays: Vec::new(),
            readings: BTreeMap::new(),
            strays: Vec::new(),
            reused: BTreeSet::new(),
            faults: Vec::new(),
            last_healed: None,
        };
        for event in events {
            index.add(event);
        }
        index
    }

    fn add(&mut self, event: &'a Event) {
        let at = event.at;
        match &event.what {
            What::Invoke {
                session,
                log,
                token,
            } => {
                let attempt = Attempt {
                    session: *session,
                    log,
                    invoked: at,
                    outcome: Outcome::Info,
                };
                if self.attempts.insert(token, attempt).is_some() {
                    self.reused.insert(token);
                }
            }
            What::Ok { token } => self.settle(token, Outcome::Ok(at)),
            What::Fail { token } => self.settle(token, Outcome::Fail),
            What::Info { .. } => {}
            What::Joined { session, log } => self.stays.push(Stay {
                session: *session,
                log,
                joined: at,
                left: None,
                received: Vec::new(),
            }),
            What::Left { session } => {
                let open = |stay: &&mut Stay<'_>| stay.session == *session && stay.left.is_none();
                for stay in self.stays.iter_mut().filter(open) {
                    stay.left = Some(at);
                }
            }
            What::Received {
                session,
                log,
                token,
                id,
            } => {
                let here = |stay: &&mut Stay<'_>| stay.session == *session && stay.log == log;
                match self
                    .stays
                    .iter_mut()
                    .rev()
                    .find(here)
                    .filter(|stay| stay.left.is_none())
                {
                    Some(stay) => stay.received.push((token, id)),
                    None => self.strays.push((*session, token)),
                }
            }
            What::Fault { .. } => self.faults.push(at),
            What::Healed => self.last_healed = Some(at),
            What::Archive { reading, log, rows } => {
                self.readings.entry(log).or_default().push(Reading {
                    name: reading,
                    rows,
                });
            }
        }
    }

    /// The first acknowledgement counts: `h` and the reflection both tell.
    fn settle(&mut self, token: &'a str, outcome: Outcome) {
        if let Some(attempt) = self.attempts.get_mut(token)
            && attempt.outcome == Outcome::Info
        {
            attempt.outcome = outcome;
        }
    }

    /// The positions of a log's messages, by its first reading.
    pub(super) fn positions(&self, log: &str) -> BTreeMap<&'a str, usize> {
        let rows = self
            .readings
            .get(log)
            .and_then(|all| all.first())
            .map_or(&[][..], |r| r.rows);
        rows.iter()
            .enumerate()
            .map(|(at, (token, _))| (token.as_str(), at))
            .collect()
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

    pub(super) fn dose(&self) -> Dose {
        let first = self.faults.first().copied().unwrap_or(u64::MAX);
        let last = self.last_healed.unwrap_or(u64::MAX);
        let during = |outcome| matches!(outcome, Outcome::Ok(at) if at >= first && at <= last);
        Dose {
            faults: self.faults.len(),
            acked_during_faults: self.outcomes(during),
            received: self.stays.iter().map(|stay| stay.received.len()).sum(),
            readings: self.readings.values().map(Vec::len).sum(),
        }
    }
}
