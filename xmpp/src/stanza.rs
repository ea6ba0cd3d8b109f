//! Stanzas: message, presence and iq as they travel through Muster (RFC 6120 §8).
//!
//! The addressing attributes are parsed; everything inside is kept as canonical bytes, checked once when it came
//! in. Cloning counts references. A stanza for many recipients is written once: a [`StanzaTemplate`] only takes
//! another `to`.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::jid::Jid;
use crate::ns;
use crate::scan::{Document, Element, Limits};
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_error::StreamError;
use crate::write::{XmlWriter, escape_attribute};

/// The three kinds of stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StanzaKind {
    /// Push: a message.
    Message,
    /// Broadcast: presence.
    Presence,
    /// Request and response.
    Iq,
}

impl StanzaKind {
    /// The name of the stanza's element.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Iq => "iq",
        }
    }

    /// The kind that an element name stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "message" => Some(Self::Message),
            "presence" => Some(Self::Presence),
            "iq" => Some(Self::Iq),
            _ => None,
        }
    }
}

/// The type of a message (RFC 6121 §5.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// A single message; also the default.
    Normal,
    /// Part of a conversation of two.
    Chat,
    /// Part of a room's conversation.
    Groupchat,
    /// An alert without expectation of an answer.
    Headline,
    /// A message that could not be delivered.
    Error,
}

/// The type of a presence (RFC 6121 §4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PresenceType {
    /// No type attribute.
    Available,
    /// The sender goes away.
    Unavailable,
    /// A request to see the recipient's presence.
    Subscribe,
    /// The request is granted.
    Subscribed,
    /// The sender no longer wants to see the recipient's presence.
    Unsubscribe,
    /// The request is denied, or the permission withdrawn.
    Unsubscribed,
    /// A server asks for a contact's presence.
    Probe,
    /// Something went wrong; also what is unknown.
    Error,
}

/// The type of an iq (RFC 6120 §8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IqType {
    /// Asks for information.
    Get,
    /// Asks for a change.
    Set,
    /// The answer.
    Result,
    /// The refusal; also what is unknown.
    Error,
}

/// One stanza. Its Debug output leaves the payload out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stanza {
    /// Message, presence or iq.
    pub kind: StanzaKind,
    /// The sender. Comes from the session, never from the client.
    pub from: Option<Jid>,
    /// The recipient.
    pub to: Option<Jid>,
    /// The sender's id for it.
    #[serde(with = "shared_text")]
    pub id: Option<Arc<str>>,
    /// The type attribute as it was written.
    #[serde(with = "shared_text")]
    pub type_: Option<Arc<str>>,
    /// The language of its texts.
    #[serde(with = "shared_text")]
    pub lang: Option<Arc<str>>,
    /// The child elements in canonical form; the default namespace is `jabber:client`.
    pub payload: Bytes,
}

impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind.name())
            .field("from", &self.from)
            .field("to", &self.to)
            .field("id", &self.id)
            .field("type", &self.type_)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Why an element is no stanza that can be processed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StanzaParseError {
    /// Not a message, presence or iq of `jabber:client`: `unsupported-stanza-type` (RFC 6120 §4.9.3.24).
    #[error("the element is no stanza")]
    NotAStanza,
    /// A `from` that is no JID: `invalid-from` (RFC 6120 §4.9.3.9), since no client's own address is malformed.
    #[error("the sender's address is malformed")]
    MalformedFrom,
    /// The stanza itself is refused; the stream lives.
    #[error("the stanza is refused: {error}")]
    Refused {
        /// What to tell the sender.
        error: Box<StanzaError>,
        /// As much of the stanza as could be read, without what was malformed and without payload.
        stanza: Box<Stanza>,
    },
}

impl StanzaParseError {
    /// The error stanza for the sender, addressed from the server itself if `to` could not be read.
    pub fn reply(&self) -> Option<Stanza> {
        match self {
            Self::Refused { error, stanza } => error.reply_to(stanza),
            Self::NotAStanza | Self::MalformedFrom => None,
        }
    }
}

impl Stanza {
    /// A stanza without payload.
    pub fn new(kind: StanzaKind) -> Self {
        Self {
            kind,
            from: None,
            to: None,
            id: None,
            type_: None,
            lang: None,
            payload: Bytes::new(),
        }
    }

    /// An iq result for `request`: addresses swapped, id kept.
    pub fn result_of(request: &Stanza, payload: Bytes) -> Self {
        Self {
            kind: StanzaKind::Iq,
            from: request.to.clone(),
            to: request.from.clone(),
            id: request.id.clone(),
            type_: Some("result".into()),
            lang: None,
            payload,
        }
    }

