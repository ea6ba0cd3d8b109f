//! A stanza inside another (XEP-0297).

use crate::delay::Delay;
use crate::ns;
use crate::payload::PayloadError;
use crate::scan::Element;
use crate::stanza::Stanza;
use crate::write::XmlWriter;

/// A stanza that is passed on, and when it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// When it was sent.
    pub delay: Option<Delay>,
    /// What was sent.
    pub stanza: Stanza,
}

impl Forwarded {
    /// Reads `<forwarded/>`.
    pub fn parse(forwarded: Element<'_>) -> Result<Self, PayloadError> {
        let mut stanzas = forwarded
            .children()
            .filter(|child| child.ns() == ns::CLIENT);
        let (Some(stanza), None) = (stanzas.next(), stanzas.next()) else {
            return Err(PayloadError::malformed("one stanza is forwarded"));
        };
        let stanza = Stanza::from_element(&stanza);
        let stanza =
            stanza.map_err(|_| PayloadError::malformed("the forwarded stanza is malformed"))?;
        Ok(Self {
            delay: forwarded
                .child("delay", ns::DELAY)
                .map(Delay::parse)
                .transpose()?,
            stanza,
        })
    }

    /// Writes `<forwarded/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        write(self.delay.as_ref(), &self.stanza, writer);
    }
}

/// Writes `<forwarded/>` around a stanza.
pub fn write(delay: Option<&Delay>, stanza: &Stanza, writer: &mut XmlWriter) {
    writer.start_ns("forwarded", ns::FORWARD);
    if let Some(delay) = delay {
        delay.write(writer);
    }
    stanza.write_into(writer);
    writer.end();
}
