//! A pool under load, the faults that a test causes, and the judgement at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::checker::{Dose, Promise, Verdict, check};
use crate::client::Client;
use crate::edits::Editor;
use crate::history::{Recorder, What};
use crate::load::{Audience, Crowd, Gaps, Seat, gaps, read_archive, ring, seats};
use crate::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use crate::wait::until;

/// Who reads the archives at the end.
const READER: &str = "reader";

/// The rooms; faults aim at the owner of the first.
const ROOM_NAMES: [&str; 2] = ["yard", "tower"];

/// How long anything may take after a fault before the test gives up.
pub const RECOVERY: Duration = Duration::from_secs(30);

/// How long the last deliveries may take once everything is healed.
const SETTLED: Duration = Duration::from_secs(10);

/// Three nodes and a crowd that talks.
pub struct Trial {
    /// The processes.
    pub pool: Pool,
    /// Who talks.
    pub crowd: Crowd,
    recorder: Arc<Recorder>,
}

fn room(name: &str) -> String {
    format!("{name}@{ROOMS}")
}

fn positions(status: &Value, key: &str) -> Vec<u64> {
    let partitions = status["partitions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    partitions
        .iter()
        .map(|row| row[key].as_u64().unwrap_or(0))
        .collect()
}

impl Trial {
    /// Starts everything and waits until the talk flows.
    pub async fn start() -> Result<Trial> {
        Trial::over(Pool::start(&PoolSettings::nodes(3)).await?).await
    }

    /// Seats a crowd on a pool that runs, and waits until the talk flows.
    pub async fn over(pool: Pool) -> Result<Trial> {
        let mut all = seats(&ROOM_NAMES, &pool.ids());
        all.extend(ring(&pool.ids()));
        Trial::seated(pool, all).await
    }

    /// The seats of all rooms on some nodes.
    pub fn seats_on(nodes: &[u64]) -> Vec<Seat> {
        seats(&ROOM_NAMES, nodes)
    }

    /// Seats a crowd of one's own on a pool that runs, and waits until the talk flows.
    pub async fn seated(pool: Pool, seats: Vec<Seat>) -> Result<Trial> {
        pool.add_users([READER]).await?;
        let recorder = Arc::new(Recorder::default());
        let crowd = Crowd::start(&pool, seats, Arc::clone(&recorder)).await?;
        crowd.acks(50, RECOVERY).await?;
        Ok(Trial {
            pool,
            crowd,
            recorder,
        })
    }

    /// The rooms that the seats of [`Trial::over`] are in; faults aim at the owner of the first.
    pub(crate) fn rooms() -> Vec<String> {
        ROOM_NAMES.map(room).to_vec()
    }

    /// What the history is written with.
    pub(crate) fn recorder(&self) -> Arc<Recorder> {
        Arc::clone(&self.recorder)
    }

    /// Writes down that a fault is caused now.
    pub fn fault(&self, what: String) {
        self.recorder.record(What::Fault { what });
    }

    /// Writes down that faults are taken back while a quorum runs; what is promised of a healed pool counts from here.
    pub fn mended(&self) {
        self.recorder.record(What::Mended {
            from_nothing: false,
        });
    }

    /// The same where no quorum ran: processes have just been started.
    pub fn started_anew(&self) {
        self.recorder.record(What::Mended { from_nothing: true });
    }

    /// Writes down that the pool is as before.
    pub fn healed(&self) {
        self.recorder.record(What::Healed);
    }

    /// Stops a node from running, and says so: it can answer nobody until [`wakes`](Trial::wakes).
    pub fn freezes(&self, node: u64) -> Result<()> {
        self.recorder.record(What::Frozen { node });
        self.pool.pause(node)
    }

    /// Kills a node, and says so: what it alone knew is gone.
    pub fn kills(&mut self, node: u64) -> Result<()> {
        self.pool.kill(node)?;
        self.died(node);
        Ok(())
    }

    /// A node has ended by itself, and without a word.
    pub fn died(&self, node: u64) {
        self.recorder.record(What::Died { node });
    }

    /// Lets it run again.
    pub fn wakes(&self, node: u64) -> Result<()> {
        self.pool.resume(node)?;
        self.recorder.record(What::Thawed { node });
        Ok(())
    }

    /// Waits for so many further acknowledged messages to the first room.
    pub async fn acks_at_target(&self, more: usize, limit: Duration) -> Result<()> {
        self.crowd.acks_of(ROOM_NAMES[0], more, limit).await
    }

    /// The owner of the first room as a running node sees it, once there is one that runs.
    pub async fn living_owner(&self) -> Result<u64> {
        let via = *self.pool.running().first().context("a node runs")?;
        until("the room has an owner", RECOVERY, async || {
            let owner = self
                .pool
                .owner_of(&room(ROOM_NAMES[0]), via)
                .await
                .ok()
                .flatten()?;
            self.pool.running().contains(&owner).then_some(owner)
        })
        .await
    }

    /// The owner of the first room as one node names it.
    pub async fn owner_at_target(&self, via: u64) -> Result<Option<u64>> {
        self.pool.owner_of(&room(ROOM_NAMES[0]), via).await
    }

    /// Starts a node again; it serves, has caught up, and its members come home: healed.
    pub async fn bring_back(&mut self, node: u64) -> Result<()> {
        self.pool.spawn(node)?;
        self.mended();
        self.pool.ready(node).await?;
        self.caught_up(node).await?;
        self.crowd.node_lives(node);
        self.crowd.all_in(RECOVERY).await?;
        self.healed();
        Ok(())
    }

    /// Sets everything anew over a node, and writes down what was acknowledged.
    pub async fn edit(&self, editor: &mut Editor, node: u64) -> Result<()> {
        for (register, value) in editor.edit(&self.pool, node).await? {
            self.recorder.record(What::Set { register, value });
        }
        Ok(())
    }

    /// Reads over every node what was set.
    pub async fn read_edits(&self, editor: &Editor) -> Result<()> {
        for node in self.pool.running() {
            let values = editor.read(&self.pool, node).await?;
            let reading = format!("node {node}");
            self.recorder.record(What::Values { reading, values });
        }
        Ok(())
    }

    /// Waits until a node has applied what another knows to be committed.
    pub async fn caught_up(&self, node: u64) -> Result<()> {
        let via = self.pool.running().into_iter().find(|id| *id != node);
        let status = self.pool.status(via.context("another node runs")?).await?;
        let committed = positions(&status, "committed");
        until("the node has caught up", RECOVERY, async || {
            let applied = positions(&self.pool.status(node).await.ok()?, "applied");
            let behind = committed.iter().zip(&applied).any(|(goal, has)| has < goal);
            (!behind && applied.len() == committed.len()).then_some(())
        })
        .await
    }

    /// Reads the archives of these rooms on every node, in both directions.
    pub(crate) async fn read_archives(&self, rooms: &[String]) -> Result<()> {
        for node in self.pool.running() {
            let mut client = Client::connect(&self.pool.login(node, READER)).await?;
            for room in rooms {
                for forward in [true, false] {
                    let rows = read_archive(&mut client, room, forward).await?;
                    let direction = if forward { "forward" } else { "backward" };
                    let reading = format!("node {node}, {direction}");
                    self.recorder.record(What::Archive {
                        reading,
                        log: room.clone(),
                        rows,
                    });
                }
            }
            client.close().await?;
        }
        Ok(())
    }

    /// Reads the archives of both ends of every conversation on every node, in both directions, once what is on its way from
    /// one log to the other has arrived.
    pub(crate) async fn read_users_archives(&self) -> Result<()> {
        let nodes = self.pool.running();
        let seats = self.crowd.seats().iter();
        for seat in seats.filter(|seat| seat.audience == Audience::User) {
            let (own, other) = (
                seat.user.as_str(),
                seat.to.split('@').next().unwrap_or_default(),
            );
            let via = *nodes.first().context("a pool has nodes")?;
            let settled = until("what was sent has arrived", SETTLED, async || {
                let [here, there] = [own, other].map(|user| self.sent_by(own, user, via, true));
                let (here, there) = (here.await.ok()?, there.await.ok()?);
                (here.len() == there.len()).then_some(())
            });
            if let Err(error) = settled.await {
                println!("from {own} to {other}: {error}");
            }
            // The two archives have ids of their own; those are told to clients that the reader's archive has.
            let mut ids = BTreeMap::new();
            for user in [other, own] {
                self.read_users_archive(seat, user, &nodes, &mut ids)
                    .await?;
            }
        }
        Ok(())
    }

    /// Reads what these wrote to a user in the user's archive, on every node and in both directions.
    pub(crate) async fn read_letters(&self, user: &str, writers: &[&str]) -> Result<()> {
        for node in self.pool.running() {
            let mut client = Client::connect(&self.pool.login(node, user)).await?;
            for forward in [true, false] {
                let archive = format!("{user}@{DOMAIN}");
                let rows = read_archive(&mut client, &archive, forward).await?;
                let direction = if forward { "forward" } else { "backward" };
                for writer in writers {
                    let by = format!("{writer}-");
                    let rows = rows.iter().filter(|(token, _)| token.starts_with(&by));
                    self.recorder.record(What::Archive {
                        reading: format!("archive of {user}, node {node}, {direction}"),
                        log: format!("{writer} to {archive}"),
                        rows: rows.cloned().collect(),
                    });
                }
            }
            client.close().await?;
        }
        Ok(())
    }

    async fn read_users_archive(
        &self,
        seat: &Seat,
        user: &str,
        nodes: &[u64],
        ids: &mut BTreeMap<String, String>,
    ) -> Result<()> {
        let mut first = None;
        for node in nodes {
            for forward in [true, false] {
                let rows = self.sent_by(&seat.user, user, *node, forward).await?;
                let first = first.get_or_insert_with(|| rows.clone());
                ensure!(
                    *first == rows,
                    "the archive of {user} reads otherwise on node {node}"
                );
                let direction = if forward { "forward" } else { "backward" };
                let with_id = |(token, id): (String, String)| {
                    let id = ids.entry(token.clone()).or_insert(id).clone();
                    (token, id)
                };
                self.recorder.record(What::Archive {
                    reading: format!("archive of {user}, node {node}, {direction}"),
                    log: seat.log(),
                    rows: rows.into_iter().map(with_id).collect(),
                });
            }
        }
        Ok(())
    }

    /// The rows of a user's archive that a sender sent, whose name begins its tokens.
    async fn sent_by(
        &self,
        sender: &str,
        user: &str,
        node: u64,
        forward: bool,
    ) -> Result<Vec<(String, String)>> {
        let mut client = Client::connect(&self.pool.login(node, user)).await?;
        let archive = format!("{user}@{DOMAIN}");
        let mut rows = read_archive(&mut client, &archive, forward).await?;
        client.close().await?;
        rows.retain(|(token, _)| token.starts_with(&format!("{sender}-")));
        Ok(rows)
    }

    /// P16, and that there was something to compare.
    async fn replicas_agree(&self) -> Result<()> {
        let nodes = self.pool.running().len();
        ensure!(nodes >= self.pool.began_with(), "only {nodes} nodes run");
        let agreement = self.pool.replicas_agree().await?;
        println!("FIGURES {nodes} replicas of each partition are the same: {agreement:?}");
        ensure!(
            agreement.state_rows > 0 && agreement.archive_rows > 0,
            "nothing was compared: {agreement:?}"
        );
        Ok(())
    }

    /// Ends the talk, reads the archives, waits for the last deliveries, and judges; `name` is for people.
    pub async fn judge(self, name: &str, least: Dose) -> Result<()> {
        self.crowd.all_in(RECOVERY).await?;
        self.healed();
        self.crowd.acks(20, RECOVERY).await?;
        self.crowd.retries(least.suppressed, RECOVERY).await?;
        self.crowd.fall_silent(RECOVERY).await?;
        self.read_archives(&Trial::rooms()).await?;
        self.read_users_archives().await?;
        self.replicas_agree().await?;
        let Trial {
            pool,
            crowd,
            recorder,
        } = self;
        // What the archive has must still reach those who are in.
        let settled = until("nothing is owed to anybody", SETTLED, async || {
            (check(&recorder.events()).count(Promise::NoHoles) == 0).then_some(())
        });
        if let Err(error) = settled.await {
            println!("{error}");
        }
        let (mut betrayed, disturbed) = crowd.end().await;
        betrayed.extend(disturbed);
        let events = recorder.events();
        let verdict = check(&events);
        let yard = room(ROOM_NAMES[0]);
        let gaps = gaps(&events, &yard);
        println!("{verdict}{yard}: {gaps}");
        println!("{}", figures(name, &verdict, &gaps, &betrayed));
        let history: PathBuf =
            std::env::temp_dir().join(format!("muster-history-{}.jsonl", std::process::id()));
        if let Err(why) = verdict.require(least) {
            recorder.save(&history)?;
            bail!("{why}\nthe history is in {}", history.display());
        }
        if !betrayed.is_empty() {
            recorder.save(&history)?;
            bail!(
                "clients of living nodes suffered: {betrayed:#?}\nthe history is in {}",
                history.display()
            );
        }
        ensure!(
            gaps.count() == verdict.dose.faults,
            "{yard} was served after {} of {} faults only",
            gaps.count(),
            verdict.dose.faults
        );
        drop(pool);
        Ok(())
    }
}

/// All that a trial showed, in one line.
fn figures(name: &str, verdict: &Verdict, gaps: &Gaps, betrayed: &[String]) -> String {
    let Dose {
        faults,
        acked_during_faults,
        moves,
        suppressed,
        over_faults,
        direct,
        late,
        found,
        in_flight,
        resent_in_order,
        values_read,
        ..
    } = verdict.dose;
    let broken = [
        ("acknowledged but missing", Promise::AckedIsArchived),
        ("doubles", Promise::NoDoubles),
        ("holes", Promise::NoHoles),
        ("out of order", Promise::OneOrder),
        ("sender's order broken", Promise::SenderOrder),
        ("invented", Promise::NothingInvented),
        ("archives that differ", Promise::SameArchive),
        ("values lost", Promise::SetStays),
    ];
    let broken: Vec<String> = broken
        .iter()
        .map(|(what, promise)| format!("{what} {}", verdict.count(*promise)))
        .collect();
    format!(
        "FIGURES {name}: {faults} faults; {acked} messages acknowledged, {acked_during_faults} of them during faults; \
         {}; {moves} logins elsewhere; {suppressed} retries without a second effect, \
         {over_faults} of them with a fault between; {direct} messages to users received, \
         {late} of them late, {found} found in the archive at logins; up to {in_flight} open at a time, {resent_in_order} times several sent again; \
         {values_read} readings of what was set; members of living nodes disturbed {}; {gaps}",
        broken.join(", "),
        betrayed.len(),
        acked = verdict.acked,
    )
}
