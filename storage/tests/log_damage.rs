//! What a start makes of a log that was hurt: every byte flipped, files cut short, sectors taken back by a power cut.
//!
//! The one rule: what was acknowledged is there exactly, or its group is quarantined.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy.toml's exception doesn't reach"
)]

mod log_support;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use log_support::*;
use proptest::prelude::*;
use storage::log::{GroupId, Log, LogOptions, Recovered};

const SEGMENT: u64 = 8 << 10;
const GROUPS: u32 = 3;

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "segment")
    });
    paths.sort();
    paths
}

/// Several groups over several segments, with every kind of record, as a crash of the process leaves it.
fn sample(dir: &Path) -> Vec<Held> {
    let log = open(dir, options(SEGMENT));
    append(&log, 0, entries(0..6, 1, 40)).unwrap();
    append(&log, 1, entries(0..30, 1, 150)).unwrap();
    vote(&log, 0, "vote of 0");
    vote(&log, 1, "vote of 1");
    truncate(&log, 1, Some(25)).unwrap();
    append(&log, 1, entries(26..40, 2, 100)).unwrap();
    log.save_committed(GroupId(0), Bytes::from_static(b"committed 3"));
    append(&log, 2, entries(0..20, 1, 200)).unwrap();
    purge(&log, 2, 12);
    vote(&log, 2, "vote of 2");
    append(&log, 0, entries(6..9, 3, 30)).unwrap();
    append(&log, 1, entries(40..42, 3, 30)).unwrap();
    let held = all_held(&log, GROUPS);
    settle(&log, dir);
    // The files as they are now; what closing writes is not part of it.
    copy_dir(dir, &dir.join("crashed"));
    held
}

/// Damage takes the record that a group is in quarantine, and leaves the one that it was dropped: it is in quarantine all the same,
/// with its vote.
#[test]
fn a_dropped_group_whose_quarantine_is_lost_is_in_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), options(64 << 10));
    vote(&log, 0, "given");
    append(&log, 0, entries(0..6, 1, 40)).unwrap();
    settle(&log, dir.path());
    let before = std::fs::read(&segments(dir.path())[0]).unwrap();
    let (done, rx) = ticket();
    log.quarantine(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    let (done, rx) = ticket();
    log.drop_group(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    settle(&log, dir.path());
    let crashed = dir.path().join("crashed");
    copy_dir(dir.path(), &crashed);
    let paths = segments(&crashed);
    let [path] = &paths[..] else {
        panic!("one segment: {paths:?}")
    };
    let mut bytes = std::fs::read(path).unwrap();
    let mut hurt = 0;
    // What was written since.
    let written = |at: &usize| before.get(*at) != bytes.get(*at);
    let first = (0..bytes.len()).find(written).unwrap();
    let last = (0..bytes.len()).rfind(written).unwrap();
    for at in first..=last {
        let whole = bytes[at];
        bytes[at] ^= 1;
        std::fs::write(path, &bytes).unwrap();
        bytes[at] = whole;
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&crashed, copy.path());
        let (log, recovered) = Log::open(copy.path(), options(64 << 10)).unwrap();
        let found = log.state(GroupId(0));
        assert!(found.quarantined, "byte {at}: {found:?}");
        assert_eq!(found.vote.as_deref(), Some(&b"given"[..]), "byte {at}");
        hurt += usize::from(!recovered.damage.is_empty());
    }
    assert!(hurt > 0, "some flips are damage");
}

