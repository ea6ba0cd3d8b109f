//! `presence`: changes of presence to contacts: what one notification costs.
//!
//! User `u` has the users from `u - contacts/2` to `u + contacts/2`, round and round, as contacts in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use crate::crowd::Crowd;
use crate::ledger::{Ledger, Sum};
use crate::login::LoginOptions;
use crate::pace::Pace;
use crate::report::Row;
use crate::scenario::{
    Handles, Ids, Meter, SECONDS_MAX, Tally, drain, enter, open_loop, wait_until,
};
use crate::session::{Handle, Observer};
use crate::target::Target;

/// How long all subscriptions may take.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(300);

/// Subscriptions of all users together.
const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// Users who ask for their subscriptions at once.
const SUBSCRIBING_AT_ONCE: usize = 50;

/// `muster-bench presence`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PresenceArgs {
    /// Users, one session each
    #[arg(long, default_value_t = 1000)]
    pub(crate) users: usize,
    /// Contacts of each user; even
    #[arg(long, default_value_t = 20)]
    pub(crate) contacts: usize,
    /// Changes of presence a second, all together
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Seconds of changes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(crate) seconds: u64,
    /// Without stream management
    #[arg(long)]
    pub(crate) no_stream_management: bool,
}

/// Who has whom as a contact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circle {
    pub(crate) users: usize,
    /// Of each user; even, and fewer than the users.
    pub(crate) contacts: usize,
}

impl Circle {
    /// The place of `contact` among the contacts of `user`.
    pub(crate) fn slot(self, user: usize, contact: usize) -> Option<usize> {
        let after = (contact + self.users).checked_sub(user)? % self.users.max(1);
        let half = self.contacts / 2;
        match (after, self.users - after) {
            (0, _) => None,
            (after, _) if after <= half => Some(after - 1),
            (_, before) if before <= half => Some(half + before - 1),
            _ => None,
        }
    }

    /// The contact in a place.
    pub(crate) fn contact(self, user: usize, slot: usize) -> usize {
        let half = self.contacts / 2;
        let step = if slot < half {
            slot + 1
        } else {
            self.users - (slot - half + 1)
        };
        (user + step) % self.users.max(1)
    }
}

struct Presences {
    ids: Ids,
    circle: Circle,
    ledger: Ledger,
    tally: Tally,
    handles: Handles,
    user_prefix: String,
    addresses: Vec<String>,
    subscribed: Vec<AtomicBool>,
}

impl Presences {
    fn user(&self, address: &str) -> Option<usize> {
        let (local, _) = address.split_once('@')?;
        let user = local
            .strip_prefix(self.user_prefix.as_str())?
            .parse()
            .ok()?;
        (user < self.circle.users).then_some(user)
    }

