//! The server under test: where it is, how it is entered, and who enters it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, bail};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::cli::TargetArgs;
use crate::processes::Processes;
use crate::sasl::{Mechanism, SaltedPasswords};
use crate::server::DOMAIN;

/// How the stream is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Security {
    /// Not at all
    Plain,
    /// STARTTLS (RFC 6120 §5)
    Starttls,
    /// TLS from the first byte (XEP-0368)
    Tls,
}

impl Security {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Security::Plain => "plain",
            Security::Starttls => "starttls",
            Security::Tls => "tls",
        }
    }
}

/// A server of one or more nodes.
pub(crate) struct Target {
    /// Where clients connect, with the chosen security; sessions are spread over them in turn.
    pub(crate) nodes: Vec<SocketAddr>,
    /// The domain of the users.
    pub(crate) domain: String,
    /// The domain of the rooms.
    pub(crate) rooms_domain: String,
    /// How streams are protected.
    pub(crate) security: Security,
    /// What to trust; needed with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Which SASL mechanism; `None`: the best that is offered.
    pub(crate) mechanism: Option<Mechanism>,
    /// User number 7 is this and `7`.
    pub(crate) user_prefix: String,
    /// How many users there are, if sessions beyond that are further ones of the same users, round and round.
    pub(crate) users: Option<usize>,
    /// Whether sessions come from many addresses of the loopback: one has ports for fewer than thirty thousand.
    pub(crate) many_sources: bool,
    /// All users' password.
    pub(crate) password: String,
    /// Whether missing accounts are made in-band (XEP-0077).
    pub(crate) register: bool,
    /// How many of them there are for certain.
    pub(crate) registered: AtomicUsize,
    /// Logins under way at once.
    pub(crate) logins_at_once: usize,
    /// The server's processes.
    pub(crate) processes: Processes,
    /// What earlier logins learnt.
    pub(crate) salted_passwords: SaltedPasswords,
}

impl Target {
    /// A server that was started for the purpose: accounts are made in-band, and nothing has happened on it yet.
    pub(crate) fn of_own_server(
        nodes: Vec<SocketAddr>,
        security: Security,
        tls: Option<Arc<ClientConfig>>,
        processes: Processes,
        password: &str,
        args: &TargetArgs,
    ) -> Target {
        Target {
            nodes,
            domain: DOMAIN.to_owned(),
            rooms_domain: format!("conference.{DOMAIN}"),
            security,
            tls,
            mechanism: args.mechanism.or(Some(Mechanism::ScramSha1)),
            user_prefix: "bench".to_owned(),
            users: None,
            many_sources: false,
            password: password.to_owned(),
            register: true,
            registered: AtomicUsize::new(0),
            logins_at_once: args.logins_at_once,
            processes,
            salted_passwords: SaltedPasswords::default(),
        }
    }

    /// The node of a session.
    pub(crate) fn node(&self, session: usize) -> anyhow::Result<SocketAddr> {
        let index = session.checked_rem(self.nodes.len()).unwrap_or_default();
        self.nodes
            .get(index)
            .copied()
            .context("no node is given: --node 127.0.0.1:5222")
    }

    /// The user's name; the number may be that of a session.
    pub(crate) fn user(&self, number: usize) -> String {
        let number = self.users.map_or(number, |users| number % users.max(1));
        format!("{}{number}", self.user_prefix)
    }

    /// The user's bare address.
    pub(crate) fn address(&self, number: usize) -> String {
        format!("{}@{}", self.user(number), self.domain)
    }

    /// Where a session comes from; `None`: wherever the system likes.
    pub(crate) fn source(&self, session: usize) -> Option<IpAddr> {
        self.many_sources.then(|| source(session))
    }

    /// The name that the server's certificate must have.
    pub(crate) fn server_name(&self) -> anyhow::Result<ServerName<'static>> {
        ServerName::try_from(self.domain.clone())
            .with_context(|| format!("{} is no name for a certificate", self.domain))
    }

    /// Load belongs on machines of one's own: only the loopback is accepted.
    pub(crate) fn refuse_other_machines(&self) -> anyhow::Result<()> {
        if let Some(node) = self.nodes.iter().find(|node| !node.ip().is_loopback()) {
            bail!("{node} is not on the loopback: this generator loads no other machine");
        }
        Ok(())
    }
}

/// Sessions of one address of the loopback, well below the ports that a system has for them by default (28,232).
pub(crate) const SESSIONS_PER_SOURCE: usize = 10_000;

/// The address of the loopback from which a session comes. The first ones are left to nodes.
fn source(session: usize) -> IpAddr {
    let network = u32::from(Ipv4Addr::new(127, 0, 1, 1));
    // Beyond sixty thousand addresses they begin anew.
    let host = u32::try_from(session / SESSIONS_PER_SOURCE % 60_000).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::from(network + host))
}

/// Trusts the CA in a PEM file, and nothing else. Sessions are not resumed: each login pays for its own handshake.
pub(crate) fn trust(ca: &Path, security: Security) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .with_context(|| format!("{}: cannot be read", ca.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("{}: no PEM", ca.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("{}: no CA", ca.display()))?;
    }
    if roots.is_empty() {
        bail!("{}: no certificate in it", ca.display());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    if security == Security::Tls {
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    }
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_from_the_loopback_only() {
        let check = |session, expect: [u8; 4]| {
            assert_eq!(source(session), IpAddr::from(expect), "{session}");
            assert!(source(session).is_loopback());
        };
        check(0, [127, 0, 1, 1]);
        check(SESSIONS_PER_SOURCE - 1, [127, 0, 1, 1]);
        check(SESSIONS_PER_SOURCE, [127, 0, 1, 2]);
        check(152_000, [127, 0, 1, 16]);
        check(SESSIONS_PER_SOURCE * 60_000, [127, 0, 1, 1]);
        assert!(source(usize::MAX).is_loopback());
    }
}
