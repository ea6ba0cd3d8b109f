//! Where faults are caused and healed: three nodes in namespaces, each with a port on a switch, a disk whose power can be
//! cut, and a clock of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::plan::Fault;
use super::watchers;
use crate::disk::PowerDisk;
use crate::history::What;
use crate::load::{Seat, ring};
use crate::network::Network;
use crate::pool::{Pool, PoolSettings};
use crate::switch::{Dice, Road, Switch};
use crate::syncs::Trace;
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
    /// What happened.
    pub(super) what: &'static str,
    /// On the history's clock.
    pub(super) at: u64,
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
    _images: TempDir,
}

/// Who talks: in rooms, with sessions that last and without stream management, one of them forgetful; and a ring of users.
fn seats(nodes: &[u64]) -> Vec<Seat> {
    let mut seats = Trial::seats_on(nodes);
    seats.extend(ring(nodes));
    for seat in &mut seats {
        seat.lasting = seat.stream_management && !seat.forgetful;
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
        let seats = seats(&pool.ids());
        Ok(Ground {
            disks,
            trial: Trial::seated(pool, seats).await?,
            network,
            switch,
            notes: Vec::new(),
            blows: Vec::new(),
            _images: images,
        })
    }

    /// Causes a fault, lets it last, and heals it: nodes serve, have caught up, and everybody is in.
    pub(super) async fn cause(&mut self, fault: Fault, dice: &mut Dice) -> Result<()> {
        let owner = self.trial.living_owner().await?;
        let others: Vec<u64> = self.ids().into_iter().filter(|id| *id != owner).collect();
        let at = usize::try_from(dice.roll(others.len() as u64))?;
        let other = *others.get(at).context("another node")?;
        match fault {
            Fault::KillOwner => self.kill(owner, "kill -9 of the owner").await,
            Fault::KillFollower => self.kill(other, "kill -9 of another node").await,
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
            Fault::Pause => self.pause(owner, span(dice, 3, 6)).await,
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
            Fault::Loss => self.weather("loss", LOSSY, span(dice, 5, 8)).await,
            Fault::Delay => self.weather("delay", FAR, span(dice, 5, 8)).await,
            Fault::SlowDisk => self.slow_disk(owner, span(dice, 4, 7)).await,
            Fault::FailedSync => self.failed_sync(owner).await,
            Fault::FullDisk => self.full_disk(owner, dice.roll(2) == 0).await,
            Fault::Clocks => self.clocks(dice).await,
            Fault::Restarts => self.restarts().await,
            Fault::Drain => self.drain(owner).await,
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
    fn blow(&mut self, what: &'static str, nodes: &[u64]) {
        let at = self.trial.recorder().now();
        let nodes = nodes.to_vec();
        self.blows.push(Blow { what, at, nodes });
    }

    /// All nodes serve, have caught up and have their members: healed.
    async fn recovered(&mut self) -> Result<()> {
        for node in self.ids() {
            self.trial.pool.ready(node).await?;
        }
        for node in self.ids() {
            self.trial.caught_up(node).await?;
            self.trial.crowd.node_lives(node);
        }
        self.say("all nodes serve and have caught up");
        self.trial.crowd.all_in(LIMIT).await?;
        self.trial.healed();
        self.say("healed");
        Ok(())
    }

    /// Nodes that are dead are started.
    async fn started(&mut self) -> Result<()> {
        self.trial.pool.start_all()?;
        self.recovered().await
    }

    async fn kill(&mut self, node: u64, what: &'static str) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} is killed"));
        self.blow(what, &[node]);
        self.trial.pool.kill(node)?;
        self.trial.acks_at_target(40, LIMIT).await?;
        self.started().await
    }

    async fn kill_all(&mut self) -> Result<()> {
        self.fault("all nodes are killed".into());
        for node in self.ids() {
            self.trial.crowd.node_dies(node);
            self.trial.pool.kill(node)?;
        }
        self.started().await
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
        self.trial.pool.kill(node)?;
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
        self.trial.pool.start_all()?;
        self.trial.pool.ready(node).await?;
        self.trial.caught_up(node).await?;
        self.switch.heal();
        self.recovered().await
    }

    async fn power_cut(&mut self, nodes: &[u64]) -> Result<()> {
        self.fault(format!("the power of {nodes:?} goes"));
        for node in nodes {
            self.trial.crowd.node_dies(*node);
            self.disk(*node)?.cut()?;
        }
        for node in nodes {
            // One that has noticed has ended by itself.
            if self.trial.pool.ended(*node).is_none() {
                self.trial.pool.kill(*node)?;
            }
            self.disk(*node)?.again()?;
        }
        if nodes.len() == 1 {
            self.trial.acks_at_target(40, LIMIT).await?;
        }
        self.started().await
    }

    async fn pause(&mut self, node: u64, span: Duration) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("node {node} stands still for {span:?}"));
        self.blow("SIGSTOP of the owner", &[node]);
        self.trial.freezes(node)?;
        sleep(span).await;
        self.trial.acks_at_target(20, LIMIT).await?;
        self.trial.wakes(node)?;
        self.recovered().await
    }

    async fn split(&mut self, alone: &[u64], owner: u64, span: Duration) -> Result<()> {
        let others: Vec<u64> = self
            .ids()
            .into_iter()
            .filter(|id| !alone.contains(id))
            .collect();
        self.fault(format!(
            "{alone:?} and {others:?} don't meet for {span:?}, {owner} owns"
        ));
        self.trial.recorder().record(What::Split {
            minority: alone.to_vec(),
            leader: owner,
        });
        let what = match alone.contains(&owner) {
            true => "split, the owner alone",
            false => "split, the owner among two",
        };
        self.blow(what, alone);
        self.network.part(alone, &others)?;
        self.network.part(&others, alone)?;
        for node in alone {
            self.trial.crowd.node_is_cut_off(*node);
        }
        self.trial.acks_at_target(40, LIMIT).await?;
        sleep(span).await;
        self.mended().await
    }

    async fn shatter(&mut self, span: Duration) -> Result<()> {
        self.fault(format!("nobody meets anybody for {span:?}"));
        let all = self.ids();
        self.network.part(&all, &all)?;
        for node in &all {
            self.trial.crowd.node_is_cut_off(*node);
        }
        sleep(span).await;
        self.mended().await
    }

    async fn mended(&mut self) -> Result<()> {
        for node in self.ids() {
            self.trial.crowd.node_is_in_touch(node);
        }
        self.network.heal()?;
        self.switch.heal();
        self.recovered().await
    }

    async fn cut(&mut self, ways: &[(u64, u64)], span: Duration) -> Result<()> {
        self.fault(format!("nothing passes {ways:?} for {span:?}"));
        for (from, to) in ways {
            let cut = Road {
                cut: true,
                ..Road::default()
            };
            self.switch.set(*from, *to, cut);
        }
        sleep(span).await;
        self.mended().await
    }

    async fn weather(&mut self, name: &str, road: Road, span: Duration) -> Result<()> {
        self.fault(format!("{name} for {span:?}"));
        let (elections, from) = (self.terms().await?, self.trial.recorder().now());
        self.switch.set_all(road);
        sleep(span).await;
        let (elected, to) = (self.terms().await? - elections, self.trial.recorder().now());
        let acked = latencies(&self.trial.recorder().events(), from, to);
        self.notes.push(format!(
            "{name}: {elected} elections in {span:?}; {} messages acknowledged, p50 {} ms, p99 {} ms",
            acked.len(),
            percentile(&acked, 50),
            percentile(&acked, 99)
        ));
        self.mended().await
    }

    /// The sum of all groups' terms.
    async fn terms(&self) -> Result<u64> {
        let via = *self.trial.pool.running().first().context("a node runs")?;
        let status = self.trial.pool.status(via).await?;
        let rows = status["partitions"].as_array().context("partitions")?;
        Ok(rows.iter().filter_map(|row| row["term"].as_u64()).sum())
    }

    async fn slow_disk(&mut self, node: u64, span: Duration) -> Result<()> {
        self.fault(format!("the disk of node {node} is slow for {span:?}"));
        let trace = Trace::slow(&self.trial.pool, node, SLOW).await?;
        sleep(span).await;
        trace.release().await?;
        self.recovered().await
    }

    async fn failed_sync(&mut self, node: u64) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!("a sync of node {node} fails"));
        let folder = self.trial.pool.data_dir(node).join("log");
        let trace = Trace::fail_next(&self.trial.pool, node, &folder).await?;
        let pool = &mut self.trial.pool;
        until("the node ends itself", LIMIT, async || pool.ended(node)).await?;
        let later = trace.after_the_failure().await?;
        ensure!(
            later.is_empty(),
            "syncs after the one that failed: {later:#?}"
        );
        self.started().await
    }

    /// Less than the reserve is left, or nothing at all; then its node may end, and is started when there is space.
    async fn full_disk(&mut self, node: u64, nothing: bool) -> Result<()> {
        self.trial.crowd.node_dies(node);
        self.fault(format!(
            "the disk of node {node} is full, wholly: {nothing}"
        ));
        let left = if nothing { 0 } else { RESERVE - (4 << 20) };
        self.disk(node)?.fill_to(left)?;
        self.trial.acks_at_target(60, LIMIT).await?;
        if nothing && self.trial.pool.ended(node).is_none() {
            self.trial.pool.kill(node)?;
        }
        self.disk(node)?.empty()?;
        self.started().await
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
        self.trial.acks_at_target(40, LIMIT).await?;
        self.recovered().await
    }

    async fn restarts(&mut self) -> Result<()> {
        self.fault("each node is stopped and started".into());
        for node in self.ids() {
            self.trial.crowd.node_dies(node);
            self.trial.pool.stop(node).await?;
            self.trial.pool.spawn(node)?;
            self.trial.pool.ready(node).await?;
            self.trial.caught_up(node).await?;
            self.trial.crowd.node_lives(node);
        }
        self.recovered().await
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
        pool.member_is(node, "member", via).await?;
        self.recovered().await
    }
}

