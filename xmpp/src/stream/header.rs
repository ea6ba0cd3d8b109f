//! Opening a stream: the checks of the peer's header, our own header, and the features that follow it
//! (RFC 6120 §4.7, §4.3.2).

use bytes::Bytes;

use super::StreamCore;
use super::config::{DomainState, ServedDomains, StreamManagementOffer};
use super::features::{StreamFeature, stream_features};
use super::state::{AuthStep, BindExpected, BindStep, HeaderExpected, State, Unauthenticated};
use crate::jid::{BareJid, Jid};
use crate::ns;
use crate::sasl::Mechanism;
use crate::scan::StreamHeader;
use crate::stream_error::{StreamError, StreamErrorCondition};
use crate::write::XmlWriter;

impl StreamCore {
    /// The peer's header came.
    pub(super) fn on_header(&mut self, state: HeaderExpected, header: &StreamHeader) -> State {
        self.lang = header
            .lang
            .as_deref()
            .filter(|lang| !lang.is_empty())
            .map(Into::into);
        let served = served_domain(&self.config.domains, header.to.as_deref());
        // RFC 6120 §4.7.1: what the client calls itself is repeated to it.
        let from = header.from.as_deref().map(Jid::parse).transpose();
        let peer = from.as_ref().ok().and_then(Option::as_ref).map(Jid::bare);
        self.send_header(served.as_ref().ok(), peer.as_ref());

        let is_known_user = from.is_ok()
            && match (&peer, &state.account) {
                (Some(peer), Some(account)) => peer == account,
                _ => true,
            };
        let domain = if let Err(condition) = check_version(header.version.as_deref()) {
            return self.fail(condition);
        } else if header.default_ns != ns::CLIENT {
            return self.fail(StreamErrorCondition::InvalidNamespace);
        } else if !is_known_user {
            return self.fail(StreamErrorCondition::InvalidFrom);
        } else {
            match served {
                Ok(domain) => domain,
                Err(condition) => return self.fail(condition),
            }
        };
        match state.account {
            None => {
                self.send_features(false);
                State::Unauthenticated(Unauthenticated {
                    domain,
                    step: AuthStep::Idle,
                })
            }
            // The host is pinned once authenticated: the account belongs to one domain.
            Some(account) if account.domain() != domain.domain() => self.fail(
                StreamError::new(StreamErrorCondition::HostUnknown)
                    .with_text("the stream belongs to another domain"),
            ),
            Some(account) => {
                self.send_features(true);
                State::BindExpected(BindExpected {
                    account,
                    step: BindStep::Idle,
                })
            }
        }
    }

    /// Sends a header without knowing the peer's, so that an error has a stream to stand in.
    pub(super) fn send_header_if_due(&mut self) {
        if !self.header_sent {
            self.send_header(None, None);
        }
    }

    fn send_header(&mut self, domain: Option<&BareJid>, peer: Option<&BareJid>) {
        self.header_sent = true;
        let id = self.nonce();
        let from = domain.map_or(self.config.domains.first(), |domain| domain.domain());
        let mut attributes = XmlWriter::new(ns::CLIENT);
        // The writer escapes; the element it builds is then opened rather than ended.
        attributes
            .start("stream:stream")
            .attr("xmlns", ns::CLIENT)
            .attr("xmlns:stream", ns::STREAM)
            .attr("id", &id)
            .attr("from", from)
            .attr_opt("to", peer.map(BareJid::as_str))
            .attr("version", "1.0")
            .attr("xml:lang", "en")
            .end();
        let element = attributes.finish();
        let open = element.strip_suffix(b"/>").unwrap_or(&element);
        let mut header = Vec::with_capacity(open.len() + 24);
        header.extend_from_slice(b"<?xml version='1.0'?>");
        header.extend_from_slice(open);
        header.push(b'>');
        self.send(Bytes::from(header));
    }

    fn send_features(&mut self, authenticated: bool) {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.start("stream:features");
        for feature in stream_features() {
            if self.offers(feature, authenticated) {
                self.write_feature(feature, &mut writer);
            }
        }
        writer.end();
        self.send(writer.finish());
    }

