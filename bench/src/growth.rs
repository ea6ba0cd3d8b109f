//! `muster-bench growth`: what becomes of the cost of a message, a page or a delivery where there is more of something.
//!
//! ```text
//!  curve ─► for each of its points: a new pool, filled so far ─► chat at a rate, pages of archives, posts ─► rows ─► table, plot
//! ```
//!
//! A cost that does not grow has a flat curve: its last value is as its first. Results are printed and never judged.

mod plot;
mod told;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::cli::TargetArgs;
use crate::crowd::Crowd;
use crate::found;
use crate::kernel::{Kernel, KernelArgs};
use crate::login::LoginOptions;
use crate::machine::{Machine, utc_now};
use crate::pool::{Pool, PoolPlan};
use crate::progress::Progress;
use crate::report::{Faults, Row};
use crate::scenario::presence::Circle;
use crate::scenario::{archive, chat, churn, room};
use crate::server::{Kind, description};
use crate::session::Blind;
use crate::site::{Site, SiteArgs};
use crate::target::{Security, Target, trust};
pub(crate) use told::{Growth, GrowthOutput};

/// Occupants that rooms of measured pools may have.
const OCCUPANTS_MAX: usize = 20_000;

/// Deliveries a second that posts to rooms of any size should make, about.
const DELIVERIES: f64 = 2_000.0;

/// Posts a second, at least and at most.
const POSTS: (f64, f64) = (0.5, 100.0);

/// Occupants of all rooms together where rooms are small.
const SEATS: usize = 200;

/// Pieces of the churn, with a look at memory after each.
const CHURN_PIECES: u64 = 6;

/// What there is more and more of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Curve {
    /// Idle sessions: 1,000, 10,000, 100,000
    Sessions,
    /// Archived messages: 10,000, 1,000,000, 10,000,000
    Archive,
    /// Occupants of a room: 10, 1,000, 16,000
    Rooms,
    /// Nodes: 1, 3, 5
    Nodes,
    /// Partitions: 1, 16, 64
    Partitions,
    /// Time of logins and logouts, and the memory after it
    Churn,
}

impl Curve {
    const ALL: [Curve; 6] = [
        Curve::Sessions,
        Curve::Archive,
        Curve::Rooms,
        Curve::Nodes,
        Curve::Partitions,
        Curve::Churn,
    ];

    /// What its points count.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Curve::Sessions => "sessions",
            Curve::Archive => "archived messages",
            Curve::Rooms => "occupants of a room",
            Curve::Nodes => "nodes",
            Curve::Partitions => "partitions",
            Curve::Churn => "seconds of logins and logouts",
        }
    }

    fn points(self) -> &'static [u64] {
        match self {
            Curve::Sessions => &[1_000, 10_000, 100_000],
            Curve::Archive => &[10_000, 1_000_000, 10_000_000],
            Curve::Rooms => &[10, 1_000, 16_000],
            Curve::Nodes => &[1, 3, 5],
            Curve::Partitions => &[1, 16, 64],
            Curve::Churn => &[],
        }
    }

    /// Its points up to a greatest one, which then is the last.
    fn capped(self, max: Option<u64>) -> Vec<u64> {
        let max = max.unwrap_or(u64::MAX);
        let below = self.points().iter().copied().filter(|at| *at <= max);
        let mut points: Vec<u64> = below.collect();
        let has_more = points.len() < self.points().len();
        if has_more && points.last() != Some(&max) {
            points.push(max);
        }
        points
    }
}

/// `muster-bench growth`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GrowthArgs {
    /// Which curves [default: all]
    #[arg(value_enum)]
    pub(crate) curves: Vec<Curve>,
    /// The last point of the named curves, where theirs is more than this machine or this hour carries
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) max: Option<u64>,
    /// Nodes of the pools, but in the curve of nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=5))]
    pub(crate) nodes: u64,
    /// Seconds of each load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub(crate) seconds: u64,
    /// Messages a second
    #[arg(long, default_value_t = 100.0)]
    pub(crate) rate: f64,
    /// Seconds of logins and logouts
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(6..=86_400))]
    pub(crate) churn_seconds: u64,
    /// Logins a second
    #[arg(long, default_value_t = 50.0)]
    pub(crate) churn_rate: f64,
    /// Seconds before memory is looked at
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) settle: u64,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) output: GrowthOutput,
}

/// What was found at one point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// How many there were.
    pub(crate) at: u64,
    pub(crate) rows: Vec<Row>,
}

/// A curve as far as it came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) curve: Curve,
    pub(crate) points: Vec<Point>,
    /// Why there is not more, if something failed.
    pub(crate) failure: Option<String>,
}

