//! A client's connection until its resource is bound: TLS, authentication, bind. Then a [`SessionActor`] takes over.
//!
//! It drives [`xmpp::stream::StreamCore`], which has the rules; here are the socket and the questions to the owners of
//! accounts.

mod resuming;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use cluster::link::protocol::AskReply;
use cluster::net::TcpStream;
use messaging::command::{Answer, Command};
use messaging::query::{Query, Reply};
use messaging::user::publication::SessionKey;
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xmpp::jid::{BareJid, FullJid};
use xmpp::sasl::{Password, SaslCondition};
use xmpp::stanza_error::{Condition, StanzaError};
use xmpp::stream::{StreamConfig, StreamCore, StreamEffect, StreamEvent, Transport};
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::Nonza;

use crate::allowance::too_fast;
use crate::claim::Claim;
use crate::connections::Connection;
use crate::control;
use crate::door::Admission;
use crate::fabric::Fabric;
use crate::link::{Outcome, ToLink};
use crate::listener::{Accepted, Wire};
use crate::session::{LINGER_BYTES_MAX, SessionActor, SessionParts};
use resuming::Resumed;

/// What a negotiation ends with.
enum Step {
    /// Go on reading.
    Read,
    /// The stream is bound.
    Established(FullJid),
    /// It is over.
    Closed,
}

struct Negotiation {
    fabric: Arc<Fabric>,
    core: StreamCore,
    wire: Wire,
    out: BytesMut,
    claim: Option<Claim>,
    /// The account that the client has proved to own.
    authenticated: Option<BareJid>,
    /// The session that it goes on with instead of a new one, and how many of its stanzas the client has.
    resumed: Option<(Resumed, u32)>,
    /// Sessions it asked for that it did not get.
    refused: u32,
    /// The generation of the account whose credentials were looked up last.
    account: u64,
    admission: Option<Admission>,
    connection: Connection,
    /// Where the client is.
    address: IpAddr,
    /// Wrong passwords that were counted and said.
    guesses: u32,
}

/// What a client is offered. A password in plain text crosses no network, whatever the settings say.
fn streams_for(streams: &Arc<StreamConfig>, client: IpAddr) -> Arc<StreamConfig> {
    if client.is_loopback() || !streams.allow_plaintext_auth {
        return Arc::clone(streams);
    }
    let mut from_afar = StreamConfig::clone(streams);
    from_afar.allow_plaintext_auth = false;
    Arc::new(from_afar)
}

/// Serves a connection up to its end or its session.
pub async fn serve(fabric: Arc<Fabric>, accepted: Accepted) {
    let Accepted {
        socket,
        address,
        direct_tls,
        admission,
        connection,
    } = accepted;
    let wire = if direct_tls {
        match secured(&fabric, socket).await {
            Ok(wire) => wire,
            Err(error) => return tracing::debug!(%address, %error, "a TLS handshake failed"),
        }
    } else {
        Wire::Plain(socket)
    };
    let transport = if direct_tls {
        Transport::DirectTls
    } else {
        Transport::Plain
    };
    let core = StreamCore::new(
        streams_for(&fabric.streams, address),
        transport,
        rand::rng().random(),
        Instant::now(),
    );
    let out = BytesMut::new();
    let mut negotiation = Negotiation {
        fabric,
        core,
        wire,
        out,
        claim: None,
        authenticated: None,
        resumed: None,
        refused: 0,
        account: 0,
        admission: Some(admission),
        connection,
        address,
        guesses: 0,
    };
    match negotiation.run().await {
        Ok(Some(jid)) => match negotiation.resumed.take() {
            Some((resumed, h)) => negotiation.reconnect(resumed, h),
            None => negotiation.hand_over(jid),
        },
        // A resource that was bound meanwhile is given back with its claim.
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%address, %error, "a connection ended before its session began");
        }
    }
}

/// The server's side of a TLS handshake, within the limit of a step. A node that stops ends it: whoever is in the middle
/// of one reads no XML.
async fn secured(fabric: &Fabric, socket: TcpStream) -> std::io::Result<Wire> {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&fabric.settings.client_tls));
    tokio::select! {
        tls = acceptor.accept(socket) => Ok(Wire::Tls(Box::new(tls?))),
        () = tokio::time::sleep(fabric.streams.negotiation.step) => {
            Err(std::io::ErrorKind::TimedOut.into())
        }
        () = fabric.connections.stopping() => Err(std::io::Error::other("the node stops")),
    }
}

impl Negotiation {
    async fn run(&mut self) -> std::io::Result<Option<FullJid>> {
        loop {
            match self.effects().await? {
                Step::Read => self.read().await?,
                Step::Established(jid) => return Ok(Some(jid)),
                Step::Closed => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<()> {
        let mut chunk = [0u8; 4096];
        let deadline = self.core.poll_timeout();
        // A read that is ready would win against a time-out that is, over and over.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.core.handle_timeout(Instant::now());
            return Ok(());
        }
        let read = self.wire.read(&mut chunk);
        let read = async {
            match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline.into(), read).await,
                None => Ok(read.await),
            }
        };
        let connections = Arc::clone(&self.fabric.connections);
        let Some(received) = connections.unless_stopping(read).await else {
            self.tell_of_the_stop();
            return Ok(());
        };
        match received {
            Ok(Ok(0)) => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(count)) => {
                self.core.push_bytes(&chunk[..count], Instant::now());
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => {
                self.core.handle_timeout(Instant::now());
                Ok(())
            }
        }
    }

