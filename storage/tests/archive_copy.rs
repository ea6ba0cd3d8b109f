//! Copies of archives: cut short, gone on with, from several senders, over removals; and damaged lists.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use storage::archive::{
    Archive, ArchiveOptions, ArchiveRow, KeyExtent, KeyList, KeyListError, KeyListWriter, Order,
    Page, PartitionId, RowKind, Rows, remove_key_list,
};

const P: PartitionId = PartitionId(3);

struct Place {
    archive: Archive,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let archive =
            Archive::open(&dir.path().join("archive"), &ArchiveOptions::default()).unwrap();
        Place { archive, dir }
    }

    fn put(&self, key: &str, kind: RowKind, seqs: impl IntoIterator<Item = u64>) {
        let rows: Vec<ArchiveRow> = seqs.into_iter().map(|seq| row(key, kind, seq)).collect();
        self.archive.append(P, &rows).unwrap();
    }

    fn list(&self, applied: u64) -> PathBuf {
        let path = self.dir.path().join("list.keys");
        let mut list = KeyListWriter::create(&path, P, applied).unwrap();
        for extent in self.archive.view().keys(P, None, usize::MAX).unwrap() {
            list.push(extent).unwrap();
        }
        list.finish().unwrap();
        path
    }

    /// Asks `from` for what is missing, in pages of `page` rows; `false` when cut off after so many pages.
    fn fetch(&self, from: &Place, page: usize, pages_max: usize) -> bool {
        let mut pages = 0;
        for listed in KeyList::open(&from.list(9), P).unwrap() {
            for mut missing in self.archive.view().missing(P, &listed.unwrap()).unwrap() {
                loop {
                    if pages == pages_max {
                        return false;
                    }
                    pages += 1;
                    let rows = match missing.kind {
                        RowKind::Message => Rows::Messages,
                        RowKind::Event => Rows::Events,
                    };
                    let page = missing.page(page);
                    let rows = from.archive.range(P, &missing.key, rows, &page).unwrap();
                    let Some(last) = rows.last() else { break };
                    assert!(rows.iter().all(|row| missing.holds(row.seq)));
                    missing.go_on_behind(last.seq);
                    self.archive.append(P, &rows).unwrap();
                }
            }
        }
        true
    }

    fn keep_listed(&self, from: &Place) -> u64 {
        let list = KeyList::open(&from.list(9), P).unwrap();
        assert_eq!(list.applied(), 9);
        self.archive.keep_listed(P, list).unwrap()
    }

    fn same_as(&self, other: &Place) {
        assert_eq!(
            self.archive.hash(P, None).unwrap(),
            other.archive.hash(P, None).unwrap()
        );
        for extent in other.archive.view().keys(P, None, usize::MAX).unwrap() {
            let count = |place: &Place| place.archive.count(P, &extent.key).unwrap();
            assert_eq!(count(self), count(other), "{}", extent.key);
            let page = Page {
                after: None,
                before: None,
                order: Order::OldestFirst,
                limit: usize::MAX,
            };
            let with = |place: &Place| {
                place
                    .archive
                    .range_with(P, &extent.key, "peer@localhost", &page)
                    .unwrap()
                    .len()
            };
            assert_eq!(with(self), with(other), "{}", extent.key);
        }
    }
}

fn row(key: &str, kind: RowKind, seq: u64) -> ArchiveRow {
    ArchiveRow {
        key: Arc::from(key),
        kind,
        seq,
        time: seq,
        peer: seq.is_multiple_of(2).then(|| Arc::from("peer@localhost")),
        record: Bytes::from(format!("{key} {seq}")),
    }
}

const EVEN: [u64; 4] = [2, 4, 6, 8];
const ODD: [u64; 4] = [1, 3, 5, 7];

#[test]
fn an_empty_replica_gets_everything_however_often_it_is_cut_off() {
    let (from, to) = (Place::new(), Place::new());
    for key in ["a@x", "b@x", "room@x"] {
        from.put(key, RowKind::Message, EVEN);
        from.put(key, RowKind::Event, ODD);
    }
    from.archive
        .append(PartitionId(4), &[row("a@x", RowKind::Message, 1)])
        .unwrap();
    to.archive
        .append(PartitionId(2), &[row("a@x", RowKind::Message, 1)])
        .unwrap();
    let mut tries = 0;
    while !to.fetch(&from, 2, 3) {
        tries += 1;
    }
    assert!(tries > 2);
    assert_eq!(to.keep_listed(&from), 0);
    to.same_as(&from);
    let others = |place: &Place, partition| {
        place
            .archive
            .hash(PartitionId(partition), None)
            .unwrap()
            .rows
    };
    assert_eq!(
        (others(&to, 4), others(&to, 2)),
        (0, 1),
        "other partitions are let alone"
    );
}

