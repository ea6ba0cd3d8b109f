//! The owner's end of all links to one partition, for one reign.
//!
//! ```text
//!   Up, OutboxPropose ─► target ─► Propose (to the batcher), Publish, Ask, AttachUser, AttachRoom, AttachDone
//!   Effect::Answer ────►        ─► Down to nodes, Across to other owners
//! ```
//!
//! Invariants: proposals of an origin go on to the log in order and without holes, each once in a reign; nothing is
//! taken from a node that is not attached; an answer is told only after it was applied. What is lost on the way is
//! found by its number: nodes attach again, outboxes send again.

use std::collections::{BTreeMap, VecDeque};

use messaging::command::{Answer, Command, Proposal};
use messaging::link_record::{ANSWERS_MAX, LinkOrigin, LinkRecord};
use xmpp::stanza_error::StanzaError;

use super::protocol::{Across, Ask, AttachPart, AttachRoom, AttachUser, Down, Publish, Up};
use crate::node_id::{Epoch, NodeId, PartitionId};

/// The most parts of an attachment.
const PARTS_MAX: u32 = 4_096;

/// The most answers in one frame; older ones go before it, one by one.
const ANSWERS_BYTES_MAX: usize = 1024 * 1024;

/// What the owner's shell must do, in order.
#[derive(Debug, PartialEq)]
pub enum TargetAction {
    /// Send a frame to a node, with the reign's epoch.
    Down {
        /// To whom.
        to: NodeId,
        /// The body.
        down: Down,
    },
    /// Send a frame to another partition's owner.
    Across {
        /// The node that sent what this answers.
        to: NodeId,
        /// Its partition, for the header.
        partition: PartitionId,
        /// The body.
        across: Across,
    },
    /// Into the log, in this order.
    Propose(Proposal),
    /// A user with sessions on a node that attaches; what came after the cursor is to be replayed.
    AttachUser {
        /// The node.
        node: NodeId,
        /// The user.
        user: AttachUser,
    },
    /// A room with occupants on a node that attaches; what came after the cursor is to be replayed.
    AttachRoom {
        /// The node.
        node: NodeId,
        /// The room.
        room: AttachRoom,
    },
    /// All of a node's users and rooms were named: what is known of others on that node is no longer true.
    AttachDone {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Soft state; it counts as taken with this.
    Publish {
        /// The node.
        from: NodeId,
        /// What.
        publish: Publish,
    },
    /// A question, to be answered with [`Down::Reply`].
    Ask {
        /// The node.
        from: NodeId,
        /// Its number.
        request: u64,
        /// What.
        ask: Ask,
    },
}

/// How far a node has come in attaching.
#[derive(Debug, Default)]
enum Attachment {
    #[default]
    None,
    Gathering {
        attempt: u64,
        next: u32,
        users: Vec<AttachUser>,
        rooms: Vec<AttachRoom>,
    },
    Complete,
}

#[derive(Debug, Default)]
struct NodeLink {
    incarnation: u64,
    /// The newest proposal on its way to the log.
    received: u64,
    /// The newest proposal known to be applied.
    applied: u64,
    /// The newest publication taken.
    taken: u64,
    /// [`Down::Taken`] is owed.
    taken_due: bool,
    attachment: Attachment,
    /// The newest attempt heard of: what comes later of an older one took a longer way.
    attempt: u64,
    /// [`Down::Reattach`] was sent since the last attachment.
    reattach_told: bool,
}

#[derive(Debug, Default)]
struct OutboxLink {
    received: u64,
    applied: u64,
    /// Who sent last: answers go there.
    node: Option<NodeId>,
    hole_told: bool,
}

/// What the replicated state holds of an origin, as applied now.
type Record<'a> = &'a dyn Fn(LinkOrigin) -> Option<LinkRecord>;

/// The core of an owner's end of the links. See the module docs.
#[derive(Debug)]
pub struct LinkTarget {
    partition: PartitionId,
    epoch: Epoch,
    nodes: BTreeMap<NodeId, NodeLink>,
    outboxes: BTreeMap<PartitionId, OutboxLink>,
    actions: VecDeque<TargetAction>,
}

impl LinkTarget {
    /// A reign begins; `links`: what is applied of each origin.
    pub fn begin<'a>(
        partition: PartitionId,
        epoch: Epoch,
        links: impl Iterator<Item = (LinkOrigin, &'a LinkRecord)>,
    ) -> Self {
        let mut target = LinkTarget {
            partition,
            epoch,
            nodes: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            actions: VecDeque::new(),
        };
        for (origin, record) in links {
            let (received, applied) = (record.last, record.last);
            match origin {
                LinkOrigin::Node(node) => {
                    let incarnation = record.incarnation;
                    let link = NodeLink {
                        incarnation,
                        received,
                        applied,
                        ..NodeLink::default()
                    };
                    target.nodes.insert(NodeId(node), link);
                }
                LinkOrigin::Partition(from) => {
                    let link = OutboxLink {
                        received,
                        applied,
                        ..OutboxLink::default()
                    };
                    target.outboxes.insert(PartitionId(from), link);
                }
                LinkOrigin::Owner => {}
            }
        }
        target
    }

