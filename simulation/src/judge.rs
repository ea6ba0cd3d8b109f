//! After everything is healed: what was promised, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::checker::{Promise, check};
use chaos_tests::client::Client;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{Audience, Crowd, Seat, read_archive};
use chaos_tests::pool::{DOMAIN, ROOMS};
use chaos_tests::wait::until;

use crate::story::{READER, ROOM, login};
use crate::wanderer::Wandered;
use crate::watch::Watch;
use crate::world::Stage;

/// How long the last deliveries, and what goes from one partition to another, may take once all is healed.
const SETTLED: Duration = Duration::from_secs(15);

/// What a story showed.
pub struct Findings {
    /// Acknowledged messages.
    pub acked: usize,
    /// Those of them during faults.
    pub during: usize,
    /// Messages whose outcome nobody knows.
    pub unknown: usize,
    /// Messages that were sent again and had been committed at the first time.
    pub suppressed: usize,
    /// Rows of archives, in one replica.
    pub rows: u64,
    /// Reigns.
    pub epochs: usize,
    /// P7.
    pub wandered: Wandered,
}

/// Reads all there is to read, ends the crowd, and judges.
pub async fn judge(
    stage: &Stage,
    crowd: Crowd,
    recorder: &Recorder,
    watch: Watch,
) -> Result<Findings> {
    let nodes = stage.pool.first.clone();
    read_room(&nodes, recorder).await?;
    for seat in crowd
        .seats()
        .iter()
        .filter(|seat| seat.audience == Audience::User)
    {
        read_user(&nodes, seat, recorder).await?;
    }
    // What the archive has must still reach those who are in.
    nothing_is_owed(recorder).await;
    let rows = replicas_agree(stage).await?;
    // A stream may end on a node that lives: when an outcome was unknown for 10 s, because links lose or delay too much.
    let (betrayed, _) = crowd.end().await;
    let verdict = check(&recorder.events());
    let (epochs, mut wrong) = watch.end();
    wrong.extend(betrayed);
    if !verdict.violations.is_empty() || !wrong.is_empty() {
        bail!("{verdict}{wrong:#?}");
    }
    Ok(Findings {
        acked: verdict.acked,
        during: verdict.dose.acked_during_faults,
        unknown: verdict.unknown,
        suppressed: verdict.dose.suppressed,
        rows,
        epochs,
        wandered: Wandered::default(),
    })
}

/// Waits until everybody has what the archive has. What is still missing then, the verdict says.
async fn nothing_is_owed(recorder: &Recorder) {
    // Each look judges the whole history.
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..SETTLED.as_secs() {
        looks.tick().await;
        if check(&recorder.events()).count(Promise::NoHoles) == 0 {
            return;
        }
    }
}

async fn read_room(nodes: &[u64], recorder: &Recorder) -> Result<()> {
    let room = format!("{ROOM}@{ROOMS}");
    for node in nodes {
        let mut client = Client::connect(&login(*node, READER)).await?;
        for forward in [true, false] {
            let rows = read_archive(&mut client, &room, forward).await?;
            recorder.record(What::Archive {
                reading: reading(*node, forward),
                log: room.clone(),
                rows,
            });
        }
        client.close().await?;
    }
    Ok(())
}

/// P9: what was acknowledged before a reading began is in it, on any node.
pub async fn reads_are_current(node: u64, recorder: &Recorder) -> Result<()> {
    let room = format!("{ROOM}@{ROOMS}");
    let acked: BTreeSet<String> = recorder
        .events()
        .into_iter()
        .filter_map(|event| match event.what {
            What::Ok { token } if token.starts_with(&format!("{ROOM}-")) => Some(token),
            _ => None,
        })
        .collect();
    let Ok(mut client) = Client::connect(&login(node, READER)).await else {
        // A node that takes no logins shows nothing old either.
        return Ok(());
    };
    // A reading that is refused or takes too long shows nothing old.
    if let Ok(rows) = read_archive(&mut client, &room, true).await {
        let read: BTreeSet<&String> = rows.iter().map(|(token, _)| token).collect();
        let missing: Vec<_> = acked.iter().filter(|token| !read.contains(token)).collect();
        ensure!(
            missing.is_empty(),
            "P9: node {node} does not show {missing:?}"
        );
    }
    Ok(())
}

