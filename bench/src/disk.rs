//! What the disk alone takes: no server that keeps its word can do with less.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// As many a second as the archived chat has messages.
const EVERY: Duration = Duration::from_millis(10);

/// How many are looked at.
const TIMES: u32 = 200;

/// As long as a small entry of a log.
const BYTES: usize = 512;

/// Room for all of them, as a log's segment has.
const FILE_BYTES: usize = 1 << 20;

/// What a write over zeroes of a file and its fdatasync take, one at a time, a hundred a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// CPU time of the thread, without that of waiting for the next one.
    pub(crate) cpu_micros: f64,
    /// How long the median one takes.
    pub(crate) p50_micros: f64,
}

impl Disk {
    /// Measures the disk of a folder, for some four seconds. Blocks.
    pub(crate) fn measure(dir: &Path) -> anyhow::Result<Disk> {
        let mut file = tempfile::tempfile_in(dir).context("a file to write to")?;
        std::io::Write::write_all(&mut file, &vec![0; FILE_BYTES])?;
        file.sync_all()?;
        let bytes = [0x5a; BYTES];
        let (mut took, mut at) = (Vec::new(), 0);
        let with = cpu_of(|| {
            let start = Instant::now();
            file.write_all_at(&bytes, at)?;
            file.sync_data()?;
            at += BYTES as u64;
            took.push(start.elapsed());
            Ok(())
        })?;
        let without = cpu_of(|| Ok(()))?;
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        Ok(Disk {
            cpu_micros: with.saturating_sub(without).as_secs_f64() * 1e6,
            p50_micros: median.as_secs_f64() * 1e6,
        })
    }

    /// All of it in some words.
    pub(crate) fn line(&self) -> String {
        format!(
            "a write of {BYTES} B and its fdatasync, alone, 100 a second: {:.0} µs CPU, {:.1} ms",
            self.cpu_micros,
            self.p50_micros / 1e3
        )
    }
}

/// The thread's CPU time of one of many rounds, with the wait for the next one.
fn cpu_of(mut round: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let before = thread_cpu()?;
    for _ in 0..TIMES {
        round()?;
        std::thread::sleep(EVERY);
    }
    Ok((thread_cpu()? - before) / TIMES)
}

fn thread_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().and_then(|run| run.parse().ok());
    Ok(Duration::from_nanos(first.context("no time in schedstat")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_takes_time() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::measure(dir.path()).unwrap();
        assert!(disk.p50_micros > 0.0, "{disk:?}");
        let told = Disk {
            cpu_micros: 236.4,
            p50_micros: 3_540.0,
        };
        assert!(
            told.line().ends_with("236 µs CPU, 3.5 ms"),
            "{}",
            told.line()
        );
    }
}
