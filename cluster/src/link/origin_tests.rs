use std::time::Duration;

use super::*;
use crate::link::protocol::{DeliveryItem, OccupantNote};
use messaging::effect::EffectMark;
use xmpp::jid::FullJid;
use xmpp::stanza::{Stanza, StanzaKind};

const OWNER: NodeId = NodeId(2);
const EPOCH: Epoch = Epoch(5);

/// A link with a clock; callers' tokens are numbers.
struct Node {
    link: LinkOrigin<u32>,
    now: Instant,
}

impl Node {
    fn new() -> Node {
        Node::with(LinkSettings::default())
    }

    fn with(settings: LinkSettings) -> Node {
        let link = LinkOrigin::new(PartitionId(0), NodeId(1), Incarnation(7), settings);
        Node {
            link,
            now: Instant::now(),
        }
    }

    fn attached() -> Node {
        let mut node = Node::new();
        node.link.owner_is(OWNER, EPOCH, node.now);
        node.attach(0);
        node
    }

    fn wait(&mut self, milliseconds: u64) -> Vec<LinkAction<u32>> {
        self.now += Duration::from_millis(milliseconds);
        self.link.handle_timeout(self.now);
        self.actions()
    }

    fn actions(&mut self) -> Vec<LinkAction<u32>> {
        std::iter::from_fn(|| self.link.poll_action()).collect()
    }

    fn down(&mut self, down: Down) -> Vec<LinkAction<u32>> {
        self.link.handle(OWNER, EPOCH, down, self.now);
        self.actions()
    }

    /// Answers [`LinkAction::NeedSnapshot`] and the attachment; gives what is sent then.
    fn attach(&mut self, last_applied: u64) -> Vec<LinkAction<u32>> {
        assert_eq!(self.actions(), [LinkAction::NeedSnapshot]);
        self.link.snapshot(Vec::new(), Vec::new(), self.now);
        let attempt = self.attempt();
        self.down(Down::Attached {
            attempt,
            last_applied,
            answers: Vec::new(),
        })
    }

