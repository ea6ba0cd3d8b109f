//! `muster ctl cluster`: the version that the pool is at, and how it comes to the next one.

use web::report::cluster::{FinaliseReport, FinaliseRequest, MemberVersion, VersionsReport};

use super::client::Client;
use super::table::{table, yes};
use super::{confirm, print_json};
use crate::cli::ClusterCommand;
use crate::exit::{Failure, print};

/// `muster ctl cluster`
pub(super) fn run(client: &Client, json: bool, command: &ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Version => version(client, json),
        ClusterCommand::Finalize {
            version,
            dry_run,
            yes,
        } => {
            let request = FinaliseRequest { version: *version };
            finalize(client, json, request, (*dry_run, *yes))
        }
    }
}

fn version(client: &Client, json: bool) -> Result<(), Failure> {
    let report: VersionsReport = client.get("/v1/cluster/version")?;
    if json {
        return print_json(&report);
    }
    print(&versions_text(&report))
}

fn versions_text(report: &VersionsReport) -> String {
    let VersionsReport {
        version,
        newest,
        members,
        partitions,
    } = report;
    let there = partitions.iter();
    let there = there.filter(|row| row.version >= u32::from(*version));
    let mut out = format!(
        "The pool is at version {version}; {} of {} partitions here are.\n",
        there.count(),
        partitions.len()
    );
    let behind = members.iter().filter(|member| !member.fits).count();
    out.push_str(&match (newest > version, behind) {
        (false, _) => "No member runs a build that supports a newer one.\n\n".to_owned(),
        (true, 0) => format!(
            "All members run builds that support version {newest}: muster ctl cluster finalize\n\n"
        ),
        (true, behind) => format!(
            "Version {newest} can be finalised when all members run builds that support it; {behind} do not.\n\n"
        ),
    });
    let row = |member: &MemberVersion| {
        let (name, supports) = match &member.build {
            Some(build) => (build.name.clone(), build.supports.to_string()),
            None => ("never started".to_owned(), "-".to_owned()),
        };
        let fits = yes(member.fits).to_owned();
        vec![member.node.to_string(), name, supports, fits]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    out.push_str(&table(&["NODE", "BUILD", "VERSIONS", "FITS"], &rows));
    out
}

fn finalize(
    client: &Client,
    json: bool,
    mut request: FinaliseRequest,
    (dry_run, yes): (bool, bool),
) -> Result<(), Failure> {
    const PATH: &str = "/v1/cluster/finalize";
    if dry_run || !yes {
        let plan: FinaliseReport = client.post(&format!("{PATH}?dry_run=true"), &request)?;
        if dry_run && json {
            return print_json(&plan);
        }
        if dry_run || plan.from == plan.to {
            return print(&plan_text(&plan));
        }
        confirm(&plan_text(&plan), &format!("finalize version {}", plan.to))?;
        // What was shown, and not what may have become newest meanwhile.
        request.version = Some(plan.to);
    }
    let done: FinaliseReport = client.post(PATH, &request)?;
    match json {
        true => print_json(&done),
        false => print(&format!(
            "The pool is at version {}; its partitions follow within moments: muster ctl cluster version\n",
            done.to
        )),
    }
}

fn plan_text(plan: &FinaliseReport) -> String {
    let FinaliseReport { from, to, .. } = plan;
    if from == to {
        return format!("The pool is at version {to}: nothing to be done\n");
    }
    format!(
        "The pool goes from version {from} to version {to}. There is no way back: builds that do not support version {to} \
         can't take part any more.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use web::report::cluster::{BuildReport, PartitionVersion, VersionSpan};

    fn member(node: u64, max: u16, fits: bool) -> MemberVersion {
        let supports = VersionSpan { min: 1, max };
        MemberVersion {
            node,
            build: Some(BuildReport {
                name: format!("0.{max}"),
                supports,
            }),
            fits,
        }
    }

    #[test]
    fn versions_as_people_read_them() {
        let mut report = VersionsReport {
            version: 1,
            newest: 2,
            members: vec![
                member(1, 2, true),
                member(2, 1, false),
                MemberVersion {
                    node: 3,
                    build: None,
                    fits: true,
                },
            ],
            partitions: vec![PartitionVersion {
                partition: 0,
                version: 1,
            }],
        };
        let expected = "\
The pool is at version 1; 1 of 1 partitions here are.
Version 2 can be finalised when all members run builds that support it; 1 do not.

NODE  BUILD          VERSIONS  FITS
1     0.2            1-2       yes
2     0.1            1         NO
3     never started  -         yes
";
        assert_eq!(versions_text(&report), expected);
        report.members[1] = member(2, 2, true);
        assert!(versions_text(&report).contains("muster ctl cluster finalize"));
        report.version = 2;
        let text = versions_text(&report);
        assert!(
            text.starts_with("The pool is at version 2; 0 of 1 partitions here are.\nNo member")
        );
    }

    #[test]
    fn plans_say_that_there_is_no_way_back() {
        let plan = |from, to| FinaliseReport {
            from,
            to,
            done: false,
        };
        assert!(plan_text(&plan(1, 2)).contains("no way back"));
        assert!(plan_text(&plan(2, 2)).contains("nothing to be done"));
    }
}
