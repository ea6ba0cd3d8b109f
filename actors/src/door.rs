//! Who may come in: unauthenticated streams and new accounts, counted by address.
//!
//! Beyond its number of unauthenticated streams an address's connections queue, so that an office behind one address
//! still comes in after a restart. Whoever has no more than that never queues, and so a flood from elsewhere costs him
//! nothing. Addresses of trusted networks are not counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xmpp::shaper::{Bucket, Pace};

use crate::runtime::ClientSettings;

/// A place among the unauthenticated streams of one address; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Why a connection does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// The queue is full.
    #[error("too many wait to be served")]
    QueueFull,
    /// Its turn did not come in time.
    #[error("too many of one address do not log in")]
    TooLong,
}

/// Addresses kept at once before those that need not be are forgotten for the first time.
const SWEEP_MIN: usize = 1_024;

/// Beyond so many it is looked each time. When so many addresses have made accounts lately, no other makes one before some
/// of them may again.
const ADDRESSES_MAX: usize = 65_536;

/// By address, those forgotten now and then that are as good as new.
#[derive(Debug)]
struct ByAddress<T> {
    all: HashMap<IpAddr, T>,
    /// How many there are when it is looked for those.
    sweep_at: usize,
}

impl<T> Default for ByAddress<T> {
    fn default() -> ByAddress<T> {
        ByAddress {
            all: HashMap::new(),
            sweep_at: SWEEP_MIN,
        }
    }
}

impl<T> ByAddress<T> {
    fn at(
        &mut self,
        address: IpAddr,
        is_new: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> &mut T {
        if self.all.len() >= self.sweep_at && !self.all.contains_key(&address) {
            self.all.retain(|_, value| !is_new(value));
            self.all.shrink_to(SWEEP_MIN);
            self.sweep_at = (2 * self.all.len()).clamp(SWEEP_MIN, ADDRESSES_MAX);
        }
        self.all.entry(address).or_insert_with(make)
    }
}

/// See the module docs.
#[derive(Debug)]
pub struct Door {
    per_address: usize,
    queue: Semaphore,
    queue_within: Duration,
    addresses: Mutex<ByAddress<Arc<Semaphore>>>,
    registrations: Option<Pace>,
    registrants: Mutex<ByAddress<Bucket>>,
}

/// Whom an address stands for: in IPv6 a network of 64 bits, for that is what one customer has.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

impl Door {
    /// With the limits of these settings.
    pub fn new(client: &ClientSettings) -> Door {
        Door {
            per_address: client.unauthenticated_per_address_max as usize,
            queue: Semaphore::new(client.queued_max.min(Semaphore::MAX_PERMITS)),
            queue_within: client.queue_within,
            addresses: Mutex::default(),
            registrations: client.registrations,
            registrants: Mutex::default(),
        }
    }

    fn places(&self, address: IpAddr) -> Arc<Semaphore> {
        let all = self.per_address;
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = |places: &Arc<Semaphore>| {
            places.available_permits() == all && Arc::strong_count(places) == 1
        };
        let make = || Arc::new(Semaphore::new(all));
        Arc::clone(addresses.at(household(address), is_new, make))
    }

