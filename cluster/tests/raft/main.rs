//! Raft groups between three nodes: real sockets, real logs.

#![allow(clippy::unwrap_used, reason = "what is not there fails the test")]

mod machine;
mod pool;
mod snapshots;

use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::raft::{RaftSettings, ReadError, SubmitError};
use cluster::transport::{CallError, Frame, Lane};
use cluster::{Group, NodeId, PartitionId};

use crate::pool::{LIMIT, Pool, quick};

const GROUP: Group = Group(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seventeen_groups_spread_their_leaders_and_apply_in_one_order() {
    let pool = Pool::start(17, quick()).await;
    pool.wait("every group is led by its preferred voter", |pool| {
        (0..17).all(|group| pool.leader(Group(group)) == Some(NodeId(u64::from(group) % 3 + 1)))
    })
    .await;
    let leader = pool.handle(pool.leader(GROUP).unwrap(), GROUP);
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let leader = leader.clone();
            tokio::spawn(async move {
                let submitted: Vec<_> = (0..250)
                    .map(|n| leader.submit(Bytes::from(format!("{caller} {n}"))))
                    .collect();
                let mut indexes = Vec::new();
                for submission in submitted {
                    indexes.push(submission.await.unwrap());
                }
                indexes
            })
        })
        .collect();
    for caller in callers {
        let indexes = caller.await.unwrap();
        assert!(
            indexes.is_sorted_by(|a, b| a < b),
            "a caller's submissions enter the log in their order"
        );
    }
    let journal = pool.wait_for_journal(GROUP, 1000).await;
    for caller in 0..4 {
        let of_caller: Vec<_> = journal
            .iter()
            .filter(|(_, p)| p.starts_with(format!("{caller} ").as_bytes()))
            .collect();
        let expect: Vec<_> = (0..250)
            .map(|n| Bytes::from(format!("{caller} {n}")))
            .collect();
        assert!(of_caller.iter().map(|(_, payload)| payload).eq(&expect));
    }
    leader.read_barrier().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_submissions_and_reads_and_names_the_leader() {
    // A payload may take at most a quarter of a log segment, and the tests' segments are small.
    let settings = RaftSettings {
        payload_bytes_max: 200 << 10,
        ..RaftSettings::default()
    };
    let large = settings.payload_bytes_max;
    let pool = Pool::start(2, settings).await;
    let leader = pool.leader(GROUP).unwrap();
    let follower = pool.handle(NodeId(leader.0 % 3 + 1), GROUP);
    assert_eq!(
        follower.submit(Bytes::from("x")).await,
        Err(SubmitError::NotLeader {
            leader: Some(leader)
        })
    );
    assert_eq!(
        follower.read_barrier().await,
        Err(ReadError::NotLeader {
            leader: Some(leader)
        })
    );
    let too_large = Bytes::from(vec![0; large + 1]);
    assert!(matches!(
        follower.submit(too_large).await,
        Err(SubmitError::TooLarge { .. })
    ));
    for _ in 0..10 {
        pool.submit(GROUP, vec![7; large]).await;
    }
    pool.wait_for_journal(GROUP, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_leader_is_replaced_without_a_timer_and_nothing_acknowledged_is_lost() {
    // Longer than a submission may take: only the answer to the crash can be what helps.
    let timers = RaftSettings {
        election_min: 3 * LIMIT,
        election_max: 4 * LIMIT,
        ..quick()
    };
    let mut pool = Pool::start(17, timers).await;
    pool.wait("leaders are spread", |pool| {
        (0..17).all(|group| pool.leader(Group(group)) == Some(NodeId(u64::from(group) % 3 + 1)))
    })
    .await;
    for group in 0..17 {
        for n in 0..20 {
            pool.submit(Group(group), format!("before {n}")).await;
        }
    }
    let dead = pool.leader(GROUP).unwrap();
    let led: Vec<u32> = (0..17)
        .filter(|group| pool.leader(Group(*group)) == Some(dead))
        .collect();
    let killed = Instant::now();
    pool.kill(dead);
    for group in &led {
        pool.submit(Group(*group), "after").await;
        println!(
            "group {group}: first write {} ms after the crash",
            killed.elapsed().as_millis()
        );
    }
    for group in 0..17 {
        let length = 20 + usize::from(led.contains(&group));
        pool.wait_for_journal(Group(group), length).await;
    }
    pool.restart(dead).await;
    for group in 0..17 {
        pool.submit(Group(group), "back").await;
        let journal = pool
            .wait_for_journal(Group(group), 21 + usize::from(led.contains(&group)))
            .await;
        assert_eq!(journal[0].1, "before 0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_whose_nodes_all_crashed_comes_back_with_everything() {
    let mut pool = Pool::start(3, RaftSettings::default()).await;
    for n in 0..300 {
        pool.submit(Group(n % 3), format!("{n}")).await;
    }
    (1..=3).for_each(|node| pool.kill(NodeId(node)));
    pool.start_all().await;
    for node in 1..=3 {
        pool.node(NodeId(node))
            .groups
            .wait_for_recovery(LIMIT, |_| true)
            .await
            .unwrap();
    }
    for group in 0..3 {
        pool.wait_for_journal(Group(group), 100).await;
        pool.submit(Group(group), "more").await;
        pool.wait_for_journal(Group(group), 101).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_raises_no_terms_and_rejoins_quietly() {
    let pool = Pool::start(2, RaftSettings::default()).await;
    let leader = pool.leader(GROUP).unwrap();
    let lonely = NodeId(leader.0 % 3 + 1);
    let term = pool.status(lonely, GROUP).term;
    pool.cut_off(lonely);
    // Several election timeouts of its own: without pre-votes its term would rise with each.
    let mut leadership = pool.handle(lonely, GROUP).leadership();
    let risen = tokio::time::timeout(
        Duration::from_secs(4),
        leadership.wait_for(|seen| seen.term > term),
    )
    .await;
    assert!(risen.is_err(), "the term rose: {risen:?}");
    pool.submit(GROUP, "meanwhile").await;
    pool.heal();
    pool.wait_for_journal(GROUP, 1).await;
    assert_eq!(pool.leader(GROUP), Some(leader));
    assert_eq!(pool.status(leader, GROUP).term, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_confirms_no_read_and_acknowledges_nothing() {
    let pool = Pool::start(2, RaftSettings::default()).await;
    let old = pool.leader(GROUP).unwrap();
    pool.submit(GROUP, "first").await;
    let handle = pool.handle(old, GROUP);
    pool.cut_off(old);
    let unknown = handle.submit(Bytes::from("lost"));
    assert!(
        handle.read_barrier().await.is_err(),
        "no quorum confirms it"
    );
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != old).collect();
    pool.wait("the others have elected", |pool| {
        others
            .iter()
            .any(|node| pool.handle(*node, GROUP).leadership().borrow().is_self)
    })
    .await;
    assert!(
        handle.read_barrier().await.is_err(),
        "it does not know that it is deposed, but may not read"
    );
    let new = others
        .into_iter()
        .find(|node| pool.handle(*node, GROUP).leadership().borrow().is_self)
        .unwrap();
    let index = pool
        .handle(new, GROUP)
        .submit(Bytes::from("second"))
        .await
        .unwrap();
    pool.handle(new, GROUP).read_barrier().await.unwrap();
    pool.heal();
    // Its entry gives way to the successor's: it may only be told that the outcome is unknown, or that it was refused.
    let outcome = tokio::time::timeout(LIMIT, unknown).await.unwrap();
    assert!(
        matches!(
            outcome,
            Err(SubmitError::Unknown | SubmitError::NotLeader { .. })
        ),
        "{outcome:?}"
    );
    let journal = pool.wait_for_journal(GROUP, 2).await;
    assert_eq!(journal[1], (index, Bytes::from("second")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_hands_over_every_group() {
    let mut pool = Pool::start(6, quick()).await;
    pool.wait("leaders are spread", |pool| {
        (0..6).all(|group| pool.leader(Group(group)) == Some(NodeId(u64::from(group) % 3 + 1)))
    })
    .await;
    let started = Instant::now();
    assert_eq!(pool.node(NodeId(1)).groups.step_down_all(LIMIT).await, []);
    println!("stepped down in {} ms", started.elapsed().as_millis());
    assert!(
        pool.node(NodeId(1))
            .groups
            .status()
            .iter()
            .all(|status| !status.is_leader)
    );
    let groups = pool.node(NodeId(1)).groups.clone();
    pool.kill(NodeId(1));
    groups.shutdown().await;
    for group in 0..6 {
        pool.submit(Group(group), "on").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_kept_for_a_member_that_was_away_for_a_while() {
    let settings = RaftSettings {
        snapshot_interval: Duration::from_millis(50),
        ..quick()
    };
    let mut pool = Pool::start(2, settings).await;
    for n in 0..100 {
        pool.submit(GROUP, format!("{n}")).await;
    }
    pool.wait("all have purged", |pool| {
        (1..=3).all(|node| {
            pool.status(NodeId(node), GROUP)
                .purged
                .is_some_and(|purged| purged >= 100)
        })
    })
    .await;
    let away = NodeId(pool.leader(GROUP).unwrap().0 % 3 + 1);
    pool.kill(away);
    let mut last = 0;
    for n in 100..200 {
        last = pool.submit(GROUP, format!("{n}")).await;
    }
    let present: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != away).collect();
    pool.wait("snapshots cover all", |pool| {
        present.iter().all(|node| {
            pool.status(*node, GROUP)
                .snapshot
                .is_some_and(|index| index >= last)
        })
    })
    .await;
    for node in present {
        let purged = pool.status(node, GROUP).purged.unwrap();
        assert!(
            purged < last - 90,
            "{node} purged {purged} of {last}, which {away} still needs"
        );
    }
    pool.restart(away).await;
    pool.wait_for_journal(GROUP, 200).await;
    pool.wait("all have purged again", |pool| {
        (1..=3).all(|node| {
            pool.status(NodeId(node), GROUP)
                .purged
                .is_some_and(|purged| purged >= last)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_gives_no_vote_until_it_has_caught_up() {
    let mut pool = Pool::start(
        2,
        RaftSettings {
            spread_leaders: false,
            ..quick()
        },
    )
    .await;
    for n in 0..50 {
        pool.submit(GROUP, format!("payload number {n}")).await;
    }
    pool.wait_for_journal(GROUP, 50).await;
    let leader = pool.leader(GROUP).unwrap();
    let term = pool.status(leader, GROUP).term;
    let damaged = NodeId(leader.0 % 3 + 1);
    pool.kill(damaged);
    flip(&pool.data_folder(damaged).join("log"), b"payload number 7");
    pool.restart(damaged).await;
    assert!(pool.status(damaged, GROUP).quarantined);
    pool.wait("the quarantine is over", |pool| {
        !pool.status(damaged, GROUP).quarantined
    })
    .await;
    assert!(
        pool.status(damaged, GROUP).term > term,
        "it took an election without it"
    );
    pool.wait_for_journal(GROUP, 50).await;
    pool.submit(GROUP, "on").await;
    pool.wait_for_journal(GROUP, 51).await;
}

/// Flips a bit of the first place in any file of `folder` that holds `needle`.
pub(crate) fn flip(folder: &std::path::Path, needle: &[u8]) {
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes
            .windows(needle.len())
            .position(|window| window == needle)
        {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("no file holds the payload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_forgery_and_unknown_groups_are_not_answered() {
    let pool = Pool::start(2, RaftSettings::default()).await;
    let sender = &pool.node(NodeId(1)).transport;
    let check = async |kind: u8, group: u16, body: &[u8]| {
        let mut frame = Frame::new(kind, Bytes::copy_from_slice(body));
        frame.partition = PartitionId(group);
        let answer = sender.call(NodeId(2), Lane::Raft, frame, LIMIT).await;
        assert_eq!(answer, Err(CallError::NoReply), "{kind} {group} {body:?}");
    };
    for kind in 0..=6 {
        check(kind, 1, b"").await;
        check(kind, 1, &[1; 40]).await;
        check(kind, 1, &[0xff; 40]).await;
        check(kind, 9, &[1; 40]).await;
    }
    // A vote request by node 1 in node 3's name: term 99, node 3, not committed, no log, no transfer.
    let mut forged = vec![1];
    forged.extend_from_slice(&99_u64.to_le_bytes());
    forged.extend_from_slice(&3_u64.to_le_bytes());
    forged.extend_from_slice(&[0, 0, 0]);
    for kind in [2, 3] {
        check(kind, 1, &forged).await;
    }
    assert!(pool.status(NodeId(2), GROUP).term < 99);
}
