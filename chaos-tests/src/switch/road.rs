//! What becomes of packets on their way from one node to another: pure, and the same for the same seed.

use std::collections::BTreeMap;
use std::time::Duration;

/// How a road is. The default one is as good as there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Road {
    /// How long a packet takes, on average.
    pub delay: Duration,
    /// How much longer or shorter it may take; packets overtake each other then.
    pub jitter: Duration,
    /// How many of a thousand packets are lost.
    pub loss: u32,
    /// How many of a thousand come twice.
    pub doubled: u32,
    /// Nothing passes.
    pub cut: bool,
    /// How much fits through in a second; `None`: whatever comes.
    pub bytes_per_second: Option<u64>,
}

/// Packets of one road that may be under way; what comes then is lost, as in a full queue.
pub const UNDER_WAY_MAX: usize = 2_000;

/// What became of the packets of a road.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fates {
    /// Delivered, doubles included.
    pub delivered: u64,
    /// Lost by the dice or by a cut.
    pub lost: u64,
    /// Second copies.
    pub doubled: u64,
    /// Lost because too many were under way.
    pub overflowed: u64,
}

/// Numbers from a seed (SplitMix64): two generators with different seeds have nothing in common.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`; 0 if there are none.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.next_number().checked_rem(sides).unwrap_or(0)
    }

    /// Brings items into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.roll(at as u64 + 1);
            items.swap(at, usize::try_from(other).unwrap_or(at));
        }
    }
}

/// One direction between two nodes.
#[derive(Debug)]
struct Lane {
    road: Road,
    dice: Dice,
    /// When what was admitted last has passed the narrowest place.
    passed: Duration,
    under_way: usize,
    fates: Fates,
}

/// All directions.
#[derive(Debug)]
pub struct Roads {
    seed: u64,
    lanes: BTreeMap<(u64, u64), Lane>,
}

impl Roads {
    /// Good ones.
    pub fn new(seed: u64) -> Roads {
        Roads {
            seed,
            lanes: BTreeMap::new(),
        }
    }

    fn lane(&mut self, from: u64, to: u64) -> &mut Lane {
        let own = Dice::new(from << 32 | to).next_number();
        let seed = self.seed ^ own;
        self.lanes.entry((from, to)).or_insert_with(|| Lane {
            road: Road::default(),
            dice: Dice::new(seed),
            passed: Duration::ZERO,
            under_way: 0,
            fates: Fates::default(),
        })
    }

    /// Changes a road. What is under way stays under way.
    pub fn set(&mut self, from: u64, to: u64, road: Road) {
        self.lane(from, to).road = road;
    }

    /// A packet comes at a time: when its copies are to be delivered, none if it is lost. Each has to be
    /// [`delivered`](Roads::delivered).
    pub fn admit(&mut self, from: u64, to: u64, bytes: usize, now: Duration) -> Vec<Duration> {
        let lane = self.lane(from, to);
        let road = lane.road;
        // Three rolls a packet, whatever is done with them: one fate depends on the packet's number alone.
        let (loss, double) = (lane.dice.roll(1000), lane.dice.roll(1000));
        let shift = lane.dice.next_number();
        if road.cut || loss < u64::from(road.loss) {
            lane.fates.lost += 1;
            return Vec::new();
        }
        let copies = 1 + usize::from(double < u64::from(road.doubled));
        if lane.under_way + copies > UNDER_WAY_MAX {
            lane.fates.overflowed += 1;
            return Vec::new();
        }
        if let Some(rate) = road.bytes_per_second {
            let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate.max(1);
            lane.passed = lane.passed.max(now) + Duration::from_nanos(nanos);
        } else {
            lane.passed = now;
        }
        let passed = lane.passed;
        let mut dice = Dice::new(shift);
        let times = (0..copies)
            .map(|_| passed + road.takes(&mut dice))
            .collect();
        lane.under_way += copies;
        lane.fates.doubled += copies as u64 - 1;
        times
    }

    /// One copy has been delivered.
    pub fn delivered(&mut self, from: u64, to: u64) {
        let lane = self.lane(from, to);
        lane.under_way = lane.under_way.saturating_sub(1);
        lane.fates.delivered += 1;
    }

    /// What became of what was sent.
    pub fn fates(&mut self, from: u64, to: u64) -> Fates {
        self.lane(from, to).fates
    }
}

