//! Where faults are caused and healed: three nodes in namespaces, each with a port on a switch, a disk whose power can be
//! cut, and a clock of its own.

mod certificates;
mod disks;
mod roads;
mod slow;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use self::roads::THIN;
use super::bounds::{Measure, Measured};
use super::court::COURT_SESSIONS;
use super::measures::{Returns, milliseconds, returns};
use super::plan::Fault;
use super::{probe, watchers};
use crate::disk::PowerDisk;
use crate::load::{Seat, ring};
use crate::network::Network;
use crate::pool::{Pool, PoolSettings};
use crate::switch::{Dice, Switch};
use crate::trial::Trial;
use crate::wait::until;

/// How many nodes there are.
const NODES: u16 = 3;

/// The size of a disk, and what its node keeps free.
const DISK_BYTES: u64 = 768 << 20;
const RESERVE: u64 = 48 << 20;

/// How long anything may take on a busy machine until the run is given up. What is promised is the checker's to judge.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// How long a node's word on itself is waited for, when all is lost anyway.
const ASKED_FOR: Duration = Duration::from_secs(5);

/// Settings with which a node that was away for seconds is sent snapshots.
const SNAPSHOTS: [(&str, &str); 3] = [
    ("snapshot_interval", "1 s"),
    ("log_keep_bytes", "8 KiB"),
    ("snapshot_bytes_per_second", "4 MiB"),
];

/// When something happened to some nodes whose effect on the others is measured.
#[derive(Debug)]
pub(super) struct Blow {
    /// As what it is measured.
    pub(super) measure: Measure,
    /// On the history's clock.
    pub(super) at: u64,
    /// When all of it had happened.
    pub(super) struck: u64,
    /// To whom.
    pub(super) nodes: Vec<u64>,
}

/// The ground.
pub(super) struct Ground {
    /// Let go before the processes end.
    pub(super) disks: BTreeMap<u64, PowerDisk>,
    pub(super) trial: Trial,
    network: Network,
    switch: Switch,
    /// What is to be told of single faults.
    pub(super) notes: Vec<String>,
    /// What is measured.
    pub(super) blows: Vec<Blow>,
    /// What was measured.
    pub(super) measured: Measured,
    /// When the fault was taken back, on the history's clock; `None` while there is one.
    mended_at: Option<u64>,
    _images: TempDir,
}

/// Who talks: in rooms, with sessions that last and without stream management, one of them forgetful; and a ring of users. Every
/// other one over TLS.
fn seats(nodes: &[u64]) -> Vec<Seat> {
    let mut seats = Trial::seats_on(nodes);
    seats.extend(ring(nodes));
    for (at, seat) in seats.iter_mut().enumerate() {
        seat.lasting = seat.stream_management && !seat.forgetful;
        seat.secured = at.is_multiple_of(2);
    }
    seats
}

impl Ground {
    /// Makes all of it, and waits until the talk flows. In an enclave.
    pub(super) async fn start(seed: u64) -> Result<Ground> {
        let network = Network::new(NODES.try_into()?)?;
        let switch = Switch::start(&network, seed)?;
        let mut settings = PoolSettings::nodes(NODES)
            .network(&network)
            .switched()
            .clocks()
            .set("storage", "disk_free_bytes_min", "48 MiB");
        for (key, value) in SNAPSHOTS {
            settings = settings.set("raft", key, value);
        }
        let mut pool = Pool::prepare(&settings)?;
        let images = TempDir::with_prefix("muster-disks-")?;
        let mut disks = BTreeMap::new();
        for node in pool.ids() {
            let image = images.path().join(node.to_string());
            let disk = PowerDisk::over(&pool.data_dir(node), &image, DISK_BYTES)?;
            disks.insert(node, disk);
        }
        pool.start_all()?;
        pool.all_ready().await?;
        watchers::introduce(&pool).await?;
        probe::prepare(&pool).await?;
        let seats = seats(&pool.ids());
        Ok(Ground {
            disks,
            trial: Trial::seated(pool, seats).await?,
            network,
            switch,
            notes: Vec::new(),
            blows: Vec::new(),
            measured: Measured::default(),
            mended_at: None,
            _images: images,
        })
    }

