//! Ids of messages that survive their way: the archive's and the sender's (XEP-0359).

use crate::jid::Jid;
use crate::ns;
use crate::payload::{PayloadError, required, required_jid};
use crate::scan::Element;
use crate::write::XmlWriter;

/// An id that an archive gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaId {
    /// The id.
    pub id: String,
    /// Whose id it is.
    pub by: Jid,
}

impl StanzaId {
    /// Reads `<stanza-id/>`.
    pub fn parse(element: Element<'_>) -> Result<Self, PayloadError> {
        let id = required(element, "id", "a stanza-id has an id")?.into_owned();
        Ok(Self {
            id,
            by: required_jid(element, "by", "a stanza-id says by whom")?,
        })
    }

    /// Writes `<stanza-id/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("stanza-id", ns::STANZA_ID)
            .attr("id", &self.id)
            .attr("by", self.by.as_str())
            .end();
    }
}

/// True for a stanza-id in the name of `by`, or in nobody's: what others claim to come from us is stripped (§4).
pub fn is_stanza_id_by(element: &Element<'_>, by: &str) -> bool {
    if !element.is("stanza-id", ns::STANZA_ID) {
        return false;
    }
    match element.attr("by").map(|claimed| Jid::parse(&claimed)) {
        Some(Ok(claimed)) => claimed.as_str() == by,
        Some(Err(_)) | None => true,
    }
}

/// The sender's own id (§3), if the element is one and holds something.
pub fn origin_id(element: Element<'_>) -> Option<String> {
    let id = element
        .attr("id")
        .filter(|id| !id.is_empty() && element.is("origin-id", ns::STANZA_ID))?;
    Some(id.into_owned())
}
