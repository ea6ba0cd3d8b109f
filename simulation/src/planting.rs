//! Faults that are planted: the simulation must find each, or it shows nothing.

use anyhow::{Context, Result, bail};
#[cfg(feature = "planted-bugs")]
pub use planted::CHOICE;

/// Names the bug that acts, in a build that has several.
#[cfg(not(feature = "planted-bugs"))]
pub const CHOICE: &str = "MUSTER_PLANTED_BUG";

/// A fault that is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// An fdatasync that does nothing: what is acknowledged is lost with the power.
    LyingDisk,
    /// A bug of the crate `planted`, in a build that has them.
    Bug(Bug),
}

/// The bugs that a story can show. Two of the crate `planted` it can't: no disk is wiped here, and a log that is told too early
/// of its writes is what a disk is that lies.
const BUGS: [&str; 6] = [
    "ack-before-commit",
    "dedup-skipped-on-resume",
    "dedup-not-in-snapshot",
    "follower-read",
    "ban-on-one-node",
    "archive-by-wall-clock",
];

/// One of them, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug(&'static str);

impl Plant {
    /// The one with a name.
    pub fn named(name: &str) -> Result<Plant> {
        if name == "lying-disk" {
            return Ok(Plant::LyingDisk);
        }
        let bug = BUGS.into_iter().find(|bug| *bug == name);
        let bug = bug.with_context(|| format!("nothing can be planted that is called {name}"))?;
        if !cfg!(feature = "planted-bugs") {
            bail!("this build has no bugs that are planted: scripts/simulate makes one that has");
        }
        Ok(Plant::Bug(Bug(bug)))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Plant::LyingDisk => "lying-disk",
            Plant::Bug(bug) => bug.name(),
        }
    }
}

impl Bug {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Whether it acts in this process.
    pub fn acts(self) -> bool {
        std::env::var(CHOICE).is_ok_and(|name| name == self.0)
    }
}