    /// Causes a fault, lets it last, and heals it: nodes serve, have caught up, and everybody is in.
    pub(super) async fn cause(&mut self, fault: Fault, dice: &mut Dice) -> Result<()> {
        let owner = self.trial.living_owner().await?;
        let others: Vec<u64> = self.ids().into_iter().filter(|id| *id != owner).collect();
        let at = usize::try_from(dice.roll(others.len() as u64))?;
        let other = *others.get(at).context("another node")?;
        self.mended_at = None;
        match fault {
            Fault::KillOwner => self.kill(owner, Measure::OwnerKilled).await,
            Fault::KillFollower => self.kill(other, Measure::FollowerKilled).await,
            Fault::KillAll => self.kill_all().await,
            Fault::Away => {
                self.away(if dice.roll(2) == 0 { owner } else { other }, false)
                    .await
            }
            Fault::Thin => self.away(other, true).await,
            Fault::PowerCut => match dice.roll(3) {
                0 => self.power_cut(&self.ids()).await,
                1 => self.power_cut(&[owner]).await,
                _ => self.power_cut(&[other]).await,
            },
            Fault::Damage => {
                let node = if dice.roll(2) == 0 { owner } else { other };
                self.damage(node, dice).await
            }
            Fault::Pause => self.pause(owner, span(dice, 3, 6)).await,
            Fault::LongPause => self.pause(owner, span(dice, 60, 120)).await,
            Fault::OwnerAlone => self.split(&[owner], owner, span(dice, 4, 7)).await,
            Fault::OwnerAmongTwo => self.split(&[other], owner, span(dice, 4, 7)).await,
            Fault::Shatter => self.shatter(span(dice, 3, 6)).await,
            Fault::OneWay => {
                let (from, to) = if dice.roll(2) == 0 {
                    (owner, other)
                } else {
                    (other, owner)
                };
                self.cut(&[(from, to)], span(dice, 4, 7)).await
            }
            Fault::Line => {
                let ways = [(owner, other), (other, owner)];
                self.cut(&ways, span(dice, 4, 7)).await
            }
            Fault::Loss => self.loss(span(dice, 5, 8)).await,
            Fault::Delay => self.delay(span(dice, 5, 8)).await,
            Fault::SlowDisk => self.slow_disk(owner, span(dice, 4, 7)).await,
            Fault::SlowNode => {
                let node = if dice.roll(2) == 0 { owner } else { other };
                self.slow_node(node, span(dice, 4, 7)).await
            }
            Fault::SlowReaders => self.slow_readers(owner, span(dice, 5, 8)).await,
            Fault::FailedSync => self.failed_sync(owner).await,
            Fault::FullDisk => self.full_disk(owner, dice.roll(2) == 0).await,
            Fault::Clocks => self.clocks(dice).await,
            Fault::Restarts => self.restarts().await,
            Fault::Drain => self.drain(owner).await,
            Fault::Certificates => self.certificates(other).await,
        }
        .with_context(|| format!("{fault:?}, owner {owner}, another {other}"))
    }

    /// How all is: what members are about, what nodes say of themselves and last said.
    pub(super) async fn state(&self) -> String {
        let mut text = format!("{}\n", self.trial.crowd.whereabouts());
        let pool = &self.trial.pool;
        for node in pool.running() {
            let asked = timeout(ASKED_FOR, pool.status(node)).await;
            let said = match asked {
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("nothing within {ASKED_FOR:?}"),
            };
            text.push_str(&format!("node {node} says: {said}\n"));
        }
        for node in pool.ids() {
            text.push_str(&format!("{}\n", pool.node(node).log_end()));
        }
        text
    }

    fn ids(&self) -> Vec<u64> {
        self.trial.pool.ids()
    }

    fn disk(&self, node: u64) -> Result<&PowerDisk> {
        self.disks.get(&node).context("every node has a disk")
    }

