//! The network between nodes as a program: a seeded switch that delays, loses, doubles, reorders and cuts, each direction
//! by itself. The kernel of the test machines has no netem.
//!
//! ```text
//!   lan-1 of node 1 ── TUN ─┐
//!   lan-2 of node 2 ── TUN ─┼─ a thread a device: roads ─► queue by time ─► a thread that delivers
//!   lan-3 of node 3 ── TUN ─┤
//!   lan-254 of the test TUN ┘
//! ```
//!
//! The nodes' addresses on the bridge of the [`network`](crate::network) stay: clients and operators connect there. Only
//! what nodes say to each other goes through the switch. It works on IPv4 packets; what is no such packet to one of its
//! own addresses is dropped.

mod road;

use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tappers::{Interface, Tun};

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

/// What the threads and the test share.
#[derive(Debug)]
struct State {
    roads: Roads,
    queue: BinaryHeap<Waiting>,
    admitted: u64,
    ended: bool,
}

/// The devices and what goes between them.
struct Works {
    began: Instant,
    devices: Vec<(u64, Tun)>,
    state: Mutex<State>,
    /// Something was put into the queue, or the end has come.
    changed: Condvar,
}

/// A switch. With this it ends; its devices are gone with the process, or when each has brought one packet more.
pub struct Switch {
    works: Arc<Works>,
    nodes: Vec<u64>,
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.works.state().ended = true;
        self.works.changed.notify_all();
    }
}

impl Switch {
    /// Gives each node of a network, and the test itself, a device `lan` on a switch. The calling process must be in an
    /// enclave.
    pub fn start(network: &Network, seed: u64) -> Result<Switch> {
        let nodes: Vec<u64> = (1..=network.addresses().len() as u64).collect();
        let ports: Vec<u64> = nodes.iter().copied().chain([OWN]).collect();
        let works = Arc::new(Works {
            began: Instant::now(),
            devices: open(&ports)?,
            state: Mutex::new(State {
                roads: Roads::new(seed),
                queue: BinaryHeap::new(),
                admitted: 0,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let switch = Switch {
            works: Arc::clone(&works),
            nodes,
        };
        for at in 0..ports.len() {
            let works = Arc::clone(&works);
            let thread = std::thread::Builder::new().name(format!("switch-{at}"));
            thread.spawn(move || works.take(at))?;
        }
        let thread = std::thread::Builder::new().name("switch".into());
        thread.spawn(move || works.deliver())?;
        let nodes = &switch.nodes;
        for port in nodes {
            let namespace = network.namespace(*port);
            command("ip", ["link", "set", &device(*port), "netns", &namespace])?;
            set_up(&["-netns", &namespace], *port)?;
        }
        set_up(&[], OWN)?;
        Ok(switch)
    }

    /// Changes one direction.
    pub fn set(&self, from: u64, to: u64, road: Road) {
        self.works.state().roads.set(from, to, road);
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
        let ports = || self.works.devices.iter().map(|(port, _)| *port);
        for from in ports() {
            for to in ports().filter(|to| *to != from) {
                self.set(from, to, Road::default());
            }
        }
    }

    /// What became of what one sent to another.
    pub fn fates(&self, from: u64, to: u64) -> Fates {
        self.works.state().roads.fates(from, to)
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

fn open(ports: &[u64]) -> Result<Vec<(u64, Tun)>> {
    const NEEDED: &str = "/dev/net/tun can't be used: chaos needs it (modprobe tun; in a container --device /dev/net/tun and \
        CAP_NET_ADMIN)";
    let device = |port: &u64| {
        let tun = Tun::new_named(Interface::new(device(*port))?);
        Ok((*port, tun.context(NEEDED)?))
    };
    ports.iter().map(device).collect()
}

impl Works {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a port sends, until the switch ends.
    fn take(&self, at: usize) {
        let Some((from, device)) = self.devices.get(at) else {
            return;
        };
        let mut buffer = vec![0; MTU * 2];
        loop {
            // An error comes of a device that is on its way into its namespace.
            let length = device.recv(&mut buffer).unwrap_or_default();
            let packet = buffer.get(..length).unwrap_or_default();
            let mut state = self.state();
            if state.ended {
                return;
            }
            let to = destination(packet).filter(|to| to != from);
            let Some(to) = to.filter(|to| self.device(*to).is_some()) else {
                continue;
            };
            let times = state.roads.admit(*from, to, length, self.began.elapsed());
            for at in times {
                state.admitted += 1;
                let number = state.admitted;
                state.queue.push(Waiting {
                    at,
                    number,
                    from: *from,
                    to,
                    packet: packet.to_vec(),
                });
            }
            drop(state);
            self.changed.notify_one();
        }
    }

    fn device(&self, port: u64) -> Option<&Tun> {
        let found = self.devices.iter().find(|(other, _)| *other == port);
        found.map(|(_, device)| device)
    }

    /// Delivers each packet at its time, until the switch ends.
    fn deliver(&self) {
        let mut state = self.state();
        while !state.ended {
            let now = self.began.elapsed();
            let due = state
                .queue
                .peek()
                .map(|waiting| waiting.at.saturating_sub(now));
            state = match due {
                Some(Duration::ZERO) => {
                    if let Some(waiting) = state.queue.pop() {
                        state.roads.delivered(waiting.from, waiting.to);
                        drop(state);
                        // A device that is down takes nothing: lost, as on any road.
                        let _ = self
                            .device(waiting.to)
                            .map(|device| device.send(&waiting.packet));
                        state = self.state();
                    }
                    state
                }
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

/// The port that an IPv4 packet is for.
fn destination(packet: &[u8]) -> Option<u64> {
    let version = packet.first()? >> 4;
    let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let [a, b, c, port] = to;
    (version == 4 && [a, b, c] == PREFIX).then_some(u64::from(port))
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
