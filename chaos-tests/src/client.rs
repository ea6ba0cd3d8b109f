//! A test client of our own: logs in over real sockets, counts exactly, shows everything that comes.
//!
//! [`login`] negotiates; after that one task reads and one writes, so that a test can send and receive at its own
//! pace. Stream management (XEP-0198) is answered by the reading task: what it counts is what has come.
//!
//! ```text
//!  Client::send ─► queue ─► writer task ─► socket ─► reader task ─► events ─► Client::next
//!                    ▲────────── <a h/> ──────────────────┘
//! ```

mod login;
mod scram;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use xmpp::jid::FullJid;
use xmpp::ns;
use xmpp::scan::{Document, Frame};

use crate::wait::PROMPT;
use crate::wire::{Socket, Wire, WireReader};

pub use login::{authenticated, feature_names, features, open_stream};
pub use scram::Hash;

/// Stanzas that may wait for the test to look at them.
const INBOX: usize = 65_536;

/// Writes that may wait for the socket.
const OUTBOX: usize = 1024;

/// How the stream is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS after STARTTLS.
    StartTls,
    /// TLS from the first byte.
    DirectTls,
    /// None.
    Plain,
}

/// How the password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN.
    Plain,
    /// SCRAM with a hash.
    Scram(Hash),
}

/// Who logs in where and how.
#[derive(Clone)]
pub struct Login {
    /// The node's address, for the chosen security.
    pub address: SocketAddr,
    /// The pool's domain.
    pub domain: String,
    /// The account's local part.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The resource to ask for.
    pub resource: Option<String>,
    /// TLS or not.
    pub security: Security,
    /// The SASL mechanism.
    pub mechanism: Mechanism,
    /// Whether to enable stream management. Without it, its elements are shown like all others.
    pub stream_management: bool,
    /// Trusts the pool's CA.
    pub tls: Arc<rustls::ClientConfig>,
}

/// What comes from the server.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// A stanza or another element that is no part of stream management.
    Element(Document),
    /// `<a h='…'/>`: so many of our stanzas are acknowledged.
    Acked(u32),
    /// The stream is over: `</stream:stream>`, the end of the socket, or what went wrong.
    Closed(String),
}

/// What a client asks for its session by (XEP-0198 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasting {
    /// The id that the server gave it.
    pub previd: String,
    /// The session's address.
    pub jid: FullJid,
}

/// What came of asking for a session.
pub enum Resumption {
    /// It goes on; so many stanzas had been handled.
    Resumed(Client, u32),
    /// It is lost; so many stanzas had been handled, if the server says so.
    Lost(Option<u32>),
}

/// A client with a bound resource.
pub struct Client {
    jid: FullJid,
    incoming: mpsc::Receiver<Incoming>,
    outgoing: mpsc::Sender<Bytes>,
    received: Arc<AtomicU32>,
    sent: u32,
    tasks: [JoinHandle<()>; 2],
    hang_up: Option<oneshot::Sender<()>>,
    iq_number: u32,
}

impl Drop for Client {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Client {
    /// Logs in and binds.
    pub async fn connect(login: &Login) -> Result<Client> {
        let secured = timeout(PROMPT, login::secured(login)).await;
        Client::over(login, secured.context("TLS took too long")??).await
    }

    /// Logs in and binds over a socket that is there already, with TLS if there is to be any.
    pub async fn over(login: &Login, wire: Wire) -> Result<Client> {
        let negotiated = timeout(PROMPT, login::log_in(login, wire, false)).await;
        let (jid, wire, _) = negotiated.context("logging in took too long")??;
        Ok(Client::begin(login, jid, wire, 0))
    }

    /// Logs in and binds, with stream management and a session that can be resumed.
    pub async fn lasting(login: &Login) -> Result<(Client, Lasting)> {
        let negotiated = timeout(PROMPT, async {
            login::log_in(login, login::secured(login).await?, true).await
        });
        let negotiated = negotiated.await.context("logging in took too long")?;
        let (jid, wire, previd) = negotiated?;
        let lasting = Lasting {
            previd: previd.context("the session can't be resumed")?,
            jid: jid.clone(),
        };
        Ok((Client::begin(login, jid, wire, 0), lasting))
    }

    /// Asks for a session, of which so many stanzas have been received.
    pub async fn resume(login: &Login, lasting: &Lasting, received: u32) -> Result<Resumption> {
        let asked = timeout(PROMPT, login::resume(login, &lasting.previd, received)).await;
        Ok(match asked.context("resuming took too long")?? {
            login::Asked::Resumed(wire, h) => {
                let mut client = Client::begin(login, lasting.jid.clone(), *wire, received);
                client.sent = h;
                Resumption::Resumed(client, h)
            }
            login::Asked::Lost(h) => Resumption::Lost(h),
        })
    }