    /// The node stops: whatever was asked, the client is told that, and tries elsewhere.
    fn tell_of_the_stop(&mut self) {
        self.core
            .close(StreamError::new(StreamErrorCondition::SystemShutdown));
    }

    /// Operators see who guesses. Not the name that was given: it may be a password in the wrong field.
    fn note_guesses(&mut self) {
        let guesses = self.core.wrong_proofs();
        for _ in self.guesses..guesses {
            self.fabric.metrics.wrong_passwords.inc();
            tracing::info!(address = %self.address, "a wrong password");
        }
        self.guesses = guesses;
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() {
            let bytes = self.out.split();
            let write = async {
                self.wire.write_all(&bytes).await?;
                self.wire.flush().await
            };
            let limit = self.fabric.streams.negotiation.step;
            tokio::time::timeout(limit, write)
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        }
        Ok(())
    }

    async fn effects(&mut self) -> std::io::Result<Step> {
        while let Some(effect) = self.core.poll_effect() {
            self.note_guesses();
            match effect {
                StreamEffect::Send(bytes) => self.out.extend_from_slice(&bytes),
                StreamEffect::StartTls => self.start_tls().await?,
                StreamEffect::LookupCredentials { account } => self.look_up(account).await,
                StreamEffect::CheckPassword(check) => {
                    let verdict = crate::threads::spawn_blocking(move || check.run()).await;
                    let verdict = verdict.map_err(std::io::Error::other)?;
                    self.core
                        .handle_event(StreamEvent::PasswordChecked(verdict), Instant::now());
                }
                StreamEffect::Authenticated { account } => {
                    self.authenticated = Some(account);
                    // The address's place is free again: who has proved who they are is counted by account.
                    self.admission = None;
                }
                StreamEffect::Register { account, password } => {
                    let connections = Arc::clone(&self.fabric.connections);
                    let registered = self.register(account, password);
                    match connections.unless_stopping(registered).await {
                        Some(Some(event)) => self.core.handle_event(event, Instant::now()),
                        Some(None) => {
                            // Never answered with an error, which clients would show as final: the stream goes.
                            tracing::info!(
                                "the outcome of a registration is unknown; its stream is dropped"
                            );
                            return Ok(Step::Closed);
                        }
                        None => self.tell_of_the_stop(),
                    }
                }
                StreamEffect::BindResource { account, requested } => {
                    self.bind(account, requested).await
                }
                StreamEffect::Established(jid) => {
                    self.flush().await?;
                    return Ok(Step::Established(jid));
                }
                StreamEffect::StreamManagement(Nonza::Resume { previd, h }) => {
                    self.resume(&previd, h).await;
                }
                StreamEffect::StreamManagement(_)
                | StreamEffect::Stanza(_)
                | StreamEffect::StanzaAnswered { .. }
                | StreamEffect::ClientState { .. } => {
                    tracing::error!("the stream let a stanza through before it was bound");
                    return Ok(Step::Closed);
                }
                StreamEffect::Close { .. } => {
                    self.flush().await?;
                    self.wire.shutdown().await?;
                    self.linger().await;
                    return Ok(Step::Closed);
                }
            }
        }
        self.flush().await?;
        Ok(Step::Read)
    }

    /// RFC 6120 §4.4: the peer closes its connection, too. What it still sends is dropped: a connection with unread bytes
    /// would be reset, and the last words with it.
    async fn linger(&mut self) {
        // Others from its address need not wait for this one.
        self.admission = None;
        let within = self.fabric.streams.negotiation.close;
        let drain = async {
            let (mut chunk, mut left) = ([0u8; 1024], LINGER_BYTES_MAX);
            while let Ok(count @ 1..) = self.wire.read(&mut chunk).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
        };
        tokio::select! {
            () = drain => {}
            () = tokio::time::sleep(within) => {
                tracing::debug!(address = %self.address, "the client did not close its connection");
            }
            () = self.fabric.connections.hurry() => {}
        }
    }

