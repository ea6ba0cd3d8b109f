//! `archive`: pages of archives (XEP-0313): what a page of 50 costs, from the oldest to the newest and back.
//!
//! ```text
//!  writers ─► as many messages as wanted, acknowledged ─► readers, each of its own archive, page after page:
//!      forwards <after/> to the end ─► backwards <before/> to the start ─► again, until the time is over
//! ```
//!
//! Every page is entered into a ledger, as every message is elsewhere: a row that is not where it should be makes the
//! figures void.

mod ledger;
mod reading;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::crowd::Crowd;
use crate::histogram::Histogram;
use crate::ledger::Ledger;
use crate::login::{LoginOptions, log_in};
use crate::progress::Progress;
use crate::report::{Faults, Row};
use crate::scenario::{
    Handles, Ids, Meter, SECONDS_MAX, Tally, chat, chat_message, enter, wait_until,
};
use crate::session::{Handle, Observer};
use crate::target::Target;
use ledger::{Direction, PagesSum};
use reading::Reader;

/// Messages of all archives together.
const MESSAGES_MAX: usize = 10_000_000;

/// Messages of each writer that are on their way at once.
const WINDOW: usize = 16;

/// How long all may take to be written without any delivery.
const STALLED: Duration = Duration::from_secs(30);

/// `muster-bench archive`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ArchiveArgs {
    /// Messages in all archives together
    #[arg(long, default_value_t = 10_000)]
    pub(crate) messages: usize,
    /// Archives that they are spread over, each a user's
    #[arg(long, default_value_t = 4)]
    pub(crate) archives: usize,
    /// Messages of a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) page: u32,
    /// Archives read at once, page after page
    #[arg(long, default_value_t = 4)]
    pub(crate) readers: usize,
    /// Seconds of reading, half forwards and half backwards
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=SECONDS_MAX))]
    pub(crate) seconds: u64,
}

/// Fills archives: pair `p` is the writer `2p` and the owner of the archive `2p + 1`.
struct Filling {
    ids: Ids,
    ledger: Ledger,
    tally: Tally,
    handles: Handles,
    addresses: Vec<String>,
    each: usize,
    next: Vec<AtomicUsize>,
    came: AtomicU64,
}

impl Filling {
    /// The pair's next message, if there is one left.
    fn send_next(&self, pair: usize) {
        let Some(next) = self.next.get(pair) else {
            return;
        };
        let message = next.fetch_add(1, Ordering::Relaxed);
        if message >= self.each {
            return;
        }
        let (Some(writer), Some(to)) = (self.handles.get(2 * pair), self.addresses.get(pair))
        else {
            return self.tally.not_sent();
        };
        self.ledger.sent(pair * self.each + message, Instant::now());
        let id = format!("{}.{pair}", self.ids.id(message));
        let stanza = chat::stanza(to, "chat", &id, false, true);
        if writer.send(stanza.finish()).is_none() {
            self.tally.not_sent();
        }
    }
}

impl Observer for Filling {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        let Some((message, pair)) = chat_message(&self.ids, &self.tally, stanza) else {
            return;
        };
        let is_owner = session.index == 2 * pair + 1 && message < self.each;
        let cell = pair.saturating_mul(self.each).saturating_add(message);
        let recipient = is_owner.then_some(0);
        if enter(&self.ledger, &self.tally, cell, recipient, stanza, at) {
            self.came.fetch_add(1, Ordering::Relaxed);
            self.send_next(pair);
        }
    }
}

/// Writes all messages. Gives the ids of this run, how many an archive has, and how long it took.
async fn fill(
    target: &Arc<Target>,
    args: &ArchiveArgs,
) -> anyhow::Result<(Arc<Filling>, Duration)> {
    let (each, pairs) = (args.messages / args.archives, args.archives);
    let total = each * pairs;
    let filling = Arc::new(Filling {
        ids: Ids::new(),
        ledger: Ledger::new(total, 1, Instant::now())?,
        tally: Tally::default(),
        handles: Handles::default(),
        addresses: (0..pairs)
            .map(|pair| target.address(2 * pair + 1))
            .collect(),
        each,
        next: (0..pairs).map(|_| AtomicUsize::new(0)).collect(),
        came: AtomicU64::new(0),
    });
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let crowd = Crowd::log_in(target, 2 * pairs, options, filling.clone()).await?;
    filling.handles.set(crowd.handles());
    let mut progress = Progress::new("archived", total);
    let start = Instant::now();
    for pair in (0..pairs).flat_map(|pair| std::iter::repeat_n(pair, WINDOW)) {
        filling.send_next(pair);
    }
    let mut came = 0;
    while came < total as u64 {
        let before = came;
        let moved = || filling.came.load(Ordering::Relaxed) > before;
        if !wait_until(STALLED, moved).await {
            let faults = filling.tally.faults(filling.ledger.sum(), crowd.broken());
            bail!("the archive could not be filled: {before} of {total} came, {faults:?}");
        }
        came = filling.came.load(Ordering::Relaxed);
        progress.at(usize::try_from(came).unwrap_or(total));
    }
    let took = start.elapsed();
    crowd.log_out().await;
    Ok((filling, took))
}

/// What reading in one direction cost.
struct Half {
    direction: Direction,
    cpu: f64,
    took: Duration,
    sum: PagesSum,
    latencies: Histogram,
}

