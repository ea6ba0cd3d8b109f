//! Cuts a file into elements. What holds others (a host, a user, an archive) is never read as a whole.
//!
//! Only the brackets of tags are looked at here, to find where an element ends; each element is then read by the scanner, which
//! has limits of its own and never recurses. Nothing that is wrong with one element ends the reading, unless nobody could say
//! where the next one begins.

use std::io::Read;

use bytes::Bytes;
use xmpp::scan::{Document, Limits};

use super::{NS, NS_MAM};

/// What one element may cost: a roster or the private data of a user.
const LIMITS: Limits = Limits {
    stanza_bytes_max: 4 << 20,
    depth_max: 64,
    elements_max: 256 * 1024,
    attributes_max: 64,
    namespaces_max: 64 * 1024,
};

/// Bytes of a tag of what holds others.
const TAG_BYTES_MAX: usize = 64 * 1024;

/// What holds others, within each other.
const HOLDERS_MAX: usize = 4;

/// Something of the file, in its order.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A user begins.
    User {
        host: String,
        name: String,
        password: Option<String>,
        line: u64,
    },
    /// An element within the user.
    Element {
        within: Within,
        element: Document,
        line: u64,
    },
    /// The user ends.
    UserEnd,
    /// An element that is passed over, and why.
    Skipped { what: String, line: u64 },
    /// The file ends.
    End,
}

/// Where an element stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    User,
    Archive,
    Offline,
}

/// Why reading can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PieError {
    /// The file can't be read.
    #[error("it can't be read")]
    Io(#[from] std::io::Error),
    /// It is no XML of this kind.
    #[error("line {line}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where.
        line: u64,
    },
}

/// What holds others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Host,
    User,
    Archive,
    Offline,
}

/// A holder that is open.
struct Holder {
    kind: Kind,
    name: String,
    /// Its declarations of namespaces, as they stand there.
    declarations: String,
}

/// Reads a file.
pub(crate) struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    line: u64,
    holders: Vec<Holder>,
    host: String,
    begun: bool,
}

/// One thing between `<` and `>`.
enum Markup {
    Open { text: String, empty: bool },
    Close(String),
    Other,
}

impl<R: Read> Reader<R> {
    /// Reads from the beginning.
    pub(crate) fn new(input: R) -> Reader<R> {
        Reader {
            input,
            buffer: vec![0; 64 * 1024],
            at: 0,
            end: 0,
            line: 1,
            holders: Vec::new(),
            host: String::new(),
            begun: false,
        }
    }

    /// In which line it is.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// What it reads from.
    pub(crate) fn input(&self) -> &R {
        &self.input
    }

    fn malformed<T>(&self, what: &'static str) -> Result<T, PieError> {
        let line = self.line;
        Err(PieError::Malformed { what, line })
    }

