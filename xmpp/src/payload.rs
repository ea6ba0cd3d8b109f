//! What the payload modules share: one error for all that can be wrong with a payload, and how to ask for what
//! must be there.

use std::borrow::Cow;

use crate::jid::Jid;
use crate::scan::Element;
use crate::stanza_error::{Condition, StanzaError};

/// Why a payload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({condition})")]
pub struct PayloadError {
    /// What the sender is told.
    pub condition: Condition,
    /// What is wrong, for people; never what the sender wrote.
    pub reason: &'static str,
}

impl PayloadError {
    /// A payload that breaks its schema: `bad-request`.
    pub const fn malformed(reason: &'static str) -> Self {
        Self {
            condition: Condition::BadRequest,
            reason,
        }
    }

    /// A payload that is refused for another reason.
    pub const fn new(condition: Condition, reason: &'static str) -> Self {
        Self { condition, reason }
    }
}

impl From<PayloadError> for StanzaError {
    fn from(error: PayloadError) -> Self {
        Self::new(error.condition).with_text(error.reason)
    }
}

/// An attribute that must be there.
pub(crate) fn required<'a>(
    element: Element<'a>,
    name: &str,
    reason: &'static str,
) -> Result<Cow<'a, str>, PayloadError> {
    element.attr(name).ok_or(PayloadError::malformed(reason))
}

/// An attribute that holds an address, if it is there.
pub(crate) fn jid(element: Element<'_>, name: &str) -> Result<Option<Jid>, PayloadError> {
    let parse = |text: Cow<'_, str>| {
        Jid::parse(&text)
            .map_err(|_| PayloadError::new(Condition::JidMalformed, "an address is malformed"))
    };
    element.attr(name).map(parse).transpose()
}

/// An attribute that holds an address and must be there.
pub(crate) fn required_jid(
    element: Element<'_>,
    name: &str,
    reason: &'static str,
) -> Result<Jid, PayloadError> {
    jid(element, name)?.ok_or(PayloadError::malformed(reason))
}

/// A whole number, if the text is there.
pub(crate) fn number<T: std::str::FromStr>(
    text: Option<Cow<'_, str>>,
    reason: &'static str,
) -> Result<Option<T>, PayloadError> {
    let parse = |text: Cow<'_, str>| {
        text.trim()
            .parse()
            .map_err(|_| PayloadError::malformed(reason))
    };
    text.map(parse).transpose()
}

/// XML Schema's boolean: `true`, `1`, `false`, `0`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
