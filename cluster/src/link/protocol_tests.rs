use super::*;
use messaging::user::publication::SessionFlags;
use proptest::prelude::*;
use xmpp::stanza::StanzaKind;
use xmpp::stanza_error::Condition;

fn bare(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

fn session() -> SessionKey {
    SessionKey {
        node: 2,
        number: 9,
        jid: FullJid::parse("juliet@localhost/balcony").unwrap(),
    }
}

fn refused() -> Box<StanzaError> {
    Box::new(StanzaError::new(Condition::ServiceUnavailable))
}

fn stanza() -> Stanza {
    Stanza {
        payload: Bytes::from_static(b"<body>hark</body>"),
        ..Stanza::new(StanzaKind::Message)
    }
}

/// All variants of a body in one record, so that one golden line holds them.
macro_rules! samples {
    ($samples:ident, $body:ident, $name:literal) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct $samples(Vec<$body>);

        impl Record for $samples {
            const VERSION: u8 = $body::VERSION;
            const NAME: &'static str = $name;
        }
    };
}

samples!(UpSamples, Up, "link-up");
samples!(DownSamples, Down, "link-down");
samples!(AcrossSamples, Across, "link-across");
samples!(UpMovingSamples, Up, "link-up-moving");
samples!(DownMovingSamples, Down, "link-down-moving");

fn ups() -> Vec<Up> {
    let state = SessionState {
        key: session(),
        flags: SessionFlags {
            carbons: true,
            ..SessionFlags::default()
        },
        presence: Some(Stanza::new(StanzaKind::Presence)),
        directed: vec![bare("romeo@localhost").into()],
        unacknowledged: vec![4_097],
        newest_row: 4_098,
        untold: true,
    };
    let part = AttachPart {
        incarnation: 5,
        attempt: 2,
        index: 0,
        answered: 7,
        taken: 3,
        users: vec![AttachUser {
            user: bare("juliet@localhost"),
            cursor: 4_098,
            sessions: vec![state],
        }],
        rooms: vec![AttachRoom {
            room: bare("den@conference.localhost"),
            cursor: 8_192,
            occupants: vec![session().jid],
        }],
        last: true,
    };
    let event = SessionEvent::Acknowledged {
        key: session(),
        seq: 4_098,
    };
    let room = bare("den@conference.localhost");
    vec![
        Up::Attach(part),
        Up::Propose {
            incarnation: 5,
            sequence: 8,
            command: Command::Nothing,
        },
        Up::Publish {
            number: 4,
            publish: Publish::Session(event),
        },
        Up::Publish {
            number: 5,
            publish: Publish::Stanza(stanza()),
        },
        Up::Publish {
            number: 6,
            publish: Publish::RoomStanza {
                room,
                by: session().jid,
                stanza: stanza(),
            },
        },
        Up::Ask {
            request: 1,
            ask: Ask::Query(Query::Blocklist {
                user: bare("juliet@localhost"),
            }),
        },
        Up::Ask {
            request: 2,
            ask: Ask::Bind(session()),
        },
    ]
}