    /// Reads a scanned element. Unknown attributes and text between the child elements are dropped.
    pub fn from_element(element: &Element<'_>) -> Result<Self, StanzaParseError> {
        let kind = StanzaKind::from_name(element.name()).filter(|_| element.ns() == ns::CLIENT);
        let mut stanza = Self::new(kind.ok_or(StanzaParseError::NotAStanza)?);
        let mut to = None;
        for attr in element.attrs() {
            match (attr.ns, attr.name) {
                ("", "id") => stanza.id = Some(attr.value.into()),
                ("", "type") => stanza.type_ = Some(attr.value.into()),
                (ns::XML, "lang") => stanza.lang = Some(attr.value.into()),
                ("", "from") => {
                    let from = Jid::parse(&attr.value);
                    stanza.from = Some(from.map_err(|_| StanzaParseError::MalformedFrom)?);
                }
                ("", "to") => to = Some(attr.value),
                _ => {}
            }
        }
        // Read last: a refusal repeats the other attributes (RFC 6120 §8.1.1.1, §8.3.3.8).
        match to.map(|to| Jid::parse(&to)).transpose() {
            Ok(to) => stanza.to = to,
            Err(_) => return Err(stanza.refused(Condition::JidMalformed)),
        }
        if stanza.kind == StanzaKind::Iq {
            stanza = stanza.check_iq(element)?;
        }
        let mut payload = Vec::with_capacity(element.document_len());
        for child in element.children() {
            child.write_canonical(&mut payload, ns::CLIENT);
        }
        // An exact copy: the scanned text had room for the stanza's own tag as well, and payloads live long.
        stanza.payload = Bytes::copy_from_slice(&payload);
        Ok(stanza)
    }

    /// RFC 6120 §8.2.3: an iq has an id, a type, and the right number of children.
    fn check_iq(self, element: &Element<'_>) -> Result<Self, StanzaParseError> {
        let children = element.children().take(2).count();
        let well_formed = match self.type_.as_deref() {
            Some("get" | "set") => children == 1,
            Some("result") => children <= 1,
            Some("error") => true,
            _ => false,
        };
        if well_formed && self.id.is_some() {
            return Ok(self);
        }
        // A request without a known type is still answered: the sender waits for something.
        let answerable = match self.type_.as_deref() {
            Some("result" | "error") => self,
            _ => Self {
                type_: Some("get".into()),
                ..self
            },
        };
        Err(answerable.refused(Condition::BadRequest))
    }

    fn refused(self, condition: Condition) -> StanzaParseError {
        StanzaParseError::Refused {
            error: Box::new(condition.into()),
            stanza: Box::new(self),
        }
    }

    /// The payload as a document to walk. It was checked when it came in, so this succeeds unless storage was damaged.
    pub fn payload_document(&self) -> Result<Document, StreamError> {
        Document::parse_fragment(self.payload.clone(), &Limits::OWN)
    }

