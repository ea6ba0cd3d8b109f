//! The scenarios: each logs its own crowd in, loads the server, and gives one row.
//!
//! ```text
//!  Crowd::log_in ─► [ idle CPU ] ─► send at a pace, or as answers come ─► drain ─► CPU, memory, faults ─► Row
//! ```
//!
//! CPU is that of the server's whole processes between the first message and the last delivery, background work
//! included; the share that they use without any load is a figure of its own. Nothing is asserted.

pub(crate) mod archive;
pub(crate) mod chat;
pub(crate) mod churn;
pub(crate) mod durable;
pub(crate) mod failover;
pub(crate) mod idle;
pub(crate) mod login;
pub(crate) mod presence;
pub(crate) mod room;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use xmpp::ns;
use xmpp::scan::Element;

use crate::histogram::Histogram;
use crate::ledger::{Arrival, Ledger, Sum};
use crate::pace::Pace;
use crate::processes::{ProcessError, Processes};
use crate::report::{Faults, Row};
use crate::session::Handle;

/// A run's longest time of sending.
pub(crate) const SECONDS_MAX: u64 = 3600;

/// How long the last deliveries may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How often something that many tasks do is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long the server is watched without load before the load.
const IDLE_WATCH: Duration = Duration::from_secs(2);

/// A message whose text makes a stanza of usual size.
pub(crate) const BODY: &str =
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.";

/// Ids of one run, so that what an earlier one left behind is not taken for its own.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    prefix: String,
}

impl Ids {
    /// Of a run that starts now.
    pub(crate) fn new() -> Ids {
        Ids {
            prefix: format!("b{:08x}-", rand::random::<u32>()),
        }
    }

    /// The id of a message.
    pub(crate) fn id(&self, message: usize) -> String {
        format!("{}{message}", self.prefix)
    }

    /// The message of an id.
    pub(crate) fn message(&self, id: &str) -> Option<usize> {
        id.strip_prefix(self.prefix.as_str())?.parse().ok()
    }
}

/// A chat message of this run: its number, and whose it is, as its id says (`number.whose`). Errors are counted; all else
/// is `None`.
pub(crate) fn chat_message(
    ids: &Ids,
    tally: &Tally,
    stanza: Element<'_>,
) -> Option<(usize, usize)> {
    if stanza.name() != "message" {
        return None;
    }
    if stanza.attr("type").as_deref() == Some("error") {
        tally.error(stanza);
        return None;
    }
    let id = stanza.attr("id")?;
    let (id, whose) = id.split_once('.')?;
    Some((ids.message(id)?, whose.parse().ok()?))
}

/// Time stamps and histograms that many sessions share.
#[derive(Default)]
pub(crate) struct Tally {
    latencies: Mutex<Histogram>,
    not_sent: AtomicU64,
    errors: AtomicU64,
    first_error: OnceLock<String>,
}

impl Tally {
    /// A delivery took so long.
    pub(crate) fn record(&self, latency: Duration) {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(latency);
    }

