//! Collections that are nearly always empty, of which each user who is online has some: a pointer's room, and none behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};

/// A collection that may be empty without room of its own.
pub(super) trait Collection: Default + 'static {
    const EMPTY: &'static Self;

    fn has_nothing(&self) -> bool;
}

impl<T: 'static> Collection for Vec<T> {
    const EMPTY: &'static Vec<T> = &Vec::new();

    fn has_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<T: 'static> Collection for VecDeque<T> {
    const EMPTY: &'static VecDeque<T> = &VecDeque::new();

    fn has_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<T: 'static> Collection for BTreeSet<T> {
    const EMPTY: &'static BTreeSet<T> = &BTreeSet::new();

    fn has_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<K: 'static, V: 'static> Collection for BTreeMap<K, V> {
    const EMPTY: &'static BTreeMap<K, V> = &BTreeMap::new();

    fn has_nothing(&self) -> bool {
        self.is_empty()
    }
}

/// Such a collection. It takes room when it is about to be changed, until it is taken or trimmed.
#[derive(Clone, Debug)]
pub(super) struct Seldom<C>(Option<Box<C>>);

impl<C> Default for Seldom<C> {
    fn default() -> Seldom<C> {
        Seldom(None)
    }
}

impl<C: Collection> From<C> for Seldom<C> {
    fn from(items: C) -> Seldom<C> {
        Seldom((!items.has_nothing()).then(|| Box::new(items)))
    }
}

impl<C: Collection> Seldom<C> {
    /// All of it; nothing is left.
    pub(super) fn take(&mut self) -> C {
        self.0.take().map(|items| *items).unwrap_or_default()
    }

    /// Gives its room back, if it is empty.
    pub(super) fn trim(&mut self) {
        self.0.take_if(|items| items.has_nothing());
    }
}

impl<C: Collection> Deref for Seldom<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.0.as_deref().unwrap_or(C::EMPTY)
    }
}

impl<C: Collection> DerefMut for Seldom<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_only_while_it_has_something() {
        let mut items = Seldom::<Vec<u64>>::default();
        assert!(items.is_empty() && items.0.is_none());
        items.push(7);
        items.trim();
        assert_eq!(*items, [7]);
        items.retain(|item| *item != 7);
        items.trim();
        assert!(items.0.is_none());
        assert!(Seldom::from(Vec::<u64>::new()).0.is_none());
        let mut items = Seldom::from(vec![1, 2]);
        assert_eq!(items.take(), [1, 2]);
        assert!(items.0.is_none());
    }
}
