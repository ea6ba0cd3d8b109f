//! What was told lately and may have been lost with its teller: kept by every replica for the next owner.
//!
//! Rows, answers and outbox entries are asked for again by number. The rest ([`Effect::once`]: errors, pushes, requests,
//! who may see whom) would die with an owner that has committed an entry and not yet told it, and with a frame that a
//! broken connection swallowed. So each replica keeps what the entries of the last seconds said, in log order, and an
//! owner tells it once more to each node that attaches.
//!
//! Invariant: what is kept is the end of the log's sequence, never with a gap: whoever is told all of a key's is left with
//! the newest word, even if it knew some of it.

use std::collections::{BTreeMap, VecDeque};

use messaging::effect::{Effect, EffectMark, Once, RoomDelivery, UserEffect};
use xmpp::jid::BareJid;

/// For how long, by the entries' own time: longer than it takes until a partition has a new owner and all nodes are
/// attached, whatever happened to the old one. Each of two owners' times may be 5 s off the members' median.
pub const KEPT_MS: u64 = 20_000;

/// How many at most.
const KEPT_MAX: usize = 4_096;

/// Bytes of them at most.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug)]
struct Kept {
    time_ms: u64,
    bytes: usize,
    mark: EffectMark,
    effect: Once,
}

/// The effects of recent entries that nothing else brings again.
#[derive(Debug, Default)]
pub struct RecentEffects {
    kept: VecDeque<Kept>,
    bytes: usize,
}

/// What is to be told once more, by key, each in log order.
#[derive(Debug, Default)]
pub struct Untold {
    /// To users' sessions.
    pub users: BTreeMap<BareJid, Vec<(EffectMark, UserEffect)>>,
    /// By rooms.
    pub rooms: BTreeMap<BareJid, Vec<RoomDelivery>>,
}

impl RecentEffects {
    /// An entry was applied whose time was this.
    pub fn applied(&mut self, index: u64, time_ms: u64, effects: &[Effect]) {
        self.forget(time_ms);
        let places = effects.iter().enumerate();
        for (place, effect) in places.filter_map(|(place, effect)| Some((place, effect.once()?))) {
            let bytes = effect.size_hint();
            self.bytes += bytes;
            self.kept.push_back(Kept {
                time_ms,
                bytes,
                mark: EffectMark::of(index, place),
                effect,
            });
            while self.kept.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
                self.drop_oldest();
            }
        }
    }

    /// What may not have been told; `now_ms`: the clock of who asks, for a partition in which nothing happens any more.
    pub fn untold(&self, now_ms: u64) -> Untold {
        let mut untold = Untold::default();
        let young = self.kept.iter().filter(|kept| !is_old(kept, now_ms));
        for kept in young {
            match kept.effect.clone() {
                Once::User(user, effect) => {
                    let told = untold.users.entry(user).or_default();
                    told.push((kept.mark, effect));
                }
                Once::Room(room, delivery) => untold.rooms.entry(room).or_default().push(delivery),
            }
        }
        untold
    }

    fn forget(&mut self, time_ms: u64) {
        while self.kept.front().is_some_and(|kept| is_old(kept, time_ms)) {
            self.drop_oldest();
        }
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes -= kept.bytes;
        }
    }
}

