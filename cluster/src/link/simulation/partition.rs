//! A partition: one perfectly replicated state, and at most one reign over it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use messaging::apply::{PoolConstants, Surroundings, apply};
use messaging::archive::{ArchiveRecord, ArchiveRow};
use messaging::command::{Batch, Command, Entry, Proposal};
use messaging::effect::{Effect, UserEffect};
use messaging::link_record::LinkOrigin;
use messaging::query::Reply;
use messaging::slot::PartitionTable;
use messaging::state::State;
use xmpp::jid::BareJid;
use xmpp::sasl::StoredCredentials;
use xmpp::stanza::Stanza;

use super::network::{Body, Frame};
use super::{PARTITIONS, Random, Token, USERS, partition_of, user};
use crate::link::batcher::{BatchSettings, Batcher};
use crate::link::outbox::{OutboxAction, OutboxSender};
use crate::link::protocol::{Across, AskReply, AttachUser, Delivery, Down, Place, Publish, Up};
use crate::link::target::{LinkTarget, TargetAction};
use crate::node_id::{Epoch, NodeId, PartitionId};

/// The soft state of an owner.
pub(super) struct Reign {
    pub(super) node: NodeId,
    epoch: Epoch,
    pub(super) target: LinkTarget,
    batcher: Batcher,
    pub(super) outbox: OutboxSender,
    in_flight: VecDeque<Batch>,
    own_sequence: u64,
    published: BTreeSet<Token>,
}

pub(super) struct Partition {
    id: PartitionId,
    surroundings: Surroundings,
    pub(super) state: State,
    index: u64,
    pub(super) archive: BTreeMap<BareJid, Vec<Arc<ArchiveRow>>>,
    /// Messages whose refusal came back to their sender.
    pub(super) bounced: Vec<Token>,
    /// Publications in the order in which owners took them.
    pub(super) published: Vec<(Epoch, NodeId, Token)>,
    pub(super) reign: Option<Reign>,
    /// Batches of an ended reign that reach the log after the next one has begun.
    late: Vec<Batch>,
}

pub(super) fn token_of(stanza: &Stanza) -> Token {
    stanza
        .id
        .as_deref()
        .and_then(|id| id.parse().ok())
        .expect("every stanza carries its token")
}

impl Partition {
    pub(super) fn new(id: PartitionId, table: &PartitionTable) -> Partition {
        let pool = PoolConstants {
            id_key: [7; 16],
            domain: "localhost".into(),
            rooms_domain: "conference.localhost".into(),
            contacts_max: 100,
            occupants_max: 100,
            rooms_owned_max: 100,
        };
        let partition = messaging::slot::PartitionId(id.0);
        Partition {
            id,
            surroundings: Surroundings {
                partition,
                table: table.clone(),
                pool,
            },
            state: State::default(),
            index: 0,
            archive: BTreeMap::new(),
            bounced: Vec::new(),
            published: Vec::new(),
            reign: None,
            late: Vec::new(),
        }
    }

    pub(super) fn create_accounts(&mut self) {
        let here = (0..USERS)
            .map(user)
            .filter(|user| partition_of(&self.surroundings.table, user) == self.id);
        let create = |(sequence, user)| Proposal {
            origin: LinkOrigin::Node(99),
            incarnation: 1,
            sequence: sequence as u64 + 1,
            command: Command::CreateAccount {
                user,
                credentials: StoredCredentials::default(),
            },
        };
        let proposals = here.enumerate().map(create).collect();
        self.append(Entry::OwnerBegin {
            node: 99,
            incarnation: 1,
            time_ms: 1,
        });
        self.append(Entry::Batch(Batch {
            epoch: self.index,
            time_ms: 1,
            proposals,
        }));
    }

    pub(super) fn owner(&self) -> Option<(PartitionId, NodeId, Epoch)> {
        self.reign
            .as_ref()
            .map(|reign| (self.id, reign.node, reign.epoch))
    }

    /// Appends to the log and applies; what every replica does is done here, the rest is given back.
    fn append(&mut self, entry: Entry) -> Vec<Effect> {
        self.index += 1;
        let effects = apply(&mut self.state, &self.surroundings, self.index, entry);
        for effect in &effects {
            match effect {
                Effect::Archive(row) => self
                    .archive
                    .entry(row.key.clone())
                    .or_default()
                    .push(row.clone()),
                Effect::User(_, UserEffect::Bounce { stanza, .. }) => {
                    self.bounced.push(token_of(stanza))
                }
                _ => {}
            }
        }
        effects
    }

