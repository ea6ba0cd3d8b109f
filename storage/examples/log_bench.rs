//! Prints how fast the log is on this disk: `cargo run --release -p muster-storage --example log_bench [folder]`.
//!
//! Each of the groups keeps a number of appends under way, as its Raft leader would; the folder should be on the disk
//! that counts.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::log::{GroupId, Log, LogEntry, LogError, LogOptions};

const PAYLOAD_BYTES: usize = 200;
const DURATION: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("log-bench-{}", std::process::id()));
    println!(
        "{PAYLOAD_BYTES} bytes an entry, {} s each",
        DURATION.as_secs()
    );
    println!(
        "groups  batch  under way    entries/s  syncs/s  entries/sync  µs/sync  p50 ms  p99 ms"
    );
    for (groups, batch, depth) in [
        (1, 1, 1),
        (16, 1, 1),
        (16, 1, 16),
        (16, 16, 4),
        (16, 64, 4),
        (1, 256, 4),
    ] {
        run(&folder, groups, batch, depth)?;
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

fn run(folder: &std::path::Path, groups: u32, batch: u64, depth: usize) -> Result<(), LogError> {
    let (log, _) = Log::open(folder, LogOptions::default())?;
    let started = Instant::now();
    let running = &log;
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..groups)
            .map(|group| scope.spawn(move || drive(running, GroupId(group), batch, depth, started)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_default())
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let metrics = log.metrics();
    log.close();
    latencies.sort();
    let quantile = |part: usize| {
        latencies
            .get(latencies.len() * part / 100)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    println!(
        "{groups:6} {batch:6} {depth:10} {:12.0} {:8.0} {:13.1} {:8.0} {:7.2} {:7.2}",
        metrics.entries as f64 / seconds,
        metrics.syncs as f64 / seconds,
        metrics.entries as f64 / metrics.syncs.max(1) as f64,
        metrics.sync_micros as f64 / metrics.syncs.max(1) as f64,
        quantile(50),
        quantile(99),
    );
    Ok(())
}

/// One group: `depth` appends of `batch` entries under way, purged as it goes. Returns how long each took.
fn drive(log: &Log, group: GroupId, batch: u64, depth: usize, started: Instant) -> Vec<Duration> {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let (mut next, mut latencies) = (0, Vec::new());
    let mut under_way: std::collections::VecDeque<(Instant, Receiver<_>)> =
        std::collections::VecDeque::new();
    while started.elapsed() < DURATION {
        let (tx, rx) = channel();
        let entries = (next..next + batch)
            .map(|index| LogEntry {
                index,
                term: 1,
                payload: payload.clone(),
            })
            .collect();
        next += batch;
        under_way.push_back((Instant::now(), rx));
        log.append(group, entries, move |result| {
            let _nobody_waits = tx.send(result);
        });
        if under_way.len() >= depth
            && let Some((begun, rx)) = under_way.pop_front()
        {
            match rx.recv() {
                Ok(Ok(())) => latencies.push(begun.elapsed()),
                other => {
                    eprintln!("group {group}: {other:?}");
                    break;
                }
            }
        }
        if next % (batch * 1024) == 0 {
            log.purge(group, next - batch * 64, Bytes::new(), |_| ());
        }
    }
    latencies
}
