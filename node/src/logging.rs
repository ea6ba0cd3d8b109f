//! What a node says about itself: lines of text on standard error.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{ConfigError, ConfigFile};

/// Goes before the file's filter.
const FILTER_VARIABLE: &str = "MUSTER_LOG";

/// Checks the filter and starts to say things, panics included.
pub(crate) fn start(file: &ConfigFile) -> Result<(), ConfigError> {
    let filter = filter(file)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(rustix::termios::isatty(io::stderr()))
        .with_writer(io::stderr);
    if file.log.time {
        builder.with_timer(SystemTime).init();
    } else {
        builder.without_time().init();
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        // Not the payload: it may hold what a client sent.
        tracing::error!(place, "panic");
    }));
    Ok(())
}

/// The filter of the environment, else of the file.
pub(crate) fn filter(file: &ConfigFile) -> Result<EnvFilter, ConfigError> {
    let (text, from) = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => (text, ", from the environment's MUSTER_LOG,"),
        _ => (file.log.filter.clone(), ""),
    };
    EnvFilter::try_new(&text).map_err(|error| {
        let reason = format!("{text:?}{from} is no filter: {error}");
        file.invalid("log", "filter", reason)
    })
}
