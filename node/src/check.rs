//! `muster check-config`: whether a node could start with a configuration.

use std::path::Path;
use std::sync::Arc;

use storage::data_dir::{DataDir, DataDirError};

use crate::config::{ConfigFile, NodeConfig};
use crate::exit::{Exit, Failure, print};
use crate::logging;
use crate::run::present_token;

/// `muster check-config`
pub(crate) fn check_config(path: &Path) -> Result<(), Failure> {
    let file = ConfigFile::load(path)?;
    logging::filter(&file)?;
    let config = NodeConfig::validate(&file, Arc::new(rustls::crypto::ring::default_provider()))?;
    present_token(&config.control.token_file)?;
    let first = if holds_data(&config)? {
        ""
    } else {
        "; the data folder is empty: the first start needs --new-data"
    };
    let places = places(&config);
    print(&format!("{}: good: {places}{first}\n", path.display()))
}

/// Whether this node has run here before, or was made here.
fn holds_data(config: &NodeConfig) -> Result<bool, Failure> {
    let path = &config.data_dir;
    let failed = |error: DataDirError| Failure::from_error(Exit::Data, &error);
    let Some(identity) = DataDir::identity_of(path).map_err(failed)? else {
        return Ok(false);
    };
    identity
        .check(path, config.pool.id.as_str(), config.node.0)
        .map_err(failed)?;
    Ok(true)
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