    /// Says on the terminal what happens, and when.
    pub(super) fn say(&self, what: &str) {
        let now = Duration::from_nanos(self.trial.recorder().now());
        println!("{:7.1} s  {what}", now.as_secs_f64());
    }

    fn fault(&self, what: String) {
        self.say(&what);
        self.trial.fault(what);
    }

    /// What is done now is measured.
    fn blow(&mut self, measure: Measure, nodes: &[u64]) {
        let at = self.trial.recorder().now();
        let nodes = nodes.to_vec();
        self.blows.push(Blow {
            measure,
            at,
            struck: at,
            nodes,
        });
    }

    /// All of that has happened.
    fn struck(&mut self) {
        let now = self.trial.recorder().now();
        if let Some(last) = self.blows.last_mut() {
            last.struck = now;
        }
    }

    /// The fault is taken back, and a quorum runs: what is promised of a healed pool counts from here.
    fn mend(&mut self) {
        self.mended_at = Some(self.trial.recorder().now());
        self.trial.mended();
        self.say("mended");
    }

    /// The same where nothing ran: processes were just started.
    fn start_anew(&mut self) {
        self.mended_at = Some(self.trial.recorder().now());
        self.trial.started_anew();
        self.say("all are started");
    }

    /// How long it is since then, in milliseconds.
    fn since_mended(&self) -> Result<u64> {
        let at = self
            .mended_at
            .context("a fault is mended before it heals")?;
        Ok(milliseconds(self.trial.recorder().now() - at))
    }

    /// All nodes serve, have caught up and have their members: healed. Gives how long after the mend they had caught up, in
    /// milliseconds.
    async fn recovered(&mut self) -> Result<u64> {
        self.since_mended()?;
        for node in self.ids() {
            self.trial.pool.ready(node).await?;
        }
        for node in self.ids() {
            self.trial.caught_up(node).await?;
            self.trial.crowd.node_lives(node);
        }
        let caught_up = self.since_mended()?;
        self.say("all nodes serve and have caught up");
        self.trial.crowd.all_in(LIMIT).await?;
        self.trial.healed();
        self.say("healed");
        Ok(caught_up)
    }

    /// Nodes that are dead are started, while a quorum runs.
    async fn started(&mut self) -> Result<()> {
        self.trial.pool.start_all()?;
        self.mend();
        self.recovered().await.map(drop)
    }

    /// All are started, and asked until they serve.
    async fn all_started(&mut self) -> Result<()> {
        self.trial.pool.start_all()?;
        self.start_anew();
        self.serves_again(Measure::AllKilled).await?;
        self.recovered().await.map(drop)
    }

    /// Waits until a write over each node is answered.
    async fn serves_again(&mut self, measure: Measure) -> Result<()> {
        self.measured.owes(measure);
        let took = probe::writes(&self.trial.pool).await?;
        self.say(&format!("writes are answered after {took:?} ms"));
        self.measured.add(measure, took);
        Ok(())
    }

