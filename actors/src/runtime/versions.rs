//! The version that the pool is at, on this node: what it goes by, who else runs what, and how an operator raises it.
//!
//! ```text
//!   finalise ─► meta log ─► every node: data folder, then hellos, then [`Fabric::may_write`] ─► owners ─► partitions' logs
//! ```
//!
//! Invariant: a node writes nothing as of a version before its data folder says that the pool is at it and its transport
//! refuses whoever can't read it. Each step follows from the one before it, so whatever a crash leaves undone is done by
//! the next look.

use std::sync::Arc;

use cluster::meta::versions::{SKEW, VersionEntry, Versions};
use cluster::meta::{MetaEntry, MetaReplica, MetaState};
use cluster::node_id::NodeId;
use cluster::version::{Build, VersionRange};
use serde::Serialize;

use super::meta_road::OperationError;
use super::{NodeHandle, Settings, StartError};
use crate::fabric::Fabric;

/// The build of a member's last start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberBuild {
    /// The member.
    pub node: u64,
    /// The build; `None`: it has never started.
    pub build: Option<Build>,
    /// Whether it supports the version that would be finalised.
    pub fits: bool,
}

/// The versions of a pool and its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolVersions {
    /// What the pool is at.
    pub version: u16,
    /// The newest that the build of any member supports.
    pub newest: u16,
    /// All members, by id.
    pub members: Vec<MemberBuild>,
    /// Partitions with a replica here, and the version that each is at by its log.
    pub partitions: Vec<(u16, u32)>,
}

/// What a finalisation would do, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Finalisation {
    /// What the pool is at before it.
    pub from: u16,
    /// What it is at after it; the same: nothing is to be done.
    pub to: u16,
}

/// A build that the folder's or the meta group's word rules out ends its start.
pub(super) fn refuse_skew(settings: &Settings, meta: &MetaReplica) -> Result<(), StartError> {
    judged(&meta.state().versions, &settings.build)
}

fn judged(versions: &Versions, build: &Build) -> Result<(), StartError> {
    let judged = versions.admits(build);
    judged.map_err(|refusal| StartError::VersionSkew(refusal.sentence))
}

/// First of all, before log and stores are opened: the data folder may hold what this build can't read.
pub(super) fn refuse_folder(settings: &Settings) -> Result<(), StartError> {
    let (version, build) = (settings.data.pool_version()?, &settings.build);
    if version <= build.supports.max {
        return Ok(());
    }
    Err(StartError::VersionSkew(format!(
        "the data folder {} is of a pool at version {version}, and this is {build}: it is too old: take a newer build",
        settings.data.path().display()
    )))
}

/// What others say who refuse this node because of its build: more than half of them, or nobody knows yet.
pub(super) fn refused_by(build: &Build, skews: &[(NodeId, VersionRange)]) -> StartError {
    let said: Vec<String> = skews
        .iter()
        .map(|(node, range)| format!("{node} speaks {range}"))
        .collect();
    StartError::VersionSkew(format!(
        "this is {build}, and other nodes speak no version in common with it ({}): the pool has come to another version",
        said.join(", ")
    ))
}

/// Goes by the pool's version from now on, if this node did not yet.
pub(super) async fn follow(fabric: &Arc<Fabric>) {
    let version = fabric.meta.state().versions.pool();
    if version <= fabric.may_write() {
        return;
    }
    let data = Arc::clone(&fabric.settings.data);
    let noted = tokio::task::spawn_blocking(move || match data.pool_version()? {
        known if known >= version => Ok(()),
        _ => data.note_pool_version(version),
    });
    match noted.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            return tracing::error!(%error, version, "the data folder does not take the pool's version; tried again");
        }
        Err(error) => return tracing::error!(%error, "noting the pool's version failed"),
    }
    fabric.transport.speak_from(version);
    fabric.write_as_of(version);
    tracing::info!(version, "the pool is at a version");
}

impl NodeHandle {
    /// Who runs what, and what the pool is at.
    pub fn versions(&self) -> PoolVersions {
        let fabric = &self.inner.fabric;
        let replicas = fabric.partitions.iter();
        let replicas = replicas.filter(|place| fabric.votes_in(place.id));
        let partitions = replicas.map(|place| (place.id.0, place.replica.version()));
        let partitions = partitions.collect();
        let state = fabric.meta.state();
        let versions = &state.versions;
        let newest = versions.newest(&state.members);
        let member = |(node, _)| {
            let started = state.starts.contains_key(&node);
            let build = versions.builds.get(&node).cloned();
            let build = build.or_else(|| started.then(Build::untold));
            MemberBuild {
                node: node.0,
                fits: build
                    .as_ref()
                    .is_none_or(|build| build.supports.contains(newest)),
                build,
            }
        };
        PoolVersions {
            version: versions.pool(),
            newest,
            members: state.members.present().map(member).collect(),
            partitions,
        }
    }

    /// What [`NodeHandle::finalise`] would do.
    ///
    /// # Errors
    /// Those with which it would be refused now.
    pub fn plan_finalisation(&self, version: Option<u16>) -> Result<Finalisation, OperationError> {
        let state = self.inner.fabric.meta.state();
        let versions = &state.versions;
        let to = version.unwrap_or_else(|| versions.newest(&state.members));
        versions.judge(&state.members, &state.starts, to)?;
        Ok(Finalisation {
            from: versions.pool(),
            to,
        })
    }

    /// Brings the pool to a version, for good; `None`: the newest that any member supports. Asked for again it is the same.
    /// The partitions follow by themselves.
    ///
    /// # Errors
    /// `version-skew` while a member does not support it, `version-passed`, `not-ready`, and those of all changes.
    pub async fn finalise(&self, version: Option<u16>) -> Result<Finalisation, OperationError> {
        let planned = {
            let state = self.inner.fabric.meta.state();
            Finalisation {
                from: state.versions.pool(),
                to: version.unwrap_or_else(|| state.versions.newest(&state.members)),
            }
        };
        let entry = VersionEntry::Finalised {
            version: planned.to,
        };
        self.decide(MetaEntry::Version(entry)).await?;
        Ok(planned)
    }

    /// Whether a build could take part in the pool as it is.
    ///
    /// # Errors
    /// `version-skew`.
    pub(super) fn check_build(&self, build: &Build) -> Result<(), OperationError> {
        let state = self.inner.fabric.meta.state();
        state.versions.admits(build).map_err(OperationError::from)
    }
}

/// Whether all who would take over what a node does run builds that fit the pool. Starts and finalisations see to it that they
/// do; a pool of which that is not so shall not be changed on top of it.
///
/// # Errors
/// `version-skew`.
pub(super) fn refuse_unfit(state: &MetaState, without: NodeId) -> Result<(), OperationError> {
    let pool = state.versions.pool();
    let heirs = state.members.present();
    let heirs = heirs.filter(|(node, row)| *node != without && row.phase.serves());
    let mut heirs = heirs.map(|(node, _)| node);
    let unfit = heirs.find(|node| {
        let fits = state.versions.supported_by(*node).contains(pool);
        state.starts.contains_key(node) && !fits
    });
    match unfit {
        None => Ok(()),
        Some(node) => Err(OperationError::new(
            SKEW,
            format!(
                "{node} would take over, and its build does not support version {pool}, which the pool is at"
            ),
        )),
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
