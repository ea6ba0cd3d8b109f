//! `durable`: messages that the server acknowledges with stream management (XEP-0198): how many a second, and how soon.
//!
//! Each message goes with `<r/>`; it counts as acknowledged when an `h` covers it. What a server promises with that is
//! its own affair: Muster has it on a quorum's disks. A message that was acknowledged but never came is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::crowd::Crowd;
use crate::histogram::Histogram;
use crate::ledger::Ledger;
use crate::login::LoginOptions;
use crate::pace::Pace;
use crate::report::Row;
use crate::scenario::{
    Handles, Ids, Meter, SECONDS_MAX, Tally, chat, chat_message, drain, enter, open_loop,
};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// Messages of one closed loop.
const CLOSED_MESSAGES_MAX: usize = 4_000_000;

/// `muster-bench durable`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DurableArgs {
    /// Senders; each writes to the next
    #[arg(long, default_value_t = 256)]
    pub(crate) senders: usize,
    /// Messages a second, all together (open loop) [default: each sender's next goes when its last is acknowledged]
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Seconds of sending
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Messages carry an origin-id (XEP-0359), as modern clients' do
    #[arg(long)]
    pub(crate) origin_id: bool,
}

/// Stanzas of a sender that are not acknowledged: (its number, the message).
type Unacknowledged = Mutex<VecDeque<(u32, usize)>>;

struct Durable {
    ids: Ids,
    ledger: Ledger,
    /// Latencies of deliveries.
    tally: Tally,
    acknowledgements: Mutex<Histogram>,
    acknowledged: AtomicU64,
    unacknowledged: Vec<Unacknowledged>,
    handles: Handles,
    addresses: Vec<String>,
    request: Bytes,
    origin_id: bool,
    closed: bool,
    next: AtomicUsize,
    over: AtomicBool,
}

impl Durable {
    fn new(target: &Target, args: &DurableArgs, count: usize) -> anyhow::Result<Durable> {
        let mut request = XmlWriter::new(ns::CLIENT);
        request.start_ns("r", ns::STREAM_MANAGEMENT);
        Ok(Durable {
            ids: Ids::new(),
            ledger: Ledger::new(count, 1, Instant::now())?,
            tally: Tally::default(),
            acknowledgements: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            unacknowledged: (0..args.senders).map(|_| Mutex::default()).collect(),
            handles: Handles::default(),
            addresses: (0..args.senders)
                .map(|sender| target.address(sender))
                .collect(),
            request: request.finish(),
            origin_id: args.origin_id,
            closed: args.rate.is_none(),
            next: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        })
    }

    fn receiver(&self, sender: usize) -> usize {
        (sender + 1) % self.addresses.len().max(1)
    }

    fn send(&self, sender: usize, message: usize, due: Instant) {
        let to = self.addresses.get(self.receiver(sender));
        let (Some(handle), Some(waiting), Some(to)) = (
            self.handles.get(sender),
            self.unacknowledged.get(sender),
            to,
        ) else {
            return self.tally.not_sent();
        };
        self.ledger.sent(message, due);
        let id = format!("{}.{sender}", self.ids.id(message));
        let stanza = chat::stanza(to, "chat", &id, false, self.origin_id).finish();
        let mut bytes = BytesMut::with_capacity(stanza.len() + self.request.len());
        bytes.extend_from_slice(&stanza);
        bytes.extend_from_slice(&self.request);
        // Held while sending: the answer may be here before this returns.
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match handle.send(bytes.freeze()) {
            Some(number) => waiting.push_back((number, message)),
            None => self.tally.not_sent(),
        }
    }

    fn send_next(&self, sender: usize) {
        let message = self.next.fetch_add(1, Ordering::Relaxed);
        if !self.over.load(Ordering::Relaxed) && message < self.ledger.messages() {
            self.send(sender, message, Instant::now());
        }
    }

    fn not_acknowledged(&self) -> u64 {
        let length = |waiting: &Unacknowledged| {
            waiting.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
        };
        self.unacknowledged.iter().map(length).sum()
    }

