//! Namespaces while scanning: declarations come into scope, prefixes are resolved, rules are checked (Namespaces
//! in XML 1.0, third edition).

use super::document::{Attr, AttrKind, Span};
use super::scanner::Scanner;
use super::scope::{NsRef, NsTarget, Scope};
use super::{Limits, reference};
use crate::ns;
use crate::stream_error::StreamErrorCondition as Condition;

/// A prefix bound by an element that is still open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    pub(super) prefix: Span,
    pub(super) ns: NsRef,
    pub(super) node: u32,
}

impl Scanner {
    /// Binds the namespace that the attribute in hand declares.
    pub(super) fn declare(&mut self, text: &str, limits: &Limits) -> Result<(), Condition> {
        self.declarations += 1;
        if self.declarations > limits.namespaces_max {
            return Err(Condition::PolicyViolation);
        }
        let index = self.attrs.len() - 1;
        let Some(attr) = self.attrs.get(index) else {
            return Err(Condition::InternalServerError);
        };
        let raw = attr.value.of(text);
        let is_default = attr.kind == AttrKind::DefaultDeclaration;
        let prefix = attr.local;
        let mut ns = if raw.is_empty() {
            NsRef::NONE
        } else {
            NsRef::declared(index)
        };
        let mut allowed = is_declarable(if is_default { "" } else { prefix.of(text) }, raw);
        if attr.escaped {
            let decoded = reference::decode_attribute(raw);
            allowed = is_declarable(if is_default { "" } else { prefix.of(text) }, &decoded);
            ns = NsRef::decoded(self.decoded_ns.len());
            self.decoded_ns.push(decoded.into());
        }
        if !allowed {
            return Err(Condition::NotWellFormed);
        }
        if is_default {
            self.default_ns = ns;
        } else {
            self.bindings.push(Binding {
                prefix,
                ns,
                node: self.current,
            });
        }
        Ok(())
    }

    /// All declarations of the tag are known: resolves the prefixes of the element and its attributes.
    pub(super) fn finish_start_tag(&mut self, text: &str, scope: &Scope) -> Result<(), Condition> {
        let (default_ns, current) = (self.default_ns, self.current as usize);
        let Some(node) = self.nodes.get(current) else {
            return Err(Condition::InternalServerError);
        };
        let (attrs_start, attrs_len) = (node.attrs_start as usize, usize::from(node.attrs_len));
        let ns = if node.qname_start == node.span.start {
            default_ns
        } else {
            let prefix = Span {
                start: node.qname_start,
                end: node.span.start - 1,
            };
            self.lookup(prefix.of(text), text, scope)?
        };
        if ns == NsRef::XML {
            // `xml:` is for attributes. No element of ours is there, and canonical form could not declare it.
            return Err(Condition::InvalidNamespace);
        }
        let mut prefixed = 0;
        for index in attrs_start..attrs_start + attrs_len {
            let Some(attr) = self.attrs.get(index) else {
                continue;
            };
            if attr.kind != AttrKind::Prefixed {
                continue;
            }
            let prefix = Span {
                start: attr.qname_start,
                end: attr.local.start - 1,
            };
            let ns = self.lookup(prefix.of(text), text, scope)?;
            if let Some(attr) = self.attrs.get_mut(index) {
                attr.ns = ns;
            }
            prefixed += 1;
        }
        if let Some(node) = self.nodes.get_mut(current) {
            node.ns = ns;
            node.default_ns = default_ns;
        }
        if prefixed > 1 {
            self.check_duplicates(attrs_start, text, scope)
        } else {
            Ok(())
        }
    }

    /// Namespaces in XML §6.3: two prefixes for one namespace make two names one.
    fn check_duplicates(
        &self,
        attrs_start: usize,
        text: &str,
        scope: &Scope,
    ) -> Result<(), Condition> {
        let attrs = self.attrs.get(attrs_start..).unwrap_or_default();
        let prefixed = || {
            attrs
                .iter()
                .enumerate()
                .filter(|(_, attr)| attr.kind == AttrKind::Prefixed)
        };
        for (at, attr) in prefixed() {
            let same = |(_, other): (usize, &Attr)| {
                other.local.of(text) == attr.local.of(text)
                    && self.ns_name(other.ns, text, scope) == self.ns_name(attr.ns, text, scope)
            };
            if prefixed()
                .take_while(|(earlier, _)| *earlier < at)
                .any(same)
            {
                return Err(Condition::NotWellFormed);
            }
        }
        Ok(())
    }

    fn ns_name<'a>(&'a self, ns: NsRef, text: &'a str, scope: &'a Scope) -> &'a str {
        match ns.target() {
            NsTarget::None => "",
            NsTarget::Xml => ns::XML,
            NsTarget::Outer(index) => scope.name(index),
            NsTarget::Decoded(index) => self.decoded_ns.get(index).map_or("", |name| name),
            NsTarget::Declared(index) => {
                self.attrs.get(index).map_or("", |attr| attr.value.of(text))
            }
        }
    }

    fn lookup(&self, prefix: &str, text: &str, scope: &Scope) -> Result<NsRef, Condition> {
        if prefix == "xml" {
            return Ok(NsRef::XML);
        }
        let bound = self
            .bindings
            .iter()
            .rev()
            .find(|binding| binding.prefix.of(text) == prefix);
        let found = bound
            .map(|binding| binding.ns)
            .or_else(|| scope.lookup(prefix));
        found.ok_or(Condition::NotWellFormed)
    }
}

/// Namespaces in XML §3 and §5: what may be bound to what. The empty prefix is the default namespace.
fn is_declarable(prefix: &str, ns: &str) -> bool {
    match prefix {
        "xml" => ns == ns::XML,
        "xmlns" => false,
        _ => ns != ns::XML && ns != ns::XMLNS && (prefix.is_empty() || !ns.is_empty()),
    }
}
