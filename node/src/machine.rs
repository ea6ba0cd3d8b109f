//! What the machine has: memory, and how many sessions that and the limit of open files allow.

use std::fs;

use actors::runtime::Memory;
use rustix::process::{Resource, getrlimit};

/// Memory of a session with all that belongs to it, and files that are open besides sessions'.
const SESSION_BYTES: u64 = cluster::meta::capacity::SESSION_BYTES;
const OTHER_FILES: u64 = 1_024;

/// What this process uses and the machine has free; zeroes where the system does not say.
pub(crate) fn memory() -> Memory {
    let used = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let free = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Memory {
        used_bytes: kib_of(&used, "VmRSS:") << 10,
        free_bytes: kib_of(&free, "MemAvailable:") << 10,
    }
}

/// The sessions that this node may have, by its setting.
pub(crate) fn sessions_max(setting: u32) -> u64 {
    if setting > 0 {
        return u64::from(setting);
    }
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    sessions_for(files, kib_of(&memory, "MemTotal:") << 10)
}

fn sessions_for(files: u64, memory_bytes: u64) -> u64 {
    let by_files = files.saturating_sub(OTHER_FILES);
    match memory_bytes / SESSION_BYTES {
        // Unknown.
        0 => by_files,
        by_memory => by_files.min(by_memory),
    }
    .max(1)
}

/// The number behind a word in what `/proc` shows; 0 if it is not there.
fn kib_of(text: &str, word: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_shows_is_read() {
        let text = "MemTotal:       24689792 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(kib_of(text, "MemAvailable:"), 22_000_000);
        assert_eq!(kib_of(text, "MemFree:"), 0);
        assert_eq!(kib_of("MemTotal: much", "MemTotal:"), 0);
        let memory = memory();
        assert!(memory.used_bytes > 0 && memory.free_bytes > 0, "{memory:?}");
    }

    #[test]
    fn sessions_are_bounded_by_files_and_memory() {
        let check = |files, memory: u64, expect| {
            assert_eq!(sessions_for(files, memory), expect, "{files} {memory}");
        };
        check(101_024, 24 << 30, 100_000);
        check(u64::MAX, 1 << 30, 16_384);
        check(101_024, 0, 100_000);
        check(100, 1 << 30, 1);
        assert_eq!(sessions_max(7), 7);
    }
}
