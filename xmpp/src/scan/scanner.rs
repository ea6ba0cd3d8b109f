//! The scanner's state machine: one element, byte by byte, whatever way the bytes arrive.
//!
//! All of its state is offsets and tables, so that it can stop anywhere and go on when more bytes have come: each
//! byte is looked at once (references and `<![CDATA[`, bounded in length, may be looked at again).

use std::sync::Arc;

use memchr::{memchr2, memchr3, memmem};

use super::document::{Attr, AttrKind, Document, NO_NODE, Node, NodeKind, Span};
use super::namespaces::Binding;
use super::scope::{NsRef, Scope};
use super::{Limits, chars, reference};
use crate::stream_error::StreamErrorCondition as Condition;

/// What a run of the scanner came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The element goes on in bytes that are not there yet.
    NeedMore,
    /// The element is complete; it ends at the scanner's position.
    Done,
}

/// What one state came to.
enum Flow {
    Go,
    Stop(Step),
}

const NEED_MORE: Result<Flow, Condition> = Ok(Flow::Stop(Step::NeedMore));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the `<` of the first-level element.
    Start,
    /// In character data that began at `mark`.
    Text,
    /// Behind a `<`.
    Markup,
    /// In the name of a start tag that began at `mark`.
    OpenName,
    /// Behind a name or value in a start tag: white space, `/` or `>`.
    TagEnd,
    /// Behind white space in a start tag: an attribute may start.
    BeforeAttr,
    /// In the name of an attribute that began at `mark`.
    AttrName,
    /// Behind the name of an attribute.
    AttrEquals,
    /// Behind the equals sign.
    AttrQuote,
    /// In a value that began at `mark`.
    AttrValue,
    /// Behind the `/` of an empty element's tag.
    EmptyTag,
    /// Behind `</`; the name began at `mark`.
    CloseName,
    /// Behind the name of an end tag.
    CloseTail,
    /// In a CDATA section whose content began at `mark`.
    Cdata,
}

