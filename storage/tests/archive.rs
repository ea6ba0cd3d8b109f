//! The archive against a model: a sorted list of rows.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use storage::archive::{
    Archive, ArchiveError, ArchiveOptions, ArchiveRow, KeyExtent, Order, Page, PartitionId,
    RowKind, Rows,
};

const ROOM: &str = "hall@rooms.example";
const JULIET: &str = "juliet@example";
const P: PartitionId = PartitionId(3);

fn archive() -> (Archive, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (
        Archive::open(dir.path(), &ArchiveOptions::default()).unwrap(),
        dir,
    )
}

/// A message, or an event at every fifth sequence; the time rises by one each second row.
fn row(key: &str, seq: u64) -> ArchiveRow {
    let kind = if seq.is_multiple_of(5) {
        RowKind::Event
    } else {
        RowKind::Message
    };
    let peer = (key == JULIET).then(|| {
        Arc::from(if seq.is_multiple_of(3) {
            "nurse@example"
        } else {
            "romeo@example"
        })
    });
    let record = Bytes::from(format!("record {seq} of {key}"));
    ArchiveRow {
        key: Arc::from(key),
        kind,
        seq,
        time: 1000 + seq / 2,
        peer,
        record,
    }
}

fn filled(key: &str, seqs: std::ops::RangeInclusive<u64>) -> (Archive, tempfile::TempDir) {
    let (archive, dir) = archive();
    archive
        .append(P, &seqs.map(|seq| row(key, seq)).collect::<Vec<_>>())
        .unwrap();
    (archive, dir)
}

fn page(after: Option<u64>, before: Option<u64>, order: Order, limit: usize) -> Page {
    Page {
        after,
        before,
        order,
        limit,
    }
}