    /// Removes the child elements that `keep` refuses. The payload is written anew only if there are any.
    pub fn retain_payload(
        &mut self,
        mut keep: impl FnMut(&Element<'_>) -> bool,
    ) -> Result<(), StreamError> {
        let document = self.payload_document()?;
        let kept: Vec<_> = document.roots().filter(|child| keep(child)).collect();
        if kept.len() < document.roots().count() {
            let mut payload = BytesMut::with_capacity(self.payload.len());
            for child in kept {
                child.write_canonical(&mut payload, ns::CLIENT);
            }
            self.payload = payload.freeze();
        }
        Ok(())
    }

    /// Adds canonical bytes behind the child elements.
    pub fn append_payload(&mut self, xml: &[u8]) {
        let mut payload = BytesMut::with_capacity(self.payload.len() + xml.len());
        payload.put_slice(&self.payload);
        payload.put_slice(xml);
        self.payload = payload.freeze();
    }

    /// The type of a message; what is unknown is normal (RFC 6121 §5.2.2).
    pub fn message_type(&self) -> MessageType {
        match self.type_.as_deref() {
            Some("chat") => MessageType::Chat,
            Some("groupchat") => MessageType::Groupchat,
            Some("headline") => MessageType::Headline,
            Some("error") => MessageType::Error,
            _ => MessageType::Normal,
        }
    }

    /// The type of a presence; what is unknown is an error (RFC 6121 §4.7.1).
    pub fn presence_type(&self) -> PresenceType {
        match self.type_.as_deref() {
            None => PresenceType::Available,
            Some("unavailable") => PresenceType::Unavailable,
            Some("subscribe") => PresenceType::Subscribe,
            Some("subscribed") => PresenceType::Subscribed,
            Some("unsubscribe") => PresenceType::Unsubscribe,
            Some("unsubscribed") => PresenceType::Unsubscribed,
            Some("probe") => PresenceType::Probe,
            Some(_) => PresenceType::Error,
        }
    }

    /// The type of an iq; what is unknown is an error (RFC 6120 §8.2.3).
    pub fn iq_type(&self) -> IqType {
        match self.type_.as_deref() {
            Some("get") => IqType::Get,
            Some("set") => IqType::Set,
            Some("result") => IqType::Result,
            _ => IqType::Error,
        }
    }

    /// True for a stanza of type error.
    pub fn is_error(&self) -> bool {
        self.type_.as_deref() == Some("error")
    }

    /// True for an iq of type get or set: it must be answered.
    pub fn is_request(&self) -> bool {
        self.kind == StanzaKind::Iq && matches!(self.type_.as_deref(), Some("get" | "set"))
    }

    /// Writes the stanza as it stands in a stream of `jabber:client`.
    pub fn write(&self, out: &mut BytesMut) {
        out.reserve(self.size_hint());
        self.write_start(out, "");
        if let Some(to) = &self.to {
            write_attr(out, "to", to.as_str());
        }
        self.write_rest(out);
    }

    /// Writes the stanza with another `to`.
    pub fn write_to(&self, to: &str, out: &mut BytesMut) {
        out.reserve(self.size_hint());
        self.write_start(out, "");
        write_attr(out, "to", to);
        self.write_rest(out);
    }

    /// Writes the stanza with its namespace declared, as a frame of its own needs it (RFC 7395 §3.3.3).
    pub fn write_standalone(&self, out: &mut BytesMut) {
        out.reserve(self.size_hint());
        self.write_start(out, " xmlns='jabber:client'");
        if let Some(to) = &self.to {
            write_attr(out, "to", to.as_str());
        }
        self.write_rest(out);
    }

    /// Writes the stanza inside another payload, such as `<forwarded/>`.
    pub fn write_into(&self, writer: &mut XmlWriter) {
        writer.start_ns(self.kind.name(), ns::CLIENT);
        writer.attr_opt("from", self.from.as_ref().map(Jid::as_str));
        writer.attr_opt("id", self.id.as_deref());
        writer.attr_opt("type", self.type_.as_deref());
        writer.attr_opt("xml:lang", self.lang.as_deref());
        writer.attr_opt("to", self.to.as_ref().map(Jid::as_str));
        writer.raw(&self.payload).end();
    }

    /// The stanza as bytes around a `to` to be filled in: written once for many recipients.
    pub fn split(&self) -> StanzaTemplate {
        let mut out = BytesMut::with_capacity(self.size_hint());
        self.write_start(&mut out, "");
        out.put_slice(b" to='");
        let before = out.split().freeze();
        out.put_u8(b'\'');
        self.write_rest(&mut out);
        StanzaTemplate {
            before,
            after: out.freeze(),
        }
    }

    /// About how many bytes the stanza has on the wire.
    pub fn size_hint(&self) -> usize {
        let jid = |jid: &Option<Jid>| jid.as_ref().map_or(0, |jid| jid.as_str().len());
        let text = |text: &Option<Arc<str>>| text.as_deref().map_or(0, str::len);
        96 + jid(&self.from)
            + jid(&self.to)
            + text(&self.id)
            + text(&self.type_)
            + text(&self.lang)
            + self.payload.len()
    }

    fn write_start(&self, out: &mut BytesMut, declaration: &str) {
        out.put_u8(b'<');
        out.put_slice(self.kind.name().as_bytes());
        out.put_slice(declaration.as_bytes());
        if let Some(from) = &self.from {
            write_attr(out, "from", from.as_str());
        }
        for (name, value) in [
            ("id", &self.id),
            ("type", &self.type_),
            ("xml:lang", &self.lang),
        ] {
            if let Some(value) = value {
                write_attr(out, name, value);
            }
        }
    }

    fn write_rest(&self, out: &mut BytesMut) {
        if self.payload.is_empty() {
            out.put_slice(b"/>");
            return;
        }
        out.put_u8(b'>');
        out.put_slice(&self.payload);
        out.put_slice(b"</");
        out.put_slice(self.kind.name().as_bytes());
        out.put_u8(b'>');
    }
}

fn write_attr(out: &mut BytesMut, name: &str, value: &str) {
    out.put_u8(b' ');
    out.put_slice(name.as_bytes());
    out.put_slice(b"='");
    escape_attribute(value, out);
    out.put_u8(b'\'');
}

/// How `Option<Arc<str>>` is stored: as an optional string.
mod shared_text {
    use super::{Arc, Deserialize};

    pub(super) fn serialize<S: serde::Serializer>(
        text: &Option<Arc<str>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serde::Serialize::serialize(&text.as_deref(), serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<Box<str>>::deserialize(deserializer)?.map(Arc::from))
    }
}

/// A stanza written but for its `to`. Cloning counts references.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaTemplate {
    before: Bytes,
    after: Bytes,
}

impl fmt::Debug for StanzaTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StanzaTemplate")
            .field("bytes", &(self.before.len() + self.after.len()))
            .finish()
    }
}

impl StanzaTemplate {
    /// The bytes before the value of `to`.
    pub fn before(&self) -> &Bytes {
        &self.before
    }

    /// The bytes behind the value of `to`.
    pub fn after(&self) -> &Bytes {
        &self.after
    }

    /// Writes the stanza for one recipient.
    pub fn write(&self, to: &str, out: &mut BytesMut) {
        out.reserve(self.before.len() + to.len() + self.after.len());
        out.put_slice(&self.before);
        escape_attribute(to, out);
        out.put_slice(&self.after);
    }
}

#[cfg(test)]
mod tests;
