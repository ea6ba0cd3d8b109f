//! Pools that grow and shrink while people talk: nothing is lost or doubled, and nobody is disturbed.

use std::time::Duration;

use anyhow::{Result, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::load::{Audience, Seat};
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
        ended.code() == Some(5),
        "the removed node ended with {ended}"
    );
    trial.pool.spawn(4)?;
    let ended = until("it does not start", LIMIT, async || trial.pool.ended(4)).await?;
    ensure!(ended.code() == Some(5), "a removed node started: {ended}");
    let placed = trial.pool.placed(3, 1).await?;
    ensure!(placed == [(1, 17), (2, 17), (3, 17), (4, 0)], "{placed:?}");
    trial.crowd.acks(50, LIMIT).await?;
    trial.judge("growing and shrinking", LEAST).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_grows_and_shrinks_under_load() {
    grows_and_shrinks().await.expect("nobody notices");
}
