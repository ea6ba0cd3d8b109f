use super::*;
use xmpp::stanza_error::Condition;

const HERE: PartitionId = PartitionId(0);
const THERE: PartitionId = PartitionId(1);

fn sender(sequences: impl Iterator<Item = u64>, now: Instant) -> OutboxSender {
    OutboxSender::begin(
        HERE,
        sequences.map(|sequence| ((THERE.0, sequence), Command::Nothing)),
        now,
    )
}

/// What was sent since the last call: (node, epoch, sequence); proposals are given as (0, 0, sequence).
fn sent(sender: &mut OutboxSender) -> Vec<(u64, u64, u64)> {
    let actions = std::iter::from_fn(|| sender.poll_action());
    let row = |action| match action {
        OutboxAction::Send {
            to,
            epoch,
            target,
            across: Across::OutboxPropose { from, sequence, .. },
        } => {
            assert_eq!((target, from), (THERE, HERE));
            (to.0, epoch.0, sequence)
        }
        OutboxAction::Propose(Command::OutboxAnswered {
            partition,
            sequence,
            ..
        }) => {
            assert_eq!(partition, THERE.0);
            (0, 0, sequence)
        }
        other => panic!("{other:?}"),
    };
    actions.map(row).collect()
}

#[test]
fn entries_wait_for_an_owner_and_go_in_order() {
    let now = Instant::now();
    let mut outbox = sender([3, 4].into_iter(), now);
    assert_eq!(sent(&mut outbox), []);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox), [(2, 5, 3), (2, 5, 4)]);
    outbox.push((THERE.0, 5), Command::Nothing, now);
    outbox.push((THERE.0, 4), Command::Nothing, now);
    assert_eq!(sent(&mut outbox), [(2, 5, 5)]);
    outbox.answered(THERE, 3, None, now);
    outbox.answered(THERE, 3, None, now);
    outbox.settle();
    assert_eq!(sent(&mut outbox), [(0, 0, 3)]);
    outbox.owner_is(THERE, NodeId(3), Epoch(4), now);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox), [], "nothing is news");
    outbox.owner_is(THERE, NodeId(3), Epoch(6), now);
    assert_eq!(sent(&mut outbox), [(3, 6, 4), (3, 6, 5)]);
}

#[test]
fn a_lost_owner_gets_everything_again_when_it_is_back() {
    let now = Instant::now();
    let mut outbox = sender([1].into_iter(), now);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox), [(2, 5, 1)]);
    outbox.node_lost(NodeId(3));
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox), [], "another node's loss is none of its");
    outbox.node_lost(NodeId(2));
    outbox.push((THERE.0, 2), Command::Nothing, now);
    assert_eq!((sent(&mut outbox), outbox.poll_timeout()), (vec![], None));
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox), [(2, 5, 1), (2, 5, 2)]);
}

#[test]
fn holes_and_silence_are_answered_by_sending_again() {
    let start = Instant::now();
    let mut outbox = sender(1..=3, start);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), start);
    assert_eq!(sent(&mut outbox).len(), 3);
    outbox.hole(THERE, 2, start);
    assert_eq!(sent(&mut outbox), [(2, 5, 2), (2, 5, 3)]);
    outbox.hole(THERE, 9, start);
    assert_eq!(sent(&mut outbox), []);
    let later = start + Duration::from_secs(1);
    outbox.answered(THERE, 1, None, later);
    outbox.settle();
    assert_eq!(sent(&mut outbox), [(0, 0, 1)]);
    let due = later + RESEND_AFTER;
    assert_eq!(outbox.poll_timeout(), Some(due));
    outbox.handle_timeout(start + RESEND_AFTER);
    assert_eq!(sent(&mut outbox), []);
    outbox.handle_timeout(due);
    assert_eq!(sent(&mut outbox), [(2, 5, 2), (2, 5, 3)]);
    outbox.removed((THERE.0, 2));
    outbox.answered(THERE, 3, None, due);
    outbox.settle();
    assert_eq!(
        (sent(&mut outbox), outbox.poll_timeout(), outbox.open()),
        (vec![(0, 0, 3)], None, 0)
    );
}

#[test]
fn the_window_moves_with_the_lowest_answer() {
    let now = Instant::now();
    let mut outbox = sender(1..=600, now);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), now);
    assert_eq!(sent(&mut outbox).last(), Some(&(2, 5, WINDOW)));
    outbox.answered(THERE, 2, None, now);
    assert_eq!(
        sent(&mut outbox),
        [],
        "its end waits for a batch to ride on"
    );
    outbox.answered(THERE, 1, None, now);
    assert_eq!(sent(&mut outbox), [(2, 5, WINDOW + 1), (2, 5, WINDOW + 2)]);
}

#[test]
fn ends_are_gathered_until_a_batch_is_written_time_is_up_or_they_are_many() {
    let start = Instant::now();
    let mut outbox = sender(1..=300, start);
    outbox.owner_is(THERE, NodeId(2), Epoch(5), start);
    sent(&mut outbox);
    outbox.answered(THERE, 1, None, start);
    outbox.answered(THERE, 2, None, start + SETTLE_AFTER / 2);
    outbox.settle();
    let ends = |outbox: &mut OutboxSender| {
        let all = sent(outbox).into_iter();
        all.filter(|(node, ..)| *node == 0)
            .map(|(.., sequence)| sequence)
            .collect::<Vec<_>>()
    };
    assert_eq!(ends(&mut outbox), [1, 2], "a batch is written anyway");
    outbox.answered(THERE, 3, None, start);
    assert_eq!(outbox.poll_timeout(), Some(start + SETTLE_AFTER));
    outbox.handle_timeout(start + SETTLE_AFTER - Duration::from_millis(1));
    assert_eq!(ends(&mut outbox), []);
    outbox.handle_timeout(start + SETTLE_AFTER);
    assert_eq!(ends(&mut outbox), [3]);
    let many = 4..4 + SETTLED_MAX as u64;
    many.clone()
        .for_each(|sequence| outbox.answered(THERE, sequence, None, start));
    assert_eq!(ends(&mut outbox), many.collect::<Vec<_>>());
    assert_eq!(outbox.settled(), 0);
}

#[test]
fn a_refusal_is_proposed_as_it_came() {
    let now = Instant::now();
    let mut outbox = sender(1..=1, now);
    let error = Box::new(StanzaError::new(Condition::ServiceUnavailable));
    outbox.answered(THERE, 1, Some(error.clone()), now);
    let expect = Command::OutboxAnswered {
        partition: THERE.0,
        sequence: 1,
        refused: Some(error),
    };
    assert_eq!(outbox.poll_action(), Some(OutboxAction::Propose(expect)));
}
