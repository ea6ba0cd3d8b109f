//! Playing scripts over real clients, spread over the pool's nodes.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use xmpp::jid::FullJid;
use xmpp::ns;
use xmpp::scan::{Document, Limits};

use super::parse::{Action, ClientPart, Scenario, Step};
use super::pattern::{Captures, expected, matches};
use super::tag::Tag;
use crate::client::{Client, Incoming, Login};
use crate::wait::PROMPT;

/// How long a client must hear nothing after the server's sign of life. What other nodes still had under way
/// arrives within a few milliseconds; a double that a slow machine delays longer is seen by the next step.
const SILENCE: Duration = Duration::from_millis(300);

/// Plays a script. `login` says how the client of a number and an account's local part logs in; the account exists. The
/// next number has another node, if there is one.
pub async fn run(
    scenario: &Scenario,
    tag: &Tag,
    login: &(dyn Fn(usize, &str) -> Login + Sync),
) -> Result<()> {
    let mut stage = Stage {
        scenario,
        tag,
        clients: scenario.clients.iter().map(|_| None).collect(),
        jids: scenario.clients.iter().map(|_| None).collect(),
        captures: Captures::new(),
    };
    for step in &scenario.steps {
        let who = scenario
            .clients
            .get(step.client)
            .map_or("?", |client| client.name.as_str());
        let place = || format!("{}:{} ({who})", scenario.name, step.line);
        stage.play(step, login).await.with_context(place)?;
    }
    Ok(())
}

struct Stage<'a> {
    scenario: &'a Scenario,
    tag: &'a Tag,
    clients: Vec<Option<Client>>,
    /// What each was bound to last.
    jids: Vec<Option<FullJid>>,
    captures: Captures,
}

