//! `muster check`: whether all that a stopped node has stored is there and reads. Changes nothing.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use cluster::check::{CheckWatcher, Checked, Finding, Severity, check_folder};
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

/// Prints findings as they come; gives whether anything is damaged.
fn look(args: &CheckArgs) -> Result<bool, Failure> {
    let folder =
        HeldFolder::hold(&args.data).map_err(|error| Failure::from_error(Exit::Data, &error))?;
    let scratch = Scratch::make(args.scratch.as_ref())?;
    let mut watcher = Watcher {
        json: args.json,
        view: View::new(),
        findings: Vec::new(),
    };
    let checked = check_folder(&folder, &scratch.0, &mut watcher)
        .map_err(|error| Failure::from_error(Exit::Data, &error))?;
    watcher.view.end();
    let damages = |finding: &&Finding| finding.severity == Severity::Damage;
    let damages = watcher.findings.iter().filter(damages).count();
    match args.json {
        true => print(&format!("{:#}\n", report(&watcher.findings, &checked)))?,
        false => print(&summary(&checked, damages))?,
    }
    Ok(damages > 0)
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
            let text = format!(
                "{}: {}: {}\n    {}\n",
                word(finding.severity),
                finding.place,
                finding.what,
                finding.advice
            );
            // Where nobody reads it the exit code says it.
            let _ = print(&text);
        }
        self.findings.push(finding);
    }

    fn seen(&mut self, checked: &Checked) {
        self.view.show(&counts(checked));
    }
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

fn report(findings: &[Finding], checked: &Checked) -> Value {
    let findings = findings.iter().map(|finding| {
        json!({
            "severity": word(finding.severity),
            "place": finding.place,
            "what": finding.what,
            "advice": finding.advice,
        })
    });
    json!({
        "findings": findings.collect::<Vec<_>>(),
        "segments": checked.segments,
        "entries": checked.entries,
        "snapshots": checked.snapshots,
        "state_rows": checked.state_rows,
        "archive_rows": checked.archive_rows,
    })
}
