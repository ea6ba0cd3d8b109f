//! Pools that grow and shrink while people talk: nothing is lost or doubled, and nobody is disturbed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::client::{Client, Incoming};
use chaos_tests::load::{Audience, Seat};
use chaos_tests::people::online;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::trial::Trial;
use chaos_tests::wait::until;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Members of both rooms, and two users who write to each other, all on one node.
fn seats(home: u64) -> Vec<Seat> {
    let pair = |user: &str, other: &str| Seat {
        user: user.to_owned(),
        audience: Audience::User,
        to: format!("{other}@{DOMAIN}"),
        writer: Some(other.to_owned()),
        home,
        stream_management: true,
        forgetful: false,
        lasting: false,
        secured: false,
    };
    let mut seats = Trial::seats_on(&[home]);
    seats.extend([pair("ring-a", "ring-b"), pair("ring-b", "ring-a")]);
    seats
}

const LEAST: Dose = Dose {
    faults: 0,
    acked_during_faults: 0,
    kinds_acked: 0,
    moves: 0,
    suppressed: 1,
    over_faults: 0,
    received: 500,
    readings: 8,
    direct: 50,
    late: 0,
    found: 0,
    in_flight: 2,
    resent_in_order: 0,
    values_read: 0,
};

async fn grows_and_shrinks() -> Result<()> {
    let settings = PoolSettings::nodes(4).beginning_with(1);
    let pool = Pool::start(&settings).await?;
    let mut trial = Trial::seated(pool, seats(1)).await?;

    // 1 → 3, and everything is on three disks.
    trial.pool.let_in(2, 1).await?;
    trial.pool.let_in(3, 2).await?;
    let placed = trial.pool.placed(3, 1).await?;
    ensure!(placed == [(1, 17), (2, 17), (3, 17)], "{placed:?}");
    trial.crowd.acks(50, LIMIT).await?;

    // 3 → 4; a node dies in the middle of it, and comes back.
    trial.pool.let_in(4, 3).await?;
    trial.pool.moving(1).await?;
    trial.pool.kill(3)?;
    trial.crowd.acks(50, LIMIT).await?;
    trial.pool.spawn(3)?;
    trial.pool.ready(3).await?;
    let placed = trial.pool.placed(3, 1).await?;
    let shares: Vec<usize> = placed.iter().map(|(_, replicas)| *replicas).collect();
    // 48 replicas of partitions, and three of meta.
    ensure!(
        shares.iter().all(|share| (11..=14).contains(share)),
        "{placed:?}"
    );
    trial.crowd.acks(50, LIMIT).await?;

    // 4 → 3: replicas first, and then the node ends by itself and does not start again.
    trial.pool.operate(2, 4, "remove", &json!({})).await?;
    trial.pool.member_is(4, "removed", 1).await?;
    let ended = until("the removed node ends", LIMIT, async || trial.pool.ended(4)).await?;
    ensure!(
        ended.code() == Some(10),
        "the removed node ended with {ended}"
    );
    trial.pool.spawn(4)?;
    let ended = until("it does not start", LIMIT, async || trial.pool.ended(4)).await?;
    ensure!(ended.code() == Some(10), "a removed node started: {ended}");
    let placed = trial.pool.placed(3, 1).await?;
    ensure!(placed == [(1, 17), (2, 17), (3, 17), (4, 0)], "{placed:?}");
    trial.crowd.acks(50, LIMIT).await?;
    trial.judge("growing and shrinking", LEAST).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_grows_and_shrinks_under_load() {
    grows_and_shrinks().await.expect("nobody notices");
}

/// The end of a client's stream, in words.
async fn end_of(client: &mut Client) -> Result<String> {
    loop {
        match client.next(LIMIT).await? {
            Incoming::Closed(why) => return Ok(why),
            Incoming::Element(came) if came.root().name() == "error" => {
                return Ok(came.source().to_owned());
            }
            Incoming::Element(_) | Incoming::Acked(_) => {}
        }
    }
}

/// A node is emptied, taken back, and nothing else may happen meanwhile.
async fn is_drained(pool: &mut Pool) -> Result<()> {
    let mut alice = online(&pool.login(3, "alice")).await?;
    // A node that has just begun does not know yet who is there.
    until("the drain is granted", LIMIT, async || {
        pool.operate(1, 3, "drain", &json!({})).await.ok()
    })
    .await?;
    pool.operate(2, 3, "drain", &json!({})).await?;
    let why = end_of(&mut alice).await?;
    ensure!(why.contains("system-shutdown"), "the stream ended: {why}");
    pool.member_is(3, "drained", 1).await?;
    let owns = |seen: &serde_json::Value| seen["members"][2]["owns"].as_u64();
    until("it leads nothing", LIMIT, async || {
        (owns(&pool.operations(1).await.ok()?) == Some(0)).then_some(())
    })
    .await?;
    ensure!(
        Client::connect(&pool.login(3, "alice")).await.is_err(),
        "a drained node takes logins"
    );
    let ready = pool
        .node(3)
        .control
        .request("GET", "/health/ready", None)
        .await?;
    ensure!(
        ready.status == 503,
        "a drained node is ready: {}",
        ready.body
    );
    // It keeps its replicas.
    ensure!(pool.placed(3, 1).await? == [(1, 17), (2, 17), (3, 17)]);
    pool.operate(3, 3, "undrain", &json!({})).await?;
    pool.ready(3).await?;
    online(&pool.login(3, "alice")).await?.close().await
}

/// A node whose disk is lost is replaced by a new one.
async fn is_replaced(pool: &mut Pool) -> Result<()> {
    let forced = json!({ "dead": true });
    ensure!(pool.refused(1, 2, "remove", &forced).await? == "is-alive");
    pool.let_in(4, 2).await?;
    pool.placed(3, 1).await?;
    for what in ["replace?dry_run=true", "replace"] {
        let word = pool.refused(1, 2, what, &json!({ "with": 2 })).await?;
        ensure!(word == "same-node", "{what} is refused for {word}");
    }
    pool.kill(2)?;
    let (replace, nothing) = (json!({ "with": 4 }), json!({}));
    until("the others know that it is dead", LIMIT, async || {
        let seen = pool.operations(1).await.ok()?;
        (seen["members"][1]["alive"] == json!(false)).then_some(())
    })
    .await?;
    // Partitions that are on both 2 and 3.
    for what in ["drain?dry_run=true", "drain", "remove"] {
        let word = pool.refused(1, 3, what, &nothing).await?;
        ensure!(
            word == "quorum-would-be-lost",
            "{what} is refused for {word}"
        );
    }
    for what in ["replace?dry_run=true", "replace"] {
        let word = pool.refused(1, 3, what, &json!({ "with": 2 })).await?;
        ensure!(word == "not-alive", "{what} is refused for {word}");
    }
    let plan = pool.operate(1, 2, "replace?dry_run=true", &replace).await?;
    let steps = plan["steps"].as_array().map(Vec::len).unwrap_or_default();
    ensure!(steps > 10, "{plan}");
    pool.operate(1, 2, "replace", &replace).await?;
    // Asked again it is the same.
    pool.operate(3, 2, "replace?dry_run=true", &replace).await?;
    pool.operate(3, 2, "replace", &replace).await?;
    let word = pool.refused(3, 3, "drain", &nothing).await?;
    ensure!(
        ["another-drain", "quorum-would-be-lost"].contains(&word.as_str()),
        "refused for {word}"
    );
    pool.member_is(2, "removed", 1).await?;
    let placed = pool.placed(3, 4).await?;
    ensure!(placed == [(1, 17), (2, 0), (3, 17), (4, 17)], "{placed:?}");
    // The old one comes back from the dead, and is told.
    pool.spawn(2)?;
    let ended = until("it does not start", LIMIT, async || pool.ended(2)).await?;
    ensure!(
        ended.code() == Some(10),
        "a removed node ended with {ended}"
    );
    online(&pool.login(4, "alice")).await?.close().await
}

/// A drained node can't leave while another one is away without which groups could not do: nothing is begun that would not end.
async fn leaves_later() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    let nothing = json!({});
    until("the drain is granted", LIMIT, async || {
        pool.operate(1, 3, "drain", &nothing).await.ok()
    })
    .await?;
    pool.member_is(3, "drained", 1).await?;
    pool.kill(2)?;
    until("the others know that it is dead", LIMIT, async || {
        let seen = pool.operations(1).await.ok()?;
        (seen["members"][1]["alive"] == json!(false)).then_some(())
    })
    .await?;
    for what in ["remove?dry_run=true", "remove"] {
        let word = pool.refused(1, 3, what, &nothing).await?;
        ensure!(
            word == "quorum-would-be-lost",
            "{what} is refused for {word}"
        );
    }
    pool.member_is(3, "drained", 1).await?;
    pool.spawn(2)?;
    pool.ready(2).await?;
    until("it leaves", LIMIT, async || {
        pool.operate(1, 3, "remove", &nothing).await.ok()
    })
    .await?;
    pool.member_is(3, "removed", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_leaves_when_the_others_can_do_without() {
    leaves_later().await.expect("it leaves when it can");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_drained_and_replaced() {
    let story = async {
        let settings =
            PoolSettings::nodes(4)
                .beginning_with(3)
                .set("cluster", "quorum_wait", "20 s");
        let mut pool = Pool::start(&settings).await?;
        pool.add_users(["alice"]).await?;
        is_drained(&mut pool).await?;
        is_replaced(&mut pool).await
    };
    story.await.expect("the operator gets what was asked for");
}

const SESSIONS: u64 = 12;

/// A drain of node 3 that has begun and takes its time: its sessions go at two a second.
async fn is_being_drained(pool: &Pool, via: u64) -> Result<Vec<Client>> {
    let mut sessions = Vec::new();
    for at in 0..SESSIONS {
        let user = ["alice", "bob"][usize::from(at % 2 == 0)];
        sessions.push(online(&pool.login(3, user)).await?);
    }
    let pace = json!({ "sessions_per_second": 2 });
    until("the drain is granted", LIMIT, async || {
        pool.operate(via, 3, "drain", &pace).await.ok()
    })
    .await?;
    until("its sessions go", LIMIT, async || {
        let seen = pool.operations(3).await.ok()?;
        let left = seen["progress"]["sessions_left"].as_u64()?;
        (left < SESSIONS).then_some(())
    })
    .await?;
    let other = if via == 1 { 2 } else { 1 };
    let word = pool
        .refused(via, other, "drain?dry_run=true", &pace)
        .await?;
    ensure!(word == "another-drain", "a plan is refused for {word}");
    Ok(sessions)
}

/// The drain of node 3 has come to its end: it leads nothing, takes no logins and keeps its replicas.
async fn has_been_drained(pool: &Pool, via: u64) -> Result<()> {
    pool.member_is(3, "drained", via).await?;
    until("it leads nothing", LIMIT, async || {
        let seen = pool.operations(via).await.ok()?;
        (seen["members"][2]["owns"] == json!(0)).then_some(())
    })
    .await?;
    ensure!(
        Client::connect(&pool.login(3, "alice")).await.is_err(),
        "a drained node takes logins"
    );
    ensure!(pool.placed(3, via).await? == [(1, 17), (2, 17), (3, 17)]);
    Ok(())
}

async fn is_taken_back(pool: &mut Pool) -> Result<()> {
    pool.operate(2, 3, "undrain", &json!({})).await?;
    pool.ready(3).await?;
    online(&pool.login(3, "alice")).await?.close().await
}

/// The node that is drained dies in the middle of it: the drain waits for it, and goes on when it is back.
async fn dies_in_its_own_drain(pool: &mut Pool) -> Result<()> {
    let sessions = is_being_drained(pool, 2).await?;
    pool.kill(3)?;
    drop(sessions);
    until("it is known that it is dead", LIMIT, async || {
        let seen = pool.operations(2).await.ok()?;
        (seen["members"][2]["alive"] == json!(false)).then_some(())
    })
    .await?;
    pool.member_is(3, "draining", 2).await?;
    pool.spawn(3)?;
    has_been_drained(pool, 2).await?;
    is_taken_back(pool).await
}

/// One node dies while node 3 is drained, which comes to its end without it. Whether the dead one led the meta group then: the
/// others elect another leader of it.
async fn dies_in_the_drain_of_another(pool: &mut Pool, dead: u64, lives: u64) -> Result<bool> {
    let _sessions = is_being_drained(pool, lives).await?;
    pool.kill(dead)?;
    pool.member_is(3, "draining", lives).await?;
    pool.member_is(3, "drained", lives).await?;
    let dead_led = format!("dead=node {dead}");
    let is_elected = |line: &str| {
        let parts = ["answered a leader's crash", "group meta", &dead_led];
        parts.iter().all(|part| line.contains(part))
    };
    let logs = [pool.node(lives).log()?, pool.node(3).log()?];
    pool.spawn(dead)?;
    pool.ready(dead).await?;
    has_been_drained(pool, lives).await?;
    Ok(logs.iter().any(|log| log.lines().any(is_elected)))
}

async fn drains_survive_crashes() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob"]).await?;
    dies_in_its_own_drain(&mut pool).await?;
    // Who is drained leads nothing: if one of the others did not lead the meta group, the other one did.
    let mut turns = [(1, 2), (2, 1), (1, 2), (2, 1)].into_iter();
    loop {
        let (dead, lives) = turns.next().context("no leader of the meta group died")?;
        if dies_in_the_drain_of_another(&mut pool, dead, lives).await? {
            break;
        }
        is_taken_back(&mut pool).await?;
    }
    // Two are drained, and the last that serves stays.
    until("the drain is granted", LIMIT, async || {
        pool.operate(1, 2, "drain", &json!({})).await.ok()
    })
    .await?;
    pool.member_is(2, "drained", 1).await?;
    for what in ["drain?dry_run=true", "drain", "remove"] {
        let word = pool.refused(1, 1, what, &json!({})).await?;
        ensure!(word == "last-node", "{what} is refused for {word}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_goes_on_whoever_crashes() {
    drains_survive_crashes()
        .await
        .expect("every drain comes to its end");
}

/// Kills a node other than the first in the middle of a move, and starts it again. It serves again, or is told that it was
/// removed meanwhile.
async fn dies_in_a_move(trial: &mut Trial, victim: u64) -> Result<()> {
    trial.pool.moving(1).await?;
    println!("node {victim} dies");
    trial.pool.kill(victim)?;
    trial.crowd.acks(20, LIMIT).await?;
    trial.pool.spawn(victim)?;
    let node = trial.pool.node(victim).control.clone();
    until("it serves again, or was removed", LIMIT, async || {
        if let Some(ended) = trial.pool.ended(victim) {
            return Some(ended.code() == Some(10));
        }
        let ready = node.request("GET", "/health/ready", None).await.ok()?;
        (ready.status == 200).then_some(true)
    })
    .await
    .and_then(|fine| {
        ensure!(fine, "node {victim} ended otherwise");
        Ok(())
    })
}

async fn moves_survive_crashes() -> Result<()> {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let settings = PoolSettings::nodes(5)
        .beginning_with(3)
        .set("cluster", "quorum_wait", "20 s");
    let pool = Pool::start(&settings).await?;
    let mut trial = Trial::seated(pool, seats(1)).await?;
    let victim = |round: u32, among: &[u64]| {
        let turn = usize::try_from(seed >> (8 * round)).unwrap_or_default();
        among[turn % among.len()]
    };
    for new in [4, 5] {
        trial.pool.admit(new, 2).await?;
        trial.pool.spawn(new)?;
        let among: Vec<u64> = (2..=new).collect();
        dies_in_a_move(&mut trial, victim(new as u32 - 4, &among)).await?;
        trial.pool.member_is(new, "member", 1).await?;
        trial.pool.placed(3, 1).await?;
    }
    for old in [4, 5] {
        trial.pool.operate(3, old, "remove", &json!({})).await?;
        let among: Vec<u64> = (2..=5).filter(|id| *id != 4 || old == 4).collect();
        dies_in_a_move(&mut trial, victim(old as u32 - 2, &among)).await?;
        trial.pool.member_is(old, "removed", 1).await?;
        until("the removed node has ended", LIMIT, async || {
            let ended = trial.pool.ended(old).is_some();
            (ended || !trial.pool.running().contains(&old)).then_some(())
        })
        .await?;
        trial.pool.placed(3, 1).await?;
    }
    trial.judge("crashes while replicas move", LEAST).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_move_on_whoever_crashes() {
    moves_survive_crashes()
        .await
        .expect("nothing is lost, and every move comes to its end");
}
