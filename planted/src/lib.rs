//! Bugs that are planted on purpose, so that a test can show that the checker of `chaos-tests` catches each.
//!
//! Each is a Cargo feature `bug-…` of the crates that carry it and of `muster-node`, a few lines at the place where somebody might
//! make that mistake. Built with a feature of its own a bug always acts; with `planted-bugs`, which has all of them, acts the
//! one that the environment variable `MUSTER_PLANTED_BUG` names, or none. Without such a feature no crate depends on this one
//! and nothing of it is in the binary (`chaos-tests/tests/tidy.rs` looks for it).

use std::sync::OnceLock;

/// Names the bug that acts, in a build that has several.
pub const CHOICE: &str = "MUSTER_PLANTED_BUG";

/// A bug that may be planted. What each breaks is named as in the reliability specification, P1 to P20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log tells of a write before it is on disk: a power cut takes what was acknowledged (P1).
    AckBeforeFsync,
    /// An owner answers a proposal before a quorum has it: it dies with the owner (P1).
    AckBeforeCommit,
    /// What a client sends again after its session could not be resumed is taken for new: it is there twice (P6).
    DedupSkippedOnResume,
    /// A snapshot lacks the table of what was sent lately: replicas made from it are not the same (P16), and what is sent again
    /// to them is there twice (P6).
    DedupNotInSnapshot,
    /// A node answers questions from its own replica, without asking anybody whether that is current (P9).
    FollowerRead,
    /// A node whose disk was wiped takes part again under its old id: with it, a majority may have forgotten what it
    /// acknowledged (P1).
    WipedNodeReturns,
    /// Only the replica of the owner notes that somebody is banned: under the next owner they are not (P12).
    BanOnOneNode,
    /// An archive's page is put in order by the time stamps of its rows, which do not tell rows of one batch apart (P3, P5).
    ArchiveByWallClock,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 8] = [
        Bug::AckBeforeFsync,
        Bug::AckBeforeCommit,
        Bug::DedupSkippedOnResume,
        Bug::DedupNotInSnapshot,
        Bug::FollowerRead,
        Bug::WipedNodeReturns,
        Bug::BanOnOneNode,
        Bug::ArchiveByWallClock,
    ];

    /// The name of its feature, without `bug-`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Bug::AckBeforeFsync => "ack-before-fsync",
            Bug::AckBeforeCommit => "ack-before-commit",
            Bug::DedupSkippedOnResume => "dedup-skipped-on-resume",
            Bug::DedupNotInSnapshot => "dedup-not-in-snapshot",
            Bug::FollowerRead => "follower-read",
            Bug::WipedNodeReturns => "wiped-node-returns",
            Bug::BanOnOneNode => "ban-on-one-node",
            Bug::ArchiveByWallClock => "archive-by-wall-clock",
        }
    }
}

/// Whether a bug that is compiled in acts in this process.
#[must_use]
pub fn acts(bug: Bug) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    if !cfg!(feature = "chosen") {
        return true;
    }
    let chosen = CHOSEN.get_or_init(|| std::env::var(CHOICE).ok());
    chosen.as_deref() == Some(bug.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let mut names = Bug::ALL.map(Bug::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
