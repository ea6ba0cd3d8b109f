//! The framer: cuts a stream's bytes into its header, its first-level elements and its end.
//!
//! Bytes go in with [`Framer::push`] in any pieces; [`Framer::next`] gives what is complete. Encoding and
//! characters are checked once, at the door; the byte limit stands in front of the scanner, which never sees
//! more of an element than the limit allows. An idle framer holds no memory.

use std::borrow::Cow;
use std::sync::Arc;

use super::document::{AttrKind, Document};
use super::scanner::{Scanner, Step};
use super::scope::Scope;
use super::{Limits, chars};
use crate::ns;
use crate::stream_error::{StreamError, StreamErrorCondition as Condition};

/// A declaration has at most so many bytes: longer ones say nothing we know.
const XML_DECLARATION_BYTES_MAX: usize = 256;

/// White space inside `</stream:stream   >`: more is no honest client.
const CLOSE_TAG_SPACES_MAX: usize = 256;

/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 1024;

/// One complete piece of a stream.
#[derive(Debug, Clone)]
pub enum Frame {
    /// `<stream:stream …>`
    Header(StreamHeader),
    /// One first-level element.
    Element(Document),
    /// `</stream:stream>`
    Close,
}

/// What a stream's opening tag says (RFC 6120 §4.7). Its own namespace and prefix have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// The host that the peer wants to reach.
    pub to: Option<String>,
    /// Who the peer says it is.
    pub from: Option<String>,
    /// The version of XMPP.
    pub version: Option<String>,
    /// The stream's language.
    pub lang: Option<String>,
    /// The stream's id; only a response should have one.
    pub id: Option<String>,
    /// The content namespace: `jabber:client` and so on; empty if none is declared.
    pub default_ns: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the header.
    Prolog {
        declared: bool,
    },
    /// Between header and end.
    Open,
    /// The header's tag was empty: the end is next.
    Ending,
    Closed,
}

/// Cuts a stream into frames.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    phase: Phase,
    /// Checked text; what stands before `start` has been dealt with.
    text: String,
    start: usize,
    /// The first bytes of a character whose rest has not come yet.
    cut_char: Vec<u8>,
    /// No byte of the stream has come yet, or only so many: an encoding shows in the first two.
    received: usize,
    /// In the middle of an element.
    scanner: Option<Box<Scanner>>,
    scope: Arc<Scope>,
    /// The name of the stream's element as it was written, to compare the end tag with.
    root_name: Box<str>,
    /// What is wrong with the bytes behind `text`.
    fault: Option<Condition>,
    failed: Option<Box<StreamError>>,
}

