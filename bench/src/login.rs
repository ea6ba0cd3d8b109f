//! From a connection to a session: registration, SASL, resource, stream management, roster, presence.

use anyhow::{Context, bail};
use rand::RngExt;
use xmpp::ns;
use xmpp::scan::{Document, Element};
use xmpp::write::XmlWriter;

use crate::sasl::{Mechanism, Scram, plain};
use crate::target::Target;
use crate::wire::Wire;

/// How far a login goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoginOptions {
    /// Turn stream management (XEP-0198) on.
    pub(crate) stream_management: bool,
    /// Ask for the roster and become available, as a client that starts does.
    pub(crate) available: bool,
}

/// A session that is bound.
pub(crate) struct LoggedIn {
    pub(crate) wire: Wire,
    /// The full address that the server gave.
    pub(crate) jid: String,
    /// Stanzas received since stream management was turned on; `None` without it.
    pub(crate) received: Option<u32>,
    /// Stanzas sent since then.
    pub(crate) sent: u32,
    /// The contacts in the roster with subscription `both`; empty if it was not asked for.
    pub(crate) contacts: Vec<String>,
}

/// Makes an account in-band (XEP-0077 §3.1). One that exists already is left alone.
pub(crate) async fn register(target: &Target, user: usize) -> anyhow::Result<()> {
    let (mut wire, _features) = Wire::connect(target, user).await?;
    let mut iq = XmlWriter::new(ns::CLIENT);
    iq.start("iq")
        .attr("type", "set")
        .attr("id", "register")
        .attr("to", &target.domain);
    iq.start_ns("query", ns::REGISTER);
    iq.leaf("username", &target.user(user))
        .leaf("password", &target.password);
    wire.send(&iq.finish()).await?;
    let answer = wire.element().await?;
    let root = answer.root();
    let conflict = root
        .child("error", ns::CLIENT)
        .and_then(|e| e.child("conflict", ns::STANZA_ERROR));
    if root.attr("type").as_deref() != Some("result") && conflict.is_none() {
        bail!(
            "the server made no account for {}: {}",
            target.user(user),
            answer.source()
        );
    }
    wire.send(b"</stream:stream>").await
}

/// Logs a session in.
pub(crate) async fn log_in(
    target: &Target,
    session: usize,
    options: LoginOptions,
) -> anyhow::Result<LoggedIn> {
    let (mut wire, features) = Wire::connect(target, session).await?;
    authenticate(target, session, &mut wire, &features).await?;
    let features = wire.restart(&target.domain).await?;
    let jid = bind(&mut wire, &features).await?;
    let mut login = LoggedIn {
        wire,
        jid,
        received: None,
        sent: 0,
        contacts: Vec::new(),
    };
    if options.stream_management {
        if features.root().child("sm", ns::STREAM_MANAGEMENT).is_none() {
            bail!("the server offers no stream management");
        }
        enable_stream_management(&mut login.wire).await?;
        login.received = Some(0);
    }
    if options.available {
        login.ask_roster().await?;
        login.become_available().await?;
    }
    Ok(login)
}

async fn authenticate(
    target: &Target,
    session: usize,
    wire: &mut Wire,
    features: &Document,
) -> anyhow::Result<()> {
    let offered = features.root().child("mechanisms", ns::SASL);
    let offered = offered.context("the server offers no authentication; is TLS needed?")?;
    let is_offered = |mechanism: &Mechanism| {
        offered
            .children()
            .any(|element| element.text().trim() == mechanism.name())
    };
    let mechanism = match target.mechanism {
        Some(wanted) => Some(wanted).filter(is_offered),
        None => Mechanism::ALL.into_iter().find(is_offered),
    };
    let mechanism =
        mechanism.with_context(|| format!("no mechanism fits: {}", features.source()))?;
    let user = target.user(session);
    if mechanism == Mechanism::Plain {
        wire.send(&auth(mechanism, &plain(&user, &target.password)))
            .await?;
        return expect_success(&wire.element().await?).map(|_| ());
    }
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    let (scram, first) = Scram::start(mechanism, &user, &target.password, nonce);
    wire.send(&auth(mechanism, &first)).await?;
    let challenge = wire.element().await?;
    if !challenge.root().is("challenge", ns::SASL) {
        bail!("authentication of {user} failed: {}", challenge.source());
    }
    let (proven, last) = scram.prove(&challenge.root().text(), &target.salted_passwords)?;
    let mut response = XmlWriter::new(ns::CLIENT);
    response.start_ns("response", ns::SASL).text(&last);
    wire.send(&response.finish()).await?;
    let mut answer = wire.element().await?;
    // RFC 6120 §6.4.6: the server's proof may come as a challenge of its own, which an empty response answers.
    if answer.root().is("challenge", ns::SASL) {
        proven.verify(&answer.root().text())?;
        let mut empty = XmlWriter::new(ns::CLIENT);
        empty.start_ns("response", ns::SASL);
        wire.send(&empty.finish()).await?;
        answer = wire.element().await?;
        return expect_success(&answer).map(|_| ());
    }
    Ok(proven.verify(&expect_success(&answer)?.text())?)
}

