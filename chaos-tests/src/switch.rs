//! The network between nodes as a program: a seeded switch that delays, loses, doubles, reorders and cuts, each direction
//! by itself. The kernel of the test machines has no netem.
//!
//! ```text
//!   node-1: lan ── TUN ─┐
//!   node-2: lan ── TUN ─┼─ thread of the switch: roads, then a queue by time of delivery
//!   node-3: lan ── TUN ─┤
//!   the test: lan ─ TUN ┘
//! ```
//!
//! The nodes' addresses on the bridge of the [`network`](crate::network) stay: clients and operators connect there. Only
//! what nodes say to each other goes through the switch. It works on IPv4 packets; what is no such packet to one of its
//! own addresses is dropped.

mod road;

use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tappers::Interface;
use tappers::tokio::AsyncTun;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

pub use road::{Dice, Fates, Road, Roads, UNDER_WAY_MAX};

use crate::enclave::command;
use crate::network::Network;

/// The first three bytes of all addresses.
const PREFIX: [u8; 3] = [10, 78, 0];

/// All addresses.
pub const SUBNET: &str = "10.78.0.0/24";

/// The largest packet of a device.
const MTU: usize = 1500;

/// The port of the test itself, which is no node's id, and the end of its address.
pub const OWN: u64 = 254;

/// The address of a node, or of the test, at the switch.
pub fn address(port: u64) -> Ipv4Addr {
    let [a, b, c] = PREFIX;
    Ipv4Addr::new(a, b, c, u8::try_from(port).unwrap_or(0))
}

/// A packet that waits for its time.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    at: Duration,
    /// Packets of one time go in the order in which they came.
    number: u64,
    from: u64,
    to: u64,
    packet: Vec<u8>,
}

impl Ord for Waiting {
    /// The earliest is the greatest: it comes out of the heap first.
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What the thread and the test share.
#[derive(Debug)]
struct State {
    roads: Roads,
    queue: BinaryHeap<Waiting>,
    admitted: u64,
}

/// A switch. It ends with this, and so do its devices.
#[derive(Debug)]
pub struct Switch {
    state: Arc<Mutex<State>>,
    ports: Vec<u64>,
    nodes: Vec<u64>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// Gives each node of a network, and the test itself, a device `lan` on a switch. The calling process must be in an
    /// enclave.
    pub fn start(network: &Network, seed: u64) -> Result<Switch> {
        let nodes: Vec<u64> = (1..=network.addresses().len() as u64).collect();
        let ports: Vec<u64> = nodes.iter().copied().chain([OWN]).collect();
        let state = Arc::new(Mutex::new(State {
            roads: Roads::new(seed),
            queue: BinaryHeap::new(),
            admitted: 0,
        }));
        let (running, ended) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = (Arc::clone(&state), ports.clone());
        std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || serve(thread.0, &thread.1, ended, &ready))?;
        is_ready
            .recv()
            .context("the thread of the switch ended")??;
        for port in &nodes {
            let namespace = network.namespace(*port);
            command("ip", ["link", "set", &device(*port), "netns", &namespace])?;
            set_up(&["-netns", &namespace], *port)?;
        }
        set_up(&[], OWN)?;
        Ok(Switch {
            state,
            ports,
            nodes,
            _running: running,
        })
    }

    /// Changes one direction.
    pub fn set(&self, from: u64, to: u64, road: Road) {
        locked(&self.state).roads.set(from, to, road);
    }

    /// Changes all directions between nodes.
    pub fn set_all(&self, road: Road) {
        for from in &self.nodes {
            for to in self.nodes.iter().filter(|to| *to != from) {
                self.set(*from, *to, road);
            }
        }
    }

    /// All roads are good again.
    pub fn heal(&self) {
        for from in &self.ports {
            for to in self.ports.iter().filter(|to| *to != from) {
                self.set(*from, *to, Road::default());
            }
        }
    }

    /// What became of what one sent to another.
    pub fn fates(&self, from: u64, to: u64) -> Fates {
        locked(&self.state).roads.fates(from, to)
    }
}

fn device(port: u64) -> String {
    format!("lan-{port}")
}

/// Gives a device its address.
fn set_up(namespace: &[&str], port: u64) -> Result<()> {
    let (device, address) = (device(port), format!("{}/24", address(port)));
    for words in [
        ["address", "add", &address, "dev", &device].as_slice(),
        &["link", "set", &device, "up"],
    ] {
        command("ip", namespace.iter().chain(words).copied())?;
    }
    Ok(())
}

