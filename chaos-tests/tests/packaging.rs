//! What is in `packaging/` fits the program: the unit's and the container's commands start a node, and all files are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use chaos_tests::pool::{Pool, PoolSettings, READY_LIMIT, binary};
use chaos_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use toml::Table;

/// The node's folder of an installed node.
const FOLDER: &str = "/var/lib/muster";

/// The program of an installed node.
const PROGRAM: &str = "/usr/bin/muster";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn packaging(name: &str) -> Result<String> {
    let path = project().join("packaging").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// All values of a key of the unit.
fn unit_values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(found, _)| *found == key);
    values.map(|(_, value)| value).collect()
}

/// The words of a line of the unit that begins a program.
fn unit_words(unit: &str, key: &str) -> Result<Vec<String>> {
    let values = unit_values(unit, key);
    let line = values.first().with_context(|| format!("no {key}"))?;
    Ok(line.split(' ').map(str::to_owned).collect())
}

/// The words of an instruction of the Dockerfile, as it is last given: `["a", "b"]`.
fn container_words(dockerfile: &str, instruction: &str) -> Result<Vec<String>> {
    let lines = dockerfile.lines().rev().map(str::trim_start);
    let mut words = lines.filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(" ["));
    let words = words.next().with_context(|| format!("no {instruction}"))?;
    Ok(serde_json::from_str(&format!("[{words}"))?)
}

/// The instruction `CMD` stands for the health check, and again at a line's begin for the program.
fn container_health(dockerfile: &str) -> Result<Vec<String>> {
    let check = dockerfile.split("HEALTHCHECK").nth(1);
    let check = check.and_then(|rest| rest.split("CMD [").nth(1));
    let words = check.and_then(|rest| rest.split(']').next());
    Ok(serde_json::from_str(&format!(
        "[{}]",
        words.context("no health check")?
    ))?)
}

/// An installed node's command, for a node in another folder.
fn command(words: &[String], folder: &Path) -> Result<Command> {
    let (program, arguments) = words.split_first().context("no program")?;
    ensure!(program == PROGRAM, "{program} is begun");
    let folder = folder.to_str().context("folders have plain names")?;
    let mut command = Command::new(binary()?);
    command.args(arguments.iter().map(|word| word.replace(FOLDER, folder)));
    Ok(command)
}

/// A node that ends with the test, whatever happens.
struct Node(Child);

