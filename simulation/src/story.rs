//! One seed's story: people talk, things break, everything is healed, and what was promised is asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Hash, Login, Mechanism, Security};
use chaos_tests::edits::Editor;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{Crowd, Seat, ring, seats};
use chaos_tests::pool::{DOMAIN, password};
use chaos_tests::wait::until;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::friends::{FRIENDS, Friends};
use crate::guest::{GUEST, Guest};
use crate::judge::{self, Findings};
use crate::machine::{CLIENT_PORT, address};
use crate::wanderer::{WANDERERS, Wandered, Wandering};
use crate::watch::Watch;
use crate::world::{self, Order, Stage, pairs};

/// Nodes that every pool begins with.
const FIRST: [u64; 3] = [1, 2, 3];

/// And the one that comes later.
const ALL: [u64; 4] = [1, 2, 3, 4];

/// Partitions: few, so that each has much to do.
const PARTITIONS: u16 = 3;

/// The room.
pub const ROOM: &str = "yard";

/// Who reads at the end.
pub const READER: &str = "reader";

/// P18: a healed pool serves within this time.
const SERVES_AGAIN: Duration = Duration::from_secs(30);

/// P17: an outcome is there after 10 s, or the stream is over; then comes what was sent elsewhere.
const ANSWERED: Duration = Duration::from_secs(25);

/// What one seed showed.
pub struct Report {
    findings: Findings,
    faults: Vec<&'static str>,
    took: Duration,
    trace: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings {
            acked,
            during,
            unknown,
            suppressed,
            rows,
            epochs,
            wandered,
        } = &self.findings;
        let Wandered {
            resumed,
            lost,
            sent,
        } = wandered;
        write!(
            f,
            "acked {acked} during-faults {during} unknown {unknown} suppressed {suppressed} rows {rows} epochs {epochs} \
             resumed {resumed} sessions-lost {lost} steps {sent} \
             faults {} seconds {} trace {:016x} ({})",
            self.faults.len(),
            self.took.as_secs(),
            self.trace,
            self.faults.join(", ")
        )
    }
}

/// What many seeds showed together.
#[derive(Default)]
pub struct Sums {
    numbers: BTreeMap<String, u64>,
    kinds: BTreeMap<String, u64>,
}

/// The least that a hundred seeds must have shown for a run to mean anything.
const LEAST: [(&str, u64); 6] = [
    ("resumed", 200),
    ("acked", 10_000),
    ("during-faults", 500),
    ("suppressed", 100),
    ("epochs", 500),
    ("faults", 200),
];

