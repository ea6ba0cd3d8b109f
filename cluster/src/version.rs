//! Versions: what a build can read and write, and what its pool has agreed on.
//!
//! One number counts all that nodes must have in common: the frames between them, the entries of the logs, the rows of the
//! replicated state, and how entries are applied. A build *supports* a range of versions: it reads and applies all of them,
//! and writes any of them. A pool *is at* one version, which only an operator raises, and which never falls.
//!
//! ```text
//!   builds   1..1   1..1   1..1      each member's range, by its start entry in the meta log
//!            1..2   1..1   1..1      mixed: everything is written as of version 1
//!            1..2   1..2   1..2      all can read 2: it may be finalised, or they may all go back
//!   finalise ───► meta log ───► each node: its data folder, its hellos ───► each partition's log, by its owner
//! ```
//!
//! Invariant: **what only version N can read is written only after N is finalised, and it is finalised only while every
//! member's last start was of a build that supports it; a start of any other build is refused from then on.** Both are
//! entries of one log, so one of the two comes first.
//!
//! While there is only one version, the feature `next-version` makes a build that supports a second one; see [`NEWEST`].

use serde::{Deserialize, Serialize};

/// The version of pools that nobody has finalised.
pub const FIRST: u16 = 1;

/// The newest version that this build supports. Version 2, which only the feature `next-version` has, seals the entries of
/// partitions' logs ([`crate::records`]) and dates what owners send to nodes ([`crate::link::protocol::Down::encode_as`]).
pub const NEWEST: u16 = if cfg!(feature = "next-version") { 2 } else { 1 };

/// What this build is called.
pub const BUILD_NAME: &str = if cfg!(feature = "next-version") {
    concat!(env!("CARGO_PKG_VERSION"), "+next")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Versions from the lowest to the highest, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRange {
    /// Lowest version.
    pub min: u16,
    /// Highest version.
    pub max: u16,
}

impl VersionRange {
    /// What this build supports.
    pub const SUPPORTED: VersionRange = VersionRange {
        min: FIRST,
        max: NEWEST,
    };

    /// What builds supported before they said so.
    pub const UNTOLD: VersionRange = VersionRange {
        min: FIRST,
        max: FIRST,
    };

    /// Whether a version is in it.
    pub fn contains(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The highest version in both ranges.
    pub fn agree(self, other: VersionRange) -> Option<u16> {
        let version = self.max.min(other.max);
        (version >= self.min.max(other.min)).then_some(version)
    }

    /// What is left of it above a version, that included. Empty if it ends below.
    #[must_use]
    pub fn from(self, version: u16) -> VersionRange {
        VersionRange {
            min: self.min.max(version),
            max: self.max,
        }
    }
}

impl std::fmt::Display for VersionRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// A build of the program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Build {
    /// What it is called, for people: nothing goes by it.
    pub name: String,
    /// The versions that it reads, applies and writes.
    pub supports: VersionRange,
}

impl Build {
    /// This one.
    pub fn own() -> Build {
        Build {
            name: BUILD_NAME.to_owned(),
            supports: VersionRange::SUPPORTED,
        }
    }

    /// One from before builds said what they are.
    pub fn untold() -> Build {
        Build {
            name: "unknown".to_owned(),
            supports: VersionRange::UNTOLD,
        }
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "build {}, which supports versions {}",
            self.name, self.supports
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> VersionRange {
        VersionRange { min, max }
    }

    #[test]
    fn versions_are_negotiated() {
        let check = |a: (u16, u16), b: (u16, u16), expect| {
            let (a, b) = (range(a.0, a.1), range(b.0, b.1));
            assert_eq!(a.agree(b), expect);
            assert_eq!(b.agree(a), expect);
        };
        check((1, 1), (1, 1), Some(1));
        check((1, 2), (2, 3), Some(2));
        check((1, 5), (2, 3), Some(3));
        check((1, 1), (2, 3), None);
        check((4, 1), (1, 4), None);
        // Once a version is finalised, what is below it is no longer spoken.
        check((2, 2), (1, 1), None);
        check((2, 2), (1, 2), Some(2));
    }

    #[test]
    fn ranges_end_and_begin_where_they_say() {
        let two = range(2, 3);
        let check = |version, expect| assert_eq!(two.contains(version), expect, "{version}");
        check(1, false);
        check(2, true);
        check(3, true);
        check(4, false);
        assert_eq!(two.from(1), two);
        assert_eq!(two.from(3), range(3, 3));
        assert_eq!(two.from(4).agree(two), None);
    }

    #[test]
    fn this_build_supports_the_first_version() {
        assert!(VersionRange::SUPPORTED.contains(FIRST));
        assert_eq!(Build::own().supports, VersionRange::SUPPORTED);
    }
}
