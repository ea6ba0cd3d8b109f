//! Members that need entries which the others have purged are filled by snapshots.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster::raft::RaftSettings;
use cluster::{Group, NodeId};
use tokio::time::{interval, timeout};

use crate::pool::{LIMIT, Pool, quick};

const GROUP: Group = Group(1);

/// Snapshots all the time, and logs that are kept for nobody who is away.
fn forgetful() -> RaftSettings {
    RaftSettings {
        snapshot_interval: Duration::from_millis(50),
        log_keep_bytes: 20_000,
        spread_leaders: false,
        ..quick()
    }
}

/// Writes `count` entries of a KiB and more: rows of three keys, of which some are removed again and one is made anew.
async fn write(pool: &Pool, from: usize, count: usize) -> u64 {
    let mut last = 0;
    for n in from..from + count {
        let filler = "x".repeat(1000);
        let payload = match n % 10 {
            0 => format!("put new-{n}@x {filler}"),
            1 => format!("note room@x {n} {filler}"),
            2 if n % 50 == 2 => "trim room@x".to_owned(),
            3 if n % 50 == 23 => "drop brief@x".to_owned(),
            4 => format!("drop new-{}@x", n.saturating_sub(74)),
            5..7 => format!("put brief@x {n} {filler}"),
            7 => format!("note brief@x {n} {filler}"),
            _ => format!("put long@x {n} {filler}"),
        };
        last = pool.submit(GROUP, payload).await;
    }
    last
}

fn others(node: NodeId) -> Vec<NodeId> {
    (1..=3).map(NodeId).filter(|other| *other != node).collect()
}

/// Entries of a KiB that are in a log of [`forgetful`]'s length at most.
const KEPT: u64 = 20;

/// Returns when these have purged what comes before an entry, but for what a leader that was elected meanwhile keeps for a member
/// that it has never heard of.
async fn purged(pool: &Pool, nodes: &[NodeId], index: u64) {
    pool.wait("the log is purged", |pool| {
        nodes.iter().all(|node| {
            let purged = pool.status(*node, GROUP).purged;
            purged.is_some_and(|purged| purged + KEPT >= index)
        })
    })
    .await;
}

/// Returns when all nodes have so many entries, the same archive, and nothing is under way.
async fn even(pool: &Pool, entries: usize) {
    pool.wait_for_journal(GROUP, entries).await;
    pool.wait("no transfer is under way", |pool| {
        pool.nodes.iter().flatten().all(|node| {
            let metrics = node.groups.transfer_metrics();
            (metrics.sending, metrics.receiving) == (0, 0)
        })
    })
    .await;
    let nodes = pool.nodes.iter().flatten().map(|node| node.groups.node());
    let hashes: Vec<_> = nodes.map(|node| pool.archive_hash(node, GROUP)).collect();
    assert!(hashes[0].rows > 10, "{hashes:?}");
    assert!(
        hashes.windows(2).all(|pair| pair[0] == pair[1]),
        "{hashes:?}"
    );
}

fn installed(pool: &Pool, node: NodeId) -> u64 {
    pool.node(node).groups.transfer_metrics().installed
}

