//! The switch between nodes really delays, loses, doubles, reorders and cuts: measured with pings of the test's own, from
//! its own port to the kernel of a node's namespace, which answers them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos_tests::enclave;
use chaos_tests::network::Network;
use chaos_tests::switch::{OWN, Road, Switch, address};
use chaos_tests::wait::PROMPT;
use socket2::{Domain, Protocol, Socket, Type};

/// The seed of the switch.
const SEED: u64 = 20_261_130;

/// Marks the test's own pings.
const IDENTIFIER: u16 = 0x4d75;

const MS: Duration = Duration::from_millis(1);

/// A socket for pings.
struct Pinger {
    socket: Socket,
    to: SocketAddr,
}

/// What came back: in which order, how often, and how late.
#[derive(Debug, Default)]
struct Answers {
    order: Vec<u16>,
    times: BTreeMap<u16, Duration>,
}

impl Answers {
    fn doubled(&self) -> usize {
        self.order.len() - self.times.len()
    }

    fn median(&self) -> Duration {
        let mut times: Vec<_> = self.times.values().copied().collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

impl Pinger {
    fn new(node: u64) -> Result<Pinger> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_read_timeout(Some(5 * MS))?;
        socket.set_recv_buffer_size(1 << 20)?;
        let to = SocketAddr::from((address(node), 0));
        Ok(Pinger { socket, to })
    }

    /// Sends so many, one after the other with a pause, and takes answers until `enough` have come or none comes any more.
    fn ping(&mut self, count: u16, pause: Duration, enough: usize) -> Result<Answers> {
        let mut answers = Answers::default();
        let mut sent: BTreeMap<u16, Instant> = BTreeMap::new();
        for number in 0..count {
            sent.insert(number, Instant::now());
            self.socket.send_to(&request(number), &self.to.into())?;
            let next = Instant::now() + pause;
            while Instant::now() < next {
                self.take(&sent, &mut answers)?;
            }
        }
        let mut last = Instant::now();
        while answers.times.len() < enough && last.elapsed() < PROMPT / 10 {
            if self.take(&sent, &mut answers)? {
                last = Instant::now();
            }
        }
        // Those that overtook nobody: what is still under way is at most one more round.
        let end = Instant::now() + 300 * MS;
        while Instant::now() < end {
            self.take(&sent, &mut answers)?;
        }
        Ok(answers)
    }

    /// Takes what comes next, if it comes soon.
    fn take(&mut self, sent: &BTreeMap<u16, Instant>, answers: &mut Answers) -> Result<bool> {
        let mut packet = [0; 256];
        let length = match self.socket.read(&mut packet) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        // The IPv4 header comes first.
        let Some([0, 0, _, _, id @ .., a, b]) = packet.get(20..length.min(28)) else {
            return Ok(false);
        };
        if *id != IDENTIFIER.to_be_bytes() {
            return Ok(false);
        }
        let number = u16::from_be_bytes([*a, *b]);
        if let Some(began) = sent.get(&number) {
            answers.order.push(number);
            answers.times.entry(number).or_insert(began.elapsed());
        }
        Ok(true)
    }
}

/// An echo request (RFC 792).
fn request(number: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(IDENTIFIER.to_be_bytes());
    packet.extend(number.to_be_bytes());
    let words = packet.chunks(2).map(|pair| match pair {
        [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet.splice(2..4, checksum.to_be_bytes());
    packet
}

async fn measured() -> Result<()> {
    let network = Network::new(2)?;
    let switch = Switch::start(&network, SEED)?;
    let mut pinger = Pinger::new(1)?;
    good_roads(&mut pinger)?;
    far_away(&switch, &mut pinger)?;
    lossy(&switch, &mut pinger)?;
    cut_one_way(&switch, &mut pinger)?;
    thin(&switch, &mut pinger)?;
    // What one node sends to another does not come in, and what others send does.
    network.part(&[1], &[2])?;
    good_roads(&mut pinger)?;
    network.heal()
}

fn good_roads(pinger: &mut Pinger) -> Result<()> {
    let good = pinger.ping(100, MS, 100)?;
    println!(
        "a good road: {} of 100, median {:?}",
        good.times.len(),
        good.median()
    );
    ensure!(good.times.len() == 100 && good.doubled() == 0, "{good:?}");
    ensure!(good.order.is_sorted(), "overtaken: {:?}", good.order);
    Ok(())
}

/// There and back, each by a road of its own.
fn far_away(switch: &Switch, pinger: &mut Pinger) -> Result<()> {
    let far = Road {
        delay: 75 * MS,
        jitter: 50 * MS,
        ..Road::default()
    };
    switch.set(OWN, 1, far);
    let answers = pinger.ping(300, MS, 300)?;
    let (least, median) = (answers.times.values().min(), answers.median());
    println!(
        "75 ± 50 ms: {} of 300, least {least:?}, median {median:?}",
        answers.times.len()
    );
    ensure!(answers.times.len() == 300, "lost by a delay: {answers:?}");
    ensure!(least.is_some_and(|least| *least >= 25 * MS) && median >= 65 * MS);
    ensure!(!answers.order.is_sorted(), "nothing was overtaken");
    switch.heal();
    Ok(())
}

fn lossy(switch: &Switch, pinger: &mut Pinger) -> Result<()> {
    let lossy = Road {
        loss: 200,
        doubled: 100,
        ..Road::default()
    };
    switch.set(1, OWN, lossy);
    let before = switch.fates(1, OWN);
    let answers = pinger.ping(1000, MS / 2, 1000)?;
    let after = switch.fates(1, OWN);
    println!(
        "20 % lost, 10 % doubled: {} of 1,000 answered, {} twice",
        answers.times.len(),
        answers.doubled()
    );
    let (lost, doubled) = (after.lost - before.lost, after.doubled - before.doubled);
    ensure!((150..250).contains(&lost) && answers.times.len() as u64 == 1000 - lost);
    ensure!((45..120).contains(&doubled) && answers.doubled() as u64 == doubled);
    switch.heal();
    Ok(())
}

/// Requests arrive, answers don't.
fn cut_one_way(switch: &Switch, pinger: &mut Pinger) -> Result<()> {
    let cut = Road {
        cut: true,
        ..Road::default()
    };
    switch.set(1, OWN, cut);
    let before = (switch.fates(OWN, 1), switch.fates(1, OWN));
    let answers = pinger.ping(20, MS, 20)?;
    let after = (switch.fates(OWN, 1), switch.fates(1, OWN));
    ensure!(answers.order.is_empty(), "answered over a cut: {answers:?}");
    ensure!(after.0.delivered - before.0.delivered == 20 && after.1.lost - before.1.lost == 20);
    switch.heal();
    Ok(())
}

/// 50 answers of 28 bytes at 2,800 bytes a second take half a second.
fn thin(switch: &Switch, pinger: &mut Pinger) -> Result<()> {
    let thin = Road {
        bytes_per_second: Some(2_800),
        ..Road::default()
    };
    switch.set(1, OWN, thin);
    let answers = pinger.ping(50, Duration::ZERO, 50)?;
    let last = answers.times.values().max();
    println!(
        "2,800 bytes a second: {} of 50, the last after {last:?}",
        answers.times.len()
    );
    ensure!(last.is_some_and(|last| *last >= 480 * MS), "{last:?}");
    switch.heal();
    Ok(())
}

#[test]
fn the_switch_does_what_it_is_told() {
    enclave::run("the_switch_does_what_it_is_told", measured());
}
