//! `chat`: messages between pairs of users: at a rate (open loop), or each when the last has come (closed loop).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::crowd::Crowd;
use crate::ledger::Ledger;
use crate::login::LoginOptions;
use crate::pace::Pace;
use crate::report::Row;
use crate::scenario::{
    BODY, Handles, Ids, Meter, SECONDS_MAX, Tally, chat_message, drain, enter, open_loop,
};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// Messages of one closed loop.
const CLOSED_MESSAGES_MAX: usize = 2_000_000;

/// `muster-bench chat`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChatArgs {
    /// Pairs of users; in each the first writes to the second
    #[arg(long, default_value_t = 50)]
    pub(crate) pairs: usize,
    /// Messages a second, all together, whatever the server does (open loop)
    #[arg(long, default_value_t = 500.0)]
    pub(crate) rate: f64,
    /// Each pair's next message goes when the last has come, as fast as that may be
    #[arg(long, conflicts_with = "rate")]
    pub(crate) closed: bool,
    /// Seconds of sending
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Messages ask not to be archived (XEP-0334)
    #[arg(long)]
    pub(crate) no_store: bool,
    /// Messages carry an origin-id (XEP-0359), as modern clients' do
    #[arg(long)]
    pub(crate) origin_id: bool,
    /// Without stream management
    #[arg(long)]
    pub(crate) no_stream_management: bool,
}

/// A message of usual size.
pub(crate) fn stanza(to: &str, kind: &str, id: &str, no_store: bool, origin_id: bool) -> XmlWriter {
    let mut message = XmlWriter::new(ns::CLIENT);
    message
        .start("message")
        .attr("type", kind)
        .attr("to", to)
        .attr("id", id);
    message.leaf("body", BODY);
    if no_store {
        message.start_ns("no-store", ns::HINTS).end();
    }
    if origin_id {
        message
            .start_ns("origin-id", ns::STANZA_ID)
            .attr("id", id)
            .end();
    }
    message.end();
    message
}

struct Chat {
    ids: Ids,
    pairs: usize,
    ledger: Ledger,
    tally: Tally,
    handles: Handles,
    addresses: Vec<String>,
    no_store: bool,
    origin_id: bool,
    closed: bool,
    next: AtomicUsize,
    over: AtomicBool,
    /// Messages on their way, in the closed loop.
    under_way: AtomicUsize,
}

impl Chat {
    fn send(&self, pair: usize, message: usize, due: Instant) {
        let (Some(sender), Some(to)) = (self.handles.get(2 * pair), self.addresses.get(pair))
        else {
            return self.tally.not_sent();
        };
        self.ledger.sent(message, due);
        let id = format!("{}.{pair}", self.ids.id(message));
        let stanza = stanza(to, "chat", &id, self.no_store, self.origin_id);
        if sender.send(stanza.finish()).is_none() {
            self.tally.not_sent();
        }
    }

    /// The closed loop's next message of a pair, unless the time is over.
    fn send_next(&self, pair: usize) {
        let message = self.next.fetch_add(1, Ordering::Relaxed);
        if self.over.load(Ordering::Relaxed) || message >= self.ledger.messages() {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.send(pair, message, Instant::now());
    }
}

impl Observer for Chat {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        let Some((message, pair)) = chat_message(&self.ids, &self.tally, stanza) else {
            return;
        };
        let is_receiver = pair < self.pairs && session.index == 2 * pair + 1;
        let recipient = is_receiver.then_some(0);
        let is_first = enter(&self.ledger, &self.tally, message, recipient, stanza, at);
        if self.closed && is_first {
            self.send_next(pair);
        }
    }
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &ChatArgs) -> anyhow::Result<Row> {
    if args.pairs == 0 {
        bail!("at least one pair is needed");
    }
    let (sessions, window) = (2 * args.pairs, Duration::from_secs(args.seconds));
    let pace = Pace::new(args.rate).context("the rate must be a positive number")?;
    let count = if args.closed {
        CLOSED_MESSAGES_MAX
    } else {
        pace.messages(window)
    };
    Crowd::register(target, sessions).await?;
    let chat = Arc::new(Chat {
        ids: Ids::new(),
        pairs: args.pairs,
        ledger: Ledger::new(count, 1, Instant::now())?,
        tally: Tally::default(),
        handles: Handles::default(),
        addresses: (0..args.pairs)
            .map(|pair| target.address(2 * pair + 1))
            .collect(),
        no_store: args.no_store,
        origin_id: args.origin_id,
        closed: args.closed,
        next: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        under_way: AtomicUsize::new(0),
    });
    let options = LoginOptions {
        stream_management: !args.no_stream_management,
        available: true,
    };
    let crowd = Crowd::log_in(target, sessions, options, chat.clone()).await?;
    chat.handles.set(crowd.handles());
    let meter = Meter::start(&target.processes).await?;
    if args.closed {
        chat.under_way.store(args.pairs, Ordering::Relaxed);
        for pair in 0..args.pairs {
            chat.send_next(pair);
        }
        tokio::time::sleep(window).await;
        chat.over.store(true, Ordering::Relaxed);
        drain(|| chat.under_way.load(Ordering::Relaxed) == 0).await;
    } else {
        open_loop(pace, count, Instant::now(), |message, due| {
            chat.send(message % args.pairs, message, due);
        })
        .await;
        drain(|| chat.tally.latencies().len() >= count as u64).await;
    }
    let sum = chat.ledger.sum();
    let mut row = Row::new("chat", setup(args));
    meter.add_to(&mut row, sum.delivered, "µs/msg", 1e6)?;
    row.figure(
        "rate",
        sum.delivered as f64 / meter.elapsed().as_secs_f64(),
        "msg/s",
    );
    row.latencies(&chat.tally.latencies());
    let faults = chat.tally.faults(sum, crowd.broken());
    crowd.log_out().await;
    Ok(row.judged(faults))
}

fn setup(args: &ChatArgs) -> String {
    let load = match args.closed {
        true => "closed loop".to_owned(),
        false => format!("{} msg/s", args.rate),
    };
    let kept = if args.no_store {
        "no-store"
    } else {
        "archived"
    };
    format!("{load}, {} pairs, {kept}, {} s", args.pairs, args.seconds)
}