    async fn start_tls(&mut self) -> std::io::Result<()> {
        self.flush().await?;
        let Wire::Plain(socket) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            return Err(std::io::Error::other(
                "TLS was asked for on a connection that has it",
            ));
        };
        self.wire = secured(&self.fabric, socket).await?;
        self.core
            .handle_event(StreamEvent::TlsEstablished, Instant::now());
        Ok(())
    }

    /// Asks for the credentials of an account.
    async fn look_up(&mut self, account: BareJid) {
        let found = lookup(&self.fabric, account);
        match self.fabric.connections.unless_stopping(found).await {
            Some((event, generation)) => {
                self.account = generation;
                self.core.handle_event(event, Instant::now());
            }
            None => self.tell_of_the_stop(),
        }
    }

    /// Makes an account; `None`: nobody knows whether it was made.
    async fn register(&self, account: BareJid, password: Password) -> Option<StreamEvent> {
        let client = &self.fabric.settings.client;
        let trusted = client.is_trusted(self.address);
        if !self
            .fabric
            .door
            .may_register(self.address, trusted, Instant::now())
        {
            self.fabric.metrics.registrations_refused.inc();
            let error = too_fast("Too many accounts were made from this address");
            return Some(StreamEvent::RegistrationRefused(error));
        }
        let iterations = client.scram_iterations;
        match control::create_account(&self.fabric, account, password, iterations).await {
            Ok(()) => Some(StreamEvent::Registered),
            Err(error) => error.refusal().map(StreamEvent::RegistrationRefused),
        }
    }

    async fn bind(&mut self, account: BareJid, requested: Option<String>) {
        let connections = Arc::clone(&self.fabric.connections);
        let claimed = claim(&self.fabric, account, requested);
        let event = match connections.unless_stopping(claimed).await {
            Some(Ok(claim)) => {
                let jid = claim.key().jid.clone();
                self.claim = Some(claim);
                StreamEvent::Bound(jid)
            }
            Some(Err(error)) => StreamEvent::BindRefused(*error),
            // What is granted all the same is given back.
            None => return self.tell_of_the_stop(),
        };
        self.core.handle_event(event, Instant::now());
    }

    fn hand_over(self, jid: FullJid) {
        let Some(claim) = self.claim else { return };
        let address = self.address;
        // Its end has a line at a level that is on by default: one a session.
        tracing::debug!(session = claim.key().number, %jid, %address, "session begins");
        let parts = SessionParts {
            fabric: self.fabric,
            core: self.core,
            wire: self.wire,
            connection: self.connection,
            claim,
            account: self.account,
            address,
        };
        SessionActor::begin(parts);
    }
}

/// Asks for a resource of an account: this one, or any.
async fn claim(
    fabric: &Arc<Fabric>,
    account: BareJid,
    requested: Option<String>,
) -> Result<Claim, Box<StanzaError>> {
    let sessions = fabric.directory.len() as u64;
    if !fabric.standing.takes_logins() || sessions >= fabric.settings.client.sessions_max {
        return Err(Box::new(unavailable_now()));
    }
    let resource = requested.unwrap_or_else(|| format!("{:016x}", rand::rng().random::<u64>()));
    let jid = account
        .with_resource(&resource)
        .map_err(|_| Box::new(StanzaError::new(Condition::BadRequest)))?;
    let key = SessionKey {
        node: fabric.node.0,
        // Each claim has its own, so that giving back one never ends another.
        number: fabric.next_session_number(),
        jid,
    };
    Claim::make(fabric, key).await
}

/// Asks the owner of a key and waits.
pub async fn ask(fabric: &Fabric, key: &BareJid, query: Query) -> Outcome {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let Some(link) = fabric.link_of(key) else {
        return Outcome::NotDone;
    };
    let message = ToLink::Ask {
        caller: crate::link::Caller::Task(sender),
        query: Box::new(query),
    };
    if link.send(message).await.is_err() {
        return Outcome::NotDone;
    }
    receiver.await.unwrap_or(Outcome::NotDone)
}

/// Proposes a command on a key and waits for its answer.
pub async fn propose(fabric: &Fabric, key: &BareJid, command: Command) -> Outcome {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let Some(link) = fabric.link_of(key) else {
        return Outcome::NotDone;
    };
    let message = ToLink::Propose {
        caller: crate::link::Caller::Task(sender),
        command: Box::new(command),
    };
    if link.send(message).await.is_err() {
        return Outcome::NotDone;
    }
    receiver.await.unwrap_or(Outcome::Unknown)
}

/// The credentials of an account, and its generation.
async fn lookup(fabric: &Fabric, account: BareJid) -> (StreamEvent, u64) {
    let refused = StreamEvent::CredentialsRefused(SaslCondition::TemporaryAuthFailure);
    if !fabric.standing.takes_logins() {
        // At once: the client tries another node.
        return (refused, 0);
    }
    let query = Query::Credentials {
        user: account.clone(),
    };
    match ask(fabric, &account, query).await {
        Outcome::Replied(AskReply::Reply(Reply::Credentials(found))) => {
            let (credentials, generation) = found.map(|found| *found).unzip();
            let event = StreamEvent::CredentialsFound(credentials);
            (event, generation.unwrap_or_default())
        }
        // Its owner can't be reached.
        _ => (refused, 0),
    }
}

/// What is said when no owner answers: surely not done, try again.
pub fn unavailable_now() -> StanzaError {
    StanzaError::new(Condition::ResourceConstraint)
        .with_kind(xmpp::stanza_error::StanzaErrorType::Wait)
        .with_text("The service has no quorum or is busy at the moment.")
}

/// Whether an answer says that it was done.
pub fn is_done(answer: &Answer) -> bool {
    !matches!(answer, Answer::Refused(_))
}