fn downs() -> Vec<Down> {
    let item = DeliveryItem {
        head: Bytes::from_static(b"<message to='"),
        tail: Some(Bytes::from_static(b"'/>")),
        targets: vec![(session().jid, 9)],
        row: Some(4_099),
    };
    let delivery = Delivery {
        key: bare("juliet@localhost"),
        place: Some(Place {
            previous: Some(4_098),
            seq: 4_099,
        }),
        items: vec![item],
        notes: vec![OccupantNote {
            session: session().jid,
            inside: true,
            nick: "jules".into(),
        }],
    };
    let soft = Delivery {
        place: None,
        notes: Vec::new(),
        ..delivery.clone()
    };
    vec![
        Down::Attached {
            attempt: 2,
            last_applied: 8,
            answers: vec![
                (7, Answer::Done { seq: 4_099 }),
                (8, Answer::Refused(refused())),
            ],
        },
        Down::Answer {
            sequence: 9,
            answer: Answer::Reply(Bytes::from_static(b"<query/>")),
        },
        Down::Taken { number: 6 },
        Down::Deliver(delivery),
        Down::Position {
            key: bare("juliet@localhost"),
            previous: 4_099,
            seq: 4_100,
        },
        Down::Reply {
            request: 1,
            reply: AskReply::Reply(Reply::Jids(vec![bare("tybalt@localhost")])),
        },
        Down::Reply {
            request: 2,
            reply: AskReply::Bound,
        },
        Down::Reply {
            request: 3,
            reply: AskReply::Refused(refused()),
        },
        Down::NotOwner {
            hint: Some((NodeId(3), Epoch(77))),
        },
        Down::Reattach,
        Down::Kick {
            session: session(),
            condition: StreamErrorCondition::Conflict,
        },
        Down::Told {
            mark: EffectMark::of(4_100, 2),
            delivery: soft,
        },
    ]
}

fn request() -> MoveRequest {
    MoveRequest {
        key: SessionKey {
            node: 3,
            number: 11,
            ..session()
        },
        incarnation: 6,
        token: ResumptionToken("token".into()),
    }
}

fn part() -> ParkedPart {
    ParkedPart {
        to: request().key,
        index: 1,
        last: true,
        bytes: Bytes::from_static(b"bytes"),
    }
}

/// Of sessions that move between nodes: appended later, so that the lines of what was there before stay.
fn moving_ups() -> Vec<Up> {
    let (key, to) = (session(), request().key);
    let token = request().token;
    let events = [
        SessionEvent::Yields {
            key: key.clone(),
            to: to.clone(),
        },
        SessionEvent::Stays {
            key: key.clone(),
            to,
        },
        SessionEvent::Leaves { key, token },
    ];
    let publishes = events.map(Publish::Session).into_iter();
    let publishes = publishes.chain([Publish::Parked(part())]);
    let ups = publishes.map(|publish| Up::Publish { number: 4, publish });
    let ask = Ask::Resume(request());
    ups.chain([Up::Ask { request: 3, ask }]).collect()
}

fn moving_downs() -> Vec<Down> {
    let (session, to) = (session(), request().key);
    let state = SessionState {
        key: to.clone(),
        flags: SessionFlags::default(),
        presence: None,
        directed: Vec::new(),
        unacknowledged: vec![7],
        newest_row: 7,
        untold: false,
    };
    let movings = [
        Moving::Yield {
            session: session.clone(),
            to: request(),
        },
        Moving::Release {
            session: session.clone(),
            to: to.clone(),
        },
        Moving::Stay {
            session: session.clone(),
            to,
        },
        Moving::Adopt {
            jid: session.jid,
            token: request().token,
        },
        Moving::Parked(part()),
    ];
    let reply = Down::Reply {
        request: 3,
        reply: AskReply::Moved(Box::new(state)),
    };
    let movings = movings.into_iter().map(Down::Moving);
    movings.chain([reply]).collect()
}

fn acrosses() -> Vec<Across> {
    let targets = vec![bare("juliet@localhost")];
    vec![
        Across::OutboxPropose {
            from: PartitionId(1),
            sequence: 4,
            command: Command::Nothing,
        },
        Across::OutboxAnswer {
            by: PartitionId(2),
            sequence: 4,
            refused: Some(refused()),
        },
        Across::OutboxHole {
            by: PartitionId(2),
            expected: 5,
        },
        Across::Presence {
            targets: targets.clone(),
            stanza: Stanza::new(StanzaKind::Presence),
            behind: None,
        },
        Across::Probe {
            from: bare("romeo@localhost"),
            targets,
        },
        Across::Stanza {
            stanza: stanza(),
            behind: Some(Behind {
                from: PartitionId(1),
                sequence: 4,
            }),
        },
        Across::OwnerHint {
            owner: NodeId(3),
            epoch: Epoch(77),
        },
    ]
}

