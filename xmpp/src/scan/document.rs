//! A scanned document: its text, a flat table of nodes over it, and a cursor to walk it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::scanner::{Scanner, Step};
use super::scope::{NsRef, NsTarget, Scope};
use super::{Limits, chars, reference};
use crate::ns;
use crate::stream_error::{StreamError, StreamErrorCondition as Condition};

/// A range of bytes of the document's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// Offsets fit: the scanner never sees more than 4 GiB of one element.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    Element,
    /// Character data that stands for itself.
    Text,
    /// Character data with references or line ends to decode.
    EscapedText,
    Cdata,
}

/// No node: the parent of a first-level element.
pub(super) const NO_NODE: u32 = u32::MAX;

/// One row of the table, in document order. A node's subtree is the rows up to `subtree_end`.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) attrs_len: u16,
    pub(super) attrs_start: u32,
    /// The local name, or the character data.
    pub(super) span: Span,
    /// Where the name starts with its prefix.
    pub(super) qname_start: u32,
    pub(super) parent: u32,
    pub(super) subtree_end: u32,
    pub(super) ns: NsRef,
    /// The default namespace inside the element.
    pub(super) default_ns: NsRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttrKind {
    /// Without a prefix, hence without a namespace.
    Plain,
    Prefixed,
    /// `xmlns='…'`
    DefaultDeclaration,
    /// `xmlns:prefix='…'`
    PrefixDeclaration,
}

#[derive(Debug, Clone)]
pub(super) struct Attr {
    pub(super) kind: AttrKind,
    /// The value has references or white space to decode.
    pub(super) escaped: bool,
    pub(super) qname_start: u32,
    pub(super) local: Span,
    pub(super) value: Span,
    pub(super) ns: NsRef,
}

/// One complete first-level element, or several siblings. Immutable; its elements borrow from it.
#[derive(Clone)]
pub struct Document {
    pub(super) text: Box<str>,
    pub(super) nodes: Vec<Node>,
    pub(super) attrs: Vec<Attr>,
    pub(super) decoded_ns: Vec<Box<str>>,
    pub(super) scope: Arc<Scope>,
}

impl Document {
    /// Parses one element that stands alone; its default namespace is `jabber:client` unless it says otherwise.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, StreamError> {
        Self::parse_in(bytes, limits, ns::CLIENT)
    }

    /// Parses one element that stands where `default_ns` is the default namespace.
    pub fn parse_in(bytes: Bytes, limits: &Limits, default_ns: &str) -> Result<Self, StreamError> {
        let document = Self::scan(&bytes, limits, default_ns)?;
        if document.roots().count() == 1 {
            Ok(document)
        } else {
            Err(Condition::NotWellFormed.into())
        }
    }

    /// Parses any number of sibling elements, such as a stanza's payload; text between them is refused.
    pub fn parse_fragment(bytes: Bytes, limits: &Limits) -> Result<Self, StreamError> {
        Self::scan(&bytes, limits, ns::CLIENT)
    }

    fn scan(bytes: &[u8], limits: &Limits, default_ns: &str) -> Result<Self, StreamError> {
        if bytes.len() > limits.stanza_bytes_max.min(u32::MAX as usize) {
            return Err(Condition::PolicyViolation.into());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Condition::UnsupportedEncoding)?;
        if chars::first_illegal(text).is_some() {
            return Err(Condition::NotWellFormed.into());
        }
        let scope = if default_ns == ns::CLIENT {
            Scope::client()
        } else {
            Arc::new(Scope::new(default_ns))
        };
        let mut scanner = Scanner::new();
        loop {
            let rest = text
                .as_bytes()
                .get(scanner.position()..)
                .unwrap_or_default();
            let spaces = rest
                .iter()
                .take_while(|&&byte| chars::is(byte, chars::SPACE))
                .count();
            scanner.start_element(scanner.position() + spaces);
            if spaces == rest.len() {
                break;
            }
            match scanner.run(text, &scope, limits)? {
                Step::Done => {}
                Step::NeedMore => return Err(Condition::NotWellFormed.into()),
            }
        }
        Ok(scanner.into_document(text.into(), scope))
    }

    /// The first element. A fragment without any gives an empty element without a name.
    pub fn root(&self) -> Element<'_> {
        Element {
            document: self,
            index: 0,
        }
    }

    /// All first-level elements.
    pub fn roots(&self) -> Children<'_> {
        Children {
            document: self,
            next: 0,
            end: self.nodes.len() as u32,
        }
    }

    /// The text that was scanned, as it came.
    pub fn source(&self) -> &str {
        &self.text
    }

    pub(super) fn ns_name(&self, ns: NsRef) -> &str {
        match ns.target() {
            NsTarget::None => "",
            NsTarget::Xml => ns::XML,
            NsTarget::Outer(index) => self.scope.name(index),
            NsTarget::Decoded(index) => self.decoded_ns.get(index).map_or("", |name| name),
            NsTarget::Declared(index) => self
                .attrs
                .get(index)
                .map_or("", |attr| attr.value.of(&self.text)),
        }
    }

    pub(super) fn attr_value(&self, attr: &Attr) -> Cow<'_, str> {
        let raw = attr.value.of(&self.text);
        if attr.escaped {
            reference::decode_attribute(raw)
        } else {
            Cow::Borrowed(raw)
        }
    }
}

/// Shows names only: what people write to each other belongs in no log.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roots()).finish()
    }
}

