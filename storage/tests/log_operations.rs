//! The log's operations while nothing breaks: order, contiguity, truncation, purge, limits, many groups at once.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy.toml's exception doesn't reach"
)]

mod log_support;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use log_support::*;
use storage::log::{GroupId, GroupState, Log, LogDisk, LogEntry, LogError, LogOptions};

#[test]
fn what_was_saved_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = Log::open(dir.path(), options(64 << 10)).unwrap();
    assert!(recovered.fresh);
    append(&log, 0, entries(0..10, 1, 100)).unwrap();
    append(&log, 7, entries(0..3, 2, 0)).unwrap();
    vote(&log, 0, "vote");
    truncate(&log, 0, Some(7)).unwrap();
    append(&log, 0, entries(8..12, 3, 50)).unwrap();
    purge(&log, 0, 4);
    log.save_committed(GroupId(0), Bytes::from_static(b"committed"));
    let before = all_held(&log, 8);
    assert_eq!(before[0].state.first_index, 5);
    assert_eq!(before[0].state.last, Some((11, 3)));
    assert_eq!(
        before[0].entries,
        [entries(5..8, 1, 100), entries(8..12, 3, 50)].concat()
    );
    log.close();
    let (log, recovered) = Log::open(dir.path(), options(64 << 10)).unwrap();
    assert_eq!(recovered.groups, [GroupId(0), GroupId(7)]);
    assert!(recovered.damage.is_empty() && recovered.quarantined.is_empty() && !recovered.fresh);
    assert_eq!(all_held(&log, 8), before);
    assert_eq!(log.term(GroupId(0), 8), Some(3));
    assert_eq!(log.groups(), [GroupId(0), GroupId(7)]);
}

/// What is submitted while the writer rests shares one fdatasync; what comes after a time of rest has its own.
#[test]
fn submissions_share_an_fdatasync() {
    const MANY: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let patient = LogOptions {
        sync_interval: Duration::from_millis(500),
        ..options(1 << 20)
    };
    let log = open(dir.path(), patient);
    append(&log, 0, entries(0..1, 1, 8)).unwrap();
    let before = log.metrics().syncs;
    let (done, answers) = std::sync::mpsc::channel();
    for group in 1..=MANY {
        let done = done.clone();
        let answer = move |result| done.send(result).unwrap();
        log.append(
            GroupId(group.try_into().unwrap()),
            entries(0..1, 1, 8),
            answer,
        );
    }
    for _ in 0..MANY {
        answers.recv().unwrap().unwrap();
    }
    let syncs = log.metrics().syncs - before;
    assert!((1..MANY / 2).contains(&syncs), "{syncs}");
}

#[test]
fn entries_must_follow() {
    #[track_caller]
    fn check(log: &Log, first: u64, expected: u64) {
        match append(log, 3, entries(first..first + 2, 1, 8)) {
            Err(LogError::NotContiguous {
                group: GroupId(3),
                expected: e,
                found,
            }) => {
                assert_eq!((e, found), (expected, first));
            }
            other => panic!("{other:?}"),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(64 << 10));
    check(&log, 1, 0);
    append(&log, 3, entries(0..5, 1, 8)).unwrap();
    check(&log, 4, 5);
    check(&log, 6, 5);
    truncate(&log, 3, Some(2)).unwrap();
    check(&log, 5, 3);
    purge(&log, 3, 20);
    check(&log, 3, 21);
    append(&log, 3, entries(21..23, 1, 8)).unwrap();
    assert!(matches!(
        truncate(&log, 3, Some(10)),
        Err(LogError::TruncatesPurged { first: 21, .. })
    ));
    truncate(&log, 3, None).unwrap();
    check(&log, 20, 21);
    let gap = vec![entry(21, 1, 8), entry(23, 1, 8)];
    assert!(matches!(
        append(&log, 3, gap),
        Err(LogError::NotContiguous {
            expected: 22,
            found: 23,
            ..
        })
    ));
    assert_eq!(
        log.state(GroupId(3)).last,
        None,
        "a refused append leaves nothing behind"
    );
    purge(&log, 3, 3);
    assert_eq!(
        log.state(GroupId(3)).purged,
        Some(Bytes::from_static(b"purged 20")),
        "a purge is never taken back"
    );
}

#[test]
fn limits_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(16 << 10));
    assert!(matches!(
        append(&log, 0, entries(0..1, 1, 9000)),
        Err(LogError::TooLarge { .. })
    ));
    let (done, rx) = ticket();
    log.save_vote(GroupId(0), Bytes::from(vec![0; 300]), done);
    assert!(matches!(
        rx.recv(),
        Ok(Err(LogError::TooLarge { limit: 256, .. }))
    ));
    assert!(matches!(
        append(&log, u32::MAX, entries(0..1, 1, 1)),
        Err(LogError::TooManyGroups { .. })
    ));
    let refused = (0..100).find(|group| append(&log, *group, entries(0..1, 1, 1)).is_err());
    assert_eq!(refused, Some(8));
    assert!(matches!(
        Log::open(dir.path(), options(16 << 10)),
        Err(LogError::Locked)
    ));
    assert!(matches!(
        Log::open(dir.path(), options(1000)),
        Err(LogError::Options(_))
    ));
    let other = log.clone();
    log.close();
    assert!(matches!(
        append(&other, 0, entries(1..2, 1, 1)),
        Err(LogError::Closed)
    ));
}

