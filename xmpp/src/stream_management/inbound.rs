//! The receiving half: counts what the peer sent and says what may be acknowledged.
//!
//! A stanza is *settled* once its outcome is certain: committed, taken, or definitely refused. Outcomes
//! arrive in any order; `h` is the longest settled prefix, so it never promises what may still be lost.
//!
//! ```text
//!   receive ──► 1 ─ 2 ─ 3 ─ 4 ─ 5        settled: 1 2 4      h = 2
//!                       ▲ holds back 4
//! ```
//!
//! Where the count must outlive this process it is kept elsewhere as well ([`Inbound::keep`]): then `h` is the part of the
//! settled prefix that is *covered* there, so that whoever reads it there never finds less than was acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The place of a stanza in what a peer sent since stream management was enabled; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StanzaNumber(u64);

impl StanzaNumber {
    /// The bare number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The knobs of [`Inbound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundLimits {
    /// Stanzas between the first unsettled one and the newest; the reader pauses there. Default 1,024.
    pub unsettled_max: usize,
    /// How long an `<r/>` waits for the stanzas before it. Default 250 ms.
    pub answer_within: Duration,
    /// How long an outcome may stay unknown before the stream has to go. Default 10 s.
    pub settle_within: Duration,
}

impl Default for InboundLimits {
    fn default() -> InboundLimits {
        InboundLimits {
            unsettled_max: 1024,
            answer_within: Duration::from_millis(250),
            settle_within: Duration::from_secs(10),
        }
    }
}

/// Requests waiting for an answer; further ones share the last one's answer.
const REQUESTS_MAX: usize = 32;

/// No room for another unsettled stanza: stop reading until [`Inbound::has_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many stanzas wait for their outcome")]
pub struct InboundFull;

/// The outcome of a stanza is still unknown: drop the stream without counting it, so that the client sends it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outcome of stanza {} is unknown", .number.get())]
pub struct OutcomeUnknown {
    /// The oldest stanza without an outcome.
    pub number: StanzaNumber,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    received_at: Instant,
    settled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// All that had been received when it came.
    covers: u64,
    answer_by: Instant,
}

/// Counts stanzas in, and decides when `<a/>` goes out (XEP-0198 §4).
#[derive(Clone, Debug)]
pub struct Inbound {
    limits: Arc<InboundLimits>,
    /// Everything up to here is settled.
    settled: u64,
    /// Where the count is kept elsewhere: so much of it is known there.
    covered: Option<u64>,
    /// What came after, the first of them unsettled.
    unsettled: VecDeque<Unsettled>,
    /// `<r/>`s not answered yet, oldest first; their `covers` never falls.
    requests: VecDeque<Request>,
    /// Requests whose time ran out: answer with what there is.
    overdue: usize,
    /// The highest position an answer fell short of; until `h` is there, each rise is told unasked.
    owed: u64,
    /// The settled count in the last `<a/>`.
    told: u64,
}

impl Inbound {
    /// Starts counting: `<enable/>` has just come (XEP-0198 §4, "set to zero and started").
    pub fn new(limits: impl Into<Arc<InboundLimits>>) -> Inbound {
        Inbound {
            limits: limits.into(),
            settled: 0,
            covered: None,
            unsettled: VecDeque::new(),
            requests: VecDeque::new(),
            overdue: 0,
            owed: 0,
            told: 0,
        }
    }

    /// Goes on where another `Inbound` was when everything was settled, and covered: the session has moved.
    pub fn resumed(limits: impl Into<Arc<InboundLimits>>, handled: u64) -> Inbound {
        Inbound {
            settled: handled,
            covered: Some(handled),
            told: handled,
            ..Inbound::new(limits)
        }
    }

    /// From now on the count is kept elsewhere, too: nothing is acknowledged before it is covered there.
    pub fn keep(&mut self) {
        self.covered.get_or_insert(0);
    }

    /// So much of the count is known elsewhere.
    pub fn cover(&mut self, upto: u64) {
        self.covered = self.covered.map(|covered| covered.max(upto));
    }

    /// How much of the count is known elsewhere, where it is kept there.
    pub fn covered(&self) -> Option<u64> {
        self.covered
    }

