//! One seed's story: people talk, things break, everything is healed, and what was promised is asked for.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::chaos::court::Court;
use chaos_tests::client::{Hash, Login, Mechanism, Security};
use chaos_tests::edits::Editor;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{Crowd, Seat, ring, seats};
use chaos_tests::pool::{DOMAIN, ROOMS, password};
use chaos_tests::wait::until;
use messaging::slot::PartitionTable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::friends::{FRIENDS, Friends};
use crate::guest::{GUEST, Guest};
use crate::judge::{self, Findings};
use crate::machine::{CLIENT_PORT, address};
use crate::readers::{READER, Readers};
use crate::sitting::Sitting;
use crate::wanderer::{WANDERERS, Wandering};
use crate::watch::Watch;
use crate::watchers::{WATCHERS, Watchers};
use crate::world::{self, Order, Stage};

/// Nodes that every pool begins with.
pub const FIRST: [u64; 3] = [1, 2, 3];

/// And the one that comes later.
const ALL: [u64; 4] = [1, 2, 3, 4];

/// Partitions: few, so that each has much to do.
const PARTITIONS: u16 = 3;

/// The room.
pub const ROOM: &str = "yard";

/// P18: a healed pool serves within this time.
pub const SERVES_AGAIN: Duration = Duration::from_secs(30);

/// P17: an outcome is there after 10 s, or the stream is over; then comes what was sent elsewhere.
const ANSWERED: Duration = Duration::from_secs(25);

