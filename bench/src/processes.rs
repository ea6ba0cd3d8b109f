//! What the server's processes cost: CPU time and memory, whole processes, read from `/proc`.
//!
//! A process counts with all that it has started (Erlang's helpers, say), and with what has ended since and was awaited.

use std::collections::BTreeMap;
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

    /// These and all that they have started, directly or not.
    fn tree(&self) -> Vec<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            // One that has ended meanwhile has no children either.
            if let Some(parent) = read(pid, "stat").ok().and_then(|(_, stat)| parent(&stat)) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut tree = self.pids.clone();
        let mut next = 0;
        while let Some(pid) = tree.get(next) {
            let more = children.remove(pid).unwrap_or_default();
            tree.extend(more.iter().filter(|pid| !self.pids.contains(pid)));
            next += 1;
        }
        tree
    }

    /// Whether a file of `/proc` that can't be read is that of a helper which has ended, and may be left out.
    fn is_gone(&self, pid: u32, error: &ProcessError) -> bool {
        matches!(error, ProcessError::Read { .. }) && !self.pids.contains(&pid)
    }

    /// CPU time used so far, user and system, all threads.
    pub(crate) fn cpu(&self) -> Result<Duration, ProcessError> {
        let mut ticks = 0;
        for pid in self.tree() {
            match read(pid, "stat") {
                Ok((path, text)) => {
                    ticks += cpu_ticks(&text).ok_or(ProcessError::Format { path })?
                }
                Err(error) if self.is_gone(pid, &error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
    }

    /// Memory held now.
    pub(crate) fn memory(&self) -> Result<Memory, ProcessError> {
        let mut all = Memory::default();
        for pid in self.tree() {
            let (path, text) = match read(pid, "smaps_rollup") {
                Ok(read) => read,
                Err(error) if self.is_gone(pid, &error) => continue,
                Err(error) => return Err(error),
            };
            let memory = memory(&text).ok_or(ProcessError::Format { path })?;
            all.rss_kib += memory.rss_kib;
            all.pss_kib += memory.pss_kib;
        }
        Ok(all)
    }
}

/// CPU time of this process alone, without what it has started: the generator's own.
pub(crate) fn own_cpu() -> Result<Duration, ProcessError> {
    let (path, text) = read(std::process::id(), "stat")?;
    let ticks = own_ticks(&text).ok_or(ProcessError::Format { path })?;
    Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
}

/// Memory of this process alone.
pub(crate) fn own_memory() -> Result<Memory, ProcessError> {
    let (path, text) = read(std::process::id(), "smaps_rollup")?;
    memory(&text).ok_or(ProcessError::Format { path })
}

fn read(pid: u32, file: &str) -> Result<(PathBuf, String), ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ProcessError::Read { path, source }),
    }
}

/// proc(5), `/proc/<pid>/stat`, from the third field on. The second is the command in parentheses and may hold anything.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, after_command) = stat.rsplit_once(')')?;
    Some(after_command.split_ascii_whitespace())
}

/// Fields 14 to 17: user and system time, its own and that of children that have ended and were awaited.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut times = fields(stat)?.skip(11).take(4).map(str::parse::<u64>);
    let mut sum: u64 = 0;
    for _ in 0..4 {
        sum = sum.checked_add(times.next()?.ok()?)?;
    }
    Some(sum)
}

/// Fields 14 and 15: user and system time of the process itself.
fn own_ticks(stat: &str) -> Option<u64> {
    let mut times = fields(stat)?.skip(11).map(str::parse::<u64>);
    times.next()?.ok()?.checked_add(times.next()?.ok()?)
}

/// Field 4: who started it.
fn parent(stat: &str) -> Option<u32> {
    fields(stat)?.nth(1)?.parse().ok()
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
        let tail = "S 1 2 3 4 5 6 7 8 9 10 110 20 1 1 20 0 9 0 1000 1 2";
        check(&format!("42 (muster) {tail}"), Some(132));
        check(&format!("42 (a b) c) {tail}"), Some(132));
        assert_eq!(own_ticks(&format!("42 (muster) {tail}")), Some(130));
        assert_eq!(own_ticks("42 (muster) S 1"), None);
        check("42 (muster) S 1 2 3", None);
        check("42 muster S 1 2 3", None);
        check("", None);
        check("1 (x) S 1 2 3 4 5 6 7 8 9 10 -1 22 0 0", None);
        check("1 (x) S 1 2 3 4 5 6 7 8 9 10 1 22 0", None);
        check(
            &format!("1 (x) S 1 2 3 4 5 6 7 8 9 10 {} 1 0 0", u64::MAX),
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
        assert!(own_cpu().is_ok() && own_memory().unwrap().rss_kib > 0);
    }

    #[test]
    fn what_a_process_has_started_counts_with_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let tree = Processes::new(vec![std::process::id()]).tree();
        assert!(tree.contains(&child.id()) && tree.contains(&std::process::id()));
        // Each is there once, even if both are named.
        let both = Processes::new(vec![std::process::id(), child.id()]).tree();
        assert_eq!(both.iter().filter(|pid| **pid == child.id()).count(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = Processes::new(vec![child.id()]);
        assert!(matches!(gone.cpu(), Err(ProcessError::Read { .. })));
        assert_eq!(parent("1 (a) b) S 7 2"), Some(7));
        assert_eq!(parent("1 (a"), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text: String) {
            cpu_ticks(&text);
            parent(&text);
            memory(&text);
        }
    }
}