    /// Logs in and binds nothing: what comes next is up to the caller. `jid`: what it will be, if a session is resumed.
    pub async fn unbound(login: &Login, jid: FullJid) -> Result<Client> {
        let negotiated = timeout(PROMPT, login::authenticated(login)).await;
        let wire = negotiated.context("logging in took too long")??;
        Ok(Client::begin(login, jid, wire, 0))
    }

    fn begin(login: &Login, jid: FullJid, wire: Wire, received: u32) -> Client {
        let (reader, writer) = wire.split();
        let (incoming_tx, incoming) = mpsc::channel(INBOX);
        let (outgoing, outgoing_rx) = mpsc::channel(OUTBOX);
        let received = Arc::new(AtomicU32::new(received));
        let (hang_up, stop) = oneshot::channel();
        let answers = Answers {
            domain: login.domain.clone(),
            managed: login.stream_management,
            received: Arc::clone(&received),
            outbox: outgoing.clone(),
        };
        let reading = read(reader, incoming_tx, answers, stop);
        let tasks = [
            tokio::spawn(reading),
            tokio::spawn(write(writer, outgoing_rx)),
        ];
        Client {
            jid,
            incoming,
            outgoing,
            received,
            sent: 0,
            tasks,
            hang_up: Some(hang_up),
            iq_number: 0,
        }
    }

    /// The full JID that the server bound.
    pub fn jid(&self) -> &FullJid {
        &self.jid
    }

    /// Stanzas sent so far.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Stanzas received so far, where stream management counts them.
    pub fn received(&self) -> u32 {
        self.received.load(Ordering::Acquire)
    }

    /// Sends one stanza and counts it.
    pub async fn send(&mut self, stanza: &str) -> Result<()> {
        self.count_sent();
        self.send_raw(stanza).await
    }

    /// Counts one stanza that will be part of what is sent raw; gives its number.
    pub fn count_sent(&mut self) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        self.sent
    }

    /// Sends bytes that are no stanza.
    pub async fn send_raw(&mut self, text: &str) -> Result<()> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.outgoing
            .send(bytes)
            .await
            .context("the stream is gone")
    }

    /// What comes next, within a limit.
    pub async fn next(&mut self, limit: Duration) -> Result<Incoming> {
        match timeout(limit, self.incoming.recv()).await {
            Ok(Some(incoming)) => Ok(incoming),
            Ok(None) => bail!("the stream is over"),
            Err(_) => bail!("nothing came within {limit:?}"),
        }
    }

    /// The next element, acknowledgements left out.
    pub async fn next_element(&mut self, limit: Duration) -> Result<Document> {
        let deadline = Instant::now() + limit;
        loop {
            match timeout_at(deadline, self.incoming.recv()).await {
                Ok(Some(Incoming::Element(document))) => return Ok(document),
                Ok(Some(Incoming::Acked(_))) => {}
                Ok(Some(Incoming::Closed(why))) => bail!("the stream ended: {why}"),
                Ok(None) => bail!("the stream is over"),
                Err(_) => bail!("nothing came within {limit:?}"),
            }
        }
    }

    /// Reads elements until one fits; the others are dropped.
    pub async fn find<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut fits: impl FnMut(&Document) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_element(left).await {
                Ok(document) => match fits(&document) {
                    Some(found) => return Ok(found),
                    None => seen.push(document.source().to_owned()),
                },
                Err(error) => bail!(
                    "{} waited for {what}: {error}; came instead:\n{}",
                    self.jid,
                    seen.join("\n")
                ),
            }
        }
    }

    /// Sends an iq and gives its answer, whatever it says. `payload` is the child element.
    pub async fn iq(&mut self, kind: &str, to: Option<&str>, payload: &str) -> Result<Document> {
        let id = self.next_id();
        let to = to.map(|to| format!(" to='{to}'")).unwrap_or_default();
        self.send(&format!("<iq type='{kind}' id='{id}'{to}>{payload}</iq>"))
            .await?;
        self.find(&format!("the answer to {id}"), PROMPT, |document| {
            let root = document.root();
            let answer = root.name() == "iq" && root.attr("id").as_deref() == Some(id.as_str());
            answer.then(|| document.clone())
        })
        .await
    }

    /// An iq that must be answered with a result.
    pub async fn iq_ok(&mut self, kind: &str, to: Option<&str>, payload: &str) -> Result<Document> {
        let answer = self.iq(kind, to, payload).await?;
        if answer.root().attr("type").as_deref() != Some("result") {
            bail!("{} was refused: {}", self.jid, answer.source());
        }
        Ok(answer)
    }

    /// A fresh id.
    pub fn next_id(&mut self) -> String {
        self.iq_number += 1;
        format!("t{}", self.iq_number)
    }

    /// Ends the connection without a word, as a network does that breaks. Gives what had come before that: exactly what
    /// [`received`](Client::received) counts.
    pub async fn hang_up(&mut self) -> Vec<Incoming> {
        // Dropped or sent, it ends the reading task between two stanzas.
        self.hang_up = None;
        let mut rest = Vec::new();
        while let Some(incoming) = self.incoming.recv().await {
            rest.push(incoming);
        }
        for task in &self.tasks {
            task.abort();
        }
        rest
    }

    /// Ends the stream and waits for the server's end.
    pub async fn close(mut self) -> Result<()> {
        self.send_raw("</stream:stream>").await?;
        let deadline = Instant::now() + PROMPT;
        loop {
            match timeout_at(deadline, self.incoming.recv()).await {
                Ok(Some(Incoming::Closed(_)) | None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(_) => bail!("{}: the server did not end the stream", self.jid),
            }
        }
    }
}

