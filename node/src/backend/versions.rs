//! Versions, in the port's terms.

use actors::runtime::{Finalisation, MemberBuild, NodeHandle, PoolVersions};
use cluster::version::{Build, VersionRange};
use web::backend::BackendError;
use web::report::cluster::{
    BuildReport, FinaliseReport, MemberVersion, PartitionVersion, VersionSpan, VersionsReport,
};

use super::not_done;

pub(crate) fn span(range: VersionRange) -> VersionSpan {
    VersionSpan {
        min: range.min,
        max: range.max,
    }
}

pub(super) fn build(build: Build) -> BuildReport {
    BuildReport {
        name: build.name,
        supports: span(build.supports),
    }
}

/// What a machine that wants to join says that it runs; one that does not say so is from before there were versions.
pub(super) fn told(told: Option<&BuildReport>) -> Build {
    told.map_or_else(Build::untold, |told| Build {
        name: told.name.clone(),
        supports: VersionRange {
            min: told.supports.min,
            max: told.supports.max,
        },
    })
}

pub(super) fn of(handle: &NodeHandle) -> VersionsReport {
    let PoolVersions {
        version,
        newest,
        members,
        partitions,
    } = handle.versions();
    let member = |member: MemberBuild| MemberVersion {
        node: member.node,
        build: member.build.map(build),
        fits: member.fits,
    };
    let partition = |(partition, version)| PartitionVersion { partition, version };
    VersionsReport {
        version,
        newest,
        members: members.into_iter().map(member).collect(),
        partitions: partitions.into_iter().map(partition).collect(),
    }
}

fn report(Finalisation { from, to }: Finalisation, done: bool) -> FinaliseReport {
    FinaliseReport { from, to, done }
}

pub(super) fn plan(
    handle: &NodeHandle,
    version: Option<u16>,
) -> Result<FinaliseReport, BackendError> {
    let planned = handle.plan_finalisation(version).map_err(not_done)?;
    Ok(report(planned, false))
}

pub(super) async fn finalise(
    handle: &NodeHandle,
    version: Option<u16>,
) -> Result<FinaliseReport, BackendError> {
    let done = handle.finalise(version).await.map_err(not_done)?;
    Ok(report(done, true))
}