impl Node {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pool of one node is begun, looked after and ended by the commands of the unit and of the container.
async fn life() -> Result<()> {
    let (unit, dockerfile) = (packaging("muster.service")?, packaging("Dockerfile")?);
    let begin = unit_words(&unit, "ExecStart")?;
    let mut container = container_words(&dockerfile, "ENTRYPOINT")?;
    container.extend(container_words(&dockerfile, "CMD")?);
    ensure!(begin == container, "{begin:?} and {container:?}");
    let pool = Pool::prepare(&PoolSettings::nodes(1))?;
    let folder = pool.root().join("node-1");
    let check = command(&unit_words(&unit, "ExecStartPre")?, &folder)?.output()?;
    ensure!(check.status.success(), "{check:?}");
    let control = pool.node(1).control.clone();
    let child = command(&begin, &folder)?
        .current_dir(&folder)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut node = Node(child);
    until("the node serves", READY_LIMIT, async || {
        let answer = control.request("GET", "/health/ready", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await?;
    let health = command(&container_health(&dockerfile)?, &folder)?.output()?;
    ensure!(health.status.success(), "{health:?}");
    let reload = unit_words(&unit, "ExecReload")?;
    ensure!(reload == ["/bin/kill", "-HUP", "$MAINPID"], "{reload:?}");
    node.signal(Signal::HUP)?;
    let health = command(&container_health(&dockerfile)?, &folder)?.output()?;
    ensure!(health.status.success(), "it lives on: {health:?}");
    ensure!(dockerfile.contains("\nSTOPSIGNAL SIGTERM\n"));
    node.signal(Signal::TERM)?;
    let ended = until("the node's end", READY_LIMIT, async || {
        node.0.try_wait().ok().flatten()
    })
    .await?;
    ensure!(ended.success(), "{ended}");
    let dead = command(&container_health(&dockerfile)?, &folder)?.output()?;
    ensure!(!dead.status.success(), "a node that is gone is not healthy");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_units_and_the_containers_commands_run_a_node() {
    life().await.expect("the story ends well");
}

/// The account and the folder are the same wherever they are named.
#[test]
fn the_parts_agree() {
    let read = |name| packaging(name).expect("it is there");
    let (unit, dockerfile) = (read("muster.service"), read("Dockerfile"));
    assert_eq!(unit_values(&unit, "User"), ["muster"]);
    assert_eq!(unit_values(&unit, "StateDirectory"), ["muster"]);
    assert_eq!(unit_values(&unit, "WorkingDirectory"), [FOLDER]);
    assert_eq!(
        unit_values(&unit, "Type"),
        ["exec"],
        "nothing tells systemd that a node is ready"
    );
    let condition = format!("{FOLDER}/muster.toml");
    assert_eq!(unit_values(&unit, "ConditionPathExists"), [condition]);
    assert_eq!(
        unit_values(&unit, "EnvironmentFile"),
        ["-/etc/default/muster"]
    );
    for (script, account) in [("debian/postinst", "useradd"), ("debian/postrm", "userdel")] {
        let text = read(script);
        assert!(text.contains(FOLDER) && text.contains(account), "{script}");
        assert!(text.contains("\n#DEBHELPER#\n"), "{script}");
        let parsed = Command::new("sh")
            .arg("-n")
            .arg(project().join("packaging").join(script))
            .status();
        assert!(parsed.expect("a shell").success(), "{script}");
    }
    assert!(dockerfile.contains(&format!("\nVOLUME {FOLDER}\n")));
    assert!(dockerfile.contains("\nUSER 7480:7480\n"), "not root");
    let environment = read("debian/default");
    assert!(environment.contains("MUSTER_LOG="));
    let manual = std::fs::read_to_string(project().join("docs/operations.md")).expect("a manual");
    assert!(manual.contains("`MUSTER_LOG`"));
}

/// What the container is made from: the sources that are there, with the Rust that the workspace asks for.
#[test]
fn the_container_is_made_of_what_there_is() {
    let dockerfile = packaging("Dockerfile").expect("it is there");
    let copied = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "));
    for line in copied.filter(|line| !line.starts_with("--from")) {
        let source = line.split(' ').next().unwrap_or_default();
        assert!(project().join(source).exists(), "{line}");
    }
    // Builds take gigabytes, and pools that were made here have keys.
    let left_out = std::fs::read_to_string(project().join(".dockerignore")).expect("it is there");
    for folder in [".git", "run", "run-*", "**/target", "**/node_modules"] {
        assert!(left_out.lines().any(|line| line == folder), "{folder}");
    }
    let workspace = std::fs::read_to_string(project().join("Cargo.toml")).expect("a manifest");
    let workspace: Table = workspace.parse().expect("TOML");
    let rust = workspace["workspace"]["package"]["rust-version"].as_str();
    let from = format!("FROM rust:{}-bookworm AS build\n", rust.expect("a version"));
    assert!(dockerfile.contains(&from), "{from}");
    let pool = Pool::prepare(&PoolSettings::nodes(1)).expect("a pool");
    let config = std::fs::read_to_string(&pool.node(1).config).expect("a configuration");
    let exposed = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("EXPOSE "));
    let exposed: BTreeSet<&str> = exposed.expect("ports").split(' ').collect();
    assert_eq!(exposed.len(), 4);
    for port in exposed {
        assert!(
            config.contains(&format!(":{port}\"")),
            "nothing listens on {port}:\n{config}"
        );
    }
}

/// What the Debian package is made of: files that are there, and a configuration file that is among them.
#[test]
fn the_package_is_made_of_what_there_is() {
    let node = project().join("node");
    let manifest = std::fs::read_to_string(node.join("Cargo.toml")).expect("a manifest");
    let manifest: Table = manifest.parse().expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut placed = BTreeSet::new();
    for asset in deb["assets"].as_array().expect("assets") {
        let [source, place, _] = &asset.as_array().expect("three")[..] else {
            panic!("{asset}");
        };
        let (source, place) = (
            source.as_str().expect("text"),
            place.as_str().expect("text"),
        );
        placed.insert(format!("/{place}"));
        let (folder, name) = source.rsplit_once('/').expect("a path");
        let Some((begin, end)) = name.split_once('*') else {
            assert!(
                source == "target/release/muster" || node.join(source).exists(),
                "{source}"
            );
            continue;
        };
        let found = std::fs::read_dir(node.join(folder)).expect("a folder");
        let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        assert!(
            names
                .filter(|name| name.starts_with(begin) && name.ends_with(end))
                .count()
                > 0,
            "{source}"
        );
    }
    // Whose programs the scripts and the unit run, where Debian need not have them.
    let depends = deb["depends"].as_str().expect("text");
    let depends: Vec<&str> = depends.split(", ").collect();
    for (program, package) in [("useradd", "passwd"), ("/bin/kill", "procps")] {
        assert!(depends.contains(&package), "{program}: {depends:?}");
    }
    for file in deb["conf-files"].as_array().expect("files") {
        assert!(placed.contains(file.as_str().expect("text")), "{file}");
    }
    assert!(placed.contains("/usr/bin/"), "{placed:?}");
    // Where the unit says that the manual is.
    let service = packaging("muster.service").expect("it is there");
    let manual = "/usr/share/doc/muster/";
    assert_eq!(
        unit_values(&service, "Documentation"),
        [format!("file://{manual}operations.md")]
    );
    assert!(placed.contains(manual), "{placed:?}");
    let unit = &deb["systemd-units"];
    let path = node.join(unit["unit-scripts"].as_str().expect("text"));
    assert!(
        path.join(format!(
            "{}.service",
            unit["unit-name"].as_str().expect("text")
        ))
        .exists()
    );
    let licence = deb["license-file"][0].as_str().expect("text");
    let licence = std::fs::read_to_string(node.join(licence)).expect("a licence");
    for held in ["License: MIT or Apache-2.0", "Leon Sorokin"] {
        assert!(licence.contains(held), "{held}");
    }
}