async fn write(mut socket: WriteHalf<Box<dyn Socket>>, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = queue.recv().await {
        // The reading task tells the test of the socket's end.
        if socket.write_all(&bytes).await.is_err() || socket.flush().await.is_err() {
            return;
        }
    }
}

/// What the reading task answers by itself, as every client does.
struct Answers {
    domain: String,
    managed: bool,
    received: Arc<AtomicU32>,
    outbox: mpsc::Sender<Bytes>,
}

impl Answers {
    /// Counts a stanza, answers what wants an answer, and gives what the test shall see.
    async fn take(&self, document: Document) -> Option<Incoming> {
        let root = document.root();
        match (root.ns(), root.name()) {
            (ns::STREAM_MANAGEMENT, "r") if self.managed => {
                let h = self.received.load(Ordering::Acquire);
                self.answer(format!("<a xmlns='{}' h='{h}'/>", ns::STREAM_MANAGEMENT))
                    .await
            }
            (ns::STREAM_MANAGEMENT, "a") if self.managed => {
                Some(match root.attr("h").and_then(|h| h.parse().ok()) {
                    Some(h) => Incoming::Acked(h),
                    None => Incoming::Closed("<a/> without h".into()),
                })
            }
            (ns::CLIENT, _) => {
                self.received.fetch_add(1, Ordering::AcqRel);
                match self.pinged(&document) {
                    Some(answer) => self.answer(answer).await,
                    None => Some(Incoming::Element(document)),
                }
            }
            _ => Some(Incoming::Element(document)),
        }
    }

    /// The answer to the server's own ping (XEP-0199 §4.2): it asks whether what it sent before has arrived.
    fn pinged(&self, document: &Document) -> Option<String> {
        let root = document.root();
        root.child("ping", ns::PING)?;
        let from_server = root.attr("from").as_deref() == Some(self.domain.as_str());
        let id = root
            .attr("id")
            .filter(|_| from_server && root.attr("type").as_deref() == Some("get"))?;
        Some(format!(
            "<iq type='result' id='{id}' to='{}'/>",
            self.domain
        ))
    }

    async fn answer(&self, answer: String) -> Option<Incoming> {
        match self.outbox.send(Bytes::from(answer)).await {
            Ok(()) => None,
            Err(_) => Some(Incoming::Closed("the socket takes nothing".into())),
        }
    }
}

async fn read(
    mut wire: WireReader,
    inbox: mpsc::Sender<Incoming>,
    answers: Answers,
    mut stop: oneshot::Receiver<()>,
) {
    loop {
        let next = tokio::select! {
            next = wire.next() => next,
            _ = &mut stop => return,
        };
        let incoming = match next {
            Ok(Some(Frame::Element(document))) => answers.take(document).await,
            Ok(Some(Frame::Header(_))) => None,
            Ok(Some(Frame::Close)) => Some(Incoming::Closed("end of stream".into())),
            Ok(None) => Some(Incoming::Closed("end of socket".into())),
            Err(error) => Some(Incoming::Closed(format!("{error:#}"))),
        };
        let Some(incoming) = incoming else { continue };
        let closed = matches!(incoming, Incoming::Closed(_));
        if inbox.send(incoming).await.is_err() || closed {
            return;
        }
    }
}
