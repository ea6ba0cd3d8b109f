//! Who is signed in to the console page: a bounded number of random names, each standing for a token.
//!
//! The token itself is kept, in memory only, and is judged anew with every request: so a revoked one opens nothing more, as
//! everywhere else. A name ends after [`IDLE_MAX`] without a person's request, and after [`LIFE_MAX`] in any case.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a page may be left alone.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long one may be signed in.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Names of all operators together; beyond that the one that was unused the longest ends.
const COUNT_MAX: usize = 256;

/// Names that stand for one token.
const COUNT_OF_TOKEN_MAX: usize = 8;

/// What a browser's cookie holds: 32 random octets.
pub(crate) type Name = [u8; 32];

struct Entry {
    token: String,
    began: Instant,
    used: Instant,
}

impl Entry {
    fn is_good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < LIFE_MAX
            && now.saturating_duration_since(self.used) < IDLE_MAX
    }
}

/// All who are signed in at one node.
#[derive(Default)]
pub(crate) struct SignIns {
    entries: HashMap<Name, Entry>,
}

impl SignIns {
    /// Signs somebody in who has a good token.
    pub(crate) fn add(&mut self, name: Name, token: String, now: Instant) {
        self.entries.retain(|_, entry| entry.is_good(now));
        let of_token = |entry: &Entry| entry.token == token;
        if self
            .entries
            .values()
            .filter(|entry| of_token(entry))
            .count()
            >= COUNT_OF_TOKEN_MAX
        {
            self.end_oldest(of_token);
        }
        if self.entries.len() >= COUNT_MAX {
            self.end_oldest(|_| true);
        }
        let entry = Entry {
            token,
            began: now,
            used: now,
        };
        self.entries.insert(name, entry);
    }

    fn end_oldest(&mut self, among: impl Fn(&Entry) -> bool) {
        let entries = self.entries.iter().filter(|(_, entry)| among(entry));
        let oldest = entries.min_by_key(|(_, entry)| entry.used);
        if let Some(name) = oldest.map(|(name, _)| *name) {
            self.entries.remove(&name);
        }
    }

    /// The token that a name stands for; `by_person` keeps it from ending.
    pub(crate) fn token(&mut self, name: &Name, by_person: bool, now: Instant) -> Option<String> {
        if !self.entries.get(name)?.is_good(now) {
            self.entries.remove(name);
            return None;
        }
        let entry = self.entries.get_mut(name)?;
        if by_person {
            entry.used = now;
        }
        Some(entry.token.clone())
    }

    /// Signs somebody out.
    pub(crate) fn end(&mut self, name: &Name) {
        self.entries.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u16) -> Name {
        let mut name = [0; 32];
        name[..2].copy_from_slice(&number.to_be_bytes());
        name
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_name_ends_when_nobody_uses_it_and_after_half_a_day() {
        let (mut signed_in, start) = (SignIns::default(), Instant::now());
        signed_in.add(name(1), "token".to_owned(), start);
        let mut is_in = |minutes: u32, by_person| {
            let now = start + MINUTE * minutes;
            signed_in.token(&name(1), by_person, now).is_some()
        };
        assert!(is_in(29, true));
        assert!(is_in(58, false), "a poll finds it");
        assert!(!is_in(59, true), "and does not keep it");
        assert!(!is_in(0, true), "what has ended is gone");

        let mut signed_in = SignIns::default();
        signed_in.add(name(1), "token".to_owned(), start);
        let minutes = (1..).take_while(|minutes| {
            let now = start + MINUTE * *minutes;
            signed_in.token(&name(1), true, now).is_some()
        });
        assert_eq!(minutes.count(), 12 * 60 - 1);
    }

    #[test]
    fn nobody_is_in_by_another_name_or_after_the_end() {
        let (mut signed_in, now) = (SignIns::default(), Instant::now());
        signed_in.add(name(1), "token".to_owned(), now);
        assert_eq!(signed_in.token(&name(2), true, now), None);
        assert_eq!(
            signed_in.token(&name(1), true, now).as_deref(),
            Some("token")
        );
        signed_in.end(&name(1));
        assert_eq!(signed_in.token(&name(1), true, now), None);
    }

    #[test]
    fn there_are_not_more_than_a_number() {
        let (mut signed_in, start) = (SignIns::default(), Instant::now());
        let at = |number: u16| start + Duration::from_millis(u64::from(number));
        for number in 0..20 {
            signed_in.add(name(number), "one".to_owned(), at(number));
        }
        let held = |signed_in: &SignIns| signed_in.entries.len();
        assert_eq!(held(&signed_in), COUNT_OF_TOKEN_MAX);
        assert!(signed_in.token(&name(11), false, at(20)).is_none());
        assert!(signed_in.token(&name(12), false, at(20)).is_some());
        for number in 20..1000 {
            signed_in.add(name(number), format!("token {number}"), at(number));
        }
        assert_eq!(held(&signed_in), COUNT_MAX);
        assert!(signed_in.token(&name(12), false, at(1000)).is_none());
        assert!(signed_in.token(&name(999), false, at(1000)).is_some());
        signed_in.add(name(5000), "late".to_owned(), at(1000) + IDLE_MAX);
        assert_eq!(held(&signed_in), 1, "what has ended makes room");
    }
}
