//! One run: everybody takes their place, faults come by the plan, all is healed, and the history is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use messaging::slot::PartitionTable;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use xmpp::jid::BareJid;

use super::bounds::{Judged, Measure, Measured};
use super::court::{self, COURT_SESSIONS, Court};
use super::ground::{Blow, Ground, LIMIT};
use super::lookers::{Overheard, bystander, poller, reader, tokens_in};
use super::measures::{disturbed, shown_after_mends};
use super::plan::Plan;
use super::watchers;
use crate::checker::{Coverage, Judgement, Promise, Verdict, check};
use crate::client::Login;
use crate::edits::Editor;
use crate::history::{Event, Recorder, What};
use crate::load::{gaps, silences};
use crate::pool::Pool;
use crate::trial::Trial;
use crate::wait::{until, within};

/// After the last heal: what presence may take to converge (P14), and a little.
const CONVERGED: u64 = 10_500_000_000;

/// How long a pool and its crowd may take until the run begins.
const BEGUN: Duration = Duration::from_secs(120);

/// How long all that follows the time of faults may take: the end of the last one, the core, healing, silence, reading.
const BEHIND: Duration = Duration::from_secs(240);

/// How long the judgement may take, besides what a longer history takes.
const JUDGED: Duration = Duration::from_secs(90);

/// How long the last deliveries may take.
const SETTLED: Duration = Duration::from_secs(10);

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// The command that runs it again.
    pub command: String,
    /// Whether everything was kept, and enough happened.
    pub passed: bool,
    /// For programs.
    pub json: Value,
    text: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Everybody besides the crowd.
struct Cast {
    court: Arc<Court>,
    /// They end by themselves when the court closes.
    courtiers: JoinSet<()>,
    /// They are ended.
    lookers: JoinSet<()>,
    overheard: Vec<(u64, Arc<Overheard>)>,
    editor: Editor,
}

/// Runs a plan. In an enclave. Whatever stands still ends the run in time, and says what was waited for.
pub async fn run(mut plan: Plan) -> Result<Report> {
    println!("seed {}: {}", plan.seed, plan.command());
    let mut ground = within("all take their places", BEGUN, Ground::start(plan.seed)).await?;
    let bound = plan.lasts + BEHIND;
    match within("the run", bound, Box::pin(play(&mut plan, &mut ground))).await {
        Ok(played) => {
            let bound = plan.lasts + JUDGED;
            let judged = Box::pin(judge(&plan, ground, &played));
            within("the judgement", bound, judged).await
        }
        Err(error) => {
            println!("{error:#}\n{}", ground.state().await);
            let folder = keep(&plan, &ground.trial.pool, &ground.trial.recorder())?;
            Err(error).with_context(|| kept_in(&folder))
        }
    }
}

/// What was played.
struct Played {
    faults: Vec<String>,
    lasted: Duration,
}

/// Causes faults by the plan, until everybody has ended in order, and reads what there is then.
async fn play(plan: &mut Plan, ground: &mut Ground) -> Result<Played> {
    let mut cast = Cast::take_places(ground).await?;
    let began = Instant::now();
    let mut faults = Vec::new();
    while let Some(fault) = plan.next(began.elapsed(), faults.len()) {
        ground.cause(fault, plan.dice()).await?;
        faults.push(format!("{fault:?}"));
        let ids = ground.trial.pool.ids();
        let node = ids.get(faults.len() % ids.len()).copied().unwrap_or(1);
        ground.trial.edit(&mut cast.editor, node).await?;
        ground.trial.crowd.acks(20, LIMIT).await?;
    }
    let lasted = began.elapsed();
    cast.leave(ground).await?;
    ground.say("silence");
    read_all(&ground.trial, &cast).await?;
    Ok(Played { faults, lasted })
}

/// Keeps what shows why a run failed: the history and the nodes' logs, in a folder of the run's own.
fn keep(plan: &Plan, pool: &Pool, recorder: &Recorder) -> Result<PathBuf> {
    let name = format!("muster-chaos-{}-{}", plan.configuration.name, plan.seed);
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    recorder.save(&folder.join("history.jsonl"))?;
    for id in pool.ids() {
        std::fs::write(folder.join(format!("node-{id}.log")), pool.node(id).log()?)?;
    }
    Ok(folder)
}