#[test]
fn golden_bytes_of_up() {
    storage::golden!("../../tests/goldens/link.txt", &UpSamples(ups()));
}

#[test]
fn golden_bytes_of_down() {
    storage::golden!("../../tests/goldens/link.txt", &DownSamples(downs()));
}

#[test]
fn golden_bytes_of_moving_sessions() {
    let (ups, downs) = (moving_ups(), moving_downs());
    storage::golden!("../../tests/goldens/link.txt", &UpMovingSamples(ups));
    storage::golden!("../../tests/goldens/link.txt", &DownMovingSamples(downs));
}

#[test]
fn golden_bytes_of_across() {
    storage::golden!("../../tests/goldens/link.txt", &AcrossSamples(acrosses()));
}

#[test]
fn every_body_reads_as_it_was_written_and_no_cut_does() {
    macro_rules! check {
        ($body:ident, $samples:expr) => {
            for sample in $samples {
                let bytes = sample.encode().unwrap();
                assert_eq!($body::decode(&bytes).unwrap(), sample);
                for length in 0..bytes.len() {
                    assert!(
                        $body::decode(&bytes[..length]).is_err(),
                        "{sample:?} cut to {length}"
                    );
                }
            }
        };
    }
    check!(Up, ups());
    check!(Up, moving_ups());
    check!(Down, downs());
    check!(Down, moving_downs());
    check!(Across, acrosses());
}

#[test]
fn a_body_over_the_lanes_limit_is_refused() {
    let limits = crate::transport::TransportLimits::default();
    assert_eq!(limits.route.body_max as u64, BODY_BYTES_MAX + 1);
    let payload = Bytes::from(vec![b' '; limits.route.body_max]);
    let stanza = Stanza {
        payload,
        ..stanza()
    };
    let behind = None;
    assert!(matches!(
        Across::Stanza { stanza, behind }.encode(),
        Err(CodecError::TooLong { .. })
    ));
}

#[test]
fn publications_know_their_key() {
    let check =
        |publish: Publish, expect: Option<&str>| assert_eq!(publish.key(), expect.map(bare));
    check(Publish::Stanza(stanza()), None);
    let to = Some(session().jid.into());
    check(
        Publish::Stanza(Stanza { to, ..stanza() }),
        Some("juliet@localhost"),
    );
    let event = SessionEvent::Acknowledged {
        key: session(),
        seq: 1,
    };
    check(Publish::Session(event), Some("juliet@localhost"));
    let room = bare("den@conference.localhost");
    let publish = Publish::RoomStanza {
        room,
        by: session().jid,
        stanza: stanza(),
    };
    check(publish, Some("den@conference.localhost"));
}

#[test]
fn kinds_read_as_they_are_written() {
    for (kind, number) in [
        (RouteKind::Up, 1),
        (RouteKind::Down, 2),
        (RouteKind::Across, 3),
    ] {
        assert_eq!(kind as u8, number);
        assert_eq!(RouteKind::from_u8(number), Some(kind));
    }
    assert_eq!(RouteKind::from_u8(0), None);
    assert_eq!(RouteKind::from_u8(4), None);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        for version in [bytes[0], 1] {
            bytes[0] = version;
            let _ = Up::decode(&bytes);
            let _ = Down::decode(&bytes);
            let _ = Across::decode(&bytes);
        }
    }

    #[test]
    fn damaged_bodies_never_panic(at in 0usize..10_000, flip in 1u8..) {
        macro_rules! damage {
            ($body:ident, $samples:expr) => {
                for sample in $samples {
                    let mut bytes = sample.encode().unwrap().to_vec();
                    let at = at % bytes.len();
                    bytes[at] ^= flip;
                    let _ = $body::decode(&bytes);
                }
            };
        }
        damage!(Up, ups());
        damage!(Down, downs());
        damage!(Across, acrosses());
    }
}
