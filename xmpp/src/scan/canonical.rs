//! Canonical form: how a scanned element goes out again.
//!
//! Elements have no prefixes and declare their namespace exactly where it differs from the parent's; values are
//! escaped anew. What the scanner understood is what the next reader gets, never what the sender's bytes may
//! also have meant (stanza smuggling).

use bytes::BufMut;

use super::document::{Attr, AttrKind, Element, NO_NODE, Node, NodeKind};
use super::reference;
use super::scope::{NsRef, NsTarget};
use crate::ns;
use crate::write::{escape_attribute, escape_text};

impl Element<'_> {
    /// Writes the element in canonical form, for a place where `inherited_ns` is the default namespace.
    pub fn write_canonical(&self, out: &mut impl BufMut, inherited_ns: &str) {
        let end = self.subtree_end();
        let mut open = NO_NODE;
        for index in self.index..end {
            open = self.close_until(open, index, out);
            let here = Element {
                document: self.document,
                index,
            };
            let Some(node) = here.node() else { return };
            let raw = node.span.of(&self.document.text);
            match node.kind {
                NodeKind::Element => {
                    here.write_start_tag(node, index == self.index, inherited_ns, out);
                    if node.subtree_end > index + 1 {
                        out.put_u8(b'>');
                        open = index;
                    } else {
                        out.put_slice(b"/>");
                    }
                }
                // Behind a CDATA section, whose brackets go, it could make an end of one.
                NodeKind::Text if raw.starts_with('>') || raw.starts_with("]>") => {
                    escape_text(raw, out);
                }
                // Raw text without references holds no markup: it goes out as it came.
                NodeKind::Text => out.put_slice(raw.as_bytes()),
                NodeKind::EscapedText => escape_text(&reference::decode_text(raw), out),
                NodeKind::Cdata => escape_text(&reference::decode_cdata(raw), out),
            }
        }
        self.close_until(open, end, out);
    }

    /// Ends the open elements whose subtree lies before `index`; gives the innermost that stays open.
    fn close_until(&self, mut open: u32, index: u32, out: &mut impl BufMut) -> u32 {
        while let Some(node) = self
            .document
            .nodes
            .get(open as usize)
            .filter(|node| node.subtree_end <= index)
        {
            out.put_slice(b"</");
            out.put_slice(node.span.of(&self.document.text).as_bytes());
            out.put_u8(b'>');
            open = if open == self.index {
                NO_NODE
            } else {
                node.parent
            };
        }
        open
    }

    fn write_start_tag(
        &self,
        node: &Node,
        outermost: bool,
        inherited_ns: &str,
        out: &mut impl BufMut,
    ) {
        let document = self.document;
        out.put_u8(b'<');
        out.put_slice(node.span.of(&document.text).as_bytes());
        let inherited = if outermost {
            document.ns_name(node.ns) == inherited_ns
        } else {
            let parent = document
                .nodes
                .get(node.parent as usize)
                .map_or(NsRef::NONE, |parent| parent.ns);
            parent == node.ns || document.ns_name(parent) == document.ns_name(node.ns)
        };
        if !inherited {
            out.put_slice(b" xmlns='");
            self.write_ns_name(node.ns, out);
            out.put_u8(b'\'');
        }
        for (number, attr) in self.raw_attrs().iter().enumerate() {
            match attr.kind {
                AttrKind::DefaultDeclaration | AttrKind::PrefixDeclaration => continue,
                AttrKind::Plain => out.put_u8(b' '),
                AttrKind::Prefixed if document.ns_name(attr.ns) == ns::XML => {
                    out.put_slice(b" xml:")
                }
                AttrKind::Prefixed => {
                    out.put_slice(format!(" xmlns:ns{number}='").as_bytes());
                    self.write_ns_name(attr.ns, out);
                    out.put_slice(format!("' ns{number}:").as_bytes());
                }
            }
            out.put_slice(attr.local.of(&document.text).as_bytes());
            out.put_slice(b"='");
            self.write_value(attr, out);
            out.put_u8(b'\'');
        }
    }

    fn write_value(&self, attr: &Attr, out: &mut impl BufMut) {
        let raw = attr.value.of(&self.document.text);
        if attr.escaped || raw.as_bytes().contains(&b'\'') {
            escape_attribute(&self.document.attr_value(attr), out);
        } else {
            out.put_slice(raw.as_bytes());
        }
    }

    fn write_ns_name(&self, ns: NsRef, out: &mut impl BufMut) {
        match ns.target() {
            NsTarget::Declared(index) => {
                if let Some(attr) = self.document.attrs.get(index) {
                    self.write_value(attr, out);
                }
            }
            _ => escape_attribute(self.document.ns_name(ns), out),
        }
    }
}
