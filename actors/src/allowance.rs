//! What a user may ask of others in how little time: rooms entered, subscriptions requested, people written to for the
//! first time. More is refused with `resource-constraint` of type `wait`, and surely not done. The same for how long the
//! links, which others need too, wait for a user's sessions to take what is due to them (`link::pacing`).
//!
//! It is counted by account, all sessions on this node together, and outlives them: whoever logs in anew has no more. It
//! is kept in this node's memory alone, so that another node begins afresh.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use xmpp::jid::{BareJid, Jid};
use xmpp::shaper::{Bucket, Pace};
use xmpp::stanza_error::{Condition, StanzaError, StanzaErrorType};

/// How much each user may ask; `None`: as much as he likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserPaces {
    /// Requests to enter a room.
    pub joins: Option<Pace>,
    /// Requests for a subscription.
    pub subscriptions: Option<Pace>,
    /// Users written to, of those not among the last [`KNOWN_MAX`].
    pub new_recipients: Option<Pace>,
}

/// Recipients of one user that are remembered; whoever comes after that many others is new again.
const KNOWN_MAX: usize = 256;

/// Turns for which links may wait for the sessions of one account at once, and how long one takes to come back. A turn takes
/// 10 ms, of all links together, so an account holds links up for six seconds, and for a tenth of the time in the long run.
const WAITS_MAX: u64 = 600;
const WAIT_TURN: Duration = Duration::from_millis(10);
const WAIT_BACK: Duration = Duration::from_millis(100);

/// Users kept before it is looked for the first time who has all of his allowance again.
const SWEEP_MIN: usize = 1_024;

/// What one user has left.
#[derive(Debug, Default)]
struct Allowance {
    joins: Bucket,
    subscriptions: Bucket,
    new_recipients: Bucket,
    waits: Bucket,
    /// When the last turn of waiting began; links that wait in the same one share it.
    waited: Option<Instant>,
    /// Those written to last, the oldest first, by their hashes.
    known: VecDeque<u64>,
}

impl Allowance {
    fn write_to(&mut self, pace: &Pace, recipient: u64, now: Instant) -> bool {
        if self.known.contains(&recipient) {
            return true;
        }
        if !self.new_recipients.take(pace, 1, now) {
            return false;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(recipient);
        true
    }

    fn wait(&mut self, pace: &Pace, now: Instant) -> bool {
        let is_same = |began| now.saturating_duration_since(began) < WAIT_TURN;
        if self.waited.is_some_and(is_same) {
            return true;
        }
        let waits = self.waits.take(pace, 1, now);
        if waits {
            self.waited = Some(now);
        }
        waits
    }

    /// Forgotten, it would be the same but for the recipients, of whom as many may be new again.
    fn is_full(&self, now: Instant) -> bool {
        let asked = [&self.joins, &self.subscriptions, &self.new_recipients];
        let buckets = asked.into_iter().chain([&self.waits]);
        buckets.into_iter().all(|bucket| bucket.is_full(now))
    }
}

#[derive(Debug)]
struct Users {
    users: HashMap<BareJid, Allowance>,
    /// How many there are when it is looked for those to be forgotten.
    sweep_at: usize,
}

/// The allowances of all users.
#[derive(Debug)]
pub struct Allowances {
    paces: UserPaces,
    waits: Option<Pace>,
    hashes: RandomState,
    users: Mutex<Users>,
}

impl Allowances {
    /// Of this much each.
    pub fn new(paces: UserPaces) -> Allowances {
        Allowances {
            paces,
            waits: Pace::new(1, WAIT_BACK, WAITS_MAX),
            hashes: RandomState::new(),
            users: Mutex::new(Users {
                users: HashMap::new(),
                sweep_at: SWEEP_MIN,
            }),
        }
    }

    /// Whether a user may ask to enter a room now; if so, he has one less.
    pub fn join(&self, user: &BareJid, now: Instant) -> bool {
        self.of(user, self.paces.joins, now, |allowance, pace| {
            allowance.joins.take(pace, 1, now)
        })
    }

    /// Whether a user may request a subscription now; if so, he has one less.
    pub fn subscribe(&self, user: &BareJid, now: Instant) -> bool {
        self.of(user, self.paces.subscriptions, now, |allowance, pace| {
            allowance.subscriptions.take(pace, 1, now)
        })
    }

    /// Whether a user may write to somebody now; if so, and this is somebody new, he has one less.
    pub fn write_to(&self, user: &BareJid, recipient: &Jid, now: Instant) -> bool {
        if recipient.bare_str() == user.as_str() {
            return true;
        }
        let recipient = self.hashes.hash_one(recipient.bare_str());
        self.of(user, self.paces.new_recipients, now, |allowance, pace| {
            allowance.write_to(pace, recipient, now)
        })
    }

    /// Whether a link may wait one turn more for a session of this user; if so, he has one less.
    pub fn wait(&self, user: &BareJid, now: Instant) -> bool {
        self.of(user, self.waits, now, |allowance, pace| {
            allowance.wait(pace, now)
        })
    }

