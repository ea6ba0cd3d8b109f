//! When a stanza was really sent (XEP-0203).

use crate::jid::Jid;
use crate::ns;
use crate::payload::{self, PayloadError};
use crate::scan::Element;
use crate::timestamp::Timestamp;
use crate::write::XmlWriter;

/// A note that a stanza was delayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// Who delayed it.
    pub from: Option<Jid>,
    /// When it was sent.
    pub stamp: Timestamp,
}

impl Delay {
    /// Reads `<delay/>`.
    pub fn parse(delay: Element<'_>) -> Result<Self, PayloadError> {
        let stamp = payload::required(delay, "stamp", "a delay has a time")?;
        let stamp = Timestamp::parse(&stamp)
            .map_err(|_| PayloadError::malformed("the time of a delay is no time"))?;
        Ok(Self {
            from: payload::jid(delay, "from")?,
            stamp,
        })
    }

    /// Writes `<delay/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("delay", ns::DELAY)
            .attr_opt("from", self.from.as_ref().map(Jid::as_str));
        writer.attr("stamp", &self.stamp.to_string()).end();
    }
}
