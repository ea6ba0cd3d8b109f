//! A test in namespaces of its own: its networks and mounts are seen by nobody else and gone with its last process.
//!
//! The test's process starts itself again under `unshare`; what runs there is root of its own networks and mounts. So a
//! test that is killed leaves nothing behind, and tests can't meet in each other's networks. It needs root, or the right
//! to make user namespaces; where both are missing, the test fails and says so.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// Set inside an enclave, to the name of its test.
const INSIDE: &str = "MUSTER_TEST_ENCLAVE";

/// Where administrators' tools are, which is not in everybody's path on Debian.
const TOOLS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Runs a story in an enclave; `test` is the full name of the calling test.
///
/// # Panics
/// If the story fails, or no namespaces can be made here.
pub fn run(test: &str, story: impl Future<Output = Result<()>>) {
    let result = match std::env::var_os(INSIDE) {
        Some(inside) if inside == OsStr::new(test) => tell(story),
        _ => again_inside(test),
    };
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

fn tell(story: impl Future<Output = Result<()>>) -> Result<()> {
    // What is made below /run, such as names of namespaces, stays in here as well.
    command("mount", ["-t", "tmpfs", "tmpfs", "/run"])?;
    command("ip", ["link", "set", "lo", "up"])?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(story)
}

fn again_inside(test: &str) -> Result<()> {
    let trial = unshare()
        .arg("true")
        .output()
        .context("`unshare` can't be run; it is part of util-linux")?;
    ensure!(
        trial.status.success(),
        "this test needs network and mount namespaces of its own. Run it as root (in a container with CAP_SYS_ADMIN), or \
         allow user namespaces (sysctl kernel.unprivileged_userns_clone=1). unshare said: {}",
        String::from_utf8_lossy(&trial.stderr).trim()
    );
    let status = unshare()
        .arg(std::env::current_exe()?)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, test)
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "{test} failed in its enclave: {status}");
    Ok(())
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Runs a tool of administrators, which must succeed.
pub(crate) fn command<'a>(tool: &str, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
    let args: Vec<&str> = args.into_iter().collect();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(tool)
        .args(&args)
        .env("PATH", format!("{path}:{TOOLS}"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{tool}` can't be run; scripts/setup-tests installs it"))?;
    ensure!(
        output.status.success(),
        "{tool} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}