    /// The owner dies. Some of what was on its way to the log is committed all the same, some even later, some never.
    pub(super) fn depose(&mut self, random: &mut Random) {
        let Some(mut reign) = self.reign.take() else {
            return;
        };
        let count = random.below(reign.in_flight.len() as u64 + 1);
        for _ in 0..count {
            if let Some(batch) = reign.in_flight.pop_front() {
                self.append(Entry::Batch(batch));
            }
        }
        if random.chance(50) {
            self.late.extend(reign.in_flight);
        }
    }

    pub(super) fn begin(&mut self, node: NodeId, now: Instant) {
        self.append(Entry::OwnerBegin {
            node: node.0,
            incarnation: 1,
            time_ms: self.index,
        });
        let epoch = Epoch(self.index);
        let links = self
            .state
            .links
            .iter()
            .map(|(origin, record)| (*origin, record));
        let entries = self
            .state
            .outbox
            .iter()
            .map(|(key, entry)| (*key, entry.command.clone()));
        self.reign = Some(Reign {
            node,
            epoch,
            target: LinkTarget::begin(self.id, epoch, links),
            batcher: Batcher::new(BatchSettings::default()),
            outbox: OutboxSender::begin(self.id, entries, now),
            in_flight: VecDeque::new(),
            own_sequence: 0,
            published: BTreeSet::new(),
        });
        for batch in std::mem::take(&mut self.late) {
            let effects = self.append(Entry::Batch(batch));
            assert!(
                effects.is_empty(),
                "a batch of an ended epoch has no effect"
            );
        }
    }

    /// One batch reaches the log.
    pub(super) fn commit(&mut self, now: Instant) -> Vec<(NodeId, Frame)> {
        let Some(batch) = self
            .reign
            .as_mut()
            .and_then(|reign| reign.in_flight.pop_front())
        else {
            return Vec::new();
        };
        let effects = self.append(Entry::Batch(batch));
        let Some(reign) = self.reign.as_mut() else {
            return Vec::new();
        };
        reign.batcher.done();
        let mut frames = Vec::new();
        for effect in effects {
            match effect {
                Effect::Answer {
                    origin,
                    incarnation,
                    sequence,
                    answer,
                } => {
                    reign.target.answered(origin, incarnation, sequence, answer);
                }
                Effect::Outbox { key, entry } => reign.outbox.push(key, entry.command.clone(), now),
                Effect::User(key, UserEffect::Logged { previous, row, .. }) => {
                    let deliver = deliver(&key, previous, row.seq);
                    let nodes = reign.target.attached_nodes();
                    frames.extend(nodes.map(|node| (node, frame(self.id, reign.epoch, &deliver))));
                }
                _ => {}
            }
        }
        frames
    }

    /// A node's frame; `false`: this node doesn't own the partition in that epoch.
    pub(super) fn up(&mut self, from: NodeId, to: NodeId, epoch: Epoch, up: &[u8]) -> bool {
        let Some(reign) = self
            .reign
            .as_mut()
            .filter(|reign| reign.node == to && reign.epoch == epoch)
        else {
            return false;
        };
        let up = Up::decode(up).expect("frames arrive as they were sent");
        let links = &self.state.links;
        reign
            .target
            .handle_up(from, up, &|origin| links.get(&origin).cloned());
        true
    }

    pub(super) fn across(&mut self, from: NodeId, to: NodeId, across: Across, now: Instant) {
        let Some(reign) = self.reign.as_mut().filter(|reign| reign.node == to) else {
            return;
        };
        let links = &self.state.links;
        match across {
            Across::OutboxPropose {
                from: sender,
                sequence,
                command,
            } => {
                let record = |origin: LinkOrigin| links.get(&origin).cloned();
                reign
                    .target
                    .handle_outbox(from, sender, sequence, command, &record);
            }
            Across::OutboxAnswer {
                by,
                sequence,
                refused,
            } => reign.outbox.answered(by, sequence, refused, now),
            Across::OutboxHole { by, expected } => reign.outbox.hole(by, expected, now),
            other => panic!("nobody sends {other:?}"),
        }
    }