impl Road {
    fn takes(self, dice: &mut Dice) -> Duration {
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX / 4);
        let shift = dice.roll(jitter.saturating_mul(2).saturating_add(1));
        (self.delay + Duration::from_nanos(shift)).saturating_sub(self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The fates of so many packets, one a millisecond.
    fn fates(seed: u64, road: Road, packets: u32) -> Vec<Vec<Duration>> {
        let mut roads = Roads::new(seed);
        roads.set(1, 2, road);
        let admit = |number| {
            let times = roads.admit(1, 2, 1000, number * MS);
            times.iter().for_each(|_| roads.delivered(1, 2));
            times
        };
        (0..packets).map(admit).collect()
    }

    #[test]
    fn a_good_road_delivers_at_once_and_in_order() {
        let expected: Vec<_> = (0..100).map(|number| vec![number * MS]).collect();
        assert_eq!(fates(7, Road::default(), 100), expected);
    }

    #[test]
    fn the_seed_decides_and_each_direction_has_its_own_luck() {
        let bad = Road {
            delay: 75 * MS,
            jitter: 50 * MS,
            loss: 200,
            doubled: 100,
            ..Road::default()
        };
        let once = fates(7, bad, 1000);
        assert_eq!(once, fates(7, bad, 1000));
        assert_ne!(once, fates(8, bad, 1000));
        let mut roads = Roads::new(7);
        roads.set(1, 2, bad);
        roads.set(2, 1, bad);
        let both: Vec<_> = (0..100)
            .map(|at| (roads.admit(1, 2, 1, at * MS), roads.admit(2, 1, 1, at * MS)))
            .collect();
        assert!(both.iter().any(|(there, back)| there != back));
    }

    #[test]
    fn loss_doubles_and_delay_are_as_many_as_were_asked_for() {
        let bad = Road {
            delay: 75 * MS,
            jitter: 50 * MS,
            loss: 200,
            doubled: 100,
            ..Road::default()
        };
        let all = fates(42, bad, 10_000);
        let lost = all.iter().filter(|times| times.is_empty()).count();
        assert!((1_800..2_200).contains(&lost), "{lost} of 10,000 lost");
        let doubled = all.iter().filter(|times| times.len() == 2).count();
        assert!((650..950).contains(&doubled), "{doubled} of 8,000 doubled");
        let took: Vec<Duration> = (0..)
            .zip(&all)
            .flat_map(|(number, times)| times.iter().map(move |time| *time - number * MS))
            .collect();
        assert!(took.iter().all(|took| (25 * MS..=125 * MS).contains(took)));
        let mean = took.iter().sum::<Duration>() / took.len() as u32;
        assert!((73 * MS..77 * MS).contains(&mean), "{mean:?}");
        let firsts: Vec<_> = all.iter().filter_map(|times| times.first()).collect();
        assert!(!firsts.is_sorted(), "nothing was overtaken");
    }

    #[test]
    fn a_narrow_road_takes_one_after_the_other() {
        let mut roads = Roads::new(1);
        let narrow = Road {
            bytes_per_second: Some(125_000),
            ..Road::default()
        };
        roads.set(1, 2, narrow);
        // 1,250 bytes are 10 ms at 1 Mbit/s.
        let times: Vec<_> = (0..3).flat_map(|_| roads.admit(1, 2, 1250, MS)).collect();
        assert_eq!(times, [11 * MS, 21 * MS, 31 * MS]);
        assert_eq!(roads.admit(1, 2, 1250, 100 * MS), [110 * MS]);
    }

    #[test]
    fn queues_are_bounded_and_a_cut_is_one_way() {
        let mut roads = Roads::new(1);
        let under_way = (0..UNDER_WAY_MAX + 10)
            .filter(|_| !roads.admit(1, 2, 1, MS).is_empty())
            .count();
        assert_eq!(under_way, UNDER_WAY_MAX);
        assert_eq!(roads.fates(1, 2).overflowed, 10);
        roads.delivered(1, 2);
        assert_eq!(roads.admit(1, 2, 1, MS).len(), 1);
        let cut = Road {
            cut: true,
            ..Road::default()
        };
        roads.set(1, 3, cut);
        assert!(roads.admit(1, 3, 1, MS).is_empty());
        assert_eq!(roads.admit(3, 1, 1, MS).len(), 1);
        assert_eq!(roads.fates(1, 3).lost, 1);
    }

    #[test]
    fn a_shuffle_keeps_everything() {
        let mut items: Vec<u32> = (0..50).collect();
        Dice::new(3).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        assert_eq!(Dice::new(3).roll(0), 0);
    }
}