#[test]
fn reads_are_bounded_and_come_from_cache_or_disk() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogOptions {
        cache_bytes_max: 1000,
        ..options(64 << 10)
    };
    let log = open(dir.path(), small);
    append(&log, 0, entries(0..100, 1, 100)).unwrap();
    append(&log, 1, entries(0..100, 1, 100)).unwrap();
    append(&log, 0, entries(100..200, 1, 100)).unwrap();
    assert!(log.metrics().cache_bytes <= 1000);
    assert_eq!(
        log.read(GroupId(0), 0..500, usize::MAX).unwrap(),
        entries(0..200, 1, 100)
    );
    assert_eq!(log.metrics().reads_from_disk, 1);
    assert_eq!(
        log.read(GroupId(0), 199..200, 0).unwrap(),
        entries(199..200, 1, 100)
    );
    assert_eq!(log.metrics().reads_from_disk, 1);
    assert_eq!(log.read(GroupId(0), 10..20, 0).unwrap().len(), 1);
    let some = log.read(GroupId(0), 10..90, 1000).unwrap();
    assert!((5..=10).contains(&some.len()), "{}", some.len());
    assert!(log.read(GroupId(0), 200..300, 100).unwrap().is_empty());
    assert!(log.read(GroupId(9), 0..3, 100).unwrap().is_empty());
}

#[test]
fn an_append_longer_than_a_segment_is_written_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(32 << 10));
    append(&log, 0, entries(0..200, 1, 1000)).unwrap();
    assert!(log.metrics().segments >= 7);
    let before = held(&log, 0);
    log.close();
    assert_eq!(held(&open(dir.path(), options(32 << 10)), 0), before);
}

#[test]
fn entries_are_readable_before_they_are_on_disk_and_callbacks_keep_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(
        dir.path(),
        LogOptions {
            cache_bytes_max: 0,
            ..options(64 << 10)
        },
    );
    let (tx, rx) = std::sync::mpsc::channel();
    for index in 0..500 {
        let tx = tx.clone();
        log.append(GroupId(0), vec![entry(index, 1, 20)], move |result| {
            tx.send((index, result.is_ok())).expect("the test waits")
        });
        assert_eq!(
            log.read(GroupId(0), index..index + 1, 0).unwrap(),
            [entry(index, 1, 20)]
        );
    }
    let order: Vec<_> = rx.iter().take(500).collect();
    assert_eq!(
        order,
        (0..500).map(|index| (index, true)).collect::<Vec<_>>()
    );
}

#[test]
fn what_nobody_waits_for_shares_an_fdatasync() {
    let dir = tempfile::tempdir().unwrap();
    let patient = LogOptions {
        share_within: Duration::from_secs(3600),
        ..options(1 << 20)
    };
    let log = open(dir.path(), patient.clone());
    append(&log, 0, entries(0..1, 1, 8)).unwrap();
    let before = log.metrics().syncs;
    let shared = |group, range| {
        let (done, answer) = ticket();
        log.append_shared(GroupId(group), entries(range, 1, 8), done);
        answer
    };
    let (first, second) = (shared(1, 0..3), shared(2, 0..1));
    // They can be read, and are not on disk.
    let read = log.read(GroupId(1), 0..3, usize::MAX).unwrap();
    assert_eq!(read, entries(0..3, 1, 8));
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    assert_eq!(log.metrics().syncs, before);
    // Somebody else's fdatasync takes them along, in their order.
    append(&log, 0, entries(1..2, 1, 8)).unwrap();
    first.recv().unwrap().unwrap();
    second.recv().unwrap().unwrap();
    assert_eq!(log.metrics().syncs, before + 1);
    // A vote does not overtake them.
    let third = shared(1, 3..4);
    vote(&log, 1, "2");
    third.recv().unwrap().unwrap();
    // Neither does the end.
    let last = shared(1, 4..5);
    log.close();
    last.recv().unwrap().unwrap();
    let log = open(dir.path(), patient);
    let state = log.state(GroupId(1));
    assert_eq!((state.last, state.vote), (Some((4, 1)), Some("2".into())));
}