    /// The reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A frame from a node, sent in this reign's epoch.
    pub fn handle_up(&mut self, from: NodeId, up: Up, record: Record<'_>) {
        match up {
            Up::Attach(part) => self.attach(from, part, record),
            Up::Propose {
                incarnation,
                sequence,
                command,
            } => self.propose(from, incarnation, sequence, command),
            Up::Publish { number, publish } => self.publish(from, number, publish),
            Up::Ask { request, ask } => {
                if self.is_attached(from) {
                    self.actions
                        .push_back(TargetAction::Ask { from, request, ask });
                } else {
                    self.miss(from);
                }
            }
        }
    }

    fn attach(&mut self, from: NodeId, part: AttachPart, record: Record<'_>) {
        let link = self.nodes.entry(from).or_default();
        if part.incarnation < link.incarnation {
            return;
        }
        if part.incarnation > link.incarnation {
            *link = NodeLink {
                incarnation: part.incarnation,
                ..NodeLink::default()
            };
        }
        if part.attempt < link.attempt {
            return;
        }
        link.attempt = part.attempt;
        if part.index == 0 {
            let (users, rooms) = (Vec::new(), Vec::new());
            link.attachment = Attachment::Gathering {
                attempt: part.attempt,
                next: 0,
                users,
                rooms,
            };
        }
        let gathered = match &mut link.attachment {
            Attachment::Gathering {
                attempt,
                next,
                users,
                rooms,
            } if *attempt == part.attempt && *next == part.index && *next < PARTS_MAX => {
                *next += 1;
                users.extend(part.users);
                rooms.extend(part.rooms);
                part.last
            }
            // Parts of an older attempt, or behind a lost one: the node's own clock makes it try again.
            _ => false,
        };
        if gathered {
            let head = AttachHead {
                attempt: part.attempt,
                answered: part.answered,
                taken: part.taken,
            };
            self.attached(from, head, record);
        }
    }

    fn attached(&mut self, from: NodeId, head: AttachHead, record: Record<'_>) {
        let Some(link) = self.nodes.get_mut(&from) else {
            return;
        };
        let Attachment::Gathering { users, rooms, .. } =
            std::mem::replace(&mut link.attachment, Attachment::Complete)
        else {
            return;
        };
        let record = record(LinkOrigin::Node(from.0))
            .filter(|record| record.incarnation == link.incarnation);
        let record = record.unwrap_or_default();
        link.reattach_told = false;
        link.applied = record.last;
        link.received = link.received.max(record.last);
        link.taken_due = link.taken > head.taken;
        link.taken = link.taken.max(head.taken);
        let incarnation = link.incarnation;
        self.actions.extend(
            users
                .into_iter()
                .map(|user| TargetAction::AttachUser { node: from, user }),
        );
        self.actions.extend(
            rooms
                .into_iter()
                .map(|room| TargetAction::AttachRoom { node: from, room }),
        );
        self.answer_attachment(from, &head, &record);
        self.actions.push_back(TargetAction::AttachDone {
            node: from,
            incarnation,
        });
    }

