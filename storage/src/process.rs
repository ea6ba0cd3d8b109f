//! What the system says of this process: the time it has spent on processors, and the memory that it holds.

use std::fs;
use std::time::Duration;

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Time on processors since its start, all threads together.
    pub cpu: Duration,
    /// Memory that is in the machine's, in bytes.
    pub resident_bytes: u64,
}

impl ProcessUsage {
    /// Of this process; `None` where the system doesn't say.
    pub fn now() -> Option<ProcessUsage> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        ProcessUsage::parse(&stat, &status)
    }

    /// From `stat` and `status` of proc(5).
    fn parse(stat: &str, status: &str) -> Option<ProcessUsage> {
        /// The kernel tells times in hundredths of a second (USER_HZ), whatever its own clock is.
        const TICK: Duration = Duration::from_millis(10);
        // The name, in parentheses, may hold anything; of what follows user and system time are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut ticks = fields.split_ascii_whitespace().skip(11);
        let user: u32 = ticks.next()?.parse().ok()?;
        let system: u32 = ticks.next()?.parse().ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.split_ascii_whitespace().next()?.parse().ok()?;
        Some(ProcessUsage {
            cpu: TICK * user.saturating_add(system),
            resident_bytes: kib.saturating_mul(1024),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 9 0 1 2 3";
        let status = "Name:\ta\nVmPeak:\t 9 kB\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        let read = ProcessUsage::parse(stat, status).expect("it reads");
        assert_eq!(read.cpu, Duration::from_secs(2));
        assert_eq!(read.resident_bytes, 2 << 20);
        for (stat, status) in [
            ("", status),
            ("7 (a", status),
            ("7 (a) S 1", status),
            (stat, ""),
            (stat, "VmRSS:"),
            (stat, "VmRSS:\tmuch kB"),
        ] {
            assert_eq!(
                ProcessUsage::parse(stat, status),
                None,
                "{stat:?} {status:?}"
            );
        }
    }

    #[test]
    fn this_process_uses_something() {
        let now = ProcessUsage::now().expect("Linux says so");
        assert!(now.resident_bytes > 100_000);
    }
}
