//! Blocking on the wire (XEP-0191).

use crate::jid::Jid;
use crate::ns;
use crate::payload::{PayloadError, required_jid};
use crate::scan::Element;
use crate::stanza_error::{Condition, StanzaError};
use crate::write::XmlWriter;

/// What a client asks about its blocklist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockingRequest {
    /// What is blocked (§3.2)?
    List,
    /// Block these (§3.3).
    Block(Vec<Jid>),
    /// Block these no longer (§3.4); empty: block nobody (§3.5).
    Unblock(Vec<Jid>),
}

impl BlockingRequest {
    /// Reads the payload of an iq.
    pub fn parse(element: Element<'_>) -> Result<Self, PayloadError> {
        let items = || {
            let items = element
                .children()
                .filter(|child| child.is("item", ns::BLOCKING));
            let jids = items.map(|item| required_jid(item, "jid", "a blocked item has an address"));
            jids.collect::<Result<Vec<_>, _>>()
        };
        match (element.name(), element.ns()) {
            ("blocklist", ns::BLOCKING) => Ok(Self::List),
            ("unblock", ns::BLOCKING) => Ok(Self::Unblock(items()?)),
            ("block", ns::BLOCKING) => match items()? {
                none if none.is_empty() => Err(PayloadError::malformed("nobody is to be blocked")),
                jids => Ok(Self::Block(jids)),
            },
            _ => Err(PayloadError::new(
                Condition::FeatureNotImplemented,
                "no such request about blocking",
            )),
        }
    }
}

/// Writes `<blocklist/>`, `<block/>` or `<unblock/>` with its items: an answer or a push.
pub fn write<'a>(
    name: &'static str,
    jids: impl IntoIterator<Item = &'a Jid>,
    writer: &mut XmlWriter,
) {
    writer.start_ns(name, ns::BLOCKING);
    for jid in jids {
        writer.start("item").attr("jid", jid.as_str()).end();
    }
    writer.end();
}

/// The answer to a stanza that the user sends to somebody the user blocks (§3.6).
pub fn blocked_by_sender() -> StanzaError {
    StanzaError::new(Condition::NotAcceptable).with_app("blocked", ns::BLOCKING_ERRORS)
}