    /// The settled prefix.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Whether nothing but its cover holds back an acknowledgement that was asked for.
    pub fn wants_cover(&self) -> bool {
        let asked = self.requests.front();
        let asked = asked.is_some_and(|request| request.covers <= self.settled);
        self.acknowledgeable() < self.settled && (asked || self.told < self.owed)
    }

    /// Whether all that came is settled, and not all of it covered.
    pub fn is_settled_uncovered(&self) -> bool {
        self.unsettled.is_empty() && self.acknowledgeable() < self.settled
    }

    /// What may be acknowledged.
    fn acknowledgeable(&self) -> u64 {
        let covered = self.covered.unwrap_or(self.settled);
        covered.min(self.settled)
    }

    /// How many stanzas are handled, if the outcome of all that came is certain: only then nothing is counted twice when
    /// the peer sends again what this count leaves out. It tells the peer what it may forget, so it is covered as well.
    pub fn handled(&self) -> Option<u64> {
        let all = self.unsettled.is_empty() && self.acknowledgeable() == self.settled;
        all.then_some(self.settled)
    }

    /// The session has a new connection, on which `<resumed/>` tells the count: what was asked on the old one is answered.
    pub fn reconnected(&mut self) {
        self.requests.clear();
        self.overdue = 0;
        self.owed = 0;
        self.told = self.acknowledgeable();
    }

    /// The count that may be acknowledged, modulo 2^32 as XEP-0198 §4 has it.
    pub fn h(&self) -> u32 {
        self.acknowledgeable() as u32
    }

    /// All stanzas received, settled or not.
    pub fn received(&self) -> u64 {
        self.settled + self.unsettled.len() as u64
    }

    /// Whether another stanza may be received; if not, the socket should not be read.
    pub fn has_room(&self) -> bool {
        self.unsettled.len() < self.limits.unsettled_max
    }

    /// A stanza came in.
    pub fn receive(&mut self, now: Instant) -> Result<StanzaNumber, InboundFull> {
        if !self.has_room() {
            return Err(InboundFull);
        }
        self.unsettled.push_back(Unsettled {
            received_at: now,
            settled: false,
        });
        Ok(StanzaNumber(self.received()))
    }

    /// The outcome of a stanza is certain. Telling it twice changes nothing.
    pub fn settle(&mut self, number: StanzaNumber) {
        let Some(index) = number.0.checked_sub(self.settled + 1) else {
            return;
        };
        if let Some(stanza) = usize::try_from(index)
            .ok()
            .and_then(|i| self.unsettled.get_mut(i))
        {
            stanza.settled = true;
        }
        while self.unsettled.front().is_some_and(|stanza| stanza.settled) {
            self.unsettled.pop_front();
            self.settled += 1;
        }
        if self.unsettled.is_empty() {
            // An idle session holds nothing.
            self.unsettled = VecDeque::new();
        }
    }

    /// `<r/>` came in.
    pub fn request(&mut self, now: Instant) {
        let covers = self.received();
        if self.requests.len() == REQUESTS_MAX
            && let Some(last) = self.requests.back_mut()
        {
            last.covers = covers;
            return;
        }
        self.requests.push_back(Request {
            covers,
            answer_by: now + self.limits.answer_within,
        });
    }

    /// The next `<a/>` to send: its `h`. Call until `None` after every other call.
    pub fn poll_ack(&mut self) -> Option<u32> {
        let h = self.acknowledgeable();
        let answers = if self.overdue > 0 {
            self.overdue -= 1;
            true
        } else if self
            .requests
            .front()
            .is_some_and(|request| request.covers <= h)
        {
            self.requests.pop_front();
            true
        } else {
            false
        };
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        let rose_as_promised = self.told < h && self.told < self.owed;
        (answers || rose_as_promised).then(|| {
            self.told = h;
            h as u32
        })
    }

