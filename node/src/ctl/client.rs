//! A client of the control port: HTTPS, the pool's CA, the token, and a sentence for whatever goes wrong.

use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, Timeout};
use web::ControlToken;
use web::report::RefusalReport;

use crate::certificate::read_chain;
use crate::exit::{Exit, Failure};

/// Where a control port is, and how to be let in.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) token_file: PathBuf,
    pub(crate) ca: PathBuf,
    /// The certificate that the port itself shows, where that is known.
    pub(crate) shown: Option<PathBuf>,
}

/// A client of one control port.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    authorization: String,
    /// Where token and CA came from, for what is said of them.
    token_file: PathBuf,
    ca: PathBuf,
}

/// Whether a request changes anything: then a lost answer leaves the outcome unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    Changes,
}

/// Deriving a password's keys takes a while, and so may an election.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer: the status of a pool of 64 nodes and 64 partitions is far shorter.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// The longest part of a backup: a mebibyte, and one more entry of the longest.
const PART_BYTES_MAX: u64 = 24 << 20;

const JSON: &str = "application/json";

/// Whether it is `https://host`, or with a port.
fn is_control_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let here = uri.authority().is_some_and(|authority| {
        // Whatever looks like a port passes as one there.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(port) => port
                .strip_prefix(':')
                .is_some_and(|port| port.parse::<NonZeroU16>().is_ok()),
            // There is somebody's name in front of the host.
            None => false,
        };
        port && !authority.host().is_empty()
    });
    here && uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none()
}

impl Client {
    /// Reads token and CA; connects to nothing yet.
    pub(crate) fn new(place: &Place) -> Result<Client, Failure> {
        let Place {
            url,
            token_file,
            ca,
            shown,
        } = place;
        if !is_control_url(url) {
            let message = format!(
                "--url: {url:?} is not where a control port is: https://HOST:PORT, without a path"
            );
            return Err(Failure::new(Exit::CommandLine, message));
        }
        let token = fs::read_to_string(token_file).map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::NotFound => {
                    "there is no such file; a node makes it at its first start".to_owned()
                }
                _ => error.to_string(),
            };
            Failure::new(Exit::Config, format!("{}: {reason}", token_file.display()))
        })?;
        let token = token.trim();
        ControlToken::new(token).map_err(|error| {
            let message = format!(
                "{}: no token of a control port: {error}",
                token_file.display()
            );
            Failure::new(Exit::Config, message)
        })?;
        let mut trusted =
            read_chain(ca).map_err(|error| Failure::from_error(Exit::Config, &error))?;
        // A node that joined has signed the one for operators itself: its folder says that it is the right one.
        let shown = shown.as_ref().and_then(|path| read_chain(path).ok());
        trusted.extend(shown.into_iter().flatten().take(1));
        let roots: Vec<Certificate<'static>> = trusted
            .iter()
            .map(|der| Certificate::from_der(der).to_owned())
            .collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            // The token is for the node, not for whatever the environment names as a proxy.
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .tls_config(tls)
            .build();
        Ok(Client {
            agent: Agent::new_with_config(config),
            url: url.clone(),
            authorization: format!("Bearer {token}"),
            token_file: token_file.clone(),
            ca: ca.clone(),
        })
    }

    /// Reads a page.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = self
            .agent
            .get(self.page(path))
            .header("authorization", &self.authorization);
        let text = self.answer(Kind::Reads, request.call())?;
        self.read(&text)
    }

    fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, Failure> {
        serde_json::from_str(text).map_err(|error| {
            let message = format!(
                "{}: the answer does not read: {error}; is the node of another version?",
                self.url
            );
            Failure::new(Exit::Failed, message)
        })
    }

    /// Makes or does something, and takes the answer.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self
            .agent
            .post(self.page(path))
            .header("authorization", &self.authorization);
        let body = json(body)?;
        let text = self.answer(Kind::Changes, request.content_type(JSON).send(body))?;
        self.read(&text)
    }

    /// Does something with a body, whose answer says nothing.
    pub(crate) fn post_quietly(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        let request = self
            .agent
            .post(self.page(path))
            .header("authorization", &self.authorization);
        let body = json(body)?;
        self.answer(Kind::Changes, request.content_type(JSON).send(body))
            .map(drop)
    }

    /// Does something whose answer says nothing.
    pub(crate) fn post_for_nothing(&self, path: &str) -> Result<(), Failure> {
        let request = self
            .agent
            .post(self.page(path))
            .header("authorization", &self.authorization);
        self.answer(Kind::Changes, request.send_empty()).map(drop)
    }

    /// Reads a page of bytes.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let request = self
            .agent
            .get(self.page(path))
            .header("authorization", &self.authorization);
        let answer = request.call();
        let is_good = |answer: &ureq::http::Response<Body>| answer.status().is_success();
        match answer {
            Ok(mut answer) if is_good(&answer) => {
                let body = answer.body_mut().with_config().limit(PART_BYTES_MAX);
                let bytes = body.read_to_vec();
                bytes.map_err(|error| self.unanswered(Kind::Reads, &error))
            }
            answer => {
                let text = self.answer(Kind::Reads, answer)?;
                let message = format!("{}: {} bytes of no use", self.url, text.len());
                Err(Failure::new(Exit::Failed, message))
            }
        }
    }

    /// Changes something.
    pub(crate) fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        let request = self
            .agent
            .put(self.page(path))
            .header("authorization", &self.authorization);
        let body = json(body)?;
        self.answer(Kind::Changes, request.content_type(JSON).send(body))
            .map(drop)
    }

    /// Removes something.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        let request = self
            .agent
            .delete(self.page(path))
            .header("authorization", &self.authorization);
        self.answer(Kind::Changes, request.call()).map(drop)
    }

    fn page(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The body of a good answer; a refusal's sentence as failure.
    fn answer(
        &self,
        kind: Kind,
        answer: Result<ureq::http::Response<Body>, ureq::Error>,
    ) -> Result<String, Failure> {
        let mut answer = answer.map_err(|error| self.unanswered(kind, &error))?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| self.unanswered(kind, &error))?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let refusal = match serde_json::from_str::<RefusalReport>(&text) {
            Ok(refusal) => refusal,
            Err(_) => {
                let message = format!("{}: HTTP status {status}", self.url);
                return Err(Failure::new(exit_of(status), message));
            }
        };
        let message = match status {
            401 => format!(
                "{}: the token in {} is neither that of this node nor an operator's",
                self.url,
                self.token_file.display()
            ),
            _ => refusal.message,
        };
        Err(Failure::new(exit_of(status), message).coded(refusal.code))
    }

    fn unanswered(&self, kind: Kind, error: &ureq::Error) -> Failure {
        let untrusted = format!(
            "; its certificate does not come from the CA in {}: is it a node of that pool?",
            self.ca.display()
        );
        let (exit, hint) = match error {
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => (
                Exit::Unavailable,
                "; is the node running, and past the wait for its quorum?",
            ),
            ureq::Error::Io(error) if is_untrusted(error) => (Exit::Unavailable, &*untrusted),
            _ if is_unsent(error) => (Exit::Unavailable, ""),
            _ if kind == Kind::Changes => {
                (Exit::OutcomeUnknown, "; the change may still come about")
            }
            ureq::Error::Protocol(_) => (Exit::Unavailable, "; is that a control port?"),
            _ => (Exit::Unavailable, ""),
        };
        let error = match error {
            // ureq says what kind of error it is; the system's own sentence is enough.
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        Failure::new(exit, format!("{}: {error}{hint}", self.url))
    }
}

