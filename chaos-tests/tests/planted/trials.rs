//! The trials: short stories, each about one promise. With a bug planted in the nodes or without, they do the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::cable::{Cable, Forwarder};
use chaos_tests::client::Client;
use chaos_tests::history::{Recorder, What, affiliation};
use chaos_tests::load::read_archive;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::syncs::Trace;
use chaos_tests::trial::RECOVERY;
use chaos_tests::wait::{PROMPT, until};
use planted::Bug;
use rustix::process::{Pid, Signal, kill_process};
use xmpp::ns;

use crate::witness::{self, Proof, Witness, read_all, room};

/// How long somebody listens who must be told nothing.
const SILENCE: Duration = Duration::from_secs(3);

const USERS: [&str; 4] = ["alice", "bob", "mallory", "reader"];

type Trial = Result<Arc<Recorder>>;

fn settings(bug: Option<Bug>) -> PoolSettings {
    PoolSettings::nodes(3).planted(bug)
}

async fn start(settings: &PoolSettings) -> Result<(Pool, Arc<Recorder>)> {
    let pool = Pool::start(settings).await?;
    pool.add_users(USERS).await?;
    Ok((pool, Arc::default()))
}

fn tokens(word: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{word}-{number}"))
        .collect()
}

/// Who owns the room, and the others.
async fn owner(pool: &Pool) -> Result<(u64, Vec<u64>)> {
    pool.owners_settled().await?;
    let via = *pool.running().first().context("a node runs")?;
    let owner = pool.owner_of(&room(), via).await?;
    let owner = owner.context("the room has an owner")?;
    let others = pool.ids().into_iter().filter(|id| *id != owner);
    Ok((owner, others.collect()))
}

/// Waits until a node names another owner of the room than one that is gone.
async fn new_owner(pool: &Pool, gone: u64) -> Result<u64> {
    let via = *pool.running().first().context("a node runs")?;
    until("the room has another owner", RECOVERY, async || {
        let owner = pool.owner_of(&room(), via).await.ok().flatten()?;
        (owner != gone).then_some(owner)
    })
    .await
}

/// Alice is in the room on a node, made it, and has said something that is acknowledged.
async fn alice(recorder: &Arc<Recorder>, pool: &Pool, node: u64, proof: Proof) -> Result<Witness> {
    let mut alice = Witness::enter(recorder, pool, (1, "alice"), node, proof).await?;
    alice.open_room().await?;
    alice.say(&tokens("first", 4), 0).await?;
    alice.acknowledged().await?;
    Ok(alice)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(copied.success(), "{from:?} can't be copied");
    Ok(())
}

/// Puts another folder in the place of a node's data.
fn replace_data(pool: &Pool, node: u64, by: &Path) -> Result<()> {
    let data = pool.data_dir(node);
    std::fs::remove_dir_all(&data)?;
    copy(by, &data)
}

fn image(pool: &Pool, node: u64) -> PathBuf {
    pool.root().join(format!("image-{node}"))
}

/// Copies all data folders and holds all syncs, until both show the same: no sync ends from then on, and the copies have all that
/// ever was on disk.
async fn held_as_copied(pool: &Pool) -> Result<Vec<Trace>> {
    /// A pool of which nobody wants anything writes now and then.
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        for node in pool.ids() {
            let image = image(pool, node);
            if image.exists() {
                std::fs::remove_dir_all(&image)?;
            }
            copy(&pool.data_dir(node), &image)?;
        }
        let mut held = Vec::new();
        for node in pool.ids() {
            held.push(Trace::hold(pool, node).await?);
        }
        let mut same = true;
        for node in pool.ids() {
            let compared = Command::new("diff")
                .args(["-r", "-q"])
                .args([pool.data_dir(node), image(pool, node)])
                .stdout(Stdio::null())
                .status()?;
            same &= compared.success();
        }
        if same {
            return Ok(held);
        }
        println!("a node wrote something between the copy and the hold");
        for trace in held {
            trace.release().await?;
        }
    }
    bail!("the pool never rests");
}

