//! The oracle of XML: what `rxml` reads in a client's stream.
//!
//! Differences between the two readers that are ours to make are those of `xmpp/src/scan/oracle_tests.rs`.

use std::collections::BTreeMap;

use rxml::{Event, Namespace, NcName, Parse, Parser, RawEvent, RawParser};
use xmpp::ns;

/// What stands before the elements.
pub const HEADER: &str = "<?xml version='1.0'?><stream:stream to='a.example' xmlns='jabber:client' \
                          xmlns:stream='http://etherx.jabber.org/streams' xmlns:h='urn:header'>";
/// What stands behind them.
pub const END: &str = "</stream:stream>";

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A start tag: namespace, name, attributes with their namespaces.
    Start(String, String, BTreeMap<(String, String), String>),
    /// Text between tags.
    Text(String),
    /// An end tag.
    End,
}

fn push_text(tokens: &mut Vec<Token>, text: &str) {
    match tokens.last_mut() {
        Some(Token::Text(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => tokens.push(Token::Text(text.to_owned())),
    }
}

/// What `rxml` lets pass: declarations that namespaces do not allow, and a default declared twice.
fn has_bad_declaration(mut bytes: &[u8]) -> bool {
    let mut parser = RawParser::new();
    let mut defaults = 0;
    loop {
        match parser.parse(&mut bytes, false) {
            Err(_) | Ok(None) => return false,
            Ok(Some(RawEvent::ElementHeadOpen(..))) => defaults = 0,
            Ok(Some(RawEvent::Attribute(_, (prefix, name), value))) => {
                let reserved = value == ns::XML || value == ns::XMLNS;
                let prefix = prefix.as_ref().map(|prefix| prefix.as_str());
                let bad = match (prefix, name.as_str()) {
                    (None, "xmlns") => {
                        defaults += 1;
                        defaults > 1 || reserved
                    }
                    (Some("xmlns"), "xml") => value != ns::XML,
                    (Some("xmlns"), "xmlns") => true,
                    (Some("xmlns"), _) => reserved || value.is_empty(),
                    _ => false,
                };
                if bad {
                    return true;
                }
            }
            Ok(Some(_)) => {}
        }
    }
}

fn start(ns: &Namespace, name: &NcName, attrs: rxml::AttrMap) -> Token {
    let attr = |((ns, name), value): ((Namespace, NcName), String)| {
        ((ns.to_string(), name.to_string()), value)
    };
    Token::Start(
        ns.to_string(),
        name.to_string(),
        attrs.into_iter().map(attr).collect(),
    )
}

/// What stands between header and end; `None` if the stream is refused, or does not end.
pub fn read(mut bytes: &[u8]) -> Option<Vec<Token>> {
    if has_bad_declaration(bytes) {
        return None;
    }
    let mut parser = Parser::new();
    let mut tokens = Vec::new();
    let mut depth = 0;
    loop {
        match parser.parse(&mut bytes, false) {
            Err(_) | Ok(None) => return None,
            Ok(Some(Event::XmlDeclaration(..))) => {}
            Ok(Some(Event::StartElement(_, (ns, name), attrs))) => {
                depth += 1;
                if *ns == *ns::XML {
                    return None;
                }
                if depth > 1 {
                    tokens.push(start(&ns, &name, attrs));
                }
            }
            Ok(Some(Event::EndElement(_))) => {
                depth -= 1;
                if depth == 0 {
                    return Some(tokens);
                }
                tokens.push(Token::End);
            }
            Ok(Some(Event::Text(_, text))) if depth == 1 => {
                if text.chars().any(|c| !" \t\r\n".contains(c)) {
                    return None;
                }
            }
            Ok(Some(Event::Text(_, text))) => push_text(&mut tokens, &text),
        }
    }
}

/// Whether the two readers may differ on this: carriage returns, U+FDF0 to U+FFFD, references of more than 32 bytes.
pub fn is_disputed(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let long_reference = text
        .split('&')
        .skip(1)
        .any(|rest| rest.split(';').next().is_some_and(|name| name.len() > 28));
    long_reference
        || bytes.contains(&b'\r')
        || text.chars().any(|c| ('\u{FDF0}'..='\u{FFFD}').contains(&c))
}
