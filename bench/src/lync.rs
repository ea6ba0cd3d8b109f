//! `muster-bench lync`: the load of a whole pool of Lync Server on one machine, at any scale.
//!
//! ```text
//!  kernel ─► pool of three nodes ─► accounts and rosters (import) ─► logins at a rate, then as fast as they go ─► memory
//!    ─► rooms are made and entered ─► chat, presence and posts at their rates, together ─► what came, what it took
//! ```
//!
//! All sessions are over TLS and stay logged in to the end. The generator runs on the same machine; its CPU and memory are
//! told apart from the server's. Latencies count from when a message was due.

mod load;
mod logins;
mod plan;
mod usage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rand::RngExt;

use crate::cli::TargetArgs;
use crate::found;
use crate::kernel::{Kernel, KernelArgs};
use crate::ledger::Sum;
use crate::pace::Pace;
use crate::pool::{Pool, PoolPlan};
use crate::progress::Progress;
use crate::report::{Faults, Row};
use crate::scenario::{Meter, SECONDS_MAX, open_loop, wait_until};
use crate::server::{Kind, description};
use crate::site::{Site, SiteArgs};
use crate::target::{Security, Target, trust};
use load::{Load, Stream};
use logins::Logins;
use plan::Plan;
use usage::{Footprint, Usage};

/// Nodes, each with a replica of everything.
const NODES: usize = 3;

/// How long the last deliveries may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// How long what came twice may take to come.
const DOUBLES_WITHIN: Duration = Duration::from_secs(1);

/// `muster-bench lync`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LyncArgs {
    /// All counts and rates in multiples of a whole pool's: 80,000 users, 152,000 sessions, 33,077 rooms, 417 messages,
    /// 133 changes of presence and 24 posts a second
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub(crate) scale: f64,
    /// Seconds of load
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// All sessions would log in within so many minutes, at the rate of the first logins
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub(crate) login_minutes: u64,
    /// Seconds of logins at that rate; the rest come as fast as they go. 7200 logs all in at it
    #[arg(long, default_value_t = 60)]
    pub(crate) paced_seconds: u64,
    /// Occupants of the ten large rooms, at most. In a whole pool they have 16,000, and whoever enters is shown to all
    #[arg(long, default_value_t = 1000)]
    pub(crate) large_room_max: usize,
    /// Seconds before memory is looked at, without and with the sessions
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=600))]
    pub(crate) settle: u64,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
}

fn scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    match (1e-4..=4.0).contains(&scale) {
        true => Ok(scale),
        false => Err("0.0001 to 4".to_owned()),
    }
}

/// Runs it. Gives what the server is, and the rows.
pub(crate) async fn run(
    args: &LyncArgs,
    target_args: &TargetArgs,
) -> anyhow::Result<(String, Vec<Row>)> {
    let plan = Plan::new(args.scale, args.large_room_max);
    let kernel = Kernel::now();
    check(&kernel, &plan)?;
    let site = args.site.site()?;
    let version = description(Kind::Muster3, &site)?;
    let pool = Pool::start(&PoolPlan {
        nodes: NODES,
        binary: site.binary.clone(),
        dir: site.dir.clone(),
        keep: site.keep,
        certificates: Some(Arc::clone(&site.certificates)),
        partitions: None,
        // More than a room has: whoever comes back must find a seat.
        occupants_max: Some(plan.occupants_max().max(1000) + 1),
    })
    .await?;
    let target = Arc::new(target(&pool, &site, &plan, target_args)?);
    let mut lync = Lync {
        args,
        plan,
        target,
        idle_share: 0.0,
        rows: Vec::new(),
    };
    Box::pin(lync.all(&pool)).await?;
    let rows = lync.rows;
    pool.stop().await?;
    Ok((format!("{version}; {NODES} nodes; {}", kernel.line()), rows))
}

/// Says what the kernel does not allow, and refuses what can't work.
fn check(kernel: &Kernel, plan: &Plan) -> anyhow::Result<()> {
    let shortfalls = kernel.shortfalls(&KernelArgs {
        sessions: plan.sessions as u64,
        nodes: NODES as u64,
        with_clients: true,
    });
    for shortfall in &shortfalls {
        eprintln!("kernel: {}", shortfall.what);
    }
    if shortfalls.iter().any(|shortfall| shortfall.is_fatal) {
        bail!(
            "this machine does not carry {} sessions yet: do what is said above, or choose a smaller --scale",
            plan.sessions
        );
    }
    Ok(())
}