    fn answer_attachment(&mut self, to: NodeId, head: &AttachHead, record: &LinkRecord) {
        let kept = record.last.saturating_sub(record.answers.len() as u64);
        let wanted = (head.answered.max(kept) + 1)..=record.last;
        let mut answers: VecDeque<(u64, Answer)> = wanted
            .filter_map(|sequence| Some((sequence, record.answer(sequence)?.clone())))
            .collect();
        let mut bytes: usize = answers.iter().map(|(_, answer)| answer_bytes(answer)).sum();
        while bytes > ANSWERS_BYTES_MAX
            && let Some((sequence, answer)) = answers.pop_front()
        {
            bytes -= answer_bytes(&answer);
            self.actions.push_back(TargetAction::Down {
                to,
                down: Down::Answer { sequence, answer },
            });
        }
        let attached = Down::Attached {
            attempt: head.attempt,
            last_applied: record.last,
            answers: answers.into_iter().collect(),
        };
        self.actions
            .push_back(TargetAction::Down { to, down: attached });
    }

    fn propose(&mut self, from: NodeId, incarnation: u64, sequence: u64, command: Command) {
        let Some(link) = self
            .attached_link(from)
            .filter(|link| link.incarnation == incarnation)
        else {
            return self.miss(from);
        };
        if sequence <= link.received {
            // Its answer comes, or has come with the attachment.
            return;
        }
        if sequence > link.received + 1 || sequence > link.applied + ANSWERS_MAX as u64 {
            return self.miss(from);
        }
        link.received = sequence;
        // `planted::Bug::AckBeforeCommit`
        #[cfg(feature = "bug-ack-before-commit")]
        if planted::acts(planted::Bug::AckBeforeCommit) {
            let answer = Answer::Done { seq: 0 };
            let down = Down::Answer { sequence, answer };
            self.actions
                .push_back(TargetAction::Down { to: from, down });
        }
        let origin = LinkOrigin::Node(from.0);
        self.actions.push_back(TargetAction::Propose(Proposal {
            origin,
            incarnation,
            sequence,
            command,
        }));
    }

    fn publish(&mut self, from: NodeId, number: u64, publish: Publish) {
        let Some(link) = self.attached_link(from) else {
            return self.miss(from);
        };
        if number > link.taken + 1 {
            return self.miss(from);
        }
        link.taken_due = true;
        if number == link.taken + 1 {
            link.taken = number;
            self.actions
                .push_back(TargetAction::Publish { from, publish });
        }
    }

    fn attached_link(&mut self, node: NodeId) -> Option<&mut NodeLink> {
        self.nodes
            .get_mut(&node)
            .filter(|link| matches!(link.attachment, Attachment::Complete))
    }

    /// Something is missing before a node's frame: it is told once to attach again.
    fn miss(&mut self, node: NodeId) {
        let link = self.nodes.entry(node).or_default();
        if !link.reattach_told && !matches!(link.attachment, Attachment::Gathering { .. }) {
            link.reattach_told = true;
            self.actions.push_back(TargetAction::Down {
                to: node,
                down: Down::Reattach,
            });
        }
    }

    /// An entry of another partition's outbox, sent by its owner `from_node`.
    pub fn handle_outbox(
        &mut self,
        from_node: NodeId,
        from: PartitionId,
        sequence: u64,
        command: Command,
        record: Record<'_>,
    ) {
        let link = self.outboxes.entry(from).or_default();
        link.node = Some(from_node);
        let origin = LinkOrigin::Partition(from.0);
        if sequence == link.received + 1 && sequence <= link.applied + ANSWERS_MAX as u64 {
            link.received = sequence;
            link.hole_told = false;
            return self.actions.push_back(TargetAction::Propose(Proposal {
                origin,
                incarnation: 0,
                sequence,
                command,
            }));
        }
        if sequence > link.received {
            let told = std::mem::replace(&mut link.hole_told, true);
            let across = Across::OutboxHole {
                by: self.partition,
                expected: link.received + 1,
            };
            if !told {
                self.actions.push_back(TargetAction::Across {
                    to: from_node,
                    partition: from,
                    across,
                });
            }
            return;
        }
        if let Some(record) = record(origin).filter(|record| sequence <= record.last) {
            // Without an answer it was answered long ago: it is done, and no refusal of it is known.
            let refused = record.answer(sequence).and_then(refusal);
            let across = Across::OutboxAnswer {
                by: self.partition,
                sequence,
                refused,
            };
            self.actions.push_back(TargetAction::Across {
                to: from_node,
                partition: from,
                across,
            });
        }
    }