/// The power of all nodes goes while no sync of any of them ends: what was written since is lost. No disk is needed for that:
/// what a folder holds when its node's syncs are held is all that may be there after a power cut, and is put back.
pub(crate) async fn power_cut(bug: Option<Bug>) -> Trial {
    let (mut pool, recorder) = start(&settings(bug)).await?;
    let (owner, _) = owner(&pool).await?;
    let mut alice = alice(&recorder, &pool, owner, Proof::Counted).await?;
    let held = held_as_copied(&pool).await?;
    alice.say(&tokens("held", 4), 0).await?;
    alice.listen(SILENCE).await?;
    let syncs = held.iter().filter(|trace| trace.held_log_syncs() > 0);
    ensure!(syncs.count() >= 2, "no quorum's syncs were held");
    recorder.record(What::Fault {
        what: "the power of all nodes goes".into(),
    });
    // Who is held dies without a further step, but is gone only when strace lets go.
    for node in pool.ids() {
        let pid = Pid::from_raw(pool.pid(node)?.cast_signed()).context("a process has an id")?;
        kill_process(pid, Signal::KILL)?;
    }
    drop(held);
    for node in pool.ids() {
        pool.kill(node)?;
    }
    alice.leave();
    for node in pool.ids() {
        replace_data(&pool, node, &image(&pool, node))?;
    }
    pool.start_all()?;
    pool.all_ready().await?;
    recorder.record(What::Healed);
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// An owner that has lost its followers is sent messages, and dies as well; the others go on without it.
pub(crate) async fn owner_alone(bug: Option<Bug>) -> Trial {
    let (mut pool, recorder) = start(&settings(bug)).await?;
    let (owner, others) = owner(&pool).await?;
    let mut alice = alice(&recorder, &pool, owner, Proof::Counted).await?;
    // The room is on all disks: only what is said now may be missing.
    pool.replicas_agree().await?;
    for node in &others {
        pool.kill(*node)?;
    }
    recorder.record(What::Fault {
        what: format!("node {owner} is alone, then dies"),
    });
    alice.say(&tokens("alone", 4), 0).await?;
    alice.listen(SILENCE).await?;
    pool.kill(owner)?;
    alice.leave();
    for node in &others {
        pool.spawn(*node)?;
    }
    for node in &others {
        pool.ready(*node).await?;
    }
    pool.spawn(owner)?;
    pool.ready(owner).await?;
    recorder.record(What::Healed);
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// A client whose node dies can't resume its session. It binds anew and sends again what it has no word of.
pub(crate) async fn not_resumed(bug: Option<Bug>) -> Trial {
    let (mut pool, recorder) = start(&settings(bug)).await?;
    let (owner, others) = owner(&pool).await?;
    let [dies, lives] = others[..] else {
        bail!("three nodes");
    };
    let mut bob = Witness::enter(&recorder, &pool, (2, "bob"), owner, Proof::Reflected).await?;
    bob.open_room().await?;
    let (client, id) = witness::resumable(&pool.login(dies, "alice")).await?;
    let mut alice = Witness::over(&recorder, client, (1, "alice"), dies, Proof::Reflected).await?;
    let said = tokens("twice", 6);
    alice.say(&said, 0).await?;
    bob.hears("twice-5").await?;
    // What bob has is committed; alice has not even looked.
    recorder.record(What::Fault {
        what: format!("node {dies} dies"),
    });
    pool.kill(dies)?;
    let open = alice.leave();
    ensure!(open == said, "{open:?}");
    let login = pool.login(lives, "alice");
    let client = until(
        "alice is told that she can't resume",
        RECOVERY,
        async || witness::not_resumed(&login, &id).await.ok(),
    )
    .await?;
    let mut alice = Witness::over(&recorder, client, (3, "alice"), lives, Proof::Reflected).await?;
    alice.say_again(&open).await?;
    alice.acknowledged().await?;
    alice.say(&tokens("last", 1), 0).await?;
    alice.acknowledged().await?;
    bob.hears("last-0").await?;
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// How often a sentence stands in a node's log.
fn times(pool: &Pool, node: u64, sentence: &str) -> usize {
    let log = pool.node(node).log().unwrap_or_default();
    log.matches(sentence).count()
}

fn snapshots(pool: &Pool, node: u64) -> BTreeSet<String> {
    let folder = pool.data_dir(node).join("snapshots");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".snapshot")).collect()
}

/// A node misses messages, is filled by a snapshot, owns the room again, and is sent the messages once more.
pub(crate) async fn filled_by_snapshots(bug: Option<Bug>) -> Trial {
    let settings = settings(bug).set("raft", "snapshot_interval", "1 s").set(
        "raft",
        "log_keep_bytes",
        "8 KiB",
    );
    let (mut pool, recorder) = start(&settings).await?;
    let (filled, others) = owner(&pool).await?;
    let [one, other] = others[..] else {
        bail!("three nodes");
    };
    let mut alice = alice(&recorder, &pool, one, Proof::Reflected).await?;
    recorder.record(What::Fault {
        what: format!("node {filled} is away for long"),
    });
    pool.kill(filled)?;
    new_owner(&pool, filled).await?;
    let given_up = |pool: &Pool| {
        let said = |node| times(pool, node, "a member lags so far");
        said(one) + said(other)
    };
    let missed = tokens("missed", 12);
    for token in &missed {
        alice.say(std::slice::from_ref(token), 2_048).await?;
        alice.acknowledged().await?;
    }
    until("the others keep no log for it", RECOVERY, async || {
        (given_up(&pool) > 0).then_some(())
    })
    .await?;
    for round in 1.. {
        // What is purged behind a snapshot of the time after that can only come with it. It is purged a moment after the
        // snapshot is written, and surely before the next one is.
        for part in [2 * round, 2 * round + 1] {
            let known = [one, other].map(|node| snapshots(&pool, node));
            alice.say(&tokens(&format!("more{part}"), 4), 2_048).await?;
            alice.acknowledged().await?;
            until("snapshots of both others", RECOVERY, async || {
                let now = [one, other].map(|node| snapshots(&pool, node));
                let has_new =
                    |(now, known): (&BTreeSet<String>, &BTreeSet<String>)| !now.is_subset(known);
                now.iter().zip(&known).all(has_new).then_some(())
            })
            .await?;
        }
        pool.spawn(filled)?;
        pool.ready(filled).await?;
        if times(&pool, filled, "a snapshot was received and installed") > 0 {
            break;
        }
        ensure!(round < 6, "it is filled by a snapshot");
        pool.kill(filled)?;
        new_owner(&pool, filled).await?;
    }
    pool.owners_settled().await?;
    recorder.record(What::Healed);
    alice.leave();
    let mut again = Witness::enter(&recorder, &pool, (2, "alice"), one, Proof::Reflected).await?;
    again.say_again(&missed).await?;
    again.acknowledged().await?;
    again.say(&tokens("last", 1), 0).await?;
    again.acknowledged().await?;
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// A pool whose nodes are joined by cables, one for each direction.
async fn wired(bug: Option<Bug>) -> Result<(Pool, Arc<Recorder>, Vec<(u64, u64, Forwarder)>)> {
    let mut pool = Pool::prepare(&settings(bug))?;
    let mut cables = Vec::new();
    for from in pool.ids() {
        for to in pool.ids().into_iter().filter(|to| *to != from) {
            let near = SocketAddr::new(pool.node(from).clients.ip(), 0);
            let cable = Forwarder::start(near, pool.cluster_address(to)?).await?;
            pool.set_member(from, to, cable.address)?;
            cables.push((from, to, cable));
        }
    }
    pool.start_all()?;
    pool.all_ready().await?;
    pool.add_users(USERS).await?;
    Ok((pool, Arc::default(), cables))
}

/// Reads the room's archive, again until somebody answers, and writes down when that was asked for.
async fn read_current(recorder: &Recorder, client: &mut Client, node: u64) -> Result<()> {
    until("the archive is read", RECOVERY, async || {
        let began = recorder.now();
        let rows = read_archive(client, &room(), true).await.ok()?;
        recorder.record(What::Read {
            reader: format!("node {node}"),
            log: room(),
            began,
            whole: true,
            rows: rows.into_iter().map(|(token, _)| token).collect(),
        });
        Some(())
    })
    .await
}

/// Somebody reads on a node that is cut off from the others, while those go on.
pub(crate) async fn reader_cut_off(bug: Option<Bug>) -> Trial {
    let (pool, recorder, cables) = wired(bug).await?;
    let (owner, others) = owner(&pool).await?;
    let cut_off = *others.first().context("three nodes")?;
    let mut alice = alice(&recorder, &pool, owner, Proof::Reflected).await?;
    let mut reader = Client::connect(&pool.login(cut_off, "reader")).await?;
    read_current(&recorder, &mut reader, cut_off).await?;
    let set = |cable: Cable| {
        let own = cables
            .iter()
            .filter(|(from, to, _)| [*from, *to].contains(&cut_off));
        own.for_each(|(_, _, forwarder)| forwarder.set(cable));
    };
    recorder.record(What::Fault {
        what: format!("node {cut_off} is cut off"),
    });
    set(Cable::Silent);
    alice.say(&tokens("behind", 6), 0).await?;
    alice.acknowledged().await?;
    {
        let reading = read_current(&recorder, &mut reader, cut_off);
        tokio::pin!(reading);
        if let Ok(read) = tokio::time::timeout(SILENCE, &mut reading).await {
            read?;
            set(Cable::Whole);
        } else {
            // Nobody may answer while no quorum is asked; then somebody does, and knows all.
            set(Cable::Whole);
            reading.await?;
        }
    }
    recorder.record(What::Healed);
    pool.owners_settled().await?;
    // What the bug reads is old only as long as the node is behind: the archives are those of the end.
    pool.replicas_agree().await?;
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// Of the two nodes that have a message one loses its disk and starts anew, and the other stays away.
pub(crate) async fn wiped(bug: Option<Bug>) -> Trial {
    let mut pool = Pool::prepare(&settings(bug))?;
    for node in pool.ids() {
        copy(&pool.data_dir(node), &image(&pool, node))?;
    }
    pool.start_all()?;
    pool.all_ready().await?;
    pool.add_users(USERS).await?;
    let recorder = Arc::new(Recorder::default());
    let (owner, others) = owner(&pool).await?;
    let [loses, misses] = others[..] else {
        bail!("three nodes");
    };
    let mut alice = alice(&recorder, &pool, owner, Proof::Reflected).await?;
    // That there is the room is known by all; two disks are enough to say so.
    pool.replicas_agree().await?;
    recorder.record(What::Fault {
        what: format!("node {misses} is away, then node {loses} loses its disk"),
    });
    pool.kill(misses)?;
    alice.say(&tokens("kept", 4), 0).await?;
    alice.acknowledged().await?;
    pool.kill(loses)?;
    replace_data(&pool, loses, &image(&pool, loses))?;
    pool.kill(owner)?;
    alice.leave();
    pool.spawn(misses)?;
    pool.spawn(loses)?;
    let refused = until("the wiped node serves or ends", RECOVERY, async || {
        if pool.ended(loses).is_some() {
            return Some(true);
        }
        let control = &pool.node(loses).control;
        let ready = control.request("GET", "/health/ready", None).await.ok()?;
        (ready.status == 200).then_some(false)
    })
    .await?;
    if refused {
        pool.spawn(owner)?;
        pool.ready(owner).await?;
    }
    pool.ready(misses).await?;
    recorder.record(What::Healed);
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// Somebody is banned; the owner of the room dies; the banned one comes back and speaks, if they can.
pub(crate) async fn banned(bug: Option<Bug>) -> Trial {
    let (mut pool, recorder) = start(&settings(bug)).await?;
    let (owner, others) = owner(&pool).await?;
    let node = *others.first().context("three nodes")?;
    let mut alice = alice(&recorder, &pool, node, Proof::Reflected).await?;
    recorder.record(What::Call {
        call: 1,
        node,
        register: affiliation(&room(), "mallory"),
        set: Some("outcast".into()),
    });
    let ban = format!(
        "<query xmlns='{}'><item affiliation='outcast' jid='mallory@{DOMAIN}'/></query>",
        ns::MUC_ADMIN
    );
    alice.client().iq_ok("set", Some(&room()), &ban).await?;
    recorder.record(What::Answered {
        call: 1,
        value: None,
    });
    recorder.record(What::Fault {
        what: format!("node {owner} dies"),
    });
    pool.kill(owner)?;
    new_owner(&pool, owner).await?;
    // A replica that has banned nobody has a row less: what is said next passes for what alice has, and is not reflected.
    alice.say(&tokens("second", 3), 0).await?;
    alice.listen(PROMPT).await?;
    let entered = Witness::enter(&recorder, &pool, (2, "mallory"), node, Proof::Reflected).await;
    match entered {
        Ok(mut mallory) => {
            mallory.say(&tokens("forbidden", 2), 0).await?;
            mallory.listen(PROMPT).await?;
            mallory.leave();
        }
        Err(refused) => ensure!(format!("{refused:#}").contains("<forbidden"), "{refused:#}"),
    }
    alice.say(&tokens("third", 3), 0).await?;
    alice.listen(PROMPT).await?;
    alice.leave();
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}

/// Many messages at once, by one sender.
pub(crate) async fn burst(bug: Option<Bug>) -> Trial {
    let (pool, recorder) = start(&settings(bug)).await?;
    let (owner, _) = owner(&pool).await?;
    let mut alice = alice(&recorder, &pool, owner, Proof::Reflected).await?;
    alice.say(&tokens("burst", 60), 0).await?;
    alice.acknowledged().await?;
    read_all(&recorder, &pool, "reader").await?;
    Ok(recorder)
}
