//! The sending half: remembers what was sent until the peer says that it has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The knobs of [`Outbound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundLimits {
    /// Stanzas not acknowledged; what comes then waits, except for answers, of which eight times as many may be out.
    /// Default 2,048.
    pub unacked_max: usize,
    /// Their bytes. Default 4 MiB.
    pub unacked_bytes_max: usize,
    /// Stanzas after which an acknowledgement is requested at once. Default 32.
    pub request_after: usize,
    /// How long the last stanzas of a burst wait for their request; a stanza after a pause of that length brings its own.
    /// Default 500 ms.
    pub request_within: Duration,
    /// How long the answer may take before the peer counts as gone. Default 60 s.
    pub answer_within: Duration,
}

/// How much more than what can wait may be out in all: answers to a client whose acknowledgements stand behind the
/// requests in its stream.
const ANSWERS_FACTOR: usize = 8;

impl Default for OutboundLimits {
    fn default() -> OutboundLimits {
        OutboundLimits {
            unacked_max: 2048,
            unacked_bytes_max: 4 << 20,
            request_after: 32,
            request_within: Duration::from_millis(500),
            answer_within: Duration::from_secs(60),
        }
    }
}

/// The client does not acknowledge fast enough; the stanza is handed back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is sent and not acknowledged")]
pub struct OutboundFull<T>(pub T);

/// The peer acknowledges what it was never sent (XEP-0198 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{h} stanzas acknowledged, {send_count} sent")]
pub struct HandledCountTooHigh {
    /// What the peer claims.
    pub h: u32,
    /// What was sent, modulo 2^32.
    pub send_count: u32,
}

/// What the passing of time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundTimeout {
    /// Nothing is due.
    Nothing,
    /// Send `<r/>` now.
    RequestAck,
    /// The peer did not answer `<r/>`: end the stream with connection-timeout.
    PeerSilent,
}

#[derive(Clone, Copy, Debug)]
enum Asking {
    /// Nothing is out, or all of it was asked about before the last answer.
    No,
    /// Something is out; ask at this time at the latest.
    Soon(Instant),
    /// `<r/>` is out; the answer is due at this time.
    Asked(Instant),
}

/// The queue of unacknowledged stanzas. `T` is what the caller wants back when one is acknowledged or has to
/// be sent again: bytes, an archive position, both.
#[derive(Clone, Debug)]
pub struct Outbound<T> {
    limits: Arc<OutboundLimits>,
    /// The count of stanzas acknowledged.
    acked: u64,
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    asking: Asking,
    /// Stanzas sent since the last `<r/>`.
    unasked: usize,
    /// When the last `<r/>` went out.
    asked_at: Option<Instant>,
}

impl<T> Outbound<T> {
    /// Starts counting: `<enabled/>` has just been sent.
    pub fn new(limits: impl Into<Arc<OutboundLimits>>) -> Outbound<T> {
        Outbound {
            limits: limits.into(),
            acked: 0,
            queue: VecDeque::new(),
            bytes: 0,
            asking: Asking::No,
            unasked: 0,
            asked_at: None,
        }
    }

    /// Goes on where another `Outbound` was: the session has moved. `unacked`: what was sent after the `acked` first, with
    /// its bytes.
    pub fn resumed(
        limits: impl Into<Arc<OutboundLimits>>,
        acked: u64,
        unacked: Vec<(T, usize)>,
    ) -> Outbound<T> {
        Outbound {
            acked,
            bytes: unacked
                .iter()
                .fold(0, |bytes, (_, more)| bytes.saturating_add(*more)),
            queue: unacked.into(),
            ..Outbound::new(limits)
        }
    }

    /// The count of stanzas acknowledged.
    pub fn acked_count(&self) -> u64 {
        self.acked
    }

