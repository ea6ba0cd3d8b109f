//! What an origin has numbered and nobody has settled yet: first in, first out, sent again after every attachment.
//!
//! ```text
//!   first                next                        numbered
//!     │ sent here, open   │ sent before, to go again  │ never sent │
//! ```
//!
//! Invariant: a number that has left the node stays with its payload until it is settled, or somebody is told that its time is
//! over: whoever asked then asks anew elsewhere, and nothing of it may take effect later. Its number goes on with a payload
//! that does nothing; if it had taken effect before, that is what settles it. Entries behind the numbered ones have no number
//! yet, so they can be withdrawn without leaving a hole.

use std::collections::VecDeque;
use std::time::Instant;

struct Entry<T, P> {
    token: Option<T>,
    /// Who asks anew when its time is over; `None`: nobody does.
    by: Option<u64>,
    payload: P,
    bytes: u64,
    deadline: Instant,
}

/// What became of an entry whose time is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expired<T> {
    pub(super) token: Option<T>,
    /// Whether it has left the node, so that its fate is unknown.
    pub(super) sent: bool,
}

/// A queue of numbered payloads with the callers' tokens.
pub(super) struct Numbered<T, P> {
    entries: VecDeque<Entry<T, P>>,
    first: u64,
    next: usize,
    numbered: usize,
    /// How many entries at the front have told their callers that time is over.
    expired: usize,
    bytes: u64,
}

impl<T, P> Numbered<T, P> {
    /// Empty; the first number is 1.
    pub(super) fn new() -> Self {
        Numbered {
            entries: VecDeque::new(),
            first: 1,
            next: 0,
            numbered: 0,
            expired: 0,
            bytes: 0,
        }
    }

    /// Adds a payload of nobody who asks anew. Deadlines must not fall from call to call.
    pub(super) fn push(&mut self, token: Option<T>, payload: P, bytes: u64, deadline: Instant) {
        self.push_by(None, token, payload, bytes, deadline);
    }

    /// Adds a payload that is withdrawn when its time is over, with all that the same one has asked since.
    pub(super) fn push_by(
        &mut self,
        by: Option<u64>,
        token: Option<T>,
        payload: P,
        bytes: u64,
        deadline: Instant,
    ) {
        self.bytes += bytes;
        self.entries.push_back(Entry {
            token,
            by,
            payload,
            bytes,
            deadline,
        });
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes the payloads have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of the oldest entry, or of the next one to come.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Whether something was sent in this attachment and is not settled.
    pub(super) fn is_open(&self) -> bool {
        self.next > 0
    }

    /// Everything is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next payload to send, which is thereby numbered.
    pub(super) fn send_next(&mut self) -> Option<(u64, &P)> {
        let entry = self.entries.get(self.next)?;
        let number = self.first + self.next as u64;
        self.next += 1;
        self.numbered = self.numbered.max(self.next);
        Some((number, &entry.payload))
    }

    /// Settles the oldest number: its token, unless its time was over. `None` when nothing has a number.
    pub(super) fn settle(&mut self) -> Option<Option<T>> {
        self.numbered = self.numbered.checked_sub(1)?;
        let entry = self.entries.pop_front()?;
        self.first += 1;
        self.next = self.next.saturating_sub(1);
        self.expired = self.expired.saturating_sub(1);
        self.bytes -= entry.bytes;
        Some(entry.token)
    }

    /// When the time of the next entry is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries.get(self.expired).map(|entry| entry.deadline)
    }

    /// Ends the time of entries: those without a number go, the others wait on without a token, and are made `nothing` if
    /// whoever asked asks anew.
    pub(super) fn expire(&mut self, now: Instant, nothing: impl Fn(&mut P)) -> Vec<Expired<T>> {
        let (mut expired, mut gone) = (Vec::new(), Vec::new());
        while self.expired < self.numbered
            && let Some(entry) = self.entries.get_mut(self.expired)
            && entry.deadline <= now
        {
            expired.push(Expired {
                token: entry.token.take(),
                sent: true,
            });
            if let Some(by) = entry.by.take() {
                nothing(&mut entry.payload);
                gone.push(by);
            }
            self.expired += 1;
        }
        if !gone.is_empty() {
            self.withdraw(&gone, nothing, &mut expired);
        }
        if self.expired == self.numbered {
            let over = self
                .entries
                .iter()
                .skip(self.numbered)
                .take_while(|entry| entry.deadline <= now)
                .count();
            for entry in self.entries.drain(self.numbered..self.numbered + over) {
                self.bytes -= entry.bytes;
                expired.push(Expired {
                    token: entry.token,
                    sent: false,
                });
            }
        }
        expired
    }