impl Sums {
    /// Adds what a seed said.
    pub fn add(&mut self, said: &str) {
        let last = said.lines().last().unwrap_or_default();
        let (numbers, kinds) = last.split_once('(').unwrap_or((last, ""));
        let words: Vec<&str> = numbers.split_whitespace().collect();
        for pair in words.windows(2) {
            if let [name, number] = pair
                && let Ok(number) = number.parse::<u64>()
            {
                *self.numbers.entry((*name).to_owned()).or_default() += number;
            }
        }
        for kind in kinds
            .trim_end_matches(')')
            .split(", ")
            .filter(|kind| !kind.is_empty())
        {
            *self.kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }

    /// Whether enough has happened for the verdict to mean anything.
    pub fn require(&self, seeds: u64) -> Result<()> {
        for (name, least) in LEAST {
            let had = self.numbers.get(name).copied().unwrap_or(0);
            ensure!(
                had * 100 >= least * seeds,
                "too little happened: {name} is {had}, a hundred seeds must have {least}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in &self.numbers {
            if name != "seed" {
                write!(f, "{name} {number}; ")?;
            }
        }
        write!(f, "faults by kind: {:?}", self.kinds)
    }
}

/// Plays a seed.
pub fn play(seed: u64, lies: bool, folder: &Path) -> Result<Report> {
    crate::process::begin(seed);
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.to_string();
        if !message.contains(crate::machine::PLANTED) {
            eprintln!("{message}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
    // In some stories a fourth node comes and goes.
    let nodes = if seed.is_multiple_of(3) {
        &ALL[..]
    } else {
        &FIRST
    };
    let stage = Stage::new(folder, seed, (nodes, &FIRST), PARTITIONS, lies)?;
    crate::machine::drive_logs();
    let told: Rc<RefCell<Option<(Findings, Vec<&'static str>)>>> = Rc::default();
    let story = Story {
        stage: Rc::clone(&stage),
        random: SmallRng::seed_from_u64(seed),
        recorder: Arc::new(Recorder::default()),
        faults: Vec::new(),
        rounds: 0,
        unknown_rounds: Vec::new(),
        wandered: Wandered::default(),
    };
    let tells = Rc::clone(&told);
    let recorder = Arc::clone(&story.recorder);
    let took = world::run(&stage, seed, async move {
        *tells.borrow_mut() = Some(story.run().await?);
        Ok(())
    });
    if let Ok(path) = std::env::var("MUSTER_HISTORY") {
        recorder.save(Path::new(&path))?;
    }
    let took = took.with_context(|| format!("seed {seed}"))?;
    let (findings, faults) = told
        .borrow_mut()
        .take()
        .context("a story tells what it found")?;
    for event in recorder.events() {
        stage.trace.add(&[event.at], &serde_json::to_vec(&event)?);
    }
    Ok(Report {
        findings,
        faults,
        took,
        trace: stage.trace.sum(),
    })
}

/// How somebody logs in to a node.
pub fn login(node: u64, user: &str) -> Login {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the default versions are known")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Login {
        address: (address(node), CLIENT_PORT).into(),
        domain: DOMAIN.to_owned(),
        user: user.to_owned(),
        password: password(user),
        resource: None,
        security: Security::Plain,
        mechanism: Mechanism::Scram(Hash::Sha1),
        stream_management: false,
        tls: Arc::new(tls),
    }
}

struct Story {
    stage: Rc<Stage>,
    random: SmallRng,
    recorder: Arc<Recorder>,
    faults: Vec<&'static str>,
    /// How often things were set, and at which of these times the outcome is unknown.
    rounds: usize,
    unknown_rounds: Vec<usize>,
    wandered: Wandered,
}

impl Story {
    async fn run(mut self) -> Result<(Findings, Vec<&'static str>)> {
        for node in FIRST {
            self.stage.order(Order::Start(node));
        }
        self.ready(&FIRST, Duration::from_secs(60)).await?;
        let watch = Watch::begin(&self.stage);
        let mut people = seats(&[ROOM], &FIRST);
        people.retain(|seat| seat.stream_management != (seat.home == 2));
        people.extend(ring(&FIRST[1..]));
        self.accounts(&people).await?;
        let logins = FIRST.iter().map(|node| (*node, login(*node, "")));
        let crowd =
            Crowd::seat(logins.collect(), &FIRST, people, Arc::clone(&self.recorder)).await?;
        let mut editor = Editor::begin(&login(1, "")).await?;
        let (romeos, juliets) = (self.some_node(), self.some_node());
        let friends = Friends::meet(romeos, juliets).await?;
        let wandering = Wandering::begin(&FIRST, self.random.random());
        crowd
            .acks(20, SERVES_AGAIN)
            .await
            .context("before any fault")?;
        let guest = self
            .stage
            .machines
            .contains_key(&GUEST)
            .then(|| Guest::new(&self.stage));
        for round in 0..self.random.random_range(2..=4) {
            if let Some(guest) = guest.as_ref().filter(|_| round == 0) {
                guest.comes().await?;
                self.faults.push("a node added");
            }
            self.fault(&crowd).await?;
            self.set_things(&mut editor).await;
            judge::reads_are_current(self.some_node(), &self.recorder).await?;
            if let Some(guest) = guest.as_ref().filter(|_| round == 0) {
                guest.is_to_go().await?;
                self.faults.push("a node removed");
            }
        }
        self.heal(&crowd).await?;
        if let Some(guest) = guest {
            guest.has_gone().await?;
        }
        self.wandered = wandering.end().await?;
        let (via, elsewhere) = (self.some_node(), self.some_node());
        friends.see_the_truth(via, elsewhere).await?;
        self.read_things(&mut editor).await?;
        let mut findings = judge::judge(&self.stage, crowd, &self.recorder, watch).await?;
        findings.wandered = self.wandered;
        Ok((findings, self.faults))
    }

    async fn accounts(&self, people: &[Seat]) -> Result<()> {
        let machine = self.stage.machines.get(&1).context("node 1")?;
        let node = machine.handle.borrow().clone().context("node 1 runs")?;
        let people = people.iter().map(|seat| seat.user.as_str());
        for user in people
            .chain([READER])
            .chain(Editor::ACCOUNTS)
            .chain(FRIENDS)
            .chain(WANDERERS)
        {
            let jid = BareJid::parse(&format!("{user}@{DOMAIN}"))?;
            node.create_account(jid, Password::new(password(user)))
                .await?;
        }
        Ok(())
    }

    /// Waits until nodes serve.
    async fn ready(&self, nodes: &[u64], limit: Duration) -> Result<()> {
        let is_ready = |node: &u64| {
            let machine = self.stage.machines.get(node);
            let handle = machine.and_then(|machine| machine.handle.borrow().clone());
            handle.is_some_and(|handle| handle.ready().is_ready())
        };
        let waited = until(&format!("nodes {nodes:?} serve"), limit, async || {
            nodes.iter().all(is_ready).then_some(())
        })
        .await;
        let errors = self.stage.start_errors.borrow().clone();
        ensure!(errors.is_empty(), "nodes did not start: {errors:?}");
        waited
    }

    /// Sets all that can be set (P11, P15). What was not answered has an unknown outcome, and is set anew by the next turn.
    async fn set_things(&mut self, editor: &mut Editor) {
        self.rounds += 1;
        match editor.edit_over(&login(self.some_node(), "")).await {
            Ok(set) => {
                for (register, value) in set {
                    self.recorder.record(What::Set { register, value });
                }
            }
            Err(error) => {
                tracing::info!(%error, "what was set has an unknown outcome");
                self.unknown_rounds.push(self.rounds);
            }
        }
    }

    /// Sets all once more and reads it on every node.
    async fn read_things(&mut self, editor: &mut Editor) -> Result<()> {
        let set = editor.edit_over(&login(self.some_node(), "")).await?;
        for (register, value) in set {
            self.recorder.record(What::Set { register, value });
        }
        for node in FIRST {
            let mut values = editor.read_over(&login(node, "")).await?;
            // What a round that failed may or may not have added.
            values.retain(|register, _| {
                let rounds = &mut self.unknown_rounds.iter();
                !rounds.any(|round| register.contains(&format!("-{round}@")))
            });
            let reading = format!("node {node}");
            self.recorder.record(What::Values { reading, values });
        }
        Ok(())
    }

    fn some_node(&mut self) -> u64 {
        FIRST[self.random.random_range(0..FIRST.len())]
    }

    fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    fn begin(&mut self, kind: &'static str) {
        self.faults.push(kind);
        self.recorder.record(What::Fault {
            what: kind.to_owned(),
        });
    }

    /// One fault from beginning to end, and some time after it, maybe not enough for all to be well.
    async fn fault(&mut self, crowd: &Crowd) -> Result<()> {
        match self.random.random_range(0..100) {
            0..20 => self.crash(crowd, false).await?,
            20..45 => self.crash(crowd, true).await?,
            45..57 => self.all_power(crowd).await?,
            57..75 => self.split(crowd).await?,
            75..81 => self.one_link().await,
            81..88 => self.slow_links().await,
            88..95 => self.loss().await,
            _ => self.slow_disk().await,
        }
        let rest = self.between(0, 1_500);
        tokio::time::sleep(rest).await;
        Ok(())
    }

    async fn crash(&mut self, crowd: &Crowd, power: bool) -> Result<()> {
        let node = self.some_node();
        self.begin(if power { "power cut" } else { "kill" });
        self.goes_silent(crowd, node);
        self.stage.order(if power {
            Order::CutPower(node)
        } else {
            Order::Kill(node)
        });
        let off = self.between(10, 5_000);
        tokio::time::sleep(off).await;
        self.stage.order(Order::Start(node));
        self.ready(&[node], SERVES_AGAIN).await?;
        self.speaks(crowd, node);
        Ok(())
    }

    /// A machine goes without a word here, also with its process alone: who waits for its answer is not told, and P17 does not
    /// count while it is off.
    fn goes_silent(&self, crowd: &Crowd, node: u64) {
        crowd.node_dies(node);
        self.recorder.record(What::Frozen { node });
    }

    fn speaks(&self, crowd: &Crowd, node: u64) {
        self.recorder.record(What::Thawed { node });
        crowd.node_lives(node);
    }

    async fn all_power(&mut self, crowd: &Crowd) -> Result<()> {
        self.begin("power cut of all");
        for node in FIRST {
            self.goes_silent(crowd, node);
            self.stage.order(Order::CutPower(node));
        }
        let off = self.between(10, 2_000);
        tokio::time::sleep(off).await;
        for node in FIRST {
            self.stage.order(Order::Start(node));
            let apart = self.between(0, 800);
            tokio::time::sleep(apart).await;
        }
        self.ready(&FIRST, SERVES_AGAIN).await?;
        for node in FIRST {
            self.speaks(crowd, node);
        }
        Ok(())
    }

    async fn split(&mut self, crowd: &Crowd) -> Result<()> {
        let node = self.some_node();
        self.begin("split");
        crowd.node_is_cut_off(node);
        for other in self.stage.machines.keys().filter(|other| **other != node) {
            self.stage.order(Order::Hold(node, *other));
        }
        let cut = self.between(500, 9_000);
        tokio::time::sleep(cut).await;
        crowd.node_is_in_touch(node);
        self.stage.order(Order::HealLinks);
        self.ready(&[node], SERVES_AGAIN).await?;
        crowd.node_lives(node);
        Ok(())
    }

    /// Two nodes don't reach each other, and all reach the third.
    async fn one_link(&mut self) {
        let pairs = pairs(&FIRST);
        let (a, b) = pairs[self.random.random_range(0..pairs.len())];
        self.begin("one link cut");
        self.stage.order(Order::Hold(a, b));
        let cut = self.between(500, 8_000);
        tokio::time::sleep(cut).await;
        self.stage.order(Order::Release(a, b));
    }

    async fn slow_links(&mut self) {
        self.begin("slow links");
        for (a, b) in pairs(&FIRST) {
            let most = self.between(20, 150);
            self.stage.order(Order::Delay(a, b, most));
        }
        let slow = self.between(1_000, 5_000);
        tokio::time::sleep(slow).await;
        self.stage.order(Order::HealLinks);
    }

    /// Packets get lost: what TCP sends comes after its first time-out, and all behind it waits.
    async fn loss(&mut self) {
        self.begin("loss");
        let pairs = pairs(&FIRST);
        for _ in 0..self.random.random_range(5..25) {
            let (a, b) = pairs[self.random.random_range(0..pairs.len())];
            self.stage.order(Order::Hold(a, b));
            let again = self.between(200, 400);
            tokio::time::sleep(again).await;
            self.stage.order(Order::Release(a, b));
        }
    }

    async fn slow_disk(&mut self) {
        let node = self.some_node();
        self.begin("slow disk");
        let most = self.between(50, 400);
        self.stage.order(Order::SlowDisk(node, most));
        let slow = self.between(1_000, 5_000);
        tokio::time::sleep(slow).await;
        self.stage.order(Order::HealLinks);
    }

    /// The healing phase: P17 and P18.
    async fn heal(&mut self, crowd: &Crowd) -> Result<()> {
        self.stage.order(Order::HealLinks);
        self.ready(&FIRST, SERVES_AGAIN).await?;
        self.recorder.record(What::Healed);
        crowd.all_in(SERVES_AGAIN).await.context("P18")?;
        crowd.acks(10, SERVES_AGAIN).await.context("P18")?;
        crowd.fall_silent(ANSWERED).await.context("P17")
    }
}