/// Runs it. A point that fails ends its curve, not the others.
pub(crate) async fn run(
    args: &GrowthArgs,
    target: &TargetArgs,
    machine: Machine,
    command: String,
) -> anyhow::Result<Growth> {
    let site = args.site.site()?;
    let growing = Growing { args, target, site };
    let version = description(Kind::Muster1, &growing.site)?;
    let (began, start) = (utc_now(), Instant::now());
    let mut curves = Vec::new();
    let is_wanted = |curve: &Curve| args.curves.is_empty() || args.curves.contains(curve);
    for curve in Curve::ALL.into_iter().filter(is_wanted) {
        let mut points = Vec::new();
        let done = Box::pin(growing.curve(curve, &mut points)).await;
        let failure = done.err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("{}: {failure}", curve.name());
        }
        curves.push(Found {
            curve,
            points,
            failure,
        });
    }
    Ok(Growth {
        machine,
        command,
        version,
        began,
        seconds: start.elapsed().as_secs(),
        security: growing.security().name().to_owned(),
        nodes: args.nodes,
        curves,
    })
}

struct Growing<'a> {
    args: &'a GrowthArgs,
    target: &'a TargetArgs,
    site: Site,
}

impl Growing<'_> {
    fn security(&self) -> Security {
        self.target.security.unwrap_or(Security::Plain)
    }

    async fn curve(&self, curve: Curve, points: &mut Vec<Point>) -> anyhow::Result<()> {
        if curve == Curve::Churn {
            return Box::pin(self.churn(points)).await;
        }
        for at in curve.capped(self.args.max) {
            eprintln!("{at} {} …", curve.name());
            let pool = self.start(curve, at).await?;
            let rows = Box::pin(self.point(curve, at, &pool)).await;
            let stopped = pool.stop().await;
            points.push(Point { at, rows: rows? });
            stopped?;
        }
        Ok(())
    }

    async fn start(&self, curve: Curve, at: u64) -> anyhow::Result<Pool> {
        let nodes = match curve {
            Curve::Nodes => at,
            _ => self.args.nodes,
        };
        let partitions = (curve == Curve::Partitions).then(|| u16::try_from(at));
        Pool::start(&PoolPlan {
            nodes: usize::try_from(nodes)?,
            binary: self.site.binary.clone(),
            dir: self.site.dir.clone(),
            keep: self.site.keep,
            certificates: Some(Arc::clone(&self.site.certificates)),
            partitions: partitions.transpose()?,
            occupants_max: Some(OCCUPANTS_MAX),
        })
        .await
    }

    /// Users with a name of their own, who are nobody else's load.
    fn target(&self, pool: &Pool, prefix: &str) -> anyhow::Result<Target> {
        let security = self.security();
        let tls = match security {
            Security::Plain => None,
            security => Some(trust(&self.site.certificates.ca(), security)?),
        };
        let password = format!("{:016x}", rand::rng().random::<u64>());
        let mut target = Target::of_own_server(
            pool.addresses(security)?,
            security,
            tls,
            pool.processes(),
            &password,
            self.target,
        );
        target.refuse_other_machines()?;
        target.user_prefix = prefix.to_owned();
        target.many_sources = true;
        Ok(target)
    }

    async fn point(&self, curve: Curve, at: u64, pool: &Pool) -> anyhow::Result<Vec<Row>> {
        let count = usize::try_from(at)?;
        let target = Arc::new(self.target(pool, "bench")?);
        Ok(match curve {
            Curve::Sessions => Box::pin(self.among_sessions(pool, &target, count)).await?,
            Curve::Rooms => vec![Box::pin(self.in_rooms(pool, &target, count)).await?],
            Curve::Archive => {
                let archives = count.div_ceil(1_000).clamp(4, 16);
                let pages = self.archive_args(count, archives);
                let pages = Box::pin(archive::run(&target, &pages)).await?;
                vec![
                    pages,
                    Box::pin(chat::run(&target, &self.chat_args())).await?,
                ]
            }
            Curve::Nodes | Curve::Partitions | Curve::Churn => self.cost(&target).await?,
        })
    }

    /// A message and a page, as they are.
    async fn cost(&self, target: &Arc<Target>) -> anyhow::Result<Vec<Row>> {
        let chat = Box::pin(chat::run(target, &self.chat_args())).await?;
        let archive = self.archive_args(4_000, 4);
        Ok(vec![chat, Box::pin(archive::run(target, &archive)).await?])
    }

    async fn among_sessions(
        &self,
        pool: &Pool,
        target: &Arc<Target>,
        count: usize,
    ) -> anyhow::Result<Vec<Row>> {
        check(count, self.args.nodes)?;
        let idle = Arc::new(self.target(pool, "idle")?);
        found_accounts(pool, &idle, count).await?;
        let settle = std::time::Duration::from_secs(self.args.settle);
        tokio::time::sleep(settle).await;
        let before = target.processes.memory()?;
        let options = LoginOptions {
            stream_management: true,
            available: true,
        };
        let crowd = Crowd::log_in(&idle, count, options, Arc::new(Blind)).await?;
        tokio::time::sleep(settle).await;
        let after = target.processes.memory()?;
        let mut row = Row::new("idle", format!("{count} sessions"));
        let each = |after: u64, before: u64| (after as f64 - before as f64) / count.max(1) as f64;
        row.figure("RSS", each(after.rss_kib, before.rss_kib), "KiB/session");
        row.latencies(&crowd.logins);
        let mut rows = self.cost(target).await?;
        let faults = Faults {
            broken_sessions: crowd.broken(),
            ..Faults::default()
        };
        rows.insert(0, row.judged(faults));
        crowd.log_out().await;
        Ok(rows)
    }

    async fn in_rooms(
        &self,
        pool: &Pool,
        target: &Arc<Target>,
        occupants: usize,
    ) -> anyhow::Result<Row> {
        let rooms = (SEATS / occupants.max(1)).max(1);
        let sessions = rooms * occupants;
        check(sessions, self.args.nodes)?;
        found_accounts(pool, target, sessions).await?;
        let (least, most) = POSTS;
        let args = room::RoomArgs {
            rooms,
            occupants,
            sessions: None,
            rate: (DELIVERIES / occupants as f64).clamp(least, most),
            seconds: self.args.seconds,
            no_store: false,
            no_stream_management: false,
        };
        Box::pin(room::run(target, &args)).await
    }

    async fn churn(&self, points: &mut Vec<Point>) -> anyhow::Result<()> {
        let pool = self.start(Curve::Churn, 0).await?;
        let target = Arc::new(self.target(&pool, "bench")?);
        let stay = 1.0;
        let users = (self.args.churn_rate * stay * 4.0).ceil().max(100.0);
        let piece = (self.args.churn_seconds / CHURN_PIECES).clamp(1, crate::scenario::SECONDS_MAX);
        let args = churn::ChurnArgs {
            users: users as usize,
            rate: self.args.churn_rate,
            stay,
            seconds: piece,
            settle: self.args.settle,
        };
        found_accounts(&pool, &target, args.users).await?;
        let pieces = self.args.churn_seconds.div_ceil(piece);
        for number in 1..=pieces {
            eprintln!("churn: piece {number} of {pieces}, {piece} s …");
            let row = Box::pin(churn::run(&target, &args)).await?;
            if points.is_empty() {
                // As the first piece found it.
                let mut start = Row::new("churn", "before the first login".to_owned());
                for (after, before) in [("RSS after", "RSS before"), ("PSS after", "PSS before")] {
                    let value = row.value(before).context("no memory was measured")?;
                    start.figure(after, value, "MiB");
                }
                points.push(Point {
                    at: 0,
                    rows: vec![start],
                });
            }
            points.push(Point {
                at: number * piece,
                rows: vec![row],
            });
        }
        pool.stop().await
    }

    fn chat_args(&self) -> chat::ChatArgs {
        chat::ChatArgs {
            pairs: 50,
            rate: self.args.rate,
            closed: false,
            seconds: self.args.seconds,
            no_store: false,
            origin_id: true,
            no_stream_management: false,
        }
    }

    fn archive_args(&self, messages: usize, archives: usize) -> archive::ArchiveArgs {
        archive::ArchiveArgs {
            messages,
            archives,
            page: 50,
            readers: 4,
            seconds: self.args.seconds,
        }
    }
}