fn is_old(kept: &Kept, now_ms: u64) -> bool {
    kept.time_ms.saturating_add(KEPT_MS) < now_ms
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use messaging::room::effect::RoomEffect;
    use xmpp::jid::FullJid;
    use xmpp::stanza::{Stanza, StanzaKind};

    use super::*;

    fn bare(text: &str) -> BareJid {
        BareJid::parse(text).unwrap()
    }

    fn shown(user: &str, contact: &str) -> Effect {
        Effect::User(bare(user), UserEffect::PresenceTo(bare(contact)))
    }

    fn bounce(user: &str, bytes: usize) -> Effect {
        let session = FullJid::parse(&format!("{user}/phone")).unwrap();
        let stanza = Stanza {
            payload: Bytes::from(vec![b' '; bytes]),
            ..Stanza::new(StanzaKind::Message)
        };
        Effect::User(bare(user), UserEffect::Bounce { session, stanza })
    }

    fn contacts(untold: &Untold, user: &str) -> Vec<String> {
        let effects = untold.users.get(&bare(user)).into_iter().flatten();
        let contact = |(_, effect): &(EffectMark, UserEffect)| match effect {
            UserEffect::PresenceTo(contact) => contact.to_string(),
            effect => panic!("{effect:?}"),
        };
        effects.map(contact).collect()
    }

    fn len(untold: &Untold) -> usize {
        untold.users.values().map(Vec::len).sum()
    }

    #[test]
    fn each_key_is_told_in_log_order() {
        let mut recent = RecentEffects::default();
        recent.applied(1, 1_000, &[shown("a@x", "1@x"), shown("b@x", "2@x")]);
        recent.applied(1, 1_001, &[shown("a@x", "3@x"), shown("a@x", "1@x")]);
        let untold = recent.untold(1_001);
        assert_eq!(contacts(&untold, "a@x"), ["1@x", "3@x", "1@x"]);
        assert_eq!(contacts(&untold, "b@x"), ["2@x"]);
    }

    #[test]
    fn each_effect_is_known_by_its_place_in_the_log() {
        let mut recent = RecentEffects::default();
        let dropped = Effect::DropArchive {
            key: bare("a@x"),
            upto: 1,
        };
        recent.applied(
            7,
            1_000,
            &[shown("a@x", "1@x"), dropped, shown("a@x", "2@x")],
        );
        recent.applied(8, 1_000, &[shown("a@x", "3@x")]);
        let untold = recent.untold(1_000);
        let marks = untold.users[&bare("a@x")].iter().map(|(mark, _)| *mark);
        let expect = [(7, 0), (7, 2), (8, 0)].map(|(index, place)| EffectMark::of(index, place));
        assert_eq!(marks.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn only_what_nothing_else_brings_again_is_kept() {
        let to = FullJid::parse("a@x/phone").unwrap();
        let room = bare("room@conference.x");
        let stanza = Stanza::new(StanzaKind::Message);
        let deliver = RoomEffect::Deliver {
            to: to.clone(),
            stanza,
        };
        let mut recent = RecentEffects::default();
        recent.applied(
            1,
            1_000,
            &[
                Effect::DropArchive {
                    key: bare("a@x"),
                    upto: 1,
                },
                Effect::Room(room.clone(), RoomEffect::ReflectAgain { to, seq: 7 }),
                Effect::Room(room.clone(), deliver),
            ],
        );
        let untold = recent.untold(1_000);
        assert!(untold.users.is_empty());
        assert_eq!(untold.rooms.get(&room).map(Vec::len), Some(1));
    }

    #[test]
    fn what_is_old_is_not_told_after_a_restart_nor_in_a_quiet_partition() {
        let mut recent = RecentEffects::default();
        recent.applied(1, 1_000, &[shown("a@x", "1@x")]);
        recent.applied(1, 9_000, &[shown("a@x", "2@x")]);
        let last = 1_000 + KEPT_MS;
        assert_eq!(contacts(&recent.untold(last), "a@x"), ["1@x", "2@x"]);
        // Nothing happened since: the asker's clock decides.
        assert_eq!(contacts(&recent.untold(last + 1), "a@x"), ["2@x"]);
        assert_eq!(len(&recent.untold(60_000)), 0);
        // An entry without effects, such as the claim of the next owner, lets time pass too.
        recent.applied(1, 60_000, &[]);
        assert_eq!(len(&recent.untold(0)), 0);
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_newest() {
        let check = |count: usize, bytes: usize, expect: usize| {
            let mut recent = RecentEffects::default();
            for n in 0..count {
                let user = format!("{n:06}@x");
                recent.applied(n as u64, 1_000, &[bounce(&user, bytes)]);
            }
            let untold = recent.untold(1_000);
            assert_eq!(len(&untold), expect, "{count} of {bytes} bytes");
            let last = format!("{:06}@x", count - 1);
            let newest = untold.users.keys().next_back().map(ToString::to_string);
            assert_eq!(newest, Some(last));
            let first = format!("{:06}@x", count - expect);
            let oldest = untold.users.keys().next().map(ToString::to_string);
            assert_eq!(oldest, Some(first));
        };
        check(10, 100, 10);
        check(KEPT_MAX + 50, 10, KEPT_MAX);
        check(100, 1024 * 1024 - 1_024, 4);
    }
}
