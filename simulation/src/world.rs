//! The simulated network with its machines, and the orders that the story gives it between two ticks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use turmoil::Sim;

use crate::machine::{Machine, Pool, address, failures, host};
use crate::trace::Trace;

/// How long a simulated instant is: nothing on the network is faster.
const TICK: Duration = Duration::from_millis(2);

/// The longest story.
const LONGEST: Duration = Duration::from_secs(600);

/// A message takes up to so many milliseconds on a healthy link.
pub const HEALTHY_LINK: Duration = Duration::from_millis(3);

/// The machine of all clients.
pub const CLIENTS: &str = "clients";

/// What the story wants done to machines and links.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// The process ends at once; the machine goes on.
    Kill(u64),
    /// The machine goes at once.
    CutPower(u64),
    /// The node starts, again or for the first time.
    Start(u64),
    /// What two nodes send each other waits until the link is there again, as what TCP sends again and again does.
    Hold(u64, u64),
    /// It is there again.
    Release(u64, u64),
    /// The same of what the first sends the second; the other way all comes at once.
    HoldOneWay(u64, u64),
    /// All links between nodes are as they were.
    HealLinks,
    /// Messages between two nodes take up to so long.
    Delay(u64, u64, Duration),
    /// Fdatasyncs of a machine take up to so long.
    SlowDisk(u64, Duration),
}

/// What story and world share.
pub struct Stage {
    /// What all machines have in common.
    pub pool: Rc<Pool>,
    /// The machines, of nodes that are no members yet, too.
    pub machines: BTreeMap<u64, Rc<Machine>>,
    /// What is to be done between this tick and the next.
    pub orders: RefCell<VecDeque<Order>>,
    /// Nodes whose start failed, and why.
    pub start_errors: RefCell<Vec<(u64, String)>>,
    /// The sum over all that happened.
    pub trace: Arc<Trace>,
}

impl Stage {
    /// Machines for these nodes, with empty disks below a folder.
    pub fn new(
        folder: &Path,
        seed: u64,
        (nodes, first): (&[u64], &[u64]),
        partitions: u16,
        lies: bool,
    ) -> Result<Rc<Stage>> {
        let trace = Arc::new(Trace::default());
        let pool = Rc::new(Pool::new(first.to_vec(), partitions, Arc::clone(&trace))?);
        let machine = |node: &u64| {
            let machine = Machine::new(&pool, *node, folder, seed ^ (node << 48), lies)?;
            Ok((*node, machine))
        };
        let machines: Result<_> = nodes.iter().map(machine).collect();
        Ok(Rc::new(Stage {
            machines: machines?,
            pool,
            orders: RefCell::default(),
            start_errors: RefCell::default(),
            trace,
        }))
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        self.orders.borrow_mut().push_back(order);
    }
}

/// Runs a story to its end; gives how long it took in its own time.
pub fn run(
    stage: &Rc<Stage>,
    seed: u64,
    story: impl Future<Output = Result<()>> + 'static,
) -> Result<Duration> {
    let mut sim = turmoil::Builder::new()
        .simulation_duration(LONGEST)
        .tick_duration(TICK)
        .epoch(crate::process::epoch())
        .min_message_latency(Duration::ZERO)
        .max_message_latency(HEALTHY_LINK)
        .tcp_capacity(16_384)
        .rng_seed(seed)
        .enable_random_order()
        .build();
    let mut world = World {
        stage: Rc::clone(stage),
        down: stage.machines.keys().copied().collect(),
        cut: BTreeSet::new(),
        one_way: BTreeSet::new(),
    };
    for machine in stage.machines.values() {
        let (stage, machine) = (Rc::clone(stage), Rc::clone(machine));
        sim.host(host(machine.node), move || {
            let (stage, machine) = (Rc::clone(&stage), Rc::clone(&machine));
            async move {
                if !stage.is_switched_on(machine.node) {
                    std::future::pending::<()>().await;
                }
                let node = machine.node;
                if let Err(error) = machine.run(Rc::clone(&stage.pool)).await {
                    stage.start_errors.borrow_mut().push((node, error));
                }
                std::future::pending().await
            }
        });
    }
    let ended = Rc::new(RefCell::new(None));
    let outcome = Rc::clone(&ended);
    sim.client(CLIENTS, async move {
        *outcome.borrow_mut() = Some(story.await);
        Ok(())
    });
    loop {
        let finished = sim
            .step()
            .map_err(|error| anyhow!("the simulation ended: {error}"))?;
        world.obey(&mut sim)?;
        world.pass_open_ways(&sim);
        if let Some(failure) = failures().first() {
            return Err(anyhow!("{failure}"));
        }
        if finished {
            break;
        }
    }
    let outcome = ended.borrow_mut().take().context("a story has an end")?;
    outcome.map(|()| sim.elapsed())
}

impl Stage {
    fn is_switched_on(&self, node: u64) -> bool {
        SWITCHED_ON.with(|on| on.borrow().contains(&node))
    }
}

thread_local! {
    /// Machines that run their nodes: a simulated host runs from the first tick on.
    static SWITCHED_ON: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
}

