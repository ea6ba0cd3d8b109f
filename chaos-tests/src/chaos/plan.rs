//! Which faults, in which order: from a seed.

use std::time::Duration;

use crate::switch::Dice;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// SIGKILL of the node that owns the room.
    KillOwner,
    /// SIGKILL of another one.
    KillFollower,
    /// SIGKILL of all.
    KillAll,
    /// A node is away until the others have purged what it lacks: it is sent snapshots.
    Away,
    /// The power of a node's disk goes, with all that was not synced.
    PowerCut,
    /// A node is killed, and its log is hurt until it is started: a flipped bit, a file cut short, a torn write.
    Damage,
    /// SIGSTOP of the owner, for seconds.
    Pause,
    /// SIGSTOP of the owner, for one or two minutes; a part of long runs only.
    LongPause,
    /// The owner is cut off from both others.
    OwnerAlone,
    /// A node is cut off from the owner and the third.
    OwnerAmongTwo,
    /// Nobody meets anybody.
    Shatter,
    /// What one node sends to another does not arrive.
    OneWay,
    /// Two nodes don't meet, and both meet the third: a ring that is cut once.
    Line,
    /// Each fifth packet is lost, one in fifty comes twice.
    Loss,
    /// Packets take 75 ± 50 ms, and overtake each other.
    Delay,
    /// A node that lacks much is behind a link of 1 Mbit/s while it is sent snapshots.
    Thin,
    /// Each sync of the owner takes 300 ms longer.
    SlowDisk,
    /// A node gets a tenth of a processor.
    SlowNode,
    /// Clients ask for much and read nothing.
    SlowReaders,
    /// A sync of the owner's log fails.
    FailedSync,
    /// A node's disk is full.
    FullDisk,
    /// Clocks jump: by an hour forward and backward, by a year.
    Clocks,
    /// Each node is stopped and started.
    Restarts,
    /// A node is drained, and taken back.
    Drain,
    /// All certificates are renewed while everything runs; one node comes back with an expired one.
    Certificates,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 25] = [
        Fault::KillOwner,
        Fault::KillFollower,
        Fault::KillAll,
        Fault::Away,
        Fault::PowerCut,
        Fault::Damage,
        Fault::Pause,
        Fault::LongPause,
        Fault::OwnerAlone,
        Fault::OwnerAmongTwo,
        Fault::Shatter,
        Fault::OneWay,
        Fault::Line,
        Fault::Loss,
        Fault::Delay,
        Fault::Thin,
        Fault::SlowDisk,
        Fault::SlowNode,
        Fault::SlowReaders,
        Fault::FailedSync,
        Fault::FullDisk,
        Fault::Clocks,
        Fault::Restarts,
        Fault::Drain,
        Fault::Certificates,
    ];

    /// What every run has, whatever else it has: without these the guards against vacuous passes would reject it.
    pub const CORE: [Fault; 4] = [
        Fault::OwnerAlone,
        Fault::OwnerAmongTwo,
        Fault::KillOwner,
        Fault::Away,
    ];
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// Its name.
    pub name: &'static str,
    /// The faults it repeats behind the core.
    pub faults: &'static [Fault],
}

impl Configuration {
    /// Faults of all kinds.
    pub const MIXED: Configuration = Configuration {
        name: "mixed",
        faults: &Fault::ALL,
    };

    /// The fault configurations of the reliability specification, §2.
    pub const MATRIX: [Configuration; 14] = [
        of(
            "kill",
            &[Fault::KillFollower, Fault::KillOwner, Fault::KillAll],
        ),
        of("power", &[Fault::PowerCut, Fault::Damage]),
        of(
            "pause",
            &[Fault::Pause, Fault::Pause, Fault::Pause, Fault::LongPause],
        ),
        of("split", &[Fault::OwnerAlone, Fault::OwnerAmongTwo]),
        of("shatter", &[Fault::Shatter]),
        of("one-way", &[Fault::OneWay, Fault::Line]),
        of("loss", &[Fault::Loss]),
        of("delay", &[Fault::Delay]),
        of("thin", &[Fault::Thin, Fault::SlowReaders]),
        of("slow-disk", &[Fault::SlowDisk, Fault::SlowNode]),
        of("failed-sync", &[Fault::FailedSync]),
        of("full-disk", &[Fault::FullDisk]),
        of("clock", &[Fault::Clocks]),
        of(
            "operate",
            &[Fault::Restarts, Fault::Drain, Fault::Certificates],
        ),
    ];

    /// The one with a name.
    pub fn named(name: &str) -> Option<Configuration> {
        let all = Configuration::MATRIX.into_iter();
        all.chain([Configuration::MIXED])
            .find(|configuration| configuration.name == name)
    }
}