    fn acknowledgements(&self) -> Histogram {
        self.acknowledgements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whether `h` covers a stanza's number; both wrap (XEP-0198 §4).
fn covers(h: u32, number: u32) -> bool {
    h.wrapping_sub(number) < 1 << 31
}

impl Observer for Durable {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        let Some((message, sender)) = chat_message(&self.ids, &self.tally, stanza) else {
            return;
        };
        let is_receiver = sender < self.addresses.len() && session.index == self.receiver(sender);
        enter(
            &self.ledger,
            &self.tally,
            message,
            is_receiver.then_some(0),
            stanza,
            at,
        );
    }

    fn acknowledged(&self, session: &Handle, h: u32, at: Instant) {
        let Some(waiting) = self.unacknowledged.get(session.index) else {
            return;
        };
        let mut covered = Vec::new();
        {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((_, message)) = waiting.front().filter(|(number, _)| covers(h, *number))
            {
                covered.push(*message);
                waiting.pop_front();
            }
        }
        {
            let mut histogram = self
                .acknowledgements
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for due in covered
                .iter()
                .filter_map(|message| self.ledger.due(*message))
            {
                histogram.record(at.saturating_duration_since(due));
            }
        }
        self.acknowledged
            .fetch_add(covered.len() as u64, Ordering::Relaxed);
        if self.closed {
            for _ in covered {
                self.send_next(session.index);
            }
        }
    }
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &DurableArgs) -> anyhow::Result<Row> {
    if args.senders < 2 {
        bail!("at least two senders are needed");
    }
    let window = Duration::from_secs(args.seconds);
    let pace = match args.rate {
        Some(rate) => Some(Pace::new(rate).context("the rate must be a positive number")?),
        None => None,
    };
    let count = pace.map_or(CLOSED_MESSAGES_MAX, |pace| pace.messages(window));
    Crowd::register(target, args.senders).await?;
    let durable = Arc::new(Durable::new(target, args, count)?);
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let crowd = Crowd::log_in(target, args.senders, options, durable.clone()).await?;
    durable.handles.set(crowd.handles());
    let meter = Meter::start(&target.processes).await?;
    match pace {
        Some(pace) => {
            let turn = |message, due| durable.send(message % args.senders, message, due);
            open_loop(pace, count, Instant::now(), turn).await;
        }
        None => {
            (0..args.senders).for_each(|sender| durable.send_next(sender));
            tokio::time::sleep(window).await;
            durable.over.store(true, Ordering::Relaxed);
        }
    }
    let in_window = durable.acknowledged.load(Ordering::Relaxed);
    let took = meter.elapsed();
    let acknowledged = || durable.acknowledged.load(Ordering::Relaxed);
    drain(|| durable.not_acknowledged() == 0 && durable.tally.latencies().len() >= acknowledged())
        .await;
    let load = args
        .rate
        .map_or("closed loop".to_owned(), |rate| format!("{rate} msg/s"));
    let setup = format!("{load}, {} senders, {} s", args.senders, args.seconds);
    let mut row = Row::new("durable", setup);
    row.figure("acknowledged", in_window as f64 / took.as_secs_f64(), "/s");
    meter.add_to(&mut row, acknowledged(), "µs/msg", 1e6)?;
    row.latencies(&durable.acknowledgements());
    let deliveries = durable.tally.latencies();
    let ms = |share| deliveries.quantile(share).as_secs_f64() * 1e3;
    row.figure("delivery p50", ms(0.5), "ms");
    row.figure("delivery p99", ms(0.99), "ms");
    let mut faults = durable.tally.faults(durable.ledger.sum(), crowd.broken());
    faults.not_acknowledged = durable.not_acknowledged();
    crowd.log_out().await;
    Ok(row.judged(faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_h_covers() {
        let check = |h, number, expect| assert_eq!(covers(h, number), expect, "{h} {number}");
        check(5, 5, true);
        check(5, 4, true);
        check(5, 6, false);
        check(0, 1, false);
        check(0, u32::MAX, true);
        check(u32::MAX, 0, false);
    }
}
