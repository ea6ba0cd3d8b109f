//! What must be true after healing, whatever went wrong before.

use std::collections::{BTreeMap, BTreeSet};

use messaging::command::Answer;
use xmpp::jid::BareJid;

use super::node::Outcome;
use super::partition::message_of;
use super::{NODES, PARTITIONS, Sent, Token, USERS, What, World, partition_of, user};
use crate::link::origin::LinkFailure;
use crate::node_id::{NodeId, PartitionId};

pub(super) fn check(world: &World) {
    every_request_has_its_true_outcome(world);
    proposals_are_first_in_first_out(world);
    messages_arrive_once_and_in_order(world);
    publications_are_taken_in_order(world);
    nodes_have_read_the_logs(world);
}

/// The rows of sent messages: token → (key, sequence).
fn sent_rows(world: &World) -> BTreeMap<Token, (BareJid, u64)> {
    let mut rows = BTreeMap::new();
    for row in world
        .partitions
        .values()
        .flat_map(|partition| partition.archive.values().flatten())
    {
        let (token, sent) = message_of(row);
        if sent {
            let before = rows.insert(token, (row.key.clone(), row.seq));
            assert_eq!(before, None, "message {token} was committed twice");
        }
    }
    rows
}

fn every_request_has_its_true_outcome(world: &World) {
    let rows = sent_rows(world);
    for Sent { token, what, .. } in &world.sent {
        let outcome = world
            .outcomes
            .get(token)
            .unwrap_or_else(|| panic!("{token} ({what:?}) has no outcome"));
        match (what, outcome) {
            (What::Message(_), Outcome::Answered(Answer::Done { seq })) => {
                assert_eq!(
                    rows.get(token).map(|(_, seq)| *seq),
                    Some(*seq),
                    "the answer to {token}"
                );
            }
            // It may be there or not, now or later, but after healing everything numbered is there.
            (What::Message(_), Outcome::Failed(LinkFailure::Unknown)) => {
                assert!(rows.contains_key(token), "{token}")
            }
            (What::Message(_), Outcome::Failed(LinkFailure::Timeout)) => {
                assert!(!rows.contains_key(token), "{token}")
            }
            (
                What::Publish,
                Outcome::Taken | Outcome::Failed(LinkFailure::NotTaken | LinkFailure::Unknown),
            )
            | (What::Ask, Outcome::Replied | Outcome::Failed(LinkFailure::Timeout)) => {}
            other => panic!("{token}: {other:?}"),
        }
    }
    let known: BTreeSet<Token> = world.sent.iter().map(|sent| sent.token).collect();
    assert!(
        rows.keys()
            .chain(world.outcomes.keys())
            .all(|token| known.contains(token))
    );
}

/// Tokens of one node rise, so each log holds each node's in rising order.
fn proposals_are_first_in_first_out(world: &World) {
    let by: BTreeMap<Token, NodeId> = world
        .sent
        .iter()
        .map(|sent| (sent.token, sent.node))
        .collect();
    for (key, rows) in world
        .partitions
        .values()
        .flat_map(|partition| &partition.archive)
    {
        let sent = rows
            .iter()
            .map(|row| message_of(row))
            .filter(|(_, sent)| *sent)
            .map(|(token, _)| token);
        let mut last: BTreeMap<NodeId, Token> = BTreeMap::new();
        for token in sent {
            let before = last.insert(by[&token], token);
            assert!(before < Some(token), "{key}: {before:?} before {token}");
        }
    }
}

fn messages_arrive_once_and_in_order(world: &World) {
    let rows = sent_rows(world);
    let expected = |to: Option<u64>| {
        let sent = world
            .sent
            .iter()
            .filter(move |sent| sent.what == What::Message(to));
        sent.map(|sent| sent.token)
            .filter(|token| rows.contains_key(token))
            .collect::<BTreeSet<_>>()
    };
    for number in 0..USERS {
        let key = user(number);
        let partition = &world.partitions[&partition_of(&world.table, &key)];
        let received = partition
            .archive
            .get(&key)
            .into_iter()
            .flatten()
            .map(|row| message_of(row));
        let received: Vec<Token> = received
            .filter(|(_, sent)| !sent)
            .map(|(token, _)| token)
            .collect();
        let once: BTreeSet<Token> = received.iter().copied().collect();
        assert_eq!(once.len(), received.len(), "{key} got a message twice");
        assert_eq!(
            once,
            expected(Some(number)),
            "{key} got other messages than were sent"
        );
        // The order between two users is that of the sender's log.
        let mut last: BTreeMap<&BareJid, u64> = BTreeMap::new();
        for token in received {
            let (sender, seq) = &rows[&token];
            let before = last.insert(sender, *seq);
            assert!(
                before < Some(*seq),
                "{key}: messages of {sender} changed places"
            );
        }
    }
    let mut bounced: Vec<Token> = world
        .partitions
        .values()
        .flat_map(|partition| partition.bounced.clone())
        .collect();
    bounced.sort_unstable();
    assert_eq!(
        bounced,
        expected(None).into_iter().collect::<Vec<_>>(),
        "refusals come back once"
    );
    for partition in world.partitions.values() {
        assert_eq!(
            partition.state.outbox.iter().count(),
            0,
            "the outbox is empty"
        );
        assert_eq!(
            partition.reign.as_ref().map(|reign| reign.outbox.open()),
            Some(0)
        );
    }
}

fn publications_are_taken_in_order(world: &World) {
    for id in (0..PARTITIONS).map(PartitionId) {
        let published = &world.partitions[&id].published;
        let here = world
            .sent
            .iter()
            .filter(|sent| sent.partition == id && sent.what == What::Publish);
        let taken = here.filter(|sent| world.outcomes.get(&sent.token) == Some(&Outcome::Taken));
        for Sent { token, .. } in taken {
            assert!(
                published.iter().any(|(_, _, published)| published == token),
                "{token} was lost"
            );
        }
        for node in (1..=NODES).map(NodeId) {
            let mut last = None;
            for (epoch, from, token) in published.iter().filter(|(_, from, _)| *from == node) {
                if let Some((before_epoch, before)) = last.replace((*epoch, *token)) {
                    assert!(
                        before_epoch != *epoch || before < *token,
                        "{before} before {token} of {from}"
                    );
                }
            }
        }
    }
}

/// From where it began each node has read each log to its end, and so most of all there is.
fn nodes_have_read_the_logs(world: &World) {
    let (mut rows, mut rows_read) = (0, 0);
    for (id, node) in &world.nodes {
        for number in 0..USERS {
            let key = user(number);
            let partition = partition_of(&world.table, &key);
            let log: Vec<u64> = world.partitions[&partition]
                .archive
                .get(&key)
                .into_iter()
                .flatten()
                .map(|row| row.seq)
                .collect();
            let read = node.read.get(&key).cloned().unwrap_or_default();
            assert!(
                log.ends_with(&read),
                "{id} has read {read:?} of {key}'s {log:?}"
            );
            rows += log.len();
            rows_read += read.len();
        }
    }
    assert!(
        rows_read * 2 >= rows,
        "only {rows_read} of {rows} rows were read"
    );
}