impl Framer {
    /// A framer at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Prolog { declared: false },
            text: String::new(),
            start: 0,
            cut_char: Vec::new(),
            received: 0,
            scanner: None,
            scope: Scope::client(),
            root_name: "".into(),
            fault: None,
            failed: None,
        }
    }

    /// Changes the limits from the next step on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits as they stand.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Restarts the stream, as after STARTTLS and SASL (RFC 6120 §4.3.3). Bytes that were pushed but not read stay;
    /// after STARTTLS they must not: make a new framer.
    pub fn reset(&mut self) {
        self.phase = Phase::Prolog { declared: false };
        self.scanner = None;
        self.scope = Scope::client();
        self.root_name = "".into();
    }

    /// True if bytes are waiting that are no complete frame yet.
    pub fn has_pending_bytes(&self) -> bool {
        self.start < self.text.len() || !self.cut_char.is_empty()
    }

    /// Adds bytes. After an error or the end of the stream they are dropped.
    ///
    /// The framer keeps what it is given until [`next`](Self::next) has seen it: push one read buffer, then call
    /// `next` until it gives nothing.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_some() || self.failed.is_some() || self.phase == Phase::Closed {
            return;
        }
        self.compact();
        let joined = if self.cut_char.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            let mut joined = std::mem::take(&mut self.cut_char);
            joined.extend_from_slice(bytes);
            Cow::Owned(joined)
        };
        let valid = match std::str::from_utf8(&joined) {
            Ok(text) => text,
            Err(error) => {
                let (valid, rest) = joined.split_at(error.valid_up_to());
                match error.error_len() {
                    Some(_) => self.fault = Some(Condition::UnsupportedEncoding),
                    None => self.cut_char = rest.to_vec(),
                }
                std::str::from_utf8(valid).unwrap_or_default()
            }
        };
        match chars::first_illegal(valid) {
            None => self.text.push_str(valid),
            Some(at) => {
                let is_nul = valid.as_bytes().get(at) == Some(&0);
                // NUL among the first two bytes: UTF-16 without a byte order mark.
                let utf16 = is_nul && self.received + at < 2;
                self.fault = Some(if utf16 {
                    Condition::UnsupportedEncoding
                } else {
                    Condition::NotWellFormed
                });
                self.cut_char = Vec::new();
                self.text.push_str(valid.get(..at).unwrap_or_default());
            }
        }
        self.received = self.received.saturating_add(valid.len());
    }

    /// The next frame, if it is complete. An error ends the stream: it is given again on each call.
    #[allow(
        clippy::should_implement_trait,
        reason = "a framer is fed between calls: it is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        if let Some(error) = &self.failed {
            return Err(StreamError::clone(error));
        }
        let outcome = match self.phase {
            Phase::Prolog { declared } => self.next_header(declared),
            Phase::Open => self.next_element(),
            Phase::Ending => {
                self.phase = Phase::Closed;
                Ok(Some(Frame::Close))
            }
            Phase::Closed => Ok(None),
        };
        let outcome = match (outcome, self.fault) {
            (Ok(None), Some(fault)) => Err(fault),
            (outcome, _) => outcome,
        };
        outcome.map_err(|condition| {
            let error = StreamError::new(condition);
            self.failed = Some(Box::new(error.clone()));
            self.scanner = None;
            self.text = String::new();
            self.start = 0;
            error
        })
    }

    fn next_header(&mut self, mut declared: bool) -> Result<Option<Frame>, Condition> {
        if self.scanner.is_none() {
            loop {
                self.skip_space();
                let (window, _) = self.window();
                match window.as_bytes() {
                    [] | [b'<'] => return Ok(None),
                    [b'<', b'?', ..] if declared => return Err(Condition::RestrictedXml),
                    [b'<', b'?', ..] => {
                        let Some(len) = xml_declaration(window)? else {
                            return self.wait();
                        };
                        self.start += len;
                        declared = true;
                        self.phase = Phase::Prolog { declared };
                    }
                    [b'<', ..] => break,
                    // An HTTP request, a TLS hello.
                    _ => return Err(Condition::NotWellFormed),
                }
            }
        }
        let Some((document, closed)) = self.scan(Scanner::for_header)? else {
            return Ok(None);
        };
        let header = self.open(&document)?;
        self.phase = if closed { Phase::Ending } else { Phase::Open };
        Ok(Some(Frame::Header(header)))
    }

    fn next_element(&mut self) -> Result<Option<Frame>, Condition> {
        if self.scanner.is_none() {
            self.skip_space();
            let (window, _) = self.window();
            match window.as_bytes() {
                [] | [b'<'] => return Ok(None),
                [b'<', b'/', ..] => {
                    let Some(len) = close_tag(window, &self.root_name)? else {
                        return self.wait();
                    };
                    self.start += len;
                    self.phase = Phase::Closed;
                    self.text = String::new();
                    self.start = 0;
                    self.fault = None;
                    return Ok(Some(Frame::Close));
                }
                [b'<', ..] => {}
                // RFC 6120 §4.9.3.1: text at the level of stanzas.
                _ => return Err(Condition::BadFormat),
            }
        }
        let found = self.scan(Scanner::new)?;
        Ok(found.map(|(document, _)| Frame::Element(document)))
    }

    /// Runs the scanner on what it may see of the current item. True beside the document: the header's tag was empty.
    fn scan(&mut self, new: fn() -> Scanner) -> Result<Option<(Document, bool)>, Condition> {
        let mut scanner = self.scanner.take().map_or_else(new, |kept| *kept);
        let (window, cut) = self.window();
        match scanner.run(window, &self.scope, &self.limits)? {
            Step::NeedMore if cut => Err(Condition::PolicyViolation),
            Step::NeedMore => {
                self.scanner = Some(Box::new(scanner));
                Ok(None)
            }
            Step::Done => {
                let end = scanner.position();
                let closed = scanner.header_closed;
                let text = self.take(end);
                Ok(Some((
                    scanner.into_document(text, self.scope.clone()),
                    closed,
                )))
            }
        }
    }

    /// Takes the next `len` bytes out. A read that holds just one element, as most do, is not copied.
    fn take(&mut self, len: usize) -> Box<str> {
        if self.start == 0 && len == self.text.len() {
            return std::mem::take(&mut self.text).into_boxed_str();
        }
        let taken = self
            .text
            .get(self.start..self.start + len)
            .unwrap_or_default()
            .into();
        self.start += len;
        self.release();
        taken
    }

    /// Checks the header and remembers the namespaces that it puts in scope.
    fn open(&mut self, document: &Document) -> Result<StreamHeader, Condition> {
        let root = document.root();
        let text = |name: &str| root.attr(name).map(Cow::into_owned);
        let qname = document.nodes.first().map_or("", |node| {
            document
                .text
                .get(node.qname_start as usize..node.span.end as usize)
                .unwrap_or_default()
        });
        let mut default_ns = "";
        let mut decoded: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for attr in root.raw_attrs() {
            match attr.kind {
                AttrKind::PrefixDeclaration => {
                    decoded.push((attr.local.of(&document.text), document.attr_value(attr)));
                }
                AttrKind::DefaultDeclaration => {
                    default_ns = document
                        .nodes
                        .first()
                        .map_or("", |node| document.ns_name(node.default_ns));
                }
                AttrKind::Plain | AttrKind::Prefixed => {}
            }
        }
        let bound_to_stream = decoded
            .iter()
            .any(|(prefix, ns)| *prefix == "stream" && ns == ns::STREAM);
        if root.ns() != ns::STREAM {
            // RFC 6120 §4.9.3.10; a prefix bound to the right namespace but not used is still the wrong namespace.
            return Err(Condition::InvalidNamespace);
        }
        if !qname.starts_with("stream:") || !bound_to_stream {
            return Err(Condition::BadNamespacePrefix);
        }
        if root.name() != "stream" {
            return Err(Condition::BadFormat);
        }
        let mut scope = Scope::new(default_ns);
        for (prefix, ns) in &decoded {
            scope.bind(prefix, ns);
        }
        self.scope = Arc::new(scope);
        self.root_name = qname.into();
        Ok(StreamHeader {
            to: text("to"),
            from: text("from"),
            version: text("version"),
            lang: root.lang().map(Cow::into_owned),
            id: text("id"),
            default_ns: default_ns.to_owned(),
        })
    }

    /// What may be seen of the current item, and whether the byte limit hides some of what is there.
    fn window(&self) -> (&str, bool) {
        let rest = self.text.get(self.start..).unwrap_or_default();
        let limit = self.limits.stanza_bytes_max.min(u32::MAX as usize / 2);
        if rest.len() <= limit {
            return (rest, false);
        }
        let mut end = limit;
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        (rest.get(..end).unwrap_or_default(), true)
    }

    fn wait<T>(&self) -> Result<Option<T>, Condition> {
        if self.window().1 {
            Err(Condition::PolicyViolation)
        } else {
            Ok(None)
        }
    }

    /// White space between elements is a keepalive (RFC 6120 §4.6.1).
    fn skip_space(&mut self) {
        let rest = self.text.as_bytes().get(self.start..).unwrap_or_default();
        self.start += rest
            .iter()
            .take_while(|&&byte| chars::is(byte, chars::SPACE))
            .count();
        self.release();
    }

    /// Gives memory back as soon as nothing is pending.
    fn release(&mut self) {
        if self.start >= self.text.len() {
            self.start = 0;
            if self.text.capacity() > KEPT_BYTES_MAX {
                self.text = String::new();
            } else {
                self.text.clear();
            }
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.text.drain(..self.start);
            self.start = 0;
        }
    }
}

