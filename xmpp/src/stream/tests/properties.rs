//! What holds whatever a peer sends.

use proptest::prelude::*;

use super::*;

/// Pieces of conversations, good and bad.
const PIECES: &[&str] = &[
    HEADER,
    PLAIN,
    PLAIN_GUESS,
    BIND,
    STARTTLS,
    ENABLE,
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>biwsbj1yb21lbyxyPWFiY2RlZmdo</auth>",
    "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AAAA</response>",
    "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
    "<message to='juliet@example.org'><body>hello</body></message>",
    "<presence from='romeo@example.org'/>",
    "<iq type='get' id='1'/>",
    "<iq type='set' id='1'><query xmlns='jabber:iq:register'><username>a</username><password>b</password></query></iq>",
    "<r xmlns='urn:xmpp:sm:3'/>",
    "<a xmlns='urn:xmpp:sm:3' h='4'/>",
    "<resume xmlns='urn:xmpp:sm:3' h='4' previd='x'/>",
    "<inactive xmlns='urn:xmpp:csi:0'/>",
    "<unknown/>",
    "</stream:stream>",
    " ",
    "<",
];

fn any_config() -> impl Strategy<Value = (StreamConfig, Transport)> {
    let settings = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    settings.prop_map(|(tls, required, registration, direct)| {
        let config = StreamConfig {
            tls_offered: tls,
            tls_required: required,
            registration,
            stream_management: StreamManagementOffer::Resumable,
            ..config()
        };
        (
            config,
            if direct {
                Transport::DirectTls
            } else {
                Transport::Plain
            },
        )
    })
}

proptest! {
    /// `Peer` asserts that nothing follows `Close`.
    #[test]
    fn no_stanza_and_no_session_without_authentication(
        (config, transport) in any_config(),
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..16),
        answers in any::<bool>(),
    ) {
        let mut peer = Peer::new(config, transport);
        peer.answers = answers;
        let out: String = pieces.iter().map(|piece| peer.send(piece)).collect();
        let authenticated = out.find("[authenticated").unwrap_or(usize::MAX);
        let bound = out.find("[established").unwrap_or(usize::MAX);
        prop_assert!(authenticated <= bound);
        prop_assert!(bound == usize::MAX || authenticated < bound);
        for part in ["[stanza", "[Enable", "[active", "[answered"] {
            prop_assert!(out.find(part).is_none_or(|at| bound < at), "{}", out);
        }
        prop_assert!(out.matches("</stream:stream>").count() <= 1);
        let header = out.find("<stream:stream ");
        prop_assert!(out.is_empty() || header == Some("<?xml version='1.0'?>".len()), "{}", out);
    }

    #[test]
    fn the_pieces_in_which_bytes_arrive_change_nothing(cuts in proptest::collection::vec(1..60_usize, 1..60)) {
        let conversation = [HEADER, PLAIN, HEADER, BIND, ENABLE, "<message><body>é</body></message>", "<presence/>", "</stream:stream>"];
        let mut whole = Peer::tls_at(Stage::Start);
        let expected: String = conversation.iter().map(|part| whole.send(part)).collect();
        let mut pieces = Peer::tls_at(Stage::Start);
        let bytes = conversation.concat().into_bytes();
        let (mut out, mut rest, mut cuts) = (String::new(), &bytes[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            out.push_str(&pieces.send_bytes(piece));
            rest = next;
        }
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn no_bytes_panic(stage in prop_oneof![Just(Stage::Start), Just(Stage::Header), Just(Stage::Bound)], bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut peer = Peer::tls_at(stage);
        let _ = peer.send_bytes(&bytes);
        let _ = peer.wait(Duration::from_secs(200));
    }

    /// What nobody vouches for costs at most four times what it sent, beyond the one thing that every stream is owed,
    /// however short it was: a header, an error and the end.
    #[test]
    fn an_unauthenticated_stream_costs_four_times_what_it_sent(
        (config, transport) in any_config(),
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40),
        answers in any::<bool>(),
    ) {
        const OWED: usize = 400;
        let mut peer = Peer::new(config, transport);
        peer.answers = answers;
        let (mut sent, mut got) = (HEADER.len(), wire_bytes(&peer.send(HEADER)));
        for piece in pieces.into_iter().filter(|piece| *piece != PLAIN) {
            if peer.closed.is_some() {
                break;
            }
            sent += piece.len();
            got += wire_bytes(&peer.send(piece));
            prop_assert!(got <= 4 * sent + OWED, "{} for {}", got, sent);
        }
    }
}

/// The bytes among what a [`Peer`] shows: other effects stand in brackets.
fn wire_bytes(shown: &str) -> usize {
    let behind_effect = |part: &str| {
        part.split_once(']')
            .map_or(part.len(), |(_, rest)| rest.len())
    };
    shown.split('[').map(behind_effect).sum()
}
