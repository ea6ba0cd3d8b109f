use super::*;
use xmpp::jid::BareJid;
use xmpp::stanza::{Stanza, StanzaKind};

const NODE: NodeId = NodeId(4);
const HERE: PartitionId = PartitionId(0);
const THERE: PartitionId = PartitionId(1);

struct Owner {
    target: LinkTarget,
    records: BTreeMap<LinkOrigin, LinkRecord>,
}

impl Owner {
    fn new() -> Owner {
        Owner {
            target: LinkTarget::begin(HERE, Epoch(9), std::iter::empty()),
            records: BTreeMap::new(),
        }
    }

    /// With so many proposals of the node's incarnation 1 applied.
    fn with_applied(origin: LinkOrigin, incarnation: u64, count: u64) -> Owner {
        let mut record = LinkRecord {
            incarnation,
            ..LinkRecord::default()
        };
        (1..=count).for_each(|seq| record.record(Answer::Done { seq }));
        let records = BTreeMap::from([(origin, record)]);
        let target = LinkTarget::begin(
            HERE,
            Epoch(9),
            records.iter().map(|(origin, record)| (*origin, record)),
        );
        Owner { target, records }
    }

    fn up(&mut self, up: Up) -> Vec<TargetAction> {
        self.target
            .handle_up(NODE, up, &|origin| self.records.get(&origin).cloned());
        self.actions()
    }

    fn outbox(&mut self, sequence: u64) -> Vec<TargetAction> {
        let record = |origin: LinkOrigin| self.records.get(&origin).cloned();
        self.target
            .handle_outbox(NODE, THERE, sequence, Command::Nothing, &record);
        self.actions()
    }

    fn actions(&mut self) -> Vec<TargetAction> {
        std::iter::from_fn(|| self.target.poll_action()).collect()
    }
}

fn attach(attempt: u64, index: u32, last: bool) -> Up {
    Up::Attach(AttachPart {
        incarnation: 1,
        attempt,
        index,
        last,
        ..AttachPart::default()
    })
}

fn propose(sequence: u64) -> Up {
    Up::Propose {
        incarnation: 1,
        sequence,
        command: Command::Nothing,
    }
}

fn publish(number: u64) -> Up {
    Up::Publish {
        number,
        publish: Publish::Stanza(Stanza::new(StanzaKind::Message)),
    }
}

fn down(down: Down) -> TargetAction {
    TargetAction::Down { to: NODE, down }
}

fn across(across: Across) -> TargetAction {
    TargetAction::Across {
        to: NODE,
        partition: THERE,
        across,
    }
}

fn attached(attempt: u64, last_applied: u64) -> [TargetAction; 2] {
    let attached = Down::Attached {
        attempt,
        last_applied,
        answers: Vec::new(),
    };
    [
        down(attached),
        TargetAction::AttachDone {
            node: NODE,
            incarnation: 1,
        },
    ]
}

fn proposed(origin: LinkOrigin, incarnation: u64, sequence: u64) -> TargetAction {
    TargetAction::Propose(Proposal {
        origin,
        incarnation,
        sequence,
        command: Command::Nothing,
    })
}

#[test]
fn nothing_is_taken_before_the_attachment_is_whole() {
    let mut owner = Owner::new();
    assert_eq!(owner.up(propose(1)), [down(Down::Reattach)]);
    assert_eq!(owner.up(publish(1)), [], "told once");
    assert_eq!(owner.up(attach(1, 0, false)), []);
    assert_eq!(owner.up(propose(1)), []);
    assert!(!owner.target.is_attached(NODE));
    assert_eq!(owner.up(attach(1, 2, true)), [], "a part is missing");
    assert_eq!(owner.up(attach(2, 0, false)), []);
    assert_eq!(owner.up(attach(1, 1, true)), [], "of an older attempt");
    assert_eq!(owner.up(attach(2, 1, true)), attached(2, 0));
    assert_eq!(owner.target.attached_nodes().collect::<Vec<_>>(), [NODE]);
    assert_eq!(owner.up(propose(1)), [proposed(LinkOrigin::Node(4), 1, 1)]);
    owner.target.node_gone(NODE);
    assert!(!owner.target.is_attached(NODE));
    assert_eq!(owner.up(propose(2)), [down(Down::Reattach)]);
}

