//! Copies of a user's messages to all of the user's sessions (XEP-0280).

use bytes::Bytes;

use crate::forward;
use crate::jid::{BareJid, FullJid};
use crate::ns;
use crate::scan::Element;
use crate::stanza::{Stanza, StanzaKind};
use crate::write::XmlWriter;

/// A session's wish (§3, §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarbonsRequest {
    /// Send copies.
    Enable,
    /// Send no more copies.
    Disable,
}

impl CarbonsRequest {
    /// Reads the payload of an iq set. `None` if it is not about carbons.
    pub fn parse(element: Element<'_>) -> Option<Self> {
        match (element.name(), element.ns()) {
            ("enable", ns::CARBONS) => Some(Self::Enable),
            ("disable", ns::CARBONS) => Some(Self::Disable),
            _ => None,
        }
    }
}

/// Which way the copied message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the user (§5).
    Received,
    /// From the user (§6).
    Sent,
}

impl Direction {
    /// The name of the wrapper.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }
}

/// The copy of `message` for one of the user's sessions: from the user's own bare JID, of the same type (§5, §11).
pub fn copy(direction: Direction, message: &Stanza, user: &BareJid, session: &FullJid) -> Stanza {
    Stanza {
        from: Some(user.into()),
        to: Some(session.into()),
        type_: message.type_.clone(),
        payload: wrap(direction, message),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// The payload of a copy: the same for all of the user's sessions.
pub fn wrap(direction: Direction, message: &Stanza) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns(direction.name(), ns::CARBONS);
    forward::write(None, message, &mut writer);
    writer.end();
    writer.finish()
}

/// True for a wrapper that only a server may send (§11): clients' are stripped.
pub fn is_wrapper(element: &Element<'_>) -> bool {
    element.ns() == ns::CARBONS && matches!(element.name(), "received" | "sent")
}

/// True for the sender's wish that a message is not copied (§9).
pub fn is_private(element: &Element<'_>) -> bool {
    element.is("private", ns::CARBONS)
}