    /// Does what the reign's cores want; gives what is to be sent.
    pub(super) fn run(&mut self, now: Instant) -> Vec<(NodeId, Frame)> {
        let mut frames = Vec::new();
        let Some(reign) = self.reign.as_mut() else {
            return frames;
        };
        loop {
            if let Some(action) = reign.target.poll_action() {
                match action {
                    TargetAction::Down { to, down } => {
                        frames.push((to, frame(self.id, reign.epoch, &down)))
                    }
                    TargetAction::Across {
                        to,
                        partition,
                        across,
                    } => {
                        frames.push((to, across_frame(partition, Epoch(0), &across)));
                    }
                    TargetAction::Propose(proposal) => reign.batcher.push(proposal, now),
                    TargetAction::AttachUser { node, user } => {
                        let replay = replay(&user, self.archive.get(&user.user), &self.state);
                        frames.extend(
                            replay
                                .iter()
                                .map(|down| (node, frame(self.id, reign.epoch, down))),
                        );
                    }
                    TargetAction::Publish {
                        from,
                        publish: Publish::Stanza(stanza),
                    } => {
                        let token = token_of(&stanza);
                        assert!(
                            reign.published.insert(token),
                            "{token} was taken twice in one reign"
                        );
                        self.published.push((reign.epoch, from, token));
                    }
                    TargetAction::Ask { from, request, .. } => {
                        let reply = Down::Reply {
                            request,
                            reply: AskReply::Reply(Reply::Jids(Vec::new())),
                        };
                        frames.push((from, frame(self.id, reign.epoch, &reply)));
                    }
                    TargetAction::AttachDone { .. } => {}
                    other => panic!("nobody asks for {other:?}"),
                }
            } else if let Some(action) = reign.outbox.poll_action() {
                frames.extend(run_outbox(reign, action, now));
            } else if reign.batcher.waiting() > 0 && reign.outbox.settled() > 0 {
                reign.outbox.settle();
            } else if let Some(proposals) = reign.batcher.poll_batch(now) {
                reign.in_flight.push_back(Batch {
                    epoch: reign.epoch.0,
                    time_ms: self.index,
                    proposals,
                });
            } else {
                return frames;
            }
        }
    }
}

fn run_outbox(reign: &mut Reign, action: OutboxAction, now: Instant) -> Option<(NodeId, Frame)> {
    match action {
        OutboxAction::Send {
            to,
            epoch,
            target,
            across,
        } => {
            assert!(target.0 < PARTITIONS);
            return Some((to, across_frame(target, epoch, &across)));
        }
        OutboxAction::Propose(command) => {
            reign.own_sequence += 1;
            let (origin, incarnation, sequence) =
                (LinkOrigin::Owner, reign.epoch.0, reign.own_sequence);
            reign.batcher.push(
                Proposal {
                    origin,
                    incarnation,
                    sequence,
                    command,
                },
                now,
            );
        }
    }
    None
}

fn deliver(key: &BareJid, previous: u64, seq: u64) -> Down {
    let place = Some(Place {
        previous: Some(previous),
        seq,
    });
    Down::Deliver(Delivery {
        key: key.clone(),
        place,
        items: Vec::new(),
        notes: Vec::new(),
    })
}

/// What came after the node's cursor; where it has none, the position.
fn replay(user: &AttachUser, rows: Option<&Vec<Arc<ArchiveRow>>>, state: &State) -> Vec<Down> {
    let key = &user.user;
    if user.cursor == 0 {
        let seq = state.logs.get(key).map_or(0, |log| log.head);
        return vec![Down::Position {
            key: key.clone(),
            previous: seq,
            seq,
        }];
    }
    let newer = rows
        .into_iter()
        .flatten()
        .filter(|row| row.seq > user.cursor);
    newer
        .map(|row| deliver(key, row.seq - 1, row.seq))
        .collect()
}

fn frame(partition: PartitionId, epoch: Epoch, down: &Down) -> Frame {
    Frame {
        partition,
        epoch,
        body: Body::Down(down.encode().expect("it fits a frame")),
    }
}

fn across_frame(partition: PartitionId, epoch: Epoch, across: &Across) -> Frame {
    Frame {
        partition,
        epoch,
        body: Body::Across(across.encode().expect("it fits a frame")),
    }
}

/// The token of a message row, and whether its user sent it.
pub(super) fn message_of(row: &ArchiveRow) -> (Token, bool) {
    match &row.record {
        ArchiveRecord::Message(message) => (token_of(&message.stanza), message.sent),
        ArchiveRecord::Room(_) => panic!("there are no rooms"),
    }
}
