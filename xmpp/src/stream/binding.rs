//! After authentication and before a session: binding a resource (RFC 6120 §7), or resuming (XEP-0198 §5).

use bytes::Bytes;

use super::config::StreamManagementOffer;
use super::effect::{StreamEffect, StreamEvent};
use super::state::{BindExpected, BindStep, Bound, State};
use super::{StreamCore, is_stanza};
use crate::jid::{BareJid, FullJid, Jid};
use crate::ns;
use crate::scan::Element;
use crate::stanza::{IqType, Stanza, StanzaKind, StanzaParseError};
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_error::StreamErrorCondition;
use crate::stream_management::{self, Nonza};
use crate::write::XmlWriter;

impl StreamCore {
    pub(super) fn bind_element(&mut self, state: BindExpected, element: Element<'_>) -> State {
        if element.ns() == ns::STREAM_MANAGEMENT {
            return self.manage_unbound(state, element);
        }
        if !is_stanza(element) {
            return self.fail(StreamErrorCondition::UnsupportedStanzaType);
        }
        let (stanza, refused) = match Stanza::from_element(&element) {
            Ok(stanza) => (stanza, None),
            Err(StanzaParseError::MalformedFrom) => {
                return self.fail(StreamErrorCondition::InvalidFrom);
            }
            // No address of ours is malformed, so this was to go elsewhere.
            Err(StanzaParseError::Refused { error, .. })
                if error.condition == Condition::JidMalformed =>
            {
                return self.fail(StreamErrorCondition::NotAuthorized);
            }
            Err(StanzaParseError::Refused { error, stanza }) => (*stanza, Some(*error)),
            Err(StanzaParseError::NotAStanza) => {
                return self.fail(StreamErrorCondition::UnsupportedStanzaType);
            }
        };
        // RFC 6120 §8.1.2.1: the client may leave out `from`, or tell its own address.
        if stanza
            .from
            .as_ref()
            .is_some_and(|from| *from != state.account)
        {
            return self.fail(StreamErrorCondition::InvalidFrom);
        }
        // RFC 6120 §7.1: only the server and the own account may be addressed yet.
        let to = stanza.to.as_ref().map(Jid::as_str);
        if to.is_some_and(|to| to != state.account.domain() && to != state.account.as_str()) {
            return self.fail(StreamErrorCondition::NotAuthorized);
        }
        if let Some(error) = refused {
            self.answer_error(&stanza, error);
            return State::BindExpected(state);
        }
        let is_set = stanza.kind == StanzaKind::Iq && stanza.iq_type() == IqType::Set;
        if is_set && let Some(bind) = element.child("bind", ns::BIND) {
            return self.on_bind(state, stanza, bind);
        }
        if is_set && element.child("session", ns::SESSION).is_some() {
            self.send_stanza(&Stanza::result_of(&stanza, Bytes::new()));
        } else {
            self.answer_error(&stanza, StanzaError::new(Condition::UnexpectedRequest));
        }
        State::BindExpected(state)
    }

    pub(super) fn bind_event(&mut self, state: BindExpected, event: StreamEvent) -> State {
        let BindExpected { account, step } = state;
        match (step, event) {
            (BindStep::Binding(iq), StreamEvent::Bound(jid)) => {
                self.send_stanza(&bind_result(&iq, &jid));
                self.established(jid, false)
            }
            (BindStep::Binding(iq), StreamEvent::BindRefused(error)) => {
                self.answer_error(&iq, error);
                idle(account)
            }
            (BindStep::Resuming { previd }, StreamEvent::Resumed { jid, h }) => {
                self.send(stream_management::resumed(&previd, h));
                self.established(jid, true)
            }
            (BindStep::Resuming { .. }, StreamEvent::ResumeRefused { condition, h }) => {
                self.send(stream_management::failed(condition, h));
                idle(account)
            }
            (step, _) => State::BindExpected(BindExpected { account, step }),
        }
    }

    /// Answers a stanza with an error, unless it is one that is never answered.
    pub(super) fn answer_error(&mut self, stanza: &Stanza, error: StanzaError) {
        if let Some(reply) = error.reply_to(stanza) {
            self.send_stanza(&reply);
        }
    }

    fn on_bind(&mut self, state: BindExpected, stanza: Stanza, bind: Element<'_>) -> State {
        let requested = bind
            .child("resource", ns::BIND)
            .map(|resource| resource.text());
        let requested = match requested.as_deref() {
            None | Some("") => None,
            Some(resource) => match state.account.with_resource(resource) {
                Ok(jid) => Some(jid.resource().to_owned()),
                // RFC 6120 §7.7.2.1: what cannot be prepared is a bad request.
                Err(_) => {
                    self.answer_error(&stanza, StanzaError::new(Condition::BadRequest));
                    return State::BindExpected(state);
                }
            },
        };
        self.effect(StreamEffect::BindResource {
            account: state.account.clone(),
            requested,
        });
        State::BindExpected(BindExpected {
            step: BindStep::Binding(Box::new(stanza)),
            ..state
        })
    }

    fn manage_unbound(&mut self, state: BindExpected, element: Element<'_>) -> State {
        let answer = match Nonza::parse(element) {
            Ok(Nonza::Resume { previd, h }) => match self.config.stream_management {
                StreamManagementOffer::Resumable => {
                    self.effect(StreamEffect::StreamManagement(Nonza::Resume {
                        previd: previd.clone(),
                        h,
                    }));
                    return State::BindExpected(BindExpected {
                        step: BindStep::Resuming { previd },
                        ..state
                    });
                }
                _ => Condition::FeatureNotImplemented,
            },
            // §3: enabling comes after binding; nothing can be acknowledged before it is enabled.
            Ok(_) => Condition::UnexpectedRequest,
            Err(error) => match self.refuse_nonza(error) {
                Ok(condition) => condition,
                Err(closed) => return closed,
            },
        };
        self.send(stream_management::failed(answer, None));
        State::BindExpected(state)
    }

    fn established(&mut self, jid: FullJid, stream_management: bool) -> State {
        self.negotiation = None;
        self.effect(StreamEffect::Established(jid.clone()));
        State::Bound(Bound {
            jid,
            stream_management,
        })
    }
}

fn idle(account: BareJid) -> State {
    State::BindExpected(BindExpected {
        account,
        step: BindStep::Idle,
    })
}

fn bind_result(iq: &Stanza, jid: &FullJid) -> Stanza {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("bind", ns::BIND)
        .leaf("jid", jid.as_str())
        .end();
    Stanza::result_of(iq, writer.finish())
}
