//! Writing XML: escaping, and a writer that builds payloads.
//!
//! [`XmlWriter`] keeps track of the open elements and of the default namespace, so that an element copied
//! from elsewhere (a [`Element`] or a stanza) declares its namespace exactly where it differs.

use bytes::{BufMut, Bytes};

use crate::scan::Element;

/// Builds XML text. Names are the program's own or come from the scanner; values are escaped.
///
/// Every method returns the writer, so that calls chain: `w.start("a").attr("k", "v").text("t").end()`.
#[derive(Debug)]
pub struct XmlWriter {
    out: Vec<u8>,
    open: Vec<OpenElement>,
    base_ns: Box<str>,
    /// The last start tag still lacks its `>`.
    tag_open: bool,
}

/// An element that has been started: where its name and its default namespace stand in the output.
#[derive(Debug, Clone, Copy)]
struct OpenElement {
    name: (usize, usize),
    /// `None`: the namespace is the parent's. The text stands escaped in the output.
    ns: Option<(usize, usize)>,
}

impl XmlWriter {
    /// A writer whose output will stand where `ns` is the default namespace.
    pub fn new(ns: &str) -> Self {
        Self {
            out: Vec::with_capacity(256),
            open: Vec::new(),
            base_ns: ns.into(),
            tag_open: false,
        }
    }

    /// Starts an element in the current default namespace.
    pub fn start(&mut self, name: &str) -> &mut Self {
        debug_assert!(is_written_name(name), "element names are the program's own");
        self.close_tag();
        self.out.push(b'<');
        let from = self.out.len();
        self.out.extend_from_slice(name.as_bytes());
        self.open.push(OpenElement {
            name: (from, self.out.len()),
            ns: None,
        });
        self.tag_open = true;
        self
    }

    /// Starts an element in namespace `ns`; declares it only if the current default is another.
    pub fn start_ns(&mut self, name: &str, ns: &str) -> &mut Self {
        let inherited = self.is_default_ns(ns);
        self.start(name);
        if !inherited {
            self.out.extend_from_slice(b" xmlns='");
            let from = self.out.len();
            escape_attribute(ns, &mut self.out);
            let to = self.out.len();
            self.out.push(b'\'');
            if let Some(open) = self.open.last_mut() {
                open.ns = Some((from, to));
            }
        }
        self
    }

    /// Adds an attribute to the element just started. Without one just started it does nothing.
    pub fn attr(&mut self, name: &str, value: &str) -> &mut Self {
        debug_assert!(self.tag_open, "an attribute belongs to a start tag");
        debug_assert!(
            is_written_name(name),
            "attribute names are the program's own"
        );
        if self.tag_open {
            self.out.push(b' ');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"='");
            escape_attribute(value, &mut self.out);
            self.out.push(b'\'');
        }
        self
    }

    /// Adds an attribute if there is a value.
    pub fn attr_opt(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Adds character data.
    pub fn text(&mut self, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.close_tag();
            escape_text(text, &mut self.out);
        }
        self
    }

    /// Adds bytes as they are: canonical XML for the current default namespace.
    pub fn raw(&mut self, xml: &[u8]) -> &mut Self {
        if !xml.is_empty() {
            self.close_tag();
            self.out.extend_from_slice(xml);
        }
        self
    }

    /// Adds an empty element or one with text: `<name>text</name>`.
    pub fn leaf(&mut self, name: &str, text: &str) -> &mut Self {
        self.start(name).text(text).end()
    }

    /// Adds a copy of a scanned element in canonical form.
    pub fn element(&mut self, element: Element<'_>) -> &mut Self {
        self.close_tag();
        // The default namespace is usually that of the base or short and unescaped: a copy ends the borrow.
        let ns = self.default_ns();
        element.write_canonical(&mut self.out, &ns);
        self
    }

    /// Ends the element started last. Without one it does nothing.
    pub fn end(&mut self) -> &mut Self {
        debug_assert!(!self.open.is_empty(), "no element is open");
        if let Some(open) = self.open.pop() {
            if self.tag_open {
                self.out.extend_from_slice(b"/>");
                self.tag_open = false;
            } else {
                self.out.extend_from_slice(b"</");
                self.out.extend_from_within(open.name.0..open.name.1);
                self.out.push(b'>');
            }
        }
        self
    }

    /// True if `ns` is the default namespace at this place.
    pub fn is_default_ns(&self, ns: &str) -> bool {
        match self.declared_ns() {
            None => *self.base_ns == *ns,
            Some(escaped) => {
                let mut wanted = Vec::with_capacity(ns.len());
                escape_attribute(ns, &mut wanted);
                escaped == wanted
            }
        }
    }

    /// How many bytes have been written.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True if nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Ends what is still open and gives the bytes.
    pub fn finish(mut self) -> Bytes {
        while !self.open.is_empty() {
            self.end();
        }
        Bytes::from(self.out)
    }

    fn declared_ns(&self) -> Option<&[u8]> {
        let (from, to) = self.open.iter().rev().find_map(|open| open.ns)?;
        self.out.get(from..to)
    }

    fn default_ns(&self) -> String {
        match self.declared_ns() {
            None => self.base_ns.to_string(),
            Some(escaped) => {
                let text = String::from_utf8_lossy(escaped);
                crate::scan::decode_attribute(&text).into_owned()
            }
        }
    }

    fn close_tag(&mut self) {
        if self.tag_open {
            self.out.push(b'>');
            self.tag_open = false;
        }
    }
}

