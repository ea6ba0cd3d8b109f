//! How a rule refuses: from the condition to the answer that the session turns into an error reply.

use xmpp::ns;
use xmpp::stanza_error::{Condition, StanzaError, StanzaErrorType};

use crate::command::Answer;
use crate::outbox::WAY_FULL;

/// Refused with this condition and its usual type (RFC 6120 §8.3.3).
pub(crate) fn refuse(condition: Condition) -> Answer {
    Answer::Refused(Box::new(StanzaError::new(condition)))
}

/// Refused with this condition and a sentence for people.
pub(crate) fn refuse_because(condition: Condition, text: &str) -> Answer {
    Answer::Refused(Box::new(StanzaError::new(condition).with_text(text)))
}

/// RFC 6120 §8.3.3.18: too much waits on the way to whom the stanza is for.
pub(crate) fn refuse_way_full() -> Answer {
    refuse_because(Condition::ResourceConstraint, WAY_FULL)
}

/// XEP-0191 §3.2: the user has blocked whom the stanza is for.
pub(crate) fn blocked() -> StanzaError {
    let error = StanzaError::new(Condition::NotAcceptable).with_kind(StanzaErrorType::Cancel);
    error.with_app("blocked", ns::BLOCKING_ERRORS)
}

/// [`blocked`], as an answer.
pub(crate) fn refuse_blocked() -> Answer {
    Answer::Refused(Box::new(blocked()))
}
