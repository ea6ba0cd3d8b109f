//! A client whose session outlives its connection (XEP-0198 §5): it counts exactly, and keeps what is not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, timeout};
use xmpp::ns;
use xmpp::scan::{Document, Frame};

use crate::client::{Login, authenticated};
use crate::wire::Wire;

/// How long anything may take that it waits for.
const LIMIT: Duration = Duration::from_secs(20);

/// A resumption that took longer is told of.
const SLOW: Duration = Duration::from_secs(2);

/// A client that keeps what was not acknowledged and sends it again, and nothing else: no origin-ids as long as no session is
/// lost, so that a stanza that is counted wrongly shows as lost or doubled.
pub struct Peer {
    /// Its connection, if it has one.
    pub wire: Option<Wire>,
    /// By what its session is resumed.
    pub id: String,
    /// Its full JID.
    pub jid: String,
    /// Where `<enabled/>` said that the session is resumed best (XEP-0198 §3).
    pub location: Option<String>,
    /// Stanzas that came.
    pub handled: u32,
    /// Stanzas sent.
    pub sent: u32,
    /// Stanzas acknowledged.
    pub acked: u32,
    /// Bodies that came, in their order.
    pub bodies: Vec<String>,
    /// Whether what it sends has origin-ids.
    pub origin_ids: bool,
    /// What was sent and is not acknowledged.
    pub unacked: VecDeque<String>,
}

/// What comes next.
pub enum Came {
    /// A stanza; it is counted.
    Stanza(Document),
    /// Something of stream management.
    Other(Document),
    /// The end of the socket, without that of the stream.
    End,
}

impl Peer {
    /// Logs in, binds, and enables stream management with resumption.
    pub async fn begin(login: &Login) -> Result<Peer> {
        let mut peer = Peer {
            wire: Some(authenticated(login).await?),
            id: String::new(),
            jid: String::new(),
            location: None,
            handled: 0,
            sent: 0,
            acked: 0,
            unacked: VecDeque::new(),
            bodies: Vec::new(),
            origin_ids: false,
        };
        peer.bind().await?;
        Ok(peer)
    }

    /// Begins a session.
    pub async fn bind(&mut self) -> Result<()> {
        let bind = format!("<iq type='set' id='bind'><bind xmlns='{}'/></iq>", ns::BIND);
        self.wire()?.send(bind.as_bytes()).await?;
        let answer = self.wire()?.element("the answer to bind").await?;
        let bound = answer.root().child("bind", ns::BIND);
        let jid = bound.and_then(|bind| bind.child("jid", ns::BIND));
        self.jid = jid.context("no resource")?.text().into_owned();
        let enable = format!("<enable xmlns='{}' resume='true'/>", ns::STREAM_MANAGEMENT);
        self.wire()?.send(enable.as_bytes()).await?;
        let enabled = self.wire()?.element("<enabled/>").await?;
        let id = enabled.root().attr("id").context("not resumable")?;
        self.id = id.into_owned();
        self.location = enabled.root().attr("location").map(|at| at.into_owned());
        (self.handled, self.sent, self.acked) = (0, 0, 0);
        Ok(())
    }

    /// Its connection.
    pub fn wire(&mut self) -> Result<&mut Wire> {
        self.wire.as_mut().context("not connected")
    }

    /// Sends a stanza; what a connection that is going does with it shows at the resumption.
    pub async fn send(&mut self, stanza: String) -> Result<()> {
        self.sent += 1;
        let stanza = self.with_origin_id(stanza);
        self.unacked.push_back(stanza.clone());
        self.wire()?.send(stanza.as_bytes()).await
    }

    fn with_origin_id(&self, stanza: String) -> String {
        if !self.origin_ids || stanza.contains("<origin-id ") {
            return stanza;
        }
        match stanza
            .split_once("<body>")
            .and_then(|(_, rest)| rest.split_once("</body>"))
        {
            Some((body, _)) => {
                let id = format!(
                    "<origin-id xmlns='{}' id='{body}'/></message>",
                    ns::STANZA_ID
                );
                stanza.replace("</message>", &id)
            }
            None => stanza,
        }
    }