fn seqs(rows: &[ArchiveRow]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

const ALL: Page = Page {
    after: None,
    before: None,
    order: Order::OldestFirst,
    limit: usize::MAX,
};

#[test]
fn pages() {
    use Order::{NewestFirst, OldestFirst};
    let (archive, _dir) = filled(ROOM, 1..=12);
    let check = |rows, page: Page, expect: &[u64]| {
        let found = archive.range(P, ROOM, rows, &page).unwrap();
        assert_eq!(seqs(&found), expect, "{rows:?} {page:?}");
        assert!(found.iter().all(|found| *found == row(ROOM, found.seq)));
    };
    check(Rows::All, page(None, None, OldestFirst, 4), &[1, 2, 3, 4]);
    check(
        Rows::All,
        page(None, None, NewestFirst, 4),
        &[12, 11, 10, 9],
    );
    check(
        Rows::Messages,
        page(None, None, NewestFirst, 4),
        &[12, 11, 9, 8],
    );
    check(
        Rows::Messages,
        page(Some(3), None, OldestFirst, 3),
        &[4, 6, 7],
    );
    check(
        Rows::Messages,
        page(None, Some(7), NewestFirst, 3),
        &[6, 4, 3],
    );
    check(Rows::Events, page(None, None, OldestFirst, 9), &[5, 10]);
    check(Rows::All, page(Some(4), Some(7), OldestFirst, 9), &[5, 6]);
    check(Rows::All, page(Some(4), Some(5), OldestFirst, 9), &[]);
    check(Rows::All, page(Some(12), None, OldestFirst, 9), &[]);
    check(Rows::All, page(Some(u64::MAX), None, OldestFirst, 9), &[]);
    check(Rows::All, page(None, Some(0), NewestFirst, 9), &[]);
    check(Rows::All, page(Some(9), Some(2), NewestFirst, 9), &[]);
    check(Rows::All, page(None, None, OldestFirst, 0), &[]);
}

#[test]
fn pages_with_a_peer() {
    let (archive, _dir) = filled(JULIET, 1..=12);
    let check = |peer, page: Page, expect: &[u64]| {
        assert_eq!(
            seqs(&archive.range_with(P, JULIET, peer, &page).unwrap()),
            expect,
            "{peer} {page:?}"
        );
    };
    check("nurse@example", ALL, &[3, 6, 9, 12]);
    check(
        "romeo@example",
        page(Some(2), None, Order::OldestFirst, 3),
        &[4, 5, 7],
    );
    check(
        "romeo@example",
        page(None, Some(11), Order::NewestFirst, 3),
        &[10, 8, 7],
    );
    check("romeo@exampl", ALL, &[]);
    archive.purge(P, JULIET, 9).unwrap();
    check("nurse@example", ALL, &[12]);
}

#[test]
fn keys_and_partitions_do_not_mix() {
    let (archive, _dir) = archive();
    let names = ["a@x", "a@xy", "a@x/y", "b@x", "\u{ff}@x"];
    for (number, name) in (1_u64..).zip(names) {
        archive
            .append(P, &[row(name, number), row(name, number + 100)])
            .unwrap();
        archive
            .append(PartitionId(u16::MAX), &[row(name, 7)])
            .unwrap();
    }
    for (number, name) in (1..).zip(names) {
        assert_eq!(
            seqs(&archive.range(P, name, Rows::All, &ALL).unwrap()),
            [number, number + 100]
        );
    }
    archive.drop_partition(P).unwrap();
    assert_eq!(archive.hash(P, None).unwrap().rows, 0);
    assert_eq!(archive.hash(PartitionId(u16::MAX), None).unwrap().rows, 5);
    archive.drop_partition(PartitionId(u16::MAX)).unwrap();
    assert_eq!(
        archive.view().keys(PartitionId(u16::MAX), None, 9).unwrap(),
        []
    );
}

#[test]
fn names_that_are_no_jid_are_refused_before_anything_is_written() {
    let (archive, _dir) = archive();
    for name in ["", "a\0b", &"x".repeat(2048)] {
        assert!(
            matches!(
                archive.append(P, &[row(ROOM, 1), row(name, 2)]),
                Err(ArchiveError::BadName)
            ),
            "{name:?}"
        );
        let peer = ArchiveRow {
            peer: Some(Arc::from(name)),
            ..row(ROOM, 1)
        };
        assert!(
            matches!(archive.append(P, &[peer]), Err(ArchiveError::BadName)),
            "{name:?}"
        );
        assert!(
            matches!(archive.count(P, name), Err(ArchiveError::BadName)),
            "{name:?}"
        );
    }
    assert_eq!(archive.hash(P, None).unwrap().rows, 0);
}

#[test]
fn times_are_found_by_bisection() {
    for step in [1, 7, 4096] {
        let (archive, _dir) = archive();
        let rows: Vec<_> = (0..40)
            .map(|number| row(ROOM, 5 * 4096 + number * step))
            .collect();
        archive.append(P, &rows).unwrap();
        for kinds in [Rows::Messages, Rows::Events, Rows::All] {
            let in_kind = |row: &&ArchiveRow| match kinds {
                Rows::All => true,
                Rows::Messages => row.kind == RowKind::Message,
                Rows::Events => row.kind == RowKind::Event,
            };
            for time in rows
                .iter()
                .flat_map(|row| [row.time - 1, row.time, row.time + 1])
                .chain([0, u64::MAX])
            {
                let expect = rows
                    .iter()
                    .filter(in_kind)
                    .find(|row| row.time >= time)
                    .map(|row| row.seq);
                assert_eq!(
                    archive.seq_at_or_after(P, ROOM, kinds, time).unwrap(),
                    expect,
                    "{kinds:?} {time} step {step}"
                );
            }
        }
        assert_eq!(
            archive.seq_at_or_after(P, JULIET, Rows::All, 0).unwrap(),
            None
        );
    }
}

#[test]
fn events_are_trimmed_up_to_a_row() {
    let (archive, _dir) = filled(ROOM, 1..=100);
    let events = |archive: &Archive| seqs(&archive.range(P, ROOM, Rows::Events, &ALL).unwrap());
    assert_eq!(archive.trim_events(P, ROOM, 4).unwrap(), 0);
    assert_eq!(archive.trim_events(P, ROOM, 85).unwrap(), 17);
    assert_eq!(events(&archive), [90, 95, 100]);
    assert_eq!(archive.trim_events(P, ROOM, 85).unwrap(), 0);
    assert_eq!(archive.trim_events(P, ROOM, 60).unwrap(), 0);
    // A replay writes old events again; the trim that follows in the log takes them away again.
    archive.append(P, &[row(ROOM, 5), row(ROOM, 95)]).unwrap();
    assert_eq!(archive.trim_events(P, ROOM, 90).unwrap(), 2);
    assert_eq!(events(&archive), [95, 100]);
    assert_eq!(archive.count(P, ROOM).unwrap(), 80);
}

#[test]
fn counts_are_kept_and_stay_right() {
    let (archive, _dir) = filled(ROOM, 1..=2000);
    let check = |expect| {
        assert_eq!(archive.count(P, ROOM).unwrap(), expect);
        assert_eq!(archive.count(P, ROOM).unwrap(), expect);
    };
    check(1600);
    // Replay over what was counted, and an edit, change nothing.
    archive
        .append(P, &(1..=2010).map(|seq| row(ROOM, seq)).collect::<Vec<_>>())
        .unwrap();
    check(1608);
    assert_eq!(archive.purge(P, ROOM, 1000).unwrap(), 1000);
    check(808);
    // A count that began before a removal is not kept after it.
    let before = archive.view();
    archive.purge(P, ROOM, 1500).unwrap();
    assert_eq!(before.count(P, ROOM).unwrap(), 808);
    check(408);
    archive.delete_key(P, ROOM).unwrap();
    check(0);
}

#[test]
fn a_view_stands_still() {
    let (archive, _dir) = filled(ROOM, 1..=10);
    let view = archive.view();
    let hash = view.hash(P, None).unwrap();
    archive.append(P, &[row(ROOM, 11)]).unwrap();
    archive.purge(P, ROOM, 5).unwrap();
    assert_eq!(view.hash(P, None).unwrap(), hash);
    assert_eq!(view.last_seq(P, ROOM, Rows::All).unwrap(), Some(10));
    assert_eq!(archive.first_seq(P, ROOM, Rows::All).unwrap(), Some(6));
}

#[test]
fn hashes_differ_when_rows_do() {
    let (one, _dir) = filled(ROOM, 1..=50);
    let (other, _dir) = filled(ROOM, 1..=40);
    assert_ne!(one.hash(P, None).unwrap(), other.hash(P, None).unwrap());
    assert_eq!(
        one.hash(P, Some(40)).unwrap(),
        other.hash(P, Some(40)).unwrap()
    );
    other
        .append(
            P,
            &(41..=50)
                .rev()
                .map(|seq| row(ROOM, seq))
                .collect::<Vec<_>>(),
        )
        .unwrap();
    assert_eq!(one.hash(P, None).unwrap(), other.hash(P, None).unwrap());
    let edited = ArchiveRow {
        record: Bytes::from_static(b"edited"),
        ..row(ROOM, 7)
    };
    other.append(P, &[edited]).unwrap();
    assert_ne!(one.hash(P, None).unwrap(), other.hash(P, None).unwrap());
}

#[test]
fn a_partition_is_copied_in_pieces() {
    let (from, _dir) = archive();
    for name in [ROOM, JULIET, "a@b"] {
        from.append(P, &(1..=30).map(|seq| row(name, seq)).collect::<Vec<_>>())
            .unwrap();
    }
    from.append(PartitionId(4), &[row(ROOM, 1)]).unwrap();
    for (limit, bytes_max) in [(7, usize::MAX), (1000, 100), (1000, 0)] {
        let (to, _dir) = archive();
        let (view, mut after) = (from.view(), None);
        loop {
            let rows = view.rows(P, after.as_ref(), limit, bytes_max).unwrap();
            let Some(last) = rows.last() else { break };
            assert!(rows.len() <= limit);
            after = Some(last.position());
            to.append(P, &rows).unwrap();
        }
        assert_eq!(to.hash(P, None).unwrap(), from.hash(P, None).unwrap());
        assert_eq!(
            seqs(&to.range_with(P, JULIET, "nurse@example", &ALL).unwrap()).len(),
            10
        );
    }
    let extent = |key: &str| KeyExtent {
        key: Arc::from(key),
        messages: Some((1, 29)),
        events: Some((5, 30)),
    };
    assert_eq!(
        from.view().keys(P, None, 2).unwrap(),
        [extent("a@b"), extent(ROOM)]
    );
    assert_eq!(
        from.view().keys(P, Some(ROOM), 2).unwrap(),
        [extent(JULIET)]
    );
}

#[test]
fn rows_survive_an_opening_and_another_user_is_refused() {
    let (archive, dir) = filled(ROOM, 1..=10);
    archive.sync().unwrap();
    assert!(matches!(
        Archive::open(dir.path(), &ArchiveOptions::default()),
        Err(ArchiveError::Locked)
    ));
    drop(archive);
    let archive = Archive::open(dir.path(), &ArchiveOptions::default()).unwrap();
    assert_eq!(
        seqs(&archive.range(P, ROOM, Rows::All, &ALL).unwrap()).len(),
        10
    );
}

#[derive(Debug, Clone)]
enum Step {
    Append { key: usize, rows: u64 },
    AppendAgain { key: usize, from: u64 },
    Purge { key: usize, upto: u64 },
    Trim { key: usize, upto: u64 },
    Delete { key: usize },
    Page { key: usize, page: Page },
}

fn step() -> impl Strategy<Value = Step> {
    let bound = || proptest::option::of(0..80_u64);
    let page =
        (bound(), bound(), any::<bool>(), 0..9_usize).prop_map(|(after, before, newest, limit)| {
            page(
                after,
                before,
                if newest {
                    Order::NewestFirst
                } else {
                    Order::OldestFirst
                },
                limit,
            )
        });
    let key = 0..2_usize;
    prop_oneof![
        4 => (key.clone(), 1..20_u64).prop_map(|(key, rows)| Step::Append { key, rows }),
        1 => (key.clone(), 0..40_u64).prop_map(|(key, from)| Step::AppendAgain { key, from }),
        1 => (key.clone(), 0..60_u64).prop_map(|(key, upto)| Step::Purge { key, upto }),
        1 => (key.clone(), 0..60_u64).prop_map(|(key, upto)| Step::Trim { key, upto }),
        1 => key.clone().prop_map(|key| Step::Delete { key }),
        6 => (key, page).prop_map(|(key, page)| Step::Page { key, page }),
    ]
}

type Model = BTreeMap<u64, ArchiveRow>;

fn model_page<'a>(
    model: &'a Model,
    page: &Page,
    keep: impl Fn(&ArchiveRow) -> bool + 'a,
) -> Vec<ArchiveRow> {
    let inside = |row: &&ArchiveRow| {
        page.after.is_none_or(|after| row.seq > after)
            && page.before.is_none_or(|before| row.seq < before)
            && keep(row)
    };
    let rows = model.values().filter(inside).cloned();
    match page.order {
        Order::OldestFirst => rows.take(page.limit).collect(),
        Order::NewestFirst => rows.rev().take(page.limit).collect(),
    }
}