    /// Whether something may go out that can wait.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.limits.unacked_max && self.bytes < self.limits.unacked_bytes_max
    }

    /// The count of stanzas sent.
    pub fn sent_count(&self) -> u64 {
        self.acked + self.queue.len() as u64
    }

    /// A stanza of so many bytes goes out. `true`: send `<r/>` behind it.
    pub fn sent(&mut self, item: T, bytes: usize, now: Instant) -> Result<bool, OutboundFull<T>> {
        let limits = &self.limits;
        let fits = self.queue.len() < limits.unacked_max.saturating_mul(ANSWERS_FACTOR)
            && (self.queue.is_empty()
                || self.bytes.saturating_add(bytes)
                    <= limits.unacked_bytes_max.saturating_mul(ANSWERS_FACTOR));
        if !fits {
            return Err(OutboundFull(item));
        }
        self.queue.push_back((item, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        self.unasked += 1;
        Ok(match self.asking {
            Asking::Asked(_) => false,
            _ if self.unasked >= self.limits.request_after => {
                self.ask(now);
                true
            }
            Asking::Soon(_) => false,
            // Behind it in one packet, and no timer for it.
            Asking::No if self.is_rested(now) => {
                self.ask(now);
                true
            }
            Asking::No => {
                self.asking = Asking::Soon(now + self.limits.request_within);
                false
            }
        })
    }

    /// `<a h='…'/>` came in (or the `h` of `<resume/>`): returns what it acknowledges, oldest first.
    ///
    /// An `h` below an earlier one says nothing new and is ignored.
    pub fn acked(
        &mut self,
        h: u32,
        now: Instant,
    ) -> Result<impl ExactSizeIterator<Item = T> + use<T>, HandledCountTooHigh> {
        let sent = self.sent_count();
        let send_count = sent as u32;
        let too_high = HandledCountTooHigh { h, send_count };
        // The newest position that this `h` can mean, counted modulo 2^32.
        let behind = u64::from(send_count.wrapping_sub(h));
        let position = sent.checked_sub(behind).ok_or(too_high)?;
        let newly = match position.checked_sub(self.acked) {
            Some(newly) => newly,
            // Far below the last one is no late acknowledgement but a count ahead of ours.
            None if self.acked - position > u64::from(u32::MAX / 2) => return Err(too_high),
            None => 0,
        };
        // `position` lies between `acked` and `sent`, so this is at most the queue's length.
        let newly = usize::try_from(newly)
            .unwrap_or(usize::MAX)
            .min(self.queue.len());
        self.acked += newly as u64;
        self.bytes -= self
            .queue
            .iter()
            .take(newly)
            .map(|(_, bytes)| bytes)
            .sum::<usize>();
        self.asking = if self.queue.len() == newly {
            Asking::No
        } else if self.unasked >= self.limits.request_after {
            Asking::Soon(now)
        } else {
            Asking::Soon(now + self.limits.request_within)
        };
        let gone: VecDeque<_> = match self.queue.len() == newly {
            // An idle session holds nothing.
            true => std::mem::take(&mut self.queue),
            false => self.queue.drain(..newly).collect(),
        };
        Ok(gone.into_iter().map(|(item, _)| item))
    }

    /// What is not acknowledged, oldest first: to be sent again after resumption, or routed elsewhere.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = &T> {
        self.queue.iter().map(|(item, _)| item)
    }

    /// Gives up the queue when the session ends.
    pub fn into_unacked(self) -> impl ExactSizeIterator<Item = T> {
        self.queue.into_iter().map(|(item, _)| item)
    }

    /// Bytes not acknowledged.
    pub fn unacked_bytes(&self) -> usize {
        self.bytes
    }

    /// When [`Outbound::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.asking {
            Asking::No => None,
            Asking::Soon(at) | Asking::Asked(at) => Some(at),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> OutboundTimeout {
        match self.asking {
            Asking::Soon(at) if at <= now => {
                self.ask(now);
                OutboundTimeout::RequestAck
            }
            Asking::Asked(at) if at <= now => OutboundTimeout::PeerSilent,
            _ => OutboundTimeout::Nothing,
        }
    }

    /// Asks outside the usual rhythm, say to probe a silent connection: the caller sends `<r/>`.
    pub fn ask(&mut self, now: Instant) {
        self.unasked = 0;
        self.asked_at = Some(now);
        self.asking = Asking::Asked(now + self.limits.answer_within);
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.asked_at
            .is_none_or(|at| now.saturating_duration_since(at) >= self.limits.request_within)
    }

    /// Nothing the peer sends is read for so long: its answer can't come in earlier.
    pub fn postpone(&mut self, pause: Duration) {
        if let Asking::Asked(at) = &mut self.asking {
            *at += pause;
        }
    }

    /// The session has lost its connection: nobody is asked any more.
    pub fn disconnected(&mut self) {
        self.asking = Asking::No;
    }

    /// The session moved to a new connection: nothing is asked there yet.
    pub fn reconnected(&mut self, now: Instant) {
        self.unasked = self.queue.len();
        self.asking = if self.queue.is_empty() {
            Asking::No
        } else {
            Asking::Soon(now + self.limits.request_within)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn outbound(sent: u64) -> Outbound<u64> {
        let mut outbound = Outbound::new(OutboundLimits::default());
        for item in 1..=sent {
            outbound.sent(item, 10, Instant::now()).unwrap();
        }
        outbound
    }

    fn ack(outbound: &mut Outbound<u64>, h: u32) -> Result<Vec<u64>, HandledCountTooHigh> {
        outbound.acked(h, Instant::now()).map(Iterator::collect)
    }

    #[test]
    fn acknowledgements_drain_in_order() {
        let mut outbound = outbound(5);
        assert_eq!(ack(&mut outbound, 2), Ok(vec![1, 2]));
        assert_eq!(ack(&mut outbound, 2), Ok(vec![]));
        assert_eq!(ack(&mut outbound, 1), Ok(vec![]));
        assert_eq!(outbound.unacked_bytes(), 30);
        assert_eq!(ack(&mut outbound, 5), Ok(vec![3, 4, 5]));
        assert_eq!(outbound.unacked_bytes(), 0);
    }

    #[test]
    fn a_pause_of_the_reader_is_no_silence_of_the_peer() {
        let begin = Instant::now();
        let mut outbound = Outbound::new(OutboundLimits::default());
        // Before anything is asked there is nothing to postpone.
        outbound.postpone(9_000 * MS);
        assert!(outbound.sent(1, 10, begin).unwrap());
        outbound.postpone(9_000 * MS);
        let due = begin + 69_000 * MS;
        assert_eq!(outbound.poll_timeout(), Some(due));
        assert_eq!(outbound.handle_timeout(due - MS), OutboundTimeout::Nothing);
        assert_eq!(outbound.handle_timeout(due), OutboundTimeout::PeerSilent);
    }

    #[test]
    fn a_count_that_was_never_sent_is_refused() {
        let check = |sent: u64, acked: u32, h: u32| {
            let mut outbound = outbound(sent);
            ack(&mut outbound, acked).unwrap();
            let send_count = sent as u32;
            assert_eq!(
                ack(&mut outbound, h),
                Err(HandledCountTooHigh { h, send_count })
            );
            let left = sent - u64::from(acked);
            assert_eq!(outbound.unacked().len() as u64, left, "nothing is drained");
        };
        check(8, 0, 10);
        check(0, 0, 1);
        check(3, 2, 4);
        check(3, 0, u32::MAX);
        check(3, 3, 1 << 31);
    }

    #[test]
    fn the_count_wraps_at_two_to_the_32() {
        let mut outbound = Outbound::new(OutboundLimits::default());
        outbound.acked = u64::from(u32::MAX) - 1;
        for item in 1..=4 {
            outbound.sent(item, 1, Instant::now()).unwrap();
        }
        assert_eq!(ack(&mut outbound, u32::MAX), Ok(vec![1]));
        assert_eq!(ack(&mut outbound, 1), Ok(vec![2, 3]));
        assert_eq!(ack(&mut outbound, u32::MAX), Ok(vec![]));
        let send_count = 2;
        assert_eq!(
            ack(&mut outbound, 3),
            Err(HandledCountTooHigh { h: 3, send_count })
        );
        assert_eq!(ack(&mut outbound, 2), Ok(vec![4]));
    }

    #[test]
    fn the_queue_is_bounded_by_count_and_bytes() {
        let now = Instant::now();
        let limits = OutboundLimits {
            unacked_max: 3,
            unacked_bytes_max: 100,
            ..OutboundLimits::default()
        };
        let mut by_count = Outbound::new(limits.clone());
        for item in 0..24 {
            assert_eq!(by_count.has_room(), item < 3, "what can wait, waits");
            by_count.sent(item, 1, now).unwrap();
        }
        assert_eq!(by_count.sent(24, 1, now), Err(OutboundFull(24)));
        let mut by_bytes = Outbound::new(limits);
        by_bytes.sent(0, 900, now).unwrap(); // one always fits
        assert!(!by_bytes.has_room());
        assert_eq!(by_bytes.sent(1, 1, now), Err(OutboundFull(1)));
    }

    #[test]
    fn a_burst_asks_at_its_beginning_in_its_middle_and_soon_after_its_end() {
        let now = Instant::now();
        let mut outbound = Outbound::new(OutboundLimits::default());
        let send = |outbound: &mut Outbound<u32>, items: std::ops::Range<u32>| {
            let asked = items.filter(|item| outbound.sent(*item, 1, now).unwrap());
            asked.collect::<Vec<_>>()
        };
        assert_eq!(send(&mut outbound, 0..20), [0]);
        assert_eq!(outbound.acked(1, now).unwrap().len(), 1);
        assert_eq!(send(&mut outbound, 20..100), [32], "32 after the first");
        // Meanwhile as many came again as are asked about at once.
        assert_eq!(outbound.acked(33, now).unwrap().len(), 32);
        assert_eq!(outbound.handle_timeout(now), OutboundTimeout::RequestAck);
        assert_eq!(send(&mut outbound, 100..105), []);
        assert_eq!(outbound.acked(100, now).unwrap().len(), 67);
        let soon = now + 500 * MS;
        assert_eq!(outbound.handle_timeout(soon - MS), OutboundTimeout::Nothing);
        assert_eq!(outbound.handle_timeout(soon), OutboundTimeout::RequestAck);
        assert_eq!(outbound.handle_timeout(soon), OutboundTimeout::Nothing);
        assert_eq!(outbound.acked(105, soon).unwrap().len(), 5);
        assert_eq!(outbound.poll_timeout(), None);
    }

    #[test]
    fn a_stanza_after_a_pause_brings_its_request() {
        let now = Instant::now();
        let mut outbound = Outbound::new(OutboundLimits::default());
        let mut check = |at: u32, item: u32, asks: bool| {
            let at = now + at * MS;
            assert_eq!(outbound.sent(item, 1, at), Ok(asks), "{item}");
            assert_eq!(outbound.acked(item, at).unwrap().len(), 1);
        };
        check(0, 1, true);
        check(499, 2, false);
        check(500, 3, true);
        check(600, 4, false);
        check(9_000, 5, true);
    }

    #[test]
    fn a_session_that_has_moved_resends_exactly_what_is_unacknowledged() {
        let now = Instant::now();
        let acked = u64::from(u32::MAX) - 1;
        let unacked = vec![(1, 10), (2, 20), (3, 30), (4, 40)];
        let check = |h: u32, left: &[u64]| {
            let mut moved = Outbound::resumed(OutboundLimits::default(), acked, unacked.clone());
            ack(&mut moved, h).unwrap();
            assert_eq!(moved.unacked().copied().collect::<Vec<_>>(), left, "{h}");
            let bytes = left.iter().map(|item| *item as usize * 10).sum();
            assert_eq!(moved.unacked_bytes(), bytes);
            moved.sent(5, 1, now).unwrap();
            assert_eq!(moved.sent_count(), acked + 5);
        };
        check(u32::MAX - 1, &[1, 2, 3, 4]);
        check(u32::MAX, &[2, 3, 4]);
        check(0, &[3, 4]);
        check(2, &[]);
        // Acknowledged before, on the old connection.
        check(u32::MAX - 5, &[1, 2, 3, 4]);
        let mut moved = Outbound::resumed(OutboundLimits::default(), acked, unacked);
        assert_eq!(
            ack(&mut moved, 3),
            Err(HandledCountTooHigh {
                h: 3,
                send_count: 2
            })
        );
    }

    #[test]
    fn nobody_is_asked_without_a_connection() {
        let now = Instant::now();
        let mut outbound = outbound(1);
        outbound.disconnected();
        assert_eq!(outbound.poll_timeout(), None);
        outbound.reconnected(now);
        assert_eq!(outbound.poll_timeout(), Some(now + 500 * MS));
    }

    #[test]
    fn a_silent_peer_is_noticed() {
        let now = Instant::now();
        let mut outbound = Outbound::new(OutboundLimits::default());
        assert!(outbound.sent(1, 10, now).unwrap());
        assert_eq!(
            outbound.handle_timeout(now + 59_999 * MS),
            OutboundTimeout::Nothing
        );
        assert_eq!(
            outbound.handle_timeout(now + 60_000 * MS),
            OutboundTimeout::PeerSilent
        );
        outbound.reconnected(now);
        assert_eq!(
            outbound.handle_timeout(now + 500 * MS),
            OutboundTimeout::RequestAck
        );
    }

    proptest! {
        #[test]
        fn every_item_comes_back_once_and_in_order(start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) - 20)], steps in proptest::collection::vec((0..8_u64, 0..12_u64), 1..40)) {
            let now = Instant::now();
            let mut outbound = Outbound::new(OutboundLimits::default());
            outbound.acked = start;
            let (mut sent, mut drained) = (start, Vec::new());
            for (send, ack) in steps {
                for _ in 0..send {
                    sent += 1;
                    outbound.sent(sent, 1, now).unwrap();
                }
                let position = start + drained.len() as u64 + ack;
                match outbound.acked(position as u32, now) {
                    Ok(items) => drained.extend(items),
                    Err(_) => prop_assert!(position > sent),
                }
            }
            drained.extend(outbound.into_unacked());
            prop_assert_eq!(drained, (start + 1..=sent).collect::<Vec<_>>());
        }
    }
}