    fn offers(&self, feature: StreamFeature, authenticated: bool) -> bool {
        match feature {
            StreamFeature::StartTls => !authenticated && self.offers_tls(),
            StreamFeature::Sasl => !authenticated && !self.must_encrypt(),
            StreamFeature::Register => !authenticated && self.offers_registration(),
            StreamFeature::Bind | StreamFeature::Limits => authenticated,
            StreamFeature::StreamManagement => {
                authenticated && self.config.stream_management != StreamManagementOffer::Off
            }
            StreamFeature::RosterVersions => authenticated && self.config.roster_versions,
            StreamFeature::PreApproval => authenticated && self.config.pre_approval,
            StreamFeature::ClientState => authenticated && self.config.client_state,
        }
    }

    fn write_feature(&self, feature: StreamFeature, writer: &mut XmlWriter) {
        match feature {
            StreamFeature::StartTls => {
                writer.start_ns("starttls", ns::TLS);
                if self.must_encrypt() {
                    writer.start("required").end();
                }
                writer.end();
            }
            StreamFeature::Sasl => {
                writer.start_ns("mechanisms", ns::SASL);
                for mechanism in self.offered_mechanisms() {
                    writer.leaf("mechanism", mechanism.name());
                }
                writer.end();
            }
            StreamFeature::Register => {
                writer.start_ns("register", ns::REGISTER_FEATURE).end();
            }
            StreamFeature::Bind => {
                writer.start_ns("bind", ns::BIND).end();
            }
            StreamFeature::StreamManagement => {
                writer.start_ns("sm", ns::STREAM_MANAGEMENT).end();
            }
            StreamFeature::RosterVersions => {
                writer.start_ns("ver", ns::ROSTER_VERSIONS).end();
            }
            StreamFeature::PreApproval => {
                writer.start_ns("sub", ns::PRE_APPROVAL).end();
            }
            StreamFeature::ClientState => {
                writer.start_ns("csi", ns::CLIENT_STATE).end();
            }
            StreamFeature::Limits => {
                let bytes_max = self.config.limits_after_auth.stanza_bytes_max;
                writer
                    .start_ns("limits", ns::STREAM_LIMITS)
                    .leaf("max-bytes", &bytes_max.to_string())
                    .end();
            }
        }
    }

    /// Whether `<starttls/>` is offered, and so accepted.
    pub(super) fn offers_tls(&self) -> bool {
        !self.encrypted && self.config.tls_offered
    }

    /// Whether nothing but `<starttls/>` goes (RFC 6120 §5.3.1).
    pub(super) fn must_encrypt(&self) -> bool {
        !self.encrypted && self.config.tls_required
    }

    /// Whether accounts may be made on this stream.
    pub(super) fn offers_registration(&self) -> bool {
        self.config.registration && !self.must_encrypt()
    }

    /// The mechanisms that may be used on this stream, strongest first.
    pub(super) fn offered_mechanisms(&self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL
            .into_iter()
            .filter(|mechanism| self.offers_mechanism(*mechanism))
    }

    /// PLAIN shows the password to whoever listens (RFC 6120 §13.8.2).
    pub(super) fn offers_mechanism(&self, mechanism: Mechanism) -> bool {
        let safe =
            mechanism != Mechanism::Plain || self.encrypted || self.config.allow_plaintext_auth;
        safe && !self.must_encrypt() && self.config.mechanisms.contains(&mechanism)
    }
}

/// The domain that the header is addressed to, if it is ours (RFC 6120 §4.9.3.5–7).
fn served_domain(
    domains: &ServedDomains,
    to: Option<&str>,
) -> Result<BareJid, StreamErrorCondition> {
    let to = to.ok_or(StreamErrorCondition::ImproperAddressing)?;
    let to = Jid::parse(to).map_err(|_| StreamErrorCondition::HostUnknown)?;
    if to.local().is_some() || to.resource().is_some() {
        return Err(StreamErrorCondition::HostUnknown);
    }
    match domains.state(to.domain()) {
        DomainState::Served => Ok(to.bare()),
        DomainState::Retired => Err(StreamErrorCondition::HostGone),
        DomainState::Unknown => Err(StreamErrorCondition::HostUnknown),
    }
}

/// RFC 6120 §4.7.5: a version we do not know is answered with ours; one below 1.0, or none, we do not speak.
fn check_version(version: Option<&str>) -> Result<(), StreamErrorCondition> {
    let (major, minor) = version
        .and_then(|version| version.split_once('.'))
        .ok_or(StreamErrorCondition::UnsupportedVersion)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_new_enough = major.bytes().any(|digit| digit != b'0');
    if is_number(major) && is_number(minor) && is_new_enough {
        Ok(())
    } else {
        Err(StreamErrorCondition::UnsupportedVersion)
    }
}
