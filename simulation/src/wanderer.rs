//! A user whose connection goes again and again, and who resumes on another node (P7).
//!
//! What she sends goes to a friend, each message once and in order, whatever becomes of her connections and nodes: she sends
//! again exactly what the server's `h` does not cover.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, authenticated};
use chaos_tests::load::read_archive;
use chaos_tests::pool::DOMAIN;
use chaos_tests::wire::Wire;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use xmpp::ns;
use xmpp::scan::{Document, Frame};

use crate::story::login;

/// The accounts: who wanders, and to whom she writes.
pub const WANDERERS: [&str; 2] = ["wanda", "walter"];

/// How long the last acknowledgements may take once all is healed.
const SETTLED: Duration = Duration::from_secs(25);

/// What the wandering came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wandered {
    /// Sessions that went on.
    pub resumed: usize,
    /// Sessions that were lost with their node.
    pub lost: usize,
    /// Messages.
    pub sent: usize,
}

struct Wanderer {
    nodes: Vec<u64>,
    random: SmallRng,
    wire: Option<Wire>,
    /// The session; `None`: it is lost, or has not begun.
    session: Option<String>,
    /// Stanzas of this session that were handled, sent and acknowledged.
    handled: u32,
    sent: u32,
    acked: u32,
    /// Those behind `acked`.
    unacked: VecDeque<String>,
    told: Wandered,
}

/// She wanders until she is told to stop.
pub struct Wandering {
    stop: Rc<Cell<bool>>,
    going: JoinHandle<Result<Wandered>>,
}

impl Wandering {
    /// Begins, on nodes that will be there at the end.
    pub fn begin(nodes: &[u64], seed: u64) -> Wandering {
        let stop = Rc::new(Cell::new(false));
        let wanderer = Wanderer {
            nodes: nodes.to_vec(),
            random: SmallRng::seed_from_u64(seed),
            wire: None,
            session: None,
            handled: 0,
            sent: 0,
            acked: 0,
            unacked: VecDeque::new(),
            told: Wandered::default(),
        };
        let going = tokio::task::spawn_local(wanderer.wander(Rc::clone(&stop)));
        Wandering { stop, going }
    }

    /// She sends no more; all that she sent must be acknowledged, and be in her archive once, in order.
    pub async fn end(self) -> Result<Wandered> {
        self.stop.set(true);
        let ended = timeout(SETTLED, self.going).await;
        let told = ended.context("P7, P17: the last messages are not acknowledged")???;
        let [wanda, _] = WANDERERS;
        let mut client = Client::connect(&login(1, wanda)).await?;
        let rows = read_archive(&mut client, &format!("{wanda}@{DOMAIN}"), true).await?;
        client.close().await?;
        let found: Vec<String> = rows.into_iter().map(|(body, _)| body).collect();
        let expected: Vec<String> = (1..=told.sent).map(body).collect();
        ensure!(
            found == expected,
            "P7: {} messages were sent, and the archive has {found:?}",
            told.sent
        );
        Ok(told)
    }
}

fn body(number: usize) -> String {
    format!("step-{number}")
}