/// Each fifth packet is lost, one in fifty comes twice.
const LOSSY: Road = Road {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 200,
    doubled: 20,
    cut: false,
    bytes_per_second: None,
};

/// Far away, by roads on which packets overtake each other.
const FAR: Road = Road {
    delay: Duration::from_millis(75),
    jitter: Duration::from_millis(50),
    loss: 0,
    doubled: 0,
    cut: false,
    bytes_per_second: None,
};

/// 1 Mbit/s.
const THIN: Road = Road {
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
    loss: 0,
    doubled: 0,
    cut: false,
    bytes_per_second: Some(125_000),
};

/// How much longer a sync takes on a slow disk.
const SLOW: Duration = Duration::from_millis(300);

/// A time between so many seconds.
fn span(dice: &mut Dice, least: u64, most: u64) -> Duration {
    Duration::from_millis(least * 1000 + dice.roll((most - least) * 1000))
}

/// How long messages that were sent in a time waited for their acknowledgement, in milliseconds, shortest first.
fn latencies(events: &[crate::history::Event], from: u64, to: u64) -> Vec<u64> {
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    let mut waited = Vec::new();
    for event in events
        .iter()
        .filter(|event| (from..=to).contains(&event.at))
    {
        match &event.what {
            What::Invoke { token, .. } => {
                sent.insert(token, event.at);
            }
            What::Ok { token } => {
                let began = sent.remove(token.as_str());
                waited.extend(began.map(|began| (event.at - began) / 1_000_000));
            }
            _ => {}
        }
    }
    waited.sort_unstable();
    waited
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}