fn kept_in(folder: &Path) -> String {
    format!(
        "the history and the nodes' logs are in {}",
        folder.display()
    )
}

impl Cast {
    async fn take_places(ground: &Ground) -> Result<Cast> {
        let pool = &ground.trial.pool;
        let recorder = ground.trial.recorder();
        let court = Court::open(pool, Arc::clone(&recorder), COURT_SESSIONS).await?;
        let court = Arc::new(court);
        let mut courtiers = JoinSet::new();
        courtiers.spawn(Arc::clone(&court).sits());
        courtiers.spawn(Arc::clone(&court).receives());
        for hand in 0..Court::hands() {
            courtiers.spawn(Arc::clone(&court).hand(hand));
        }
        let rooms = Trial::rooms();
        let target = rooms.first().context("a room")?;
        let targeted = BTreeSet::from([partition_of(pool.partitions(), target)?]);
        let (mut lookers, mut overheard) = (JoinSet::new(), Vec::new());
        for node in pool.ids() {
            let named = |name: &str| format!("{name}-{node}");
            let users = [named("reader"), named("bystander")];
            pool.add_users(users.iter().map(String::as_str)).await?;
            let [as_reader, as_bystander] = users.map(|user| pool.login(node, &user));
            lookers.spawn(reader(
                Arc::clone(&recorder),
                node,
                as_reader,
                target.clone(),
            ));
            let control = pool.node(node).control.clone();
            lookers.spawn(poller(
                Arc::clone(&recorder),
                node,
                control,
                targeted.clone(),
            ));
            let heard = Arc::new(Overheard::default());
            lookers.spawn(bystander(Arc::clone(&heard), as_bystander));
            overheard.push((node, heard));
            // Its own node first, and the others in turn.
            let ids = pool.ids();
            let turn = ids.iter().cycle().skip_while(|id| **id != node);
            let logins: Vec<Login> = turn
                .take(ids.len())
                .map(|id| pool.login(*id, &watchers::name(node)))
                .collect();
            let watch = watchers::watch(Arc::clone(&recorder), logins, watchers::PATIENCE);
            lookers.spawn(watch);
        }
        let editor = Editor::start(pool).await?;
        Ok(Cast {
            court,
            courtiers,
            lookers,
            overheard,
            editor,
        })
    }

    /// All is healed; everybody goes on for as long as presence may take, and ends in order.
    async fn leave(&mut self, ground: &mut Ground) -> Result<()> {
        let trial = &ground.trial;
        let recorder = trial.recorder();
        trial.crowd.all_in(LIMIT).await?;
        trial.healed();
        let healed = recorder.now();
        trial.crowd.acks(50, LIMIT).await?;
        until("presence has had its time", LIMIT, async || {
            (recorder.now() > healed + CONVERGED).then_some(())
        })
        .await?;
        trial.crowd.retries(1, LIMIT).await?;
        self.court.close();
        within("the court ends", LIMIT, async {
            while self.courtiers.join_next().await.is_some() {}
            Ok(())
        })
        .await?;
        trial.crowd.fall_silent(LIMIT).await?;
        self.lookers.shutdown().await;
        Ok(())
    }
}

fn partition_of(table: &PartitionTable, room: &str) -> Result<u64> {
    Ok(u64::from(table.partition_of(&BareJid::parse(room)?).0))
}

/// Writes down what is read when nobody talks any more.
async fn read_all(trial: &Trial, cast: &Cast) -> Result<()> {
    let mut rooms = Trial::rooms();
    rooms.push(court::room());
    trial.read_archives(&rooms).await?;
    trial.read_users_archives().await?;
    trial.read_letters(Court::LADY, &Court::SUITORS).await?;
    trial.read_edits(&cast.editor).await?;
    replicas(trial).await?;
    secrets(trial, cast)
}

