//! Acknowledged means committed: nothing is acknowledged before a quorum has it on disk, seen from the kernel.
//!
//! The syncs of real nodes are held or failed by `strace`: while a majority's are held, there is no `h`, no reflection and
//! no iq result; one slow disk holds nobody up; a node whose sync fails ends and never tries again.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::client::{Client, Incoming, Login};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::syncs::Trace;
use chaos_tests::trial::{RECOVERY, Trial};
use chaos_tests::wait::{PROMPT, until};
use tokio::time::Instant as Deadline;
use xmpp::ns;

/// How long silence is listened for. A pool whose disks are held for so long has no reason to end a stream yet.
const SILENCE: Duration = Duration::from_secs(4);

/// SIGABRT.
const ABORTED: i32 = 6;

/// A sender for each way of being told: by `h`, by a room's reflection, by an iq's result.
struct Senders {
    managed: Client,
    occupant: Client,
    editor: Client,
    room: String,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Counted,
    Reflected,
    Answered,
}

impl Senders {
    /// Each on another node, with everything behind it that needs a disk: login, join and a first acknowledgement.
    async fn start(pool: &Pool) -> Result<Senders> {
        let room = format!("hall@{ROOMS}");
        let login = Login {
            stream_management: true,
            ..pool.login(1, "alice")
        };
        let managed = Client::connect(&login).await?;
        let mut occupant = Client::connect(&pool.login(2, "bob")).await?;
        let join = format!(
            "<presence to='{room}/bob'><x xmlns='{}'/></presence>",
            ns::MUC
        );
        occupant.send(&join).await?;
        let form = format!(
            "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
            ns::MUC_OWNER
        );
        occupant.iq_ok("set", Some(&room), &form).await?;
        let editor = Client::connect(&pool.login(3, "carol")).await?;
        let mut senders = Senders {
            managed,
            occupant,
            editor,
            room,
        };
        senders.send("first").await?;
        senders.told("first").await?;
        Ok(senders)
    }

    /// Sends one stanza each, all of them to be remembered.
    async fn send(&mut self, token: &str) -> Result<()> {
        let message =
            format!("<message type='chat' to='dave@{DOMAIN}'><body>{token}</body></message>");
        self.managed.send(&message).await?;
        let ask = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        self.managed.send_raw(&ask).await?;
        let message = format!(
            "<message type='groupchat' to='{}'><body>{token}</body></message>",
            self.room
        );
        self.occupant.send(&message).await?;
        let item =
            format!("<query xmlns='jabber:iq:roster'><item jid='{token}@{DOMAIN}'/></query>");
        self.editor
            .send(&format!("<iq type='set' id='{token}'>{item}</iq>"))
            .await
    }

    fn all(&mut self) -> [(Way, &mut Client); 3] {
        [
            (Way::Counted, &mut self.managed),
            (Way::Reflected, &mut self.occupant),
            (Way::Answered, &mut self.editor),
        ]
    }

    /// Nobody is told anything of it: no `h`, no reflection, no result, no error, no end of a stream.
    async fn silence(&mut self, token: &str) -> Result<()> {
        let listening = self.all().map(|(way, client)| async move {
            let told = hear(client, token, Deadline::now() + SILENCE).await?;
            ensure!(
                told.is_none(),
                "{way:?}: told while no quorum had it: {told:?}"
            );
            anyhow::Ok(())
        });
        let [counted, reflected, answered] = listening;
        tokio::try_join!(counted, reflected, answered).map(drop)
    }

    /// All are told that it is done; gives when the last was.
    async fn told(&mut self, token: &str) -> Result<Duration> {
        let began = Instant::now();
        for (way, client) in self.all() {
            match hear(client, token, Deadline::now() + PROMPT).await? {
                Some(Told::Done) => {}
                Some(other) => bail!("{way:?}: {other:?}"),
                None => bail!("{way:?}: {token} was not acknowledged within {PROMPT:?}"),
            }
        }
        Ok(began.elapsed())
    }
}

/// What a sender is told of its last stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Refused(String),
    Ended(String),
}

/// Listens for a word about the last stanza that was sent.
async fn hear(client: &mut Client, token: &str, deadline: Deadline) -> Result<Option<Told>> {
    loop {
        let left = deadline.saturating_duration_since(Deadline::now());
        if left.is_zero() {
            return Ok(None);
        }
        // Nothing within the limit.
        let Ok(came) = client.next(left).await else {
            continue;
        };
        match came {
            Incoming::Acked(h) if h >= client.sent() => return Ok(Some(Told::Done)),
            Incoming::Acked(_) => {}
            Incoming::Closed(why) => return Ok(Some(Told::Ended(why))),
            Incoming::Element(element) if element.source().contains(token) => {
                let refused = element.root().attr("type").as_deref() == Some("error");
                let text = || element.source().to_owned();
                return Ok(Some(if refused {
                    Told::Refused(text())
                } else {
                    Told::Done
                }));
            }
            Incoming::Element(_) => {}
        }
    }
}

async fn pool() -> Result<Pool> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob", "carol", "dave"]).await?;
    Ok(pool)
}

