//! Soft state on its way to the owners of other partitions, kept for a while.
//!
//! Presence and probes have no number and no answer: what goes to an owner that has just died is gone. So each node
//! keeps what it sent to a partition lately, and sends it again when it hears of a new owner, or reaches one again that it had lost.
//! That is safe for presence and probes: the newest word of a sender counts. Other stanzas are kept only if they surely never left.
//!
//! Invariant: no presence is said again that the user's owner may have overtaken by a word of its own. A node that owned the
//! user when it spoke, and does so no longer, says at most once more that a session has ended which the log knows no longer. One
//! that owns the user again is no better: what it said in an earlier reign, others may have overtaken in between.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::link::protocol::Across;
use cluster::node_id::{Epoch, NodeId};
use xmpp::jid::Jid;
use xmpp::stanza::StanzaKind;

/// Longer than it takes until a peer that is silent counts as lost (six seconds) and its partitions have other owners, or the way to
/// it is another one.
const KEPT_FOR: Duration = Duration::from_secs(12);

/// Words kept at most for one partition.
const KEPT_MAX: usize = 4_096;

/// Bytes kept at most for one partition.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a word is about: a newer one about the same replaces it. `None`: it must not be said twice.
fn subject(across: &Across) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    match across {
        Across::Presence {
            targets, stanza, ..
        } => {
            (0, stanza.from.as_ref().map(Jid::as_str)).hash(&mut hasher);
            targets
                .iter()
                .for_each(|target| target.as_str().hash(&mut hasher));
        }
        Across::Probe { from, targets } => {
            (1, from.as_str()).hash(&mut hasher);
            targets
                .iter()
                .for_each(|target| target.as_str().hash(&mut hasher));
        }
        Across::Stanza { stanza, .. } if stanza.kind == StanzaKind::Presence => {
            let (from, to) = (stanza.from.as_ref(), stanza.to.as_ref());
            (2, from.map(Jid::as_str), to.map(Jid::as_str)).hash(&mut hasher);
        }
        _ => return None,
    }
    Some(hasher.finish())
}

/// Whose presence a word tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Whose.
    pub(crate) from: Jid,
    /// That it has ended.
    pub(crate) is_end: bool,
    /// Who owned the user when it was said, as far as this node knew, and in which reign.
    reign: Option<Reign>,
}

/// An owner, and the epoch of its reign.
pub(crate) type Reign = (NodeId, Epoch);

impl Told {
    fn of(across: &Across, reign: impl FnOnce(&Jid) -> Option<Reign>) -> Option<Told> {
        let (Across::Presence { stanza, .. } | Across::Stanza { stanza, .. }) = across else {
            return None;
        };
        let from = stanza.from.clone();
        let from = from.filter(|_| stanza.kind == StanzaKind::Presence)?;
        let is_end = stanza.type_.as_deref() == Some("unavailable");
        let reign = reign(&from);
        Some(Told {
            from,
            is_end,
            reign,
        })
    }

    /// Whether nobody else can have told otherwise since: the user has no owner that is known, or this node has owned them all
    /// the time.
    pub(crate) fn is_last_word_of(&self, own: NodeId, reign: Option<Reign>) -> bool {
        reign.is_none_or(|(owner, _)| owner == own && self.reign == reign)
    }
}

struct Word {
    at: Instant,
    subject: Option<u64>,
    told: Option<Told>,
    body: Bytes,
}

/// What was said lately to the owner of one partition.
#[derive(Default)]
pub(crate) struct RecentWords {
    words: VecDeque<Word>,
    bytes: usize,
}

