//! Who reads the room's archive on a node, again and again, while others write and things break (P9).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chaos_tests::client::Client;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{read_archive, read_newest};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::story::login;

/// Who reads.
pub const READER: &str = "reader";

/// How often a reader reads.
const READS_EVERY: Duration = Duration::from_millis(900);

/// At every so manieth time it reads the whole archive, and at the others its newest part.
const WHOLE_AT: u64 = 4;

/// They read until they are ended.
pub struct Readers(Vec<JoinHandle<()>>);

impl Readers {
    /// One on each of these nodes.
    pub fn begin(nodes: &[u64], log: &str, recorder: &Arc<Recorder>) -> Readers {
        let reads = |node: &u64| {
            let reader = read(*node, log.to_owned(), Arc::clone(recorder));
            tokio::task::spawn_local(reader)
        };
        Readers(nodes.iter().map(reads).collect())
    }

    /// They read no more.
    pub fn end(self) {
        for reader in self.0 {
            reader.abort();
        }
    }
}

async fn read(node: u64, log: String, recorder: Arc<Recorder>) {
    let mut looks = interval(READS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client: Option<Client> = None;
    for number in node.. {
        looks.tick().await;
        if client.is_none() {
            client = Client::connect(&login(node, READER)).await.ok();
        }
        // A node that takes no logins, or refuses or doesn't answer a reading, shows nothing old. Only what is read counts, and
        // how much that was, the sum of all seeds says.
        let Some(open) = &mut client else {
            continue;
        };
        let began = recorder.now();
        match rows(open, &log, number.is_multiple_of(WHOLE_AT)).await {
            Ok((rows, whole)) => recorder.record(What::Read {
                reader: format!("the reader on node {node}"),
                log: log.clone(),
                began,
                whole,
                rows,
            }),
            Err(error) => {
                tracing::debug!(node, %error, "not read");
                client = None;
            }
        }
    }
}

/// Messages, oldest first, and whether there are none before them.
async fn rows(client: &mut Client, log: &str, whole: bool) -> Result<(Vec<String>, bool)> {
    if !whole {
        return read_newest(client, log).await;
    }
    let rows = read_archive(client, log, true).await?;
    Ok((rows.into_iter().map(|(token, _)| token).collect(), true))
}