    /// All latencies so far.
    pub(crate) fn latencies(&self) -> Histogram {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A message could not be handed to its session.
    pub(crate) fn not_sent(&self) {
        self.not_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A stanza of type error, or one that went to the wrong session, has come.
    pub(crate) fn error(&self, stanza: Element<'_>) {
        const SHOWN_MAX: usize = 300;
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.first_error.get_or_init(|| {
            let error = stanza.child("error", ns::CLIENT);
            let conditions = error.into_iter().flat_map(|error| error.children());
            let names: Vec<&str> = conditions.map(|condition| condition.name()).collect();
            let from = stanza.attr("from").unwrap_or_default();
            let said = format!("{} from {from}: {}", stanza.name(), names.join(" "));
            said.chars().take(SHOWN_MAX).collect()
        });
    }

    /// What went wrong so far, together with what a ledger says.
    pub(crate) fn faults(&self, sum: Sum, broken_sessions: u64) -> Faults {
        Faults {
            not_sent: self.not_sent.load(Ordering::Relaxed),
            not_delivered: sum.missing,
            doubled: sum.doubled,
            not_acknowledged: 0,
            errors: self.errors.load(Ordering::Relaxed),
            broken_sessions,
            first_error: self.first_error.get().cloned(),
        }
    }
}

/// Enters an arrival into the ledger: true if it is the first. One that nobody sent to this recipient is an error.
pub(crate) fn enter(
    ledger: &Ledger,
    tally: &Tally,
    message: usize,
    recipient: Option<usize>,
    stanza: Element<'_>,
    at: Instant,
) -> bool {
    match ledger.arrived(message, recipient.unwrap_or(usize::MAX), at) {
        Arrival::First(latency) => {
            tally.record(latency);
            return true;
        }
        Arrival::Doubled => {}
        Arrival::Unknown => tally.error(stanza),
    }
    false
}

/// Sends `count` messages, each when it is due, late ones at once.
pub(crate) async fn open_loop(
    pace: Pace,
    count: usize,
    start: Instant,
    mut send: impl FnMut(usize, Instant),
) {
    for message in 0..count {
        let due = start + pace.due(message);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        send(message, due);
    }
}

/// Waits until something holds; false if it does not in time.
pub(crate) async fn wait_until(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Waits until all that was sent has come, or until it is clear that it will not.
pub(crate) async fn drain(complete: impl FnMut() -> bool) -> bool {
    wait_until(DRAIN_WITHIN, complete).await
}

/// The server's CPU between two moments.
pub(crate) struct Meter<'a> {
    processes: &'a Processes,
    /// CPU seconds a second, without load.
    idle_share: f64,
    start: Instant,
    cpu_start: Duration,
}

impl<'a> Meter<'a> {
    /// Watches the idle server for a while, then starts.
    pub(crate) async fn start(processes: &'a Processes) -> Result<Meter<'a>, ProcessError> {
        let mut idle_share = 0.0;
        if !processes.is_empty() {
            let before = processes.cpu()?;
            tokio::time::sleep(IDLE_WATCH).await;
            idle_share = (processes.cpu()? - before).as_secs_f64() / IDLE_WATCH.as_secs_f64();
        }
        Ok(Meter {
            processes,
            idle_share,
            start: Instant::now(),
            cpu_start: processes.cpu()?,
        })
    }

    /// CPU seconds a second that the server uses without load.
    pub(crate) fn idle_share(&self) -> f64 {
        self.idle_share
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// CPU time since the start.
    pub(crate) fn cpu(&self) -> Result<Duration, ProcessError> {
        Ok(self.processes.cpu()?.saturating_sub(self.cpu_start))
    }

    /// Adds the CPU that each of `count` things cost: all of it, and what goes beyond the idle server's. `per_second`
    /// says how many of the unit's times a second has.
    pub(crate) fn add_to(
        &self,
        row: &mut Row,
        count: u64,
        unit: &'static str,
        per_second: f64,
    ) -> Result<(), ProcessError> {
        if self.processes.is_empty() || count == 0 {
            return Ok(());
        }
        let cpu = self.cpu()?.as_secs_f64();
        let wall = self.start.elapsed().as_secs_f64();
        let above_idle = (cpu - self.idle_share * wall).max(0.0);
        row.figure("CPU", cpu * per_second / count as f64, unit);
        row.figure("above idle", above_idle * per_second / count as f64, unit);
        row.figure("CPU used", 100.0 * cpu / wall, "% of a core");
        row.figure("CPU idle", 100.0 * self.idle_share, "% of a core");
        Ok(())
    }
}

/// Handles that are known only after everybody has logged in.
#[derive(Default)]
pub(crate) struct Handles {
    all: OnceLock<Vec<Arc<Handle>>>,
}

impl Handles {
    /// Everybody has logged in.
    pub(crate) fn set(&self, handles: Vec<Arc<Handle>>) {
        // Set once by each scenario; a second time would change nothing.
        let _ = self.all.set(handles);
    }

    /// A session's handle.
    pub(crate) fn get(&self, session: usize) -> Option<&Arc<Handle>> {
        self.all.get()?.get(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_run_are_not_ours() {
        let (ours, theirs) = (
            Ids::new(),
            Ids {
                prefix: "x-".to_owned(),
            },
        );
        let check = |id: &str, expect| assert_eq!(ours.message(id), expect, "{id}");
        check(&ours.id(0), Some(0));
        check(&ours.id(12_345), Some(12_345));
        check(&theirs.id(1), None);
        check(&format!("{}x", ours.id(1)), None);
        check("", None);
    }
}
