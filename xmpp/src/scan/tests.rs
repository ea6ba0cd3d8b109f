//! The scanner: what it accepts, what each kind of bad input is called, and that cuts change nothing.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::ns;
use crate::stream_error::StreamErrorCondition::{self as C, *};

const HEADER: &str = "<stream:stream to='a.example' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";

/// Everything a stream gives, one text a frame, until it stops or fails.
fn frames(framer: &mut Framer, pieces: &[&[u8]]) -> (Vec<String>, Option<C>) {
    let mut seen = Vec::new();
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next() {
                Ok(None) => break,
                Ok(Some(Frame::Header(header))) => seen.push(format!("header {header:?}")),
                Ok(Some(Frame::Close)) => seen.push("close".to_owned()),
                Ok(Some(Frame::Element(document))) => seen.push(canonical(document.root())),
                Err(error) => return (seen, Some(error.condition)),
            }
        }
    }
    (seen, None)
}

fn canonical(element: Element<'_>) -> String {
    let mut out = BytesMut::new();
    element.write_canonical(&mut out, ns::CLIENT);
    String::from_utf8(out.to_vec()).expect("canonical form is UTF-8")
}

/// A whole stream from its first byte.
#[track_caller]
fn check_stream(input: impl AsRef<[u8]>, expect: C) {
    let input = input.as_ref();
    let whole = frames(&mut Framer::new(Limits::AFTER_AUTH), &[input]).1;
    assert_eq!(whole, Some(expect), "{:?}", String::from_utf8_lossy(input));
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(
        frames(&mut Framer::new(Limits::AFTER_AUTH), &bytes).1,
        Some(expect),
        "byte by byte"
    );
}

/// What follows a good header.
#[track_caller]
fn check_error(input: impl AsRef<[u8]>, expect: C) {
    check_stream([HEADER.as_bytes(), input.as_ref()].concat(), expect);
}

#[track_caller]
fn check(input: &str, expect: &[&str]) {
    let mut framer = Framer::new(Limits::AFTER_AUTH);
    let (seen, error) = frames(&mut framer, &[HEADER.as_bytes(), input.as_bytes()]);
    assert_eq!(error, None, "{input:?}");
    assert_eq!(seen.get(1..).unwrap_or_default(), expect, "{input:?}");
}

#[test]
fn the_header() {
    let input = "\n<?xml version='1.0'?>\r\n<stream:stream from='j@a.example' to=\"a.example\" id='&lt;' version='1.0' \
                 xml:lang='de' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' >";
    let mut framer = Framer::new(Limits::BEFORE_AUTH);
    framer.push(input.as_bytes());
    let Ok(Some(Frame::Header(header))) = framer.next() else {
        panic!("a header")
    };
    assert_eq!(
        header,
        StreamHeader {
            to: Some("a.example".to_owned()),
            from: Some("j@a.example".to_owned()),
            version: Some("1.0".to_owned()),
            lang: Some("de".to_owned()),
            id: Some("<".to_owned()),
            default_ns: ns::CLIENT.to_owned(),
        }
    );
    assert!(!framer.has_pending_bytes());
}

#[test]
fn headers_of_other_kinds_of_stream_are_the_callers_to_judge() {
    for (declaration, expect) in [
        ("xmlns='jabber:server'", "jabber:server"),
        ("xmlns='jabber:component:accept'", "jabber:component:accept"),
        ("xmlns=''", ""),
        ("", ""),
        ("xmlns='a&amp;b'", "a&b"),
    ] {
        let mut framer = Framer::new(Limits::BEFORE_AUTH);
        framer.push(
            format!(
                "<stream:stream xmlns:stream='{}' {declaration}>",
                ns::STREAM
            )
            .as_bytes(),
        );
        let Ok(Some(Frame::Header(header))) = framer.next() else {
            panic!("a header: {declaration}")
        };
        assert_eq!(header.default_ns, expect);
        framer.push(b"<x/>");
        let Ok(Some(Frame::Element(document))) = framer.next() else {
            panic!("an element")
        };
        assert_eq!(document.root().ns(), expect);
    }
}

