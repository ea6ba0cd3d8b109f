//! Before authentication: STARTTLS (RFC 6120 §5) and SASL (§6). Everything else is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::effect::{StreamEffect, StreamEvent};
use super::state::{AuthStep, HeaderExpected, InitialMessage, Lookup, State, Unauthenticated};
use super::{StreamCore, is_stanza};
use crate::jid::{BareJid, Jid};
use crate::ns;
use crate::sasl::{
    ClientFirst, Mechanism, PasswordCheck, PasswordVerdict, ProofExpected, Refusal, SaslCondition,
    StoredCredentials, plain,
};
use crate::scan::{Element, Framer};
use crate::stanza_error::Condition;
use crate::stream_error::{StreamError, StreamErrorCondition};
use crate::stream_management;
use crate::write::XmlWriter;

impl StreamCore {
    pub(super) fn unauthenticated_element(
        &mut self,
        state: Unauthenticated,
        element: Element<'_>,
    ) -> State {
        match (element.name(), element.ns()) {
            ("starttls", ns::TLS) => self.on_starttls(),
            ("auth", ns::SASL) => self.on_auth(state, element),
            ("response", ns::SASL) => self.on_response(state, element),
            ("abort", ns::SASL) => self.refuse(state, SaslCondition::Aborted.into()),
            // XEP-0198 §3: out of order, but no reason to close the stream.
            ("enable" | "resume", ns::STREAM_MANAGEMENT) => {
                self.send(stream_management::failed(
                    Condition::UnexpectedRequest,
                    None,
                ));
                State::Unauthenticated(state)
            }
            _ if is_stanza(element) && self.offers_registration() => {
                self.unauthenticated_stanza(state, element)
            }
            // RFC 6120 §4.9.3.12.
            _ if is_stanza(element) => self.fail(StreamErrorCondition::NotAuthorized),
            _ => self.fail(StreamErrorCondition::UnsupportedStanzaType),
        }
    }

    pub(super) fn unauthenticated_event(
        &mut self,
        state: Unauthenticated,
        event: StreamEvent,
    ) -> State {
        let Unauthenticated { domain, step } = state;
        let idle = |domain| Unauthenticated {
            domain,
            step: AuthStep::Idle,
        };
        match (step, event) {
            (AuthStep::Lookup(lookup), StreamEvent::CredentialsFound(credentials)) => {
                let step = self.on_credentials(lookup, credentials);
                State::Unauthenticated(Unauthenticated { domain, step })
            }
            (AuthStep::Lookup(_), StreamEvent::CredentialsRefused(condition)) => {
                self.refuse(idle(domain), condition.into())
            }
            (AuthStep::PasswordCheck(account), StreamEvent::PasswordChecked(verdict)) => {
                match verdict {
                    PasswordVerdict::Right => self.succeed(account, None),
                    PasswordVerdict::Wrong => self.refuse(idle(domain), Refusal::WrongProof),
                }
            }
            (AuthStep::Registration(iq), StreamEvent::Registered) => {
                self.registered(&iq);
                State::Unauthenticated(idle(domain))
            }
            (AuthStep::Registration(iq), StreamEvent::RegistrationRefused(error)) => {
                self.answer_error(&iq, error);
                State::Unauthenticated(idle(domain))
            }
            (step, _) => State::Unauthenticated(Unauthenticated { domain, step }),
        }
    }

    fn on_starttls(&mut self) -> State {
        if !self.offers_tls() {
            // RFC 6120 §5.4.2.2: a failure, and the stream is over.
            self.send(Bytes::from_static(
                b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            ));
            self.send_stream_end();
            let error = StreamError::new(StreamErrorCondition::UnsupportedFeature);
            return self.end(super::CloseReason::Error(error));
        }
        self.send(Bytes::from_static(
            b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        ));
        self.effect(StreamEffect::StartTls);
        // With the framer goes all that was read behind the element.
        self.framer = Framer::new(self.config.limits_before_auth);
        State::TlsHandshake
    }