    /// These ask for nothing any more: what comes behind what they ask anew would be out of order.
    fn withdraw(&mut self, gone: &[u64], nothing: impl Fn(&mut P), told: &mut Vec<Expired<T>>) {
        for entry in self.entries.iter_mut().take(self.numbered) {
            if entry.by.take_if(|by| gone.contains(by)).is_some() {
                nothing(&mut entry.payload);
                told.push(Expired {
                    token: entry.token.take(),
                    sent: true,
                });
            }
        }
        let rest = self.entries.split_off(self.numbered);
        for entry in rest {
            if entry.by.is_some_and(|by| gone.contains(&by)) {
                self.bytes -= entry.bytes;
                // It has not left, but with the others of its own it is asked anew.
                told.push(Expired {
                    token: entry.token,
                    sent: true,
                });
            } else {
                self.entries.push_back(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn clear(payload: &mut u8) {
        *payload = 0;
    }

    fn sent(queue: &mut Numbered<u8, u8>) -> Vec<u64> {
        std::iter::from_fn(|| {
            queue
                .send_next()
                .map(|(number, payload)| number * 100 + u64::from(*payload))
        })
        .collect()
    }

    #[test]
    fn numbers_stay_and_what_has_none_is_withdrawn() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Numbered::new();
        queue.push(Some(1), 1, 10, at(1));
        queue.push(Some(2), 2, 10, at(2));
        assert_eq!(sent(&mut queue), [101, 202]);
        queue.rewind();
        queue.push(Some(3), 3, 10, at(3));
        queue.push(Some(4), 4, 10, at(9));
        assert_eq!(queue.deadline(), Some(at(1)));
        let unknown = |token| Expired {
            token: Some(token),
            sent: true,
        };
        assert_eq!(queue.expire(at(1), clear), [unknown(1)]);
        assert_eq!(
            queue.expire(at(3), clear),
            [
                unknown(2),
                Expired {
                    token: Some(3),
                    sent: false
                }
            ]
        );
        assert_eq!(
            (queue.len(), queue.bytes(), queue.deadline()),
            (3, 30, Some(at(9)))
        );
        assert_eq!(sent(&mut queue), [101, 202, 304]);
        assert_eq!(queue.settle(), Some(None));
        assert_eq!((queue.first(), queue.is_open()), (2, true));
        assert_eq!(queue.settle(), Some(None));
        assert_eq!(queue.settle(), Some(Some(4)));
        assert_eq!(queue.settle(), None);
        assert_eq!(
            (queue.first(), queue.len(), queue.bytes(), queue.is_open()),
            (4, 0, 0, false)
        );
    }

    #[test]
    fn who_asks_anew_has_nothing_under_way_any_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Numbered::new();
        for (number, by, deadline) in [(1, 7, 1), (2, 8, 2), (3, 7, 3), (4, 9, 4)] {
            queue.push_by(Some(by), Some(number), number, 10, at(deadline));
        }
        assert_eq!(sent(&mut queue), [101, 202, 303, 404]);
        for (number, by) in [(5, 8), (6, 7)] {
            queue.push_by(Some(by), Some(number), number, 10, at(5));
        }
        let unknown = |token| Expired {
            token: Some(token),
            sent: true,
        };
        assert_eq!(
            queue.expire(at(1), clear),
            [unknown(1), unknown(3), unknown(6)]
        );
        queue.rewind();
        // The numbers go on, and the others with what they asked.
        assert_eq!(sent(&mut queue), [100, 202, 300, 404, 505]);
        assert_eq!((queue.len(), queue.bytes()), (5, 50));
        let told = queue.expire(at(2), clear);
        let tokens: Vec<_> = told.iter().filter_map(|expired| expired.token).collect();
        assert_eq!(tokens, [2, 5]);
        queue.rewind();
        assert_eq!(sent(&mut queue), [100, 200, 300, 404, 500]);
        assert_eq!(queue.settle(), Some(None));
    }

    #[test]
    fn nothing_without_a_number_is_settled() {
        let mut queue = Numbered::new();
        queue.push(Some(1), 1, 1, Instant::now());
        assert_eq!(queue.settle(), None);
        assert_eq!(queue.len(), 1);
    }
}
