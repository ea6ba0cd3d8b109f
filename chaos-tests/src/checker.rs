//! The judge: what was promised and not kept, from a history alone.
//!
//! Pure. P1 to P18 of the reliability specification: for each promise how much there was to judge, and the violations with
//! examples. A promise of which a history shows nothing is *unknown*, and whoever requires it gets no pass. Apart from that
//! two guards reject histories in which too little happened: [`Dose`] for a trial of one kind of fault, and [`Coverage`]
//! for a run of chaos.
//!
//! ```text
//!  history ─► index (messages, stays, readings) + facts (all else) ─► rules, promises, linear ─► Verdict
//!                                                                 └─► dose, coverage ─► enough happened, or not
//! ```

mod coverage;
mod facts;
mod fences;
mod index;
mod linear;
mod promises;
mod rules;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Event, What};
pub use coverage::Coverage;
use index::Index;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// P1: what was acknowledged is in the archive.
    AckedIsArchived,
    /// P2: what is in the archive, or was received, was sent, and was not refused.
    NothingInvented,
    /// P3: every session sees the archive's order.
    OneOrder,
    /// P4: who was in throughout received everything.
    NoHoles,
    /// P5: what was acknowledged before another was sent stands before it; a sender's messages keep their order.
    SenderOrder,
    /// P6: one row a message, one delivery a session.
    NoDoubles,
    /// P7: at a resumption `h` is exact, and the session goes on with the very next message.
    ResumptionIsExact,
    /// P8: all readings of an archive are the same, and ids are unique.
    SameArchive,
    /// P9: a reading on any node shows all that was acknowledged before it began, and nothing is unread again.
    ReadsAreCurrent,
    /// P10: a reign has one owner, and reigns follow each other.
    OneOwner,
    /// P11: affiliations are linearizable.
    Linearizable,
    /// P12: a ban or a block is a fence.
    BansAreFences,
    /// P13: nothing is shown to who is not meant, nor stands in logs.
    NothingLeaks,
    /// P14: presence converges after a heal.
    PresenceConverges,
    /// P15: what was set and acknowledged is what is read, until something else is set.
    SetStays,
    /// P16: replicas that have applied the same are the same.
    ReplicasAgree,
    /// P17: every request is answered or refused in time, or its connection ended.
    EverythingIsAnswered,
    /// P18: a healed pool serves by itself.
    HealsByItself,
}

impl Promise {
    /// All of them.
    pub const ALL: [Promise; 18] = [
        Promise::AckedIsArchived,
        Promise::NothingInvented,
        Promise::OneOrder,
        Promise::NoHoles,
        Promise::SenderOrder,
        Promise::NoDoubles,
        Promise::ResumptionIsExact,
        Promise::SameArchive,
        Promise::ReadsAreCurrent,
        Promise::OneOwner,
        Promise::Linearizable,
        Promise::BansAreFences,
        Promise::NothingLeaks,
        Promise::PresenceConverges,
        Promise::SetStays,
        Promise::ReplicasAgree,
        Promise::EverythingIsAnswered,
        Promise::HealsByItself,
    ];

    /// Its number in the reliability specification, 1 to 18.
    pub fn number(self) -> usize {
        self as usize + 1
    }
}

/// What a history says of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Kept, so many times.
    Pass(usize),
    /// Broken, so many times.
    Fail(usize),
    /// Nothing shows whether it was kept: no pass.
    Unknown,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// What exactly.
    pub what: String,
}

/// The least that must have happened for a run to mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dose {
    /// Faults caused.
    pub faults: usize,
    /// Messages acknowledged between a fault and its healing.
    pub acked_during_faults: usize,
    /// Kinds of sessions (a node, with or without stream management) with at least ten acknowledgements during faults.
    pub kinds_acked: usize,
    /// Sessions that joined on another node than the one their user prefers.
    pub moves: usize,
    /// Messages sent again that had been committed at the first time: a double was suppressed.
    pub suppressed: usize,
    /// Those among them that a fault lay between: another owner, or one that had read its state anew, knew them.
    pub over_faults: usize,
    /// Messages received by sessions.
    pub received: usize,
    /// Readings of archives.
    pub readings: usize,
    /// Messages from a user to a user that sessions received.
    pub direct: usize,
    /// Those among them that had been sent before the session was there: they waited, or another session left them behind.
    pub late: usize,
    /// Messages from a user to a user that sessions found in the archive when they came.
    pub found: usize,
    /// The most messages that one session had without an outcome at a time.
    pub in_flight: usize,
    /// Sessions that sent at least two messages of the session before again.
    pub resent_in_order: usize,
    /// Readings of what was set.
    pub values_read: usize,
}