impl Stage<'_> {
    async fn play(
        &mut self,
        step: &Step,
        login: &(dyn Fn(usize, &str) -> Login + Sync),
    ) -> Result<()> {
        match &step.action {
            Action::Connect => self.connect(step.client, login).await,
            Action::Authenticate { elsewhere } => {
                self.authenticate(step.client, *elsewhere, login).await
            }
            Action::CutOff => self.take(step.client).map(drop),
            Action::Disconnect => self.take(step.client)?.close().await,
            Action::Send(xml) => {
                let xml = self.tag.put(&self.fill_in(xml)?);
                self.client(step.client)?.send(&xml).await
            }
            Action::Receive(xml) => self.receive(step.client, xml).await,
            Action::ReceiveEventually(xml) => self.receive_eventually(step.client, xml).await,
            Action::ReceiveNothing => self.receive_nothing(step.client).await,
            Action::StreamEnds => self.stream_ends(step.client).await,
        }
    }

    fn client(&mut self, at: usize) -> Result<&mut Client> {
        self.clients
            .get_mut(at)
            .and_then(Option::as_mut)
            .context("is not connected")
    }

    fn take(&mut self, at: usize) -> Result<Client> {
        self.clients
            .get_mut(at)
            .and_then(Option::take)
            .context("is not connected")
    }

    /// How a client logs in, on the node of a number.
    fn login(
        &self,
        (at, node): (usize, usize),
        login: &(dyn Fn(usize, &str) -> Login + Sync),
    ) -> Result<(&ClientPart, Login)> {
        let part = self.scenario.clients.get(at);
        let part = part.context("is not in the script")?;
        let (bare, resource) = match part.jid.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource.to_owned())),
            None => (part.jid.as_str(), None),
        };
        let local = bare.split('@').next().unwrap_or_default();
        let login = Login {
            resource,
            ..login(node, &self.tag.name(local))
        };
        Ok((part, login))
    }

    async fn authenticate(
        &mut self,
        at: usize,
        elsewhere: bool,
        login: &(dyn Fn(usize, &str) -> Login + Sync),
    ) -> Result<()> {
        let node = if elsewhere { at + 1 } else { at };
        let (_, login) = self.login((at, node), login)?;
        let jid = self.jids.get(at).cloned().flatten();
        let jid = jid.context("was never bound")?;
        let client = Client::unbound(&login, jid).await?;
        if let Some(place) = self.clients.get_mut(at) {
            *place = Some(client);
        }
        Ok(())
    }

    async fn connect(
        &mut self,
        at: usize,
        login: &(dyn Fn(usize, &str) -> Login + Sync),
    ) -> Result<()> {
        let (part, login) = self.login((at, at), login)?;
        let (name, bare) = (
            part.name.clone(),
            part.jid.split('/').next().unwrap_or_default().to_owned(),
        );
        let client = Client::connect(&login).await?;
        let full = self.tag.take_off(client.jid().as_str());
        if let Some(jid) = self.jids.get_mut(at) {
            *jid = Some(client.jid().clone());
        }
        self.captures.insert(format!("{name}'s JID"), bare);
        self.captures.insert(format!("{name}'s full JID"), full);
        if let Some(place) = self.clients.get_mut(at) {
            *place = Some(client);
        }
        Ok(())
    }

    /// Replaces `${name}` by what was captured.
    fn fill_in(&self, xml: &str) -> Result<String> {
        let mut out = String::with_capacity(xml.len());
        let mut rest = xml;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').context("`${` without `}`")?;
            let value = self
                .captures
                .get(name)
                .with_context(|| format!("nothing is called {name:?}"))?;
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What came, with this run's tag taken off.
    fn plain(&self, document: &Document) -> Result<Document> {
        let text = self.tag.take_off(&canonical(document)?);
        Ok(Document::parse(Bytes::from(text), &Limits::OWN)?)
    }

    async fn next(&mut self, at: usize, deadline: Instant) -> Result<Document> {
        let left = deadline.saturating_duration_since(Instant::now());
        let document = self.client(at)?.next_element(left).await?;
        self.plain(&document)
    }

    async fn receive(&mut self, at: usize, xml: &str) -> Result<()> {
        let pattern = expected(&self.fill_in(xml)?).map_err(anyhow::Error::msg)?;
        let mut open: Vec<_> = pattern.root().children().collect();
        let deadline = Instant::now() + PROMPT;
        while !open.is_empty() {
            let came = self
                .next(at, deadline)
                .await
                .with_context(|| format!("expected {xml}"))?;
            let results: Vec<_> = open.iter().map(|one| matches(*one, came.root())).collect();
            match results.iter().position(Result::is_ok) {
                Some(fits) => {
                    open.remove(fits);
                    self.captures
                        .extend(results.into_iter().flatten().next().unwrap_or_default());
                }
                // A server asks what has come whenever it wants to know (XEP-0198 §4).
                None if came.root().is("r", ns::STREAM_MANAGEMENT) => {}
                None => {
                    let why: Vec<_> = results
                        .into_iter()
                        .filter_map(Result::err)
                        .map(|m| m.0)
                        .collect();
                    bail!(
                        "expected {xml}\ncame     {}\nbecause  {}",
                        came.source(),
                        why.join("\n         ")
                    );
                }
            }
        }
        Ok(())
    }

    async fn receive_eventually(&mut self, at: usize, xml: &str) -> Result<()> {
        let pattern = expected(&self.fill_in(xml)?).map_err(anyhow::Error::msg)?;
        let deadline = Instant::now() + PROMPT;
        let mut skipped = Vec::new();
        for one in pattern.root().children() {
            loop {
                let came = match self.next(at, deadline).await {
                    Ok(came) => came,
                    Err(error) => bail!(
                        "expected {xml}\n{error:#}; came instead\n{}",
                        skipped.join("\n")
                    ),
                };
                match matches(one, came.root()) {
                    Ok(captures) => {
                        self.captures.extend(captures);
                        break;
                    }
                    Err(why) => skipped.push(format!("{} ({})", came.source(), why.0)),
                }
            }
        }
        Ok(())
    }

    async fn receive_nothing(&mut self, at: usize) -> Result<()> {
        let client = self.client(at)?;
        let id = client.next_id();
        client
            .send(&format!(
                "<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>"
            ))
            .await?;
        let answer = self.next(at, Instant::now() + PROMPT).await?;
        let is_answer = answer.root().name() == "iq"
            && answer.root().attr("id").as_deref() == Some(id.as_str());
        if !is_answer {
            bail!("expected nothing\ncame     {}", answer.source());
        }
        let until = Instant::now() + SILENCE;
        let client = self.client(at)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, client.next(PROMPT)).await {
                // Nothing came, and the stream lives.
                Err(_) => return Ok(()),
                Ok(came) => match came? {
                    Incoming::Acked(_) => {}
                    Incoming::Element(extra) => {
                        bail!("expected nothing\ncame     {}", extra.source())
                    }
                    Incoming::Closed(why) => bail!("expected nothing\nthe stream ended: {why}"),
                },
            }
        }
    }

    async fn stream_ends(&mut self, at: usize) -> Result<()> {
        let mut client = self.take(at)?;
        let deadline = Instant::now() + PROMPT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match client.next(left).await? {
                Incoming::Closed(_) => return Ok(()),
                Incoming::Element(extra) => bail!("expected the end, came {}", extra.source()),
                Incoming::Acked(_) => {}
            }
        }
    }
}

/// An element as text that stands alone: a stream's prefixes are spelt out.
fn canonical(document: &Document) -> Result<String> {
    let mut out = Vec::new();
    document.root().write_canonical(&mut out, "");
    Ok(String::from_utf8(out)?)
}