/// Every pair of nodes in turn: the owner and one other, or both others, whoever owns what.
async fn a_majority_is_held() -> Result<()> {
    let pool = pool().await?;
    let mut senders = Senders::start(&pool).await?;
    for (one, other) in [(1, 2), (2, 3), (3, 1)] {
        let token = format!("held-{one}-{other}");
        let held = [
            Trace::hold(&pool, one).await?,
            Trace::hold(&pool, other).await?,
        ];
        senders.send(&token).await?;
        senders.silence(&token).await?;
        // The silence means something only if there was a sync that could have ended it.
        for trace in &held {
            ensure!(
                trace.held_log_syncs() > 0,
                "no sync of the log was held: {:#?}",
                trace.calls()
            );
        }
        for trace in held {
            trace.release().await?;
        }
        let took = senders.told(&token).await?;
        println!(
            "FIGURES disks of {one} and {other} held: acknowledged {} ms after they went on",
            took.as_millis()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_before_a_quorum_has_it_on_disk() {
    a_majority_is_held()
        .await
        .expect("the test runs to its end");
}

/// Every node in turn: the owner's own disk counts as one of three, too.
async fn one_is_held() -> Result<()> {
    let pool = pool().await?;
    let mut senders = Senders::start(&pool).await?;
    for node in pool.ids() {
        let held = Trace::hold(&pool, node).await?;
        for round in 0..3 {
            let token = format!("one-{node}-{round}");
            senders.send(&token).await?;
            let took = senders.told(&token).await?;
            println!(
                "FIGURES disk of {node} held: acknowledged after {} ms",
                took.as_millis()
            );
        }
        ensure!(
            held.held_log_syncs() > 0,
            "no sync of the log was held: {:#?}",
            held.calls()
        );
        held.release().await?;
        // It catches up, or the next node's disk would be a majority's.
        senders.send(&format!("after-{node}")).await?;
        senders.told(&format!("after-{node}")).await?;
        caught_up(&pool, node).await?;
    }
    Ok(())
}

/// Waits until a node's log ends where the others' do.
async fn caught_up(pool: &Pool, node: u64) -> Result<()> {
    until("the node has caught up", PROMPT, async || {
        let ends = async |id| {
            let status = pool.status(id).await.ok()?;
            let rows = status["partitions"].as_array()?;
            Some(
                rows.iter()
                    .map(|row| row["applied"].as_u64())
                    .collect::<Vec<_>>(),
            )
        };
        let own = ends(node).await?;
        for other in pool.ids() {
            if ends(other).await? != own {
                return None;
            }
        }
        Some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slow_disk_holds_nobody_up() {
    one_is_held().await.expect("the test runs to its end");
}

/// Whose sync fails, and how its process then ends.
struct Failing {
    folder: &'static str,
    /// By a signal, or with a code.
    ends: fn(std::process::ExitStatus) -> bool,
    says: &'static str,
}

const FAILING: [Failing; 2] = [
    Failing {
        folder: "log",
        ends: |ended| ended.signal() == Some(ABORTED),
        says: "the Raft log could not be written: stopping at once",
    },
    Failing {
        folder: "archive",
        ends: |ended| ended.code() == Some(5),
        says: "this node can't go on and ends, the others take over",
    },
];

/// The owner's disk fails under load: the others go on, and what was acknowledged is there.
async fn syncs_fail() -> Result<()> {
    // So that the archive is synced soon.
    let settings = PoolSettings::nodes(3).set("raft", "snapshot_interval", "1 s");
    let mut trial = Trial::over(Pool::start(&settings).await?).await?;
    for failing in FAILING {
        let owner = trial.living_owner().await?;
        let what = format!("a sync of the {} of node {owner} fails", failing.folder);
        let folder: PathBuf = trial.pool.data_dir(owner).join(failing.folder);
        trial.crowd.node_dies(owner);
        trial.fault(what.clone());
        let trace = Trace::fail_next(&trial.pool, owner, &folder).await?;
        let pool = &mut trial.pool;
        let ended = until(&format!("{what}: it ends"), RECOVERY, async || {
            pool.ended(owner)
        })
        .await?;
        let log = trial.pool.node(owner).log_end();
        ensure!((failing.ends)(ended), "{what}: {ended}\n{log}");
        ensure!(
            log.contains(failing.says),
            "{what}: the reason is not named:\n{log}"
        );
        let after = trace.after_the_failure().await?;
        ensure!(after.is_empty(), "{what}: and then {after:#?}");
        trial.acks_at_target(40, RECOVERY).await?;
        trial.crowd.all_in(RECOVERY).await?;
        trial.bring_back(owner).await?;
    }
    let least = Dose {
        faults: FAILING.len(),
        acked_during_faults: 80,
        kinds_acked: 4,
        moves: 4,
        suppressed: 2,
        received: 500,
        readings: 48,
        direct: 50,
        in_flight: 6,
        ..Dose::default()
    };
    trial.judge("syncs that fail", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_node_and_is_never_tried_again() {
    syncs_fail().await.expect("the test runs to its end");
}
