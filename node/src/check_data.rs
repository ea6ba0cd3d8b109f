//! `muster check`: whether all that a stopped node has stored is there and reads, and whether several hold the same. Changes nothing.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::check::{
    CheckWatcher, Checked, CheckedReplica, Finding, Outcome, Severity, check_folder, compare,
};
use serde_json::{Value, json};
use storage::data_dir::HeldFolder;

use crate::cli::CheckArgs;
use crate::exit::{Exit, Failure, print};
use crate::restore::View;
use crate::secret_file::random_hex;

/// Nothing is damaged.
const SOUND: u8 = 0;
/// Damage was found.
const DAMAGED: u8 = 1;
/// The folder could not be looked at.
const UNCHECKED: u8 = 2;

/// `muster check`; gives its own codes.
pub(crate) fn check_data(args: &CheckArgs) -> ExitCode {
    match look(args) {
        Ok(damaged) => ExitCode::from(if damaged { DAMAGED } else { SOUND }),
        Err(failure) => {
            failure.report();
            ExitCode::from(UNCHECKED)
        }
    }
}

/// A folder of this process alone, removed in the end: what is copied into it holds passwords' hashes.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: Option<&PathBuf>) -> Result<Scratch, Failure> {
        let parent = parent.cloned().unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("muster-check-{}", random_hex(8)));
        let made = DirBuilder::new().mode(0o700).create(&path);
        match made {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => Err(Failure::new(
                Exit::Failed,
                format!(
                    "{}: {error}: name another folder with --scratch",
                    path.display()
                ),
            )),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "{}: {error}: remove it by hand",
                self.0.display()
            );
        }
    }
}

/// What was found of a folder.
struct Looked {
    findings: Vec<Finding>,
    outcome: Outcome,
}

fn is_damage(finding: &&Finding) -> bool {
    finding.severity == Severity::Damage
}

/// Prints findings as they come; gives whether anything is damaged.
fn look(args: &CheckArgs) -> Result<bool, Failure> {
    let (mut damaged, mut reports, mut replicas) = (false, Vec::new(), Vec::new());
    for data in &args.data {
        let name = data.display().to_string();
        if args.data.len() > 1 && !args.json {
            print(&format!("{name}:\n"))?;
        }
        let Looked { findings, outcome } = look_at(data, args)?;
        let damages = findings.iter().filter(is_damage).count();
        damaged |= damages > 0;
        if args.json {
            reports.push(report(&name, &findings, &outcome));
        } else {
            print(&summary(&outcome.checked, damages))?;
        }
        replicas.push((name, outcome.replicas));
    }
    let (compared, differences) = compare(&replicas);
    damaged |= !differences.is_empty();
    let several = args.data.len() > 1;
    match (reports.pop(), args.json) {
        (Some(one), true) if !several => print(&format!("{one:#}\n"))?,
        (last, true) => {
            reports.extend(last);
            let differences: Vec<Value> = differences.iter().map(finding_report).collect();
            let all =
                json!({ "folders": reports, "compared": compared, "differences": differences });
            print(&format!("{all:#}\n"))?;
        }
        (_, false) if several => {
            for difference in &differences {
                print(&finding_text(difference))?;
            }
            print(&compared_text(compared, differences.len()))?;
        }
        (_, false) => {}
    }
    Ok(damaged)
}

/// How many partitions could be compared, and what came of it.
fn compared_text(compared: usize, differences: usize) -> String {
    match (compared, differences) {
        (0, _) => "nothing to compare: no two folders have a partition at the same entry; stop the nodes one after the other \
                   while nobody writes\n"
            .to_owned(),
        (compared, 0) => format!("{compared} partitions compared: the same\n"),
        (compared, differences) => format!("{compared} partitions compared: {differences} differ\n"),
    }
}

fn look_at(data: &Path, args: &CheckArgs) -> Result<Looked, Failure> {
    let folder = HeldFolder::hold(data).map_err(|error| Failure::from_error(Exit::Data, &error))?;
    let scratch = Scratch::make(args.scratch.as_ref())?;
    let mut watcher = Watcher {
        json: args.json,
        view: View::new(),
        findings: Vec::new(),
    };
    let outcome = check_folder(&folder, &scratch.0, &mut watcher)
        .map_err(|error| Failure::from_error(Exit::Data, &error))?;
    watcher.view.end();
    Ok(Looked {
        findings: watcher.findings,
        outcome,
    })
}

struct Watcher {
    json: bool,
    view: View,
    findings: Vec<Finding>,
}

impl CheckWatcher for Watcher {
    fn found(&mut self, finding: Finding) {
        if !self.json {
            self.view.end();
            // Where nobody reads it the exit code says it.
            let _ = print(&finding_text(&finding));
        }
        self.findings.push(finding);
    }

    fn seen(&mut self, checked: &Checked) {
        self.view.show(&counts(checked));
    }
}

fn finding_text(finding: &Finding) -> String {
    format!(
        "{}: {}: {}\n    {}\n",
        word(finding.severity),
        finding.place,
        finding.what,
        finding.advice
    )
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Damage => "damage",
    }
}

fn counts(checked: &Checked) -> String {
    format!(
        "{} log segments, {} entries, {} snapshots, {} rows of state, {} rows of the archive",
        checked.segments,
        checked.entries,
        checked.snapshots,
        checked.state_rows,
        checked.archive_rows
    )
}

fn summary(checked: &Checked, damages: usize) -> String {
    let verdict = match damages {
        0 => "sound".to_owned(),
        1 => "1 damage".to_owned(),
        damages => format!("{damages} damages"),
    };
    format!("{verdict}: {}\n", counts(checked))
}

fn finding_report(finding: &Finding) -> Value {
    json!({
        "severity": word(finding.severity),
        "place": finding.place,
        "what": finding.what,
        "advice": finding.advice,
    })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn replica_report(replica: &CheckedReplica) -> Value {
    let hash = &replica.hash;
    json!({
        "partition": replica.partition.0,
        "applied": hash.applied,
        "state": { "rows": hash.state.rows, "hash": hex(&hash.state.digest) },
        "archive": { "rows": hash.archive.rows, "hash": hex(&hash.archive.digest) },
    })
}

fn report(data: &str, findings: &[Finding], outcome: &Outcome) -> Value {
    let (checked, replicas) = (&outcome.checked, outcome.replicas.iter());
    json!({
        "data": data,
        "findings": findings.iter().map(finding_report).collect::<Vec<_>>(),
        "segments": checked.segments,
        "entries": checked.entries,
        "snapshots": checked.snapshots,
        "state_rows": checked.state_rows,
        "archive_rows": checked.archive_rows,
        "replicas": replicas.map(replica_report).collect::<Vec<_>>(),
    })
}
