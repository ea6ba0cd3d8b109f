//! Addresses: which texts are JIDs, what they become, and which are not.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// `expect` is (local, domain, resource), or `None` for a text that is no JID.
#[track_caller]
fn check(text: &str, expect: Option<(Option<&str>, &str, Option<&str>)>) {
    let parsed = Jid::parse(text).ok();
    let parts = parsed
        .as_ref()
        .map(|jid| (jid.local(), jid.domain(), jid.resource()));
    assert_eq!(parts, expect, "parsing {text:?}");
}

#[test]
fn splitting() {
    check("node@server", Some((Some("node"), "server", None)));
    check(
        "node@server/resource",
        Some((Some("node"), "server", Some("resource"))),
    );
    check("server", Some((None, "server", None)));
    check("server/resource", Some((None, "server", Some("resource"))));
    check(
        "server/resource@foo",
        Some((None, "server", Some("resource@foo"))),
    );
    check(
        "server/resource@foo/bar",
        Some((None, "server", Some("resource@foo/bar"))),
    );
    check(
        "foo@example/@resource",
        Some((Some("foo"), "example", Some("@resource"))),
    );
    check(
        "foo.example.com/some resource",
        Some((None, "foo.example.com", Some("some resource"))),
    );
    for text in [
        "",
        "@",
        "/",
        "@/",
        "@/resource",
        "@server",
        "@server/",
        "@server/resource",
        "/resource",
        "node@",
        "node@/server",
        "server/",
        "user@host/",
        "user@@",
        "user@@host",
        "user@@host/resource",
        "foo@example@resource",
        "@x/foo",
    ] {
        check(text, None);
    }
}

#[test]
fn the_empty_root_label_is_stripped() {
    check("node@server.", Some((Some("node"), "server", None)));
    check(
        "node@server./r.",
        Some((Some("node"), "server", Some("r."))),
    );
    check("node@server..", None);
    check(".", None);
}

#[test]
fn local_parts() {
    check(
        "JuLiEt@example.com",
        Some((Some("juliet"), "example.com", None)),
    );
    check(
        "fußball@example.com",
        Some((Some("fussball"), "example.com", None)),
    );
    check("π@example.com", Some((Some("π"), "example.com", None)));
    check("Σ@example.com", Some((Some("σ"), "example.com", None)));
    check("ａｂ@example.com", Some((Some("ab"), "example.com", None)));
    check(
        "space\\20cadet@example.com",
        Some((Some("space\\20cadet"), "example.com", None)),
    );
    check(
        "a!#$%*()[]^`{|}~;,?@example.com",
        Some((Some("a!#$%*()[]^`{|}~;,?"), "example.com", None)),
    );
    for text in [
        "<invalid node>@server",
        "a b@server",
        "a\"b@server",
        "a&b@server",
        "a'b@server",
        "a:b@server",
        "a<b@server",
        "a>b@server",
        "\u{0}@server",
        "a\u{7F}@server",
        "a\u{E000}@server",
        "a\u{AD}\u{FF20}b@server",
        "\u{AD}@server",
        "henry\u{2163}\u{200E}@server",
        "\u{5D0}a@server",
    ] {
        check(text, None);
    }
    // XEP-0106 and RFC 7622 agree: a soft hyphen is mapped to nothing.
    check("a\u{AD}b@server", Some((Some("ab"), "server", None)));
}

#[test]
fn domains() {
    check("EXAMPLE.com", Some((None, "example.com", None)));
    check(
        "xn--bcher-kva.example",
        Some((None, "bücher.example", None)),
    );
    check("bücher.example", Some((None, "bücher.example", None)));
    check("BÜCHER.example", Some((None, "bücher.example", None)));
    check("ｅxample。com", Some((None, "example.com", None)));
    check("muster_1.local", Some((None, "muster_1.local", None)));
    check("127.0.0.1", Some((None, "127.0.0.1", None)));
    check("[::1]", Some((None, "[::1]", None)));
    check(
        "a@[0:0:0:0:0:0:0:1]/r",
        Some((Some("a"), "[::1]", Some("r"))),
    );
    for text in [
        "exa mple.com",
        "a..b",
        ".a",
        "invalid-\u{80}-server",
        "a\u{0}b",
        "a:5222",
        "[::1",
        "::1",
        "[1.2.3.4]",
        "a,b",
        "-a.example",
        "a-.example",
        "xn--zzzzzzzzzzzzzz.example",
        "a\u{FF0F}b",
        "a\u{FF20}b",
        "<a>",
        "a&b",
    ] {
        check(text, None);
    }
    check(
        &format!("{}.example", "a".repeat(63)),
        Some((None, &format!("{}.example", "a".repeat(63)), None)),
    );
    check(&format!("{}.example", "a".repeat(64)), None);
}