#[test]
fn what_nobody_waits_for_is_written_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(
        dir.path(),
        LogOptions {
            queue_bytes_max: 4 << 10,
            batch_bytes_max: 64 << 10,
            share_within: Duration::from_millis(1),
            ..options(1 << 20)
        },
    );
    let (done, answer) = ticket();
    log.append_shared(GroupId(1), entries(0..1, 1, 8), done);
    answer.recv().unwrap().unwrap();
    drop(log);
    // Whoever finds the queue full does not wait for that time.
    let log = open(
        dir.path(),
        LogOptions {
            queue_bytes_max: 4 << 10,
            share_within: Duration::from_secs(3600),
            ..options(1 << 20)
        },
    );
    let answers: Vec<_> = (1..20)
        .map(|index| {
            let (done, answer) = ticket();
            log.append_shared(GroupId(1), vec![entry(index, 1, 1 << 10)], done);
            answer
        })
        .collect();
    answers[0].recv().unwrap().unwrap();
    log.close();
    for answer in &answers[1..] {
        answer.recv().unwrap().unwrap();
    }
}

#[test]
fn many_groups_at_once_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(
        dir.path(),
        LogOptions {
            queue_bytes_max: 16 << 10,
            ..options(64 << 10)
        },
    );
    std::thread::scope(|scope| {
        for group in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                let mut waiting = Vec::new();
                for index in 0..400u64 {
                    let (done, rx) = ticket();
                    log.append(GroupId(group), vec![entry(index, 1, 64)], done);
                    waiting.push(rx);
                    if index % 50 == 49 {
                        purge(&log, group, index - 20);
                    }
                }
                for rx in waiting {
                    rx.recv().unwrap().unwrap();
                }
            });
        }
    });
    let metrics = log.metrics();
    assert_eq!(metrics.entries, 3200);
    assert!(metrics.syncs < 3200, "{} syncs", metrics.syncs);
    let before = all_held(&log, 8);
    before.iter().for_each(check_whole);
    log.close();
    let log = open(dir.path(), options(64 << 10));
    assert_eq!(all_held(&log, 8), before);
}

#[test]
fn segments_are_recycled_and_lagging_groups_copied_forward() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(
        dir.path(),
        LogOptions {
            cache_bytes_max: 0,
            ..options(16 << 10)
        },
    );
    append(&log, 1, entries(0..20, 1, 100)).unwrap();
    vote(&log, 2, "only a vote");
    for round in 0..200 {
        append(&log, 0, entries(round * 10..round * 10 + 10, round, 200)).unwrap();
        if round % 5 == 4 {
            purge(&log, 0, round * 10);
        }
    }
    let metrics = log.metrics();
    assert!(metrics.segments_freed > 10, "{metrics:?}");
    assert!(
        metrics.entries_copied >= 20,
        "the quiet group is carried along: {metrics:?}"
    );
    assert!(metrics.segments <= 8, "{metrics:?}");
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files < 20, "{files} files");
    let before = all_held(&log, 3);
    assert_eq!(before[1].entries, entries(0..20, 1, 100));
    log.close();
    let (log, recovered) = Log::open(dir.path(), options(16 << 10)).unwrap();
    assert_eq!(
        recovered.damage,
        [],
        "frames left over in recycled segments are nobody's"
    );
    assert_eq!(all_held(&log, 3), before);
}

#[test]
fn a_dropped_group_is_gone_and_may_start_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(16 << 10));
    append(&log, 0, entries(0..9, 1, 10)).unwrap();
    append(&log, 1, entries(0..9, 1, 10)).unwrap();
    let (done, rx) = ticket();
    log.drop_group(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    assert_eq!(log.groups(), [GroupId(1)]);
    append(&log, 0, entries(0..2, 5, 10)).unwrap();
    let before = all_held(&log, 2);
    log.close();
    let log = open(dir.path(), options(16 << 10));
    assert_eq!(all_held(&log, 2), before);
}