/// What a history shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// How much there was to judge of each promise.
    pub judged: BTreeMap<Promise, usize>,
    /// What happened.
    pub dose: Dose,
    /// What a run of chaos must have had.
    pub coverage: Coverage,
    /// Acknowledged messages.
    pub acked: usize,
    /// Messages whose outcome nobody knows.
    pub unknown: usize,
    /// Refused messages.
    pub failed: usize,
}

/// Examples of each broken promise that are printed.
const EXAMPLES: usize = 5;

/// Judges a history.
pub fn check(events: &[Event]) -> Verdict {
    let index = Index::new(events);
    let mut violations = Vec::new();
    let mut judged = BTreeMap::new();
    for (promise, rule) in rules::ALL.into_iter().chain(promises::ALL) {
        judged.insert(promise, rule(&index, &mut violations));
    }
    violations.sort();
    let dose = index.dose();
    Verdict {
        violations,
        judged,
        coverage: Coverage::of(&index, &dose),
        dose,
        acked: index.acked_count(),
        unknown: index.unknown_count(),
        failed: index.failed_count(),
    }
}

/// Messages that were sent and of which nothing was heard, not even that nobody knows.
pub fn undecided(events: &[Event]) -> usize {
    let mut open = BTreeSet::new();
    for event in events {
        match &event.what {
            What::Invoke { token, .. } | What::Resend { token, .. } => {
                open.insert(token);
            }
            What::Ok { token } | What::Fail { token } | What::Info { token } => {
                open.remove(token);
            }
            _ => {}
        }
    }
    open.len()
}

impl Verdict {
    /// Violations of one promise.
    pub fn count(&self, promise: Promise) -> usize {
        self.violations
            .iter()
            .filter(|violation| violation.promise == promise)
            .count()
    }

    /// What the history says of one promise.
    pub fn of(&self, promise: Promise) -> Judgement {
        let judged = self.judged.get(&promise).copied().unwrap_or(0);
        match (self.count(promise), judged) {
            (0, 0) => Judgement::Unknown,
            (0, judged) => Judgement::Pass(judged),
            (broken, _) => Judgement::Fail(broken),
        }
    }

    /// Passes only if nothing is broken, and each of these promises was seen to be kept.
    pub fn require_kept(&self, promises: &[Promise]) -> Result<(), String> {
        if !self.violations.is_empty() {
            return Err(self.to_string());
        }
        let unknown = |promise: &&Promise| self.of(**promise) == Judgement::Unknown;
        let unknown: Vec<_> = promises.iter().filter(unknown).collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "nothing shows whether these were kept: {unknown:?}"
            )),
        }
    }

    /// Passes only without a violation and with a full dose.
    pub fn require(&self, least: Dose) -> Result<(), String> {
        let had = self.dose;
        let full = had.faults >= least.faults
            && had.acked_during_faults >= least.acked_during_faults
            && had.kinds_acked >= least.kinds_acked
            && had.moves >= least.moves
            && had.suppressed >= least.suppressed
            && had.over_faults >= least.over_faults
            && had.received >= least.received
            && had.readings >= least.readings
            && had.direct >= least.direct
            && had.late >= least.late
            && had.found >= least.found
            && had.in_flight >= least.in_flight
            && had.resent_in_order >= least.resent_in_order
            && had.values_read >= least.values_read;
        match (self.violations.is_empty(), full) {
            (true, true) => Ok(()),
            (false, _) => Err(self.to_string()),
            (true, false) => Err(format!(
                "too little happened: {had:?}, at least {least:?} is needed"
            )),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            acked,
            unknown,
            failed,
            dose,
            ..
        } = self;
        writeln!(
            f,
            "acked {acked}, unknown {unknown}, refused {failed}; {dose:?}"
        )?;
        let mut shown = (None, 0);
        for violation in &self.violations {
            if shown.0 != Some(violation.promise) {
                let count = self.count(violation.promise);
                writeln!(f, "{:?}: {count} violation(s)", violation.promise)?;
                shown = (Some(violation.promise), 0);
            }
            shown.1 += 1;
            if shown.1 <= EXAMPLES {
                writeln!(f, "  {}", violation.what)?;
            }
        }
        Ok(())
    }
}