/// The thread: opens the devices, says so, and works until the switch is dropped.
fn serve(
    state: Arc<Mutex<State>>,
    ports: &[u64],
    ended: oneshot::Receiver<()>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Who is gone need not be told.
            let _ = ready.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        let devices = match open(ports) {
            Ok(devices) => devices,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let devices = Arc::new(devices);
        let wake = Arc::new(Notify::new());
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for at in 0..devices.len() {
            let (devices, state, wake) =
                (Arc::clone(&devices), Arc::clone(&state), Arc::clone(&wake));
            tasks.spawn(async move { read(&devices, at, &state, &wake, began).await });
        }
        tasks.spawn(async move { deliver(&devices, &state, &wake, began).await });
        // An error: the switch was dropped.
        let _ = ended.await;
    });
}

fn open(ports: &[u64]) -> Result<Vec<(u64, AsyncTun)>> {
    let device = |port: &u64| {
        let tun = AsyncTun::new_named(Interface::new(device(*port))?).context(
            "/dev/net/tun can't be used: chaos needs it (modprobe tun; in a container --device /dev/net/tun and CAP_NET_ADMIN)",
        )?;
        Ok((*port, tun))
    };
    ports.iter().map(device).collect()
}

/// Takes what a port sends.
async fn read(
    devices: &[(u64, AsyncTun)],
    at: usize,
    state: &Mutex<State>,
    wake: &Notify,
    began: Instant,
) {
    let Some((from, device)) = devices.get(at) else {
        return;
    };
    let mut buffer = vec![0; MTU * 2];
    loop {
        let Ok(length) = device.recv(&mut buffer).await else {
            // The device is down for a moment while it changes its namespace.
            tokio::task::yield_now().await;
            continue;
        };
        let packet = buffer.get(..length).unwrap_or_default();
        let to = destination(packet);
        let Some((to, _)) = devices
            .iter()
            .find(|(port, _)| Some(*port) == to && port != from)
        else {
            continue;
        };
        let mut state = locked(state);
        let times = state.roads.admit(*from, *to, length, began.elapsed());
        for at in times {
            state.admitted += 1;
            let number = state.admitted;
            state.queue.push(Waiting {
                at,
                number,
                from: *from,
                to: *to,
                packet: packet.to_vec(),
            });
        }
        drop(state);
        wake.notify_one();
    }
}

/// The port that an IPv4 packet is for.
fn destination(packet: &[u8]) -> Option<u64> {
    let version = packet.first()? >> 4;
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let [a, b, c, port] = to;
    (version == 4 && [a, b, c] == PREFIX).then_some(u64::from(port))
}

/// Delivers each packet at its time.
async fn deliver(devices: &[(u64, AsyncTun)], state: &Mutex<State>, wake: &Notify, began: Instant) {
    loop {
        let next = {
            let mut state = locked(state);
            let due = state.queue.peek().map(|waiting| waiting.at);
            match due {
                Some(at) if at <= began.elapsed() => Ok(state.queue.pop()),
                due => Err(due),
            }
        };
        match next {
            Ok(Some(waiting)) => {
                if let Some((_, device)) = devices.iter().find(|(port, _)| *port == waiting.to) {
                    // A device that is down takes nothing: lost, as on any road.
                    let _ = device.send(&waiting.packet).await;
                }
                locked(state).roads.delivered(waiting.from, waiting.to);
            }
            Ok(None) | Err(None) => wake.notified().await,
            Err(Some(at)) => {
                let time = sleep_until((began + at).into());
                tokio::select! {
                    () = time => {}
                    () = wake.notified() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_where_their_header_says() {
        let mut packet = vec![0_u8; 20];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 78, 0, 3]);
        assert_eq!(destination(&packet), Some(3));
        packet[17] = 77;
        assert_eq!(destination(&packet), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&packet[..19]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn the_earliest_comes_out_first() {
        let waiting = |at, number| Waiting {
            at: Duration::from_millis(at),
            number,
            from: 1,
            to: 2,
            packet: Vec::new(),
        };
        let mut queue: BinaryHeap<_> =
            [waiting(5, 1), waiting(3, 2), waiting(3, 3), waiting(9, 4)].into();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|w| w.number)
            .collect();
        assert_eq!(order, [2, 3, 1, 4]);
    }
}