#[test]
fn users_and_rooms_come_whole_and_before_the_end() {
    let mut owner = Owner::new();
    let user = AttachUser {
        user: BareJid::parse("juliet@localhost").unwrap(),
        cursor: 3,
        sessions: Vec::new(),
    };
    let room = AttachRoom {
        room: BareJid::parse("den@localhost").unwrap(),
        cursor: 4,
        occupants: Vec::new(),
    };
    let first = AttachPart {
        incarnation: 1,
        attempt: 1,
        users: vec![user.clone()],
        ..AttachPart::default()
    };
    assert_eq!(owner.up(Up::Attach(first.clone())), []);
    let last = AttachPart {
        index: 1,
        last: true,
        users: Vec::new(),
        rooms: vec![room.clone()],
        ..first
    };
    let [told, done] = attached(1, 0);
    let user = TargetAction::AttachUser { node: NODE, user };
    let room = TargetAction::AttachRoom { node: NODE, room };
    assert_eq!(owner.up(Up::Attach(last)), [user, room, told, done]);
}

#[test]
fn an_attachment_brings_the_answers_that_are_missing() {
    let mut owner = Owner::with_applied(LinkOrigin::Node(4), 1, 5);
    let part = AttachPart {
        incarnation: 1,
        attempt: 1,
        answered: 3,
        last: true,
        ..AttachPart::default()
    };
    let answers = vec![(4, Answer::Done { seq: 4 }), (5, Answer::Done { seq: 5 })];
    let told = down(Down::Attached {
        attempt: 1,
        last_applied: 5,
        answers,
    });
    assert_eq!(
        owner.up(Up::Attach(part.clone())),
        [
            told,
            TargetAction::AttachDone {
                node: NODE,
                incarnation: 1
            }
        ]
    );
    assert_eq!(owner.up(propose(5)), []);
    assert_eq!(owner.up(propose(6)), [proposed(LinkOrigin::Node(4), 1, 6)]);
    // A new life of the node begins at 1; the old one is listened to no more.
    let anew = AttachPart {
        incarnation: 2,
        answered: 0,
        ..part.clone()
    };
    let done = TargetAction::AttachDone {
        node: NODE,
        incarnation: 2,
    };
    assert_eq!(
        owner.up(Up::Attach(anew)),
        [attached(1, 0)[0].clone_down(), done]
    );
    assert_eq!(owner.up(Up::Attach(part)), []);
    let up = Up::Propose {
        incarnation: 2,
        sequence: 1,
        command: Command::Nothing,
    };
    assert_eq!(owner.up(up), [proposed(LinkOrigin::Node(4), 2, 1)]);
}