#[test]
fn bad_headers() {
    let with = |rest: &str| {
        format!("{rest} xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
    };
    check_stream(
        "<stream:stream xmlns='jabber:client' xmlns:stream='http://example.org/x'>",
        InvalidNamespace,
    );
    check_stream(with("<stream"), InvalidNamespace);
    check_stream(
        "<stream xmlns='http://etherx.jabber.org/streams'>",
        BadNamespacePrefix,
    );
    check_stream(
        "<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>",
        BadNamespacePrefix,
    );
    check_stream(with("<stream:features"), BadFormat);
    check_stream("<stream:stream xmlns='jabber:client'>", NotWellFormed);
    check_stream(with("<stream:stream a='1' a='2'"), NotWellFormed);
    check_stream("</stream:stream>", NotWellFormed);
}

#[test]
fn other_protocols() {
    check_stream("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", NotWellFormed);
    check_stream(
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xfe",
        NotWellFormed,
    );
    check_stream("SSH-2.0-OpenSSH_9.2\r\n", NotWellFormed);
}

#[test]
fn encodings() {
    check_stream(b"\xff\xfe<\0s\0", UnsupportedEncoding);
    check_stream(b"\xfe\xff\0<\0s", UnsupportedEncoding);
    check_stream(b"<\0s\0t\0", UnsupportedEncoding);
    check_stream(b"\0<\0s\0t", UnsupportedEncoding);
    check_stream("\u{FEFF}<?xml version='1.0'?>", NotWellFormed);
    check_stream(
        "<?xml version='1.0' encoding='ISO-8859-1'?>",
        UnsupportedEncoding,
    );
    check_stream(
        "<?xml version='1.0' encoding='UTF-16'?>",
        UnsupportedEncoding,
    );
    check_error(b"<a>\xc3(</a>", UnsupportedEncoding);
    check_error(b"<a>\xc0\xaf</a>", UnsupportedEncoding);
    check_error(b"<a>\xed\xa0\x80</a>", UnsupportedEncoding);
    check_error(b"<a>\xf4\x90\x80\x80</a>", UnsupportedEncoding);
    check_error(b"<a b='\x80'/>", UnsupportedEncoding);
    check_error(b"\xff", UnsupportedEncoding);
}

#[test]
fn xml_declarations() {
    for declaration in [
        "<?xml version='1.0'?>",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
        "<?xml version='1.0' encoding='utf-8' standalone='yes' ?>",
        "<?xml\tversion = '1.0'\n?>\n",
    ] {
        let (seen, error) = frames(
            &mut Framer::new(Limits::BEFORE_AUTH),
            &[declaration.as_bytes(), HEADER.as_bytes()],
        );
        assert_eq!((seen.len(), error), (1, None), "{declaration}");
    }
    for declaration in [
        "<?xml version='1.1'?>",
        "<?xml encoding='UTF-8'?>",
        "<?xml version='1.0' standalone='maybe'?>",
        "<?xml version='1.0'encoding='UTF-8'?>",
        "<?xml version=1.0?>",
        "<?xml ?>",
        &format!("<?xml version='1.0' {}", "x".repeat(300)),
    ] {
        check_stream(declaration, NotWellFormed);
    }
    check_stream("<?xml version='1.0'?><?xml version='1.0'?>", RestrictedXml);
    check_stream("<?xml-stylesheet href='a'?>", RestrictedXml);
}

#[test]
fn restricted_xml() {
    check_stream("<!DOCTYPE stream>", RestrictedXml);
    check_stream("<!-- hello -->", RestrictedXml);
    check_stream("<?php ?>", RestrictedXml);
    check_error("<!-- hello -->", RestrictedXml);
    check_error("<!DOCTYPE a [<!ENTITY b 'c'>]>", RestrictedXml);
    check_error("<?pi?>", RestrictedXml);
    check_error("<a><!-- hello --></a>", RestrictedXml);
    check_error("<a><?pi?></a>", RestrictedXml);
    check_error("<a><?xml version='1.0'?></a>", RestrictedXml);
    check_error("<a><!ENTITY b 'c'></a>", RestrictedXml);
    check_error("<a>&nbsp;</a>", RestrictedXml);
    check_error("<a b='&eacute;'/>", RestrictedXml);
    check_error("<?xml version='1.0'?>", RestrictedXml);
}

#[test]
fn not_well_formed() {
    for input in [
        "<a></b>",
        "<a><b></a></b>",
        "<a/ >",
        "<a b='1' b='2'/>",
        "<a b=1/>",
        "<a b/>",
        "<a b='1'c='2'/>",
        "<a b='<'/>",
        "< a/>",
        "<1/>",
        "<-a/>",
        "<a:/>",
        "<:a/>",
        "<a:b:c xmlns:a='x'/>",
        "<a:1 xmlns:a='x'/>",
        "<a><</a>",
        "<a>]]></a>",
        "<a>& </a>",
        "<a>&;</a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#0;</a>",
        "<a>&#xD800;</a>",
        "<a>&#x110000;</a>",
        "<a>&#99999999999;</a>",
        "<a>&#xFFFE;</a>",
        "<a>&#1;</a>",
        "<a>&#X41;</a>",
        "<a>&lt</a>",
        "<a>&#12a;</a>",
        "<a>&#00000000000000000000000000000000065;</a>",
        "<p:a/>",
        "<a p:b='1'/>",
        "<a><b xmlns:p='x'/><p:c/></a>",
        "<a xmlns:p=''/>",
        "<a xmlns:xml='x'/>",
        "<a xmlns:xmlns='x'/>",
        "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns='x' xmlns='y'/>",
        "<a xmlns:p='x' xmlns:q='x' p:b='1' q:b='2'/>",
        "<a xmlns:p='x' xmlns:q='&#x78;' p:b='1' q:b='2'/>",
        "<a>\u{0}</a>",
        "<a>\u{1F}</a>",
        "<a>\u{FFFF}</a>",
        "<\u{0}a/>",
        "<a b='\u{1}'/>",
        "<xmlns:a/>",
        "<a><![CDATA</a>",
        "<![CDATA[x]]>",
        "<a><![cdata[x]]></a>",
        "</stream>",
        "</stream:strea>",
        "</stream:streams>",
        "<a\u{D7}/>",
        "<a>\u{C}</a>",
        "<a b = \"'\" c/>",
    ] {
        check_error(input, NotWellFormed);
    }
}

#[test]
fn an_element_in_the_namespace_of_xml_cannot_be_written_canonically() {
    check_error("<xml:a/>", InvalidNamespace);
    check_error(
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace'><xml:b/></a>",
        InvalidNamespace,
    );
    check(
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:b='c'/>",
        &["<a xml:b='c'/>"],
    );
}

#[test]
fn text_between_stanzas() {
    check_error("hello", BadFormat);
    check_error("<a/>x", BadFormat);
    check_error("&lt;", BadFormat);
    check(" \r\n\t <a/> \n <b/> ", &["<a/>", "<b/>"]);
}

#[test]
fn the_end() {
    check("</stream:stream>", &["close"]);
    check("<a/></stream:stream \n>whatever\u{0}", &["<a/>", "close"]);
    check_error(
        format!("</stream:stream{}", " ".repeat(300)),
        PolicyViolation,
    );
    let (seen, error) = frames(
        &mut Framer::new(Limits::AFTER_AUTH),
        &[b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'/><a/>"],
    );
    assert_eq!(
        (seen.len(), seen.last().map(String::as_str), error),
        (2, Some("close"), None)
    );
}

#[test]
fn canonical_form() {
    check("<a></a>", &["<a/>"]);
    check("<a b = \"c\"\n d='e' />", &["<a b='c' d='e'/>"]);
    check("<a b=\"it's\" c='\"'/>", &["<a b='it&apos;s' c='\"'/>"]);
    check(
        "<a b='x\ty\r\nz&#x9;&#10;'/>",
        &["<a b='x y z&#x9;&#xA;'/>"],
    );
    check("<a>x\r\ny\rz&#13;</a>", &["<a>x\ny\nz&#xD;</a>"]);
    check(
        "<a>&lt;&gt;&amp;&apos;&quot;&#65;&#x42;</a>",
        &["<a>&lt;&gt;&amp;'\"AB</a>"],
    );
    check(
        "<a><![CDATA[<b>&amp;]]]></a>",
        &["<a>&lt;b&gt;&amp;amp;]</a>"],
    );
    check("<a>]]<![CDATA[>]]></a>", &["<a>]]&gt;</a>"]);
    check("<a><![CDATA[x]]]]>></a>", &["<a>x]]&gt;</a>"]);
    check("<a><![CDATA[x]]]>]></a>", &["<a>x]]&gt;</a>"]);
    check(
        "<a>]<![CDATA[]]>]<![CDATA[]]>>></a>",
        &["<a>]]&gt;&gt;</a>"],
    );
    check("<a><![CDATA[]]></a>", &["<a/>"]);
    check("<a>x<b>y</b>z<c/></a>", &["<a>x<b>y</b>z<c/></a>"]);
    check(
        "<a xmlns='x'><b/><c xmlns='jabber:client'/><d xmlns=''/></a>",
        &["<a xmlns='x'><b/><c xmlns='jabber:client'/><d xmlns=''/></a>"],
    );
    check(
        "<p:a xmlns:p='x'><p:b/><c/></p:a>",
        &["<a xmlns='x'><b/><c xmlns='jabber:client'/></a>"],
    );
    check(
        "<stream:error/>",
        &["<error xmlns='http://etherx.jabber.org/streams'/>"],
    );
    check(
        "<a xmlns:p='x' p:b='1' xml:lang='de' b='2'/>",
        &["<a xmlns:ns1='x' ns1:b='1' xml:lang='de' b='2'/>"],
    );
    check(
        "<a xmlns='&#x78;&amp;'><b/></a>",
        &["<a xmlns='x&amp;'><b/></a>"],
    );
    check("<é ü='ß'/>", &["<é ü='ß'/>"]);
    check(
        "<a\u{B7}\u{FEFF}\u{FDF0}\u{FFFD}/>",
        &["<a\u{B7}\u{FEFF}\u{FDF0}\u{FFFD}/>"],
    );
    check(
        "<a xmlns:p='x'><b xmlns:p='y'><p:c/></b><p:d/></a>",
        &["<a><b><c xmlns='y'/></b><d xmlns='x'/></a>"],
    );
}

#[test]
fn walking_an_element() -> Result<(), StreamErrorOf> {
    let document = Document::parse(
        Bytes::from_static(b"<message xml:lang='en' to='a&amp;b'>x<body>1 &lt; <![CDATA[2]]></body><y xmlns='z' k='v'/>y</message>"),
        &Limits::BEFORE_AUTH,
    )?;
    let root = document.root();
    assert!(root.is("message", ns::CLIENT) && !root.has_text_only() && !root.is_empty());
    assert_eq!(
        (
            root.attr("to").as_deref(),
            root.attr("lang"),
            root.lang().as_deref()
        ),
        (Some("a&b"), None, Some("en"))
    );
    assert_eq!(root.text(), "xy");
    assert_eq!(
        root.child("body", ns::CLIENT)
            .map(|body| body.text().into_owned()),
        Some("1 < 2".to_owned())
    );
    assert_eq!(
        root.children()
            .map(|child| child.name())
            .collect::<Vec<_>>(),
        ["body", "y"]
    );
    assert_eq!(
        root.child("y", "z").and_then(|y| y.attr("k")).as_deref(),
        Some("v")
    );
    assert_eq!(
        root.attrs()
            .map(|attr| (attr.ns, attr.name))
            .collect::<Vec<_>>(),
        [(ns::XML, "lang"), ("", "to")]
    );
    assert!(
        !format!("{document:?}").contains("1 <"),
        "Debug shows no text"
    );
    Ok(())
}

type StreamErrorOf = crate::stream_error::StreamError;

#[test]
fn documents_and_fragments() {
    let parse = |text: &'static str| {
        Document::parse(Bytes::from_static(text.as_bytes()), &Limits::BEFORE_AUTH)
    };
    let fragment = |text: &'static str| {
        let parsed =
            Document::parse_fragment(Bytes::from_static(text.as_bytes()), &Limits::BEFORE_AUTH);
        parsed
            .map(|document| document.roots().map(canonical).collect::<Vec<_>>())
            .map_err(|error| error.condition)
    };
    for bad in ["", " ", "<a/><b/>", "<a>", "<a"] {
        assert_eq!(
            parse(bad).map(|_| ()).map_err(|error| error.condition),
            Err(NotWellFormed),
            "{bad:?}"
        );
    }
    assert_eq!(
        parse("x").map(|_| ()).map_err(|error| error.condition),
        Err(BadFormat)
    );
    assert_eq!(fragment(""), Ok(vec![]));
    assert_eq!(
        fragment("<a/> <b xmlns='x'>y</b><c/>"),
        Ok(vec![
            "<a/>".to_owned(),
            "<b xmlns='x'>y</b>".to_owned(),
            "<c/>".to_owned()
        ])
    );
    assert_eq!(fragment("<a/>x"), Err(BadFormat));
    assert_eq!(fragment("<a/></b>"), Err(NotWellFormed));
    let empty =
        Document::parse_fragment(Bytes::new(), &Limits::BEFORE_AUTH).expect("an empty fragment");
    assert_eq!(
        (
            empty.root().name(),
            empty.root().children().count(),
            empty.root().text().len()
        ),
        ("", 0, 0)
    );
}

