//! The control port of a pool, as a machine sees it that knows no more of the pool than its CA's hash.
//!
//! ```text
//!  1. TLS handshake for the name *.POOL.muster: the node shows its certificate, its chain and the CA
//!     the CA has the hash of the token?  the chain leads to it?  ──► now the CA is known
//!  2. HTTPS to the node's own name, with that CA alone: the token's secret goes out only here
//! ```

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use super::token::JoinToken;
use crate::certificate::names;
use crate::exit::{Exit, Failure};
use crate::issuing::leads_to;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An election may have to end before a node is let in.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);

/// A node of the pool that was found behind an address.
pub(super) struct Door {
    agent: Agent,
    /// `https://node-N.POOL.muster:PORT`.
    url: String,
    /// The address as it was given.
    pub(super) place: String,
}

/// What a handshake has shown.
#[derive(Debug, Default)]
struct Seen {
    root: Option<CertificateDer<'static>>,
    name: Option<String>,
}

/// Takes who shows a certificate of the pool's nodes, with a chain to the CA that has the token's hash.
#[derive(Debug)]
struct ByHash {
    ca: String,
    suffix: String,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::CertificateError::UnknownIssuer;
        let hex = |der: &CertificateDer<'_>| -> String {
            let digest = Sha256::digest(der);
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let root = rest.iter().find(|der| hex(der) == self.ca);
        let root = root.ok_or(unknown.clone())?.clone().into_owned();
        let name = names(leaf)
            .into_iter()
            .find(|name| name.ends_with(&self.suffix));
        let name = name.ok_or(rustls::CertificateError::NotValidForName)?;
        let chain: Vec<_> = std::iter::once(leaf)
            .chain(rest)
            .map(|der| der.clone().into_owned())
            .collect();
        if !leads_to(&root, &chain, &name, &self.provider) {
            return Err(unknown.into());
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen {
            root: Some(root),
            name: Some(name),
        };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Every name is at this address.
#[derive(Debug)]
struct At(SocketAddr);

impl Resolver for At {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}

impl Door {
    /// Finds out who is behind an address, and that it is of the token's pool. Nothing is told to it.
    pub(super) fn find(token: &JoinToken, place: &str) -> Result<Door, Failure> {
        let failed = |reason: &dyn std::fmt::Display| {
            Failure::new(Exit::Unavailable, format!("{place}: {reason}"))
        };
        let mut addresses = place.to_socket_addrs().map_err(|error| failed(&error))?;
        let address = addresses
            .next()
            .ok_or_else(|| failed(&"this name has no address"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let suffix = format!(".{}.muster", token.pool);
        let verifier = Arc::new(ByHash {
            ca: token.ca.to_ascii_lowercase(),
            suffix: suffix.clone(),
            provider: Arc::clone(&provider),
            seen: Mutex::default(),
        });
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        handshake(config, &format!("join{suffix}"), address).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => {
                failed(&"connection refused; is the node running, and is that its control port?")
            }
            _ if is_untrusted(&error) => failed(&format!(
                "who answers there is no node of the pool {}: its certificate does not lead to the CA that the token names; \
                 nothing was told to it",
                token.pool
            )),
            _ => failed(&error),
        })?;
        let seen =
            std::mem::take(&mut *verifier.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let (Some(root), Some(name)) = (seen.root, seen.name) else {
            return Err(failed(&"it has shown no certificate"));
        };
        Ok(Door {
            agent: agent(&root, address, provider),
            url: format!("https://{name}:{}", address.port()),
            place: place.to_owned(),
        })
    }

    /// Sends JSON, and takes status and text of the answer.
    pub(super) fn post(&self, path: &str, body: String) -> Result<(u16, String), Error> {
        /// A pool file, three chains and 64 members are far shorter.
        const ANSWER_BYTES_MAX: u64 = 1 << 20;
        let request = self.agent.post(format!("{}{path}", self.url));
        let mut answer = request.content_type("application/json").send(body)?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()?;
        Ok((answer.status().as_u16(), text))
    }
}

fn handshake(config: ClientConfig, name: &str, address: SocketAddr) -> std::io::Result<()> {
    let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    let connection =
        ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

fn agent(
    root: &CertificateDer<'static>,
    address: SocketAddr,
    provider: Arc<CryptoProvider>,
) -> Agent {
    let root = Certificate::from_der(root).to_owned();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&[root]))
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let config = Agent::config_builder()
        .https_only(true)
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(ANSWER_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .tls_config(tls)
        .build();
    Agent::with_parts(config, DefaultConnector::default(), At(address))
}

/// Whether the other end's certificate was refused.
fn is_untrusted(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