/// What an old replica has stays, what was removed goes, and only the rest is asked for.
#[test]
fn an_old_replica_gets_the_difference() {
    let (from, to) = (Place::new(), Place::new());
    for place in [&from, &to] {
        for key in ["a@x", "gone@x", "made-again@x", "room@x", "z@x"] {
            place.put(key, RowKind::Message, EVEN);
            place.put(key, RowKind::Event, ODD);
        }
    }
    from.archive.purge(P, "a@x", 4).unwrap();
    from.archive.delete_key(P, "gone@x").unwrap();
    from.archive.delete_key(P, "made-again@x").unwrap();
    from.put("made-again@x", RowKind::Message, [4097, 4098]);
    from.archive.trim_events(P, "room@x", 8).unwrap();
    from.put("room@x", RowKind::Message, 10..500);
    from.put("new@x", RowKind::Event, [3, 4]);
    from.archive.delete_key(P, "z@x").unwrap();
    assert!(to.fetch(&from, 100, usize::MAX));
    let asked: BTreeSet<Arc<str>> = KeyList::open(&from.list(9), P)
        .unwrap()
        .flat_map(|listed| to.archive.view().missing(P, &listed.unwrap()).unwrap())
        .map(|missing| missing.key)
        .collect();
    assert_eq!(asked, BTreeSet::new(), "nothing is asked for twice");
    assert_eq!(to.keep_listed(&from), 4 + 8 + 8 + 4 + 8);
    to.same_as(&from);
    assert_eq!(to.keep_listed(&from), 0);
}

/// A replica that lost the beginning of its rows gets them from behind, so that there is never a hole.
#[test]
fn a_lost_beginning_comes_back() {
    let (from, to) = (Place::new(), Place::new());
    from.put("a@x", RowKind::Message, 1..40);
    to.put("a@x", RowKind::Message, 20..30);
    assert!(!to.fetch(&from, 3, 2));
    let extent = to.archive.view().extent(P, "a@x").unwrap();
    assert_eq!(extent.messages, Some((14, 29)));
    assert_eq!(to.archive.count(P, "a@x").unwrap(), 16);
    while !to.fetch(&from, 3, 4) {}
    to.same_as(&from);
}

/// Cut off between two senders, of which the second is behind the first; then the log brings both to the same end.
#[test]
fn a_second_sender_may_be_behind_the_first() {
    let (ahead, behind, to) = (Place::new(), Place::new(), Place::new());
    for place in [&ahead, &behind, &to] {
        place.put("a@x", RowKind::Message, 1..10);
        place.put("room@x", RowKind::Message, 1..10);
    }
    let log = |place: &Place| {
        place.archive.purge(P, "room@x", 9).unwrap();
        place.put("room@x", RowKind::Message, 4097..4100);
        place.put("a@x", RowKind::Message, 10..20);
    };
    behind.put("room@x", RowKind::Message, [10]);
    ahead.put("room@x", RowKind::Message, [10]);
    ahead.archive.purge(P, "room@x", 10).unwrap();
    log(&ahead);
    assert!(to.fetch(&ahead, 2, usize::MAX));
    assert!(to.fetch(&behind, 2, usize::MAX));
    to.keep_listed(&behind);
    for place in [&to, &behind] {
        place.archive.purge(P, "room@x", 10).unwrap();
        log(place);
    }
    to.same_as(&ahead);
    to.same_as(&behind);
}

#[test]
fn a_damaged_list_is_no_list() {
    let place = Place::new();
    for number in 0..3000 {
        place.put(&format!("user-{number:04}@x"), RowKind::Message, [number]);
    }
    let path = place.list(7);
    let whole = fs::read(&path).unwrap();
    let keys = |bytes: &[u8]| -> Result<usize, KeyListError> {
        fs::write(&path, bytes).unwrap();
        let keys: Result<Vec<_>, _> = KeyList::open(&path, P)?.collect();
        Ok(keys?.len())
    };
    assert_eq!(keys(&whole).unwrap(), 3000);
    for end in [0, 3, 4, 20, whole.len() / 2, whole.len() - 1] {
        assert!(keys(&whole[..end]).is_err(), "cut to {end}");
    }
    for at in (0..whole.len()).step_by(997) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        assert!(keys(&flipped).is_err(), "flipped at {at}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(KeyList::open(&path, PartitionId(9)).is_err());
    remove_key_list(&path).unwrap();
    remove_key_list(&path).unwrap();
    assert!(matches!(KeyList::open(&path, P), Err(KeyListError::Io(_))));
}

#[test]
fn a_list_takes_no_nonsense() {
    let place = Place::new();
    let mut list = KeyListWriter::create(&place.dir.path().join("list"), P, 0).unwrap();
    let extent = |key: &str, messages| KeyExtent {
        key: Arc::from(key),
        messages,
        events: None,
    };
    list.push(extent("b@x", Some((1, 1)))).unwrap();
    for (key, messages) in [
        ("b@x", None),
        ("a@x", None),
        ("", None),
        ("c\0@x", None),
        ("c@x", Some((2, 1))),
    ] {
        assert!(
            list.push(extent(key, messages)).is_err(),
            "{key:?} {messages:?}"
        );
    }
    list.push(extent("c@x", None)).unwrap();
    assert_eq!(list.finish().unwrap(), 2);
}