/// Limits of which each is hit exactly, and exceeded by one.
#[track_caller]
fn check_limit(limits: Limits, within: &str, beyond: &str) {
    let whole = |text: &str, limits: Limits| {
        let mut framer = Framer::new(Limits::AFTER_AUTH);
        frames(&mut framer, &[HEADER.as_bytes()]);
        framer.set_limits(limits);
        let split: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        let one = frames(&mut framer.clone_for_test(), &[text.as_bytes()]);
        let bytewise = frames(&mut framer, &split);
        assert_eq!(one, bytewise, "{text:?}");
        one.1
    };
    assert_eq!(whole(within, limits), None, "{within:?}");
    assert_eq!(whole(beyond, limits), Some(PolicyViolation), "{beyond:?}");
}

impl Framer {
    /// A second framer that has seen a header.
    fn clone_for_test(&self) -> Self {
        let mut framer = Self::new(Limits::AFTER_AUTH);
        frames(&mut framer, &[HEADER.as_bytes()]);
        framer.set_limits(self.limits());
        framer
    }
}

#[test]
fn limits() {
    let base = Limits {
        stanza_bytes_max: 100,
        depth_max: 3,
        elements_max: 4,
        attributes_max: 2,
        namespaces_max: 2,
    };
    let long = |len: usize| format!("<a>{}</a>", "x".repeat(len - 7));
    check_limit(base, &long(100), &long(101));
    check_limit(
        base,
        &format!("{0}{0}", long(100)),
        &format!("{}<a b='{}", long(100), "x".repeat(95)),
    );
    check_limit(base, "<a><b><c/></b></a>", "<a><b><c><d/></c></b></a>");
    check_limit(base, "<a><b/><b/><b/></a>", "<a><b/><b/><b/><b/></a>");
    check_limit(
        base,
        "<a b='' c=''><d e='' f=''/></a>",
        "<a b='' c='' d=''/>",
    );
    check_limit(
        base,
        "<a xmlns:b='c'><d xmlns='e'/></a>",
        "<a xmlns:b='c'><d xmlns='e'/><f xmlns='e'/></a>",
    );
    // A character that the limit cuts in two belongs to the part beyond.
    check_limit(
        Limits {
            stanza_bytes_max: 9,
            ..base
        },
        "<a>é</a>",
        "<a>xéééé",
    );
    check_limit(base, "        <a/>", &format!("<{}", "a".repeat(100)));
}