    /// The next byte; `None` at the end.
    fn byte(&mut self) -> Result<Option<u8>, PieError> {
        if self.at == self.end {
            self.at = 0;
            self.end = loop {
                match self.input.read(&mut self.buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
        }
        let Some(byte) = self.buffer.get(self.at).filter(|_| self.at < self.end) else {
            return Ok(None);
        };
        self.at += 1;
        self.line += u64::from(*byte == b'\n');
        Ok(Some(*byte))
    }

    /// The next piece.
    pub(crate) fn next(&mut self) -> Result<Piece, PieError> {
        loop {
            match self.byte()? {
                Some(b'<') => {}
                Some(_) => continue,
                None if self.holders.is_empty() && self.begun => return Ok(Piece::End),
                None => return self.malformed("the file ends too early"),
            }
            let line = self.line;
            match self.markup(&mut Vec::new(), TAG_BYTES_MAX)? {
                None => return self.malformed("a tag is too long"),
                Some(Markup::Other) => {}
                Some(Markup::Close(name)) => {
                    let Some(holder) = self.holders.pop() else {
                        return self.malformed("an end without a beginning");
                    };
                    if holder.name != name {
                        return self.malformed("an element ends that has not begun");
                    }
                    if holder.kind == Kind::User {
                        return Ok(Piece::UserEnd);
                    }
                }
                Some(Markup::Open { text, empty }) => {
                    if let Some(piece) = self.open(text, empty, line)? {
                        return Ok(piece);
                    }
                }
            }
        }
    }

    /// An element begins: one that holds others, or one that is read as a whole.
    fn open(&mut self, text: String, empty: bool, line: u64) -> Result<Option<Piece>, PieError> {
        let tag = match empty {
            true => format!("<{text}>"),
            false => format!("<{text}/>"),
        };
        let inside = self.holders.last().map(|holder| holder.kind);
        let Some(document) = self.read(tag.as_bytes()) else {
            if inside.is_none() {
                return self.malformed("the first tag does not read");
            }
            self.element(&text, empty)?;
            let what = "an element whose tag does not read".to_owned();
            return Ok(Some(Piece::Skipped { what, line }));
        };
        let wrapper = document.root();
        let Some(root) = wrapper.children().next() else {
            return self.malformed("a tag does not read");
        };
        let kind = match (inside, root.name(), root.ns()) {
            (None, "server-data", NS) if !self.begun => Some(Kind::Data),
            (None | Some(Kind::Data), "host", NS) if inside.is_some() || !self.begun => {
                Some(Kind::Host)
            }
            (None, ..) => return self.malformed("this is no server-data of XEP-0227"),
            (Some(Kind::Host), "user", NS) => Some(Kind::User),
            (Some(Kind::User), "archive", NS_MAM) => Some(Kind::Archive),
            (Some(Kind::User), "offline-messages", NS) => Some(Kind::Offline),
            _ => None,
        };
        self.begun = true;
        let attr = |name: &str| root.attr(name).map(|value| value.into_owned());
        let Some(kind) = kind else {
            let what = format!("{} of {}", root.name(), root.ns());
            return self.whole(inside, what, (&text, empty), line).map(Some);
        };
        let piece = match kind {
            Kind::Host => {
                self.host = attr("jid").unwrap_or_default();
                None
            }
            Kind::User => Some(Piece::User {
                host: self.host.clone(),
                name: attr("name").unwrap_or_default(),
                password: attr("password"),
                line,
            }),
            _ => None,
        };
        if empty && kind != Kind::User {
            return Ok(piece);
        }
        if self.holders.len() >= HOLDERS_MAX {
            return self.malformed("elements are too deep within each other");
        }
        let name = text.split(|c: char| c.is_ascii_whitespace() || c == '/');
        let name = name.into_iter().next().unwrap_or_default().to_owned();
        if empty {
            // An end that the file leaves out.
            self.unread_end(&name);
        }
        self.holders.push(Holder {
            kind,
            name,
            declarations: declarations(&text),
        });
        Ok(piece)
    }

    /// Puts an end tag in front of what comes next.
    fn unread_end(&mut self, name: &str) {
        let mut next = format!("</{name}>").into_bytes();
        next.extend_from_slice(self.buffer.get(self.at..self.end).unwrap_or_default());
        self.end = next.len();
        self.at = 0;
        next.resize(next.len().max(64 * 1024), 0);
        self.buffer = next;
    }

    /// Reads an element as a whole.
    fn whole(
        &mut self,
        inside: Option<Kind>,
        what: String,
        (text, empty): (&str, bool),
        line: u64,
    ) -> Result<Piece, PieError> {
        let within = match inside {
            Some(Kind::User) => Some(Within::User),
            Some(Kind::Archive) => Some(Within::Archive),
            Some(Kind::Offline) => Some(Within::Offline),
            _ => None,
        };
        let bytes = self.element(text, empty)?;
        let skipped = |why: &str| Piece::Skipped {
            what: format!("{what}: {why}"),
            line,
        };
        let (Some(within), Some(bytes)) = (within, bytes) else {
            return Ok(skipped(match within {
                None => "not known here",
                Some(_) => "it is too large",
            }));
        };
        Ok(match self.read(&bytes) {
            Some(element) => Piece::Element {
                within,
                element,
                line,
            },
            None => skipped("it does not read, or is too deep"),
        })
    }

    /// Reads an element within the declarations of what holds it: the first child of the document's root.
    fn read(&self, element: &[u8]) -> Option<Document> {
        let mut text = String::from("<w");
        let mut declared: Vec<&str> = Vec::new();
        for holder in self.holders.iter().rev() {
            for declaration in holder.declarations.lines() {
                let name = declaration.split('=').next().unwrap_or_default();
                if !declared.contains(&name) {
                    declared.push(name);
                    text.push(' ');
                    text.push_str(declaration);
                }
            }
        }
        text.push('>');
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(element);
        bytes.extend_from_slice(b"</w>");
        let document = Document::parse_in(Bytes::from(bytes), &LIMITS, "").ok()?;
        let children = document.root().children().count();
        (children == 1).then_some(document)
    }

    /// The bytes of an element whose first tag was read; `None` if they are too many.
    fn element(&mut self, text: &str, empty: bool) -> Result<Option<Vec<u8>>, PieError> {
        let mut bytes = format!("<{text}>").into_bytes();
        let mut fits = bytes.len() <= LIMITS.stanza_bytes_max;
        let mut depth = u64::from(!empty);
        while depth > 0 {
            let Some(byte) = self.byte()? else {
                return self.malformed("the file ends within an element");
            };
            keep(&mut bytes, byte, &mut fits);
            if byte != b'<' {
                continue;
            }
            let mut seen = Vec::new();
            let markup = self.markup(&mut seen, LIMITS.stanza_bytes_max)?;
            seen.iter()
                .for_each(|byte| keep(&mut bytes, *byte, &mut fits));
            match markup {
                // Its end is found all the same: what it was is seen by its last bytes.
                None => fits = false,
                Some(Markup::Open { empty: false, .. }) => depth += 1,
                Some(Markup::Close(_)) => depth -= 1,
                Some(Markup::Open { .. } | Markup::Other) => {}
            }
            if !fits {
                bytes = Vec::new();
            }
        }
        Ok(fits.then_some(bytes))
    }

    /// What stands behind `<`, up to its `>`; what was read is added to `seen`. `None`: too long, and its end is unknown.
    fn markup(&mut self, seen: &mut Vec<u8>, max: usize) -> Result<Option<Markup>, PieError> {
        let mut quote = None;
        let from = seen.len();
        loop {
            let Some(byte) = self.byte()? else {
                return self.malformed("the file ends within a tag");
            };
            seen.push(byte);
            if seen.len() - from > max {
                return self.malformed("a tag is too long");
            }
            let so_far = seen.get(from..).unwrap_or_default();
            let ends = match so_far {
                [b'?', ..] => so_far.ends_with(b"?>") && so_far.len() > 2,
                [b'!', b'-', b'-', ..] => so_far.ends_with(b"-->") && so_far.len() > 5,
                [b'!', b'[', ..] => so_far.ends_with(b"]]>"),
                // `<!-` and `<!` may still become one of those.
                [b'!'] | [b'!', b'-'] => false,
                [b'!', ..] => return self.malformed("a document type is not read"),
                _ => match (quote, byte) {
                    (None, b'"' | b'\'') => {
                        quote = Some(byte);
                        false
                    }
                    (Some(open), _) if open == byte => {
                        quote = None;
                        false
                    }
                    (None, b'>') => true,
                    _ => false,
                },
            };
            if ends {
                break;
            }
        }
        let text = seen.get(from..seen.len() - 1).unwrap_or_default();
        let Ok(text) = str::from_utf8(text) else {
            return self.malformed("it is not UTF-8");
        };
        Ok(Some(match text.as_bytes() {
            [b'?' | b'!', ..] => Markup::Other,
            [b'/', ..] => Markup::Close(text.trim_start_matches('/').trim_end().to_owned()),
            _ => Markup::Open {
                empty: text.ends_with('/'),
                text: text.to_owned(),
            },
        }))
    }
}

fn keep(bytes: &mut Vec<u8>, byte: u8, fits: &mut bool) {
    if *fits && bytes.len() < LIMITS.stanza_bytes_max {
        bytes.push(byte);
    } else {
        *fits = false;
    }
}

/// The declarations of namespaces in a tag, one a line, as they stand there.
fn declarations(tag: &str) -> String {
    let mut found = String::new();
    let mut rest = tag;
    while let Some((before, behind)) = rest.split_once('=') {
        let name = before.trim_end();
        let name = name.rsplit(|c: char| c.is_ascii_whitespace()).next();
        let behind = behind.trim_start();
        let Some(quote) = behind.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            break;
        };
        let Some((value, next)) = behind[1..].split_once(quote) else {
            break;
        };
        if let Some(name) = name.filter(|name| *name == "xmlns" || name.starts_with("xmlns:"))
            && !value.contains('\n')
        {
            found.push_str(&format!("{name}={quote}{value}{quote}\n"));
        }
        rest = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes one by one.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn lines(text: &str) -> Vec<String> {
        let mut reader = Reader::new(Drip(text.as_bytes()));
        let mut lines = Vec::new();
        loop {
            lines.push(match reader.next() {
                Ok(Piece::End) => return lines,
                Ok(Piece::User {
                    host,
                    name,
                    password,
                    line,
                }) => format!("{line}: {name}@{host} {password:?}"),
                Ok(Piece::UserEnd) => "end".to_owned(),
                Ok(Piece::Element {
                    within,
                    element,
                    line,
                }) => {
                    let root = element.root();
                    let child = root.children().next().unwrap();
                    let text = child.text();
                    format!("{line}: {within:?} {} {} {text}", child.name(), child.ns())
                }
                Ok(Piece::Skipped { what, line }) => format!("{line}: skipped {what}"),
                Err(error) => {
                    lines.push(error.to_string());
                    return lines;
                }
            });
        }
    }

    #[test]
    fn a_file_is_cut_into_its_elements() {
        let text = "<?xml version='1.0'?>\n<!-- > -->\n<server-data xmlns='urn:xmpp:pie:0' xmlns:p=\"urn:p\">\n\
            <host jid='a.b'>\n<user name='one' password='&lt;x>'>\n<p:thing>a<![CDATA[</p:thing>]]>b</p:thing>\n\
            <query xmlns='jabber:iq:roster'><item jid='x@y'/></query>\n\
            <offline-messages>\n<message xmlns='jabber:client'><body>hi</body></message></offline-messages>\n\
            <archive xmlns='urn:xmpp:pie:0#mam'/>\n</user>\n<user name='two'/></host><other/></server-data>";
        assert_eq!(
            lines(text),
            [
                "5: one@a.b Some(\"<x>\")",
                "6: User thing urn:p a</p:thing>b",
                "7: User query jabber:iq:roster ",
                "9: Offline message jabber:client ",
                "end",
                "12: two@a.b None",
                "end",
                "12: skipped other of urn:xmpp:pie:0: not known here",
            ]
        );
    }

    #[test]
    fn a_host_may_stand_alone() {
        let text = "<host xmlns='urn:xmpp:pie:0' jid='a.b'><user name='one'></user></host>";
        assert_eq!(lines(text), ["1: one@a.b None", "end"]);
    }

    #[test]
    fn what_can_not_be_cut_is_refused() {
        let deep = "<a>".repeat(100_000);
        let table = [
            ("", "line 1: the file ends too early"),
            ("<html/>", "line 1: this is no server-data of XEP-0227"),
            (
                "<server-data/>",
                "line 1: this is no server-data of XEP-0227",
            ),
            ("<!DOCTYPE x>", "line 1: a document type is not read"),
            (
                "<server-data xmlns='urn:xmpp:pie:0'></host>",
                "line 1: an element ends that has not begun",
            ),
            (
                "<server-data xmlns='urn:xmpp:pie:0'>\n<host jid='x'>",
                "line 2: the file ends too early",
            ),
            (
                &format!("<host xmlns='urn:xmpp:pie:0'><user name='x'>{deep}"),
                "line 1: the file ends within an element",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(lines(text).last().unwrap(), expected);
        }
    }

    #[test]
    fn what_is_too_large_is_passed_over() {
        let large = "x".repeat(5 << 20);
        let text = format!(
            "<host xmlns='urn:xmpp:pie:0' jid='h'><user name='u'><vCard xmlns='vcard-temp'>{large}</vCard>\
             <vCard xmlns='vcard-temp'>small</vCard></user></host>"
        );
        let mut reader = Reader::new(text.as_bytes());
        let mut said = Vec::new();
        loop {
            match reader.next().unwrap() {
                Piece::End => break,
                Piece::Skipped { what, .. } => said.push(what),
                Piece::Element { element, .. } => said.push(element.source().len().to_string()),
                _ => {}
            }
        }
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("it is too large"), "{said:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            parts in proptest::collection::vec(0..8_usize, 0..30),
        ) {
            const PARTS: [&str; 8] = [
                "<host xmlns='urn:xmpp:pie:0' jid='x'>", "<user name='u'>", "</user>", "<a b='>'/>", "<!--", "-->", "<![CDATA[", "]]>",
            ];
            let mut text: Vec<u8> = parts.iter().flat_map(|part| PARTS[*part].bytes()).collect();
            text.extend(bytes);
            let mut reader = Reader::new(&text[..]);
            for _ in 0..=text.len() {
                match reader.next() {
                    Err(_) | Ok(Piece::End) => return Ok(()),
                    Ok(_) => {}
                }
            }
            prop_assert!(false, "it does not end");
        }
    }
}
