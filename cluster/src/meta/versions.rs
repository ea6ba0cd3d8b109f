//! The version that the pool is at, and the build of each node's last start.
//!
//! Invariants: the pool's version never falls. Every member that has ever started started last with a build that supports
//! it: a start with another build is refused, and so is a version that not all of these builds support. So whoever reads
//! what the others write can read all of it ([`crate::version`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};
use storage::state_store::Table;

use super::access::{StoredRow, bounded};
use super::members::Members;
use super::replica::{MetaAnswer, MetaRefusal, Verdict};
use crate::node_id::{Incarnation, NodeId};
use crate::version::{Build, FIRST, VersionRange};

/// The longest name of a build that is kept.
const NAME_BYTES_MAX: usize = 64;

const POOL_TABLE: Table = Table(4);
const BUILDS_TABLE: Table = Table(5);

/// The word of every refusal because builds and versions don't go together.
pub const SKEW: &str = "version-skew";

/// Entries about versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionEntry {
    /// A node begins a new life with this build; the entry's index is its incarnation.
    Started {
        /// Which.
        node: NodeId,
        /// With what.
        build: Build,
    },
    /// An operator has decided that the pool is at this version from now on.
    Finalised {
        /// The version.
        version: u16,
    },
}

/// The pool's version, if one was finalised.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredVersion(u16);

impl Record for StoredVersion {
    const VERSION: u8 = 1;
    const NAME: &'static str = "meta-version";
}

/// The build of a node's last start.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredBuild(Build);

impl Record for StoredBuild {
    const VERSION: u8 = 1;
    const NAME: &'static str = "meta-build";
}

/// What the meta group knows of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// What was finalised; `None`: nothing yet.
    finalised: Option<u16>,
    /// The build of each node's last start; not of nodes whose build did not say.
    pub builds: BTreeMap<NodeId, Build>,
}

impl Versions {
    /// The version that the pool is at.
    pub fn pool(&self) -> u16 {
        self.finalised.unwrap_or(FIRST)
    }

    /// What the build of a node's last start supports.
    pub fn supported_by(&self, node: NodeId) -> VersionRange {
        let build = self.builds.get(&node);
        build.map_or(VersionRange::UNTOLD, |build| build.supports)
    }

    /// The newest version that the build of any member supports.
    pub fn newest(&self, members: &Members) -> u16 {
        let present = members.present().map(|(node, _)| node);
        let newest = present.map(|node| self.supported_by(node).max);
        newest.max().unwrap_or(FIRST).max(self.pool())
    }

    /// Whether a build may take part in the pool as it is.
    ///
    /// # Errors
    /// `version-skew`, with what to do.
    pub fn admits(&self, build: &Build) -> Result<(), MetaRefusal> {
        let pool = self.pool();
        if build.supports.contains(pool) {
            return Ok(());
        }
        let what = if build.supports.max < pool {
            "it is too old: take a newer build"
        } else {
            "it is too new: take a build that supports the pool's version, and finalise what comes after it first"
        };
        Err(MetaRefusal::new(
            SKEW,
            format!("the pool is at version {pool}, and this is {build}: {what}"),
        ))
    }

    /// What a pool begins with that is at a version and none of whose nodes has ever started.
    pub fn of_new_pool(version: u16) -> Versions {
        Versions {
            finalised: (version > FIRST).then_some(version),
            builds: BTreeMap::new(),
        }
    }

    /// A node starts. One whose build did not say what it supports is of the first version.
    pub(super) fn start(&mut self, node: NodeId, build: Option<Build>) -> Result<(), MetaRefusal> {
        let Some(build) = build else {
            let untold = Build::untold();
            self.admits(&untold)?;
            // Rows of the store are only ever put.
            if let Some(known) = self.builds.get_mut(&node) {
                *known = untold;
            }
            return Ok(());
        };
        let build = Build {
            name: bounded(&build.name, NAME_BYTES_MAX),
            ..build
        };
        self.admits(&build)?;
        self.builds.insert(node, build);
        Ok(())
    }

    /// Whether a version may be finalised; `false`: it is already.
    ///
    /// # Errors
    /// `version-passed`, `not-ready`, `version-skew`.
    pub fn judge(
        &self,
        members: &Members,
        starts: &BTreeMap<NodeId, Incarnation>,
        version: u16,
    ) -> Result<bool, MetaRefusal> {
        let pool = self.pool();
        if version == pool {
            return Ok(false);
        }
        if version < pool {
            return Err(MetaRefusal::new(
                "version-passed",
                format!("the pool is at version {pool}, and there is no way back to {version}"),
            ));
        }
        if members.rows.is_empty() {
            return Err(MetaRefusal::new(
                "not-ready",
                "the pool has not yet noted its first members; try again in a moment",
            ));
        }
        // Who was let in and has never run is judged at its start.
        let started = members.present().map(|(node, _)| node);
        let started = started.filter(|node| starts.contains_key(node));
        let lacking: Vec<String> = started
            .filter(|node| !self.supported_by(*node).contains(version))
            .map(|node| match self.builds.get(&node) {
                Some(build) => format!("{node} last ran {build}"),
                None => format!("{node} last ran {}", Build::untold()),
            })
            .collect();
        if lacking.is_empty() {
            return Ok(true);
        }
        Err(MetaRefusal::new(
            SKEW,
            format!(
                "version {version} is not supported everywhere: {}. Upgrade what is behind, or remove what will not come back",
                lacking.join("; ")
            ),
        ))
    }

    pub(super) fn finalise(
        &mut self,
        members: &Members,
        starts: &BTreeMap<NodeId, Incarnation>,
        version: u16,
    ) -> Verdict {
        if self.judge(members, starts, version)? {
            self.finalised = Some(version);
        }
        Ok(MetaAnswer::Done)
    }

    pub(super) fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let mut rows = Vec::new();
        if let Some(version) = self.finalised {
            let value = codec::encode(&StoredVersion(version))?;
            rows.push((POOL_TABLE, codec::row_bytes(&())?, value));
        }
        for (node, build) in &self.builds {
            let value = codec::encode(&StoredBuild(build.clone()))?;
            rows.push((BUILDS_TABLE, codec::row_bytes(node)?, value));
        }
        Ok(rows)
    }

    /// Takes a row, if it is one of these.
    pub(super) fn load_row(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, CodecError> {
        match table {
            POOL_TABLE => {
                self.finalised = Some(codec::decode::<StoredVersion>(value)?.0);
            }
            BUILDS_TABLE => {
                let build: StoredBuild = codec::decode(value)?;
                self.builds.insert(codec::body(key)?, build.0);
            }
            Table(_) => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
