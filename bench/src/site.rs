//! Which binary is measured, and where its servers' folders are made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::server::Certificates;

/// Options of all that starts servers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SiteArgs {
    /// Muster's binary
    #[arg(long, default_value = "target/release/muster")]
    binary: PathBuf,
    /// Where the servers' folders are made, on the disk that is to be measured [default: beside the binary]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep the servers' folders with their logs
    #[arg(long)]
    keep: bool,
}

impl SiteArgs {
    /// Makes the certificates that clients see.
    ///
    /// # Errors
    /// The folder is not there, or takes no files.
    pub(crate) fn site(&self) -> anyhow::Result<Site> {
        let beside = || self.binary.parent().unwrap_or(Path::new(".")).to_owned();
        let dir = self.dir.clone().unwrap_or_else(beside).canonicalize()?;
        Ok(Site {
            binary: self.binary.clone(),
            certificates: Arc::new(Certificates::make(&dir)?),
            dir,
            keep: self.keep,
        })
    }
}

/// Where servers come from and where they live.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Muster's binary.
    pub(crate) binary: PathBuf,
    /// Where each server's folder is made.
    pub(crate) dir: PathBuf,
    /// Whether folders are kept.
    pub(crate) keep: bool,
    /// What clients see.
    pub(crate) certificates: Arc<Certificates>,
}
