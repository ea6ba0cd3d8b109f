//! One node of a measured pool: a process that is started, awaited, and stopped by its id.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use crate::scenario::wait_until;

/// How long a node may take until all partitions have owners.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How long a graceful stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A node's process. It is killed if it still runs when this is dropped.
pub(crate) struct Node {
    child: Child,
    ready: Option<oneshot::Receiver<()>>,
    /// Its folder, with its configuration and its log.
    pub(crate) folder: PathBuf,
}

impl Node {
    /// Starts a node from its folder; its log goes to the file `log` there.
    pub(crate) fn start(binary: &Path, folder: &Path) -> anyhow::Result<Node> {
        let mut child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(folder.join("muster.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log"))?)
            .spawn()
            .with_context(|| format!("{}: cannot be run", binary.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (tell, ready) = oneshot::channel();
        // Reads to the end, so that the node never waits for a reader; ends with the node.
        std::thread::spawn(move || {
            let mut tell = Some(tell);
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(tell) = tell.take_if(|_| line.starts_with("ready:")) {
                    // Nobody waits any more if the start has failed elsewhere.
                    let _ = tell.send(());
                }
            }
        });
        Ok(Node {
            child,
            ready: Some(ready),
            folder: folder.to_owned(),
        })
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the node serves.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let Some(ready) = self.ready.take() else {
            return Ok(());
        };
        match tokio::time::timeout(READY_WITHIN, ready).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => bail!(
                "a node ended while it started; it said: {}",
                self.last_words()
            ),
            Err(_) => bail!(
                "a node was not ready in {READY_WITHIN:?}; it said: {}",
                self.last_words()
            ),
        }
    }

    fn last_words(&self) -> String {
        const LINES: usize = 5;
        let log = std::fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(LINES)..)
            .unwrap_or_default()
            .join(" | ")
    }

    /// Ends the process at once (SIGKILL), without waiting for its end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .context("a node has ended before its time")
    }

    /// Asks the node to stop.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .context("a node has ended before its time")
    }

    /// Waits until the node has stopped.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let child = &mut self.child;
        if !wait_until(STOP_WITHIN, || matches!(child.try_wait(), Ok(Some(_)))).await {
            bail!("a node did not stop in {STOP_WITHIN:?} and was killed");
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
