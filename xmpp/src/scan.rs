//! The scanner: bytes from the wire become elements, or a stream error.
//!
//! One pass over the bytes builds a flat table of nodes that point into the text; no node has memory of its own
//! and nothing recurses. [`Framer`] does this for a stream, whatever way its bytes are cut; [`Document`] also
//! parses elements that stand alone (a WebSocket frame, a stored payload). TCP, WebSocket and HTTP share it.
//!
//! ```text
//!  bytes ─► Framer: UTF-8 and XML characters, byte limit ─► Scanner: tags, names, namespaces ─► Document ─► Element
//! ```
//!
//! What RFC 6120 §11.1 forbids (comments, processing instructions, document types, entities) is refused as
//! `restricted-xml`; what a peer may cost is bounded by [`Limits`].

mod canonical;
mod chars;
mod document;
mod framer;
mod namespaces;
mod reference;
mod scanner;
mod scope;

pub use document::{Attribute, Attributes, Children, Document, Element};
pub use framer::{Frame, Framer, StreamHeader};

pub(crate) use reference::decode_attribute;

/// What one element of a stream may cost. More of anything is a `policy-violation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one first-level element, or of the stream's header.
    pub stanza_bytes_max: usize,
    /// Depth of nesting; the first-level element itself has depth 1.
    pub depth_max: usize,
    /// Elements within one first-level element, itself included.
    pub elements_max: usize,
    /// Attributes of one tag, namespace declarations included.
    pub attributes_max: usize,
    /// Namespace declarations within one first-level element.
    pub namespaces_max: usize,
}

impl Limits {
    /// For a peer that has not authenticated.
    pub const BEFORE_AUTH: Self = Self {
        stanza_bytes_max: 8 * 1024,
        depth_max: 8,
        elements_max: 32,
        attributes_max: 16,
        namespaces_max: 8,
    };

    /// For a peer that has authenticated; also for what this pool stored itself.
    pub const AFTER_AUTH: Self = Self {
        stanza_bytes_max: 256 * 1024,
        depth_max: 64,
        elements_max: 4096,
        attributes_max: 64,
        namespaces_max: 32,
    };

    /// For what this pool wrote itself: canonical form repeats namespaces, and a server adds elements of its own.
    pub const OWN: Self = Self {
        stanza_bytes_max: 16 * 1024 * 1024,
        depth_max: 256,
        elements_max: 1024 * 1024,
        attributes_max: 256,
        namespaces_max: 1024 * 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::AFTER_AUTH
    }
}

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;
