//! `login`: what a login costs: connect, TLS, SASL, resource, roster, first presence.

use std::sync::Arc;

use crate::crowd::Crowd;
use crate::login::LoginOptions;
use crate::report::{Faults, Row};
use crate::scenario::Meter;
use crate::session::Blind;
use crate::target::Target;

/// `muster-bench login`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// Logins, each of another user
    #[arg(long, default_value_t = 500)]
    pub(crate) logins: usize,
    /// Without stream management
    #[arg(long)]
    pub(crate) no_stream_management: bool,
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &LoginArgs) -> anyhow::Result<Row> {
    Crowd::register(target, args.logins).await?;
    let options = LoginOptions {
        stream_management: !args.no_stream_management,
        available: true,
    };
    // The first time the generator derives each user's key, which takes longer than the login.
    Crowd::log_in(target, args.logins, options, Arc::new(Blind))
        .await?
        .log_out()
        .await;
    let meter = Meter::start(&target.processes).await?;
    let crowd = Crowd::log_in(target, args.logins, options, Arc::new(Blind)).await?;
    let mechanism = target
        .mechanism
        .map_or("best mechanism", |mechanism| mechanism.name());
    let setup = format!(
        "{} logins, {}, {mechanism}",
        args.logins,
        target.security.name()
    );
    let mut row = Row::new("login", setup);
    meter.add_to(&mut row, args.logins as u64, "ms/login", 1e3)?;
    row.figure(
        "rate",
        args.logins as f64 / meter.elapsed().as_secs_f64(),
        "/s",
    );
    row.latencies(&crowd.logins);
    let faults = Faults {
        broken_sessions: crowd.broken(),
        ..Faults::default()
    };
    crowd.log_out().await;
    Ok(row.judged(faults))
}
