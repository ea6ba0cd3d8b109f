//! Backups and exports that were begun at this node, by their names: nothing is captured, read or ended under another name.
//!
//! Invariant: whoever gets anything of a group has begun a backup of it, and that was written down. What was begun is
//! known to this node only and held in memory: it is forgotten when it ends, two minutes after it was last used (as what was
//! captured for it), and with the node.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{BackendError, BackupKey};

/// How long something is known that nobody uses.
const KEPT_FOR: Duration = Duration::from_secs(120);

/// How many are known at once; beyond, the one that was used longest ago is forgotten.
const BEGUN_MAX: usize = 64;

/// What a name is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// A backup: all groups.
    All,
    /// An export of a user: their group.
    One(u32),
}

impl Groups {
    fn hold(self, group: u32) -> bool {
        match self {
            Groups::All => true,
            Groups::One(only) => only == group,
        }
    }
}

#[derive(Debug)]
struct One {
    groups: Groups,
    used: Instant,
}

/// All that was begun and may still be used.
#[derive(Debug, Default)]
pub(crate) struct Begun(Mutex<BTreeMap<BackupKey, One>>);

impl Begun {
    fn lock(&self, now: Instant) -> MutexGuard<'_, BTreeMap<BackupKey, One>> {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, one| now.saturating_duration_since(one.used) < KEPT_FOR);
        begun
    }

    /// Notes that something was begun, and written down.
    pub(crate) fn note(&self, key: BackupKey, groups: Groups, now: Instant) {
        let mut begun = self.lock(now);
        if begun.len() >= BEGUN_MAX {
            let oldest = begun.iter().min_by_key(|(_, one)| one.used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                begun.remove(&oldest);
            }
        }
        begun.insert(key, One { groups, used: now });
    }

    /// Whether a name may be used, for a group if one is named; it is known for longer then.
    ///
    /// # Errors
    /// [`BackendError::NoSuch`]: it was never begun here, is forgotten, or is of another group.
    pub(crate) fn admit(
        &self,
        key: BackupKey,
        group: Option<u32>,
        now: Instant,
    ) -> Result<(), BackendError> {
        let mut begun = self.lock(now);
        let one = begun.get_mut(&key);
        let admitted = one.filter(|one| group.is_none_or(|group| one.groups.hold(group)));
        let one = admitted.ok_or(BackendError::NoSuch("backup"))?;
        one.used = now;
        Ok(())
    }

    /// Forgets what has ended.
    pub(crate) fn forget(&self, key: BackupKey) {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> BackupKey {
        [number; 16]
    }

    #[test]
    fn names_are_good_for_what_was_begun() {
        let (begun, now) = (Begun::default(), Instant::now());
        begun.note(key(1), Groups::All, now);
        begun.note(key(2), Groups::One(7), now);
        let check = |name, group: Option<u32>, expect: bool| {
            let admitted = begun.admit(key(name), group, now);
            assert_eq!(admitted.is_ok(), expect, "{name} {group:?}");
            if !expect {
                assert_eq!(admitted, Err(BackendError::NoSuch("backup")));
            }
        };
        check(1, Some(0), true);
        check(1, Some(64), true);
        check(1, None, true);
        check(2, Some(7), true);
        check(2, None, true);
        check(2, Some(0), false);
        check(2, Some(8), false);
        check(3, Some(7), false);
        check(3, None, false);
        begun.forget(key(1));
        check(1, Some(0), false);
        check(2, Some(7), true);
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let (begun, start) = (Begun::default(), Instant::now());
        begun.note(key(1), Groups::All, start);
        let almost = KEPT_FOR - Duration::from_millis(1);
        assert!(begun.admit(key(1), None, start + almost).is_ok());
        assert!(begun.admit(key(1), Some(5), start + almost * 2).is_ok());
        let late = start + almost * 2 + KEPT_FOR;
        assert!(begun.admit(key(1), Some(5), late).is_err());
        assert!(begun.0.lock().unwrap().is_empty());
    }

    #[test]
    fn they_are_bounded_and_those_in_use_stay() {
        let (begun, start) = (Begun::default(), Instant::now());
        let mut now = start;
        begun.note(key(255), Groups::All, now);
        for number in 0..100 {
            now += Duration::from_secs(1);
            begun.note(key(number), Groups::All, now);
            assert!(begun.admit(key(255), None, now).is_ok());
        }
        assert_eq!(begun.0.lock().unwrap().len(), BEGUN_MAX);
        assert!(begun.admit(key(0), None, now).is_err());
        assert!(begun.admit(key(99), None, now).is_ok());
    }
}