    fn of(
        &self,
        user: &BareJid,
        pace: Option<Pace>,
        now: Instant,
        take: impl FnOnce(&mut Allowance, &Pace) -> bool,
    ) -> bool {
        let Some(pace) = pace else { return true };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowance) = users.users.get_mut(user) {
            return take(allowance, &pace);
        }
        if users.users.len() >= users.sweep_at {
            users.users.retain(|_, allowance| !allowance.is_full(now));
            users.users.shrink_to(SWEEP_MIN);
            users.sweep_at = (2 * users.users.len()).max(SWEEP_MIN);
        }
        take(users.users.entry(user.clone()).or_default(), &pace)
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.users.lock().unwrap().users.len()
    }
}

/// What is said to whoever asks too much: try again later.
pub fn too_fast(what: &str) -> StanzaError {
    StanzaError::new(Condition::ResourceConstraint)
        .with_kind(StanzaErrorType::Wait)
        .with_text(format!("{what} in a short time; try again later."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn allowances(burst: u64) -> Allowances {
        let pace = Pace::new(1, 10 * S, burst);
        Allowances::new(UserPaces {
            joins: pace,
            subscriptions: pace,
            new_recipients: pace,
        })
    }

    fn user(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@localhost")).unwrap()
    }

    fn jid(name: &str) -> Jid {
        Jid::parse(name).unwrap()
    }

    #[test]
    fn each_kind_and_each_user_has_its_own() {
        let (allowances, now) = (allowances(2), Instant::now());
        let (romeo, juliet) = (user("romeo"), user("juliet"));
        let takes = |expect: bool, now| {
            assert_eq!(allowances.join(&romeo, now), expect);
            assert_eq!(allowances.subscribe(&romeo, now), expect);
        };
        takes(true, now);
        takes(true, now);
        takes(false, now);
        assert!(allowances.join(&juliet, now));
        takes(false, now + 9 * S);
        takes(true, now + 10 * S);
        takes(false, now + 10 * S);
    }

    #[test]
    fn only_new_recipients_count() {
        let (allowances, now) = (allowances(2), Instant::now());
        let romeo = user("romeo");
        let write = |to: &str, expect: bool| {
            assert_eq!(allowances.write_to(&romeo, &jid(to), now), expect, "{to}");
        };
        write("romeo@localhost/attic", true);
        write("a@localhost", true);
        write("b@localhost", true);
        write("c@localhost", false);
        for _ in 0..10 {
            write("a@localhost/balcony", true);
            write("b@localhost", true);
            write("romeo@localhost", true);
        }
        write("c@localhost", false);
    }

    #[test]
    fn of_many_recipients_the_last_are_known() {
        let pace = Pace::new(1, 10 * S, 10_000).unwrap();
        let (mut allowance, now) = (Allowance::default(), Instant::now());
        for recipient in 0..1_000 {
            assert!(allowance.write_to(&pace, recipient, now));
        }
        assert_eq!(allowance.known.len(), KNOWN_MAX);
        let spent = allowance.new_recipients;
        assert!(allowance.write_to(&pace, 999, now));
        assert_eq!(allowance.new_recipients, spent);
        assert!(allowance.write_to(&pace, 0, now));
        assert_ne!(allowance.new_recipients, spent);
    }

    /// Each login made the links wait anew: whoever read slowly and came back held others up for as long as he liked.
    #[test]
    fn links_wait_for_an_account_and_not_anew_for_each_of_its_sessions() {
        let (allowances, began) = (allowances(2), Instant::now());
        let (romeo, juliet) = (user("romeo"), user("juliet"));
        // A link asks at each turn from one second to another, and so many are given.
        let check = |user: &BareJid, from: u64, to: u64, expect: usize| {
            let turns = (from * 1_000..to * 1_000).step_by(10);
            let given =
                turns.filter(|ms| allowances.wait(user, began + Duration::from_millis(*ms)));
            assert_eq!(given.count(), expect, "{user} from {from} s to {to} s");
        };
        check(&romeo, 0, 4, 400);
        // 600 in all, and those that came back meanwhile.
        check(&romeo, 4, 8, 279);
        check(&juliet, 7, 8, 100);
        // In the long run a tenth of the time.
        check(&romeo, 8, 68, 600);
        check(&romeo, 128, 131, 300);
        // Links that wait in one turn share it.
        let turn = began + Duration::from_secs(200);
        assert!((0..1_000).all(|_| allowances.wait(&romeo, turn)));
        assert!((1..500).all(|turns| allowances.wait(&romeo, turn + turns * WAIT_TURN)));
        // Of other things nobody has less for it.
        assert!(allowances.join(&romeo, began));
    }

    #[test]
    fn no_bound_keeps_nothing() {
        let allowances = Allowances::new(UserPaces::default());
        for _ in 0..1_000 {
            assert!(allowances.join(&user("romeo"), Instant::now()));
        }
        assert_eq!(allowances.kept(), 0);
    }

    #[test]
    fn who_has_all_of_it_again_is_forgotten_and_nobody_else() {
        let (allowances, now) = (allowances(1), Instant::now());
        for number in 0..SWEEP_MIN {
            assert!(allowances.join(&user(&format!("u{number}")), now));
        }
        let later = now + 10 * S;
        let last = user("last");
        assert!(allowances.join(&last, later - S));
        // Nobody had his back then: all are kept.
        assert_eq!(allowances.kept(), SWEEP_MIN + 1);
        for number in 0..SWEEP_MIN {
            assert!(allowances.join(&user(&format!("v{number}")), later));
        }
        assert!(allowances.kept() <= SWEEP_MIN + 1, "{}", allowances.kept());
        assert!(!allowances.join(&last, later));
    }
}
