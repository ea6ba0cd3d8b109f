//! Comparing what came with what was expected.
//!
//! Every attribute and child that is expected must be there. Children that are not expected must not be, unless the
//! element says `scansion:strict='false'`. An attribute that is not named may be there, but for `type`, whose absence
//! means something. `{scansion:any}` stands for any value, `{scansion:none}` for no attribute,
//! `{scansion:capture:x}` for a value that `${x}` means from then on.

use std::collections::BTreeMap;

use bytes::Bytes;
use xmpp::scan::{Document, Element, Limits};

/// The namespace of the attributes that steer the comparison.
const SCANSION: &str = "https://matthewwild.co.uk/projects/scansion";

/// Values that were captured, by name.
pub type Captures = BTreeMap<String, String>;

/// Why something does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub String);

/// The expected stanzas of a block.
pub(super) fn expected(xml: &str) -> Result<Document, String> {
    let wrapped =
        format!("<expected xmlns='jabber:client' xmlns:scansion='{SCANSION}'>{xml}</expected>");
    Document::parse(Bytes::from(wrapped), &Limits::OWN)
        .map_err(|error| format!("the expected XML does not read: {error}: {xml}"))
}

/// Whether `actual` is what was expected, with what it captures.
pub fn matches(expected: Element<'_>, actual: Element<'_>) -> Result<Captures, Mismatch> {
    let mut captures = Captures::new();
    // A list of pairs instead of a call within the call: scripts are trusted, what servers send is not.
    let mut pairs = vec![(expected, actual)];
    while let Some((expected, actual)) = pairs.pop() {
        compare(expected, actual, &mut captures)?;
        pairs.extend(pair_children(expected, actual)?);
    }
    Ok(captures)
}

/// The element itself: name, attributes, text.
fn compare(
    expected: Element<'_>,
    actual: Element<'_>,
    captures: &mut Captures,
) -> Result<(), Mismatch> {
    if !actual.is(expected.name(), expected.ns()) {
        return Err(Mismatch(format!(
            "<{} xmlns='{}'> is not <{} xmlns='{}'>",
            actual.name(),
            actual.ns(),
            expected.name(),
            expected.ns()
        )));
    }
    let place = expected.name();
    for attribute in expected
        .attrs()
        .filter(|attribute| attribute.ns != SCANSION)
    {
        let found = actual
            .attrs()
            .find(|a| a.name == attribute.name && a.ns == attribute.ns);
        let found = found.as_ref().map(|found| found.value.as_ref());
        compare_value(&attribute.value, found, captures)
            .map_err(|why| Mismatch(format!("<{place}> {}: {why}", attribute.name)))?;
    }
    if expected.attr("type").is_none()
        && let Some(found) = actual.attr("type")
        && is_stanza(place)
    {
        return Err(Mismatch(format!("<{place}> type: {found:?} is too much")));
    }
    let text = expected.text();
    if expected.children().next().is_none() || !text.trim().is_empty() {
        let found = actual.text();
        let loose = is_loose(expected) && text.trim().is_empty();
        if !loose {
            compare_value(text.trim(), Some(found.trim()), captures)
                .map_err(|why| Mismatch(format!("<{place}> text: {why}")))?;
        }
    }
    Ok(())
}

fn is_stanza(name: &str) -> bool {
    matches!(name, "message" | "presence" | "iq")
}

fn is_loose(expected: Element<'_>) -> bool {
    expected
        .attr_ns(SCANSION, "strict")
        .is_some_and(|strict| matches!(&*strict, "false" | "no"))
}

fn compare_value(
    expected: &str,
    found: Option<&str>,
    captures: &mut Captures,
) -> Result<(), String> {
    let inner = expected
        .strip_prefix("{scansion:")
        .and_then(|rest| rest.strip_suffix('}'));
    match (inner, found) {
        (Some("none"), None) | (Some("any"), Some(_)) => Ok(()),
        (Some("none"), Some(found)) => Err(format!("{found:?} must not be there")),
        (Some(inner), Some(found)) => {
            let name = inner
                .strip_prefix("capture:")
                .ok_or_else(|| format!("unknown {expected}"))?;
            captures.insert(name.to_owned(), found.to_owned());
            Ok(())
        }
        (None, Some(found)) if found == expected => Ok(()),
        (_, None) => Err(format!("{expected:?} is missing")),
        (None, Some(found)) => Err(format!("{found:?} instead of {expected:?}")),
    }
}

