//! After everything is healed: what was promised, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::chaos::court::{self, Court};
use chaos_tests::checker::{Promise, Verdict, check};
use chaos_tests::client::Client;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{Audience, Crowd, Seat, read_archive};
use chaos_tests::pool::DOMAIN;
use chaos_tests::wait::until;

use crate::readers::READER;
use crate::story::{self, login};
use crate::sums;
use crate::wanderer::Wandered;
use crate::watch::Watch;
use crate::world::Stage;

/// How long the last deliveries, and what goes from one partition to another, may take once all is healed.
const SETTLED: Duration = Duration::from_secs(15);

/// What a story showed.
pub struct Findings {
    verdict: Verdict,
    /// Readings under load that showed something that had been acknowledged.
    readings: usize,
    /// Rows of archives, in one replica.
    rows: u64,
    /// Reigns.
    epochs: usize,
    /// P7.
    wandered: Wandered,
}

impl Findings {
    /// And this was found besides.
    pub fn with(self, wandered: Wandered) -> Findings {
        Findings { wandered, ..self }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            coverage,
            acked,
            unknown,
            ..
        } = &self.verdict;
        let Wandered {
            resumed,
            lost,
            sent,
        } = self.wandered;
        write!(
            f,
            "acked {acked} during-faults {} unknown {unknown} suppressed {} rows {} epochs {} \
             resumptions {} readings {} snapshots {} \
             leader-changes {} leader-in-minority {} leader-in-majority {} \
             steps {sent} steps-resumed {resumed} steps-lost {lost} {}",
            coverage.acked_during_faults,
            coverage.suppressed,
            self.rows,
            self.epochs,
            coverage.resumptions,
            self.readings,
            coverage.snapshots_installed,
            coverage.leader_changes,
            coverage.leader_in_minority,
            coverage.leader_in_majority,
            sums::of_each(&self.verdict)
        )
    }
}

/// Reads all there is to read, ends the crowd, and judges.
pub async fn judge(
    stage: &Stage,
    crowd: Crowd,
    recorder: &Recorder,
    watch: Watch,
) -> Result<Findings> {
    let nodes = stage.pool.first.clone();
    for room in [story::room(), court::room()] {
        read_room(&nodes, &room, recorder).await?;
    }
    for seat in crowd
        .seats()
        .iter()
        .filter(|seat| seat.audience == Audience::User)
    {
        read_user(&nodes, seat, recorder).await?;
    }
    read_letters(&nodes, recorder).await?;
    // What the archive has must still reach those who are in.
    nothing_is_owed(recorder).await;
    let rows = replicas(stage, recorder).await?;
    watch.end();
    // A stream may end on a node that lives: when an outcome was unknown for 10 s, because links lose or delay too much.
    let (betrayed, _) = crowd.end().await;
    let events = recorder.events();
    let verdict = check(&events);
    if !verdict.violations.is_empty() || !betrayed.is_empty() {
        bail!("{verdict}{betrayed:#?}");
    }
    let reigns = events.iter().filter_map(|event| match event.what {
        What::Owner {
            partition, epoch, ..
        } => Some((partition, epoch)),
        _ => None,
    });
    Ok(Findings {
        readings: verdict.judged[&Promise::ReadsAreCurrent],
        verdict,
        rows,
        epochs: reigns.collect::<BTreeSet<_>>().len(),
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

async fn read_room(nodes: &[u64], room: &str, recorder: &Recorder) -> Result<()> {
    for node in nodes {
        let mut client = Client::connect(&login(*node, READER)).await?;
        for forward in [true, false] {
            let rows = read_archive(&mut client, room, forward).await?;
            recorder.record(What::Archive {
                reading: reading(*node, forward),
                log: room.to_owned(),
                rows,
            });
        }
        client.close().await?;
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

/// What was written to the lady of the court, in her archive on every node and in both directions.
async fn read_letters(nodes: &[u64], recorder: &Recorder) -> Result<()> {
    let archive = format!("{}@{DOMAIN}", Court::LADY);
    for node in nodes {
        let mut client = Client::connect(&login(*node, Court::LADY)).await?;
        for forward in [true, false] {
            let rows = read_archive(&mut client, &archive, forward).await?;
            for suitor in Court::SUITORS {
                let by = format!("{suitor}-");
                let rows = rows.iter().filter(|(token, _)| token.starts_with(&by));
                recorder.record(What::Archive {
                    reading: format!("archive of {}, {}", Court::LADY, reading(*node, forward)),
                    log: format!("{suitor} to {archive}"),
                    rows: rows.cloned().collect(),
                });
            }
        }
        client.close().await?;
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

/// What each replica holds, once they are at one index (P16); gives the rows of all archives.
async fn replicas(stage: &Stage, recorder: &Recorder) -> Result<u64> {
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
        ensure!(
            hashes.len() > 1,
            "P16: one replica is compared with nothing"
        );
        let (_, first) = hashes.first_key_value().context("there are replicas")?;
        rows += first.archive.rows;
        for (node, hash) in &hashes {
            recorder.record(What::Replica {
                partition: u64::from(partition),
                node: *node,
                applied: hash.applied,
                hash: format!("{hash:?}"),
            });
        }
    }
    ensure!(rows > 0, "nothing was compared");
    Ok(rows)
}