impl RecentWords {
    /// Keeps a word; `body`: its frame's; `left`: whether it was queued; `reign`: who owns the user whose presence it tells.
    pub(crate) fn keep(
        &mut self,
        across: &Across,
        body: Bytes,
        left: bool,
        reign: impl FnOnce(&Jid) -> Option<Reign>,
        now: Instant,
    ) {
        self.forget(now);
        let subject = subject(across);
        if left && subject.is_none() {
            return;
        }
        self.bytes += body.len();
        self.words.push_back(Word {
            at: now,
            subject,
            told: Told::of(across, reign),
            body,
        });
        while self.words.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// Whose end was told.
    pub(crate) fn ends(&self) -> Vec<Jid> {
        let told = self.words.iter().filter_map(|word| word.told.as_ref());
        told.filter(|told| told.is_end)
            .map(|told| told.from.clone())
            .collect()
    }

    /// What a new owner is told, in order: of each subject the newest word, as far as it `holds`.
    pub(crate) fn again(
        &mut self,
        now: Instant,
        mut holds: impl FnMut(&Told) -> bool,
    ) -> Vec<Bytes> {
        self.forget(now);
        let mut told = HashSet::new();
        let words = self.words.iter().rev();
        let newest = words.filter(|word| word.subject.is_none_or(|subject| told.insert(subject)));
        let newest = newest.filter(|word| word.told.as_ref().is_none_or(&mut holds));
        let mut bodies: Vec<Bytes> = newest.map(|word| word.body.clone()).collect();
        bodies.reverse();
        // Said once now, and not again to the owner after this one.
        self.words.retain(|word| word.subject.is_some());
        self.bytes = self.words.iter().map(|word| word.body.len()).sum();
        bodies
    }

    /// Drops what is too old.
    pub(crate) fn forget(&mut self, now: Instant) {
        while self
            .words
            .front()
            .is_some_and(|word| word.at + KEPT_FOR < now)
        {
            self.drop_oldest();
        }
        if self.words.is_empty() {
            self.words = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(word) = self.words.pop_front() {
            self.bytes -= word.body.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use xmpp::jid::BareJid;
    use xmpp::stanza::Stanza;

    use super::*;

    fn stanza(kind: StanzaKind, from: &str, to: Option<&str>) -> Stanza {
        Stanza {
            from: Some(Jid::parse(from).unwrap()),
            to: to.map(|to| Jid::parse(to).unwrap()),
            ..Stanza::new(kind)
        }
    }

    fn presence(from: &str, target: &str) -> Across {
        Across::Presence {
            targets: vec![BareJid::parse(target).unwrap()],
            stanza: stanza(StanzaKind::Presence, from, None),
            behind: None,
        }
    }

    fn iq(from: &str) -> Across {
        Across::Stanza {
            stanza: stanza(StanzaKind::Iq, from, Some("juliet@localhost/x")),
            behind: None,
        }
    }

    /// What is said at which second, whether it left, and what a new owner is told, when what is older than the fourth second is
    /// forgotten, and again.
    fn check(words: &[(u64, Across, bool)], expect: &[usize], later: &[usize]) {
        let start = Instant::now();
        let mut recent = RecentWords::default();
        for (number, (second, across, left)) in words.iter().enumerate() {
            let body = Bytes::from(number.to_string());
            let at = start + Duration::from_secs(*second);
            recent.keep(across, body, *left, |_| None, at);
        }
        let end = start + Duration::from_secs(4) + KEPT_FOR;
        let mut told = || -> Vec<usize> {
            let bodies = recent.again(end, |_| true);
            bodies
                .iter()
                .map(|body| std::str::from_utf8(body).unwrap().parse().unwrap())
                .collect()
        };
        assert_eq!(told(), expect);
        assert_eq!(told(), later);
    }

    #[test]
    fn a_new_owner_hears_the_newest_of_each() {
        let romeo = || presence("romeo@localhost/a", "juliet@localhost");
        let other = || presence("romeo@localhost/b", "juliet@localhost");
        let nurse = || presence("romeo@localhost/a", "nurse@localhost");
        check(&[], &[], &[]);
        check(&[(1, romeo(), true), (3, romeo(), true)], &[], &[]);
        check(&[(5, romeo(), true), (6, other(), true)], &[0, 1], &[0, 1]);
        check(
            &[(5, romeo(), true), (6, other(), true), (7, romeo(), true)],
            &[1, 2],
            &[1, 2],
        );
        check(&[(5, romeo(), true), (6, nurse(), false)], &[0, 1], &[0, 1]);
    }

    #[test]
    fn what_another_owner_may_have_overtaken_is_not_said_again() {
        let now = Instant::now();
        let mut recent = RecentWords::default();
        let end = |from: &str| {
            let mut across = presence(from, "juliet@localhost");
            if let Across::Presence { stanza, .. } = &mut across {
                stanza.type_ = Some("unavailable".into());
            }
            across
        };
        let words = [
            presence("romeo@localhost/a", "juliet@localhost"),
            end("romeo@localhost/a"),
            end("nurse@localhost/a"),
            presence("nurse@localhost/b", "juliet@localhost"),
            Across::Probe {
                from: BareJid::parse("romeo@localhost").unwrap(),
                targets: vec![BareJid::parse("juliet@localhost").unwrap()],
            },
        ];
        for (number, across) in words.iter().enumerate() {
            let body = Bytes::from(number.to_string());
            recent.keep(across, body, true, |_| None, now);
        }
        let ends: Vec<String> = recent.ends().iter().map(Jid::to_string).collect();
        assert_eq!(ends, ["romeo@localhost/a", "nurse@localhost/a"]);
        let mut check = |holds: &dyn Fn(&Told) -> bool, expect: &[&str]| {
            let told = recent.again(now, holds);
            assert_eq!(told, expect);
        };
        check(&|_| true, &["1", "2", "3", "4"]);
        // The end of romeo does not hold: what was said before it does not come back.
        check(
            &|told| told.from.as_str() != "romeo@localhost/a",
            &["2", "3", "4"],
        );
        check(&|told| told.is_end, &["1", "2", "4"]);
        check(&|_| false, &["4"]);
    }

    /// Found by simulation: another owner had told in between that the session was gone, and a ghost of it came back.
    #[test]
    fn what_was_said_in_an_earlier_reign_is_not_said_again() {
        let own = NodeId(3);
        let (before, between, again) = ((own, Epoch(2)), (NodeId(4), Epoch(5)), (own, Epoch(9)));
        let check = |said: Option<Reign>, now: Option<Reign>, expect: bool| {
            let across = presence("romeo@localhost/a", "juliet@localhost");
            let told = Told::of(&across, |_| said).unwrap();
            assert_eq!(told.is_last_word_of(own, now), expect, "{said:?}, {now:?}");
        };
        check(Some(before), Some(before), true);
        check(Some(before), Some(between), false);
        check(Some(before), Some(again), false);
        check(Some(between), Some(again), false);
        check(None, Some(again), false);
        check(Some(before), None, true);
    }

    #[test]
    fn other_stanzas_are_said_once() {
        let presence = || presence("romeo@localhost/a", "juliet@localhost");
        check(&[(6, iq("romeo@localhost/a"), true)], &[], &[]);
        check(
            &[
                (6, iq("romeo@localhost/a"), false),
                (6, iq("romeo@localhost/a"), false),
                (6, presence(), true),
            ],
            &[0, 1, 2],
            &[2],
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let now = Instant::now();
        let mut recent = RecentWords::default();
        for n in 0..10_000 {
            let across = presence(&format!("romeo@localhost/{n}"), "juliet@localhost");
            recent.keep(&across, Bytes::from(vec![0; 10_000]), true, |_| None, now);
        }
        assert_eq!(recent.again(now, |_| true).len(), KEPT_BYTES_MAX / 10_000);
        for n in 0..10_000 {
            let across = presence(&format!("romeo@localhost/{n}"), "juliet@localhost");
            recent.keep(&across, Bytes::from(vec![0; 10]), true, |_| None, now);
        }
        assert_eq!(recent.again(now, |_| true).len(), KEPT_MAX);
    }
}