/// What a story ends with: what was found, and the faults.
type Told = (Findings, Vec<&'static str>);

/// What one seed showed.
pub struct Report {
    findings: Findings,
    faults: Vec<&'static str>,
    took: Duration,
    trace: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} faults {} seconds {} trace {:016x} ({})",
            self.findings,
            self.faults.len(),
            self.took.as_secs(),
            self.trace,
            self.faults.join(", ")
        )
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
    let told: Rc<RefCell<Option<Told>>> = Rc::default();
    let story = Story {
        stage: Rc::clone(&stage),
        random: SmallRng::seed_from_u64(seed),
        recorder: Arc::new(Recorder::default()),
        faults: Vec::new(),
        rounds: 0,
        unknown_rounds: Vec::new(),
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

/// A story while it is told.
pub struct Story {
    pub stage: Rc<Stage>,
    pub random: SmallRng,
    pub recorder: Arc<Recorder>,
    pub faults: Vec<&'static str>,
    /// How often things were set, and at which of these times the outcome is unknown.
    rounds: usize,
    unknown_rounds: Vec<usize>,
}

/// Everybody besides the crowd.
struct Cast {
    watch: Watch,
    sitting: Sitting,
    readers: Readers,
    watchers: Watchers,
    friends: Friends,
    wandering: Wandering,
    editor: Editor,
}

/// The room's address.
pub fn room() -> String {
    format!("{ROOM}@{ROOMS}")
}

/// The partition of the room.
fn targeted() -> Result<u64> {
    let table = PartitionTable::even(PARTITIONS);
    let room = BareJid::parse(&room())?;
    Ok(u64::from(table.partition_of(&room).0))
}

fn logins() -> Vec<(u64, Login)> {
    FIRST.iter().map(|node| (*node, login(*node, ""))).collect()
}

impl Story {
    async fn run(mut self) -> Result<Told> {
        for node in FIRST {
            self.stage.order(Order::Start(node));
        }
        self.ready(&FIRST, Duration::from_secs(60)).await?;
        let watch = Watch::begin(&self.stage, &self.recorder, targeted()?);
        let people = people();
        self.accounts(&people).await?;
        let crowd = Crowd::seat(logins(), &FIRST, people, Arc::clone(&self.recorder)).await?;
        let mut cast = self.take_places(watch).await?;
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
            self.set_things(&mut cast.editor).await;
            if let Some(guest) = guest.as_ref().filter(|_| round == 0) {
                guest.is_to_go().await?;
                self.faults.push("a node removed");
            }
        }
        self.heal(&crowd).await?;
        if let Some(guest) = guest {
            guest.has_gone().await?;
        }
        let findings = self.leave(crowd, cast).await?;
        Ok((findings, self.faults))
    }

    async fn take_places(&mut self, watch: Watch) -> Result<Cast> {
        let recorder = Arc::clone(&self.recorder);
        let editor = Editor::begin(&login(1, "")).await?;
        let (romeos, juliets) = (self.some_node(), self.some_node());
        Ok(Cast {
            watch,
            sitting: Sitting::begin(logins(), &recorder).await?,
            readers: Readers::begin(&FIRST, &room(), &recorder),
            watchers: Watchers::meet(&recorder).await?,
            friends: Friends::meet(romeos, juliets).await?,
            wandering: Wandering::begin(&FIRST, self.random.random()),
            editor,
        })
    }

    /// All is well, for longer than presence may take to be right again (P14): friends see to it that it does. Then everybody
    /// ends in order, and what there is then is read and judged.
    async fn leave(&mut self, crowd: Crowd, mut cast: Cast) -> Result<Findings> {
        let (via, elsewhere) = (self.some_node(), self.some_node());
        cast.friends.see_the_truth(via, elsewhere).await?;
        let wandered = cast.wandering.end().await?;
        cast.sitting.end().await?;
        crowd.fall_silent(ANSWERED).await.context("P17")?;
        cast.readers.end();
        cast.watchers.end();
        self.read_things(&mut cast.editor).await?;
        let judged = judge::judge(&self.stage, crowd, &self.recorder, cast.watch).await;
        judged.map(|findings| findings.with(wandered))
    }

    async fn accounts(&self, people: &[Seat]) -> Result<()> {
        let machine = self.stage.machines.get(&1).context("node 1")?;
        let node = machine.handle.borrow().clone().context("node 1 runs")?;
        let seated = people.iter().map(|seat| seat.user.clone());
        let others = Court::accounts().chain([READER]).chain(Editor::ACCOUNTS);
        let others = others.chain(FRIENDS).chain(WANDERERS);
        let others = others.chain(WATCHERS.map(|(user, _)| user));
        let users: Vec<String> = seated.chain(others.map(str::to_owned)).collect();
        for user in users {
            let jid = BareJid::parse(&format!("{user}@{DOMAIN}"))?;
            node.create_account(jid, Password::new(password(&user)))
                .await?;
        }
        Ok(())
    }

    /// Waits until nodes serve.
    pub async fn ready(&self, nodes: &[u64], limit: Duration) -> Result<()> {
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

    pub fn some_node(&mut self) -> u64 {
        FIRST[self.random.random_range(0..FIRST.len())]
    }

    pub fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    /// Who leads the room's partition, as the node knows that has heard of the newest term.
    pub fn leader(&self) -> Option<u64> {
        let partition = targeted().ok()?;
        let machines = self.stage.machines.values();
        let handles = machines.filter_map(|machine| machine.handle.borrow().clone());
        let rows = handles.flat_map(|handle| handle.status().partitions);
        let rows = rows.filter(|row| u64::from(row.id) == partition);
        rows.max_by_key(|row| row.term)?.leader
    }

    /// The healing phase (P18): from here on the pool has no help, and so much time for everything.
    async fn heal(&mut self, crowd: &Crowd) -> Result<()> {
        self.stage.order(Order::HealLinks);
        self.recorder.record(What::Healed);
        let deadline = Instant::now() + SERVES_AGAIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.ready(&FIRST, left()).await.context("P18")?;
        crowd.all_in(left()).await.context("P18")?;
        crowd.acks(10, left()).await.context("P18")
    }
}

/// Who talks: in the room, one of them forgetful and one without stream management; and two users to each other. The sessions
/// of the others outlive their connections.
fn people() -> Vec<Seat> {
    let mut people = seats(&[ROOM], &FIRST);
    people.retain(|seat| seat.stream_management != (seat.home == 2));
    people.extend(ring(&FIRST[1..]));
    for seat in &mut people {
        seat.lasting = seat.stream_management && !seat.forgetful;
    }
    people
}
