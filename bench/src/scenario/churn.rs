//! `churn`: users who log in and out at a rate: what a round costs, and whether anything of it stays behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use crate::crowd::{Crowd, LOGIN_WITHIN};
use crate::histogram::Histogram;
use crate::login::{LoginOptions, log_in};
use crate::pace::Pace;
use crate::report::{Faults, Row};
use crate::scenario::{Meter, SECONDS_MAX};
use crate::session::{Blind, Session};
use crate::target::Target;

/// Logins that may be under way or logged in at once; more make the run fail rather than pile up.
const ROUNDS_AT_ONCE_MAX: usize = 20_000;

/// `muster-bench churn`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChurnArgs {
    /// Users, who take turns
    #[arg(long, default_value_t = 500)]
    pub(crate) users: usize,
    /// Logins a second, whatever the server does (open loop)
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Seconds from a login to its logout
    #[arg(long, default_value_t = 1.0)]
    pub(crate) stay: f64,
    /// Seconds of logins
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Seconds before memory is looked at, before and after
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) settle: u64,
}

/// What the rounds found.
#[derive(Default)]
struct Rounds {
    /// From when a login was due until its own presence came.
    logins: Mutex<Histogram>,
    failed: AtomicU64,
    broken: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Rounds {
    /// One user in and out.
    async fn one(&self, target: &Target, user: usize, due: Instant, stay: Duration) {
        let options = LoginOptions {
            stream_management: true,
            available: true,
        };
        let login = tokio::time::timeout(LOGIN_WITHIN, log_in(target, user, options)).await;
        let login = match login.map_err(anyhow::Error::from).and_then(|login| login) {
            Ok(login) => login,
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self
                    .first_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| format!("{error:#}"));
                return;
            }
        };
        self.logins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(due.elapsed());
        let session = Session::start(user, login, Arc::new(Blind));
        tokio::time::sleep(stay).await;
        if session.handle.is_broken() {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        session.close().await;
    }

    fn faults(&self) -> Faults {
        let first_error = self
            .first_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Faults {
            errors: self.failed.load(Ordering::Relaxed),
            broken_sessions: self.broken.load(Ordering::Relaxed),
            first_error: first_error.clone(),
            ..Faults::default()
        }
    }
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &ChurnArgs) -> anyhow::Result<Row> {
    let pace = Pace::new(args.rate).context("the rate must be a positive number")?;
    let stay = Duration::try_from_secs_f64(args.stay).context("the stay must be a time")?;
    if args.users == 0 || (args.users as f64) < args.rate * args.stay * 2.0 {
        bail!("a user must be out before it is in again: --users at least 2 × rate × stay");
    }
    Crowd::register(target, args.users).await?;
    // Everybody once: what the server keeps of a user for good is not the churn's.
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let crowd = Crowd::log_in(target, args.users, options, Arc::new(Blind)).await?;
    crowd.log_out().await;
    let settle = Duration::from_secs(args.settle);
    tokio::time::sleep(settle).await;
    let before = target.processes.memory()?;
    let meter = Meter::start(&target.processes).await?;
    let rounds = Arc::new(Rounds::default());
    let count = pace.messages(Duration::from_secs(args.seconds));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for round in 0..count {
        let due = start + pace.due(round);
        tokio::time::sleep_until(due.into()).await;
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= ROUNDS_AT_ONCE_MAX {
            bail!("the server is {ROUNDS_AT_ONCE_MAX} logins behind");
        }
        let (rounds, target, user) = (Arc::clone(&rounds), Arc::clone(target), round % args.users);
        tasks.spawn(async move { rounds.one(&target, user, due, stay).await });
    }
    while tasks.join_next().await.is_some() {}
    let setup = format!(
        "{} logins/s of {} users, {} s each, {}, {} s",
        args.rate,
        args.users,
        args.stay,
        target.security.name(),
        args.seconds
    );
    let mut row = Row::new("churn", setup);
    meter.add_to(&mut row, count as u64, "ms/round", 1e3)?;
    row.figure("rounds", count as f64, "");
    row.latencies(&rounds.logins.lock().unwrap_or_else(PoisonError::into_inner));
    tokio::time::sleep(settle).await;
    let after = target.processes.memory()?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    row.figure("RSS before", mib(before.rss_kib), "MiB");
    row.figure("RSS after", mib(after.rss_kib), "MiB");
    row.figure("PSS before", mib(before.pss_kib), "MiB");
    row.figure("PSS after", mib(after.pss_kib), "MiB");
    row.figure(
        "RSS growth",
        mib(after.rss_kib) - mib(before.rss_kib),
        "MiB",
    );
    Ok(row.judged(rounds.faults()))
}
