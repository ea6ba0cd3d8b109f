//! Nodes that stand still.

use std::time::Duration;

use anyhow::Result;

use super::Pool;
use crate::wait::until;

/// How long a stop may take on a busy machine.
const STOPS: Duration = Duration::from_secs(60);

impl Pool {
    /// Freezes a node (SIGSTOP) and waits until it stands still: on a busy machine its threads may run on for a moment.
    pub async fn freeze(&self, node: u64) -> Result<()> {
        self.pause(node)?;
        let tasks = format!("/proc/{}/task", self.pid(node)?);
        until("the node stands still", STOPS, async || {
            let stands = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                let (_, state) = stat.rsplit_once(") ")?;
                Some(state.starts_with('T'))
            };
            let mut tasks = std::fs::read_dir(&tasks).ok()?;
            tasks.all(|task| stands(task) == Some(true)).then_some(())
        })
        .await
    }
}