/// Asks for it until it is so: who has just come may not take over at the first word, and no harm is done by a second.
async fn leads(pool: &Pool, node: NodeId) {
    let mut looks = interval(Duration::from_secs(2));
    while pool.leader(GROUP) != Some(node) {
        looks.tick().await;
        if let Some(leader) = pool.leader(GROUP) {
            let groups = &pool.node(leader).groups;
            if groups.can_take_over(&pool.status(leader, GROUP), node) {
                groups.hand_over(GROUP, node).await.ok();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_is_filled_after_a_purge() {
    let mut pool = Pool::start(2, forgetful()).await;
    let first = write(&pool, 0, 60).await;
    even(&pool, 60).await;
    let away = others(pool.leader(GROUP).unwrap())[0];
    pool.kill(away);
    let last = write(&pool, 60, 140).await;
    purged(&pool, &others(away), last - 20).await;
    assert!(first < last - 20);
    pool.restart(away).await;
    even(&pool, 200).await;
    assert_eq!(installed(&pool, away), 1);
    // It is a member like others: it follows, leads, and starts again.
    write(&pool, 200, 20).await;
    even(&pool, 220).await;
    pool.kill(away);
    pool.restart(away).await;
    even(&pool, 220).await;
    timeout(LIMIT, leads(&pool, away)).await.unwrap();
    write(&pool, 220, 20).await;
    even(&pool, 240).await;
}

/// The same snapshot goes on where it was cut, after a restart of the receiver, and what it has of the archive stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cut_off_goes_on() {
    let mut settings = forgetful();
    settings.snapshot_bytes_per_second = 1 << 20;
    let mut pool = Pool::start(2, settings).await;
    let away = others(pool.leader(GROUP).unwrap())[0];
    pool.kill(away);
    let last = write(&pool, 0, 800).await;
    purged(&pool, &others(away), last).await;
    let leader = pool.leader(GROUP).unwrap();
    let sent = |pool: &Pool| pool.node(leader).groups.transfer_metrics().bytes_sent;
    pool.bulk_left.store(4, Ordering::Relaxed);
    pool.restart(away).await;
    pool.wait("a part has arrived", |pool| {
        pool.bulk_left.load(Ordering::Relaxed) == 0 && sent(pool) > 0
    })
    .await;
    let progress = pool.status(away, GROUP).receiving;
    let progress = progress.expect("a transfer is under way");
    assert!(progress.permille() < 500, "{progress:?}");
    pool.kill(away);
    pool.bulk_left.store(u64::MAX, Ordering::Relaxed);
    pool.restart(away).await;
    even(&pool, 800).await;
    let received = pool.node(away).groups.transfer_metrics();
    assert_eq!(received.installed, 1);
    let whole = sent(&pool);
    assert!(
        received.bytes_received < whole,
        "{} of {whole} bytes came in the second life",
        received.bytes_received
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_is_filled_and_becomes_a_voter() {
    let mut pool = Pool::start_with(2, forgetful(), 2).await;
    let last = write(&pool, 0, 120).await;
    purged(&pool, &[NodeId(1), NodeId(2)], last - 20).await;
    let leader = pool.leader(GROUP).unwrap();
    pool.restart(NodeId(3)).await;
    let groups = &pool.node(leader).groups;
    groups.add_learner(GROUP, NodeId(3)).await.unwrap();
    even(&pool, 120).await;
    assert_eq!(installed(&pool, NodeId(3)), 1);
    let all: Vec<NodeId> = (1..=3).map(NodeId).collect();
    groups.change_voters(GROUP, &all, true).await.unwrap();
    write(&pool, 120, 20).await;
    even(&pool, 140).await;
}

/// A log that lost its end: what is missing is purged elsewhere, and no vote is given before it has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_healed_by_a_snapshot() {
    let mut pool = Pool::start(2, forgetful()).await;
    write(&pool, 0, 30).await;
    even(&pool, 30).await;
    let damaged = others(pool.leader(GROUP).unwrap())[0];
    let mut n = 30;
    loop {
        pool.submit(GROUP, format!("put found@x payload {n}."))
            .await;
        pool.wait_for_journal(GROUP, n + 1).await;
        n += 1;
        let status = pool.status(damaged, GROUP);
        // Entries that are not purged yet are what can be damaged.
        if status.purged < status.applied {
            break;
        }
    }
    pool.kill(damaged);
    let log = pool.data_folder(damaged).join("log");
    crate::flip(&log, format!("payload {}.", n - 1).as_bytes());
    let last = write(&pool, n, 100).await;
    purged(&pool, &others(damaged), last - 20).await;
    pool.restart(damaged).await;
    even(&pool, n + 100).await;
    pool.wait("the quarantine is over", |pool| {
        !pool.status(damaged, GROUP).quarantined
    })
    .await;
    write(&pool, n + 100, 10).await;
    even(&pool, n + 110).await;
}

/// Nobody is hurt by a sender that offers in another's name, or nonsense.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_on_the_bulk_lane_is_not_answered() {
    use bytes::Bytes;
    use cluster::PartitionId;
    use cluster::transport::{CallError, Frame, Lane};

    let pool = Pool::start(2, forgetful()).await;
    write(&pool, 0, 30).await;
    let sender = &pool.node(NodeId(1)).transport;
    for kind in 0..=5 {
        for group in [1, 9] {
            for body in [&b""[..], &[1; 90], &[0xff; 90]] {
                let mut frame = Frame::new(kind, Bytes::copy_from_slice(body));
                frame.partition = PartitionId(group);
                let answer = sender.call(NodeId(2), Lane::Bulk, frame, crate::pool::LIMIT);
                assert_eq!(answer.await, Err(CallError::NoReply), "{kind} {group}");
            }
        }
    }
    even(&pool, 30).await;
}
