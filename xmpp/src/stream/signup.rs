//! Making an account before authentication (XEP-0077), where the operator allows it.

use bytes::Bytes;

use super::StreamCore;
use super::authentication::account_of;
use super::effect::StreamEffect;
use super::state::{AuthStep, State, Unauthenticated};
use crate::ns;
use crate::registration::{self, RegistrationRequest};
use crate::scan::Element;
use crate::stanza::{IqType, Stanza, StanzaKind};
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_error::StreamErrorCondition;

impl StreamCore {
    /// A stanza of somebody unknown: a registration, or the end of the stream.
    pub(super) fn unauthenticated_stanza(
        &mut self,
        state: Unauthenticated,
        element: Element<'_>,
    ) -> State {
        let Some(query) = element.child("query", ns::REGISTER) else {
            return self.fail(StreamErrorCondition::NotAuthorized);
        };
        // Malformed addresses are no business of somebody who has none.
        let Ok(iq) = Stanza::from_element(&element) else {
            return self.fail(StreamErrorCondition::NotAuthorized);
        };
        let to_us = iq
            .to
            .as_ref()
            .is_none_or(|to| to.as_str() == state.domain.as_str());
        let is_set = match iq.iq_type() {
            IqType::Set => true,
            IqType::Get => false,
            _ => return self.fail(StreamErrorCondition::NotAuthorized),
        };
        if iq.kind != StanzaKind::Iq || !to_us {
            return self.fail(StreamErrorCondition::NotAuthorized);
        }
        // The payload holds the password: not a byte of it is kept for the answer.
        let iq = Stanza {
            payload: Bytes::new(),
            ..iq
        };
        match RegistrationRequest::parse(query, is_set) {
            Ok(RegistrationRequest::Fields) => {
                let answer = Stanza::result_of(&iq, registration::fields(None));
                self.send_stanza(&answer);
                State::Unauthenticated(state)
            }
            Ok(RegistrationRequest::Submit { username, password }) => {
                let Ok(account) = account_of(&username, &state.domain) else {
                    self.answer_error(&iq, StanzaError::new(Condition::JidMalformed));
                    return State::Unauthenticated(state);
                };
                self.effect(StreamEffect::Register { account, password });
                State::Unauthenticated(Unauthenticated {
                    step: AuthStep::Registration(Box::new(iq)),
                    ..state
                })
            }
            // §3.2: nobody is registered here yet, so there is nothing to remove.
            Ok(RegistrationRequest::Remove) => {
                self.answer_error(&iq, StanzaError::new(Condition::UnexpectedRequest));
                State::Unauthenticated(state)
            }
            Err(error) => {
                self.answer_error(&iq, StanzaError::new(error.condition()));
                State::Unauthenticated(state)
            }
        }
    }

    pub(super) fn registered(&mut self, iq: &Stanza) {
        self.send_stanza(&Stanza::result_of(iq, Bytes::new()));
    }
}