/// All readers read in one direction, over and over, until the time is over.
async fn read(
    target: &Target,
    readers: Vec<Reader>,
    direction: Direction,
    seconds: f64,
) -> anyhow::Result<(Half, Vec<Reader>)> {
    let (start, cpu) = (Instant::now(), target.processes.cpu()?);
    let end = start + Duration::from_secs_f64(seconds);
    let mut tasks = JoinSet::new();
    for mut reader in readers {
        tasks.spawn(async move {
            let sum = reader.read(direction, end).await?;
            anyhow::Ok((reader, sum))
        });
    }
    let (mut readers, mut sum) = (Vec::new(), PagesSum::default());
    while let Some(done) = tasks.join_next().await {
        let (reader, one) = done??;
        sum.add(&one);
        readers.push(reader);
    }
    let mut latencies = Histogram::default();
    for reader in &mut readers {
        latencies.merge(&std::mem::take(&mut reader.latencies));
    }
    let half = Half {
        direction,
        cpu: (target.processes.cpu()? - cpu).as_secs_f64(),
        took: start.elapsed(),
        sum,
        latencies,
    };
    Ok((half, readers))
}

/// `<query/>` for one page after or before a row of the archive (XEP-0313 §5, XEP-0059 §2).
fn query(id: &str, page: u32, direction: Direction, from: &str) -> bytes::Bytes {
    let mut iq = XmlWriter::new(ns::CLIENT);
    iq.start("iq").attr("type", "set").attr("id", id);
    iq.start_ns("query", ns::MAM).attr("queryid", id);
    iq.start_ns("set", ns::RSM);
    iq.leaf("max", &page.to_string());
    match (direction, from) {
        // From the very start, which needs no `<after/>`.
        (Direction::Forwards, "") => {}
        (Direction::Forwards, from) => {
            iq.leaf("after", from);
        }
        (Direction::Backwards, from) => {
            iq.leaf("before", from);
        }
    }
    iq.finish()
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &ArchiveArgs) -> anyhow::Result<Row> {
    let is_sound = args.archives > 0
        && args.messages >= args.archives
        && args.messages <= MESSAGES_MAX
        && (1..=args.archives).contains(&args.readers);
    if !is_sound {
        bail!("archives ≤ messages ≤ {MESSAGES_MAX}, and 1 ≤ readers ≤ archives");
    }
    Crowd::register(target, 2 * args.archives).await?;
    let (filling, filled_in) = fill(target, args).await?;
    let mut readers = Vec::with_capacity(args.readers);
    for reader in 0..args.readers {
        // No presence: what the server would tell an available client is not the archive's.
        let login = log_in(target, 2 * reader + 1, LoginOptions::default());
        let login = login.await.context("a reader's login")?;
        readers.push(Reader::new(
            login.wire,
            filling.ids.clone(),
            filling.each,
            args.page,
        ));
    }
    let meter = Meter::start(&target.processes).await?;
    let half = args.seconds as f64 / 2.0;
    let (forwards, readers) = read(target, readers, Direction::Forwards, half).await?;
    let (backwards, readers) = read(target, readers, Direction::Backwards, half).await?;
    drop(readers);
    let halves = [forwards, backwards];
    let pages: u64 = halves.iter().map(|half| half.sum.pages).sum();
    let setup = format!(
        "{} messages in {} archives, pages of {}, {} readers, {}, {} s",
        filling.each * args.archives,
        args.archives,
        args.page,
        args.readers,
        target.security.name(),
        args.seconds
    );
    let mut row = Row::new("archive", setup);
    meter.add_to(&mut row, pages, "ms/page", 1e3)?;
    let mut latencies = Histogram::default();
    for half in &halves {
        latencies.merge(&half.latencies);
    }
    row.latencies(&latencies);
    for half in &halves {
        let (cpu, rate) = match half.direction {
            Direction::Forwards => ("CPU forwards", "forwards"),
            Direction::Backwards => ("CPU backwards", "backwards"),
        };
        let pages = half.sum.pages.max(1) as f64;
        row.figure(cpu, half.cpu * 1e3 / pages, "ms/page");
        row.figure(rate, pages / half.took.as_secs_f64(), "pages/s");
    }
    let filled = (filling.each * args.archives) as f64 / filled_in.as_secs_f64();
    row.figure("filled at", filled, "msg/s");
    let mut sum = PagesSum::default();
    halves.iter().for_each(|half| sum.add(&half.sum));
    row.figure("others' rows", sum.foreign as f64, "");
    Ok(row.judged(Faults {
        not_delivered: sum.missing,
        doubled: sum.doubled,
        errors: sum.errors,
        first_error: sum.first_error,
        ..filling.tally.faults(filling.ledger.sum(), 0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let check = |direction, from: &str, expect: &str| {
            let asked = query("q1", 50, direction, from);
            let start = "<iq type='set' id='q1'><query xmlns='urn:xmpp:mam:2' queryid='q1'>\
                 <set xmlns='http://jabber.org/protocol/rsm'><max>50</max>";
            let expect = format!("{start}{expect}</set></query></iq>");
            assert_eq!(String::from_utf8_lossy(&asked).replace('"', "'"), expect);
        };
        check(Direction::Forwards, "", "");
        check(Direction::Forwards, "a<", "<after>a&lt;</after>");
        check(Direction::Backwards, "", "<before/>");
        check(Direction::Backwards, "z", "<before>z</before>");
    }
}