/// Its data is given away: it has forgotten all but the vote that it has given, and gives no other until it has caught up. After
/// a crash at any point it is whole, or so.
#[test]
fn a_quarantined_group_that_is_dropped_keeps_its_vote_and_gives_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(16 << 10));
    for group in [0, 1] {
        vote(&log, group, "given");
        append(&log, group, entries(0..90, 1, 100)).unwrap();
        purge(&log, group, 20);
    }
    let (done, rx) = ticket();
    log.quarantine(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    let (done, rx) = ticket();
    log.drop_group(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    let emptied = GroupState {
        vote: Some(Bytes::from("given")),
        quarantined: true,
        ..GroupState::default()
    };
    assert_eq!(log.state(GroupId(0)), emptied);
    assert_eq!(log.stored_bytes(GroupId(0)), 0);
    log.close();
    // Once more, as after a crash, and through so many segments that heads alone tell of it.
    let log = open(dir.path(), options(16 << 10));
    assert_eq!(log.state(GroupId(0)), emptied);
    let (done, rx) = ticket();
    log.drop_group(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    append(&log, 1, entries(90..400, 1, 100)).unwrap();
    log.close();
    let log = open(dir.path(), options(16 << 10));
    assert_eq!(log.state(GroupId(0)), emptied);
    assert_eq!(held(&log, 1).entries.len(), 379);
    // It begins anew, from the first entry.
    append(&log, 0, entries(0..3, 7, 10)).unwrap();
    let (done, rx) = ticket();
    log.clear_quarantine(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    let before = all_held(&log, 2);
    assert!(!before[0].state.quarantined);
    log.close();
    let log = open(dir.path(), options(16 << 10));
    assert_eq!(all_held(&log, 2), before);
}

#[test]
fn a_full_log_takes_votes_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let full = || LogOptions {
        segments_max: Some(4),
        ..options(16 << 10)
    };
    let log = open(dir.path(), full());
    let mut next = 0;
    while append(&log, 0, entries(next..next + 1, 1, 1000)).is_ok() {
        next += 1;
        assert!(next < 100, "the log must get full");
    }
    assert!((20..60).contains(&next), "{next}");
    assert!(!log.has_room(1000));
    assert!(log.metrics().full && log.metrics().refused_full == 1);
    assert_eq!(
        log.state(GroupId(0)).last,
        Some((next - 1, 1)),
        "the refused entry left nothing behind"
    );
    for round in 0..50 {
        vote(&log, 0, &format!("vote {round}"));
    }
    truncate(&log, 0, Some(next - 3)).unwrap();
    let before = held(&log, 0);
    log.close();
    let log = open(dir.path(), full());
    assert_eq!(held(&log, 0), before);
    next -= 2;
    assert!(matches!(
        append(&log, 0, entries(next..next + 1, 1, 3000)),
        Err(LogError::Full)
    ));
    purge(&log, 0, next - 2);
    // The freed segments come back by way of another thread: until then, the answer is "full".
    let taken = (0..1_000_000).any(|_| {
        std::thread::yield_now();
        append(&log, 0, entries(next..next + 1, 1, 1000)).is_ok()
    });
    assert!(taken);
    check_whole(&held(&log, 0));
}

/// A disk that says how much is free as the test tells it.
struct Roomy(AtomicU64);

impl LogDisk for Roomy {
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.load(Ordering::Relaxed))
    }
}

/// Others fill the disk while the log has spare segments: it used to go on taking entries, until the archive had no room
/// for what was committed.
#[test]
fn entries_are_unwanted_while_less_than_the_reserve_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Roomy(AtomicU64::new(1 << 30)));
    let log = open(
        dir.path(),
        LogOptions {
            disk_free_bytes_min: 8 << 20,
            disk: disk.clone(),
            ..options(16 << 10)
        },
    );
    let has_room = |free: u64, expect: bool| {
        disk.0.store(free, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(20);
        while log.has_room(100) != expect {
            assert!(Instant::now() < deadline, "{free} bytes free: {expect}");
            std::thread::yield_now();
        }
    };
    has_room(1 << 30, true);
    append(&log, 0, entries(0..1, 1, 100)).unwrap();
    has_room((8 << 20) - 1, false);
    assert!(log.disk_is_low() && log.metrics().full);
    // What is under way comes to its end.
    append(&log, 0, entries(1..2, 1, 100)).unwrap();
    vote(&log, 0, "vote");
    // A little more than the reserve must be free, so that it doesn't go to and fro.
    disk.0.store(8 << 20, Ordering::Relaxed);
    has_room(9 << 20, true);
    assert!(!log.disk_is_low());
    append(&log, 0, entries(2..3, 1, 100)).unwrap();
}

#[test]
fn an_error_of_the_disk_is_never_acknowledged_nor_retried() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(CuttableDisk::default());
    let log = open(dir.path(), disk.options(16 << 10));
    append(&log, 0, entries(0..3, 1, 10)).unwrap();
    disk.fail_sync.store(true, Ordering::Relaxed);
    let (done, rx) = ticket();
    log.append(GroupId(0), entries(3..4, 1, 10), done);
    assert!(
        rx.recv().is_err(),
        "the callback is dropped with the writer"
    );
    disk.fail_sync.store(false, Ordering::Relaxed);
    let refused = append(
        &log,
        0,
        vec![LogEntry {
            index: 4,
            term: 1,
            payload: Bytes::new(),
        }],
    );
    assert!(matches!(refused, Err(LogError::Closed)));
}
