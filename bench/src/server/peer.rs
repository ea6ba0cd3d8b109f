//! The process of another server: started, awaited until it answers, and stopped by its id.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::scenario::wait_until;
use crate::server::Ports;
use crate::target::Security;

/// How long a start may take until the ports answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a graceful stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// How often it is asked whether it answers.
const POLL: Duration = Duration::from_millis(100);

/// Another server's process. It is killed if it still runs when this is dropped.
pub(crate) struct Peer {
    child: Child,
    /// Removed with this.
    pub(super) folder: tempfile::TempDir,
    /// Where it listens.
    pub(crate) ports: Ports,
}

impl Peer {
    /// Starts it, with its words in the file `log` of its folder, and waits until both ports answer.
    pub(crate) async fn start(
        mut command: Command,
        folder: tempfile::TempDir,
        ports: Ports,
    ) -> anyhow::Result<Peer> {
        let child = spawn(&mut command, folder.path())?;
        let mut peer = Peer {
            child,
            folder,
            ports,
        };
        peer.ready().await?;
        Ok(peer)
    }

    /// Starts it once more in its folder, where it was killed.
    pub(super) async fn again(&mut self, mut command: Command) -> anyhow::Result<()> {
        let _ = self.child.wait();
        self.child = spawn(&mut command, self.folder.path())?;
        self.ready().await
    }

    /// Waits until both ports answer.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let answers = tokio::time::timeout(READY_WITHIN, self.until_ready()).await;
        answers.with_context(|| {
            format!(
                "not ready in {READY_WITHIN:?}; it said: {}",
                peer_words(self.folder.path())
            )
        })?
    }

    /// Waits until something has come of its start.
    pub(super) async fn until(
        &mut self,
        within: Duration,
        mut holds: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let child = &mut self.child;
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        wait_until(within, || holds() || ended(child)).await;
        if holds() {
            return Ok(());
        }
        let words = peer_words(self.folder.path());
        bail!("a server ended, or was not ready in {within:?}; it said: {words}")
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .context("a server has ended before its time")
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        for security in [Security::Plain, Security::Tls] {
            while TcpStream::connect(self.ports.address(security))
                .await
                .is_err()
            {
                if let Some(ended) = self.child.try_wait()? {
                    let words = peer_words(self.folder.path());
                    bail!("the server ended while it started ({ended}); it said: {words}");
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, waits until it has, and kills it if it does not.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.child.try_wait()? {
            let words = peer_words(self.folder.path());
            bail!("the server ended before its time ({ended}); it said: {words}");
        }
        self.signal(Signal::TERM)?;
        let child = &mut self.child;
        // One that does not stop is killed when this is dropped: nothing is measured any more.
        wait_until(STOP_WITHIN, || matches!(child.try_wait(), Ok(Some(_)))).await;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command, folder: &Path) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let spawned = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    spawned.with_context(|| {
        let program = command.get_program().to_string_lossy().into_owned();
        format!("{program}: cannot be run")
    })
}

/// The last lines of what it said.
fn peer_words(folder: &Path) -> String {
    const LINES: usize = 8;
    let log = std::fs::read(folder.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..);
    last.unwrap_or_default().join(" | ")
}