    /// Comes in, now or in its turn; trusted addresses need none.
    ///
    /// # Errors
    /// When the queue is full or too slow.
    pub async fn admit(&self, address: IpAddr, trusted: bool) -> Result<Admission, TurnedAway> {
        if trusted {
            return Ok(Admission { _permit: None });
        }
        let places = self.places(address);
        // Fails while others of this address queue: they come first.
        let permit = match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _queues = self
                    .queue
                    .try_acquire()
                    .map_err(|_| TurnedAway::QueueFull)?;
                let turn = tokio::time::timeout(self.queue_within, places.acquire_owned()).await;
                // The places are never closed.
                turn.ok().and_then(Result::ok).ok_or(TurnedAway::TooLong)?
            }
        };
        Ok(Admission {
            _permit: Some(permit),
        })
    }

    /// Whether somebody of this address may make an account now; if so, he has one less.
    pub fn may_register(&self, address: IpAddr, trusted: bool, now: Instant) -> bool {
        let Some(pace) = self.registrations.filter(|_| !trusted) else {
            return true;
        };
        let mut registrants = self
            .registrants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let address = household(address);
        let known = registrants.all.contains_key(&address);
        let bucket = registrants.at(address, |bucket| bucket.is_full(now), Bucket::default);
        let may = bucket.take(&pace, 1, now);
        if !known && registrants.all.len() > ADDRESSES_MAX {
            registrants.all.remove(&address);
            return false;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn door(per_address: usize, queued: usize, registrations: Option<Pace>) -> Door {
        Door {
            per_address,
            queue: Semaphore::new(queued),
            queue_within: 30 * S,
            addresses: Mutex::default(),
            registrations,
            registrants: Mutex::default(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_is_one_household() {
        let check = |address: &str, expect: &str| assert_eq!(household(ip(address)), ip(expect));
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("2001:db8:1:3::1", "2001:db8:1:3::");
    }

    #[tokio::test]
    async fn beyond_its_places_an_address_queues_in_order_and_others_do_not() {
        let door = door(2, 2, None);
        let (home, other) = (ip("192.0.2.7"), ip("192.0.2.8"));
        let first = door.admit(home, false).await.unwrap();
        let _second = door.admit(home, false).await.unwrap();
        let mut third = pin!(door.admit(home, false));
        let mut fourth = pin!(door.admit(home, false));
        assert!(poll!(&mut third).is_pending());
        assert!(poll!(&mut fourth).is_pending());
        // The queue is full; whoever needs none doesn't mind, and trusted networks never do.
        let fifth = door.admit(home, false).await;
        assert_eq!(fifth.err(), Some(TurnedAway::QueueFull));
        door.admit(other, false).await.unwrap();
        door.admit(home, true).await.unwrap();
        drop(first);
        assert!(poll!(&mut fourth).is_pending(), "the third was first");
        let third = third.await.unwrap();
        drop(third);
        fourth.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_queues_for_ever() {
        let door = Door {
            queue_within: S / 20,
            ..door(1, 1, None)
        };
        let home = ip("192.0.2.7");
        let _first = door.admit(home, false).await.unwrap();
        let began = tokio::time::Instant::now();
        let second = door.admit(home, false).await;
        assert_eq!(second.err(), Some(TurnedAway::TooLong));
        assert!(began.elapsed() >= S / 20);
        // Its place in the queue is free again.
        let mut third = pin!(door.admit(home, false));
        assert!(poll!(&mut third).is_pending());
    }

    #[tokio::test]
    async fn addresses_that_are_gone_are_forgotten_and_their_limit_never_is() {
        let door = door(1, 1, None);
        let home = ip("192.0.2.7");
        let _place = door.admit(home, false).await.unwrap();
        for number in 0..3 * SWEEP_MIN as u32 {
            let address = IpAddr::from(0x0a00_0000_u32.wrapping_add(number).to_be_bytes());
            door.admit(address, false).await.unwrap();
        }
        assert!(door.addresses.lock().unwrap().all.len() <= SWEEP_MIN);
        assert!(poll!(pin!(door.admit(home, false))).is_pending());
    }

    #[test]
    fn an_address_makes_so_many_accounts_in_so_long() {
        let door = door(1, 1, Pace::new(2, 60 * S, 2));
        let now = Instant::now();
        let check = |address, trusted, seconds: u32, expect| {
            let now = now + seconds * S;
            assert_eq!(
                door.may_register(ip(address), trusted, now),
                expect,
                "{seconds}"
            );
        };
        check("192.0.2.7", false, 0, true);
        check("192.0.2.7", false, 1, true);
        check("192.0.2.7", false, 2, false);
        check("192.0.2.7", true, 2, true);
        check("192.0.2.8", false, 2, true);
        check("192.0.2.7", false, 29, false);
        check("192.0.2.7", false, 30, true);
        check("192.0.2.7", false, 31, false);
    }

    #[test]
    fn accounts_are_bounded_for_all_addresses_together() {
        let door = door(1, 1, Pace::new(1, 60 * S, 1));
        let now = Instant::now();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..ADDRESSES_MAX as u32 {
            assert!(door.may_register(address(number), false, now));
        }
        let next = address(ADDRESSES_MAX as u32);
        assert!(!door.may_register(next, false, now));
        assert!(door.may_register(next, false, now + 60 * S));
    }

    #[test]
    fn without_a_pace_anybody_makes_accounts() {
        let door = door(1, 1, None);
        for _ in 0..100 {
            assert!(door.may_register(ip("192.0.2.7"), false, Instant::now()));
        }
        assert!(door.registrants.lock().unwrap().all.is_empty());
    }
}