/// Refuses more sessions than the kernel lets there be.
fn check(sessions: usize, nodes: u64) -> anyhow::Result<()> {
    let shortfalls = Kernel::now().shortfalls(&KernelArgs {
        // Those of the load come on top.
        sessions: sessions as u64 + 100,
        nodes,
        with_clients: true,
    });
    let fatal = shortfalls.into_iter().find(|one| one.is_fatal);
    fatal.map_or(Ok(()), |one| Err(anyhow::anyhow!("{}", one.what)))
}

async fn found_accounts(pool: &Pool, target: &Target, users: usize) -> anyhow::Result<()> {
    let mut progress = Progress::new("accounts", users);
    let circle = Circle { users, contacts: 0 };
    found::accounts(pool, target, circle, &mut progress).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn curves_can_be_capped() {
        assert_eq!(Curve::value_variants(), Curve::ALL);
        let check = |curve: Curve, max, expect: &[u64]| {
            assert_eq!(curve.capped(max), expect, "{curve:?} {max:?}");
        };
        check(Curve::Sessions, None, &[1_000, 10_000, 100_000]);
        check(Curve::Sessions, Some(10_000), &[1_000, 10_000]);
        check(Curve::Sessions, Some(15_000), &[1_000, 10_000, 15_000]);
        check(Curve::Sessions, Some(200), &[200]);
        check(Curve::Rooms, Some(400), &[10, 400]);
        check(Curve::Nodes, Some(5), &[1, 3, 5]);
        check(Curve::Churn, Some(5), &[]);
    }
}
