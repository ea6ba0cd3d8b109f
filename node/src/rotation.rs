//! Certificates that change while the node runs: read anew on SIGHUP and when their files have changed.
//!
//! All are taken or none: a file that is wrong is named in the log, and what was shown before stays. Connections that are
//! open stay as they are; whoever connects next sees the new certificate.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actors::runtime::NodeHandle;
use cluster::transport::ClusterTls;
use rustls::crypto::CryptoProvider;
use time::OffsetDateTime;

use crate::certificate::{Shown, ShownByName};
use crate::config::ConfigFile;
use crate::config::error::ConfigError;
use crate::config::pool_file::PoolFile;
use crate::identities::{CertificateEnd, Identities};

/// How often the files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Whoever is warned this long before the end has time to act.
const WARN_BEFORE: i64 = 14 * DAY;

/// How often a warning is said again.
const WARN_EVERY: Duration = Duration::from_secs(DAY as u64);

const DAY: i64 = 24 * 60 * 60;

/// What can be told from a file without reading it.
type Stamp = Option<(SystemTime, u64, u64)>;

/// The files of a node's certificates, and who shows them.
pub(crate) struct Rotation {
    file: ConfigFile,
    pool: PoolFile,
    provider: Arc<CryptoProvider>,
    clients: Arc<Shown>,
    control: Arc<ShownByName>,
    ends: Vec<CertificateEnd>,
    /// As they were when they were read last, whether they were good or not.
    stamps: Vec<Stamp>,
    warned: Option<Instant>,
}

impl Rotation {
    /// For what is shown now.
    pub(crate) fn new(
        file: ConfigFile,
        pool: PoolFile,
        provider: Arc<CryptoProvider>,
        (clients, control): (Arc<Shown>, Arc<ShownByName>),
        ends: Vec<CertificateEnd>,
    ) -> Rotation {
        let stamps = stamps(&file);
        Rotation {
            file,
            pool,
            provider,
            clients,
            control,
            ends,
            stamps,
            warned: None,
        }
    }

    /// Takes what the files hold now, if they have changed or `asked` by an operator; warns of ends that are near.
    pub(crate) fn look(&mut self, node: &NodeHandle, asked: bool) {
        // Before they are read: what changes meanwhile is seen next time.
        let stamps = stamps(&self.file);
        if asked || stamps != self.stamps {
            self.stamps = stamps;
            match self.take(node) {
                Ok(()) => tracing::info!(ends = %self.first_end(), "certificates were read anew"),
                Err(error) => {
                    tracing::error!(%error, "certificates were not read anew: those of before stay");
                }
            }
        }
        self.tell_ends(node, Instant::now());
    }

    fn take(&mut self, node: &NodeHandle) -> Result<(), ConfigError> {
        let identities = Identities::load(&self.file, &self.pool, &self.provider)?;
        let tls: ClusterTls = identities.cluster_tls();
        if let Err(error) = node.reload_cluster_tls(&tls) {
            return Err(self
                .file
                .invalid("cluster", "certificate", error.to_string()));
        }
        self.clients.replace(&identities.clients);
        self.control
            .replace(&identities.joining, &identities.control);
        self.ends = identities.ends();
        self.warned = None;
        Ok(())
    }

    fn first_end(&self) -> String {
        let first = self.ends.iter().map(|end| end.ends).min();
        first.map_or_else(String::new, date)
    }

    fn tell_ends(&mut self, node: &NodeHandle, now: Instant) {
        for end in &self.ends {
            node.certificate_ends(end.what, end.ends);
        }
        if self.warned.is_some_and(|at| now < at + WARN_EVERY) {
            return;
        }
        self.warned = Some(now);
        for (end, left) in near(&self.ends, seconds_now()) {
            let (path, on) = (end.path.display(), date(end.ends));
            match left > 0 {
                true => {
                    tracing::warn!(%path, days = left / DAY, "a certificate ends on {on}: replace it")
                }
                false => tracing::error!(%path, "a certificate has ended on {on}: replace it"),
            }
        }
    }
}

/// Those that end soon or have ended, with the seconds that are left.
fn near(ends: &[CertificateEnd], now: i64) -> impl Iterator<Item = (&CertificateEnd, i64)> {
    let left = move |end: &CertificateEnd| end.ends.saturating_sub(now);
    let ends = ends.iter().map(move |end| (end, left(end)));
    ends.filter(|(_, left)| *left < WARN_BEFORE)
}

fn seconds_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| "no date".to_owned(), |at| at.date().to_string())
}

fn stamps(file: &ConfigFile) -> Vec<Stamp> {
    let stamp = |data: Metadata| Some((data.modified().ok()?, data.len(), data.ino()));
    let paths: [&PathBuf; 9] = [
        &file.cluster.ca,
        &file.cluster.certificate,
        &file.cluster.key,
        &file.cluster.issuer,
        &file.cluster.issuer_key,
        &file.clients.certificate,
        &file.clients.key,
        &file.control.certificate,
        &file.control.key,
    ];
    let data = |path| std::fs::metadata(file.resolve(path)).ok();
    paths
        .into_iter()
        .map(|path| data(path).and_then(stamp))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_near_two_weeks_before() {
        let end = |what, days: i64| CertificateEnd {
            what,
            path: PathBuf::from("x.pem"),
            ends: days * DAY,
        };
        let ends = [
            end("clients", 100),
            end("control", 114),
            end("cluster", 115),
            end("ca", 90),
        ];
        let found: Vec<_> = near(&ends, 100 * DAY + 1)
            .map(|(end, left)| (end.what, left))
            .collect();
        assert_eq!(
            found,
            [
                ("clients", -1),
                ("control", 14 * DAY - 1),
                ("ca", -10 * DAY - 1)
            ]
        );
        assert_eq!(date(0), "1970-01-01");
    }
}