/// Waits for the last deliveries, and judges.
async fn judge(plan: &Plan, ground: Ground, played: &Played) -> Result<Report> {
    let recorder = ground.trial.recorder();
    let settled = until("nothing is owed to anybody", SETTLED, async || {
        (check(&recorder.events()).count(Promise::NoHoles) == 0).then_some(())
    });
    if let Err(error) = settled.await {
        println!("{error}");
    }
    let Ground {
        disks,
        trial,
        notes,
        blows,
        measured,
        ..
    } = ground;
    let Trial { pool, crowd, .. } = trial;
    let (betrayed, disturbed) = crowd.end().await;
    let events = recorder.events();
    let found = Found::of(&events, betrayed, &blows, measured);
    let passed = found.passed();
    let mut text = found.text(&events, played, disturbed.len(), &notes);
    if !passed || std::env::var_os("MUSTER_KEEP").is_some() {
        let folder = keep(plan, &pool, &recorder)?;
        text.push_str(&format!("{}\n", kept_in(&folder)));
    }
    drop(disks);
    let word = if passed { "passed" } else { "FAILED" };
    text.push_str(&format!("{word}: {}\n", plan.command()));
    Ok(Report {
        command: plan.command(),
        passed,
        json: numbers(plan, &found, &played.faults),
        text,
    })
}

/// What a run showed.
struct Found {
    verdict: Verdict,
    /// Of what too little happened.
    lacks: Vec<&'static str>,
    /// What happened to members that must not.
    betrayed: Vec<String>,
    /// The fault table.
    bounds: Vec<Judged>,
    figures: Vec<String>,
}

impl Found {
    fn of(
        events: &[Event],
        betrayed: Vec<String>,
        blows: &[Blow],
        mut measured: Measured,
    ) -> Found {
        let verdict = check(events);
        let target = &Trial::rooms()[0];
        for blow in blows {
            let heard = silences(events, target, (blow.at, blow.struck), &blow.nodes).into_iter();
            let heard = heard.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
            measured.add(blow.measure, heard);
            let ends = match blow.measure {
                Measure::OwnerKilled | Measure::FollowerKilled => Some(Measure::Disturbed),
                Measure::SlowReaders => Some(Measure::SlowReadersDisturbed),
                _ => None,
            };
            if let Some(ends) = ends {
                measured.add(ends, [disturbed(events, blow.at)]);
            }
        }
        // That something of it is seen is the checker's to ask for (P14).
        let shown = shown_after_mends(events);
        if !shown.is_empty() {
            measured.add(Measure::Shown, shown);
        }
        let mut figures = measured.figures();
        figures.push(format!(
            "FIGURES of {} acknowledged messages {} lost, {} doubled",
            verdict.acked,
            verdict.count(Promise::AckedIsArchived),
            verdict.count(Promise::NoDoubles)
        ));
        Found {
            lacks: verdict.coverage.lacks(&Coverage::FULL),
            verdict,
            betrayed,
            bounds: measured.judge(),
            figures,
        }
    }

    /// Everything was kept, enough happened, and no bound is missed by more than the machine explains. The bounds count where
    /// they are asked for: a test that runs beside others says nothing about time.
    fn passed(&self) -> bool {
        let bounds_count = std::env::var_os("MUSTER_CHAOS_BOUNDS").is_some();
        self.verdict.require_kept(&Promise::ALL).is_ok()
            && self.lacks.is_empty()
            && self.betrayed.is_empty()
            && (!bounds_count || self.bounds.iter().all(Judged::passes))
    }

    fn text(
        &self,
        events: &[Event],
        played: &Played,
        disturbed: usize,
        notes: &[String],
    ) -> String {
        let Played { faults, lasted } = played;
        let waits = gaps(events, &Trial::rooms()[0]);
        let mut text = table(&self.verdict);
        for bound in &self.bounds {
            text.push_str(&format!("{bound}\n"));
        }
        text.push_str(&format!(
            "{}faults: {}\nlasted {lasted:?}; {waits}; streams of living nodes that ended: {disturbed}\n",
            self.verdict,
            faults.join(", ")
        ));
        for line in notes.iter().chain(&self.betrayed).chain(&self.figures) {
            text.push_str(&format!("{line}\n"));
        }
        if !self.lacks.is_empty() {
            let lacks = self.lacks.join(", ");
            text.push_str(&format!("too little happened: {lacks}\n"));
        }
        text
    }
}