    fn acknowledged(&mut self, h: u32) -> Result<()> {
        ensure!(
            (self.acked..=self.sent).contains(&h),
            "{}: h={h}, where {} were acknowledged and {} sent",
            self.jid,
            self.acked,
            self.sent
        );
        self.unacked.drain(..(h - self.acked) as usize);
        self.acked = h;
        Ok(())
    }

    /// What comes next; the end of the stream is an error, that of the socket is not.
    pub async fn next(&mut self) -> Result<Came> {
        let Some(frame) = self.wire()?.next().await? else {
            return Ok(Came::End);
        };
        let document = match frame {
            Frame::Element(document) => document,
            Frame::Header(_) => bail!("a header"),
            Frame::Close => bail!("the end of the stream"),
        };
        let root = document.root();
        match (root.ns(), root.name()) {
            (ns::STREAM_MANAGEMENT, "r") => {
                let h = self.handled;
                let ack = format!("<a xmlns='{}' h='{h}'/>", ns::STREAM_MANAGEMENT);
                self.wire()?.send(ack.as_bytes()).await?;
                Ok(Came::Other(document))
            }
            (ns::STREAM_MANAGEMENT, "a") => {
                let h = root.attr("h").context("no h")?.parse()?;
                self.acknowledged(h)?;
                Ok(Came::Other(document))
            }
            (ns::CLIENT, _) => {
                self.handled += 1;
                if let Some(body) = root.child("body", ns::CLIENT) {
                    self.bodies.push(body.text().into_owned());
                }
                Ok(Came::Stanza(document))
            }
            _ => Ok(Came::Other(document)),
        }
    }

    /// Reads until something fits.
    pub async fn find(
        &mut self,
        what: &str,
        fits: impl Fn(&Peer, &Document) -> bool,
    ) -> Result<Document> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = timeout(left, self.next()).await;
            match came.with_context(|| format!("{}: no {what}", self.jid))?? {
                Came::Stanza(document) | Came::Other(document) if fits(self, &document) => {
                    return Ok(document);
                }
                Came::Stanza(_) | Came::Other(_) => {}
                Came::End => bail!("{}: the end of the socket before {what}", self.jid),
            }
        }
    }

    /// Asks for the session; gives the answer.
    pub async fn ask(&mut self, login: &Login) -> Result<Document> {
        let mut wire = authenticated(login).await?;
        let (id, h) = (&self.id, self.handled);
        let resume = format!(
            "<resume xmlns='{}' previd='{id}' h='{h}'/>",
            ns::STREAM_MANAGEMENT
        );
        wire.send(resume.as_bytes()).await?;
        let answer = wire.element("the answer to <resume/>").await?;
        self.wire = Some(wire);
        Ok(answer)
    }

    /// What an answer to [`Peer::ask`] says of a session that is gone: that many of its stanzas are not sent again.
    pub fn lost(&mut self, answer: &Document) -> Result<Option<u32>> {
        let h = answer.root().attr("h");
        let h = h.filter(|_| answer.root().name() == "failed");
        let h = h.map(|h| h.parse()).transpose()?;
        if let Some(h) = h {
            self.acknowledged(h)?;
        }
        Ok(h)
    }

    /// Resumes the session and sends again what the server has not handled.
    pub async fn resume(&mut self, login: &Login) -> Result<()> {
        let began = Instant::now();
        let answer = self.ask(login).await?;
        self.lost(&answer)?;
        let took = began.elapsed();
        if took > SLOW {
            println!("{}: resumed after {took:?}", self.jid);
        }
        ensure!(
            answer.root().name() == "resumed",
            "{} was not resumed: {}",
            self.jid,
            answer.source()
        );
        let h = answer.root().attr("h").context("no h")?.parse()?;
        self.acknowledged(h)?;
        for stanza in self.unacked.clone() {
            self.wire()?.send(stanza.as_bytes()).await?;
        }
        Ok(())
    }
}

/// A message with a body.
pub fn message(to: &str, kind: &str, body: &str) -> String {
    format!("<message to='{to}' type='{kind}'><body>{body}</body></message>")
}
