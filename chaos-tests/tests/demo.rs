//! `scripts/run`, as a new user runs it: a pool that people log in to, stopped by Ctrl-C, which finds its data again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Hash, Incoming, Login, Mechanism, Security};
use chaos_tests::pool::{DOMAIN, binary, trusting};
use chaos_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);

/// A running `scripts/run`, and what it has printed.
struct Demo {
    child: Child,
    said: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Only a story that fails leaves it running; it stops its nodes then, as on Ctrl-C.
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), pid_of(&self.child)) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("a process id")
}

impl Demo {
    async fn start(dir: &Path, nodes: &str) -> Result<Demo> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let binary = binary()?;
        let target = binary.ancestors().nth(2).context("target/release/muster")?;
        let output = dir.with_extension("output");
        let child = Command::new("scripts/run")
            .args(["--no-build", "--nodes", nodes, "--dir"])
            .arg(dir)
            .current_dir(project)
            .env("CARGO_TARGET_DIR", target)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .spawn()?;
        let mut demo = Demo {
            child,
            said: String::new(),
        };
        let runs = until("a pool that runs", LIMIT, async || {
            demo.said = std::fs::read_to_string(&output).ok()?;
            let is_over = !matches!(demo.child.try_wait(), Ok(None));
            (is_over || demo.said.contains("Ctrl-C stops everything")).then_some(is_over)
        });
        ensure!(!runs.await?, "it has ended:\n{}", demo.said);
        Ok(demo)
    }

    /// Where clients reach a node, as it was printed.
    fn address(&self, node: usize) -> Result<SocketAddr> {
        let begin = format!("Node {node}: ");
        let line = self.said.lines().find_map(|line| line.strip_prefix(&begin));
        let address = line.and_then(|line| line.split(' ').next());
        Ok(address.with_context(|| self.said.clone())?.parse()?)
    }

    /// With the printed address, the printed password and the printed CA.
    async fn login(&self, dir: &Path, node: usize, user: &str) -> Result<Client> {
        let login = Login {
            address: self.address(node)?,
            domain: DOMAIN.to_owned(),
            user: user.to_owned(),
            password: format!("{user}-demo"),
            resource: None,
            security: Security::StartTls,
            mechanism: Mechanism::Scram(Hash::Sha256),
            stream_management: true,
            tls: trusting(&dir.join("ca/ca.pem"))?,
        };
        Client::connect(&login).await
    }

    /// Ctrl-C.
    async fn stop(mut self, dir: &Path) -> Result<()> {
        kill_process(pid_of(&self.child)?, Signal::INT)?;
        let ended = until("the end", LIMIT, async || self.child.try_wait().ok()?).await?;
        ensure!(ended.success(), "{ended}");
        ensure!(running(dir).is_empty(), "{:?}", running(dir));
        Ok(())
    }
}

/// The command lines that name a folder.
fn running(dir: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("muster run") && line.contains(&*dir.to_string_lossy()))
        .collect()
}

async fn story(nodes: &str, last: usize) -> Result<()> {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("pool");
    let demo = Demo::start(&dir, nodes).await?;
    ensure!(running(&dir).len() == last, "{:?}", running(&dir));
    let mut alice = demo.login(&dir, 1, "alice").await?;
    let body = "<body>until tomorrow</body>";
    let to = format!("bob@{DOMAIN}");
    alice
        .send(&format!(
            "<message type='chat' to='{to}' id='1'>{body}</message><r xmlns='urn:xmpp:sm:3'/>"
        ))
        .await?;
    until("it is acknowledged", LIMIT, async || {
        let came = alice.next(LIMIT).await.ok()?;
        matches!(came, Incoming::Acked(1)).then_some(())
    })
    .await?;
    alice.close().await?;
    demo.stop(&dir).await?;

    let demo = Demo::start(&dir, nodes).await?;
    ensure!(demo.said.contains("Using the pool"), "{}", demo.said);
    let mut bob = demo.login(&dir, last, "bob").await?;
    bob.send("<presence/>").await?;
    bob.find("what was said yesterday", LIMIT, |came| {
        came.source().contains("until tomorrow").then_some(())
    })
    .await?;
    bob.close().await?;
    demo.stop(&dir).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_three_stops_and_finds_its_data_again() {
    story("3", 3).await.expect("the story ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_does_too() {
    story("1", 1).await.expect("the story ends well");
}
