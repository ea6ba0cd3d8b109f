//! slixmpp, end to end: a client library of others against two nodes, with TLS verified.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use chaos_tests::pool::{Pool, PoolSettings};

/// The Python of the virtual environment that `scripts/setup-tests` makes.
fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slixmpp/story.py")
}

async fn story() -> Result<()> {
    let settings = PoolSettings::nodes(3)
        .set("clients", "tls_required", true)
        .set("clients", "allow_plaintext_auth", false);
    let pool = Pool::start(&settings).await?;
    pool.add_users(["alice", "bob"]).await?;
    ensure!(
        python().exists(),
        "{} is missing: scripts/setup-tests makes it",
        python().display()
    );
    let mut command = Command::new(python());
    command.arg(script()).arg(pool.ca_file());
    command.args([1, 2].map(|node| pool.node(node).clients.to_string()));
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{}\n{said}\n{errors}",
        output.status
    );
    ensure!(said.lines().last() == Some("done"), "{said}\n{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slixmpp_from_end_to_end() {
    story().await.expect("the story ends well");
}