#[test]
fn header_limits() {
    check_stream(
        format!("<stream:stream to='{}'>", "x".repeat(300_000)),
        PolicyViolation,
    );
}

#[test]
fn the_deepest_nesting_needs_no_stack() {
    let depth = 500_000;
    let limits = Limits {
        depth_max: depth,
        elements_max: depth,
        stanza_bytes_max: 16 << 20,
        ..Limits::AFTER_AUTH
    };
    let text = format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    let document =
        Document::parse(Bytes::from(text.clone()), &limits).expect("deep, but well-formed");
    assert_eq!(canonical(document.root()).len(), text.len() - 3);
}

#[test]
fn a_restart_forgets_the_header() {
    let mut framer = Framer::new(Limits::BEFORE_AUTH);
    let (seen, error) = frames(&mut framer, &[HEADER.as_bytes(), b"<a/>"]);
    assert_eq!((seen.len(), error), (2, None));
    framer.reset();
    let (seen, error) = frames(
        &mut framer,
        &[b"<?xml version='1.0'?>", HEADER.as_bytes(), b"<b/>"],
    );
    assert_eq!((seen.len(), error), (2, None));
}

#[test]
fn an_error_stays() {
    let mut framer = Framer::new(Limits::BEFORE_AUTH);
    framer.push(b"nonsense");
    let first = framer.next().expect_err("not XML");
    framer.push(HEADER.as_bytes());
    assert_eq!(framer.next().expect_err("the same error"), first);
}