    /// A proposal was applied, with this answer.
    pub fn answered(
        &mut self,
        origin: LinkOrigin,
        incarnation: u64,
        sequence: u64,
        answer: Answer,
    ) {
        match origin {
            LinkOrigin::Node(node) => {
                let node = NodeId(node);
                let Some(link) = self
                    .nodes
                    .get_mut(&node)
                    .filter(|link| link.incarnation == incarnation)
                else {
                    return;
                };
                link.applied = link.applied.max(sequence);
                if matches!(link.attachment, Attachment::Complete) {
                    let down = Down::Answer { sequence, answer };
                    self.actions
                        .push_back(TargetAction::Down { to: node, down });
                }
            }
            LinkOrigin::Partition(from) => {
                let from = PartitionId(from);
                let link = self.outboxes.entry(from).or_default();
                link.applied = link.applied.max(sequence);
                if let Some(to) = link.node {
                    let across = Across::OutboxAnswer {
                        by: self.partition,
                        sequence,
                        refused: refusal(&answer),
                    };
                    self.actions.push_back(TargetAction::Across {
                        to,
                        partition: from,
                        across,
                    });
                }
            }
            LinkOrigin::Owner => {}
        }
    }

    /// The newest entry of another partition's outbox whose effects were told, in the order of the effects.
    pub fn told_of_outbox(&self, from: PartitionId) -> u64 {
        self.outboxes.get(&from).map_or(0, |link| link.applied)
    }

    /// The connection to a node is gone: it is attached no longer.
    pub fn node_gone(&mut self, node: NodeId) {
        if let Some(link) = self.nodes.get_mut(&node) {
            link.attachment = Attachment::None;
            link.reattach_told = false;
            link.taken_due = false;
        }
    }

    /// Whether frames flow to a node.
    pub fn is_attached(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|link| matches!(link.attachment, Attachment::Complete))
    }

    /// The life that a node was last seen in.
    pub fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.nodes.get(&node).map(|link| link.incarnation)
    }

    /// The nodes to which frames flow.
    pub fn attached_nodes(&self) -> impl Iterator<Item = NodeId> {
        let attached = self
            .nodes
            .iter()
            .filter(|(_, link)| matches!(link.attachment, Attachment::Complete));
        attached.map(|(node, _)| *node)
    }

    /// The next action. Publications are confirmed when nothing else is left, so that one frame confirms many.
    pub fn poll_action(&mut self) -> Option<TargetAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let (node, link) = self.nodes.iter_mut().find(|(_, link)| link.taken_due)?;
        link.taken_due = false;
        Some(TargetAction::Down {
            to: *node,
            down: Down::Taken { number: link.taken },
        })
    }
}

/// What the last part of an attachment says besides users and rooms.
struct AttachHead {
    attempt: u64,
    answered: u64,
    taken: u64,
}

fn refusal(answer: &Answer) -> Option<Box<StanzaError>> {
    match answer {
        Answer::Refused(error) => Some(error.clone()),
        Answer::Done { .. } | Answer::Reply(_) => None,
    }
}

fn answer_bytes(answer: &Answer) -> usize {
    match answer {
        Answer::Done { .. } => 16,
        Answer::Reply(payload) => 32 + payload.len(),
        // The text is the only part that a rule could make long.
        Answer::Refused(_) => 1024,
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