/// Checks the XML declaration at the start of `window`; gives its length, or `None` if more bytes are needed.
fn xml_declaration(window: &str) -> Result<Option<usize>, Condition> {
    const START: &[u8] = b"<?xml";
    let bytes = window.as_bytes();
    let len = bytes.len().min(START.len());
    if bytes.get(..len) != START.get(..len) {
        return Err(Condition::RestrictedXml);
    }
    let Some(&next) = bytes.get(START.len()) else {
        return Ok(None);
    };
    if !chars::is(next, chars::SPACE) {
        return Err(Condition::RestrictedXml);
    }
    let visible = bytes
        .get(..bytes.len().min(XML_DECLARATION_BYTES_MAX))
        .unwrap_or_default();
    let Some(end) = memchr::memmem::find(visible, b"?>") else {
        let too_long = bytes.len() > XML_DECLARATION_BYTES_MAX;
        return if too_long {
            Err(Condition::NotWellFormed)
        } else {
            Ok(None)
        };
    };
    let content = window.get(START.len()..end).unwrap_or_default();
    let fields = pseudo_attributes(content).ok_or(Condition::NotWellFormed)?;
    let mut fields = fields.as_slice();
    let (("version", "1.0"), rest) = fields.split_first().ok_or(Condition::NotWellFormed)? else {
        return Err(Condition::NotWellFormed);
    };
    fields = rest;
    if let Some((("encoding", encoding), rest)) = fields.split_first() {
        // RFC 6120 §11.6: UTF-8 and nothing else.
        if !encoding.eq_ignore_ascii_case("utf-8") {
            return Err(Condition::UnsupportedEncoding);
        }
        fields = rest;
    }
    match fields {
        [] | [("standalone", "yes" | "no")] => Ok(Some(end + 2)),
        _ => Err(Condition::NotWellFormed),
    }
}

