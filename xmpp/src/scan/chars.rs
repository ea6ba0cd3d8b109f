//! Which characters XML allows, and where (XML 1.0, fifth edition, §2.2 and §2.3; Namespaces in XML §3).

/// White space between tokens.
pub(super) const SPACE: u8 = 1;
/// May start a name. The colon does not count: it separates a prefix.
pub(super) const NAME_START: u8 = 2;
/// May go on in a name, the colon included.
pub(super) const NAME: u8 = 4;

/// The classes of each byte. Bytes of multi-byte characters have none: they need [`is_name_char`].
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let value = byte as u8;
        let mut class = 0;
        if matches!(value, b' ' | b'\t' | b'\r' | b'\n') {
            class |= SPACE;
        }
        if value.is_ascii_alphabetic() || value == b'_' {
            class |= NAME_START | NAME;
        }
        if value.is_ascii_digit() || matches!(value, b'-' | b'.' | b':') {
            class |= NAME;
        }
        table[byte] = class;
        byte += 1;
    }
    table
}

/// True if the byte belongs to one of the classes.
#[inline]
pub(super) fn is(byte: u8, classes: u8) -> bool {
    CLASSES
        .get(usize::from(byte))
        .is_some_and(|class| class & classes != 0)
}

/// Production 4 of XML 1.0 without the colon.
pub(super) fn is_name_start_char(c: char) -> bool {
    matches!(c,
        'A'..='Z' | '_' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

/// Production 4a of XML 1.0 without the colon.
pub(super) fn is_name_char(c: char) -> bool {
    is_name_start_char(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// Production 2 of XML 1.0: what a document may hold at all.
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}

/// Where the first character stands that no XML document may hold.
pub(super) fn first_illegal(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // Without an early exit the compiler turns this into vector instructions: most chunks pass here.
    let mut suspicious = false;
    for &byte in bytes {
        suspicious |=
            (byte < b' ' && byte != b'\t' && byte != b'\n' && byte != b'\r') || byte == 0xEF;
    }
    if !suspicious {
        return None;
    }
    text.char_indices()
        .find(|&(_, c)| !is_xml_char(c))
        .map(|(at, _)| at)
}