/// Gives every expected child a child of its own that looks like it.
fn pair_children<'a>(
    expected: Element<'a>,
    actual: Element<'a>,
) -> Result<Vec<(Element<'a>, Element<'a>)>, Mismatch> {
    let mut left: Vec<Element<'a>> = actual.children().collect();
    let mut pairs = Vec::new();
    for child in expected.children() {
        let at = left
            .iter()
            .position(|candidate| looks_like(child, *candidate))
            .or_else(|| {
                left.iter()
                    .position(|candidate| candidate.is(child.name(), child.ns()))
            });
        let Some(at) = at else {
            let (name, ns) = (child.name(), child.ns());
            return Err(Mismatch(format!(
                "<{}> lacks <{name} xmlns='{ns}'>",
                expected.name()
            )));
        };
        pairs.push((child, left.remove(at)));
    }
    match left.first() {
        Some(extra) if !is_loose(expected) => Err(Mismatch(format!(
            "<{}> has too much: <{} xmlns='{}'>",
            expected.name(),
            extra.name(),
            extra.ns()
        ))),
        _ => Ok(pairs),
    }
}

/// Whether a whole subtree fits, captures aside. Depth is that of a script, which people write.
fn looks_like(expected: Element<'_>, actual: Element<'_>) -> bool {
    matches(expected, actual).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare_texts(pattern: &str, actual: &str) -> Result<Captures, String> {
        let pattern = expected(pattern)?;
        let actual = Document::parse(Bytes::copy_from_slice(actual.as_bytes()), &Limits::OWN)
            .map_err(|error| error.to_string())?;
        let pattern = pattern.root().children().next().ok_or("nothing expected")?;
        matches(pattern, actual.root()).map_err(|mismatch| mismatch.0)
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let check = |pattern: &str, actual: &str, why: &str| {
            let result = compare_texts(pattern, actual);
            assert_eq!(
                result.map(|_| String::new()).unwrap_or_else(|why| why),
                why,
                "{pattern}"
            );
        };
        check("<message/>", "<message/>", "");
        check("<message/>", "<message id='1'/>", "");
        check(
            "<message/>",
            "<message type='chat'/>",
            "<message> type: \"chat\" is too much",
        );
        check(
            "<message/>",
            "<iq/>",
            "<iq xmlns='jabber:client'> is not <message xmlns='jabber:client'>",
        );
        check(
            "<message id='1'/>",
            "<message id='2'/>",
            "<message> id: \"2\" instead of \"1\"",
        );
        check("<message id='{scansion:any}'/>", "<message id='2'/>", "");
        check(
            "<message id='{scansion:any}'/>",
            "<message/>",
            "<message> id: \"{scansion:any}\" is missing",
        );
        check("<message id='{scansion:none}'/>", "<message/>", "");
        check(
            "<message id='{scansion:none}'/>",
            "<message id='2'/>",
            "<message> id: \"2\" must not be there",
        );
        check(
            "<message><body>a</body></message>",
            "<message><body>a</body></message>",
            "",
        );
        check(
            "<message><body> a\n</body></message>",
            "<message><body>a</body></message>",
            "",
        );
        check(
            "<message><body>a</body></message>",
            "<message><body>b</body></message>",
            "<body> text: \"b\" instead of \"a\"",
        );
        check(
            "<message><body>{scansion:any}</body></message>",
            "<message><body>b</body></message>",
            "",
        );
        check(
            "<message/>",
            "<message><body>b</body></message>",
            "<message> has too much: <body xmlns='jabber:client'>",
        );
        check(
            "<message scansion:strict='false'/>",
            "<message><body>b</body></message>",
            "",
        );
        check(
            "<message><x xmlns='u'/></message>",
            "<message><x xmlns='v'/></message>",
            "<message> lacks <x xmlns='u'>",
        );
        // Children come in any order, and twins are told apart by what is in them.
        check(
            "<iq><a n='1'/><a n='2'/></iq>",
            "<iq><a n='2'/><a n='1'/></iq>",
            "",
        );
        check(
            "<iq><a/><a/></iq>",
            "<iq><a/></iq>",
            "<iq> lacks <a xmlns='jabber:client'>",
        );
    }

    #[test]
    fn values_are_captured() {
        let captures = compare_texts(
            "<iq id='{scansion:capture:one}'><a><b>{scansion:capture:two}</b></a></iq>",
            "<iq id='1'><a><b>2</b></a></iq>",
        );
        let expect = [("one", "1"), ("two", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(captures.expect("fits"), Captures::from(expect));
    }
}
