//! `muster-bench compare`: the suite on ejabberd, Prosody and Muster in turn, in one run, side by side.
//!
//! One server runs at a time, each with the same settings ([`crate::server`]), the same load in the same order. What was
//! found can be kept as JSON and shown again: as a table for people ([`markdown`]) or as a page with plots ([`html`]).

pub(crate) mod html;
mod markdown;
mod metric;
pub(crate) mod plot;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cli::TargetArgs;
use crate::disk::Disk;
use crate::machine::{Machine, utc_now};
use crate::report::Row;
use crate::server::{Kind, description};
use crate::site::SiteArgs;
use crate::suite::{self, Measured, Part, Plan, Scale};
use crate::target::Security;

/// `muster-bench compare`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// The servers, with commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) servers: Vec<Kind>,
    /// Only these parts of the suite, with commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// A few seconds a part, with few sessions: whether all works, not what it costs
    #[arg(long, conflicts_with_all = ["seconds", "idle_sessions", "idle_settle", "logins", "rooms", "occupants",
        "presence_users", "senders", "archived_messages"])]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) scale: Scale,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `muster-bench report`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// What `compare --save` or `compare --json` wrote
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How a comparison is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Print the table as Markdown with everything that belongs to it, for a document
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Write a page with plots here
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Write all that was found here, as JSON
    #[arg(long)]
    pub(crate) save: Option<PathBuf>,
    /// Put the Markdown into this document, in place of what stands between `<!-- figures -->` and `<!-- /figures -->`
    #[arg(long)]
    pub(crate) update: Option<PathBuf>,
}

impl OutputArgs {
    /// Refuses a document without a place for figures: better before the run than after it.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.update {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("{}", file.display()))?;
            markdown::replaced(&text, "").with_context(|| format!("{}", file.display()))?;
        }
        Ok(())
    }
}

/// What one server did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    /// What it is: versions, and what it does with what it is given.
    pub(crate) description: String,
    pub(crate) measured: Vec<Measured>,
    /// Why there is not more, if something failed.
    pub(crate) failure: Option<String>,
}

/// All that was found in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) machine: Machine,
    /// The command that made it.
    pub(crate) command: String,
    /// When it began, UTC.
    pub(crate) began: String,
    /// How long it took, in seconds.
    pub(crate) seconds: u64,
    pub(crate) is_quick: bool,
    /// How clients connected, but where a part says otherwise.
    pub(crate) security: String,
    pub(crate) scale: Scale,
    pub(crate) contenders: Vec<Contender>,
}

/// Runs it. A server that fails is a column with a reason, not the end of the others.
pub(crate) async fn run(
    args: &CompareArgs,
    target: &TargetArgs,
    mut machine: Machine,
    command: String,
) -> anyhow::Result<Comparison> {
    args.output.check()?;
    let site = args.site.site()?;
    let security = target.security.unwrap_or(Security::Tls);
    let plan = Plan {
        parts: Part::chosen(&args.only),
        scale: match args.quick {
            true => Scale::QUICK,
            false => args.scale,
        },
        security,
    };
    let is_wanted = |kind: &Kind| args.servers.is_empty() || args.servers.contains(kind);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_wanted).collect();
    // Before anything is measured: what is not installed is missed now, not after ten minutes.
    let mut contenders = Vec::with_capacity(kinds.len());
    for kind in kinds {
        contenders.push(Contender {
            kind,
            description: description(kind, &site)?,
            measured: Vec::new(),
            failure: None,
        });
    }
    let (began, start) = (utc_now(), std::time::Instant::now());
    machine.disk = Some(Disk::measure(&site.dir)?);
    for contender in &mut contenders {
        let mut measured = Vec::new();
        let done = suite::run(contender.kind, &site, &plan, target, &mut measured);
        if let Err(error) = Box::pin(done).await {
            eprintln!("{}: {error:#}", contender.kind.name());
            contender.failure = Some(format!("{error:#}"));
        }
        contender.measured = measured;
    }
    Ok(Comparison {
        machine,
        command,
        began,
        seconds: start.elapsed().as_secs(),
        is_quick: args.quick,
        security: security.name().to_owned(),
        scale: plan.scale,
        contenders,
    })
}

impl Contender {
    /// What it did in a part, if it came to that.
    pub(crate) fn row(&self, part: Part) -> Option<&Row> {
        let measured = self
            .measured
            .iter()
            .find(|measured| measured.part == part)?;
        Some(&measured.row)
    }
}

impl Comparison {
    /// Reads what `--save` wrote.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Comparison> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} holds no comparison", file.display()))
    }

    /// Writes the files that are asked for, and gives what is to be printed.
    pub(crate) fn shown(&self, json: bool, output: &OutputArgs) -> anyhow::Result<String> {
        let text = format!("{}\n", serde_json::to_string_pretty(self)?);
        if let Some(file) = &output.save {
            std::fs::write(file, &text).with_context(|| format!("{}", file.display()))?;
        }
        if let Some(file) = &output.html {
            let page = html::page(self);
            std::fs::write(file, page).with_context(|| format!("{}", file.display()))?;
        }
        if let Some(file) = &output.update {
            let old = std::fs::read_to_string(file);
            let old = old.with_context(|| format!("{}", file.display()))?;
            let new = markdown::replaced(&old, &markdown::document(self))?;
            std::fs::write(file, new).with_context(|| format!("{}", file.display()))?;
        }
        Ok(match (json, output.markdown) {
            (true, _) => text,
            (false, true) => markdown::document(self),
            (false, false) => markdown::plain(self),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
