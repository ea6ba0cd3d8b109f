//! Who imports which account at this node: what is written down once stands for all pieces of it.
//!
//! Invariant: nobody adds to an account without a record that names them. Memory is short: an hour after the last piece, and with
//! the node, it is written down anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is known who imports an account.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// How many are known at once; beyond, the one that was used longest ago is forgotten.
const IMPORTERS_MAX: usize = 1024;

/// An operator and an account.
pub(crate) type Importer = (String, String);

/// Whoever is written down.
#[derive(Debug, Default)]
pub(crate) struct Importers(Mutex<BTreeMap<Importer, Instant>>);

impl Importers {
    /// It is written down.
    pub(crate) fn note(&self, importer: Importer, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= IMPORTERS_MAX && !known.contains_key(&importer) {
            let oldest = known.iter().min_by_key(|(_, used)| **used);
            if let Some(oldest) = oldest.map(|(importer, _)| importer.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(importer, now);
    }

    /// Whether it is; then it stays so for longer.
    pub(crate) fn knows(&self, importer: &Importer, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = known.get_mut(importer);
        let fresh = used.filter(|used| now.saturating_duration_since(**used) < KEPT_FOR);
        fresh.map(|used| *used = now).is_some()
    }

    /// The account is complete.
    pub(crate) fn forget(&self, importer: &Importer) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(importer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn importer(who: &str, user: usize) -> Importer {
        (who.to_owned(), format!("user{user}@localhost"))
    }

    #[test]
    fn each_is_known_for_an_account_and_an_hour() {
        let (importers, start) = (Importers::default(), Instant::now());
        importers.note(importer("olga", 1), start);
        let almost = start + KEPT_FOR - Duration::from_millis(1);
        assert!(!importers.knows(&importer("sven", 1), almost));
        assert!(!importers.knows(&importer("olga", 2), almost));
        assert!(importers.knows(&importer("olga", 1), almost));
        assert!(importers.knows(&importer("olga", 1), start + KEPT_FOR));
        assert!(!importers.knows(&importer("olga", 1), start + KEPT_FOR * 2));
        importers.note(importer("olga", 1), start);
        importers.forget(&importer("olga", 1));
        assert!(!importers.knows(&importer("olga", 1), start));
    }

    #[test]
    fn they_are_bounded_and_those_in_use_stay() {
        let (importers, start) = (Importers::default(), Instant::now());
        let mut now = start;
        for user in 0..2 * IMPORTERS_MAX {
            now += Duration::from_millis(1);
            importers.note(importer("olga", user), now);
            assert!(importers.knows(&importer("olga", 0), now), "{user}");
        }
        assert_eq!(importers.0.lock().unwrap().len(), IMPORTERS_MAX);
        assert!(!importers.knows(&importer("olga", 1), now));
    }
}