    fn set_subscribed(&self, user: usize, contact: usize) {
        let slot = self.circle.slot(user, contact);
        let flag = slot.and_then(|slot| self.subscribed.get(user * self.circle.contacts + slot));
        if let Some(flag) = flag {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn is_subscribed(&self, user: usize, slot: usize) -> bool {
        let flag = self.subscribed.get(user * self.circle.contacts + slot);
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn send_subscription(&self, session: &Handle, to: &str, kind: &str) {
        let mut presence = XmlWriter::new(ns::CLIENT);
        presence.start("presence").attr("to", to).attr("type", kind);
        if session.send(presence.finish()).is_none() {
            self.tally.not_sent();
        }
    }

    /// Everybody subscribes to all contacts they do not have yet; who is asked agrees.
    async fn subscribe(&self) -> anyhow::Result<()> {
        let Circle { users, contacts } = self.circle;
        let all: Vec<usize> = (0..users).collect();
        for some in all.chunks(SUBSCRIBING_AT_ONCE) {
            for user in some {
                for slot in (0..contacts).filter(|slot| !self.is_subscribed(*user, *slot)) {
                    let to = self.addresses.get(self.circle.contact(*user, slot));
                    if let (Some(session), Some(to)) = (self.handles.get(*user), to) {
                        self.send_subscription(session, to, "subscribe");
                    }
                }
            }
            let done = || {
                some.iter()
                    .all(|user| (0..contacts).all(|slot| self.is_subscribed(*user, slot)))
            };
            if !wait_until(SUBSCRIBE_WITHIN, done).await {
                let first_error = self.tally.faults(Sum::default(), 0).first_error;
                bail!("not all subscriptions were answered: {first_error:?}");
            }
        }
        Ok(())
    }

    /// The change of presence is the number in its status.
    fn change(&self, message: usize, due: Instant) {
        self.ledger.sent(message, due);
        let mut presence = XmlWriter::new(ns::CLIENT);
        presence.start("presence");
        presence.leaf(
            "show",
            if (message / self.circle.users).is_multiple_of(2) {
                "away"
            } else {
                "dnd"
            },
        );
        presence.leaf("status", &self.ids.id(message));
        let session = self.handles.get(message % self.circle.users);
        if session
            .and_then(|session| session.send(presence.finish()))
            .is_none()
        {
            self.tally.not_sent();
        }
    }

    /// Notifications that did not come because a later one of the same user did: RFC 6121 asks for the latest only.
    fn superseded(&self) -> u64 {
        let Circle { users, contacts } = self.circle;
        let mut superseded = 0;
        for message in
            (0..self.ledger.messages()).filter(|message| self.ledger.due(*message).is_some())
        {
            for slot in (0..contacts).filter(|slot| !self.ledger.has(message, *slot)) {
                let mut later = (message..self.ledger.messages()).step_by(users).skip(1);
                superseded += u64::from(later.any(|later| self.ledger.has(later, slot)));
            }
        }
        superseded
    }
}

impl Observer for Presences {
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant) {
        let from = stanza.attr("from").unwrap_or_default();
        let Some(user) = self.user(&from).filter(|_| stanza.name() == "presence") else {
            return;
        };
        match stanza.attr("type").as_deref() {
            Some("subscribe") => self.send_subscription(session, &from, "subscribed"),
            Some("subscribed") => self.set_subscribed(session.index, user),
            Some("error") => self.tally.error(stanza),
            Some(_) => {}
            None if user == session.index => {}
            None => {
                let status = stanza.child("status", ns::CLIENT);
                let message = status.and_then(|status| self.ids.message(&status.text()));
                let Some(message) = message else { return };
                let is_its_own = message % self.circle.users == user;
                let slot = self.circle.slot(user, session.index).filter(|_| is_its_own);
                enter(&self.ledger, &self.tally, message, slot, stanza, at);
            }
        }
    }
}

/// Runs it.
pub(crate) async fn run(target: &Arc<Target>, args: &PresenceArgs) -> anyhow::Result<Row> {
    let subscriptions = args.users.saturating_mul(args.contacts);
    let is_even = args.contacts > 0 && args.contacts.is_multiple_of(2);
    if !is_even || args.contacts >= args.users || subscriptions > SUBSCRIPTIONS_MAX {
        bail!(
            "contacts must be even, fewer than the users, and {SUBSCRIPTIONS_MAX} at most with all users"
        );
    }
    let pace = Pace::new(args.rate).context("the rate must be a positive number")?;
    let count = pace.messages(Duration::from_secs(args.seconds));
    Crowd::register(target, args.users).await?;
    let presences = Arc::new(Presences {
        ids: Ids::new(),
        circle: Circle {
            users: args.users,
            contacts: args.contacts,
        },
        ledger: Ledger::new(count, args.contacts, Instant::now())?,
        tally: Tally::default(),
        handles: Handles::default(),
        user_prefix: target.user_prefix.clone(),
        addresses: (0..args.users).map(|user| target.address(user)).collect(),
        subscribed: (0..subscriptions).map(|_| AtomicBool::new(false)).collect(),
    });
    let options = LoginOptions {
        stream_management: !args.no_stream_management,
        available: true,
    };
    let crowd = Crowd::log_in(target, args.users, options, presences.clone()).await?;
    presences.handles.set(crowd.handles());
    for (user, contacts) in crowd.contacts.iter().enumerate() {
        for contact in contacts
            .iter()
            .filter_map(|contact| presences.user(contact))
        {
            presences.set_subscribed(user, contact);
        }
    }
    presences.subscribe().await?;
    let meter = Meter::start(&target.processes).await?;
    open_loop(pace, count, Instant::now(), |message, due| {
        presences.change(message, due)
    })
    .await;
    let expected = (count as u64).saturating_mul(args.contacts as u64);
    drain(|| presences.tally.latencies().len() >= expected).await;
    let sum = presences.ledger.sum();
    let setup = format!(
        "{} × {}, {} changes/s, {} s",
        args.users, args.contacts, args.rate, args.seconds
    );
    let mut row = Row::new("presence", setup);
    meter.add_to(&mut row, sum.delivered, "µs/delivery", 1e6)?;
    row.figure(
        "rate",
        sum.delivered as f64 / meter.elapsed().as_secs_f64(),
        "deliveries/s",
    );
    row.latencies(&presences.tally.latencies());
    let superseded = presences.superseded();
    row.figure("superseded", superseded as f64, "");
    let mut faults = presences.tally.faults(sum, crowd.broken());
    faults.not_delivered = faults.not_delivered.saturating_sub(superseded);
    crowd.log_out().await;
    Ok(row.judged(faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_are_mutual_and_each_has_a_place() {
        for (users, contacts) in [(1000, 20), (3, 2), (21, 20), (22, 20)] {
            let circle = Circle { users, contacts };
            for user in [0, 1, users - 1] {
                for slot in 0..contacts {
                    let contact = circle.contact(user, slot);
                    assert_eq!(
                        circle.slot(user, contact),
                        Some(slot),
                        "{circle:?} {user} {slot}"
                    );
                    assert!(circle.slot(contact, user).is_some());
                }
                assert_eq!(circle.slot(user, user), None);
                let all = (0..users).filter(|contact| circle.slot(user, *contact).is_some());
                assert_eq!(all.count(), contacts);
            }
        }
    }
}
