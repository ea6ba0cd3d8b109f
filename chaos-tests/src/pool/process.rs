//! One node's process: spawned with its log in a file, signalled by its id, never left behind.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::program::Program;
use crate::clock::Clock;

/// How long a process may take to stand still.
const FROZEN_WITHIN: Duration = Duration::from_secs(5);

/// Lines of a log that are shown when a test fails.
const LOG_LINES: usize = 60;

/// A running node.
#[derive(Debug)]
pub(super) struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts `muster run`, in a network namespace if one is named, by a clock of its own if there is one.
    pub(super) fn spawn(
        config: &Path,
        namespace: Option<&str>,
        program: Program,
        clock: Option<&Clock>,
    ) -> Result<NodeProcess> {
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_file(config))?;
        let mut command = match namespace {
            // It becomes the binary: signals find it under the same id.
            Some(name) => {
                let mut enter = Command::new("nsenter");
                enter
                    .arg(format!("--net=/run/netns/{name}"))
                    .arg(program.binary()?);
                enter
            }
            None => Command::new(program.binary()?),
        };
        program.prepare(&mut command);
        if let Some(clock) = clock {
            command.envs(clock.environment());
        }
        let child = command
            .arg("run")
            .arg("--config")
            .arg(config)
            .env_remove("MUSTER_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(NodeProcess { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a process has an id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGSTOP, and awaited: no thread of it runs on. On a busy machine that takes some milliseconds.
    pub(super) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + FROZEN_WITHIN;
        while !self.is_frozen()? {
            ensure!(Instant::now() < deadline, "a process does not stand still");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_frozen(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // One that has ended meanwhile has no state.
            let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            // Its name, in brackets, may have any characters.
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            if state.is_some_and(|state| !state.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SIGKILL, and its end awaited: nothing of it runs on.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.kill();
    }
}

pub(super) fn log_file(config: &Path) -> PathBuf {
    config.with_file_name("log")
}

/// A node's whole log.
pub(super) fn log(config: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(log_file(config))?)
}

/// The end of a node's log, with a headline.
pub(super) fn log_end(id: u64, config: &Path) -> String {
    let text = std::fs::read_to_string(log_file(config)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    format!(
        "--- node {id}, end of its log ---\n{}",
        lines.get(from..).unwrap_or_default().join("\n")
    )
}
