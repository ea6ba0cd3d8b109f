//! Who only looks while others talk: readers of archives, pollers of nodes, and those whom nothing concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{Client, Incoming, Login};
use crate::control::ControlPort;
use crate::history::{Recorder, What};
use crate::load::read_newest;

/// How often a reader reads and a poller asks.
const LOOKS_EVERY: Duration = Duration::from_millis(700);

/// How long one answer of a status is waited for; a node that stands still gives none.
const ASKED_FOR: Duration = Duration::from_secs(3);

/// Reads the newest part of an archive over one node, again and again.
pub(super) async fn reader(recorder: Arc<Recorder>, node: u64, login: Login, log: String) {
    let mut looks = interval(LOOKS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client: Option<Client> = None;
    loop {
        looks.tick().await;
        if client.is_none() {
            client = Client::connect(&login).await.ok();
        }
        let Some(open) = &mut client else {
            continue;
        };
        let began = recorder.now();
        match read_newest(open, &log).await {
            Ok((rows, whole)) => recorder.record(What::Read {
                reader: format!("reader on node {node}"),
                log: log.clone(),
                began,
                whole,
                rows,
            }),
            // The node is away, or can't tell; a refusal is no reading.
            Err(_) => client = None,
        }
    }
}

/// Asks a node who owns what, and how many snapshots it has taken over.
pub(super) async fn poller(
    recorder: Arc<Recorder>,
    node: u64,
    control: ControlPort,
    targeted: BTreeSet<u64>,
) {
    let mut looks = interval(LOOKS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
    let mut installed = 0;
    loop {
        looks.tick().await;
        let asked = timeout(ASKED_FOR, control.ok("GET", "/v1/status", None)).await;
        let Ok(Ok(Ok(status))) = asked.map(|answer| answer.map(|answer| answer.json())) else {
            continue;
        };
        // 0 while the pool has not counted it.
        let life = status["incarnation"].as_u64().filter(|life| *life > 0);
        for row in status["partitions"].as_array().into_iter().flatten() {
            let word = |key: &str| row[key].as_u64();
            let (Some(partition), Some(owner), Some(epoch), Some(life)) =
                (word("id"), word("owner"), word("epoch"), life)
            else {
                continue;
            };
            if known.insert(partition, (life, epoch, owner)) != Some((life, epoch, owner)) {
                recorder.record(What::Owner {
                    via: node,
                    life,
                    partition,
                    targeted: targeted.contains(&partition),
                    epoch,
                    owner,
                });
            }
        }
        let counted = timeout(ASKED_FOR, control.counter("snapshots_installed")).await;
        if let Ok(Ok(count)) = counted {
            // It begins anew with each life of the node.
            if count > installed {
                recorder.record(What::SnapshotInstalled { node });
            }
            installed = count;
        }
    }
}

/// What somebody was sent whom nothing concerns.
#[derive(Debug, Default)]
pub(super) struct Overheard(Mutex<Vec<String>>);

impl Overheard {
    fn add(&self, source: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(source.to_owned());
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.join("\n")
    }
}

/// Somebody who is online, with carbons, in no room and nobody's contact.
pub(super) async fn bystander(overheard: Arc<Overheard>, login: Login) {
    let mut tries = interval(LOOKS_EVERY);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tries.tick().await;
        let Ok(mut client) = Client::connect(&login).await else {
            continue;
        };
        let carbons = "<enable xmlns='urn:xmpp:carbons:2'/>";
        if client.iq("set", None, carbons).await.is_err()
            || client.send("<presence/>").await.is_err()
        {
            continue;
        }
        loop {
            match client.next(Duration::from_secs(60)).await {
                Ok(Incoming::Element(document)) => overheard.add(document.source()),
                Ok(Incoming::Acked(_)) => {}
                Ok(Incoming::Closed(_)) => break,
                // Nothing came for a while, as it should be; or the stream is gone.
                Err(_) if client.send("<presence/>").await.is_ok() => {}
                Err(_) => break,
            }
        }
    }
}

/// The tokens of a set that stand in a text as whole words.
pub(super) fn tokens_in(text: &str, tokens: &BTreeSet<String>) -> Vec<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let words = text.split(|letter| !is_part(letter));
    let found: BTreeSet<&str> = words.filter(|word| tokens.contains(*word)).collect();
    found.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_as_whole_words() {
        let tokens = ["yard-1-sm-7", "ring-1-4"].map(str::to_owned).into();
        let found = |text: &str| tokens_in(text, &tokens);
        assert_eq!(found("<body>yard-1-sm-7</body>"), ["yard-1-sm-7"]);
        assert_eq!(found("id='ring-1-4' id='ring-1-4'"), ["ring-1-4"]);
        assert!(found("yard-1-sm-70 ring-1 xring-1-4").is_empty());
    }
}