fn run_step(archive: &Archive, models: &mut [Model; 2], next: &mut [u64; 2], step: &Step) {
    let keys = [ROOM, JULIET];
    match *step {
        Step::Append { key, rows } => {
            let rows: Vec<_> = (next[key]..next[key] + rows)
                .map(|seq| row(keys[key], seq))
                .collect();
            next[key] += rows.len() as u64;
            archive.append(P, &rows).unwrap();
            models[key].extend(rows.into_iter().map(|row| (row.seq, row)));
        }
        Step::AppendAgain { key, from } => {
            let rows: Vec<_> = (from.max(1)..next[key])
                .map(|seq| row(keys[key], seq))
                .collect();
            archive.append(P, &rows).unwrap();
            models[key].extend(rows.into_iter().map(|row| (row.seq, row)));
        }
        Step::Purge { key, upto } => {
            archive.purge(P, keys[key], upto).unwrap();
            models[key].retain(|seq, _| *seq > upto);
        }
        Step::Trim { key, upto } => {
            archive.trim_events(P, keys[key], upto).unwrap();
            models[key].retain(|seq, row| row.kind == RowKind::Message || *seq > upto);
        }
        Step::Delete { key } => {
            archive.delete_key(P, keys[key]).unwrap();
            models[key].clear();
        }
        Step::Page { key, page } => {
            for (rows, kind) in [
                (Rows::All, None),
                (Rows::Messages, Some(RowKind::Message)),
                (Rows::Events, Some(RowKind::Event)),
            ] {
                let expect = model_page(&models[key], &page, |row| {
                    kind.is_none_or(|kind| row.kind == kind)
                });
                assert_eq!(archive.range(P, keys[key], rows, &page).unwrap(), expect);
            }
            let expect = model_page(&models[key], &page, |row| {
                row.peer.as_deref() == Some("nurse@example")
            });
            assert_eq!(
                archive
                    .range_with(P, keys[key], "nurse@example", &page)
                    .unwrap(),
                expect
            );
        }
    }
    for (key, model) in keys.iter().zip(models) {
        let messages = model
            .values()
            .filter(|row| row.kind == RowKind::Message)
            .count();
        assert_eq!(archive.count(P, key).unwrap(), messages as u64);
        assert_eq!(
            archive.last_seq(P, key, Rows::All).unwrap(),
            model.keys().next_back().copied()
        );
        assert_eq!(
            archive.first_seq(P, key, Rows::All).unwrap(),
            model.keys().next().copied()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_archive_behaves_like_a_sorted_list(steps in proptest::collection::vec(step(), 1..40)) {
        let (archive, _dir) = archive();
        let (mut models, mut next) = (<[Model; 2]>::default(), [1, 1]);
        for step in &steps {
            run_step(&archive, &mut models, &mut next, step);
        }
    }
}
