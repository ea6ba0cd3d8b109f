//! The command line: many seeds, each in a process of its own, or one of them.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::ops::ControlFlow;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::planting::{self, Plant};
use crate::story;
use crate::sums::Sums;

/// How long one seed may take in real time.
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// All nodes and clients of a seed live on one thread.
const STACK_BYTES: usize = 64 << 20;

const USAGE: &str = "usage: muster-simulation [--seeds N] [--from SEED] [--jobs N] [--plant FAULT] | --seed SEED [--plant FAULT] | --same SEED";

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

    fn plant(&self) -> Result<Option<Plant>> {
        self.0
            .get("plant")
            .map(|name| Plant::named(name))
            .transpose()
    }
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let done = Arguments::read().and_then(|arguments| {
        let plant = arguments.plant()?;
        if let Some(seed) = arguments.number("seed")? {
            return match plant {
                Some(Plant::Bug(bug)) if !bug.acts() => foreseen(seed, plant),
                _ => one(seed, plant),
            };
        }
        if let Some(seed) = arguments.number("same")? {
            return same(seed);
        }
        let batch = Batch::read(&arguments)?;
        match plant {
            Some(plant) => batch.finds(plant),
            None => batch.passes(),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, plant: Option<Plant>) -> Result<()> {
    let lies = plant == Some(Plant::LyingDisk);
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

/// How often processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

struct Running {
    seed: u64,
    child: Child,
    began: Instant,
}

fn begin(seed: u64, plant: Option<Plant>) -> Result<Running> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]);
    command.env_remove(planting::CHOICE);
    if let Some(plant) = plant {
        command.args(["--plant", plant.name()]);
        if let Plant::Bug(bug) = plant {
            command.env(planting::CHOICE, bug.name());
        }
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
fn apart(seed: u64, plant: Option<Plant>) -> Result<(bool, String)> {
    let mut running = begin(seed, plant)?;
    loop {
        if let Some(ended) = running.ended()? {
            return Ok(ended);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One seed with a bug that the environment has to name.
fn foreseen(seed: u64, plant: Option<Plant>) -> Result<()> {
    let (passed, said) = apart(seed, plant)?;
    ensure!(passed, "{said}");
    println!("{said}");
    Ok(())
}

/// Two runs of one seed are the same in every byte that is written and every event that is seen.
fn same(seed: u64) -> Result<()> {
    let (first, second) = (apart(seed, None)?, apart(seed, None)?);
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

/// Many seeds, some at a time.
struct Batch {
    from: u64,
    count: u64,
    jobs: usize,
}

impl Batch {
    fn read(arguments: &Arguments) -> Result<Batch> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = arguments.number("jobs")?.unwrap_or(cores as u64).max(1) as usize;
        Ok(Batch {
            from: arguments.number("from")?.unwrap_or(1),
            count: arguments.number("seeds")?.unwrap_or(100),
            jobs,
        })
    }

    /// Plays them, and hands on what each said, until that is enough.
    fn play(
        &self,
        plant: Option<Plant>,
        mut take: impl FnMut(u64, bool, &str) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut waiting: VecDeque<u64> = (self.from..self.from + self.count).collect();
        let mut running: Vec<Running> = Vec::new();
        while !waiting.is_empty() || !running.is_empty() {
            while running.len() < self.jobs
                && let Some(seed) = waiting.pop_front()
            {
                running.push(begin(seed, plant)?);
            }
            let mut going = Vec::new();
            for mut one in running {
                match one.ended()? {
                    None => going.push(one),
                    Some((passed, said)) => {
                        if take(one.seed, passed, &said)?.is_break() {
                            waiting.clear();
                        }
                    }
                }
            }
            running = going;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// All of them pass, and together they show enough.
    fn passes(&self) -> Result<()> {
        let began = Instant::now();
        let mut failed = Vec::new();
        let mut sums = Sums::default();
        self.play(None, |seed, passed, said| {
            match passed {
                true => sums.add(said),
                false => {
                    println!("{said}\n  again: scripts/simulate --seed {seed}");
                    failed.push(seed);
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let (count, seconds) = (self.count, began.elapsed().as_secs());
        println!(
            "{count} seeds in {seconds} s, {} failed; {sums}",
            failed.len()
        );
        ensure!(failed.is_empty(), "seeds {failed:?}");
        sums.require(count)
    }

    /// One of them fails with what is planted, and passes without it.
    fn finds(&self, plant: Plant) -> Result<()> {
        let (began, name) = (Instant::now(), plant.name());
        let (mut played, mut found) = (0, false);
        self.play(Some(plant), |seed, passed, said| {
            played += 1;
            if passed || found {
                return Ok(ControlFlow::Continue(()));
            }
            found = true;
            let (passes, without) = apart(seed, None)?;
            ensure!(passes, "seed {seed} fails without {name}, too: {without}");
            println!(
                "{said}\n  {name} is found by seed {seed}, which passes without it\n  again: scripts/simulate --seed {seed} --plant {name}"
            );
            Ok(ControlFlow::Break(()))
        })?;
        ensure!(found, "none of {played} seeds finds {name}");
        println!("{played} seeds in {} s", began.elapsed().as_secs());
        Ok(())
    }
}
