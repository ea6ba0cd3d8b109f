//! The scanner of stanzas: against `rxml`, in any pieces, and what it accepts goes out as it was understood.
#![no_main]

use bytes::{Bytes, BytesMut};
use fuzz::xml::{END, HEADER, is_disputed, read};
use fuzz::{Choices, cut};
use libfuzzer_sys::fuzz_target;
use xmpp::scan::{Document, Frame, Framer, Limits};
use xmpp::stanza::Stanza;
use xmpp::stream_error::StreamErrorCondition;

/// The elements of a stream in canonical form, and how it ended: with its end tag, with more expected, or refused.
fn ours(pieces: &[&[u8]]) -> (Vec<Bytes>, Result<bool, StreamErrorCondition>) {
    let mut framer = Framer::new(Limits {
        namespaces_max: 1000,
        ..Limits::AFTER_AUTH
    });
    let mut elements = Vec::new();
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next() {
                Ok(Some(Frame::Header(_))) => {}
                Ok(Some(Frame::Close)) => return (elements, Ok(true)),
                Ok(Some(Frame::Element(document))) => elements.push(canonical(&document)),
                Ok(None) => break,
                Err(error) => return (elements, Err(error.condition)),
            }
        }
    }
    (elements, Ok(false))
}

/// Written, read and written again: what comes of the second time is judged, as if it had gone over two nodes.
fn canonical(document: &Document) -> Bytes {
    let mut out = BytesMut::new();
    document.root().write_canonical(&mut out, xmpp::ns::CLIENT);
    let again = Document::parse(out.freeze(), &Limits::OWN).expect("canonical form parses");
    let mut twice = BytesMut::new();
    again.root().write_canonical(&mut twice, xmpp::ns::CLIENT);
    stanza(&again);
    twice.freeze()
}

/// What a stanza is read as is what is written, and read again.
fn stanza(document: &Document) {
    let Ok(stanza) = Stanza::from_element(&document.root()) else {
        return;
    };
    let mut out = BytesMut::new();
    stanza.write_standalone(&mut out);
    let again =
        Document::parse(out.freeze(), &Limits::OWN).expect("a stanza that is written parses");
    let again = Stanza::from_element(&again.root()).expect("and is a stanza");
    assert_eq!(stanza, again);
    let payload = stanza.payload_document().expect("a payload parses");
    assert!(payload.roots().count() <= Limits::AFTER_AUTH.elements_max);
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let lengths = choices.bytes(4);
    let body = choices.0;
    let stream = [HEADER.as_bytes(), body, END.as_bytes()].concat();
    let (elements, ended) = ours(&[&stream]);
    assert_eq!((&elements, ended), {
        let (pieces, ended) = ours(&cut(&stream, lengths));
        assert_eq!(pieces, elements, "other pieces, other elements");
        (&elements, ended)
    });
    // Bytes from the very start, and elements that stand alone.
    let _ = ours(&cut(body, lengths));
    let owned = Bytes::copy_from_slice(body);
    let _ = Document::parse(owned.clone(), &Limits::BEFORE_AUTH);
    if let Ok(fragment) = Document::parse_fragment(owned, &Limits::OWN) {
        fragment.roots().for_each(|root| {
            let _ = (root.text(), root.lang(), root.attrs().count());
        });
    }
    if is_disputed(body) {
        return;
    }
    let theirs = read(&stream);
    let accepted = ended == Ok(true);
    // Limits are ours alone.
    if ended == Err(StreamErrorCondition::PolicyViolation) {
        return;
    }
    assert_eq!(
        accepted,
        theirs.is_some(),
        "accepted by one alone: {ended:?}"
    );
    if accepted {
        let elements = elements.concat();
        let written = [HEADER.as_bytes(), &elements, END.as_bytes()].concat();
        assert_eq!(read(&written), theirs, "what goes out is what came in");
    }
});