/// A cursor on one element of a [`Document`].
#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub(super) document: &'a Document,
    pub(super) index: u32,
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<{} xmlns='{}'> ({} nodes)",
            self.name(),
            self.ns(),
            self.subtree_end().saturating_sub(self.index)
        )
    }
}

impl<'a> Element<'a> {
    pub(super) fn node(&self) -> Option<&'a Node> {
        self.document.nodes.get(self.index as usize)
    }

    pub(super) fn subtree_end(&self) -> u32 {
        self.node().map_or(self.index, |node| node.subtree_end)
    }

    /// The name without a prefix.
    pub fn name(&self) -> &'a str {
        self.node()
            .map_or("", |node| node.span.of(&self.document.text))
    }

    /// The namespace; empty for none.
    pub fn ns(&self) -> &'a str {
        self.node()
            .map_or("", |node| self.document.ns_name(node.ns))
    }

    /// True if the element has this name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name() == name && self.ns() == ns
    }

    /// The value of an attribute that has no namespace.
    pub fn attr(&self, name: &str) -> Option<Cow<'a, str>> {
        self.attr_ns("", name)
    }

    /// The value of an attribute in a namespace; the empty namespace is that of attributes without a prefix.
    pub fn attr_ns(&self, ns: &str, name: &str) -> Option<Cow<'a, str>> {
        let text = &*self.document.text;
        let found = self.raw_attrs().iter().find(|attr| {
            attr.local.of(text) == name
                && match attr.kind {
                    AttrKind::Plain => ns.is_empty(),
                    AttrKind::Prefixed => !ns.is_empty() && self.document.ns_name(attr.ns) == ns,
                    AttrKind::DefaultDeclaration | AttrKind::PrefixDeclaration => false,
                }
        });
        found.map(|attr| self.document.attr_value(attr))
    }

    /// The value of `xml:lang`, here or nowhere: no inheritance.
    pub fn lang(&self) -> Option<Cow<'a, str>> {
        self.attr_ns(ns::XML, "lang")
    }

    /// All attributes but namespace declarations.
    pub fn attrs(&self) -> Attributes<'a> {
        Attributes {
            document: self.document,
            rest: self.raw_attrs().iter(),
        }
    }

    pub(super) fn raw_attrs(&self) -> &'a [Attr] {
        let Some(node) = self.node() else { return &[] };
        let start = node.attrs_start as usize;
        self.document
            .attrs
            .get(start..start + usize::from(node.attrs_len))
            .unwrap_or_default()
    }

    /// The child elements, in order.
    pub fn children(&self) -> Children<'a> {
        Children {
            document: self.document,
            next: self.index + 1,
            end: self.subtree_end(),
        }
    }

    /// The first child element with this name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<Element<'a>> {
        self.children().find(|child| child.is(name, ns))
    }

    /// The element's own character data, joined.
    pub fn text(&self) -> Cow<'a, str> {
        let mut joined = Cow::Borrowed("");
        for node in self.child_nodes() {
            let raw = node.span.of(&self.document.text);
            let part = match node.kind {
                NodeKind::Element => continue,
                NodeKind::Text => Cow::Borrowed(raw),
                NodeKind::EscapedText => reference::decode_text(raw),
                NodeKind::Cdata => reference::decode_cdata(raw),
            };
            if joined.is_empty() {
                joined = part;
            } else {
                joined.to_mut().push_str(&part);
            }
        }
        joined
    }

    /// How many bytes the element's document has: room for a canonical copy of a part of it.
    pub(crate) fn document_len(&self) -> usize {
        self.document.text.len()
    }

    /// True if there are no child elements.
    pub fn has_text_only(&self) -> bool {
        self.children().next().is_none()
    }

    /// True if there is neither a child element nor any text.
    pub fn is_empty(&self) -> bool {
        self.subtree_end() <= self.index + 1
    }

    fn child_nodes(&self) -> impl Iterator<Item = &'a Node> + use<'a> {
        let (document, end) = (self.document, self.subtree_end());
        let mut next = self.index + 1;
        std::iter::from_fn(move || {
            let node = document.nodes.get(next as usize).filter(|_| next < end)?;
            next = node.subtree_end;
            Some(node)
        })
    }
}

/// The child elements of an element, or the first-level elements of a document.
#[derive(Debug, Clone)]
pub struct Children<'a> {
    document: &'a Document,
    next: u32,
    end: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        while self.next < self.end {
            let index = self.next;
            let node = self.document.nodes.get(index as usize)?;
            self.next = node.subtree_end;
            if node.kind == NodeKind::Element {
                return Some(Element {
                    document: self.document,
                    index,
                });
            }
        }
        None
    }
}

/// One attribute of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The namespace; empty for an attribute without a prefix.
    pub ns: &'a str,
    /// The name without a prefix.
    pub name: &'a str,
    /// The value, decoded.
    pub value: Cow<'a, str>,
}

/// The attributes of an element, in order.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    document: &'a Document,
    rest: std::slice::Iter<'a, Attr>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let document = self.document;
        let attr = self
            .rest
            .find(|attr| matches!(attr.kind, AttrKind::Plain | AttrKind::Prefixed))?;
        let ns = if attr.kind == AttrKind::Plain {
            ""
        } else {
            document.ns_name(attr.ns)
        };
        Some(Attribute {
            ns,
            name: attr.local.of(&document.text),
            value: document.attr_value(attr),
        })
    }
}
