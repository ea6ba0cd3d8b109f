//! What the server's processes cost: CPU time and memory, whole processes, read from `/proc`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Linux counts CPU time in these for every program, whatever the kernel's own tick is (`USER_HZ`).
const TICKS_PER_SECOND: u32 = 100;

/// A process cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It has ended, or belongs to somebody else.
    #[error("{}: {source}: has the server ended, or is it another user's?", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The kernel says something else than expected.
    #[error("{}: not understood", path.display())]
    Format { path: PathBuf },
}

/// The processes of the server under test, all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes {
    pids: Vec<u32>,
}

/// Memory of all processes together, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, shared pages counted in full.
    pub(crate) rss_kib: u64,
    /// Resident, shared pages split among those that share them.
    pub(crate) pss_kib: u64,
}

impl Processes {
    /// Of these ids.
    pub(crate) fn new(pids: Vec<u32>) -> Processes {
        Processes { pids }
    }

    /// Whether nothing can be measured: no ids were given.
    pub(crate) fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }

    /// How many processes.
    pub(crate) fn len(&self) -> usize {
        self.pids.len()
    }

    /// CPU time used so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Result<Duration, ProcessError> {
        let mut ticks = 0;
        for pid in &self.pids {
            let (path, text) = read(*pid, "stat")?;
            ticks += cpu_ticks(&text).ok_or(ProcessError::Format { path })?;
        }
        Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
    }

    /// Memory held now.
    pub(crate) fn memory(&self) -> Result<Memory, ProcessError> {
        let mut all = Memory::default();
        for pid in &self.pids {
            let (path, text) = read(*pid, "smaps_rollup")?;
            let memory = memory(&text).ok_or(ProcessError::Format { path })?;
            all.rss_kib += memory.rss_kib;
            all.pss_kib += memory.pss_kib;
        }
        Ok(all)
    }
}

fn read(pid: u32, file: &str) -> Result<(PathBuf, String), ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ProcessError::Read { path, source }),
    }
}

/// proc(5), `/proc/<pid>/stat`: fields 14 and 15. The second field is the command in parentheses and may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// proc(5), `/proc/<pid>/smaps_rollup`.
fn memory(rollup: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory {
        rss_kib: field("Rss:")?,
        pss_kib: field("Pss:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_stat_line() {
        let check = |line: &str, expect: Option<u64>| assert_eq!(cpu_ticks(line), expect, "{line}");
        let tail = "S 1 2 3 4 5 6 7 8 9 10 110 22 0 0 20 0 9 0 1000 1 2";
        check(&format!("42 (muster) {tail}"), Some(132));
        check(&format!("42 (a b) c) {tail}"), Some(132));
        check("42 (muster) S 1 2 3", None);
        check("42 muster S 1 2 3", None);
        check("", None);
        check("1 (x) S 1 2 3 4 5 6 7 8 9 10 -1 22 0", None);
        check(
            &format!("1 (x) S 1 2 3 4 5 6 7 8 9 10 {} 1 0", u64::MAX),
            None,
        );
    }

    #[test]
    fn memory_of_a_rollup() {
        let check = |text: &str, expect: Option<(u64, u64)>| {
            let found = memory(text).map(|memory| (memory.rss_kib, memory.pss_kib));
            assert_eq!(found, expect, "{text}");
        };
        let head = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\n";
        let good = format!("{head}Rss:     3972 kB\nPss:      950 kB\nPss_Anon: 1 kB\n");
        check(&good, Some((3972, 950)));
        check(head, None);
        check("Rss: x kB\nPss: 1 kB\n", None);
        check("Rss: 1\nPss: 1 kB\n", None);
    }

    #[test]
    fn this_very_process_can_be_measured() {
        let own = Processes::new(vec![std::process::id()]);
        assert!(own.cpu().is_ok());
        assert!(own.memory().unwrap().rss_kib > 0);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text: String) {
            cpu_ticks(&text);
            memory(&text);
        }
    }
}
