//! A process' share of the processors, bounded by the kernel: a control group of its own, of whichever version there is.
//!
//! It needs the right to make control groups; where that or the controller is missing, the test fails and says so.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// The time that a share is of, in microseconds; the kernel's own value.
const PERIOD: u32 = 100_000;

/// A bounded process. It keeps its bound until it is lifted or let go.
#[derive(Debug)]
pub struct Quota {
    group: PathBuf,
    /// The members' file of the group in which the process was.
    home: PathBuf,
    pid: u32,
}

impl Quota {
    /// Gives a process so many percent of one processor, all its threads together.
    pub fn of(pid: u32, percent: u32) -> Result<Quota> {
        let (root, limit) = controller()?;
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let own = path_in(&cgroups, limit.is_unified()).unwrap_or("/");
        let home = root.join(own.trim_start_matches('/')).join("cgroup.procs");
        let group = root.join(format!("muster-test-{pid}"));
        fs::create_dir(&group).with_context(|| {
            format!(
                "{}: run the test as root (in a container with its control groups writable)",
                group.display()
            )
        })?;
        let quota = Quota { group, home, pid };
        let time = PERIOD * percent / 100;
        match limit {
            Limit::Max => quota.write("cpu.max", &format!("{time} {PERIOD}"))?,
            Limit::Quota => {
                quota.write("cpu.cfs_period_us", &PERIOD.to_string())?;
                quota.write("cpu.cfs_quota_us", &time.to_string())?;
            }
        }
        quota.write("cgroup.procs", &pid.to_string())?;
        Ok(quota)
    }

    /// The process may have all again. Gives how often the kernel has held it back: never, if it wanted less than its share.
    pub fn lift(self) -> Result<u64> {
        let stat = fs::read_to_string(self.group.join("cpu.stat"))?;
        let times = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        let times = times
            .context("cpu.stat lacks nr_throttled")?
            .trim()
            .parse()?;
        self.leave()?;
        Ok(times)
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.group.join(file);
        fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
    }

    fn leave(&self) -> Result<()> {
        // One that has ended is no member of anything.
        if Path::new(&format!("/proc/{}", self.pid)).exists() {
            fs::write(&self.home, self.pid.to_string())
                .with_context(|| format!("back to {}", self.home.display()))?;
        }
        fs::remove_dir(&self.group).with_context(|| self.group.display().to_string())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if self.group.exists()
            && let Err(error) = self.leave()
        {
            println!("a control group is left: {error:#}");
        }
    }
}

/// How the kernel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Control groups, version 2.
    Max,
    /// Version 1.
    Quota,
}

impl Limit {
    fn is_unified(self) -> bool {
        self == Limit::Max
    }
}

/// Where the controller of processors is, and how it is told.
fn controller() -> Result<(PathBuf, Limit)> {
    let root = Path::new(GROUPS);
    let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if available.split_whitespace().any(|name| name == "cpu") {
        let enabled = root.join("cgroup.subtree_control");
        fs::write(&enabled, "+cpu").with_context(|| format!("{} = +cpu", enabled.display()))?;
        return Ok((root.to_owned(), Limit::Max));
    }
    for name in ["cpu", "cpu,cpuacct"] {
        let root = root.join(name);
        if root.join("cgroup.procs").exists() && root.join("tasks").exists() {
            return Ok((root, Limit::Quota));
        }
    }
    bail!("there is no control group of processors below {GROUPS}");
}

/// In which group a process is, by its file `cgroup`: lines of number, controllers and path (cgroups(7)).
fn path_in(cgroups: &str, unified: bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match unified {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|name| name == "cpu"),
        };
        is_it.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_a_group_of_each_hierarchy() {
        let both = "12:cpuset:/sets\n4:cpu,cpuacct:/user/one\n1:name=systemd:/\n0::/init.scope\n";
        assert_eq!(path_in(both, false), Some("/user/one"));
        assert_eq!(path_in(both, true), Some("/init.scope"));
        assert_eq!(path_in("0::/\n", false), None);
        assert_eq!(path_in("", true), None);
    }
}