/// Opens a hurt log twice and checks the rule; returns what the first start said.
#[track_caller]
fn check_rule(dir: &Path, acked: &[Held], what: &str) -> Recovered {
    let (log, recovered) =
        Log::open(dir, options(SEGMENT)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = all_held(&log, GROUPS);
    for (group, (found, acked)) in found.iter().zip(acked).enumerate() {
        check_whole(found);
        if !found.state.quarantined {
            assert_eq!(found, acked, "{what}: group {group}");
        }
    }
    log.close();
    let (log, again) =
        Log::open(dir, options(SEGMENT)).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(again.damage, [], "{what}: the log was rewritten");
    assert_eq!(
        all_held(&log, GROUPS),
        found,
        "{what}: the second start finds what the first found"
    );
    for group in 0..GROUPS {
        let next = found[group as usize]
            .entries
            .last()
            .map_or(found[group as usize].state.first_index, |last| {
                last.index + 1
            });
        append(&log, group, entries(next..next + 1, 9, 10))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    recovered
}

/// Tries every change that `changes` lists of every segment, on copies.
fn each(
    changes: impl Fn(&[u8]) -> Vec<(String, Vec<u8>)>,
    check: impl Fn(&Path, &[Held], &str) -> Recovered,
) -> usize {
    let dir = memory_dir();
    let acked = sample(dir.path());
    let sound = dir.path().join("crashed");
    let mut quarantined = 0;
    for path in segments(&sound) {
        let bytes = std::fs::read(&path).unwrap();
        for (what, changed) in changes(&bytes) {
            let hurt = memory_dir();
            copy_dir(&sound, hurt.path());
            std::fs::write(hurt.path().join(path.file_name().unwrap()), changed).unwrap();
            let what = format!("{:?}: {what}", path.file_name().unwrap());
            quarantined += usize::from(!check(hurt.path(), &acked, &what).quarantined.is_empty());
        }
    }
    quarantined
}

/// Where in a segment the last byte is that is not zero.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

#[test]
fn a_sound_log_is_recovered_exactly() {
    let dir = memory_dir();
    let acked = sample(dir.path());
    let recovered = check_rule(&dir.path().join("crashed"), &acked, "sound");
    assert_eq!(
        (
            recovered.damage,
            recovered.quarantined,
            recovered.frames_dropped
        ),
        (vec![], vec![], 0)
    );
    assert!(segments(&dir.path().join("crashed")).len() >= 2);
}

/// Every byte of every segment, with another bit each.
#[test]
fn a_flipped_bit_is_never_silent() {
    let flips = |bytes: &[u8]| {
        let flip = |at: usize| {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << (at % 8);
            (format!("bit flipped in byte {at}"), changed)
        };
        (0..(used(bytes) + 64).min(bytes.len())).map(flip).collect()
    };
    let quarantined = each(flips, check_rule);
    assert!(quarantined > 1000, "{quarantined} flips were noticed");
}

#[test]
fn a_flip_quarantines_only_its_own_group_where_others_can_be_cleared() {
    let dir = memory_dir();
    let log = open(dir.path(), options(SEGMENT));
    for index in 0..3 {
        (0..GROUPS)
            .for_each(|group| append(&log, group, entries(index..index + 1, 1, 64)).unwrap());
    }
    let acked = all_held(&log, GROUPS);
    log.close();
    let path = &segments(dir.path())[0];
    let mut bytes = std::fs::read(path).unwrap();
    let needle = entry(1, 1, 64).payload;
    let at = bytes
        .windows(64)
        .position(|window| window == needle)
        .unwrap();
    bytes[at + 20] ^= 4;
    std::fs::write(path, bytes).unwrap();
    let recovered = check_rule(dir.path(), &acked, "group 0, entry 1");
    assert_eq!(recovered.quarantined, [GroupId(0)]);
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(recovered.damage[0].frames, 1);
    let (log, again) = Log::open(dir.path(), options(SEGMENT)).unwrap();
    assert_eq!(
        again.quarantined,
        [GroupId(0)],
        "a quarantine outlives restarts"
    );
    let (done, rx) = ticket();
    log.clear_quarantine(GroupId(0), done);
    rx.recv().unwrap().unwrap();
    log.close();
    let (log, again) = Log::open(dir.path(), options(SEGMENT)).unwrap();
    assert_eq!(again.quarantined, []);
    assert!(!log.state(GroupId(0)).quarantined);
}

#[test]
fn a_file_cut_short_is_never_silent() {
    let cuts = |bytes: &[u8]| {
        let cut = |length: usize| (format!("cut to {length} bytes"), bytes[..length].to_vec());
        (0..bytes.len()).map(cut).collect()
    };
    assert!(each(cuts, check_rule) > 1000);
}

#[test]
fn a_missing_segment_is_never_silent() {
    let dir = memory_dir();
    let acked = sample(dir.path());
    let sound = dir.path().join("crashed");
    for path in segments(&sound) {
        let hurt = memory_dir();
        copy_dir(&sound, hurt.path());
        std::fs::remove_file(hurt.path().join(path.file_name().unwrap())).unwrap();
        let recovered = check_rule(hurt.path(), &acked, &format!("{path:?} removed"));
        assert!(!recovered.quarantined.is_empty());
    }
}

/// A long range of bytes gone, and what follows still there.
#[test]
fn a_lost_range_is_never_silent() {
    let holes = |bytes: &[u8]| {
        let hole = |at: usize| {
            let mut changed = bytes.to_vec();
            let end = (at + 700).min(bytes.len());
            changed[at..end].fill(0);
            (format!("bytes {at}..{end} zeroed"), changed)
        };
        // Zeroing the tail to its end leaves no evidence: that is a disk that lies about its syncs.
        let end = used(bytes).saturating_sub(760);
        (0..end).step_by(61).map(hole).collect()
    };
    assert!(each(holes, check_rule) > 50);
}

/// The last write torn after each of its bytes: what was acknowledged before stays, nobody is quarantined.
#[test]
fn a_torn_last_write_is_dropped() {
    let dir = memory_dir();
    let log = open(dir.path(), options(SEGMENT));
    append(&log, 0, entries(0..4, 1, 40)).unwrap();
    append(&log, 1, entries(0..4, 1, 40)).unwrap();
    append(&log, 2, entries(0..4, 1, 40)).unwrap();
    let acked = all_held(&log, GROUPS);
    let before = std::fs::read(&segments(dir.path())[0]).unwrap();
    append(&log, 1, entries(4..9, 1, 50)).unwrap();
    settle(&log, dir.path());
    let crashed = memory_dir();
    copy_dir(dir.path(), crashed.path());
    let path = &segments(crashed.path())[0];
    let after = std::fs::read(path).unwrap();
    // The mark behind the write says that it was synced, so it doesn't count as torn with it.
    let (start, end) = (used(&before), used(&after) - 40);
    for torn in start..end {
        let hurt = memory_dir();
        copy_dir(crashed.path(), hurt.path());
        let file = File::options()
            .write(true)
            .open(hurt.path().join(path.file_name().unwrap()))
            .unwrap();
        file.write_all_at(&before[torn..], torn as u64).unwrap();
        let (log, recovered) = Log::open(hurt.path(), options(SEGMENT)).unwrap();
        assert_eq!(
            (recovered.damage, recovered.quarantined),
            (vec![], vec![]),
            "torn at {torn}"
        );
        for group in [0, 2] {
            assert_eq!(held(&log, group), acked[group as usize], "torn at {torn}");
        }
        let found = held(&log, 1);
        check_whole(&found);
        assert_eq!(
            found.entries,
            entries(0..found.entries.len() as u64, 1, 50)
                .into_iter()
                .enumerate()
                .map(|(at, entry)| {
                    if at < 4 {
                        acked[1].entries[at].clone()
                    } else {
                        entry
                    }
                })
                .collect::<Vec<_>>()
        );
        assert!(found.entries.len() >= 4);
    }
}

#[test]
fn a_middle_sector_missing_from_the_last_write_is_a_torn_write() {
    let dir = memory_dir();
    let disk = Arc::new(CuttableDisk::default());
    let log = open(dir.path(), disk.options(SEGMENT));
    append(&log, 0, entries(0..2, 1, 10)).unwrap();
    let acked = held(&log, 0);
    disk.fail_sync.store(true, Ordering::Relaxed);
    let (done, rx) = ticket();
    log.append(GroupId(0), entries(2..30, 1, 100), done);
    assert!(rx.recv().is_err());
    for missing in 0..6 {
        let hurt = memory_dir();
        let mut sector = 0;
        disk.cut(dir.path(), hurt.path(), || {
            sector += 1;
            sector - 1 != missing
        });
        let (log, recovered) = Log::open(hurt.path(), options(SEGMENT)).unwrap();
        assert_eq!(
            (recovered.damage, recovered.quarantined),
            (vec![], vec![]),
            "sector {missing}"
        );
        let found = held(&log, 0);
        check_whole(&found);
        assert_eq!(found.entries[..2], acked.entries);
        // What was dropped must not come back behind what is written now.
        let next = found.entries.len() as u64;
        append(&log, 0, entries(next..next + 1, 2, 100)).unwrap();
        let before = held(&log, 0);
        log.close();
        let (log, recovered) = Log::open(hurt.path(), options(SEGMENT)).unwrap();
        assert_eq!((recovered.damage, recovered.frames_dropped), (vec![], 0));
        assert_eq!(held(&log, 0), before);
    }
}

#[test]
fn an_interrupted_rewriting_is_finished_or_taken_back() {
    let dir = memory_dir();
    let acked = sample(dir.path());
    let hurt = dir.path().join("crashed");
    let path = &segments(&hurt)[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[1500] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let old: BTreeSet<_> = segments(&hurt).into_iter().collect();
    let copy = memory_dir();
    copy_dir(&hurt, copy.path());
    let (log, recovered) = Log::open(copy.path(), options(SEGMENT)).unwrap();
    assert!(!recovered.damage.is_empty());
    settle(&log, copy.path());
    log.close();
    let new: Vec<_> = segments(copy.path());
    assert!(
        new.iter()
            .all(|path| !old.contains(&hurt.join(path.file_name().unwrap())))
    );
    for kept in 0..new.len() {
        for length in [0, 900, 1500, 3000, SEGMENT as usize] {
            let mixed = memory_dir();
            copy_dir(&hurt, mixed.path());
            for (at, path) in new.iter().enumerate().take(kept + 1) {
                let mut bytes = std::fs::read(path).unwrap();
                if at == kept {
                    // The header was on disk before the file had its name.
                    bytes[length.max(1024).min(SEGMENT as usize)..].fill(0);
                }
                std::fs::write(mixed.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            check_rule(
                mixed.path(),
                &acked,
                &format!("{kept} segments and {length} bytes of the new log"),
            );
        }
    }
}

/// What may happen to a log.
#[derive(Debug, Clone)]
enum Step {
    Append {
        group: u32,
        count: u64,
        bytes: usize,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    Purge {
        group: u32,
        ahead: u64,
    },
    Vote {
        group: u32,
        vote: u8,
    },
    Commit {
        group: u32,
        committed: u8,
    },
    Reopen,
    Crash,
    /// In the middle of a write: each of its sectors is on disk or not.
    PowerCut {
        group: u32,
        count: u64,
        bytes: usize,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
            8 => (group.clone(), 1u64..8, 0usize..300).prop_map(|(group, count, bytes)| Step::Append { group, count, bytes }),
            2 => (group.clone(), 0u64..6).prop_map(|(group, back)| Step::Truncate { group, back }),
            2 => (group.clone(), 0u64..12).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
            2 => (group.clone(), any::<u8>()).prop_map(|(group, vote)| Step::Vote { group, vote }),
            1 => (group, any::<u8>()).prop_map(|(group, committed)| Step::Commit { group, committed }),
            1 => Just(Step::Reopen),
            1 => Just(Step::Crash),
    1 => (0..GROUPS, 1u64..30, 0usize..300, any::<u64>())
                .prop_map(|(group, count, bytes, seed)| Step::PowerCut { group, count, bytes, seed }),
        ]
}

/// A log under test, and what it must hold.
struct Run {
    dir: tempfile::TempDir,
    disk: Arc<CuttableDisk>,
    log: Option<Log>,
    model: Vec<Held>,
    term: u64,
}

impl Run {
    fn new() -> Self {
        let dir = memory_dir();
        let disk = Arc::new(CuttableDisk::default());
        let log = open(dir.path(), Self::options(&disk));
        let model = all_held(&log, GROUPS);
        Self {
            dir,
            disk,
            log: Some(log),
            model,
            term: 0,
        }
    }

    fn options(disk: &Arc<CuttableDisk>) -> LogOptions {
        LogOptions {
            cache_bytes_max: 500,
            batch_bytes_max: 2000,
            ..disk.options(SEGMENT)
        }
    }

    fn step(&mut self, step: &Step) {
        self.term += 1;
        let log = self.log.clone().unwrap();
        match *step {
            Step::Append {
                group,
                count,
                bytes,
            } => {
                let held = &mut self.model[group as usize];
                let next = held
                    .state
                    .last
                    .map_or(held.state.first_index, |(last, _)| last + 1);
                let new = entries(next..next + count, self.term, bytes);
                held.entries.extend(new.clone());
                held.state.last = Some((next + count - 1, self.term));
                append(&log, group, new).unwrap();
            }
            Step::Truncate { group, back } => {
                let held = &mut self.model[group as usize];
                let keep = held.entries.len().saturating_sub(back as usize);
                held.entries.truncate(keep);
                held.state.last = held.entries.last().map(|entry| (entry.index, entry.term));
                let after = (held.state.first_index + keep as u64).checked_sub(1);
                truncate(&log, group, after).unwrap();
            }
            Step::Purge { group, ahead } => {
                let held = &mut self.model[group as usize];
                let upto = held.state.first_index + ahead;
                held.entries.retain(|entry| entry.index > upto);
                held.state.first_index = upto + 1;
                held.state.last = held.entries.last().map(|entry| (entry.index, entry.term));
                held.state.purged = Some(Bytes::from(format!("purged {upto}")));
                purge(&log, group, upto);
            }
            Step::Vote { group, vote: by } => {
                self.model[group as usize].state.vote = Some(Bytes::from(format!("vote {by}")));
                vote(&log, group, &format!("vote {by}"));
            }
            Step::Commit { group, committed } => {
                if log.groups().contains(&GroupId(group)) {
                    self.model[group as usize].state.committed =
                        Some(Bytes::from(vec![committed; 9]));
                    log.save_committed(GroupId(group), Bytes::from(vec![committed; 9]));
                }
            }
            Step::Reopen => {
                drop(log);
                self.log.take().unwrap().close();
                self.log = Some(open(self.dir.path(), Self::options(&self.disk)));
            }
            Step::Crash => {
                settle(&log, self.dir.path());
                drop(log);
                self.crash(|disk, from, to| disk.cut(from, to, || true));
            }
            Step::PowerCut {
                group,
                count,
                bytes,
                seed,
            } => {
                drop(log);
                self.power_cut(group, count, bytes, seed);
            }
        }
        self.check();
    }

    /// The power goes while an append is being written: a beginning of it may be there, nothing else may have changed.
    fn power_cut(&mut self, group: u32, count: u64, bytes: usize, mut seed: u64) {
        let log = self.log.clone().unwrap();
        settle(&log, self.dir.path());
        let held = &self.model[group as usize];
        let next = held
            .state
            .last
            .map_or(held.state.first_index, |(last, _)| last + 1);
        let lost = entries(next..next + count, self.term, bytes);
        self.disk.fail_sync.store(true, Ordering::Relaxed);
        let (done, rx) = ticket();
        log.append(GroupId(group), lost.clone(), done);
        assert!(
            !matches!(rx.recv(), Ok(Ok(()))),
            "what is not synced is not acknowledged"
        );
        drop(log);
        self.crash(|disk, from, to| {
            disk.cut(from, to, || {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                seed >> 63 == 0
            });
        });
        let held = &mut self.model[group as usize];
        let found = self
            .log
            .as_ref()
            .unwrap()
            .state(GroupId(group))
            .last
            .map_or(0, |(last, _)| last + 1);
        let kept = usize::try_from(found.saturating_sub(next)).unwrap();
        held.entries.extend_from_slice(&lost[..kept]);
        held.state.last = held.entries.last().map(|entry| (entry.index, entry.term));
    }

    /// Goes on with the files as they are at this moment.
    fn crash(&mut self, copy: impl FnOnce(&CuttableDisk, &Path, &Path)) {
        let dir = memory_dir();
        copy(&self.disk, self.dir.path(), dir.path());
        self.log.take().unwrap().close();
        self.disk = Arc::new(CuttableDisk::default());
        let (log, recovered) = Log::open(dir.path(), Self::options(&self.disk)).unwrap();
        assert_eq!((recovered.damage, recovered.quarantined), (vec![], vec![]));
        self.log = Some(log);
        self.dir = dir;
        for (group, held) in self.model.iter_mut().enumerate() {
            // A commit point is written with what comes next, so a crash may take it back to an earlier one.
            held.state.committed = self
                .log
                .as_ref()
                .unwrap()
                .state(GroupId(group as u32))
                .committed;
        }
    }

    fn check(&self) {
        let found = all_held(self.log.as_ref().unwrap(), GROUPS);
        assert_eq!(found, self.model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_with_restarts_and_power_cuts_is_kept(steps in proptest::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
    }

    #[test]
    fn any_damage_to_several_places_is_never_silent(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..), 1..6),
    ) {
        let dir = memory_dir();
        let acked = sample(dir.path());
        let hurt = dir.path().join("crashed");
        let paths = segments(&hurt);
        for (path, at, mask) in &places {
            let path = path.get(&paths);
            let mut bytes = std::fs::read(path).unwrap();
            let end = used(&bytes).saturating_sub(200).max(1);
            bytes[at.index(end)] ^= mask;
            std::fs::write(path, bytes).unwrap();
        }
        check_rule(&hurt, &acked, &format!("{places:?}"));
    }
}