    /// When [`Inbound::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let answer = self.requests.front().map(|request| request.answer_by);
        let outcome = self.outcome_due();
        answer.into_iter().chain(outcome).min()
    }

    /// Time has passed. An error means that the stream has to be dropped.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), OutcomeUnknown> {
        while let Some(request) = self
            .requests
            .front()
            .filter(|request| request.answer_by <= now)
        {
            self.owed = self.owed.max(request.covers);
            self.requests.pop_front();
            self.overdue += 1;
        }
        match self.outcome_due() {
            Some(due) if due <= now => Err(OutcomeUnknown {
                number: StanzaNumber(self.settled + 1),
            }),
            _ => Ok(()),
        }
    }

    fn outcome_due(&self) -> Option<Instant> {
        // The first is unsettled and the oldest, or the prefix would include it.
        let oldest = self.unsettled.front()?;
        Some(oldest.received_at + self.limits.settle_within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn inbound(count: u64, now: Instant) -> Inbound {
        let mut inbound = Inbound::new(InboundLimits::default());
        for number in 1..=count {
            assert_eq!(inbound.receive(now), Ok(StanzaNumber(number)));
        }
        inbound
    }

    fn acks(inbound: &mut Inbound) -> Vec<u32> {
        std::iter::from_fn(|| inbound.poll_ack()).collect()
    }

    fn settle(inbound: &mut Inbound, numbers: &[u64]) -> Vec<u32> {
        let mut seen = Vec::new();
        for number in numbers {
            inbound.settle(StanzaNumber(*number));
            seen.extend(acks(inbound));
        }
        seen
    }

    #[test]
    fn h_is_the_longest_settled_prefix() {
        let check = |settled: &[u64], h: u32| {
            let mut inbound = inbound(5, Instant::now());
            assert_eq!(settle(&mut inbound, settled), [0_u32; 0]);
            assert_eq!(inbound.h(), h, "{settled:?}");
        };
        check(&[], 0);
        check(&[1], 1);
        check(&[2], 0);
        check(&[2, 1], 2);
        check(&[1, 2, 4], 2);
        check(&[5, 4, 3, 2, 1], 5);
        check(&[1, 1, 1], 1);
        check(&[0, 6, u64::MAX], 0);
    }

    #[test]
    fn a_session_resumes_with_an_exact_count_only() {
        let now = Instant::now();
        let mut old = inbound(3, now);
        assert_eq!(old.handled(), None);
        settle(&mut old, &[1, 3]);
        assert_eq!(old.handled(), None, "the second may be counted or not");
        settle(&mut old, &[2]);
        assert_eq!(old.handled(), Some(3));
        let start = u64::from(u32::MAX);
        let mut new = Inbound::resumed(InboundLimits::default(), start);
        assert_eq!((new.h(), new.handled()), (u32::MAX, Some(start)));
        let number = new.receive(now).unwrap();
        new.request(now);
        new.settle(number);
        assert_eq!((acks(&mut new), new.handled()), (vec![], None));
        new.cover(start + 1);
        assert_eq!((acks(&mut new), new.handled()), (vec![0], Some(start + 1)));
    }

    #[test]
    fn what_was_asked_on_the_old_connection_is_not_answered_on_the_new_one() {
        let now = Instant::now();
        let mut inbound = inbound(2, now);
        inbound.request(now);
        inbound.handle_timeout(now + 250 * MS).unwrap();
        inbound.request(now);
        settle(&mut inbound, &[1]);
        inbound.settle(StanzaNumber(2));
        inbound.reconnected();
        assert_eq!(acks(&mut inbound), [0_u32; 0]);
    }

    #[test]
    fn a_request_is_answered_when_all_before_it_is_settled() {
        let now = Instant::now();
        let mut inbound = inbound(2, now);
        inbound.request(now);
        inbound.receive(now).unwrap();
        assert_eq!(settle(&mut inbound, &[2]), [0_u32; 0]);
        assert_eq!(settle(&mut inbound, &[1]), [2]);
        assert_eq!(settle(&mut inbound, &[3]), [0_u32; 0]);
    }

    #[test]
    fn a_request_with_nothing_open_is_answered_at_once() {
        let now = Instant::now();
        let mut inbound = inbound(0, now);
        inbound.request(now);
        assert_eq!(acks(&mut inbound), [0]);
        assert_eq!(inbound.poll_timeout(), None);
    }

    #[test]
    fn a_request_waits_250_ms_at_most_and_later_rises_are_told_unasked() {
        let now = Instant::now();
        let mut inbound = inbound(3, now);
        inbound.request(now);
        inbound.receive(now).unwrap();
        assert_eq!(settle(&mut inbound, &[1]), [0_u32; 0]);
        assert_eq!(inbound.poll_timeout(), Some(now + 250 * MS));
        inbound.handle_timeout(now + 249 * MS).unwrap();
        assert_eq!(acks(&mut inbound), [0_u32; 0]);
        inbound.handle_timeout(now + 250 * MS).unwrap();
        assert_eq!(acks(&mut inbound), [1]);
        assert_eq!(settle(&mut inbound, &[3, 2]), [3]);
        // What was asked for is told; the fourth was not asked for.
        assert_eq!(settle(&mut inbound, &[4]), [0_u32; 0]);
    }

    #[test]
    fn each_request_gets_its_answer_up_to_a_bound() {
        let now = Instant::now();
        let mut inbound = inbound(1, now);
        for _ in 0..1000 {
            inbound.request(now);
        }
        assert_eq!(settle(&mut inbound, &[1]), [1; REQUESTS_MAX]);
    }

    #[test]
    fn an_unknown_outcome_drops_the_stream_after_10_s() {
        let now = Instant::now();
        let mut inbound = inbound(2, now);
        settle(&mut inbound, &[1]);
        assert_eq!(inbound.poll_timeout(), Some(now + 10_000 * MS));
        assert_eq!(inbound.handle_timeout(now + 9_999 * MS), Ok(()));
        let number = StanzaNumber(2);
        assert_eq!(
            inbound.handle_timeout(now + 10_000 * MS),
            Err(OutcomeUnknown { number })
        );
        assert_eq!(inbound.h(), 1);
    }

    #[test]
    fn the_reader_pauses_at_the_limit() {
        let now = Instant::now();
        let limits = InboundLimits {
            unsettled_max: 2,
            ..InboundLimits::default()
        };
        let mut inbound = Inbound::new(limits);
        inbound.receive(now).unwrap();
        let second = inbound.receive(now).unwrap();
        assert_eq!(inbound.receive(now), Err(InboundFull));
        inbound.settle(second);
        assert!(!inbound.has_room());
        inbound.settle(StanzaNumber(1));
        assert!(inbound.has_room());
    }

    #[test]
    fn what_is_kept_elsewhere_is_acknowledged_when_it_is_covered() {
        let now = Instant::now();
        let mut inbound = inbound(3, now);
        inbound.keep();
        inbound.request(now);
        assert_eq!(settle(&mut inbound, &[1, 2]), [0_u32; 0]);
        assert!(!inbound.wants_cover(), "the third has no outcome");
        assert_eq!(settle(&mut inbound, &[3]), [0_u32; 0]);
        assert!(inbound.wants_cover() && inbound.is_settled_uncovered());
        assert_eq!((inbound.h(), inbound.handled()), (0, None));
        inbound.cover(2);
        assert_eq!(acks(&mut inbound), [0_u32; 0]);
        inbound.handle_timeout(now + 250 * MS).unwrap();
        assert_eq!(acks(&mut inbound), [2], "with what there is");
        assert!(inbound.wants_cover(), "the rest is owed");
        inbound.cover(1);
        assert_eq!(inbound.covered(), Some(2), "cover never falls");
        inbound.cover(3);
        assert_eq!(acks(&mut inbound), [3]);
        assert_eq!((inbound.handled(), inbound.wants_cover()), (Some(3), false));
        inbound.request(now);
        assert_eq!(acks(&mut inbound), [3], "nothing new: at once");
    }

    #[test]
    fn the_count_wraps_at_two_to_the_32() {
        let now = Instant::now();
        let mut inbound = Inbound::new(InboundLimits::default());
        inbound.settled = u64::from(u32::MAX);
        inbound.told = inbound.settled;
        let number = inbound.receive(now).unwrap();
        inbound.request(now);
        assert_eq!(settle(&mut inbound, &[number.get()]), [0]);
    }

    proptest! {
        #[test]
        fn any_order_of_outcomes_gives_the_same_count(order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle(), asked in 0..40_usize) {
            let now = Instant::now();
            let mut inbound = inbound(40, now);
            let mut told = Vec::new();
            for (index, number) in order.iter().enumerate() {
                if index == asked {
                    inbound.request(now);
                }
                let before = inbound.h();
                told.extend(settle(&mut inbound, &[*number]));
                let done: std::collections::BTreeSet<_> = order[..=index].iter().copied().collect();
                let prefix = (1..).take_while(|n| done.contains(n)).count();
                prop_assert_eq!(inbound.h() as usize, prefix);
                prop_assert!(inbound.h() >= before);
            }
            prop_assert_eq!(told, vec![40]);
        }
    }
}
