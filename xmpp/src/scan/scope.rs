//! Namespaces in scope around a document: those of the stream's header, or a plain default.

use std::sync::{Arc, LazyLock};

use crate::ns;

/// Which namespace a node is in; resolved by [`super::document::Document`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NsRef(u32);

/// What an [`NsRef`] points at.
pub(super) enum NsTarget {
    /// No namespace.
    None,
    /// The namespace of the prefix `xml`.
    Xml,
    /// A name of the surrounding scope.
    Outer(usize),
    /// A name that had to be decoded, kept by the document.
    Decoded(usize),
    /// The value of a declaration, by its place in the table of attributes.
    Declared(usize),
}

const DECODED: u32 = 0x4000_0000;
const DECLARED: u32 = 0x8000_0000;

impl NsRef {
    pub(super) const NONE: Self = Self(0);
    pub(super) const XML: Self = Self(1);
    /// The default namespace of the surrounding scope.
    pub(super) const OUTER_DEFAULT: Self = Self(2);

    fn outer(index: usize) -> Self {
        Self(2 + index as u32)
    }

    pub(super) fn decoded(index: usize) -> Self {
        Self(DECODED | index as u32)
    }

    pub(super) fn declared(attribute: usize) -> Self {
        Self(DECLARED | attribute as u32)
    }

    pub(super) fn target(self) -> NsTarget {
        match self.0 {
            0 => NsTarget::None,
            1 => NsTarget::Xml,
            code if code & DECLARED != 0 => NsTarget::Declared((code & !DECLARED) as usize),
            code if code & DECODED != 0 => NsTarget::Decoded((code & !DECODED) as usize),
            code => NsTarget::Outer(code as usize - 2),
        }
    }
}

/// A default namespace and prefixes that a document may use without declaring them.
#[derive(Debug)]
pub(super) struct Scope {
    /// (prefix, namespace); the first is the default and has an empty prefix.
    bindings: Vec<(Box<str>, Box<str>)>,
}

static CLIENT: LazyLock<Arc<Scope>> = LazyLock::new(|| Arc::new(Scope::new(ns::CLIENT)));

impl Scope {
    pub(super) fn new(default_ns: &str) -> Self {
        Self {
            bindings: vec![("".into(), default_ns.into())],
        }
    }

    /// The scope of most documents: `jabber:client`, no prefixes.
    pub(super) fn client() -> Arc<Self> {
        CLIENT.clone()
    }

    pub(super) fn bind(&mut self, prefix: &str, ns: &str) {
        // Each stream has one for as long as it lives: no room is kept for more.
        self.bindings.reserve_exact(1);
        self.bindings.push((prefix.into(), ns.into()));
    }

    /// Finds what a prefix is bound to.
    pub(super) fn lookup(&self, prefix: &str) -> Option<NsRef> {
        let found = self
            .bindings
            .iter()
            .skip(1)
            .position(|(bound, _)| **bound == *prefix);
        found.map(|index| NsRef::outer(index + 1))
    }

    pub(super) fn name(&self, index: usize) -> &str {
        self.bindings.get(index).map_or("", |(_, ns)| ns)
    }
}