    async fn kill(&mut self, node: u64, measure: Measure) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} is killed"));
        self.blow(measure, &[node]);
        self.trial.kills(node)?;
        self.struck();
        self.trial.acks_at_target(40, LIMIT).await?;
        self.started().await
    }

    async fn kill_all(&mut self) -> Result<()> {
        self.fault("all nodes are killed".into());
        for node in self.ids() {
            self.trial.crowd.node_dies(node);
            self.trial.kills(node)?;
        }
        self.all_started().await
    }

    /// How often the leaders that run have given a member up.
    fn given_up(&self) -> usize {
        let pool = &self.trial.pool;
        let logs = pool.running().into_iter();
        logs.map(|node| pool.node(node).log().unwrap_or_default())
            .map(|log| log.matches("a member lags so far").count())
            .sum()
    }

    /// A node is away until it lacks more than the others keep; then it is sent snapshots, over a thin link if it is one.
    async fn away(&mut self, node: u64, thin: bool) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} is away for long, thin: {thin}"));
        self.trial.kills(node)?;
        let known = self.given_up();
        until("the others keep no log for it", LIMIT, async || {
            (self.given_up() > known).then_some(())
        })
        .await?;
        if thin {
            for other in self.ids().into_iter().filter(|other| *other != node) {
                self.switch.set(other, node, THIN);
                self.switch.set(node, other, THIN);
            }
        }
        let (before, began) = (self.reigns().await?, self.trial.recorder().now());
        self.trial.pool.start_all()?;
        if !thin {
            self.mend();
            return self.recovered().await.map(drop);
        }
        self.trial.pool.ready(node).await?;
        self.trial.caught_up(node).await?;
        self.elected(Measure::ThinElections, &before, began).await?;
        self.switch.heal();
        self.mend();
        self.recovered().await.map(drop)
    }

    async fn pause(&mut self, node: u64, span: Duration) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} stands still for {span:?}"));
        self.blow(Measure::Stopped, &[node]);
        self.measured.owes(Measure::SteppedDown);
        self.trial.freezes(node)?;
        self.struck();
        sleep(span).await;
        self.trial.acks_at_target(20, LIMIT).await?;
        self.trial.wakes(node)?;
        self.mend();
        until("the woken node names another owner", LIMIT, async || {
            let owner = self.trial.owner_at_target(node).await.ok()?;
            (owner != Some(node)).then_some(())
        })
        .await?;
        let stepped_down = self.since_mended()?;
        self.measured.add(Measure::SteppedDown, [stepped_down]);
        self.recovered().await.map(drop)
    }

    async fn clocks(&mut self, dice: &mut Dice) -> Result<()> {
        let mut offsets = ["+1h", "-1h", "+1y"];
        dice.shuffle(&mut offsets);
        let jumps: Vec<_> = self.ids().into_iter().zip(offsets).collect();
        self.fault(format!("clocks jump: {jumps:?}"));
        for (node, offset) in &jumps {
            self.trial.pool.set_clock(*node, offset)?;
        }
        self.trial.acks_at_target(60, LIMIT).await?;
        sleep(Duration::from_secs(4)).await;
        for node in self.ids() {
            self.trial.pool.set_clock(node, "+0")?;
        }
        self.mend();
        self.trial.acks_at_target(40, LIMIT).await?;
        self.recovered().await.map(drop)
    }

    async fn restarts(&mut self) -> Result<()> {
        let recorder = self.trial.recorder();
        let from = recorder.now();
        for node in self.ids() {
            self.trial.crowd.node_dies(node);
            self.fault(format!("node {node} is stopped and started"));
            self.trial.pool.stop(node).await?;
            self.trial.pool.spawn(node)?;
            self.mend();
            self.trial.pool.ready(node).await?;
            self.trial.caught_up(node).await?;
            self.trial.crowd.node_lives(node);
        }
        let to = recorder.now();
        self.recovered().await?;
        let Returns {
            resumed,
            lost,
            refused,
        } = returns(&recorder.events(), (from, to), COURT_SESSIONS);
        self.measured.add(Measure::RestartResumed, resumed);
        self.measured.add(Measure::RestartLost, [lost]);
        self.measured.add(Measure::RestartRefused, [refused]);
        Ok(())
    }

    async fn drain(&mut self, node: u64) -> Result<()> {
        let via = self.ids().into_iter().find(|id| *id != node);
        let via = via.context("another node")?;
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} is drained"));
        let pool = &self.trial.pool;
        pool.operate(via, node, "drain", &json!({})).await?;
        pool.member_is(node, "drained", via).await?;
        self.trial.acks_at_target(20, LIMIT).await?;
        pool.operate(via, node, "undrain", &json!({})).await?;
        self.mend();
        self.trial.pool.member_is(node, "member", via).await?;
        self.recovered().await.map(drop)
    }
}

/// A time between so many seconds.
fn span(dice: &mut Dice, least: u64, most: u64) -> Duration {
    Duration::from_millis(least * 1000 + dice.roll((most - least) * 1000))
}