struct World {
    stage: Rc<Stage>,
    /// Machines that are off, or whose node does not run.
    down: BTreeSet<u64>,
    /// Those that lost their power: nothing of them is on the network.
    cut: BTreeSet<u64>,
    /// Who sends what does not arrive, and to whom.
    one_way: BTreeSet<(u64, u64)>,
}

impl World {
    fn obey(&mut self, sim: &mut Sim<'_>) -> Result<()> {
        loop {
            let order = self.stage.orders.borrow_mut().pop_front();
            let Some(order) = order else { return Ok(()) };
            tracing::debug!(?order, "ordered");
            self.stage.trace.add(
                &[sim.elapsed().as_nanos() as u64],
                format!("{order:?}").as_bytes(),
            );
            match order {
                Order::Kill(node) => self.crash(sim, node, false)?,
                Order::CutPower(node) => self.crash(sim, node, true)?,
                Order::Start(node) => self.start(sim, node),
                Order::Hold(a, b) if self.is_up(a, b) => sim.hold(host(a), host(b)),
                Order::Release(a, b) if self.is_up(a, b) => sim.release(host(a), host(b)),
                Order::HoldOneWay(from, to) if self.is_up(from, to) => {
                    sim.hold(host(from), host(to));
                    self.one_way.insert((from, to));
                }
                Order::Hold(..) | Order::Release(..) | Order::HoldOneWay(..) => {}
                Order::HealLinks => self.heal(sim),
                Order::Delay(a, b, most) => {
                    sim.set_link_max_message_latency(host(a), host(b), most);
                }
                Order::SlowDisk(node, most) => self.machine(node)?.disk.set_slow(most),
            }
        }
    }

    /// turmoil holds both ways of a link, so what takes the open way is handed on at each instant.
    fn pass_open_ways(&self, sim: &Sim<'_>) {
        if self.one_way.is_empty() {
            return;
        }
        let is_open = |from: IpAddr, to: IpAddr| {
            let mut ways = self.one_way.iter();
            ways.any(|(held, at)| from == address(*at) && to == address(*held))
        };
        sim.links(|links| {
            for sent in links.flatten() {
                let (from, to) = sent.pair();
                if is_open(from.ip(), to.ip()) {
                    sent.deliver();
                }
            }
        });
    }

    fn machine(&self, node: u64) -> Result<&Rc<Machine>> {
        self.stage
            .machines
            .get(&node)
            .context("there is such a machine")
    }

    fn crash(&mut self, sim: &mut Sim<'_>, node: u64, power: bool) -> Result<()> {
        if !self.down.insert(node) {
            return Ok(());
        }
        let machine = Rc::clone(self.machine(node)?);
        if power {
            // Neither goodbye nor reset leaves the machine.
            self.cut.insert(node);
            self.isolate(sim, node);
        }
        machine.stop_writing(power)?;
        sim.crash(host(node));
        SWITCHED_ON.with(|on| on.borrow_mut().remove(&node));
        let lost = machine.settle(power)?;
        tracing::info!(node, power, lost, "crashed");
        Ok(())
    }

    fn others(&self, node: u64) -> impl Iterator<Item = String> + '_ {
        let nodes = self
            .stage
            .machines
            .keys()
            .filter(move |other| **other != node);
        nodes.map(|other| host(*other)).chain([CLIENTS.to_owned()])
    }

    fn isolate(&self, sim: &Sim<'_>, node: u64) {
        for other in self.others(node) {
            sim.partition(host(node), other);
        }
    }

    fn start(&mut self, sim: &mut Sim<'_>, node: u64) {
        if !self.down.remove(&node) {
            return;
        }
        if self.cut.remove(&node) {
            for other in self.others(node).collect::<Vec<_>>() {
                if !self.is_cut(&other) {
                    sim.repair(host(node), other);
                }
            }
        }
        SWITCHED_ON.with(|on| on.borrow_mut().insert(node));
        sim.bounce(host(node));
    }

    /// Whether both have power: who has none is cut off in another way.
    fn is_up(&self, a: u64, b: u64) -> bool {
        !self.cut.contains(&a) && !self.cut.contains(&b)
    }

    fn is_cut(&self, other: &str) -> bool {
        self.cut.iter().any(|node| host(*node) == other)
    }

    fn heal(&mut self, sim: &mut Sim<'_>) {
        self.one_way.clear();
        let nodes: Vec<u64> = self.stage.machines.keys().copied().collect();
        for (a, b) in pairs(&nodes) {
            if self.is_up(a, b) {
                sim.release(host(a), host(b));
            }
            sim.set_link_max_message_latency(host(a), host(b), HEALTHY_LINK);
        }
        for machine in self.stage.machines.values() {
            machine.disk.set_slow(crate::disk::HEALTHY);
        }
    }
}

/// Every two of them.
pub fn pairs(nodes: &[u64]) -> Vec<(u64, u64)> {
    let with = |(at, a): (usize, &u64)| {
        let a = *a;
        nodes.iter().skip(at + 1).map(move |b| (a, *b))
    };
    nodes.iter().enumerate().flat_map(with).collect()
}
