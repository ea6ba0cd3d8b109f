//! Splits: a node is cut off from the others, as by a broken switch. The others go on; the one acknowledges nothing,
//! takes no logins and sends its clients away; mended, it catches up, and everybody sees everybody again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::client::{Client, Incoming, Login};
use chaos_tests::enclave;
use chaos_tests::network::Network;
use chaos_tests::people::{befriend, online, presence_of, show_of};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::trial::{RECOVERY, Trial};
use chaos_tests::wait::{until, within};
use tokio::task::JoinSet;
use tokio::time::timeout;
use xmpp::ns;

/// How long the majority may need at most, generously: the test prints how long it was.
const MAJORITY: Duration = Duration::from_secs(20);

/// A node without a quorum takes no logins 10 s after it last heard of one, which may be a second before the cut; it looks
/// twice a second, and so does the test.
const LOGINS_END: std::ops::Range<Duration> = Duration::from_secs(9)..Duration::from_secs(13);

/// It ends its streams after 30 s, within 10 s.
const STREAMS_END: std::ops::Range<Duration> = Duration::from_secs(29)..Duration::from_secs(43);

/// How long it may take until it is not ready.
const NOTICED: Duration = Duration::from_secs(6);

/// Whose node is cut off is shown offline by then; the test prints when.
const GONE: Duration = Duration::from_secs(15);

/// Presence converges after a split (P14).
const CONVERGED: Duration = Duration::from_secs(10);

/// Clients that say nothing and only wait for the end of their streams.
const WITNESSES: usize = 12;

/// A pool in a network that can be cut, under load.
struct Split {
    network: Network,
    trial: Trial,
}

impl Split {
    async fn start() -> Result<Split> {
        let network = Network::new(3)?;
        let pool = Pool::start(&PoolSettings::nodes(3).network(&network)).await?;
        let names = (0..WITNESSES).map(witness).collect::<Vec<_>>();
        let names = names.iter().map(String::as_str);
        pool.add_users(names.chain(["alice", "bob", "late"]))
            .await?;
        let trial = Trial::over(pool).await?;
        Ok(Split { network, trial })
    }

    /// Cuts a node off; gives when.
    fn cut_off(&self, node: u64) -> Result<Instant> {
        self.trial.fault(format!("node {node} is cut off"));
        self.network.cut_off(node)?;
        self.trial.crowd.node_is_cut_off(node);
        Ok(Instant::now())
    }

    /// Mends the network; the node catches up, serves, and its members come home.
    async fn heal(&mut self, node: u64) -> Result<()> {
        self.trial.crowd.node_is_in_touch(node);
        self.network.heal()?;
        self.trial.mended();
        let healed = Instant::now();
        self.trial.caught_up(node).await?;
        println!("node {node} caught up {} ms after the heal", ms(healed));
        self.trial.pool.ready(node).await?;
        println!("node {node} was ready {} ms after the heal", ms(healed));
        self.trial.crowd.node_lives(node);
        self.trial.crowd.all_in(RECOVERY).await?;
        self.trial.healed();
        Ok(())
    }

    /// The readiness of a node that is cut off turns false, with a sentence.
    async fn not_ready(&self, node: u64, cut: Instant) -> Result<()> {
        let control = self.trial.pool.node(node).control.clone();
        let what = format!("node {node} is not ready");
        let said = until(&what, NOTICED, async || {
            let answer = control.request("GET", "/health/ready", None).await.ok()?;
            (answer.status == 503).then_some(answer.body)
        });
        let said = said.await?;
        println!(
            "node {node} was not ready {} ms after the cut: {said}",
            ms(cut)
        );
        ensure!(said.contains("quorum"), "the reason is not named: {said}");
        Ok(())
    }

    /// Logins on a node that is cut off are refused at once, with a condition that means: try elsewhere.
    async fn no_logins(&self, node: u64, cut: Instant) -> Result<()> {
        /// What "at once" means on a busy machine.
        const AT_ONCE: Duration = Duration::from_secs(1);
        let login = self.trial.pool.login(node, "late");
        let refused = until("logins are refused", LOGINS_END.end, async || {
            match timeout(AT_ONCE, Client::connect(&login)).await {
                Ok(Ok(_)) => Some(Err(())),
                Ok(Err(error)) => Some(Ok(format!("{error:#}"))),
                // Not yet: it still hopes for the quorum.
                Err(_) => None,
            }
        });
        match refused.await? {
            Ok(error) => {
                let after = cut.elapsed();
                println!("logins were refused {after:?} after the cut");
                ensure!(
                    LOGINS_END.contains(&after),
                    "refused {after:?} after the cut"
                );
                ensure!(error.contains("<temporary-auth-failure"), "{error}");
                Ok(())
            }
            Err(()) => bail!("a login succeeded without a quorum"),
        }
    }
}