#[test]
fn resources() {
    check("a@b/Home PC", Some((Some("a"), "b", Some("Home PC"))));
    check("a@b/\u{2655}", Some((Some("a"), "b", Some("\u{2655}"))));
    check("a@b/ ", Some((Some("a"), "b", Some(" "))));
    check("a@b/ｆoo", Some((Some("a"), "b", Some("foo"))));
    check("a@b///", Some((Some("a"), "b", Some("//"))));
    check("node@server/invalid-\u{0}-resource", None);
    check("a@b/\u{AD}", None);
    check("a@b/x\ny", None);
}

#[test]
fn each_part_has_at_most_1023_bytes() {
    let long = "x".repeat(PART_BYTES_MAX);
    check(
        &format!("{long}@b/{long}"),
        Some((Some(&long), "b", Some(&long))),
    );
    assert_eq!(Jid::parse(&format!("{long}x@b")), Err(JidError::TooLong));
    assert_eq!(Jid::parse(&format!("a@b/{long}x")), Err(JidError::TooLong));
    assert_eq!(Jid::parse(&"a.".repeat(512)), Err(JidError::TooLong));
    // U+FDFA grows elevenfold in NFKC.
    assert_eq!(
        Jid::parse(&format!("a@b/{}", "\u{FDFA}".repeat(100))),
        Err(JidError::TooLong)
    );
}

#[test]
fn kinds_of_jid() -> Result<(), JidError> {
    let full = FullJid::parse("juliet@example.com/balcony")?;
    assert_eq!(
        (full.resource(), full.as_str()),
        ("balcony", "juliet@example.com/balcony")
    );
    let bare = full.bare();
    assert_eq!(bare, BareJid::parse("juliet@example.com")?);
    assert_eq!(bare.to_string(), "juliet@example.com");
    assert_eq!(bare.with_resource("balcony")?, full);
    assert_eq!(bare.with_resource(""), Err(JidError::Resource));
    assert!(!bare.is_domain() && bare.to_domain().is_domain());
    assert_eq!(Jid::from(&full).to_full(), Some(full.clone()));
    assert_eq!(Jid::from(&bare).to_full(), None);
    assert_eq!(Jid::from(&bare).resource(), None);
    assert_eq!(BareJid::parse("a@b/c"), Err(JidError::UnexpectedResource));
    assert_eq!(FullJid::parse("a@b"), Err(JidError::MissingResource));
    assert_eq!(format!("{full:?}"), "FullJid(juliet@example.com/balcony)");
    Ok(())
}

#[test]
fn maps_can_be_asked_with_text() -> Result<(), JidError> {
    let mut map = HashMap::new();
    map.insert(FullJid::parse("a@b/c")?.bare(), 1);
    assert_eq!(map.get("a@b"), Some(&1));
    assert_eq!(map.get(&BareJid::parse("A@b")?), Some(&1));
    Ok(())
}

#[test]
fn deserialising_validates() -> Result<(), JidError> {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    let read = |text: &'static str| {
        let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
        BareJid::deserialize(deserializer)
    };
    assert_eq!(read("A@b"), Ok(BareJid::parse("a@b")?));
    assert!(read("a@b/c").is_err());
    assert!(read("@b").is_err());
    Ok(())
}

proptest! {
    #[test]
    fn any_text_parses_or_not_and_never_panics(text in "\\PC{0,40}") {
        if let Ok(jid) = Jid::parse(&text) {
            prop_assert_eq!(Jid::parse(jid.as_str()), Ok(jid.clone()), "a prepared JID is stable");
        }
    }

    #[test]
    fn whatever_has_the_shape_of_a_jid(text in "[a-zA-Zß\u{130}ＡΣ.\u{AD}-]{0,8}@?[a-zA-ZÄ.。_-]{1,8}/?[ -~Ａß]{0,8}") {
        if let Ok(jid) = Jid::parse(&text) {
            prop_assert_eq!(Jid::from_parts(jid.local(), jid.domain(), jid.resource()), Ok(jid.clone()));
            let bare = jid.bare();
            prop_assert_eq!(bare.as_str(), jid.bare_str());
        }
    }
}
