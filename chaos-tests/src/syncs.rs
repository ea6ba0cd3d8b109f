//! The syncs of a running node, held or failed from outside: the kernel's own calls, under `strace`.
//!
//! Nothing in the node knows of it. While a trace lasts, all of the node's threads are traced; when it ends, they go on
//! as if nothing had been. It needs the right to trace another process of the same user; where that or strace is
//! missing, the test fails and says so.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::pool::Pool;
use crate::wait::until;

/// All calls that make a file durable.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,msync,syncfs,sync";

/// Longer than any test.
const FOR_EVER: &str = "3600s";

/// How long strace may take to take hold of all threads, or to let them go.
const PROMPT: Duration = Duration::from_secs(10);

/// A node's syncs in strace's hands.
#[derive(Debug)]
pub struct Trace {
    node: u64,
    strace: Child,
    folder: TempDir,
}

impl Trace {
    /// From now on no sync of the node ends, until [`release`](Trace::release).
    pub async fn hold(pool: &Pool, node: u64) -> Result<Trace> {
        let inject = format!("inject={SYNCS}:delay_enter={FOR_EVER}");
        Trace::start(
            pool,
            node,
            &["-e".into(), format!("trace={SYNCS}"), "-e".into(), inject],
        )
        .await
    }

    /// From now on each sync of the node takes so much longer, until [`release`](Trace::release).
    pub async fn slow(pool: &Pool, node: u64, by: Duration) -> Result<Trace> {
        let inject = format!("inject={SYNCS}:delay_enter={}", by.as_micros());
        let args = ["-e".into(), format!("trace={SYNCS}"), "-e".into(), inject];
        Trace::start(pool, node, &args).await
    }

    /// The next fdatasync or fsync of each thread on a file of this folder fails with EIO, once; all later ones would be
    /// good, if there were any.
    pub async fn fail_next(pool: &Pool, node: u64, folder: &Path) -> Result<Trace> {
        let mut args = vec![
            "-e".into(),
            format!("trace={SYNCS}"),
            "-e".into(),
            "inject=fsync,fdatasync:error=EIO:when=1".into(),
        ];
        let mut unread = vec![folder.to_owned()];
        while let Some(folder) = unread.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    unread.push(path);
                } else {
                    let path = path.to_str().context("data files have plain names")?;
                    args.extend(["-P".to_owned(), path.to_owned()]);
                }
            }
        }
        Trace::start(pool, node, &args).await
    }

    async fn start(pool: &Pool, node: u64, args: &[String]) -> Result<Trace> {
        let pid = pool.pid(node)?;
        let folder = TempDir::with_prefix("muster-strace-")?;
        let strace = Command::new("strace")
            .args(["-f", "-y", "-s", "0", "-e", "signal=none"])
            .args(args)
            .arg("-o")
            .arg(folder.path().join("calls"))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("said"))?)
            .spawn()
            .context("`strace` can't be run; scripts/setup-tests installs it")?;
        let mut trace = Trace {
            node,
            strace,
            folder,
        };
        let attached = until("strace has the node's threads", PROMPT, async || {
            // Whether it has ended is asked first, and counts last: it ends at once with a node whose first call fails.
            let has_ended = trace.strace.try_wait().ok().flatten().is_some();
            let has_attached = trace.said().contains(" attached");
            (has_attached || has_ended).then_some(has_attached)
        });
        ensure!(
            attached.await?,
            "strace can't trace node {node}: run the test as root (in a container with CAP_SYS_PTRACE), or allow it \
             (sysctl kernel.yama.ptrace_scope=0). It said: {}",
            trace.said()
        );
        Ok(trace)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    /// The calls so far, in the order in which they began; those that strace holds have no result.
    pub fn calls(&self) -> Vec<String> {
        let path: PathBuf = self.folder.path().join("calls");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many syncs of the node's log have begun and not ended.
    pub fn held_log_syncs(&self) -> usize {
        let is_held =
            |call: &&String| is_sync(call) && call.contains("/data/log/") && !call.contains(") = ");
        self.calls().iter().filter(is_held).count()
    }

    /// Lets the node go on: what was held is done now.
    pub async fn release(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.strace.id().cast_signed()).context("a process has an id")?;
        kill_process(pid, Signal::TERM)?;
        self.gone("strace lets the node go").await
    }

    async fn gone(&mut self, what: &str) -> Result<()> {
        let ended = until(what, PROMPT, async || self.strace.try_wait().ok().flatten());
        ended.await.map(drop)
    }

    /// The syncs of the files after the first one that failed: none, if all is well. The node must have ended.
    pub async fn after_the_failure(mut self) -> Result<Vec<String>> {
        self.gone("the end of strace").await?;
        let calls = self.calls();
        let Some(failed) = calls
            .iter()
            .position(|call| call.contains("EIO") && call.contains("INJECTED"))
        else {
            bail!("no sync of node {} has failed yet", self.node);
        };
        let later = calls.get(failed + 1..).unwrap_or_default();
        Ok(later.iter().filter(|call| is_sync(call)).cloned().collect())
    }
}

/// Whether a line of strace is the beginning of a sync.
fn is_sync(call: &str) -> bool {
    SYNCS
        .split(',')
        .any(|name| call.contains(&format!(" {name}(")))
}

impl Drop for Trace {
    fn drop(&mut self) {
        // An error means that it has ended already. The kernel lets the node go on.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}