    /// A new `<auth/>` ends whatever exchange there was.
    fn on_auth(&mut self, state: Unauthenticated, element: Element<'_>) -> State {
        let idle = Unauthenticated {
            step: AuthStep::Idle,
            ..state
        };
        if self.must_encrypt() {
            return self.refuse(idle, SaslCondition::EncryptionRequired.into());
        }
        let named = element.attr("mechanism");
        let mechanism = match named.as_deref().and_then(Mechanism::from_name) {
            Some(mechanism) if self.offers_mechanism(mechanism) => mechanism,
            // It exists, and would be offered if the stream were encrypted.
            Some(Mechanism::Plain) if self.config.mechanisms.contains(&Mechanism::Plain) => {
                return self.refuse(idle, SaslCondition::EncryptionRequired.into());
            }
            _ => return self.refuse(idle, SaslCondition::InvalidMechanism.into()),
        };
        match payload(element) {
            Ok(Some(message)) => self.on_initial_response(idle, mechanism, &message),
            Ok(None) => {
                // RFC 6120 §6.4.2: without an initial response the first challenge is empty.
                self.send_challenge("");
                State::Unauthenticated(Unauthenticated {
                    step: AuthStep::InitialResponse(mechanism),
                    ..idle
                })
            }
            Err(condition) => self.refuse(idle, condition.into()),
        }
    }

    fn on_response(&mut self, state: Unauthenticated, element: Element<'_>) -> State {
        let Unauthenticated { domain, step } = state;
        let idle = Unauthenticated {
            domain,
            step: AuthStep::Idle,
        };
        let message = match payload(element) {
            Ok(message) => message.unwrap_or_default(),
            Err(condition) => return self.refuse(idle, condition.into()),
        };
        match step {
            AuthStep::InitialResponse(mechanism) => {
                self.on_initial_response(idle, mechanism, &message)
            }
            AuthStep::Proof { account, expected } => {
                self.on_proof(idle, account, *expected, &message)
            }
            _ => self.refuse(idle, SaslCondition::MalformedRequest.into()),
        }
    }

    fn on_initial_response(
        &mut self,
        idle: Unauthenticated,
        mechanism: Mechanism,
        message: &[u8],
    ) -> State {
        let parsed = match mechanism.scram_hash() {
            Some(hash) => ClientFirst::parse(message, false)
                .map(|first| InitialMessage::Scram(hash, Box::new(first))),
            None => plain::parse(message).map(|message| InitialMessage::Plain(Box::new(message))),
        };
        let looked_up = parsed.and_then(|message| {
            let (username, authzid) = match &message {
                InitialMessage::Scram(_, first) => (first.username(), first.authzid()),
                InitialMessage::Plain(plain) => (plain.username.as_str(), plain.authzid.as_deref()),
            };
            let account = account_of(username, &idle.domain)?;
            check_authzid(authzid, &account)?;
            Ok(Lookup { account, message })
        });
        match looked_up {
            Ok(lookup) => {
                self.effect(StreamEffect::LookupCredentials {
                    account: lookup.account.clone(),
                });
                State::Unauthenticated(Unauthenticated {
                    step: AuthStep::Lookup(lookup),
                    ..idle
                })
            }
            Err(refusal) => self.refuse(idle, refusal),
        }
    }