fn ms(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

fn witness(number: usize) -> String {
    format!("witness-{number}")
}

/// A stream that says nothing; gives when after the cut it ended, and how.
async fn watch_end(mut client: Client, cut: Instant) -> Result<(Duration, String)> {
    loop {
        match client.next(STREAMS_END.end).await? {
            Incoming::Closed(why) => return Ok((cut.elapsed(), why)),
            Incoming::Element(_) | Incoming::Acked(_) => {}
        }
    }
}

/// The streams of silent clients end, not before their time, not all at once, and without `</stream:stream>`, which
/// would make clients forget what was not acknowledged.
async fn streams_end(witnesses: Vec<Client>, cut: Instant) -> Result<()> {
    let mut running = JoinSet::new();
    for client in witnesses {
        running.spawn(watch_end(client, cut));
    }
    let ends: Vec<_> = running
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let times = || ends.iter().map(|(at, _)| *at);
    let (first, last) = (times().min(), times().max());
    let (first, last) = (first.context("witnesses")?, last.context("witnesses")?);
    println!(
        "{} silent streams ended {first:?} to {last:?} after the cut",
        ends.len()
    );
    ensure!(
        STREAMS_END.contains(&first) && STREAMS_END.contains(&last),
        "{first:?} to {last:?}"
    );
    ensure!(
        last - first > Duration::from_secs(3),
        "no jitter: {first:?} to {last:?}"
    );
    let polite = ends.iter().find(|(_, why)| why.contains("end of stream"));
    ensure!(polite.is_none(), "a stream ended with </stream:stream>");
    Ok(())
}

/// What a user without a quorum sends is not acknowledged and not refused: its stream ends, and nobody knows.
async fn nothing_acknowledged(mut client: Client) -> Result<()> {
    /// The time to settle, and some more for a busy machine.
    const UNKNOWN: Duration = Duration::from_secs(15);
    let to = format!("alice@{DOMAIN}");
    client
        .send(&format!(
            "<message type='chat' id='lost' to='{to}'><body>lost</body></message>"
        ))
        .await?;
    client
        .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
        .await?;
    loop {
        match client.next(UNKNOWN).await.context("its stream ends")? {
            Incoming::Acked(h) => ensure!(h == 0, "acknowledged by a minority"),
            Incoming::Closed(_) => return Ok(()),
            Incoming::Element(came) => ensure!(
                came.root().attr("type").as_deref() != Some("error"),
                "an unknown outcome is answered with an error: {}",
                came.source()
            ),
        }
    }
}

/// Two who see each other, over a node that is not cut off; the node that is owns both.
struct Untouched {
    one: Client,
    two: Client,
}

impl Untouched {
    /// The node among these that owns the most witnesses, and two of them, online over another.
    async fn owned_by_one_of(pool: &Pool, nodes: &[u64], over: u64) -> Result<(u64, Untouched)> {
        let mut owned = BTreeMap::<u64, Vec<String>>::new();
        for name in (0..WITNESSES).map(witness) {
            let owner = pool.owner_of(&format!("{name}@{DOMAIN}"), over).await?;
            owned
                .entry(owner.context("an owner")?)
                .or_default()
                .push(name);
        }
        owned.retain(|owner, _| nodes.contains(owner));
        let most = owned.into_iter().max_by_key(|(_, users)| users.len());
        let (owner, users) = most.context("an owner")?;
        let [one, two, ..] = users.as_slice() else {
            bail!("node {owner} owns {users:?} only");
        };
        let mut one = online(&pool.login(over, one)).await?;
        let mut two = online(&pool.login(over, two)).await?;
        befriend(&mut one, &mut two).await?;
        Ok((owner, Untouched { one, two }))
    }

    /// Neither was told that the other had gone: not by an owner that saw nobody any more, when it was back in touch.
    async fn saw_each_other(mut self) -> Result<()> {
        let there = [&self.two, &self.one].map(|client| client.jid().to_string());
        for (client, other) in [&mut self.one, &mut self.two].into_iter().zip(there) {
            for came in client.hang_up().await {
                if let Incoming::Element(came) = came {
                    let is_end = presence_of(&came, &other, Some("unavailable")).is_some();
                    ensure!(!is_end, "{other} was there: {}", came.source());
                }
            }
        }
        Ok(())
    }
}

/// The node that owns the room is alone, for so long that all its clients move.
async fn owner_in_the_minority(split: &mut Split) -> Result<()> {
    let owner = split.trial.living_owner().await?;
    let other = split.trial.pool.ids().into_iter().find(|id| *id != owner);
    let other = other.context("another node")?;
    let managed = |node, user: &str| Login {
        stream_management: true,
        ..split.trial.pool.login(node, user)
    };
    let mut witnesses = Vec::new();
    for number in 0..WITNESSES {
        let login = Login {
            stream_management: number.is_multiple_of(2),
            ..split.trial.pool.login(owner, &witness(number))
        };
        witnesses.push(Client::connect(&login).await?);
    }
    let sender = Client::connect(&managed(owner, "late")).await?;
    let mut alice = online(&split.trial.pool.login(other, "alice")).await?;
    let mut bob = online(&split.trial.pool.login(owner, "bob")).await?;
    befriend(&mut alice, &mut bob).await?;
    let bob_there = bob.jid().as_str().to_owned();

    let cut = split.cut_off(owner)?;
    let shown_offline = async {
        let gone = |came: &_| presence_of(came, &bob_there, Some("unavailable"));
        alice.find("bob's end", GONE, gone).await?;
        println!("bob was shown offline {} ms after the cut", ms(cut));
        anyhow::Ok(())
    };
    tokio::try_join!(
        split.trial.acks_at_target(100, MAJORITY),
        shown_offline,
        split.not_ready(owner, cut),
        split.no_logins(owner, cut),
        nothing_acknowledged(sender),
        within(
            "all streams end",
            STREAMS_END.end,
            streams_end(witnesses, cut)
        ),
    )?;
    // Who has moved is seen again, long before the heal, and once.
    drop(bob);
    let bob = online(&split.trial.pool.login(other, "bob")).await?;
    let again = bob.jid().as_str().to_owned();
    alice
        .find("bob again", CONVERGED, |came| {
            presence_of(came, &again, None)
        })
        .await?;
    split.trial.crowd.all_in(RECOVERY).await?;
    split.heal(owner).await?;
    Client::connect(&split.trial.pool.login(owner, "late"))
        .await?
        .close()
        .await
}

/// Another node is alone, for a while in which its clients stay: presence converges afterwards.
async fn owner_in_the_majority(split: &mut Split) -> Result<()> {
    let owner = split.trial.living_owner().await?;
    let mut others = split.trial.pool.ids();
    others.retain(|id| *id != owner);
    let (alone, untouched) = Untouched::owned_by_one_of(&split.trial.pool, &others, owner).await?;
    let mut alice = online(&split.trial.pool.login(owner, "alice")).await?;
    let mut bob = online(&split.trial.pool.login(alone, "bob")).await?;
    let alice_there = alice.jid().as_str().to_owned();
    let bob_there = bob.jid().as_str().to_owned();
    alice
        .find("bob", CONVERGED, |came| presence_of(came, &bob_there, None))
        .await?;
    bob.find("alice", CONVERGED, |came| {
        presence_of(came, &alice_there, None)
    })
    .await?;

    let cut = split.cut_off(alone)?;
    split.trial.acks_at_target(100, MAJORITY).await?;
    alice
        .find("bob's end", GONE, |came| {
            presence_of(came, &bob_there, Some("unavailable"))
        })
        .await?;
    println!("bob was shown offline {} ms after the cut", ms(cut));
    alice.send("<presence><show>away</show></presence>").await?;
    split.not_ready(alone, cut).await?;
    split.no_logins(alone, cut).await?;

    split.trial.crowd.node_is_in_touch(alone);
    let healing = Instant::now();
    split.heal(alone).await?;
    alice
        .find("bob again", CONVERGED, |came| {
            presence_of(came, &bob_there, None)
        })
        .await?;
    println!(
        "bob was seen again {} ms after the heal at most",
        ms(healing)
    );
    bob.find("alice is away", CONVERGED, |came| {
        (show_of(came, &alice_there)? == "away").then_some(())
    })
    .await?;
    println!(
        "bob saw that alice is away {} ms after the heal at most",
        ms(healing)
    );
    untouched.saw_each_other().await
}

async fn splits() -> Result<()> {
    let mut split = Split::start().await?;
    owner_in_the_minority(&mut split)
        .await
        .context("the room's owner alone")?;
    owner_in_the_majority(&mut split)
        .await
        .context("another node alone")?;
    let least = Dose {
        faults: 2,
        acked_during_faults: 500,
        kinds_acked: 4,
        moves: 8,
        suppressed: 2,
        received: 2000,
        readings: 48,
        direct: 50,
        in_flight: 6,
        ..Dose::default()
    };
    split.trial.judge("splits 2/1", least).await
}

#[test]
fn a_cut_off_node_serves_nobody_and_comes_back() {
    enclave::run("a_cut_off_node_serves_nobody_and_comes_back", splits());
}
