//! The bound stream: stanzas are checked and handed over, all else is answered here.

use super::config::StreamManagementOffer;
use super::effect::StreamEffect;
use super::state::{Bound, State};
use super::{StreamCore, is_stanza, stanza_bytes};
use crate::jid::{FullJid, Jid};
use crate::ns;
use crate::scan::{Document, Element};
use crate::stanza::Stanza;
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_error::{StreamError, StreamErrorCondition};
use crate::stream_management::{self, Nonza, NonzaError};

impl StreamCore {
    pub(super) fn bound_element(&mut self, state: Bound, document: Document) -> State {
        let root = document.root();
        if is_stanza(root) {
            return self.on_stanza(state, document);
        }
        match (root.name(), root.ns()) {
            (_, ns::STREAM_MANAGEMENT) => self.manage_bound(state, root),
            ("active", ns::CLIENT_STATE) if self.config.client_state => {
                self.effect(StreamEffect::ClientState { active: true });
                State::Bound(state)
            }
            ("inactive", ns::CLIENT_STATE) if self.config.client_state => {
                self.effect(StreamEffect::ClientState { active: false });
                State::Bound(state)
            }
            _ => self.fail(StreamErrorCondition::UnsupportedStanzaType),
        }
    }

    fn on_stanza(&mut self, state: Bound, document: Document) -> State {
        let root = document.root();
        if root
            .attr("from")
            .is_some_and(|from| !is_own_address(&from, &state.jid))
        {
            return self.fail(StreamErrorCondition::InvalidFrom);
        }
        let effect = match answer_leftover(root, &state.jid) {
            Some(reply) => StreamEffect::StanzaAnswered {
                reply: stanza_bytes(&reply),
            },
            None => StreamEffect::Stanza(document),
        };
        self.effect(effect);
        State::Bound(state)
    }

    fn manage_bound(&mut self, state: Bound, element: Element<'_>) -> State {
        if self.config.stream_management == StreamManagementOffer::Off {
            return self.fail(StreamErrorCondition::UnsupportedStanzaType);
        }
        let condition = match Nonza::parse(element) {
            Ok(Nonza::Enable { .. }) if state.stream_management => {
                // XEP-0198 §3: at most one attempt.
                self.send(stream_management::failed(
                    Condition::UnexpectedRequest,
                    None,
                ));
                return self.fail(
                    StreamError::new(StreamErrorCondition::PolicyViolation)
                        .with_text("stream management is enabled already"),
                );
            }
            Ok(nonza @ Nonza::Enable { .. }) => {
                self.effect(StreamEffect::StreamManagement(nonza));
                return State::Bound(Bound {
                    stream_management: true,
                    ..state
                });
            }
            Ok(nonza @ (Nonza::Request | Nonza::Ack { .. })) if state.stream_management => {
                self.effect(StreamEffect::StreamManagement(nonza));
                return State::Bound(state);
            }
            // Acknowledgements that nobody enabled, and `<resume/>` with a session at hand.
            Ok(_) => Condition::UnexpectedRequest,
            Err(error) => match self.refuse_nonza(error) {
                Ok(condition) => condition,
                Err(closed) => return closed,
            },
        };
        self.send(stream_management::failed(condition, None));
        State::Bound(state)
    }

    /// What `<failed/>` says to an element that cannot be read, or the end of the stream.
    pub(super) fn refuse_nonza(&mut self, error: NonzaError) -> Result<Condition, State> {
        match error {
            NonzaError::BadRequest => Ok(Condition::BadRequest),
            NonzaError::BadAck => Err(self.fail(StreamErrorCondition::BadFormat)),
            NonzaError::Unknown => Err(self.fail(StreamErrorCondition::UnsupportedStanzaType)),
        }
    }
}

/// RFC 6120 §8.1.2.1: the client may tell its own full or bare address, however it spells them.
fn is_own_address(from: &str, own: &FullJid) -> bool {
    from == own.as_str()
        || Jid::parse(from).is_ok_and(|from| {
            from.local() == own.local()
                && from.domain() == own.domain()
                && from
                    .resource()
                    .is_none_or(|resource| resource == own.resource())
        })
}

/// What belongs to opening a stream and comes late: a second bind (refused, RFC 6120 §7.1: one resource a
/// stream) and the session of RFC 3921, which means nothing any more and is granted.
fn answer_leftover(root: Element<'_>, own: &FullJid) -> Option<Stanza> {
    if root.name() != "iq" || root.attr("type").as_deref() != Some("set") {
        return None;
    }
    let is_bind = root.child("bind", ns::BIND).is_some();
    if !is_bind && root.child("session", ns::SESSION).is_none() {
        return None;
    }
    let iq = Stanza::from_element(&root).ok()?;
    let account = own.bare();
    let to = iq.to.as_ref().map(Jid::as_str);
    if to.is_some_and(|to| to != account.domain() && to != account.as_str()) {
        return None;
    }
    if is_bind {
        StanzaError::new(Condition::NotAllowed).reply_to(&iq)
    } else {
        Some(Stanza::result_of(&iq, bytes::Bytes::new()))
    }
}