/// What each replica holds, by its hash.
async fn replicas(trial: &Trial) -> Result<()> {
    for (partition, hashes) in trial.pool.replica_hashes().await? {
        for (node, hash) in hashes {
            trial.recorder().record(What::Replica {
                partition,
                node,
                applied: hash["applied"].as_u64().context("an applied index")?,
                hash: hash.to_string(),
            });
        }
    }
    Ok(())
}

/// Who may see what, and what is where nobody may see it: nodes' logs, and what the uninvolved were sent.
fn secrets(trial: &Trial, cast: &Cast) -> Result<()> {
    let recorder = trial.recorder();
    let mut audiences: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seat in trial.crowd.seats() {
        let audience = audiences.entry(seat.log()).or_default();
        audience.insert(seat.user.clone());
        let to = seat.to.split('@').next().unwrap_or_default();
        audience.insert(to.to_owned());
    }
    audiences.insert(court::room(), Court::audience().into_iter().collect());
    for (log, users) in Court::letters() {
        audiences.insert(log, users.into());
    }
    for (log, users) in audiences {
        let users = users.into_iter().collect();
        recorder.record(What::Audience { log, users });
    }
    let tokens: BTreeSet<String> = recorder
        .events()
        .into_iter()
        .filter_map(|event| match event.what {
            What::Invoke { token, .. } => Some(token),
            _ => None,
        })
        .collect();
    let logs = trial.pool.ids().into_iter();
    let logs = logs.map(|id| Ok((format!("the log of node {id}"), trial.pool.node(id).log()?)));
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let heard = cast.overheard.iter();
    let heard = heard.map(|(node, heard)| {
        let place = format!("what a bystander on node {node} was sent");
        (place, heard.text())
    });
    for (place, text) in logs.into_iter().chain(heard) {
        let found = tokens_in(&text, &tokens);
        recorder.record(What::Searched { place, found });
    }
    Ok(())
}

/// A line for each promise.
fn table(verdict: &Verdict) -> String {
    let line = |promise: &Promise| {
        let judgement = match verdict.of(*promise) {
            Judgement::Pass(judged) => format!("pass     {judged} judged"),
            Judgement::Fail(broken) => format!("FAIL     {broken} broken"),
            Judgement::Unknown => "UNKNOWN  nothing shows it".to_owned(),
        };
        format!("P{:<3} {promise:<22?} {judgement}\n", promise.number())
    };
    Promise::ALL.iter().map(line).collect()
}

fn numbers(plan: &Plan, found: &Found, faults: &[String]) -> Value {
    let verdict = &found.verdict;
    let word = |promise: &Promise| match verdict.of(*promise) {
        Judgement::Pass(judged) => json!({ "verdict": "pass", "judged": judged }),
        Judgement::Fail(broken) => json!({ "verdict": "fail", "broken": broken }),
        Judgement::Unknown => json!({ "verdict": "unknown" }),
    };
    let promises: serde_json::Map<String, Value> = Promise::ALL
        .iter()
        .map(|promise| (format!("P{}", promise.number()), word(promise)))
        .collect();
    let Coverage {
        leader_changes,
        leader_in_minority,
        leader_in_majority,
        acked_during_faults,
        resumptions,
        snapshots_installed,
        suppressed,
    } = verdict.coverage;
    json!({
        "config": plan.configuration.name,
        "seed": plan.seed,
        "command": plan.command(),
        "passed": found.passed(),
        "promises": promises,
        "bounds": found.bounds.iter().map(Judged::json).collect::<Vec<_>>(),
        "lacks": found.lacks,
        "betrayed": found.betrayed,
        "faults": faults,
        "figures": found.figures,
        "acked": verdict.acked,
        "unknown": verdict.unknown,
        "refused": verdict.failed,
        "leader_changes": leader_changes,
        "leader_in_minority": leader_in_minority,
        "leader_in_majority": leader_in_majority,
        "acked_during_faults": acked_during_faults,
        "resumptions": resumptions,
        "snapshots_installed": snapshots_installed,
        "suppressed": suppressed,
    })
}
