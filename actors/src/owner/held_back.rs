//! Soft state that comes before the nodes: just after a change of owner nobody's sessions are known yet.
//!
//! What is for users waits until every node that is there has attached: or an iq to somebody who is online would be
//! answered as if nobody were there, and a contact's presence would reach no session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::link::protocol::Across;
use xmpp::stanza::StanzaKind;

use super::OwnerActor;
use crate::publication::ToPublication;

/// How long nodes may take; then they are gone, as far as this goes.
const GATHERING_MAX: Duration = Duration::from_secs(4);

/// Words that wait at most; what is more goes on at once.
const HELD_MAX: usize = 8_192;

/// Bytes of them.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What waits for the nodes.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    words: VecDeque<Across>,
    bytes: usize,
    /// The nodes were there: nothing waits any more in this reign.
    gathered: bool,
}

impl HeldBack {
    /// Keeps a word for later; gives it back if there is no room.
    fn hold(&mut self, across: Across) -> Option<Across> {
        let bytes = bytes_of(&across);
        if self.words.len() >= HELD_MAX || self.bytes + bytes > HELD_BYTES_MAX {
            return Some(across);
        }
        self.bytes += bytes;
        self.words.push_back(across);
        None
    }

    /// Everything that waited, in order; from now on nothing waits.
    pub(super) fn release(&mut self) -> VecDeque<Across> {
        self.gathered = true;
        self.bytes = 0;
        std::mem::take(&mut self.words)
    }
}

pub(super) fn bytes_of(across: &Across) -> usize {
    match across {
        Across::Presence {
            targets, stanza, ..
        } => stanza.size_hint() + targets.len() * 64,
        Across::Probe { targets, .. } => targets.len() * 64,
        Across::Stanza { stanza, .. } => stanza.size_hint(),
        _ => 0,
    }
}

impl OwnerActor {
    /// Soft state for users of this partition.
    pub(super) fn soft(&mut self, across: Across) {
        self.release_held_back();
        let held = self.reign.as_mut().map(|reign| &mut reign.held_back);
        match held.filter(|held| !held.gathered) {
            Some(held) => {
                if let Some(across) = held.hold(across) {
                    self.pass_soft(across);
                }
            }
            None => self.pass_soft(across),
        }
    }

    /// Passes on what waited, once the nodes are there.
    pub(super) fn release_held_back(&mut self) {
        let waits = self
            .reign
            .as_ref()
            .is_some_and(|reign| !reign.held_back.gathered);
        if !waits || self.is_gathering(Instant::now()) {
            return;
        }
        if let Some(reign) = &mut self.reign {
            for across in reign.held_back.release() {
                self.pass_soft(across);
            }
        }
    }

    /// Whether a node that can be reached has not attached yet.
    pub(super) fn is_gathering(&self, now: Instant) -> bool {
        let Some(reign) = &self.reign else {
            return false;
        };
        now < reign.began + GATHERING_MAX
            && self.fabric.members().iter().any(|member| {
                !reign.target.is_attached(member.id)
                    && !reign.mourned.contains(&member.id)
                    && self.fabric.reaches(member.id)
            })
    }

    /// Soft state for an owner that this node isn't, or no longer: whoever sent it won't know, and a client would wait for
    /// the answer to its iq for ever. It goes to the owner that is known, which has a higher epoch, or waits for the next.
    ///
    /// Presence and probes are said again to a new owner by those who said them.
    pub(super) fn hand_on(&self, across: Across) {
        let Across::Stanza { stanza, .. } = &across else {
            return;
        };
        if stanza.kind != StanzaKind::Presence
            && let Err(error) = self.fabric.hand_on(self.partition, &across)
        {
            tracing::debug!(%error, partition = %self.partition, "a stanza waits for the next owner");
        }
    }

    fn pass_soft(&mut self, across: Across) {
        match across {
            Across::Presence {
                targets, stanza, ..
            } => {
                let stanza = Arc::new(stanza);
                for target in targets {
                    self.tell_publication(
                        &target,
                        false,
                        ToPublication::PresenceIn(Arc::clone(&stanza)),
                    );
                }
            }
            Across::Probe { from, targets } => {
                for target in targets {
                    self.tell_publication(&target, true, ToPublication::Probe(from.clone()));
                }
            }
            Across::Stanza { stanza, .. } => {
                if let Some(to) = stanza.to.as_ref().map(|to| to.bare()) {
                    self.tell_publication(&to, true, ToPublication::Stanza(stanza));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xmpp::stanza::{Stanza, StanzaKind};

    use super::*;

    fn word(bytes: usize) -> Across {
        Across::Stanza {
            stanza: Stanza {
                payload: Bytes::from(vec![b' '; bytes]),
                ..Stanza::new(StanzaKind::Message)
            },
            behind: None,
        }
    }

    #[test]
    fn what_waits_is_bounded_and_keeps_its_order() {
        let check = |sizes: &[usize], expect: usize| {
            let mut held = HeldBack::default();
            let kept: Vec<Across> = sizes
                .iter()
                .map(|size| word(*size))
                .filter(|word| held.hold(word.clone()).is_none())
                .collect();
            assert_eq!(kept.len(), expect);
            assert_eq!(Vec::from(held.release()), kept);
            assert!(held.gathered && held.release().is_empty());
        };
        check(&[], 0);
        check(&[10, 20, 30], 3);
        check(&[10; HELD_MAX + 5], HELD_MAX);
        check(&[1_000_000; 20], 16);
        check(&[HELD_BYTES_MAX, 10], 1);
    }
}