/// Whether the other end's certificate was refused.
fn is_untrusted(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether the request surely did not reach the node.
pub(crate) fn is_unsent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => {
            let refused = matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            );
            refused || is_untrusted(error)
        }
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::Tls(_) => true,
        _ => false,
    }
}

/// The codes of `web::error`, as this program's.
pub(crate) fn exit_of(status: u16) -> Exit {
    match status {
        502 | 503 => Exit::Unavailable,
        504 => Exit::OutcomeUnknown,
        400..=499 => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn json(body: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(body).map_err(|error| Failure::from_error(Exit::Failed, &error))
}

/// A text as a value of a query.
pub(crate) fn query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn urls_of_control_ports() {
        let check = |url: &str, expect| assert_eq!(is_control_url(url), expect, "{url}");
        check("https://127.0.0.1:7480", true);
        check("https://[::1]:7480", true);
        check("https://chat.example.org", true);
        check("http://127.0.0.1:7480", false);
        check("127.0.0.1:7480", false);
        check("https://", false);
        check("https://:7480", false);
        check("https://127.0.0.1:99999", false);
        check("https://127.0.0.1:7480/v1", false);
        check("https://127.0.0.1:7480/?a=b", false);
        check("https://me@127.0.0.1:7480", false);
        check("https://a b:1", false);
    }

    #[test]
    fn a_lost_answer_to_a_change_is_no_refusal() {
        let client = |url: &str| Client {
            agent: Agent::new_with_defaults(),
            url: url.to_owned(),
            authorization: String::new(),
            token_file: PathBuf::new(),
            ca: PathBuf::new(),
        };
        let check = |error: ureq::Error, reading: Exit, changing: Exit| {
            let client = client("https://127.0.0.1:1");
            assert_eq!(
                client.unanswered(Kind::Reads, &error).exit,
                reading,
                "{error}"
            );
            assert_eq!(
                client.unanswered(Kind::Changes, &error).exit,
                changing,
                "{error}"
            );
        };
        let io = |kind: ErrorKind| ureq::Error::Io(io::Error::from(kind));
        let untrusted = rustls::Error::from(rustls::CertificateError::UnknownIssuer);
        let untrusted = ureq::Error::Io(io::Error::new(ErrorKind::InvalidData, untrusted));
        check(
            io(ErrorKind::ConnectionRefused),
            Exit::Unavailable,
            Exit::Unavailable,
        );
        check(untrusted, Exit::Unavailable, Exit::Unavailable);
        check(
            ureq::Error::Timeout(Timeout::Connect),
            Exit::Unavailable,
            Exit::Unavailable,
        );
        check(
            ureq::Error::Timeout(Timeout::Global),
            Exit::Unavailable,
            Exit::OutcomeUnknown,
        );
        check(
            io(ErrorKind::ConnectionReset),
            Exit::Unavailable,
            Exit::OutcomeUnknown,
        );
        check(
            io(ErrorKind::UnexpectedEof),
            Exit::Unavailable,
            Exit::OutcomeUnknown,
        );
    }

    #[test]
    fn statuses_have_their_codes() {
        let check = |status, exit| assert_eq!(exit_of(status), exit, "{status}");
        check(401, Exit::Refused);
        check(409, Exit::Refused);
        check(422, Exit::Refused);
        check(503, Exit::Unavailable);
        check(504, Exit::OutcomeUnknown);
        check(500, Exit::Failed);
    }

    #[test]
    fn addresses_in_queries() {
        assert_eq!(query("a+b&c=ä@x"), "a%2Bb%26c%3D%C3%A4@x");
    }
}
