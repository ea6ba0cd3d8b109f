//! `muster check-config`: whether a node could start with a configuration.

use std::path::Path;
use std::sync::Arc;

use crate::config::{ConfigFile, NodeConfig};
use crate::exit::{Failure, print};
use crate::logging;

/// `muster check-config`
pub(crate) fn check_config(path: &Path) -> Result<(), Failure> {
    let file = ConfigFile::load(path)?;
    logging::filter(&file)?;
    let config = NodeConfig::validate(&file, Arc::new(rustls::crypto::ring::default_provider()))?;
    print(&format!("{}: good: {}\n", path.display(), places(&config)))
}

/// Where a node can be reached, for people.
pub(crate) fn places(config: &NodeConfig) -> String {
    let clients = &config.clients.section;
    let starttls = clients
        .listen
        .iter()
        .map(|address| format!("{address} (STARTTLS)"));
    let direct = clients
        .listen_tls
        .iter()
        .map(|address| format!("{address} (TLS)"));
    let clients: Vec<String> = starttls.chain(direct).collect();
    format!(
        "node {} of {}, domain {}; clients {}; nodes {}; operators https://{}",
        config.node.0,
        config.pool.id,
        config.pool.constants.domain,
        clients.join(", "),
        config.cluster.listen,
        config.control.section.listen
    )
}
