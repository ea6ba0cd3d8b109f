//! Prints what the archive costs: `cargo run --release -p muster-storage --example archive_bench [rows] [keys]`.
//!
//! CPU time is the whole process', engine threads included.

#![allow(clippy::unwrap_used, reason = "a figure with an error is no figure")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::archive::{
    Archive, ArchiveOptions, ArchiveRow, Order, Page, PartitionId, RowKind, Rows,
};

const BATCH: u64 = 64;
const PAGES: u64 = 10_000;
const P: PartitionId = PartitionId(1);

/// User and system time of all threads, to 10 ms (proc(5), fields 14 and 15 of `stat`, in ticks of 1/100 s).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn measure(what: &str, count: u64, work: impl FnOnce()) {
    let (wall, before) = (Instant::now(), cpu());
    work();
    let (wall, cpu) = (wall.elapsed(), cpu() - before);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    println!(
        "{what:<44} {:>9.2} µs wall {:>9.2} µs CPU each",
        each(wall),
        each(cpu)
    );
}

/// A cheap sequence of numbers that look random, the same in each run.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().unwrap());
    let (rows, keys) = (
        arguments.next().unwrap_or(1_000_000),
        arguments.next().unwrap_or(100),
    );
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(dir.path(), &ArchiveOptions::default()).unwrap();
    let names: Vec<Arc<str>> = (0..keys)
        .map(|key| Arc::from(format!("user{key}@example.org")))
        .collect();
    let peers: Vec<Arc<str>> = (0..20)
        .map(|peer| Arc::from(format!("peer{peer}@example.org")))
        .collect();
    let row = |number: u64| ArchiveRow {
        key: Arc::clone(&names[(number % keys) as usize]),
        kind: RowKind::Message,
        seq: 4096 + number / keys,
        time: number,
        peer: Some(Arc::clone(&peers[(scattered(number) % 20) as usize])),
        record: (0..40)
            .flat_map(|word| (scattered(number * 64 + word) % 0xFF_FFFF).to_le_bytes())
            .collect::<Bytes>(),
    };
    measure(
        &format!("append, {rows} rows, {BATCH} a batch"),
        rows,
        || {
            for batch in 0..rows / BATCH {
                archive
                    .append(
                        P,
                        &(batch * BATCH..(batch + 1) * BATCH)
                            .map(row)
                            .collect::<Vec<_>>(),
                    )
                    .unwrap();
            }
            archive.sync().unwrap();
        },
    );
    let each_key = rows / keys;
    let read = |name: &str, page: &dyn Fn(u64) -> Page, peer: Option<&str>| {
        measure(name, PAGES, || {
            for number in 0..PAGES {
                let key = &names[(scattered(number) % keys) as usize];
                let page = page(number);
                let found = match peer {
                    None => archive.range(P, key, Rows::All, &page).unwrap(),
                    Some(peer) => archive.range_with(P, key, peer, &page).unwrap(),
                };
                assert!(found.len() <= 50);
            }
        });
    };
    let newest = |_| Page {
        after: None,
        before: None,
        order: Order::NewestFirst,
        limit: 50,
    };
    let anywhere = |number| {
        let after = Some(4096 + scattered(number + 9) % each_key);
        Page {
            after,
            before: None,
            order: Order::OldestFirst,
            limit: 50,
        }
    };
    read("newest page of 50", &newest, None);
    read("page of 50 anywhere", &anywhere, None);
    read("newest page of 50 with a peer", &newest, Some(&peers[3]));
    measure("first sequence at or after a time", PAGES, || {
        for number in 0..PAGES {
            let key = &names[(scattered(number) % keys) as usize];
            archive
                .seq_at_or_after(P, key, Rows::All, scattered(number + 5) % rows)
                .unwrap();
        }
    });
    measure("last sequence", PAGES, || {
        for number in 0..PAGES {
            archive
                .last_seq(P, &names[(scattered(number) % keys) as usize], Rows::All)
                .unwrap();
        }
    });
    measure("first count, a message", each_key, || {
        _ = black_box(archive.count(P, &names[0]).unwrap())
    });
    measure("second count", 1, || {
        _ = black_box(archive.count(P, &names[0]).unwrap())
    });
    measure("hash, a row", rows, || {
        _ = black_box(archive.hash(P, None).unwrap())
    });
}