/// Splits ` name='value' …` into pairs. `None` if it has another shape.
fn pseudo_attributes(content: &str) -> Option<Vec<(&str, &str)>> {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut fields = Vec::new();
    let mut rest = content;
    loop {
        let trimmed = rest.trim_start_matches(is_space);
        if trimmed.is_empty() {
            return Some(fields);
        }
        let (name, tail) = trimmed.split_once('=')?;
        let tail = tail.trim_start_matches(is_space);
        let quote = tail
            .chars()
            .next()
            .filter(|quote| matches!(quote, '\'' | '"'))?;
        let (value, tail) = tail.get(1..)?.split_once(quote)?;
        // A name needs white space before it.
        if trimmed.len() == rest.len() {
            return None;
        }
        fields.push((name.trim_end_matches(is_space), value));
        rest = tail;
    }
}

/// Checks the end tag at the start of `window`; gives its length, or `None` if more bytes are needed.
fn close_tag(window: &str, name: &str) -> Result<Option<usize>, Condition> {
    let rest = window.as_bytes().get(2..).unwrap_or_default();
    let len = rest.len().min(name.len());
    if rest.get(..len) != name.as_bytes().get(..len) {
        return Err(Condition::NotWellFormed);
    }
    let tail = rest.get(len..).unwrap_or_default();
    let spaces = tail
        .iter()
        .take_while(|&&byte| chars::is(byte, chars::SPACE))
        .count();
    match tail.get(spaces) {
        _ if spaces > CLOSE_TAG_SPACES_MAX => Err(Condition::PolicyViolation),
        None => Ok(None),
        Some(b'>') => Ok(Some(2 + len + spaces + 1)),
        Some(_) => Err(Condition::NotWellFormed),
    }
}
