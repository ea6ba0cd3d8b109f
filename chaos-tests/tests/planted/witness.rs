//! Somebody in a room who writes down all that they do and see.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chaos_tests::client::{Client, Incoming, Login};
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{join, read_archive};
use chaos_tests::pool::{Pool, ROOMS};
use chaos_tests::wait::PROMPT;
use tokio::time::Instant;
use xmpp::jid::FullJid;
use xmpp::ns;
use xmpp::scan::Document;

/// The room that all of them are in.
pub(crate) fn room() -> String {
    format!("yard@{ROOMS}")
}

/// Who sends what to whom, once more under the same origin-id if need be.
pub(crate) fn message(token: &str, padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!(
        "<message type='groupchat' id='{token}' to='{}'><body>{token}</body><origin-id xmlns='{}' id='{token}'/>\
         <padding xmlns='urn:padding'>{padding}</padding></message>",
        room(),
        ns::STANZA_ID
    )
}

/// What shows that a message was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Stream management's `h`.
    Counted,
    /// The room's reflection.
    Reflected,
}

/// One user's session in the room.
pub(crate) struct Witness {
    recorder: Arc<Recorder>,
    session: u32,
    client: Client,
    proof: Proof,
    /// What was sent and has no outcome: token, and the number of its stanza.
    open: VecDeque<(String, u32)>,
}

impl Witness {
    /// Logs in on a node and joins. With stream management `h` counts, without it the reflection.
    pub(crate) async fn enter(
        recorder: &Arc<Recorder>,
        pool: &Pool,
        (session, user): (u32, &str),
        node: u64,
        proof: Proof,
    ) -> Result<Witness> {
        let login = Login {
            stream_management: proof == Proof::Counted,
            ..pool.login(node, user)
        };
        let client = Client::connect(&login).await?;
        Witness::over(recorder, client, (session, user), node, proof).await
    }

    /// Joins over a stream that is bound.
    pub(crate) async fn over(
        recorder: &Arc<Recorder>,
        mut client: Client,
        (session, user): (u32, &str),
        node: u64,
        proof: Proof,
    ) -> Result<Witness> {
        join(&mut client, &room(), user).await?;
        recorder.record(What::Named {
            session,
            user: user.to_owned(),
        });
        recorder.record(What::Joined {
            session,
            log: room(),
            node,
            home: node,
            stream_management: proof == Proof::Counted,
            reads_archive: false,
        });
        Ok(Witness {
            recorder: Arc::clone(recorder),
            session,
            client,
            proof,
            open: VecDeque::new(),
        })
    }

    /// Makes the room one that may be entered, and stays.
    pub(crate) async fn open_room(&mut self) -> Result<()> {
        let form = format!(
            "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{}</value></field>\
             <field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>",
            ns::MUC_OWNER,
            ns::MUC_ROOM_CONFIG
        );
        self.client.iq_ok("set", Some(&room()), &form).await?;
        Ok(())
    }

    /// The client below.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Sends messages for the first time, in one write.
    pub(crate) async fn say(&mut self, tokens: &[String], padding: usize) -> Result<()> {
        let (session, log) = (self.session, room());
        self.send(tokens, padding, |token| What::Invoke {
            session,
            log: log.clone(),
            token,
        })
        .await
    }

    /// Sends messages of an earlier session again, in one write.
    pub(crate) async fn say_again(&mut self, tokens: &[String]) -> Result<()> {
        let (session, log) = (self.session, room());
        self.send(tokens, 0, |token| What::Resend {
            session,
            log: log.clone(),
            token,
        })
        .await
    }