#[test]
fn frames_before_an_error_are_delivered() {
    let mut framer = Framer::new(Limits::BEFORE_AUTH);
    let (seen, error) = frames(&mut framer, &[HEADER.as_bytes(), b"<a/><b/>\xff<c/>"]);
    assert_eq!((seen.len(), error), (3, Some(UnsupportedEncoding)));
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just("<message to='x@y'>"),
        Just("</message>"),
        Just("<a/>"),
        Just("<p:b xmlns:p='q'>"),
        Just("</p:b>"),
        Just("text é\u{1F600}"),
        Just("&lt;"),
        Just("&#x41;"),
        Just("&bad;"),
        Just("<![CDATA[x]]]>"),
        Just("]]>"),
        Just(" "),
        Just("\r\n"),
        Just("<!-- -->"),
        Just("</stream:stream>"),
        Just("'"),
        Just("<a b=\"'&amp;\" c='\n'"),
        Just(">"),
        Just("<?xml version='1.0'?>"),
        Just("\u{0}"),
        Just("<x xmlns='y'>"),
        Just("</x>"),
    ];
    let good = prop::collection::vec(token.prop_map(|token| token.as_bytes().to_vec()), 0..12)
        .prop_map(|tokens| tokens.concat());
    (
        good,
        prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(mut bytes, mutation)| {
            if let Some((index, byte)) = mutation
                && !bytes.is_empty()
            {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cuts_change_nothing(body in any_stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), limit in 10usize..80) {
        let limits = Limits { stanza_bytes_max: limit, ..Limits::AFTER_AUTH };
        let run = |pieces: &[&[u8]]| {
            let mut framer = Framer::new(Limits::AFTER_AUTH);
            frames(&mut framer, &[HEADER.as_bytes()]);
            framer.set_limits(limits);
            frames(&mut framer, pieces)
        };
        let whole = run(&[&body]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        at.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in at {
            pieces.push(&body[from..cut]);
            from = cut;
        }
        pieces.push(&body[from..]);
        prop_assert_eq!(run(&pieces), whole.clone());
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        prop_assert_eq!(run(&bytes), whole);
    }

    #[test]
    fn canonical_form_is_stable(body in any_stream()) {
        let limits = Limits::AFTER_AUTH;
        if let Ok(document) = Document::parse_fragment(Bytes::from(body), &limits) {
            let once: String = document.roots().map(canonical).collect();
            let again = Document::parse_fragment(Bytes::from(once.clone()), &limits).expect("canonical form parses");
            let twice: String = again.roots().map(canonical).collect();
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framer = Framer::new(Limits::BEFORE_AUTH);
        let _ = frames(&mut framer, &[HEADER.as_bytes(), b"<a>", &bytes]);
        let _ = Document::parse_fragment(Bytes::from(bytes), &Limits::BEFORE_AUTH);
    }
}