fn reading(node: u64, forward: bool) -> String {
    format!(
        "node {node}, {}",
        if forward { "forward" } else { "backward" }
    )
}

/// Both archives of a conversation, on every node and in both directions, once what is on its way between them has arrived.
async fn read_user(nodes: &[u64], seat: &Seat, recorder: &Recorder) -> Result<()> {
    let other = seat.to.split('@').next().unwrap_or_default().to_owned();
    let via = *nodes.first().context("there are nodes")?;
    until("what was sent has arrived", SETTLED, async || {
        let here = sent_by(&seat.user, &seat.user, via, true).await.ok()?;
        let there = sent_by(&seat.user, &other, via, true).await.ok()?;
        (here.len() == there.len()).then_some(())
    })
    .await?;
    // The two archives have ids of their own; clients are told those of the reader's.
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for user in [&other, &seat.user] {
        let mut first = None;
        for node in nodes {
            for forward in [true, false] {
                let rows = sent_by(&seat.user, user, *node, forward).await?;
                let first = first.get_or_insert_with(|| rows.clone());
                ensure!(
                    *first == rows,
                    "P8: the archive of {user} reads otherwise on node {node}"
                );
                let rows = rows.into_iter().map(|(token, id)| {
                    let id = ids.entry(token.clone()).or_insert(id).clone();
                    (token, id)
                });
                let rows = rows.collect();
                recorder.record(What::Archive {
                    reading: format!("archive of {user}, {}", reading(*node, forward)),
                    log: seat.log(),
                    rows,
                });
            }
        }
    }
    Ok(())
}

/// The rows of a user's archive that a sender sent, whose name begins its tokens.
async fn sent_by(
    sender: &str,
    user: &str,
    node: u64,
    forward: bool,
) -> Result<Vec<(String, String)>> {
    let mut client = Client::connect(&login(node, user)).await?;
    let mut rows = read_archive(&mut client, &format!("{user}@{DOMAIN}"), forward).await?;
    client.close().await?;
    rows.retain(|(token, _)| token.starts_with(&format!("{sender}-")));
    Ok(rows)
}

/// Who votes in a partition's group, as the first node knows.
fn voters(stage: &Stage, partition: u16) -> Option<Vec<u64>> {
    let machine = stage.machines.values().next()?;
    let status = machine.handle.borrow().as_ref()?.status();
    let found = status
        .partitions
        .into_iter()
        .find(|row| row.id == partition);
    found.map(|row| row.voters)
}

/// P16; gives the rows of all archives.
async fn replicas_agree(stage: &Stage) -> Result<u64> {
    let mut rows = 0;
    for partition in 0..stage.pool.partitions {
        let agreed = until("replicas are at one index", SETTLED, async || {
            let mut hashes = BTreeMap::new();
            let voters = voters(stage, partition)?;
            for machine in voters.iter().filter_map(|voter| stage.machines.get(voter)) {
                let handle = machine.handle.borrow().clone()?;
                hashes.insert(machine.node, handle.partition_hash(partition).await.ok()?);
            }
            let applied: BTreeSet<u64> = hashes.values().map(|hash| hash.applied).collect();
            (applied.len() == 1).then_some(hashes)
        });
        let hashes = agreed.await?;
        let (_, first) = hashes.first_key_value().context("there are replicas")?;
        for (node, hash) in &hashes {
            ensure!(
                hash == first,
                "P16: partition {partition} on node {node} is {hash:?}, and {first:?} elsewhere"
            );
        }
        rows += first.archive.rows;
    }
    ensure!(rows > 0, "nothing was compared");
    Ok(rows)
}
