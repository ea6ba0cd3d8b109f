//! The sessions of this node by their address.
//!
//! The link of the user's partition claims an entry as soon as it hears that the owner has granted the resource, before
//! anything that the owner says behind that; the session that holds it gives it up. A newer session under the same
//! address replaces the older one's entry.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use xmpp::jid::FullJid;

use crate::mailbox::SessionMailbox;

const SHARDS: usize = 16;

/// A session of this node.
#[derive(Clone)]
pub struct Entry {
    /// Unique in this life of the node.
    pub number: u64,
    /// Its mailbox: one for all, or no limit holds.
    pub session: Arc<SessionMailbox>,
}

/// The sessions of this node.
#[derive(Default)]
pub struct Directory {
    shards: [Mutex<HashMap<FullJid, Entry>>; SHARDS],
}

impl Directory {
    fn shard(&self, jid: &FullJid) -> &Mutex<HashMap<FullJid, Entry>> {
        let mut hasher = DefaultHasher::new();
        jid.hash(&mut hasher);
        &self.shards[hasher.finish() as usize % SHARDS]
    }

    /// Enters a session; gives the one that had the address.
    pub fn claim(&self, jid: FullJid, entry: Entry) -> Option<Entry> {
        self.shard(&jid)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(jid, entry)
    }

    /// Enters a session, unless another one has the address; `false`: it has.
    pub fn claim_if_free(&self, jid: FullJid, entry: Entry) -> bool {
        let mut shard = self
            .shard(&jid)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let free = !shard.contains_key(&jid);
        if free {
            shard.insert(jid, entry);
        }
        free
    }

    /// Removes a session, unless another holds the address by now.
    pub fn release(&self, jid: &FullJid, number: u64) {
        let mut shard = self
            .shard(jid)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.get(jid).is_some_and(|entry| entry.number == number) {
            shard.remove(jid);
        }
    }

    /// The session at this address; `number` 0: whichever holds it.
    pub fn find(&self, jid: &FullJid, number: u64) -> Option<Entry> {
        let shard = self
            .shard(jid)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shard
            .get(jid)
            .filter(|entry| number == 0 || entry.number == number)
            .cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Addresses in order, behind `after`, that contain a text; at most `limit`, and no more than those are copied.
    pub fn page(&self, after: &str, containing: &str, limit: usize) -> Vec<String> {
        let mut first = BTreeSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let jids = shard.keys().map(FullJid::as_str);
            let fitting = jids.filter(|jid| *jid > after && jid.contains(containing));
            fitting.for_each(|jid| keep_first(&mut first, jid, limit));
        }
        first.into_iter().collect()
    }

    /// All sessions, for a stop or a move.
    pub fn all(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(
                shard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .values()
                    .cloned(),
            );
        }
        all
    }
}

/// Notes a text, if it is one of the first `limit` of all that are noted.
fn keep_first(first: &mut BTreeSet<String>, text: &str, limit: usize) {
    let has_room = first.len() < limit;
    if has_room || first.last().is_some_and(|last| text < last.as_str()) {
        first.insert(text.to_owned());
        if first.len() > limit {
            first.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_list_are_kept_whatever_its_order() {
        let check = |texts: &[&str], limit, expect: &[&str]| {
            let mut first = BTreeSet::new();
            texts
                .iter()
                .for_each(|text| keep_first(&mut first, text, limit));
            assert_eq!(
                first.iter().collect::<Vec<_>>(),
                expect,
                "{texts:?} {limit}"
            );
        };
        check(&["c", "a", "b"], 2, &["a", "b"]);
        check(&["a", "b", "c"], 2, &["a", "b"]);
        check(&["c", "b", "a"], 5, &["a", "b", "c"]);
        check(&["b", "b"], 2, &["b"]);
        check(&["a"], 0, &[]);
    }
}
