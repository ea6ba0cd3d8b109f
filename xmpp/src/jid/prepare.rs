//! Preparation of a JID's parts: nodeprep, IDNA and resourceprep (RFC 6122 §2, RFC 7622 §3.2).
//!
//! Nearly all parts are plain ASCII that is prepared already: those take a short path without a copy. All
//! others must also be stable, that is, preparing the result again changes nothing; otherwise an address
//! that went through a database would come back as another one.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use idna::uts46::{AsciiDenyList, Hyphens, Uts46};

use super::{JidError, PART_BYTES_MAX};

/// What no domain may hold, whatever else IDNA lets through. The underscore is let through: names like
/// `chat_1` are common inside private networks.
const DENIED: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// A host name's label has at most so many bytes (RFC 1035 §2.3.4), in its ASCII form.
const LABEL_BYTES_MAX: usize = 63;

/// Prepares the part before the `@`.
pub(super) fn local(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'+' | b'=' | b'\\');
    if !text.is_empty() && text.bytes().all(plain) {
        return Ok(Cow::Borrowed(text));
    }
    stable(text, JidError::Local, stringprep::nodeprep)
}

/// Prepares the part behind the `/`.
pub(super) fn resource(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    if !text.is_empty() && text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        return Ok(Cow::Borrowed(text));
    }
    stable(text, JidError::Resource, stringprep::resourceprep)
}

/// Prepares the domain: an internationalised name with its labels in Unicode, or an IP address.
pub(super) fn domain(text: &str) -> Result<Cow<'_, str>, JidError> {
    check_len(text)?;
    // RFC 7622 §3.2: a final dot is stripped before any other preparation.
    let text = text.strip_suffix('.').unwrap_or(text);
    if is_plain_domain(text) {
        return Ok(Cow::Borrowed(text));
    }
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let address: Ipv6Addr = address.parse().map_err(|_| JidError::Domain)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let prepared = to_unicode(text)?;
    check_len(&prepared)?;
    let well_formed = prepared
        .split('.')
        .all(|label| !label.is_empty() && is_label_of_dns_length(label));
    if !well_formed || *to_unicode(&prepared)? != *prepared {
        return Err(JidError::Domain);
    }
    Ok(prepared)
}

/// True if each label is lower-case ASCII of a legal length and no A-label, which would have to be decoded.
fn is_plain_domain(text: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    text.split('.').all(|label| {
        let hyphens =
            label.starts_with('-') || label.ends_with('-') || label.get(2..4) == Some("--");
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && !hyphens && label.bytes().all(plain)
    })
}

fn is_label_of_dns_length(label: &str) -> bool {
    // Hyphens at either end are refused here for Unicode labels too (RFC 5891 §4.2.3.1).
    if label.starts_with('-') || label.ends_with('-') {
        return false;
    }
    match Uts46::new().to_ascii(
        label.as_bytes(),
        DENIED,
        Hyphens::Allow,
        idna::uts46::DnsLength::Ignore,
    ) {
        Ok(ascii) => ascii.len() <= LABEL_BYTES_MAX,
        Err(_) => false,
    }
}

fn to_unicode(text: &str) -> Result<Cow<'_, str>, JidError> {
    let (prepared, outcome) = Uts46::new().to_unicode(text.as_bytes(), DENIED, Hyphens::Allow);
    match outcome {
        Ok(()) => Ok(prepared),
        Err(_) => Err(JidError::Domain),
    }
}

/// Runs a profile of stringprep and requires a non-empty result that the profile leaves alone.
fn stable(
    text: &str,
    error: JidError,
    profile: fn(&str) -> Result<Cow<'_, str>, stringprep::Error>,
) -> Result<Cow<'_, str>, JidError> {
    let prepared = profile(text).map_err(|_| error)?;
    check_len(&prepared)?;
    let settled = profile(&prepared).is_ok_and(|again| again == prepared);
    if prepared.is_empty() || !settled {
        Err(error)
    } else {
        Ok(prepared)
    }
}

fn check_len(text: &str) -> Result<(), JidError> {
    if text.len() > PART_BYTES_MAX {
        Err(JidError::TooLong)
    } else {
        Ok(())
    }
}