fn auth(mechanism: Mechanism, initial: &str) -> bytes::Bytes {
    let mut auth = XmlWriter::new(ns::CLIENT);
    auth.start_ns("auth", ns::SASL)
        .attr("mechanism", mechanism.name())
        .text(initial);
    auth.finish()
}

fn expect_success(answer: &Document) -> anyhow::Result<Element<'_>> {
    let root = answer.root();
    if !root.is("success", ns::SASL) {
        bail!("authentication failed: {}", answer.source());
    }
    Ok(root)
}

async fn bind(wire: &mut Wire, features: &Document) -> anyhow::Result<String> {
    if features.root().child("bind", ns::BIND).is_none() {
        bail!("the server offers no resource: {}", features.source());
    }
    let mut iq = XmlWriter::new(ns::CLIENT);
    iq.start("iq")
        .attr("type", "set")
        .attr("id", "bind")
        .start_ns("bind", ns::BIND);
    wire.send(&iq.finish()).await?;
    let answer = wire.element().await?;
    let jid = answer
        .root()
        .child("bind", ns::BIND)
        .and_then(|bind| bind.child("jid", ns::BIND));
    let jid = jid.with_context(|| format!("no resource was bound: {}", answer.source()))?;
    Ok(jid.text().into_owned())
}

async fn enable_stream_management(wire: &mut Wire) -> anyhow::Result<()> {
    let mut enable = XmlWriter::new(ns::CLIENT);
    enable.start_ns("enable", ns::STREAM_MANAGEMENT);
    wire.send(&enable.finish()).await?;
    let answer = wire.element().await?;
    if !answer.root().is("enabled", ns::STREAM_MANAGEMENT) {
        bail!("stream management was not enabled: {}", answer.source());
    }
    Ok(())
}

impl LoggedIn {
    async fn send(&mut self, stanza: &[u8]) -> anyhow::Result<()> {
        self.sent = self.sent.wrapping_add(1);
        self.wire.send(stanza).await
    }

    /// The next stanza; what stream management asks meanwhile is answered.
    async fn stanza(&mut self) -> anyhow::Result<Document> {
        loop {
            let element = self.wire.element().await?;
            if element.root().ns() == ns::CLIENT {
                self.received = self.received.map(|count| count.wrapping_add(1));
                return Ok(element);
            }
            if let (true, Some(h)) = (element.root().is("r", ns::STREAM_MANAGEMENT), self.received)
            {
                self.wire.send(&acknowledge(h)).await?;
            }
        }
    }

    async fn ask_roster(&mut self) -> anyhow::Result<()> {
        let mut iq = XmlWriter::new(ns::CLIENT);
        iq.start("iq")
            .attr("type", "get")
            .attr("id", "roster")
            .start_ns("query", ns::ROSTER);
        self.send(&iq.finish()).await?;
        loop {
            let answer = self.stanza().await?;
            let root = answer.root();
            if root.name() != "iq" || root.attr("id").as_deref() != Some("roster") {
                continue;
            }
            let query = root.child("query", ns::ROSTER);
            let query = query.with_context(|| format!("no roster: {}", answer.source()))?;
            let both = |item: &Element<'_>| item.attr("subscription").as_deref() == Some("both");
            let contacts = query.children().filter(both);
            self.contacts = contacts
                .filter_map(|item| Some(item.attr("jid")?.into_owned()))
                .collect();
            return Ok(());
        }
    }

    /// RFC 6121 §4.2.2: the server sends a user's presence to the user's own resources too.
    async fn become_available(&mut self) -> anyhow::Result<()> {
        self.send(b"<presence/>").await?;
        loop {
            let answer = self.stanza().await?;
            let root = answer.root();
            let own = root.attr("from").as_deref() == Some(self.jid.as_str());
            if root.name() == "presence" && own && root.attr("type").is_none() {
                return Ok(());
            }
        }
    }
}

/// `<a/>` (XEP-0198 §4).
pub(crate) fn acknowledge(h: u32) -> bytes::Bytes {
    let mut a = XmlWriter::new(ns::CLIENT);
    a.start_ns("a", ns::STREAM_MANAGEMENT)
        .attr("h", &h.to_string());
    a.finish()
}

#[cfg(test)]
mod tests;
