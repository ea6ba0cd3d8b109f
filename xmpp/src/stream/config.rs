//! What the operator decides about client streams.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::jid::BareJid;
use crate::sasl::{DecoyKeys, Mechanism};
use crate::scan::Limits;

/// Shared by all streams of a listener.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// The domains of the pool.
    pub domains: ServedDomains,
    /// Bounds on each element before authentication. Default 8 KiB, depth 8, 32 elements, 16 attributes.
    pub limits_before_auth: Limits,
    /// Bounds on each element after authentication.
    pub limits_after_auth: Limits,
    /// Bounds on a stream until it is bound.
    pub negotiation: NegotiationLimits,
    /// Whether `<starttls/>` is offered on a plain connection. Default true.
    pub tls_offered: bool,
    /// Whether nothing but `<starttls/>` is accepted on a plain connection (RFC 7590 §3.1). Default true.
    pub tls_required: bool,
    /// Whether PLAIN is offered without TLS; for tests on the loopback. Default false.
    pub allow_plaintext_auth: bool,
    /// The mechanisms on offer. Default all of them.
    pub mechanisms: Vec<Mechanism>,
    /// What to show of users who do not exist.
    pub decoys: DecoyKeys,
    /// Whether accounts may be made in-band (XEP-0077). Default false.
    pub registration: bool,
    /// What is offered of stream management (XEP-0198). Default acknowledgements.
    pub stream_management: StreamManagementOffer,
    /// Whether client state indication is offered (XEP-0352). Default true.
    pub client_state: bool,
    /// Whether roster versions are offered (RFC 6121 §2.6). Default true.
    pub roster_versions: bool,
    /// Whether subscriptions may be approved in advance (RFC 6121 §3.4). Default true.
    pub pre_approval: bool,
}

impl StreamConfig {
    /// The defaults for these domains. `secret` is the pool's, `iterations` what new passwords get.
    pub fn new(domains: ServedDomains, secret: [u8; 32], iterations: NonZeroU32) -> StreamConfig {
        StreamConfig {
            domains,
            limits_before_auth: Limits::BEFORE_AUTH,
            limits_after_auth: Limits::AFTER_AUTH,
            negotiation: NegotiationLimits::default(),
            tls_offered: true,
            tls_required: true,
            allow_plaintext_auth: false,
            mechanisms: Mechanism::ALL.to_vec(),
            decoys: DecoyKeys::new(secret, iterations),
            registration: false,
            stream_management: StreamManagementOffer::Acks,
            client_state: true,
            roster_versions: true,
            pre_approval: true,
        }
    }
}

/// Bounds on a stream that is not bound yet. Nobody has to be trusted for them to hold.
///
/// With them an unauthenticated stream costs at most four times the bytes it sent, beyond the one header and error that it
/// is owed: each answer is that short, nothing is sent unasked, and a lookup or a password's check is one of at most
/// `elements_max` and `wrong_proofs_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiationLimits {
    /// Time for each step. Default 30 s.
    pub step: Duration,
    /// Time for all steps together. Default 120 s.
    pub total: Duration,
    /// First-level elements before authentication. Default 32.
    pub elements_max: u32,
    /// Bytes before authentication, white space included. Default 32 KiB.
    pub bytes_max: usize,
    /// Wrong proofs and passwords. Default 3 (RFC 6120 §6.4.5: between 2 and 5 retries).
    pub wrong_proofs_max: u32,
    /// How long the peer of a stream that is over may take to close its connection (RFC 6120 §4.4). Default 5 s.
    pub close: Duration,
}

impl Default for NegotiationLimits {
    fn default() -> NegotiationLimits {
        NegotiationLimits {
            step: Duration::from_secs(30),
            total: Duration::from_secs(120),
            elements_max: 32,
            bytes_max: 32 << 10,
            wrong_proofs_max: 3,
            close: Duration::from_secs(5),
        }
    }
}

/// How much of XEP-0198 is on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamManagementOffer {
    /// Nothing.
    Off,
    /// Acknowledgements; `<resume/>` is answered with feature-not-implemented.
    Acks,
    /// Acknowledgements and resumption.
    Resumable,
}

/// Whether a domain is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// We serve it.
    Served,
    /// We served it once (host-gone).
    Retired,
    /// Not ours (host-unknown).
    Unknown,
}

/// The domains of a pool, prepared as addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedDomains {
    /// `true`: served; `false`: retired.
    domains: BTreeMap<String, bool>,
    first: String,
}

impl ServedDomains {
    /// `first` also signs answers to streams that name no domain of ours.
    pub fn new(first: &BareJid) -> ServedDomains {
        let first = first.domain().to_owned();
        ServedDomains {
            domains: BTreeMap::from([(first.clone(), true)]),
            first,
        }
    }

    /// Serves one more.
    pub fn serve(mut self, domain: &BareJid) -> ServedDomains {
        self.domains.insert(domain.domain().to_owned(), true);
        self
    }

    /// Remembers one that is served no longer.
    pub fn retire(mut self, domain: &BareJid) -> ServedDomains {
        self.domains.insert(domain.domain().to_owned(), false);
        self
    }

    /// The state of a prepared domain.
    pub fn state(&self, domain: &str) -> DomainState {
        match self.domains.get(domain) {
            Some(true) => DomainState::Served,
            Some(false) => DomainState::Retired,
            None => DomainState::Unknown,
        }
    }

    /// The domain that speaks where no other is known.
    pub fn first(&self) -> &str {
        &self.first
    }
}

/// What the bytes of a stream travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP; `<starttls/>` may come.
    Plain,
    /// TLS from the first byte (XEP-0368), or something as good.
    DirectTls,
}
