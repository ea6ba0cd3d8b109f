//! TLS session tickets under a key of the pool's, so that a client resumes on whichever node it reaches.
//!
//! The keys are derived from the pool's secret (HKDF-SHA-256) and change with the time: the nodes' clocks need to agree
//! only roughly, and nothing is exchanged. A ticket is the number of its period, a nonce, and what rustls gave, sealed
//! with ChaCha20-Poly1305.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// How long tickets are sealed under one key.
const PERIOD_SECONDS: u64 = 6 * 60 * 60;

/// Keys of so many earlier periods still open tickets.
const PERIODS_BEFORE: u64 = 2;

/// A node whose clock is ahead may have used the key of the next period already.
const PERIODS_AHEAD: u64 = 1;

/// What clients are told: no ticket outlives it under the keys that are kept.
const LIFETIME_SECONDS: u32 = 12 * 60 * 60;

/// What comes from a client is not even looked at beyond this; rustls' tickets are far smaller.
const TICKET_BYTES_MAX: usize = 4096;

const PERIOD_BYTES: usize = size_of::<u64>();

/// Seals and opens tickets for all nodes of a pool.
pub(crate) struct PoolTickets {
    root: Prk,
    random: SystemRandom,
}

impl PoolTickets {
    pub(crate) fn new(pool_secret: &[u8; 32]) -> PoolTickets {
        PoolTickets {
            root: Salt::new(HKDF_SHA256, b"muster client TLS tickets").extract(pool_secret),
            random: SystemRandom::new(),
        }
    }

    fn key(&self, period: u64) -> Option<LessSafeKey> {
        let period = period.to_be_bytes();
        let info = [b"ticket key".as_slice(), &period];
        let key = self.root.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }

    fn seal(&self, period: u64, nonce: [u8; NONCE_LEN], session: &[u8]) -> Option<Vec<u8>> {
        let header = PERIOD_BYTES + NONCE_LEN;
        let size = header + session.len() + CHACHA20_POLY1305.tag_len();
        if size > TICKET_BYTES_MAX {
            return None;
        }
        let mut sealed = session.to_vec();
        let aad = Aad::from(period.to_be_bytes());
        let key = self.key(period)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        let mut ticket = Vec::with_capacity(size);
        ticket.extend_from_slice(&period.to_be_bytes());
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn open(&self, now: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (period, rest) = ticket.split_first_chunk::<PERIOD_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let aad = Aad::from(*period);
        let period = u64::from_be_bytes(*period);
        let kept = now.saturating_sub(PERIODS_BEFORE)..=now.saturating_add(PERIODS_AHEAD);
        if !kept.contains(&period) {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let key = self.key(period)?;
        let session = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed)
            .ok()?;
        Some(session.to_vec())
    }
}

fn period_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs() / PERIOD_SECONDS
}

impl ProducesTickets for PoolTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // At random: nodes share the key, and a counter would tell how many clients there are.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        self.seal(period_now(), nonce, plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(period_now(), cipher)
    }
}

impl fmt::Debug for PoolTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolTickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use cluster::node_id::PoolId;
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig,
        ServerConnection,
    };
    use rustls::{ProtocolVersion, SupportedProtocolVersion, version};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    use super::*;
    use crate::authority::Authority;

    const SECRET: [u8; 32] = [7; 32];

    #[test]
    fn a_ticket_opens_on_every_node_while_its_key_is_kept() {
        let (here, there) = (PoolTickets::new(&SECRET), PoolTickets::new(&SECRET));
        let ticket = here.seal(100, [1; NONCE_LEN], b"session").unwrap();
        let check = |now, expect: bool| {
            let opened = there.open(now, &ticket);
            assert_eq!(opened.is_some(), expect, "in period {now}");
            assert!(opened.is_none_or(|opened| opened == b"session"));
        };
        check(98, false);
        check(99, true);
        check(100, true);
        check(101, true);
        check(102, true);
        check(103, false);
        check(0, false);
        check(u64::MAX, false);
    }

    #[test]
    fn what_is_not_the_pools_does_not_open() {
        let tickets = PoolTickets::new(&SECRET);
        let ticket = tickets.seal(100, [1; NONCE_LEN], b"session").unwrap();
        assert_eq!(PoolTickets::new(&[8; 32]).open(100, &ticket), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(100, &changed), None, "byte {at}");
            assert_eq!(tickets.open(100, &ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(tickets.open(100, &[0; TICKET_BYTES_MAX + 1]), None);
        assert_eq!(
            tickets.seal(100, [1; NONCE_LEN], &[0; TICKET_BYTES_MAX]),
            None
        );
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(
            format!("{:?}", PoolTickets::new(&SECRET)),
            "PoolTickets { .. }"
        );
    }

    /// A node with a certificate of its own.
    fn node(authority: &Authority, secret: &[u8; 32]) -> Arc<ServerConfig> {
        let names = BTreeSet::from(["localhost".to_owned()]);
        let issued = authority.issue_for_server("localhost", &names).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.ticketer = Arc::new(PoolTickets::new(secret));
        Arc::new(config)
    }

    fn client(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        Arc::new(
            config
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )
    }

    fn handshake(
        client: &Arc<ClientConfig>,
        node: &Arc<ServerConfig>,
    ) -> (HandshakeKind, ProtocolVersion) {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(node)).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (
            server.handshake_kind().unwrap(),
            server.protocol_version().unwrap(),
        )
    }

    #[test]
    fn a_client_resumes_on_another_node_of_the_pool_only() {
        let authority = Authority::new(&"tickets".parse::<PoolId>().unwrap()).unwrap();
        let check = |version: &'static SupportedProtocolVersion| {
            let client = client(&authority, &[version]);
            let (first, second) = (node(&authority, &SECRET), node(&authority, &SECRET));
            let stranger = node(&authority, &[8; 32]);
            let met = |node| handshake(&client, node);
            assert_eq!(met(&first), (HandshakeKind::Full, version.version));
            assert_eq!(met(&second), (HandshakeKind::Resumed, version.version));
            assert_eq!(met(&first), (HandshakeKind::Resumed, version.version));
            assert_eq!(met(&stranger), (HandshakeKind::Full, version.version));
        };
        check(&version::TLS13);
        check(&version::TLS12);
    }
}