/// A fault of minutes is a part of runs that last so long.
const LONG: Duration = Duration::from_secs(150);

const fn of(name: &'static str, faults: &'static [Fault]) -> Configuration {
    Configuration { name, faults }
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    /// From which all else follows.
    pub seed: u64,
    /// What it is about.
    pub configuration: Configuration,
    /// For how long faults are caused. One that has begun is healed, and the core comes whole.
    pub lasts: Duration,
    core: Vec<Fault>,
    rest: Vec<Fault>,
    dice: Dice,
}

impl Plan {
    /// From a seed.
    pub fn new(seed: u64, configuration: Configuration, lasts: Duration) -> Plan {
        let mut dice = Dice::new(seed);
        let mut core = Fault::CORE.to_vec();
        dice.shuffle(&mut core);
        Plan {
            seed,
            configuration,
            lasts,
            core,
            rest: Vec::new(),
            dice,
        }
    }

    /// The next fault, if there is to be one after so long. Every other fault is one of the core, until they are done: a
    /// short run, too, has some of its own kind.
    pub fn next(&mut self, elapsed: Duration, number: usize) -> Option<Fault> {
        let is_core = number.is_multiple_of(2) || elapsed >= self.lasts;
        if let Some(fault) = self.core.pop_if(|_| is_core) {
            return Some(fault);
        }
        if elapsed >= self.lasts {
            return None;
        }
        if self.rest.is_empty() {
            let has_room = |fault: &Fault| *fault != Fault::LongPause || self.lasts >= LONG;
            let faults = self.configuration.faults.iter().copied();
            self.rest = faults.filter(has_room).collect();
            self.dice.shuffle(&mut self.rest);
        }
        self.rest.pop()
    }

    /// Draws what is left open by the kind of a fault.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        format!(
            "scripts/chaos --seed {} --config {} --seconds {}",
            self.seed,
            self.configuration.name,
            self.lasts.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of a plan, one every six seconds.
    fn faults(seed: u64, configuration: Configuration, seconds: u64) -> Vec<Fault> {
        let mut plan = Plan::new(seed, configuration, Duration::from_secs(seconds));
        (0..)
            .map_while(|number| plan.next(Duration::from_secs(number as u64 * 6), number))
            .collect()
    }

    #[test]
    fn a_seed_is_a_schedule() {
        let once = faults(7, Configuration::MIXED, 60);
        assert_eq!(once, faults(7, Configuration::MIXED, 60));
        assert_ne!(once, faults(8, Configuration::MIXED, 60));
        assert_eq!(once.len(), 10);
    }

    #[test]
    fn every_run_has_the_core_and_long_ones_have_everything() {
        for seed in 0..50 {
            for seconds in [1, 60] {
                let faults = faults(seed, Configuration::MIXED, seconds);
                let has = |fault| faults.contains(fault);
                assert!(Fault::CORE.iter().all(has), "{seed}: {faults:?}");
            }
            let all = faults(seed, Configuration::MIXED, 600);
            assert!(Fault::ALL.iter().all(|fault| all.contains(fault)));
            let pause = Configuration::named("pause").expect("it is there");
            let pauses = faults(seed, pause, 180);
            let count = |fault| pauses.iter().filter(|other| **other == fault).count();
            let (brief, long) = (count(Fault::Pause), count(Fault::LongPause));
            assert_eq!(brief + long, pauses.len() - Fault::CORE.len());
            assert!(brief > long && long > 0, "{seed}: {brief} and {long}");
            assert!(Fault::CORE.iter().all(|fault| count(*fault) == 1));
            // A minute has no room for one of minutes.
            for configuration in [pause, Configuration::MIXED] {
                let minute = faults(seed, configuration, 60);
                assert!(!minute.contains(&Fault::LongPause), "{seed}: {minute:?}");
            }
        }
        let pause = Configuration::named("pause").expect("it is there");
        let short = faults(1, pause, 20);
        let own = short.iter().filter(|fault| **fault == Fault::Pause);
        assert_eq!((own.count(), short.len()), (2, 6));
    }

    #[test]
    fn the_matrix_is_whole() {
        let names: std::collections::BTreeSet<_> =
            Configuration::MATRIX.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), 14);
        let has = |fault: &Fault| {
            let mut all = Configuration::MATRIX.iter();
            *fault == Fault::Away || all.any(|c| c.faults.contains(fault))
        };
        assert!(Fault::ALL.iter().all(has));
        assert_eq!(Configuration::named("nothing"), None);
        assert!(Configuration::named("mixed").is_some());
    }
}