impl Wanderer {
    async fn wander(mut self, stop: Rc<Cell<bool>>) -> Result<Wandered> {
        loop {
            if stop.get() && self.session.is_some() && self.unacked.is_empty() {
                return Ok(self.told);
            }
            let went_well = self.step(stop.get()).await;
            match went_well {
                Ok(()) => {}
                // What the server may never say.
                Err(error) if error.is::<Broken>() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the connection is gone");
                    self.wire = None;
                    sleep(Duration::from_millis(self.random.random_range(20..300))).await;
                }
            }
        }
    }

    /// Connects if need be, sends something and reads for a moment.
    async fn step(&mut self, quiet: bool) -> Result<()> {
        if self.wire.is_none() {
            timeout(Duration::from_secs(12), self.connect()).await??;
        }
        if !quiet {
            for _ in 0..self.random.random_range(1..4) {
                self.told.sent += 1;
                let body = body(self.told.sent);
                self.send(message(&body)).await?;
            }
        }
        let ask = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        self.wire()?.send(ask.as_bytes()).await?;
        let until =
            tokio::time::Instant::now() + Duration::from_millis(self.random.random_range(50..400));
        while let Ok(frame) = tokio::time::timeout_at(until, self.wire()?.next()).await {
            match frame?.context("the end of the socket")? {
                Frame::Element(document) => self.take(&document).await?,
                Frame::Header(_) => {}
                Frame::Close => bail!("the end of the stream"),
            }
        }
        if !quiet && self.random.random_bool(0.15) {
            bail!("the network is gone");
        }
        Ok(())
    }

    fn wire(&mut self) -> Result<&mut Wire> {
        self.wire.as_mut().context("not connected")
    }

    async fn send(&mut self, stanza: String) -> Result<()> {
        self.sent += 1;
        self.unacked.push_back(stanza.clone());
        self.wire()?.send(stanza.as_bytes()).await
    }

    async fn take(&mut self, document: &Document) -> Result<()> {
        let root = document.root();
        match (root.ns(), root.name()) {
            (ns::STREAM_MANAGEMENT, "r") => {
                let ack = format!(
                    "<a xmlns='{}' h='{}'/>",
                    ns::STREAM_MANAGEMENT,
                    self.handled
                );
                self.wire()?.send(ack.as_bytes()).await
            }
            (ns::STREAM_MANAGEMENT, "a") => self.acknowledged(document),
            (ns::CLIENT, _) => {
                self.handled += 1;
                if root.attr("type").as_deref() == Some("error") {
                    return Err(Broken(format!("an error came: {}", document.source())).into());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// XEP-0198 §4, §5: `h` is never lower than before and never higher than what was sent.
    fn acknowledged(&mut self, document: &Document) -> Result<()> {
        let h: u32 = document.root().attr("h").context("no h")?.parse()?;
        if !(self.acked..=self.sent).contains(&h) {
            let (acked, sent) = (self.acked, self.sent);
            let what = format!(
                "P7: {} where {acked} were acknowledged and {sent} sent",
                document.source()
            );
            return Err(Broken(what).into());
        }
        self.unacked.drain(..(h - self.acked) as usize);
        self.acked = h;
        Ok(())
    }

    async fn connect(&mut self) -> Result<()> {
        let node = self.nodes[self.random.random_range(0..self.nodes.len())];
        let [wanda, _] = WANDERERS;
        self.wire = Some(authenticated(&login(node, wanda)).await?);
        if let Some(id) = self.session.clone() {
            let h = self.handled;
            let resume = format!(
                "<resume xmlns='{}' previd='{id}' h='{h}'/>",
                ns::STREAM_MANAGEMENT
            );
            self.wire()?.send(resume.as_bytes()).await?;
            let answer = self.wire()?.element("the answer to <resume/>").await?;
            match answer.root().name() {
                "resumed" => {
                    self.acknowledged(&answer)?;
                    self.told.resumed += 1;
                    return self.send_again().await;
                }
                "failed" => {
                    // What it says is handled is never sent again.
                    if answer.root().attr("h").is_some() {
                        self.acknowledged(&answer)?;
                    }
                    self.session = None;
                    self.told.lost += 1;
                }
                _ => bail!("{}", answer.source()),
            }
        }
        self.bind().await?;
        self.sent = u32::try_from(self.unacked.len())?;
        self.send_again().await
    }

    async fn send_again(&mut self) -> Result<()> {
        for stanza in self.unacked.clone() {
            self.wire()?.send(stanza.as_bytes()).await?;
        }
        Ok(())
    }

    async fn bind(&mut self) -> Result<()> {
        let bind = format!("<iq type='set' id='bind'><bind xmlns='{}'/></iq>", ns::BIND);
        self.wire()?.send(bind.as_bytes()).await?;
        let answer = self.wire()?.element("the answer to bind").await?;
        ensure!(
            answer.root().attr("type").as_deref() == Some("result"),
            "{}",
            answer.source()
        );
        let enable = format!("<enable xmlns='{}' resume='true'/>", ns::STREAM_MANAGEMENT);
        self.wire()?.send(enable.as_bytes()).await?;
        let enabled = self.wire()?.element("<enabled/>").await?;
        let id = enabled.root().attr("id").context("not resumable")?;
        self.session = Some(id.into_owned());
        (self.handled, self.sent, self.acked) = (0, 0, 0);
        Ok(())
    }
}

fn message(body: &str) -> String {
    let [_, walter] = WANDERERS;
    format!(
        "<message to='{walter}@{DOMAIN}' type='chat' id='{body}'><body>{body}</body>\
         <origin-id xmlns='{}' id='{body}'/></message>",
        ns::STANZA_ID
    )
}

/// A promise that was not kept.
#[derive(Debug)]
struct Broken(String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}
