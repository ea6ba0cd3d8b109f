//! Logging in: stream header, TLS, SASL, bind, stream management (RFC 6120 §§4–7, XEP-0198 §3).

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use xmpp::jid::FullJid;
use xmpp::ns;
use xmpp::scan::{Document, Frame};

use super::scram::Exchange;
use super::{Login, Mechanism, Security};
use crate::wait::PROMPT;
use crate::wire::Wire;

/// Sends a stream header and takes the server's.
pub async fn open_stream(wire: &mut Wire, domain: &str) -> Result<()> {
    let header = format!(
        "<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' xmlns='{}' xmlns:stream='{}'>",
        ns::CLIENT,
        ns::STREAM
    );
    wire.send(header.as_bytes()).await?;
    match wire.expect("the server's stream header", PROMPT).await? {
        Frame::Header(_) => Ok(()),
        Frame::Element(document) => bail!("no header but {}", document.source()),
        Frame::Close => bail!("no header but the end"),
    }
}

/// Opens a stream and takes the features.
pub async fn features(wire: &mut Wire, domain: &str) -> Result<Document> {
    open_stream(wire, domain).await?;
    let features = wire.element("the stream's features").await?;
    if !features.root().is("features", ns::STREAM) {
        bail!("no features but {}", features.source());
    }
    Ok(features)
}

/// The names and namespaces of what the features offer.
pub fn feature_names(features: &Document) -> Vec<(String, String)> {
    let name =
        |feature: xmpp::scan::Element<'_>| (feature.name().to_owned(), feature.ns().to_owned());
    features.root().children().map(name).collect()
}

/// A stream that is authenticated and has no resource yet.
pub async fn authenticated(login: &Login) -> Result<Wire> {
    authenticated_over(login, secured(login).await?).await
}

async fn authenticated_over(login: &Login, mut wire: Wire) -> Result<Wire> {
    features(&mut wire, &login.domain).await?;
    authenticate(&mut wire, login).await?;
    wire.restart();
    features(&mut wire, &login.domain).await?;
    Ok(wire)
}

/// What came of asking for a session.
pub(super) enum Asked {
    /// It goes on; so many stanzas had been handled.
    Resumed(Box<Wire>, u32),
    /// There is none; so many stanzas had been handled, if the server says so.
    Lost(Option<u32>),
}

/// Asks for a session of which so many stanzas have been received (XEP-0198 §5).
pub(super) async fn resume(login: &Login, previd: &str, received: u32) -> Result<Asked> {
    let mut wire = authenticated(login).await?;
    let resume = format!(
        "<resume xmlns='{}' previd='{previd}' h='{received}'/>",
        ns::STREAM_MANAGEMENT
    );
    wire.send(resume.as_bytes()).await?;
    let answer = wire.element("the answer to <resume/>").await?;
    let root = answer.root();
    let h = root.attr("h").and_then(|h| h.parse().ok());
    match (root.name(), h) {
        ("resumed", Some(h)) => Ok(Asked::Resumed(Box::new(wire), h)),
        ("failed", h) => Ok(Asked::Lost(h)),
        _ => bail!("no answer to <resume/> but {}", answer.source()),
    }
}

/// A stream with a bound resource, over a socket that is as secure as it is to be; and the id of a session that lasts, if it
/// is to.
pub(super) async fn log_in(
    login: &Login,
    wire: Wire,
    lasts: bool,
) -> Result<(FullJid, Wire, Option<String>)> {
    let mut wire = authenticated_over(login, wire).await?;
    let jid = bind(&mut wire, login.resource.as_deref()).await?;
    let mut previd = None;
    if login.stream_management {
        let resume = if lasts { " resume='true'" } else { "" };
        let enable = format!("<enable xmlns='{}'{resume}/>", ns::STREAM_MANAGEMENT);
        wire.send(enable.as_bytes()).await?;
        let answer = wire.element("<enabled/>").await?;
        if !answer.root().is("enabled", ns::STREAM_MANAGEMENT) {
            bail!("stream management was refused: {}", answer.source());
        }
        previd = answer.root().attr("id").map(|id| id.into_owned());
    }
    Ok((jid, wire, previd))
}

/// A socket with TLS, if there is to be any.
pub(super) async fn secured(login: &Login) -> Result<Wire> {
    match login.security {
        Security::Plain => Wire::plain(login.address).await,
        Security::DirectTls => Wire::direct_tls(login.address, &login.domain, &login.tls).await,
        Security::StartTls => {
            let mut wire = Wire::plain(login.address).await?;
            let features = features(&mut wire, &login.domain).await?;
            if features.root().child("starttls", ns::TLS).is_none() {
                bail!("STARTTLS is not offered: {}", features.source());
            }
            wire.send(format!("<starttls xmlns='{}'/>", ns::TLS).as_bytes())
                .await?;
            let answer = wire.element("<proceed/>").await?;
            if !answer.root().is("proceed", ns::TLS) {
                bail!("STARTTLS was refused: {}", answer.source());
            }
            wire.into_tls(&login.domain, &login.tls).await
        }
    }
}

async fn authenticate(wire: &mut Wire, login: &Login) -> Result<()> {
    match login.mechanism {
        Mechanism::Plain => {
            let text = BASE64.encode(format!("\0{}\0{}", login.user, login.password));
            auth(wire, "PLAIN", &text).await?;
            let answer = wire.element("the answer to PLAIN").await?;
            succeed(&answer).map(drop)
        }
        Mechanism::Scram(hash) => {
            let nonce = BASE64.encode(rand::random::<[u8; 18]>());
            let mut exchange = Exchange::new(hash, &login.user, &nonce);
            auth(wire, hash.mechanism(), &BASE64.encode(exchange.first())).await?;
            let challenge = wire.element("a challenge").await?;
            if !challenge.root().is("challenge", ns::SASL) {
                bail!("SCRAM was refused: {}", challenge.source());
            }
            let challenge = String::from_utf8(BASE64.decode(challenge.root().text().as_bytes())?)?;
            let answer = exchange.answer(&challenge, &login.password)?;
            let response = format!(
                "<response xmlns='{}'>{}</response>",
                ns::SASL,
                BASE64.encode(answer)
            );
            wire.send(response.as_bytes()).await?;
            let last = wire.element("the answer to the proof").await?;
            exchange.verify(&String::from_utf8(BASE64.decode(succeed(&last)?)?)?)
        }
    }
}

async fn auth(wire: &mut Wire, mechanism: &str, text: &str) -> Result<()> {
    let auth = format!(
        "<auth xmlns='{}' mechanism='{mechanism}'>{text}</auth>",
        ns::SASL
    );
    wire.send(auth.as_bytes()).await
}

fn succeed(answer: &Document) -> Result<String> {
    if !answer.root().is("success", ns::SASL) {
        bail!("the login was refused: {}", answer.source());
    }
    Ok(answer.root().text().into_owned())
}

async fn bind(wire: &mut Wire, resource: Option<&str>) -> Result<FullJid> {
    let resource = resource
        .map(|name| format!("<resource>{name}</resource>"))
        .unwrap_or_default();
    let bind = format!(
        "<iq type='set' id='bind'><bind xmlns='{}'>{resource}</bind></iq>",
        ns::BIND
    );
    wire.send(bind.as_bytes()).await?;
    let answer = wire.element("the answer to bind").await?;
    let bound = answer
        .root()
        .child("bind", ns::BIND)
        .and_then(|bind| bind.child("jid", ns::BIND));
    let jid = bound.with_context(|| format!("bind was refused: {}", answer.source()))?;
    Ok(FullJid::parse(&jid.text())?)
}
