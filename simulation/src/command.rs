//! The command line: many seeds, each in a process of its own, or one of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::story;
use crate::sums::Sums;

/// How long one seed may take in real time.
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// All nodes and clients of a seed live on one thread.
const STACK_BYTES: usize = 64 << 20;

const USAGE: &str = "usage: muster-simulation [--seeds N] [--from SEED] [--jobs N] [--plant lying-disk] | --seed SEED [--plant lying-disk] | --same SEED";

struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn read() -> Result<Arguments> {
        let mut found = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let name = name.strip_prefix("--").context(USAGE)?.to_owned();
            ensure!(
                ["seeds", "from", "jobs", "plant", "seed", "same"].contains(&name.as_str()),
                USAGE
            );
            found.insert(name, words.next().context(USAGE)?);
        }
        Ok(Arguments(found))
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let text = self.0.get(name);
        text.map(|text| {
            text.parse()
                .with_context(|| format!("--{name} takes a number"))
        })
        .transpose()
    }

    fn lies(&self) -> Result<bool> {
        match self.0.get("plant").map(String::as_str) {
            None => Ok(false),
            Some("lying-disk") => Ok(true),
            Some(other) => bail!("there is nothing to plant that is called {other}"),
        }
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let done = Arguments::read().and_then(|arguments| {
        let lies = arguments.lies()?;
        if let Some(seed) = arguments.number("seed")? {
            return one(seed, lies);
        }
        if let Some(seed) = arguments.number("same")? {
            return same(seed);
        }
        many(&arguments, lies)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, lies: bool) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    // Folders of the disk in memory, if there is one.
    let shared = std::path::Path::new("/dev/shm");
    let base = if shared.is_dir() {
        shared.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = base.join(format!("muster-simulation-{}", std::process::id()));
    // A thread of its own: what a thread draws by chance once, it draws after the beginning.
    let below = folder.clone();
    let player = std::thread::Builder::new().stack_size(STACK_BYTES);
    let playing = player.spawn(move || story::play(seed, lies, &below))?;
    let played = playing
        .join()
        .unwrap_or_else(|_| Err(anyhow::anyhow!("seed {seed}: it panicked")));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let report = played?;
    println!("seed {seed}: {report}");
    Ok(())
}

struct Running {
    seed: u64,
    child: Child,
    began: Instant,
}

fn begin(seed: u64, lies: bool) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]);
    if lies {
        command.args(["--plant", "lying-disk"]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Running {
        seed,
        child,
        began: Instant::now(),
    })
}

impl Running {
    /// What it said, once it has ended, and whether it passed. One that takes too long is ended.
    fn ended(&mut self) -> Result<Option<(bool, String)>> {
        let status = self.child.try_wait()?;
        if status.is_none() && self.began.elapsed() < SEED_LIMIT {
            return Ok(None);
        }
        if status.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        let mut said = String::new();
        if let Some(mut output) = self.child.stdout.take() {
            output.read_to_string(&mut said)?;
        }
        let passed = status.is_some_and(|status| status.success());
        match status {
            None => said.push_str(&format!("not within {SEED_LIMIT:?} of real time")),
            Some(status) if said.is_empty() => said = format!("ended with {status}"),
            Some(_) => {}
        }
        let folder = format!("/dev/shm/muster-simulation-{}", self.child.id());
        if std::path::Path::new(&folder).exists() {
            std::fs::remove_dir_all(folder)?;
        }
        Ok(Some((passed, said.trim_end().to_owned())))
    }
}

/// One seed in a process of its own.
fn apart(seed: u64, lies: bool) -> Result<(bool, String)> {
    let mut running = begin(seed, lies)?;
    loop {
        if let Some(ended) = running.ended()? {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Two runs of one seed are the same in every byte that is written and every event that is seen.
fn same(seed: u64) -> Result<()> {
    let (first, second) = (apart(seed, false)?, apart(seed, false)?);
    ensure!(first.0, "{}", first.1);
    ensure!(
        first == second,
        "two runs differ:\n{}\n{}",
        first.1,
        second.1
    );
    println!("{}\ntwice the same", first.1);
    Ok(())
}

fn many(arguments: &Arguments, lies: bool) -> Result<()> {
    let from = arguments.number("from")?.unwrap_or(1);
    let count = arguments.number("seeds")?.unwrap_or(100);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.number("jobs")?.unwrap_or(cores as u64).max(1) as usize;
    let began = Instant::now();
    let mut waiting = (from..from + count).collect::<std::collections::VecDeque<_>>();
    let mut running: Vec<Running> = Vec::new();
    let mut failed = Vec::new();
    let mut sums = Sums::default();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < jobs
            && let Some(seed) = waiting.pop_front()
        {
            running.push(begin(seed, lies)?);
        }
        let mut going = Vec::new();
        for mut one in running {
            match one.ended()? {
                None => going.push(one),
                Some((true, said)) => sums.add(&said),
                Some((false, said)) => {
                    println!("{said}\n  again: scripts/simulate --seed {}", one.seed);
                    failed.push(one.seed);
                }
            }
        }
        running = going;
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = began.elapsed().as_secs();
    println!(
        "{count} seeds in {seconds} s, {} failed; {sums}",
        failed.len()
    );
    ensure!(failed.is_empty(), "seeds {failed:?}");
    sums.require(count)
}