    /// What is stored is known, or that nothing is; the peer cannot tell the two apart.
    fn on_credentials(
        &mut self,
        lookup: Lookup,
        credentials: Option<StoredCredentials>,
    ) -> AuthStep {
        let Lookup { account, message } = lookup;
        match message {
            InitialMessage::Scram(hash, first) => {
                let keys = credentials
                    .and_then(|credentials| credentials.keys(hash).cloned())
                    .unwrap_or_else(|| self.config.decoys.keys(hash, account.as_str()));
                let nonce = self.nonce();
                let (server_first, expected) = first.challenge(hash, keys, &nonce);
                self.send_challenge(&BASE64.encode(server_first));
                AuthStep::Proof {
                    account,
                    expected: Box::new(expected),
                }
            }
            InitialMessage::Plain(message) => {
                let check = match credentials {
                    Some(credentials) => PasswordCheck::against(message.password, credentials),
                    None => {
                        let decoy = self.config.decoys.credentials(account.as_str());
                        PasswordCheck::decoy(message.password, decoy)
                    }
                };
                self.effect(StreamEffect::CheckPassword(Box::new(check)));
                AuthStep::PasswordCheck(account)
            }
        }
    }

    fn on_proof(
        &mut self,
        idle: Unauthenticated,
        account: BareJid,
        expected: ProofExpected,
        message: &[u8],
    ) -> State {
        match expected.verify(message) {
            Ok(server_final) => self.succeed(account, Some(&server_final)),
            Err(refusal) => self.refuse(idle, refusal),
        }
    }

    fn succeed(&mut self, account: BareJid, server_final: Option<&str>) -> State {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.start_ns("success", ns::SASL);
        if let Some(server_final) = server_final {
            writer.text(&BASE64.encode(server_final));
        }
        writer.end();
        self.send(writer.finish());
        self.effect(StreamEffect::Authenticated {
            account: account.clone(),
        });
        self.restart(HeaderExpected {
            account: Some(account),
        })
    }

    /// `<failure/>`; the client may try again unless it has guessed too often (RFC 6120 §6.4.5).
    fn refuse(&mut self, idle: Unauthenticated, refusal: Refusal) -> State {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer
            .start_ns("failure", ns::SASL)
            .start(refusal.condition().name())
            .end()
            .end();
        self.send(writer.finish());
        if refusal == Refusal::WrongProof {
            self.wrong_proofs += 1;
            if self.wrong_proofs >= self.config.negotiation.wrong_proofs_max {
                return self.fail(StreamErrorCondition::PolicyViolation);
            }
        }
        State::Unauthenticated(Unauthenticated {
            step: AuthStep::Idle,
            ..idle
        })
    }

    fn send_challenge(&mut self, text: &str) {
        let mut writer = XmlWriter::new(ns::CLIENT);
        writer.start_ns("challenge", ns::SASL).text(text).end();
        self.send(writer.finish());
    }
}

/// The data of `<auth/>` or `<response/>`: `None` if there is none, empty for a lone `=` (RFC 6120 §6.4.2).
fn payload(element: Element<'_>) -> Result<Option<Vec<u8>>, SaslCondition> {
    if element.children().next().is_some() {
        return Err(SaslCondition::MalformedRequest);
    }
    match element.text().trim_ascii() {
        "" => Ok(None),
        "=" => Ok(Some(Vec::new())),
        text => match BASE64.decode(text) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(SaslCondition::IncorrectEncoding),
        },
    }
}

/// The account of a user name: its local part (RFC 6120 §6.3.7). A name that cannot be one belongs to nobody.
pub(super) fn account_of(username: &str, domain: &BareJid) -> Result<BareJid, Refusal> {
    BareJid::from_parts(Some(username), domain.domain())
        .ok()
        .filter(|account| account.local().is_some())
        .ok_or(Refusal::Condition(SaslCondition::NotAuthorized))
}

/// RFC 6120 §6.3.8: acting as somebody else is not offered, acting expressly as oneself is allowed.
fn check_authzid(authzid: Option<&str>, account: &BareJid) -> Result<(), Refusal> {
    let Some(authzid) = authzid else {
        return Ok(());
    };
    match Jid::parse(authzid) {
        Ok(jid) if jid.resource().is_none() && jid.bare() == *account => Ok(()),
        _ => Err(SaslCondition::InvalidAuthzid.into()),
    }
}