fn is_written_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .bytes()
            .any(|byte| byte <= b' ' || b"<>&'\"/=".contains(&byte))
}

/// Needs escaping in character data.
const IN_TEXT: u8 = 1;
/// Needs escaping in an attribute's value.
const IN_VALUE: u8 = 2;

/// Which bytes need a second look, and where.
static ESCAPED: [u8; 256] = escaped();

const fn escaped() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'\'' | b'"' | b'\n' | b'\t' => IN_VALUE,
            b'<' | b'>' | b'&' | b'\r' => IN_TEXT | IN_VALUE,
            // Control characters are no XML; 0xEF may start U+FFFE and U+FFFF, which are none either.
            0..b' ' | 0xEF => IN_TEXT | IN_VALUE,
            _ => 0,
        };
        byte += 1;
    }
    table
}

/// Writes character data. `>` is escaped too, so that `]]>` cannot arise.
pub fn escape_text(text: &str, out: &mut impl BufMut) {
    escape(text, out, IN_TEXT);
}

/// Writes an attribute's value for a place between single quotes.
pub fn escape_attribute(value: &str, out: &mut impl BufMut) {
    escape(value, out, IN_VALUE);
}

fn replacement(byte: u8) -> &'static [u8] {
    match byte {
        b'<' => b"&lt;",
        b'>' => b"&gt;",
        b'&' => b"&amp;",
        b'\'' => b"&apos;",
        b'"' => b"&quot;",
        // XML 1.0 §2.11 and §3.3.3: literally, these would be read back as a line feed or a space.
        b'\r' => b"&#xD;",
        b'\n' => b"&#xA;",
        b'\t' => b"&#x9;",
        _ => "\u{FFFD}".as_bytes(),
    }
}

/// Copies runs of harmless bytes, replaces what must be escaped, and turns characters that XML cannot hold
/// into U+FFFD.
fn escape(text: &str, out: &mut impl BufMut, place: u8) {
    let mut rest = text.as_bytes();
    let is_special = |byte: u8| {
        ESCAPED
            .get(usize::from(byte))
            .is_some_and(|places| places & place != 0)
    };
    while let Some(at) = rest.iter().position(|&byte| is_special(byte)) {
        let (plain, special) = rest.split_at(at);
        out.put_slice(plain);
        let len = match special {
            [0xEF, 0xBF, 0xBE | 0xBF, ..] => 3,
            [0xEF, ..] => {
                out.put_u8(0xEF);
                rest = special.get(1..).unwrap_or_default();
                continue;
            }
            _ => 1,
        };
        out.put_slice(replacement(special.first().copied().unwrap_or_default()));
        rest = special.get(len..).unwrap_or_default();
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(build: impl for<'a> FnOnce(&'a mut XmlWriter) -> &'a mut XmlWriter, expect: &str) {
        let mut writer = XmlWriter::new("jabber:client");
        build(&mut writer);
        assert_eq!(std::str::from_utf8(&writer.finish()), Ok(expect));
    }

    #[test]
    fn elements_nest_and_escape() {
        check(|w| w.start("a").end(), "<a/>");
        check(
            |w| w.start("a").attr("k", "v").text("t").end(),
            "<a k='v'>t</a>",
        );
        check(
            |w| w.start("a").start("b").end().leaf("c", "x"),
            "<a><b/><c>x</c></a>",
        );
        check(
            |w| w.start("a").attr("k", "'\"<>&\t\r\n"),
            "<a k='&apos;&quot;&lt;&gt;&amp;&#x9;&#xD;&#xA;'/>",
        );
        check(
            |w| w.start("a").text("]]> & <\r\n"),
            "<a>]]&gt; &amp; &lt;&#xD;\n</a>",
        );
        check(
            |w| w.start("a").text("\u{0}\u{1F}\u{FFFE}é\u{FFFD}"),
            "<a>\u{FFFD}\u{FFFD}\u{FFFD}é\u{FFFD}</a>",
        );
        check(
            |w| w.start("a").attr_opt("k", None).attr_opt("l", Some("")),
            "<a l=''/>",
        );
        check(|w| w.start("a").text(""), "<a/>");
    }

    #[test]
    fn namespaces_are_declared_where_they_change() {
        check(|w| w.start_ns("a", "jabber:client"), "<a/>");
        check(
            |w| w.start_ns("a", "x").start_ns("b", "x").start_ns("c", "y"),
            "<a xmlns='x'><b><c xmlns='y'/></b></a>",
        );
        check(
            |w| w.start_ns("a", "x&").start_ns("b", "x&"),
            "<a xmlns='x&amp;'><b/></a>",
        );
        check(
            |w| w.start_ns("a", "x").end().start_ns("b", "jabber:client"),
            "<a xmlns='x'/><b/>",
        );
    }
}