    /// The attempt whose only part was just sent.
    fn attempt(&mut self) -> u64 {
        match self.actions().as_slice() {
            [LinkAction::Send { up, .. }] => match &**up {
                Up::Attach(part) if part.last => part.attempt,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn propose(&mut self, token: u32) -> Vec<LinkAction<u32>> {
        self.link
            .propose(token, Command::Nothing, self.now)
            .unwrap();
        self.actions()
    }

    fn publish(&mut self, token: u32) -> Vec<LinkAction<u32>> {
        let publish = Publish::Stanza(Stanza::new(StanzaKind::Message));
        self.link.publish(Some(token), publish, self.now).unwrap();
        self.actions()
    }

    fn ask(&mut self, token: u32) -> Vec<LinkAction<u32>> {
        self.link.ask(token, ask(), self.now).unwrap();
        self.actions()
    }
}

fn key() -> BareJid {
    BareJid::parse("juliet@localhost").unwrap()
}

fn ask() -> Ask {
    Ask::Query(messaging::query::Query::Blocklist { user: key() })
}

fn send(up: Up) -> LinkAction<u32> {
    LinkAction::Send {
        to: OWNER,
        epoch: EPOCH,
        up: Box::new(up),
    }
}

fn proposed(sequence: u64) -> LinkAction<u32> {
    send(Up::Propose {
        incarnation: 7,
        sequence,
        command: Command::Nothing,
    })
}

fn published(number: u64) -> LinkAction<u32> {
    send(Up::Publish {
        number,
        publish: Publish::Stanza(Stanza::new(StanzaKind::Message)),
    })
}

fn answer(sequence: u64) -> Down {
    Down::Answer {
        sequence,
        answer: Answer::Done { seq: sequence },
    }
}

fn answered(token: u32, seq: u64) -> LinkAction<u32> {
    LinkAction::Answered {
        token,
        answer: Answer::Done { seq },
    }
}

fn failed(token: u32, failure: LinkFailure) -> LinkAction<u32> {
    LinkAction::Failed { token, failure }
}

fn delivery(previous: Option<u64>, seq: u64) -> Delivery {
    Delivery {
        key: key(),
        place: Some(Place { previous, seq }),
        items: Vec::<DeliveryItem>::new(),
        notes: Vec::new(),
    }
}

#[test]
fn what_waits_for_an_owner_is_sent_once_attached() {
    let mut node = Node::new();
    assert_eq!(node.propose(1), []);
    assert_eq!(node.publish(2), []);
    assert_eq!(node.ask(3), []);
    node.link.owner_is(OWNER, EPOCH, node.now);
    let asked = send(Up::Ask {
        request: 1,
        ask: ask(),
    });
    assert_eq!(node.attach(0), [asked, proposed(1), published(1)]);
    assert_eq!(node.link.attached(), Some((OWNER, EPOCH)));
    assert_eq!(node.propose(4), [proposed(2)]);
    assert_eq!(node.down(answer(1)), [answered(1, 1)]);
    assert_eq!(node.down(answer(1)), [], "once");
    assert_eq!(
        node.down(Down::Taken { number: 1 }),
        [LinkAction::Taken { token: 2 }]
    );
    let reply = Down::Reply {
        request: 1,
        reply: AskReply::Bound,
    };
    assert_eq!(
        node.down(reply.clone()),
        [LinkAction::Replied {
            token: 3,
            reply: AskReply::Bound
        }]
    );
    assert_eq!(node.down(reply), []);
    assert_eq!(node.down(answer(2)), [answered(4, 2)]);
    assert_eq!(node.link.poll_timeout(), None);
}

#[test]
fn a_new_owner_gets_what_has_no_answer_and_gives_the_answers_that_were_lost() {
    let mut node = Node::attached();
    for token in 1..=4 {
        node.propose(token);
    }
    node.publish(9);
    node.down(answer(1));
    node.link.owner_is(NodeId(3), Epoch(4), node.now);
    assert_eq!(node.actions(), [], "a lower epoch");
    node.link.handle(NodeId(3), Epoch(6), answer(2), node.now);
    assert_eq!(
        node.actions(),
        [LinkAction::NeedSnapshot],
        "its frame is a hint, no answer"
    );
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let attempt = node.attempt();
    let answers = vec![(2, Answer::Done { seq: 22 }), (3, Answer::Done { seq: 33 })];
    let attached = |attempt| Down::Attached {
        attempt,
        last_applied: 3,
        answers: answers.clone(),
    };
    node.link
        .handle(NodeId(3), Epoch(6), attached(attempt - 1), node.now);
    assert_eq!(node.actions(), [], "of an older attempt");
    node.link.handle(OWNER, EPOCH, attached(attempt), node.now);
    assert_eq!(node.actions(), [], "of the old owner");
    node.link
        .handle(NodeId(3), Epoch(6), attached(attempt), node.now);
    let send = |up| LinkAction::Send {
        to: NodeId(3),
        epoch: Epoch(6),
        up: Box::new(up),
    };
    let proposed = send(Up::Propose {
        incarnation: 7,
        sequence: 4,
        command: Command::Nothing,
    });
    let published = send(Up::Publish {
        number: 1,
        publish: Publish::Stanza(Stanza::new(StanzaKind::Message)),
    });
    assert_eq!(
        node.actions(),
        [answered(2, 22), answered(3, 33), proposed, published]
    );
}

#[test]
fn an_attachment_says_what_has_come() {
    let mut node = Node::attached();
    node.propose(1);
    node.propose(2);
    node.publish(3);
    node.down(answer(1));
    node.down(Down::Taken { number: 1 });
    node.down(Down::Deliver(delivery(None, 40)));
    node.link.peer_up(OWNER, node.now);
    assert_eq!(node.actions(), [LinkAction::NeedSnapshot]);
    let user = |name: &str| AttachUser {
        user: BareJid::parse(name).unwrap(),
        cursor: 0,
        sessions: Vec::new(),
    };
    node.link.snapshot(
        vec![user("juliet@localhost"), user("nurse@localhost")],
        Vec::new(),
        node.now,
    );
    let part = AttachPart {
        incarnation: 7,
        attempt: 2,
        answered: 1,
        taken: 1,
        users: vec![
            AttachUser {
                cursor: 40,
                ..user("juliet@localhost")
            },
            user("nurse@localhost"),
        ],
        last: true,
        ..AttachPart::default()
    };
    assert_eq!(node.actions(), [send(Up::Attach(part))]);
}

#[test]
fn the_window_is_full_until_the_oldest_is_answered() {
    let mut node = Node::with(LinkSettings {
        proposals_max: 2,
        publishes_max: 1,
        asks_max: 1,
        ..LinkSettings::default()
    });
    node.propose(1);
    node.propose(2);
    let now = node.now;
    assert_eq!(
        node.link.propose(3, Command::Nothing, now),
        Err((3, LinkFull))
    );
    node.publish(4);
    let publish = Publish::Stanza(Stanza::new(StanzaKind::Message));
    assert_eq!(node.link.publish(None, publish, now), Err((None, LinkFull)));
    node.ask(5);
    assert_eq!(node.link.ask(6, ask(), now), Err((6, LinkFull)));
    node.link.owner_is(OWNER, EPOCH, now);
    node.attach(0);
    node.down(answer(1));
    assert_eq!(node.propose(3), [proposed(3)]);
}

#[test]
fn bytes_that_wait_are_bounded() {
    let mut node = Node::with(LinkSettings {
        bytes_max: 5_000,
        ..LinkSettings::default()
    });
    let command = |bytes: usize| Command::SetVcard {
        user: key(),
        element: vec![b' '; bytes].into(),
    };
    let now = node.now;
    assert_eq!(node.link.propose(1, command(4_000), now), Ok(()));
    assert_eq!(
        node.link.propose(2, command(4_000), now),
        Err((2, LinkFull))
    );
    assert_eq!(node.link.propose(2, command(400), now), Ok(()));
    let mut node = Node::attached();
    let too_large = command(COMMAND_BYTES_MAX as usize);
    assert_eq!(node.link.propose(1, too_large, now), Err((1, LinkFull)));
}

#[test]
fn time_ends_what_was_never_sent_and_leaves_open_what_was() {
    let mut node = Node::attached();
    node.propose(1);
    node.publish(2);
    node.ask(3);
    node.link.peer_down(OWNER);
    node.propose(4);
    node.publish(5);
    let over: Vec<_> = node
        .wait(10_000)
        .into_iter()
        .filter(|action| *action != LinkAction::NeedSnapshot)
        .collect();
    let expect = [
        failed(1, LinkFailure::Unknown),
        failed(4, LinkFailure::Timeout),
        failed(2, LinkFailure::Unknown),
        failed(5, LinkFailure::NotTaken),
        failed(3, LinkFailure::Timeout),
    ];
    assert_eq!(over, expect);
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let attempt = node.attempt();
    let sent = node.down(Down::Attached {
        attempt,
        last_applied: 0,
        answers: Vec::new(),
    });
    assert_eq!(sent, [proposed(1), published(1)]);
    assert_eq!(node.propose(6), [proposed(2)]);
    assert_eq!(node.down(answer(1)), [], "nobody waits for it");
    assert_eq!(node.down(answer(2)), [answered(6, 2)]);
}

#[test]
fn a_lost_answer_is_fetched_by_attaching() {
    let mut node = Node::attached();
    node.propose(1);
    node.propose(2);
    node.wait(200);
    assert_eq!(node.down(answer(2)), [LinkAction::NeedSnapshot]);
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let attempt = node.attempt();
    let answers = vec![(1, Answer::Done { seq: 1 }), (2, Answer::Done { seq: 2 })];
    let attached = Down::Attached {
        attempt,
        last_applied: 2,
        answers,
    };
    assert_eq!(node.down(attached), [answered(1, 1), answered(2, 2)]);
}

#[test]
fn answers_that_are_no_longer_kept_leave_the_outcome_unknown() {
    let mut node = Node::attached();
    (1..=3).for_each(|token| drop(node.propose(token)));
    node.link.peer_up(OWNER, node.now);
    node.actions();
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let attempt = node.attempt();
    let attached = Down::Attached {
        attempt,
        last_applied: 2,
        answers: vec![(2, Answer::Done { seq: 2 })],
    };
    assert_eq!(
        node.down(attached),
        [failed(1, LinkFailure::Unknown), answered(2, 2), proposed(3)]
    );
}

#[test]
fn silence_and_lost_connections_lead_to_a_new_attempt() {
    let mut node = Node::attached();
    assert_eq!(node.wait(60_000), [], "nothing is open");
    node.propose(1);
    assert_eq!(node.wait(3_999), []);
    assert_eq!(node.wait(1), [LinkAction::NeedSnapshot], "no answer came");
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    node.attempt();
    assert_eq!(
        node.wait(3_000),
        [LinkAction::NeedSnapshot],
        "the attachment is not answered"
    );
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    node.link.peer_down(OWNER);
    assert_eq!(node.actions(), [], "nothing goes to an owner that is away");
    assert_eq!(node.link.attached(), None);
    node.link.peer_up(NodeId(9), node.now);
    assert_eq!(node.actions(), []);
    assert_eq!(node.wait(250), [LinkAction::NeedSnapshot]);
}

#[test]
fn who_is_no_owner_points_to_another_or_is_tried_again() {
    let mut node = Node::attached();
    assert_eq!(node.down(Down::NotOwner { hint: None }), []);
    assert_eq!(node.link.attached(), None);
    assert_eq!(node.wait(250), [LinkAction::NeedSnapshot]);
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    node.attempt();
    assert_eq!(
        node.down(Down::NotOwner {
            hint: Some((NodeId(3), Epoch(8)))
        }),
        [LinkAction::NeedSnapshot]
    );
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let sent = node.actions();
    assert!(
        matches!(
            sent.as_slice(),
            [LinkAction::Send {
                to: NodeId(3),
                epoch: Epoch(8),
                ..
            }]
        ),
        "{sent:?}"
    );
    assert_eq!(
        node.down(Down::NotOwner {
            hint: Some((OWNER, EPOCH))
        }),
        [],
        "of the past"
    );
    let former = Down::NotOwner { hint: None };
    node.link.handle(NodeId(3), Epoch(7), former, node.now);
    assert_eq!(node.wait(250), [], "its former reign is over, not this one");
}

#[test]
fn attempts_on_request_keep_a_pause() {
    let mut node = Node::attached();
    assert_eq!(node.down(Down::Reattach), []);
    assert_eq!(node.wait(100), [LinkAction::NeedSnapshot]);
    node.link.snapshot(Vec::new(), Vec::new(), node.now);
    let attempt = node.attempt();
    assert_eq!(node.down(Down::Reattach), [], "under way");
    node.down(Down::Attached {
        attempt,
        last_applied: 0,
        answers: Vec::new(),
    });
    node.wait(200);
    assert_eq!(node.down(Down::Reattach), [LinkAction::NeedSnapshot]);
}

#[test]
fn rows_are_delivered_once_and_a_hole_is_closed_by_attaching() {
    let mut node = Node::attached();
    let row = |previous, seq| Down::Deliver(delivery(previous, seq));
    let passed = |previous, seq| vec![LinkAction::Deliver(delivery(previous, seq))];
    assert_eq!(node.down(row(Some(3), 4)), passed(Some(3), 4));
    assert_eq!(node.down(row(Some(3), 4)), []);
    assert_eq!(
        node.down(Down::Position {
            key: key(),
            previous: 4,
            seq: 5
        }),
        []
    );
    assert_eq!(
        node.down(row(Some(6), 7)),
        [],
        "just attached: the rows may be on their way"
    );
    assert_eq!(node.wait(999), []);
    assert_eq!(node.wait(1), [LinkAction::NeedSnapshot]);
    node.link.snapshot(
        vec![AttachUser {
            user: key(),
            cursor: 0,
            sessions: Vec::new(),
        }],
        Vec::new(),
        node.now,
    );
    let attempt = node.attempt();
    assert_eq!(node.down(row(Some(5), 6)), passed(Some(5), 6));
    node.down(Down::Attached {
        attempt,
        last_applied: 0,
        answers: Vec::new(),
    });
    assert_eq!(node.down(row(Some(6), 7)), passed(Some(6), 7));
    assert_eq!(node.wait(1_000), [], "the hole is closed");
    assert_eq!(
        node.down(row(Some(8), 9)),
        [LinkAction::NeedSnapshot],
        "later a hole is acted on at once"
    );
}

/// Rows that pass for sessions that are gone start a cursor. It is not where a new session's reading begins, or what is
/// between the two would be given to it as missed.
#[test]
fn a_session_begins_where_it_was_bound_whatever_passed_before() {
    let mut node = Node::attached();
    let row = |previous, seq| Down::Deliver(delivery(previous, seq));
    node.wait(1_000);
    node.down(row(Some(3), 4));
    let jid = FullJid::parse("juliet@localhost/balcony").unwrap();
    let session = SessionKey {
        node: 1,
        number: 1,
        jid,
    };
    node.link.ask(1, Ask::Bind(session), node.now).unwrap();
    node.actions();
    node.down(Down::Position {
        key: key(),
        previous: 0,
        seq: 9,
    });
    node.down(Down::Reply {
        request: 1,
        reply: AskReply::Bound,
    });
    assert_eq!(
        node.down(row(Some(9), 10)),
        [LinkAction::Deliver(delivery(Some(9), 10))],
        "nothing is missing"
    );
}

#[test]
fn what_one_owner_has_told_the_next_one_tells_in_vain() {
    let mut node = Node::attached();
    let told = |place| Down::Told {
        mark: EffectMark::of(9, place),
        delivery: Delivery {
            place: None,
            ..delivery(None, 0)
        },
    };
    assert_eq!(node.down(told(0)).len(), 1);
    // What came between was lost with the owner.
    assert_eq!(node.down(told(2)).len(), 1);
    let next = Epoch(EPOCH.0 + 1);
    node.link.owner_is(OWNER, next, node.now);
    assert_eq!(
        node.down(told(1)),
        [LinkAction::NeedSnapshot],
        "an old epoch"
    );
    let mut heard = |place| {
        node.link.handle(OWNER, next, told(place), node.now);
        node.actions().len()
    };
    assert_eq!([0, 1, 2, 1].map(&mut heard), [0, 1, 0, 0]);
}

#[test]
fn what_is_in_no_log_passes_and_a_joiner_begins_where_told() {
    let mut node = Node::attached();
    let soft = Delivery {
        place: None,
        ..delivery(None, 0)
    };
    assert_eq!(
        node.down(Down::Deliver(soft.clone())),
        [LinkAction::Deliver(soft)]
    );
    node.link.forget(&key());
    let session = FullJid::parse("romeo@localhost/orchard").unwrap();
    let note = OccupantNote {
        session,
        inside: true,
        nick: "romeo".into(),
    };
    let joined = Delivery {
        notes: vec![note],
        ..delivery(Some(5), 6)
    };
    assert_eq!(
        node.down(Down::Deliver(joined.clone())),
        [LinkAction::Deliver(joined)]
    );
    assert_eq!(node.down(Down::Deliver(delivery(Some(5), 6))), []);
}

#[test]
fn news_of_a_session_that_found_no_room_comes_with_an_attachment() {
    let mut node = Node::with(LinkSettings {
        publishes_max: 1,
        ..LinkSettings::default()
    });
    node.link.owner_is(OWNER, EPOCH, node.now);
    node.attach(0);
    node.publish(1);
    let session = SessionKey {
        node: 1,
        number: 3,
        jid: FullJid::parse("juliet@localhost/balcony").unwrap(),
    };
    let event = messaging::user::publication::SessionEvent::Acknowledged {
        key: session,
        seq: 9,
    };
    // Its client is told that it was refused: then it must not come later all the same.
    let refused = node
        .link
        .publish(Some(7), Publish::Session(event.clone()), node.now);
    assert_eq!(refused, Err((Some(7), LinkFull)));
    assert_eq!(
        node.down(Down::Taken { number: 1 }),
        [LinkAction::Taken { token: 1 }]
    );
    node.publish(2);
    assert!(
        node.link
            .publish(None, Publish::Session(event), node.now)
            .is_err()
    );
    node.wait(200);
    assert_eq!(
        node.down(Down::Taken { number: 2 }),
        [LinkAction::Taken { token: 2 }, LinkAction::NeedSnapshot]
    );
}

#[test]
fn a_session_is_ended_at_the_owners_word() {
    let session = SessionKey {
        node: 1,
        number: 3,
        jid: FullJid::parse("juliet@localhost/balcony").unwrap(),
    };
    let condition = StreamErrorCondition::Conflict;
    let kick = Down::Kick {
        session: session.clone(),
        condition,
    };
    assert_eq!(
        Node::attached().down(kick),
        [LinkAction::Kick { session, condition }]
    );
}
