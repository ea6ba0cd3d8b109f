//! `idle`: what a session costs that does nothing: memory of the server's processes, before and after N logins.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

use crate::crowd::Crowd;
use crate::login::LoginOptions;
use crate::report::Row;
use crate::scenario::Meter;
use crate::session::Blind;
use crate::target::Target;

/// `muster-bench idle`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Sessions, one a user
    #[arg(long, default_value_t = 1000)]
    pub(crate) sessions: usize,
    /// Seconds before memory is looked at, without and with the sessions
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) settle: u64,
    /// Without stream management
    #[arg(long)]
    pub(crate) no_stream_management: bool,
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &IdleArgs) -> anyhow::Result<Row> {
    if target.processes.is_empty() || args.sessions == 0 {
        bail!("memory needs the server's processes (--pid) and at least one session");
    }
    Crowd::register(target, args.sessions).await?;
    // One login and logout first: what the server makes once for all is not the sessions'.
    let options = LoginOptions {
        stream_management: !args.no_stream_management,
        available: true,
    };
    let warm = target.logins_at_once.min(args.sessions);
    Crowd::log_in(target, warm, options, Arc::new(Blind))
        .await?
        .log_out()
        .await;
    // As long as afterwards: garbage of the start, which a collector takes away meanwhile, is not the sessions' either.
    let settle = Duration::from_secs(args.settle);
    tokio::time::sleep(settle).await;
    let before = target.processes.memory()?;
    let crowd = Crowd::log_in(target, args.sessions, options, Arc::new(Blind)).await?;
    tokio::time::sleep(settle).await;
    let meter = Meter::start(&target.processes).await?;
    let after = target.processes.memory()?;
    let each = |after: u64, before: u64| (after as f64 - before as f64) / args.sessions as f64;
    let setup = format!("{} sessions, {}", args.sessions, target.security.name());
    let mut row = Row::new("idle", setup);
    row.figure("RSS", each(after.rss_kib, before.rss_kib), "KiB/session");
    row.figure("PSS", each(after.pss_kib, before.pss_kib), "KiB/session");
    row.figure("RSS before", before.rss_kib as f64 / 1024.0, "MiB");
    row.figure("RSS after", after.rss_kib as f64 / 1024.0, "MiB");
    row.figure("CPU idle", 100.0 * meter.idle_share(), "% of a core");
    let faults = crate::report::Faults {
        broken_sessions: crowd.broken(),
        ..Default::default()
    };
    crowd.log_out().await;
    Ok(row.judged(faults))
}
