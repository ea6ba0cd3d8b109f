//! A node with a session of every user, which sends messages and reads what is delivered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use messaging::command::{Answer, Command, SendMessage};
use messaging::query::Query;
use messaging::slot::PartitionTable;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};

use super::network::{Body, Frame};
use super::{PARTITIONS, Token, USERS, What, partition_of, user};
use crate::link::origin::{LinkAction, LinkFailure, LinkOrigin, LinkSettings};
use crate::link::protocol::{Ask, AttachUser, Down, Publish};
use crate::node_id::{Epoch, Incarnation, NodeId, PartitionId};

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered(Answer),
    Taken,
    Replied,
    Failed(LinkFailure),
}

pub(super) struct Node {
    id: NodeId,
    table: PartitionTable,
    pub(super) links: BTreeMap<PartitionId, LinkOrigin<Token>>,
    /// The rows that were delivered, by key.
    pub(super) read: BTreeMap<BareJid, Vec<u64>>,
}

impl Node {
    pub(super) fn new(id: NodeId, table: &PartitionTable) -> Node {
        let link = |partition| {
            LinkOrigin::new(
                partition,
                id,
                Incarnation(id.0 * 10),
                LinkSettings::default(),
            )
        };
        let links = (0..PARTITIONS)
            .map(PartitionId)
            .map(|partition| (partition, link(partition)));
        Node {
            id,
            table: table.clone(),
            links: links.collect(),
            read: BTreeMap::new(),
        }
    }

    /// Asks for something; `false`: the link was full.
    pub(super) fn request(
        &mut self,
        partition: PartitionId,
        token: Token,
        from: &BareJid,
        what: What,
        now: Instant,
    ) -> bool {
        let sender = from
            .with_resource(&format!("n{}", self.id.0))
            .expect("a JID");
        let Some(link) = self.links.get_mut(&partition) else {
            return false;
        };
        let mut stanza = Stanza {
            id: Some(Arc::from(token.to_string())),
            payload: Bytes::from_static(b"<body>hark</body>"),
            ..Stanza::new(StanzaKind::Message)
        };
        match what {
            What::Ask => link
                .ask(
                    token,
                    Ask::Query(Query::Blocklist { user: from.clone() }),
                    now,
                )
                .is_ok(),
            What::Publish => {
                stanza.to = Some(from.clone().into());
                link.publish(Some(token), Publish::Stanza(stanza), now)
                    .is_ok()
            }
            What::Message(to) => {
                let nobody = || BareJid::parse("nobody@localhost").expect("a JID");
                let to = Jid::from(to.map_or_else(nobody, user));
                let message = SendMessage {
                    sender,
                    to,
                    origin_id: None,
                    stanza,
                    local: true,
                    counted: None,
                };
                link.propose(token, Command::SendMessage(message), now)
                    .is_ok()
            }
        }
    }

    pub(super) fn handle(
        &mut self,
        partition: PartitionId,
        from: NodeId,
        epoch: Epoch,
        down: Down,
        now: Instant,
    ) {
        if let Some(link) = self.links.get_mut(&partition) {
            link.handle(from, epoch, down, now);
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            if link.poll_timeout().is_some_and(|due| due <= now) {
                link.handle_timeout(now);
            }
        }
    }

    /// Does what the links want. `send` gives `false` when there is no connection.
    pub(super) fn run(
        &mut self,
        now: Instant,
        outcomes: &mut BTreeMap<Token, Outcome>,
        send: &mut dyn FnMut(NodeId, Frame) -> bool,
    ) {
        let mut told = |token: Token, outcome: Outcome| {
            let before = outcomes.insert(token, outcome);
            assert_eq!(before, None, "{token} was told twice");
        };
        for (partition, link) in &mut self.links {
            while let Some(action) = link.poll_action() {
                match action {
                    LinkAction::Send { to, epoch, up } => {
                        let body = Body::Up(up.encode().expect("it fits a frame"));
                        if !send(
                            to,
                            Frame {
                                partition: *partition,
                                epoch,
                                body,
                            },
                        ) {
                            link.peer_down(to);
                        }
                    }
                    LinkAction::NeedSnapshot => {
                        let here = (0..USERS)
                            .map(user)
                            .filter(|user| partition_of(&self.table, user) == *partition);
                        let users = here.map(|user| AttachUser {
                            user,
                            cursor: 0,
                            sessions: Vec::new(),
                        });
                        link.snapshot(users.collect(), Vec::new(), now);
                    }
                    LinkAction::Answered { token, answer } => {
                        told(token, Outcome::Answered(answer))
                    }
                    LinkAction::Taken { token } => told(token, Outcome::Taken),
                    LinkAction::Replied { token, .. } => told(token, Outcome::Replied),
                    LinkAction::Failed { token, failure } => told(token, Outcome::Failed(failure)),
                    LinkAction::Deliver(delivery) => {
                        let seq = delivery.place.map_or(0, |place| place.seq);
                        self.read.entry(delivery.key).or_default().push(seq);
                    }
                    LinkAction::Kick { session, .. } => panic!("nobody ends {session:?}"),
                    LinkAction::Moving(moving) => panic!("no session moves: {moving:?}"),
                }
            }
        }
    }
}