impl TargetAction {
    fn clone_down(&self) -> TargetAction {
        match self {
            TargetAction::Down { to, down } => TargetAction::Down {
                to: *to,
                down: down.clone(),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn large_answers_come_before_the_attachment_one_by_one() {
    let mut owner = Owner::with_applied(LinkOrigin::Node(4), 1, 0);
    let large = Answer::Reply(vec![b' '; ANSWERS_BYTES_MAX / 2].into());
    if let Some(record) = owner.records.get_mut(&LinkOrigin::Node(4)) {
        (0..3).for_each(|_| record.record(large.clone()));
    }
    let actions = owner.up(attach(1, 0, true));
    let answer = |sequence| {
        down(Down::Answer {
            sequence,
            answer: large.clone(),
        })
    };
    let told = down(Down::Attached {
        attempt: 1,
        last_applied: 3,
        answers: vec![(3, large.clone())],
    });
    assert_eq!(
        actions,
        [
            answer(1),
            answer(2),
            told,
            TargetAction::AttachDone {
                node: NODE,
                incarnation: 1
            }
        ]
    );
}

#[test]
fn proposals_go_on_once_and_without_holes() {
    let mut owner = Owner::new();
    owner.up(attach(1, 0, true));
    assert_eq!(owner.up(propose(1)).len(), 1);
    assert_eq!(owner.up(propose(1)), []);
    assert_eq!(owner.up(propose(3)), [down(Down::Reattach)]);
    assert_eq!(owner.up(propose(4)), []);
    assert_eq!(owner.up(attach(2, 0, true)), attached(2, 0));
    assert_eq!(owner.up(propose(1)), [], "still on its way to the log");
    assert_eq!(owner.up(propose(2)).len(), 1);
    let node = LinkOrigin::Node(4);
    owner.target.answered(node, 1, 1, Answer::Done { seq: 7 });
    owner.target.answered(node, 0, 2, Answer::Done { seq: 8 });
    assert_eq!(
        owner.actions(),
        [down(Down::Answer {
            sequence: 1,
            answer: Answer::Done { seq: 7 }
        })]
    );
    owner.target.node_gone(NODE);
    owner.target.answered(node, 1, 2, Answer::Done { seq: 8 });
    assert_eq!(owner.actions(), []);
    let other = Up::Propose {
        incarnation: 7,
        sequence: 3,
        command: Command::Nothing,
    };
    assert_eq!(owner.up(other), [down(Down::Reattach)]);
}

#[test]
fn a_node_that_leaves_its_window_is_stopped() {
    let mut owner = Owner::new();
    owner.up(attach(1, 0, true));
    for sequence in 1..=ANSWERS_MAX as u64 {
        assert_eq!(owner.up(propose(sequence)).len(), 1);
    }
    assert_eq!(
        owner.up(propose(ANSWERS_MAX as u64 + 1)),
        [down(Down::Reattach)]
    );
}

#[test]
fn publications_are_confirmed_together() {
    let mut owner = Owner::new();
    owner.up(attach(1, 0, true));
    let record = |_| None;
    for number in [1, 2, 2, 3] {
        owner.target.handle_up(NODE, publish(number), &record);
    }
    let actions = owner.actions();
    assert_eq!(actions.len(), 4);
    assert_eq!(actions.last(), Some(&down(Down::Taken { number: 3 })));
    assert_eq!(owner.up(publish(5)), [down(Down::Reattach)]);
    let part = AttachPart {
        incarnation: 1,
        attempt: 2,
        taken: 1,
        last: true,
        ..AttachPart::default()
    };
    let [told, done] = attached(2, 0);
    assert_eq!(
        owner.up(Up::Attach(part)),
        [told, done, down(Down::Taken { number: 3 })]
    );
    assert_eq!(
        owner.up(publish(3)),
        [down(Down::Taken { number: 3 })],
        "taken once"
    );
}

#[test]
fn questions_of_attached_nodes_are_asked() {
    let ask = Ask::Query(messaging::query::Query::Blocklist {
        user: BareJid::parse("juliet@localhost").unwrap(),
    });
    let up = Up::Ask {
        request: 3,
        ask: ask.clone(),
    };
    let mut owner = Owner::new();
    assert_eq!(owner.up(up.clone()), [down(Down::Reattach)]);
    owner.up(attach(1, 0, true));
    assert_eq!(
        owner.up(up),
        [TargetAction::Ask {
            from: NODE,
            request: 3,
            ask
        }]
    );
}

#[test]
fn outbox_entries_go_on_once_and_are_answered_again() {
    let origin = LinkOrigin::Partition(THERE.0);
    let mut owner = Owner::with_applied(origin, 0, 2);
    let answer = |sequence| {
        across(Across::OutboxAnswer {
            by: HERE,
            sequence,
            refused: None,
        })
    };
    assert_eq!(owner.outbox(2), [answer(2)]);
    assert_eq!(
        owner.outbox(4),
        [across(Across::OutboxHole {
            by: HERE,
            expected: 3
        })]
    );
    assert_eq!(owner.outbox(5), [], "told once");
    assert_eq!(owner.outbox(3), [proposed(origin, 0, 3)]);
    assert_eq!(owner.outbox(3), [], "on its way to the log");
    assert_eq!(
        owner.outbox(5),
        [across(Across::OutboxHole {
            by: HERE,
            expected: 4
        })]
    );
    owner.target.answered(origin, 0, 3, Answer::Done { seq: 1 });
    assert_eq!(owner.actions(), [answer(3)]);
    owner
        .target
        .answered(LinkOrigin::Owner, 9, 1, Answer::Done { seq: 1 });
    assert_eq!(owner.actions(), []);
}

#[test]
fn a_refusal_goes_back_with_its_error() {
    let origin = LinkOrigin::Partition(THERE.0);
    let mut owner = Owner::new();
    owner.outbox(1);
    let error = Box::new(StanzaError::new(
        xmpp::stanza_error::Condition::ServiceUnavailable,
    ));
    owner
        .target
        .answered(origin, 0, 1, Answer::Refused(error.clone()));
    assert_eq!(
        owner.actions(),
        [across(Across::OutboxAnswer {
            by: HERE,
            sequence: 1,
            refused: Some(error)
        })]
    );
}

/// Frames may take a longer way than those that were sent after them.
#[test]
fn an_older_attempt_that_comes_late_changes_nothing() {
    let mut owner = Owner::new();
    assert_eq!(owner.up(attach(2, 0, true)), attached(2, 0));
    assert_eq!(owner.up(attach(1, 0, true)), []);
    assert_eq!(owner.up(attach(1, 0, false)), []);
    let proposal = proposed(LinkOrigin::Node(NODE.0), 1, 1);
    assert_eq!(owner.up(propose(1)), [proposal]);
    assert_eq!(owner.up(attach(3, 0, true)), attached(3, 0));
}
