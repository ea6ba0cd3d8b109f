//! The version that the pool is at, and who supports which.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Versions from the lowest to the highest, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionSpan {
    /// Lowest version.
    pub min: u16,
    /// Highest version.
    pub max: u16,
}

impl std::fmt::Display for VersionSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}-{}", self.min, self.max),
        }
    }
}

/// A build of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildReport {
    /// What it is called.
    pub name: String,
    /// The versions of the pool that it can take part in.
    pub supports: VersionSpan,
}

/// The build of a member's last start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberVersion {
    /// The member's id.
    pub node: u64,
    /// The build; nothing if it has never started.
    pub build: Option<BuildReport>,
    /// Whether it does not stand in the way of the newest version.
    pub fits: bool,
}

/// The version that a partition is at, by its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionVersion {
    /// Its number.
    pub partition: u16,
    /// The version.
    pub version: u32,
}

/// The versions of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionsReport {
    /// The version that the pool is at, as far as the node that was asked has heard.
    pub version: u16,
    /// The newest that the build of any member supports: what would be finalised.
    pub newest: u16,
    /// All members.
    pub members: Vec<MemberVersion>,
    /// The partitions that the node that was asked has a replica of. They come to the pool's version by themselves, each
    /// within moments of having an owner.
    pub partitions: Vec<PartitionVersion>,
}

/// What is to be finalised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinaliseRequest {
    /// The version; nothing: the newest that the build of any member supports.
    #[serde(default)]
    pub version: Option<u16>,
}

/// What a finalisation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FinaliseReport {
    /// The version that the pool is at before it.
    pub from: u16,
    /// And after it.
    pub to: u16,
    /// Whether it was done; else it was only planned.
    pub done: bool,
}