#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    pos: usize,
    mark: usize,
    quote: u8,
    /// The character data or value since `mark` has something to decode.
    escaped: bool,
    /// Stop behind the first start tag: a stream's header.
    header_only: bool,
    /// The header's tag was that of an empty element.
    pub(super) header_closed: bool,
    /// The innermost open element.
    pub(super) current: u32,
    depth: usize,
    elements: usize,
    pub(super) declarations: usize,
    attr_name: Span,
    pub(super) default_ns: NsRef,
    pub(super) nodes: Vec<Node>,
    pub(super) attrs: Vec<Attr>,
    pub(super) bindings: Vec<Binding>,
    pub(super) decoded_ns: Vec<Box<str>>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Start,
            pos: 0,
            mark: 0,
            quote: 0,
            escaped: false,
            header_only: false,
            header_closed: false,
            current: NO_NODE,
            depth: 0,
            elements: 0,
            declarations: 0,
            attr_name: Span::new(0, 0),
            default_ns: NsRef::OUTER_DEFAULT,
            nodes: Vec::new(),
            attrs: Vec::new(),
            bindings: Vec::new(),
            decoded_ns: Vec::new(),
        }
    }

    /// A scanner for the start tag of a stream.
    pub(super) fn for_header() -> Self {
        Self {
            header_only: true,
            ..Self::new()
        }
    }

    pub(super) fn position(&self) -> usize {
        self.pos
    }

    /// Prepares for the next first-level element of the same document, which starts at `pos`.
    pub(super) fn start_element(&mut self, pos: usize) {
        self.state = State::Start;
        self.pos = pos;
    }

    pub(super) fn into_document(self, text: Box<str>, scope: Arc<Scope>) -> Document {
        Document {
            text,
            nodes: self.nodes,
            attrs: self.attrs,
            decoded_ns: self.decoded_ns,
            scope,
        }
    }

    /// Goes on through `text`, which starts where the document does and has only grown since the last run.
    pub(super) fn run(
        &mut self,
        text: &str,
        scope: &Scope,
        limits: &Limits,
    ) -> Result<Step, Condition> {
        loop {
            let flow = match self.state {
                State::Start => self.start(text)?,
                State::Text => self.text(text)?,
                State::Markup => self.markup(text)?,
                State::OpenName => self.open_name(text, limits)?,
                State::TagEnd => self.tag_end(text, scope)?,
                State::BeforeAttr => self.before_attr(text, scope)?,
                State::AttrName => self.attr_name(text)?,
                State::AttrEquals => self.attr_equals(text)?,
                State::AttrQuote => self.attr_quote(text)?,
                State::AttrValue => self.attr_value(text, limits)?,
                State::EmptyTag => self.empty_tag(text, scope)?,
                State::CloseName => self.close_name(text)?,
                State::CloseTail => self.close_tail(text)?,
                State::Cdata => self.cdata(text)?,
            };
            if let Flow::Stop(step) = flow {
                return Ok(step);
            }
        }
    }

    fn start(&mut self, text: &str) -> Result<Flow, Condition> {
        match text.as_bytes().get(self.pos) {
            None => NEED_MORE,
            Some(b'<') => {
                self.pos += 1;
                self.go(State::Markup)
            }
            // RFC 6120 §4.9.3.1: text between first-level elements is no stanza.
            Some(_) => Err(Condition::BadFormat),
        }
    }

    fn text(&mut self, text: &str) -> Result<Flow, Condition> {
        let bytes = text.as_bytes();
        loop {
            let rest = bytes.get(self.pos..).unwrap_or_default();
            if rest.first() == Some(&b'<') {
                break;
            }
            let Some(found) = memchr2(b'<', b'&', rest) else {
                self.pos = bytes.len();
                return NEED_MORE;
            };
            self.pos += found;
            let rest = rest.get(found..).unwrap_or_default();
            if rest.first() == Some(&b'<') {
                break;
            }
            let Some(len) = reference::check(rest)? else {
                return NEED_MORE;
            };
            self.escaped = true;
            self.pos += len;
        }
        let run = bytes.get(self.mark..self.pos).unwrap_or_default();
        if !run.is_empty() && memchr2(b']', b'\r', run).is_some() {
            // XML 1.0 §2.4: the end of a CDATA section must not appear outside of one.
            if memmem::find(run, b"]]>").is_some() {
                return Err(Condition::NotWellFormed);
            }
            self.escaped |= run.contains(&b'\r');
        }
        if !run.is_empty() {
            self.push_text(
                if self.escaped {
                    NodeKind::EscapedText
                } else {
                    NodeKind::Text
                },
                self.pos,
            );
        }
        self.pos += 1;
        self.go(State::Markup)
    }

    fn markup(&mut self, text: &str) -> Result<Flow, Condition> {
        let rest = text.as_bytes().get(self.pos..).unwrap_or_default();
        match rest.first() {
            None => NEED_MORE,
            Some(b'/') if self.current != NO_NODE => {
                self.pos += 1;
                self.mark = self.pos;
                self.go(State::CloseName)
            }
            Some(b'!') => self.declaration(rest),
            // RFC 6120 §11.1: no processing instructions.
            Some(b'?') => Err(Condition::RestrictedXml),
            Some(_) => {
                self.mark = self.pos;
                self.go(State::OpenName)
            }
        }
    }

    /// `<!`: a CDATA section, or what RFC 6120 §11.1 forbids.
    fn declaration(&mut self, rest: &[u8]) -> Result<Flow, Condition> {
        const CDATA: &[u8] = b"![CDATA[";
        if rest.get(1).is_some_and(|&byte| byte != b'[') {
            return Err(Condition::RestrictedXml);
        }
        let len = rest.len().min(CDATA.len());
        if rest.get(..len) != CDATA.get(..len) || self.current == NO_NODE && len > 1 {
            return Err(Condition::NotWellFormed);
        }
        if len < CDATA.len() {
            return NEED_MORE;
        }
        self.pos += len;
        self.mark = self.pos;
        self.go(State::Cdata)
    }

    fn cdata(&mut self, text: &str) -> Result<Flow, Condition> {
        let bytes = text.as_bytes();
        let Some(found) = memmem::find(bytes.get(self.pos..).unwrap_or_default(), b"]]>") else {
            // The end may be cut: its first two bytes are looked at again.
            self.pos = bytes.len().saturating_sub(2).max(self.pos);
            return NEED_MORE;
        };
        let end = self.pos + found;
        if end > self.mark {
            self.push_text(NodeKind::Cdata, end);
        }
        self.pos = end + 3;
        self.begin_text()
    }

    fn begin_text(&mut self) -> Result<Flow, Condition> {
        self.mark = self.pos;
        self.escaped = false;
        self.go(State::Text)
    }

    fn go(&mut self, state: State) -> Result<Flow, Condition> {
        self.state = state;
        Ok(Flow::Go)
    }

    /// Skips to the end of a name. True if the end is in sight, that is, some byte follows that is no part of it.
    fn skip_name(&mut self, text: &str) -> bool {
        let bytes = text.as_bytes();
        loop {
            let rest = bytes.get(self.pos..).unwrap_or_default();
            let Some(len) = rest.iter().position(|&byte| !chars::is(byte, chars::NAME)) else {
                self.pos = bytes.len();
                return false;
            };
            self.pos += len;
            if rest.get(len).is_some_and(|&byte| byte < 0x80) {
                return true;
            }
            match text.get(self.pos..).and_then(|rest| rest.chars().next()) {
                Some(c) if chars::is_name_char(c) => self.pos += c.len_utf8(),
                _ => return true,
            }
        }
    }

    /// Checks the name between `mark` and the position; gives where its local part starts.
    fn check_qname(&self, text: &str) -> Result<usize, Condition> {
        let name = text.get(self.mark..self.pos).unwrap_or_default();
        let starts = |part: &str| match part.as_bytes().first() {
            None => false,
            Some(&byte) if byte < 0x80 => chars::is(byte, chars::NAME_START),
            Some(_) => part.chars().next().is_some_and(chars::is_name_start_char),
        };
        let Some(colon) = name.as_bytes().iter().position(|&byte| byte == b':') else {
            return if starts(name) {
                Ok(self.mark)
            } else {
                Err(Condition::NotWellFormed)
            };
        };
        // Namespaces in XML §4: one colon at most, with a name on either side.
        let local = name.get(colon + 1..).unwrap_or_default();
        if !starts(name) || !starts(local) || local.contains(':') {
            return Err(Condition::NotWellFormed);
        }
        Ok(self.mark + colon + 1)
    }

    fn open_name(&mut self, text: &str, limits: &Limits) -> Result<Flow, Condition> {
        if !self.skip_name(text) {
            return NEED_MORE;
        }
        let local_at = self.check_qname(text)?;
        self.depth += 1;
        self.elements += 1;
        if self.depth > limits.depth_max || self.elements > limits.elements_max {
            return Err(Condition::PolicyViolation);
        }
        if self.nodes.is_empty() {
            self.nodes.reserve(8);
        }
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            kind: NodeKind::Element,
            attrs_len: 0,
            attrs_start: self.attrs.len() as u32,
            span: Span::new(local_at, self.pos),
            qname_start: self.mark as u32,
            parent: self.current,
            subtree_end: index + 1,
            ns: NsRef::NONE,
            default_ns: self.default_ns,
        });
        self.current = index;
        self.go(State::TagEnd)
    }

    fn tag_end(&mut self, text: &str, scope: &Scope) -> Result<Flow, Condition> {
        match text.as_bytes().get(self.pos) {
            None => NEED_MORE,
            Some(&byte) if chars::is(byte, chars::SPACE) => {
                self.pos += 1;
                self.go(State::BeforeAttr)
            }
            Some(b'/') => {
                self.pos += 1;
                self.go(State::EmptyTag)
            }
            Some(b'>') => {
                self.pos += 1;
                self.finish_start_tag(text, scope)?;
                if self.header_only {
                    return Ok(Flow::Stop(Step::Done));
                }
                self.begin_text()
            }
            Some(_) => Err(Condition::NotWellFormed),
        }
    }

    fn before_attr(&mut self, text: &str, scope: &Scope) -> Result<Flow, Condition> {
        match text.as_bytes().get(self.pos) {
            None => NEED_MORE,
            Some(&byte) if chars::is(byte, chars::SPACE) => {
                self.pos += 1;
                Ok(Flow::Go)
            }
            Some(b'/' | b'>') => self.tag_end(text, scope),
            Some(_) => {
                self.mark = self.pos;
                self.go(State::AttrName)
            }
        }
    }

    fn attr_name(&mut self, text: &str) -> Result<Flow, Condition> {
        if !self.skip_name(text) {
            return NEED_MORE;
        }
        let local_at = self.check_qname(text)?;
        if self.attrs.is_empty() {
            self.attrs.reserve(8);
        }
        self.attrs.push(Attr {
            kind: AttrKind::Plain,
            escaped: false,
            qname_start: self.mark as u32,
            local: Span::new(local_at, self.pos),
            value: Span::new(0, 0),
            ns: NsRef::NONE,
        });
        self.attr_name = Span::new(self.mark, self.pos);
        self.go(State::AttrEquals)
    }

    fn attr_equals(&mut self, text: &str) -> Result<Flow, Condition> {
        match self.skip_space(text) {
            None => NEED_MORE,
            Some(b'=') => {
                self.pos += 1;
                self.go(State::AttrQuote)
            }
            Some(_) => Err(Condition::NotWellFormed),
        }
    }

    fn attr_quote(&mut self, text: &str) -> Result<Flow, Condition> {
        match self.skip_space(text) {
            None => NEED_MORE,
            Some(quote @ (b'\'' | b'"')) => {
                self.quote = quote;
                self.pos += 1;
                self.mark = self.pos;
                self.escaped = false;
                self.go(State::AttrValue)
            }
            Some(_) => Err(Condition::NotWellFormed),
        }
    }

    fn attr_value(&mut self, text: &str, limits: &Limits) -> Result<Flow, Condition> {
        let bytes = text.as_bytes();
        loop {
            let rest = bytes.get(self.pos..).unwrap_or_default();
            let Some(len) = memchr3(self.quote, b'&', b'<', rest) else {
                self.pos = bytes.len();
                return NEED_MORE;
            };
            self.pos += len;
            let rest = rest.get(len..).unwrap_or_default();
            match rest.first() {
                Some(b'&') => {
                    let Some(len) = reference::check(rest)? else {
                        return NEED_MORE;
                    };
                    self.escaped = true;
                    self.pos += len;
                }
                Some(b'<') => return Err(Condition::NotWellFormed),
                _ => break,
            }
        }
        // XML 1.0 §3.3.3: all white space counts as a space. What else lies below the space is refused at the door.
        let value = bytes.get(self.mark..self.pos).unwrap_or_default();
        self.escaped |= value
            .iter()
            .fold(false, |found, &byte| found | (byte < b' '));
        self.finish_attr(text, limits)?;
        self.pos += 1;
        self.go(State::TagEnd)
    }

    /// Completes the attribute in hand, whose value ends at the position.
    fn finish_attr(&mut self, text: &str, limits: &Limits) -> Result<(), Condition> {
        let (qname, value) = (self.attr_name, Span::new(self.mark, self.pos));
        let escaped = self.escaped;
        let name = qname.of(text);
        let Some((attr, node)) = self
            .attrs
            .last_mut()
            .zip(self.nodes.get_mut(self.current as usize))
        else {
            return Err(Condition::InternalServerError);
        };
        attr.value = value;
        attr.escaped = escaped;
        attr.kind = if name == "xmlns" {
            AttrKind::DefaultDeclaration
        } else if attr.local.start == qname.start {
            AttrKind::Plain
        } else if name.starts_with("xmlns:") {
            AttrKind::PrefixDeclaration
        } else {
            AttrKind::Prefixed
        };
        node.attrs_len = node.attrs_len.saturating_add(1);
        let declares = matches!(
            attr.kind,
            AttrKind::DefaultDeclaration | AttrKind::PrefixDeclaration
        );
        if usize::from(node.attrs_len) > limits.attributes_max || node.attrs_len == u16::MAX {
            return Err(Condition::PolicyViolation);
        }
        let earlier_start = node.attrs_start as usize;
        let earlier = self
            .attrs
            .get(earlier_start..self.attrs.len() - 1)
            .unwrap_or_default();
        let len = qname.end - qname.start;
        let same = |attr: &Attr| {
            let other = Span {
                start: attr.qname_start,
                end: attr.local.end,
            };
            other.end - other.start == len && other.of(text) == name
        };
        if earlier.iter().any(same) {
            return Err(Condition::NotWellFormed);
        }
        if declares {
            self.declare(text, limits)
        } else {
            Ok(())
        }
    }

    fn empty_tag(&mut self, text: &str, scope: &Scope) -> Result<Flow, Condition> {
        match text.as_bytes().get(self.pos) {
            None => NEED_MORE,
            Some(b'>') => {
                self.pos += 1;
                self.finish_start_tag(text, scope)?;
                if self.header_only {
                    self.header_closed = true;
                    return Ok(Flow::Stop(Step::Done));
                }
                self.close_current()
            }
            Some(_) => Err(Condition::NotWellFormed),
        }
    }

    /// The name of an end tag must be that of the innermost open element, byte by byte.
    fn close_name(&mut self, text: &str) -> Result<Flow, Condition> {
        let Some(node) = self.nodes.get(self.current as usize) else {
            return Err(Condition::NotWellFormed);
        };
        let wanted = Span {
            start: node.qname_start,
            end: node.span.end,
        }
        .of(text)
        .as_bytes();
        let rest = text.as_bytes().get(self.mark..).unwrap_or_default();
        let len = rest.len().min(wanted.len());
        // What was compared before is compared again, but names are short and usually come whole.
        let from = self.pos - self.mark;
        if rest.get(from..len) != wanted.get(from..len) {
            return Err(Condition::NotWellFormed);
        }
        self.pos = self.mark + len;
        if len < wanted.len() {
            NEED_MORE
        } else {
            self.go(State::CloseTail)
        }
    }

    fn close_tail(&mut self, text: &str) -> Result<Flow, Condition> {
        match self.skip_space(text) {
            None => NEED_MORE,
            Some(b'>') => {
                self.pos += 1;
                self.close_current()
            }
            Some(_) => Err(Condition::NotWellFormed),
        }
    }

    fn close_current(&mut self) -> Result<Flow, Condition> {
        let end = self.nodes.len() as u32;
        let closed = self.current;
        let Some(node) = self.nodes.get_mut(closed as usize) else {
            return Err(Condition::InternalServerError);
        };
        node.subtree_end = end;
        self.current = node.parent;
        self.depth -= 1;
        while self
            .bindings
            .last()
            .is_some_and(|binding| binding.node == closed)
        {
            self.bindings.pop();
        }
        let parent = self.nodes.get(self.current as usize);
        self.default_ns = parent.map_or(NsRef::OUTER_DEFAULT, |parent| parent.default_ns);
        if self.current == NO_NODE {
            return Ok(Flow::Stop(Step::Done));
        }
        self.begin_text()
    }

    fn skip_space(&mut self, text: &str) -> Option<u8> {
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(self.pos) {
            if !chars::is(byte, chars::SPACE) {
                return Some(byte);
            }
            self.pos += 1;
        }
        None
    }

    fn push_text(&mut self, kind: NodeKind, end: usize) {
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            kind,
            attrs_len: 0,
            attrs_start: 0,
            span: Span::new(self.mark, end),
            qname_start: 0,
            parent: self.current,
            subtree_end: index + 1,
            ns: NsRef::NONE,
            default_ns: NsRef::NONE,
        });
    }
}