fn target(pool: &Pool, site: &Site, plan: &Plan, args: &TargetArgs) -> anyhow::Result<Target> {
    let (security, password) = (
        Security::Tls,
        format!("{:016x}", rand::rng().random::<u64>()),
    );
    let tls = Some(trust(&site.certificates.ca(), security)?);
    let nodes = pool.addresses(security)?;
    let processes = pool.processes();
    let mut target = Target::of_own_server(nodes, security, tls, processes, &password, args);
    target.refuse_other_machines()?;
    target.users = Some(plan.circle.users);
    target.many_sources = true;
    Ok(target)
}

struct Lync<'a> {
    args: &'a LyncArgs,
    plan: Plan,
    target: Arc<Target>,
    /// CPU seconds a second that the server took with nobody logged in.
    idle_share: f64,
    rows: Vec<Row>,
}

impl Lync<'_> {
    async fn all(&mut self, pool: &Pool) -> anyhow::Result<()> {
        self.settle().await;
        self.idle_share = Meter::start(&self.target.processes).await?.idle_share();
        self.found(pool).await?;
        self.settle().await;
        let before = Footprint::now(&self.target.processes)?;
        let window = Duration::from_secs(self.args.seconds);
        let pace = |rate: f64| Pace::new(rate).context("no rate");
        let paces = [
            pace(self.plan.chat_rate)?,
            pace(self.plan.presence_rate)?,
            pace(self.plan.post_rate)?,
        ];
        let counts = paces.map(|pace| pace.messages(window).max(1));
        let [chats, changes, posts] = counts;
        let load = Load::new(&self.plan, &self.target, chats, changes, posts)?;
        let load = Arc::new(load);
        let logins = self.log_in(&load).await?;
        let handles = logins.sessions.iter();
        let handles = handles.map(|session| Arc::clone(&session.handle));
        load.handles.set(handles.collect());
        self.settle().await;
        self.sessions(&logins, &before).await?;
        self.fill(&load, &logins).await?;
        self.settle().await;
        self.load(&load, paces, counts, &logins).await
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(self.args.settle)).await;
    }

    async fn found(&mut self, pool: &Pool) -> anyhow::Result<()> {
        let circle = self.plan.circle;
        let mut progress = Progress::new("accounts", circle.users);
        let usage = Usage::start(&self.target.processes, self.idle_share)?;
        found::accounts(pool, &self.target, circle, &mut progress).await?;
        let took = progress.end();
        let setup = format!("{} users, {} contacts each", circle.users, circle.contacts);
        let mut row = Row::new("founding", setup);
        let rate = circle.users as f64 / took.as_secs_f64().max(1e-3);
        row.figure("rate", rate, "users/s");
        usage.add_to(&mut row, Some((circle.users as u64, "ms/user")))?;
        self.rows.push(row);
        Ok(())
    }

    /// Everybody: the first ones at the pace of all within the time, the rest as fast as they go.
    async fn log_in(&mut self, load: &Arc<Load>) -> anyhow::Result<Logins> {
        let sessions = self.plan.sessions;
        let per_second = sessions as f64 / (self.args.login_minutes as f64 * 60.0);
        let pace = Pace::new(per_second).context("no rate")?;
        let paced = pace.messages(Duration::from_secs(self.args.paced_seconds));
        let paced = paced.min(sessions);
        let mut all = Logins::default();
        for (range, pace) in [(0..paced, Some(pace)), (paced..sessions, None)] {
            if range.is_empty() {
                continue;
            }
            let count = range.len();
            let mut progress = Progress::new("logins", count);
            let usage = Usage::start(&self.target.processes, self.idle_share)?;
            let contacts = self.plan.circle.contacts;
            let observer = load.clone();
            let logins = logins::run(&self.target, range, pace, contacts, observer, &mut progress);
            let logins = Box::pin(logins).await?;
            let took = progress.end();
            let how = match pace {
                Some(_) => format!(
                    "as all within {} minutes, with roster and presence",
                    self.args.login_minutes
                ),
                None => format!(
                    "{} at once, with roster and presence",
                    self.target.logins_at_once
                ),
            };
            let mut row = Row::new("login", format!("{count} logins, {how}"));
            row.figure("rate", count as f64 / took.as_secs_f64().max(1e-3), "/s");
            usage.add_to(&mut row, Some((count as u64, "ms/login")))?;
            row.latencies(&logins.took);
            let faults = Faults {
                errors: logins.wrong_rosters,
                broken_sessions: logins.broken(),
                ..Faults::default()
            };
            self.rows.push(row.judged(faults));
            all.merge(logins);
        }
        all.sort();
        Ok(all)
    }

    async fn sessions(&mut self, logins: &Logins, before: &Footprint) -> anyhow::Result<()> {
        let meter = Meter::start(&self.target.processes).await?;
        let now = Footprint::now(&self.target.processes)?;
        let count = logins.sessions.len();
        let setup = format!("{count} sessions over TLS, in no room");
        let mut row = Row::new("memory", setup);
        now.add_to(&mut row, before, count);
        row.figure("CPU idle", 100.0 * meter.idle_share(), "% of a core");
        let faults = Faults {
            broken_sessions: logins.broken(),
            ..Faults::default()
        };
        self.rows.push(row.judged(faults));
        Ok(())
    }

    async fn fill(&mut self, load: &Load, logins: &Logins) -> anyhow::Result<()> {
        let seats = self.plan.seats();
        let mut progress = Progress::new("entering rooms", seats);
        let usage = Usage::start(&self.target.processes, self.idle_share)?;
        load.fill(&mut progress).await?;
        let took = progress.end();
        let setup = format!("{}, {seats} seats", self.plan.rooms_shown());
        let mut row = Row::new("entering", setup);
        row.figure(
            "rate",
            seats as f64 / took.as_secs_f64().max(1e-3),
            "joins/s",
        );
        usage.add_to(&mut row, Some((seats as u64, "ms/join")))?;
        Footprint::now(&self.target.processes)?.add_totals(&mut row);
        let faults = load.posts.tally.faults(Sum::default(), logins.broken());
        self.rows.push(row.judged(faults));
        Ok(())
    }

    async fn load(
        &mut self,
        load: &Load,
        paces: [Pace; 3],
        counts: [usize; 3],
        logins: &Logins,
    ) -> anyhow::Result<()> {
        eprintln!("load: {} s", self.args.seconds);
        let usage = Usage::start(&self.target.processes, self.idle_share)?;
        let start = Instant::now();
        let [chat, presence, post] = paces;
        let [chats, changes, posts] = counts;
        tokio::join!(
            open_loop(chat, chats, start, |message, due| load.say(message, due)),
            open_loop(presence, changes, start, |change, due| load
                .change(change, due)),
            open_loop(post, posts, start, |message, due| load.post(message, due)),
        );
        wait_until(DRAIN_WITHIN, || load.is_complete()).await;
        let (wall, mut row) = (start.elapsed(), Row::new("load", self.rates()));
        usage.add_to(&mut row, None)?;
        let now = Footprint::now(&self.target.processes)?;
        tokio::time::sleep(DOUBLES_WITHIN).await;
        let sums = [load.chat_sum(), load.presence_sum(), load.posts_sum()];
        let deliveries: u64 = sums.iter().map(|sum| sum.delivered).sum();
        row.figure("deliveries", deliveries as f64 / wall.as_secs_f64(), "/s");
        now.add_totals(&mut row);
        let broken = Faults {
            broken_sessions: logins.broken(),
            ..Faults::default()
        };
        self.rows.push(row.judged(broken));
        let streams = [
            ("chat", &load.chat),
            ("presence", &load.presence),
            ("posts", &load.posts),
        ];
        for ((name, stream), sum) in streams.into_iter().zip(sums) {
            self.rows.push(delivered(name, stream, sum, wall));
        }
        Ok(())
    }

    fn rates(&self) -> String {
        let Plan {
            chat_rate,
            presence_rate,
            post_rate,
            ..
        } = self.plan;
        format!(
            "{chat_rate:.1} messages, {presence_rate:.1} changes of presence, {post_rate:.1} posts a second, {} s",
            self.args.seconds
        )
    }
}

/// What came of one kind of message.
fn delivered(name: &'static str, stream: &Stream, sum: Sum, wall: Duration) -> Row {
    let setup = format!("{} sent, {} delivered", sum.sent, sum.delivered);
    let mut row = Row::new(name, setup);
    row.figure(
        "deliveries",
        sum.delivered as f64 / wall.as_secs_f64(),
        "/s",
    );
    row.figure("lost", sum.missing as f64, "");
    row.figure("doubled", sum.doubled as f64, "");
    row.latencies(&stream.tally.latencies());
    // Presence may be told again, as when the owner of a partition changes: it says what holds, and the figure above how often.
    let doubled = if name == "presence" { 0 } else { sum.doubled };
    row.judged(stream.tally.faults(Sum { doubled, ..sum }, 0))
}
