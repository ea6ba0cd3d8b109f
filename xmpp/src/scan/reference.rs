//! References: `&lt;` and the like, and character references (XML 1.0 §4.1, §4.6), and the decoding of raw text.

use std::borrow::Cow;

use super::chars;
use crate::stream_error::StreamErrorCondition as Condition;

/// A reference has at most so many bytes between `&` and `;`. Leading zeros are legal, but not without end.
const REFERENCE_BYTES_MAX: usize = 32;

/// Checks the reference at the start of `bytes` (at its `&`). `None` if more bytes are needed; else its length.
pub(super) fn check(bytes: &[u8]) -> Result<Option<usize>, Condition> {
    for (at, &byte) in bytes
        .iter()
        .enumerate()
        .skip(1)
        .take(REFERENCE_BYTES_MAX + 1)
    {
        if byte == b';' {
            let name = bytes.get(1..at).unwrap_or_default();
            return resolve(name).map(|_| Some(at + 1));
        }
        if !(chars::is(byte, chars::NAME) || byte >= 0x80 || (byte == b'#' && at == 1)) {
            return Err(Condition::NotWellFormed);
        }
    }
    if bytes.len() > REFERENCE_BYTES_MAX {
        Err(Condition::NotWellFormed)
    } else {
        Ok(None)
    }
}

/// The character that a reference's name (between `&` and `;`) stands for.
fn resolve(name: &[u8]) -> Result<char, Condition> {
    match name {
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"amp" => Ok('&'),
        b"apos" => Ok('\''),
        b"quot" => Ok('"'),
        [b'#', b'x', digits @ ..] => character(digits, 16),
        [b'#', digits @ ..] => character(digits, 10),
        _ => Err(entity_error(name)),
    }
}

/// RFC 6120 §11.1 and §4.9.3.18: entities without a predefinition are restricted; what is no name is not even that.
fn entity_error(name: &[u8]) -> Condition {
    let name = std::str::from_utf8(name).unwrap_or_default();
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(chars::is_name_start_char);
    if starts && letters.all(chars::is_name_char) {
        Condition::RestrictedXml
    } else {
        Condition::NotWellFormed
    }
}

fn character(digits: &[u8], radix: u32) -> Result<char, Condition> {
    let mut value: u32 = 0;
    for &digit in digits {
        let digit = char::from(digit)
            .to_digit(radix)
            .ok_or(Condition::NotWellFormed)?;
        // Far above the last character it stays there: no overflow, and refused below.
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    let found = char::from_u32(value).filter(|&c| !digits.is_empty() && chars::is_xml_char(c));
    found.ok_or(Condition::NotWellFormed)
}

/// Decodes character data: references, and line ends as XML 1.0 §2.11 wants them.
pub(super) fn decode_text(raw: &str) -> Cow<'_, str> {
    decode(raw, |byte| byte == b'&' || byte == b'\r', '\n')
}

/// Decodes an attribute's value: references, and white space as XML 1.0 §3.3.3 wants it.
pub(crate) fn decode_attribute(raw: &str) -> Cow<'_, str> {
    decode(
        raw,
        |byte| matches!(byte, b'&' | b'\r' | b'\n' | b'\t'),
        ' ',
    )
}

/// Line ends, but no references: the inside of a CDATA section.
pub(super) fn decode_cdata(raw: &str) -> Cow<'_, str> {
    decode(raw, |byte| byte == b'\r', '\n')
}

fn decode(raw: &str, special: impl Fn(u8) -> bool, space: char) -> Cow<'_, str> {
    let bytes = raw.as_bytes();
    let Some(first) = bytes.iter().position(|&byte| special(byte)) else {
        return Cow::Borrowed(raw);
    };
    let mut out = String::with_capacity(raw.len());
    let mut copied = 0;
    let mut at = first;
    while let Some(&byte) = bytes.get(at) {
        if !special(byte) {
            at += 1;
            continue;
        }
        out.push_str(raw.get(copied..at).unwrap_or_default());
        let rest = bytes.get(at..).unwrap_or_default();
        let len = if byte == b'&' {
            let len = rest
                .iter()
                .position(|&byte| byte == b';')
                .map_or(rest.len(), |end| end + 1);
            // Scanned text holds valid references only; a replacement character beats a panic.
            out.push(
                resolve(rest.get(1..len - 1).unwrap_or_default())
                    .unwrap_or(char::REPLACEMENT_CHARACTER),
            );
            len
        } else {
            out.push(space);
            if rest.starts_with(b"\r\n") { 2 } else { 1 }
        };
        at += len;
        copied = at;
    }
    out.push_str(raw.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}