    async fn send(
        &mut self,
        tokens: &[String],
        padding: usize,
        what: impl Fn(String) -> What,
    ) -> Result<()> {
        let mut written = String::new();
        for token in tokens {
            let number = self.client.count_sent();
            self.recorder.record(what(token.clone()));
            self.open.push_back((token.clone(), number));
            written.push_str(&message(token, padding));
        }
        if self.proof == Proof::Counted {
            written.push_str(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT));
        }
        self.client.send_raw(&written).await
    }

    /// Listens until all that was sent has its outcome, or for so long.
    pub(crate) async fn listen(&mut self, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        while !self.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.client.next(left).await {
                Ok(Incoming::Closed(_)) | Err(_) => break,
                Ok(Incoming::Acked(h)) => self.counted(h),
                Ok(Incoming::Element(came)) => self.element(&came),
            }
        }
        Ok(self.open.len())
    }

    /// Listens until everything is acknowledged.
    pub(crate) async fn acknowledged(&mut self) -> Result<()> {
        match self.listen(PROMPT).await? {
            0 => Ok(()),
            open => bail!("{open} messages without an outcome after {PROMPT:?}"),
        }
    }

    /// Listens until it has received a message.
    pub(crate) async fn hears(&mut self, token: &str) -> Result<()> {
        let deadline = Instant::now() + PROMPT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = self.client.next_element(left).await?;
            self.element(&came);
            if body(&came).as_deref() == Some(token) {
                return Ok(());
            }
        }
    }

    fn counted(&mut self, h: u32) {
        while self.open.front().is_some_and(|(_, number)| *number <= h) {
            if let Some((token, _)) = self.open.pop_front() {
                self.recorder.record(What::Ok { token });
            }
        }
    }

    fn element(&mut self, came: &Document) {
        let root = came.root();
        let kind = root.attr("type");
        if root.name() != "message" {
            return;
        }
        if kind.as_deref() == Some("error") {
            let token = root.attr("id").unwrap_or_default().into_owned();
            self.open.retain(|(open, _)| *open != token);
            return self.recorder.record(What::Fail { token });
        }
        let Some(token) = body(came) else { return };
        let id = root
            .child("stanza-id", ns::STANZA_ID)
            .and_then(|id| id.attr("id"));
        let id = id.unwrap_or_default().into_owned();
        self.recorder.record(What::Received {
            session: self.session,
            log: room(),
            token: token.clone(),
            id,
        });
        let is_open = self.open.iter().any(|(open, _)| *open == token);
        if self.proof == Proof::Reflected && is_open {
            self.open.retain(|(open, _)| *open != token);
            self.recorder.record(What::Ok { token });
        }
    }

    /// The connection goes without a word; gives what has no outcome.
    pub(crate) fn leave(self) -> Vec<String> {
        let open: Vec<String> = self.open.into_iter().map(|(token, _)| token).collect();
        for token in open.iter().cloned() {
            self.recorder.record(What::Info { token });
        }
        self.recorder.record(What::Left {
            session: self.session,
        });
        open
    }
}

fn body(came: &Document) -> Option<String> {
    let body = came.root().child("body", ns::CLIENT)?;
    Some(body.text().into_owned())
}

/// A stream that may be resumed, and the id for that.
pub(crate) async fn resumable(login: &Login) -> Result<(Client, String)> {
    let jid = FullJid::parse(&format!("{}@{}/any", login.user, login.domain))?;
    let mut client = Client::unbound(login, jid).await?;
    bind(&mut client).await?;
    let enable = format!("<enable xmlns='{}' resume='true'/>", ns::STREAM_MANAGEMENT);
    client.send_raw(&enable).await?;
    let enabled = client.next_element(PROMPT).await?;
    let id = enabled.root().attr("id").context("not resumable")?;
    let id = id.into_owned();
    Ok((client, id))
}

/// A stream of somebody whose session can't be resumed any more, bound anew.
pub(crate) async fn not_resumed(login: &Login, id: &str) -> Result<Client> {
    let jid = FullJid::parse(&format!("{}@{}/any", login.user, login.domain))?;
    let mut client = Client::unbound(login, jid).await?;
    let resume = format!(
        "<resume xmlns='{}' h='0' previd='{id}'/>",
        ns::STREAM_MANAGEMENT
    );
    client.send_raw(&resume).await?;
    let answer = client.next_element(PROMPT).await?;
    if !answer.root().is("failed", ns::STREAM_MANAGEMENT) {
        bail!("no <failed/> but {}", answer.source());
    }
    bind(&mut client).await?;
    Ok(client)
}

async fn bind(client: &mut Client) -> Result<()> {
    let bind = format!("<iq type='set' id='b'><bind xmlns='{}'/></iq>", ns::BIND);
    client.send_raw(&bind).await?;
    let answer = client.next_element(PROMPT).await?;
    match answer.root().attr("type").as_deref() {
        Some("result") => Ok(()),
        _ => bail!("bind was refused: {}", answer.source()),
    }
}

/// Reads the room's archive on every node that runs, in both directions.
pub(crate) async fn read_all(recorder: &Recorder, pool: &Pool, user: &str) -> Result<()> {
    for node in pool.running() {
        let mut client = Client::connect(&pool.login(node, user)).await?;
        for forward in [true, false] {
            let rows = read_archive(&mut client, &room(), forward).await?;
            let direction = if forward { "forward" } else { "backward" };
            recorder.record(What::Archive {
                reading: format!("node {node}, {direction}"),
                log: room(),
                rows,
            });
        }
        client.close().await?;
    }
    Ok(())
}
