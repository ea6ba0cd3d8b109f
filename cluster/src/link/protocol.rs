//! What travels on the ROUTE lane: between a node and a partition's owner, and between owners.
//!
//! ```text
//!   session's node ── Up: Attach, Propose, Publish, Ask ─────────────► owner of the key's partition
//!                  ◄─ Down: Attached, Answer, Taken, Deliver, Reply ──
//!   owner of p     ── Across: OutboxPropose, Presence, Probe, … ─────► owner of q
//! ```
//!
//! The frame's header carries partition and epoch; the body is one of these, encoded by `storage::codec`.

use bytes::Bytes;
use messaging::command::{Answer, Command};
use messaging::effect::EffectMark;
use messaging::query::{Query, Reply};
use messaging::user::publication::{
    MoveRequest, ResumptionToken, SessionEvent, SessionKey, SessionState,
};
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::StanzaError;
use xmpp::stream_error::StreamErrorCondition;

#[cfg(any(test, feature = "next-version"))]
mod dated;

use super::parked::ParkedPart;
use crate::node_id::{Epoch, NodeId, PartitionId};

/// The most bytes of a body: what the transport lets through on the ROUTE lane, less the version byte.
pub const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024 - 1;

/// Kinds of frames on the ROUTE lane, as the header carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RouteKind {
    /// The body is an [`Up`].
    Up = 1,
    /// The body is a [`Down`].
    Down = 2,
    /// The body is an [`Across`].
    Across = 3,
}

impl RouteKind {
    /// The kind with this number.
    pub fn from_u8(kind: u8) -> Option<RouteKind> {
        match kind {
            1 => Some(RouteKind::Up),
            2 => Some(RouteKind::Down),
            3 => Some(RouteKind::Across),
            _ => None,
        }
    }
}

/// From a node to the owner of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    /// Here is a node with all its sessions and occupants of the partition; in parts, the last one marked.
    Attach(AttachPart),
    /// A durable command, numbered without holes.
    Propose {
        /// The node's incarnation.
        incarnation: u64,
        /// Its number, from 1.
        sequence: u64,
        /// What is asked.
        command: Command,
    },
    /// Soft state, numbered without holes within an attachment.
    Publish {
        /// Its number, from 1 in each incarnation.
        number: u64,
        /// What is said.
        publish: Publish,
    },
    /// A question.
    Ask {
        /// Its number, echoed in the answer.
        request: u64,
        /// The question.
        ask: Ask,
    },
}

/// A part of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachPart {
    /// The node's incarnation.
    pub incarnation: u64,
    /// Which attempt of the node to attach: echoed, so that no answer to an older one is mistaken for this one's.
    pub attempt: u64,
    /// Which part of the attempt, from 0.
    pub index: u32,
    /// The newest proposal whose answer the node has, all older ones included.
    pub answered: u64,
    /// The newest soft publication known to be taken.
    pub taken: u64,
    /// Users with sessions on the node.
    pub users: Vec<AttachUser>,
    /// Rooms with occupants on the node.
    pub rooms: Vec<AttachRoom>,
    /// Whether this was the last part.
    pub last: bool,
}

/// A user with sessions on the attaching node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachUser {
    /// The user.
    pub user: BareJid,
    /// The newest row of the user's log that the node has seen pass; 0: none yet.
    pub cursor: u64,
    /// The sessions.
    pub sessions: Vec<SessionState>,
}

/// A room with occupants on the attaching node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRoom {
    /// The room.
    pub room: BareJid,
    /// The newest row of the room's log that the node has seen; 0: none yet.
    pub cursor: u64,
    /// The occupants' sessions on the node.
    pub occupants: Vec<FullJid>,
}

/// Soft state from a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Publish {
    /// What happened to a session of the key's user.
    Session(SessionEvent),
    /// A stanza without durability for the user in its `to`.
    Stanza(Stanza),
    /// A groupchat stanza without durability (chat states) from an occupant.
    RoomStanza {
        /// The room.
        room: BareJid,
        /// The occupant's session.
        by: FullJid,
        /// The stanza.
        stanza: Stanza,
    },
    /// A session on its way to the node of its key.
    Parked(ParkedPart),
}

impl Publish {
    /// The key whose partition this is for; `None` when a stanza has no `to`.
    pub fn key(&self) -> Option<BareJid> {
        match self {
            Publish::Session(event) => Some(event.key().jid.bare()),
            Publish::Stanza(stanza) => stanza.to.as_ref().map(|to| to.bare()),
            Publish::RoomStanza { room, .. } => Some(room.clone()),
            Publish::Parked(part) => Some(part.to.jid.bare()),
        }
    }
}

/// A question from a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A read of replicated state, after a ReadIndex.
    Query(Query),
    /// RFC 6120 §7: a session wants its resource.
    Bind(SessionKey),
    /// XEP-0198 §5: a session that another node has is to go on here.
    Resume(MoveRequest),
}

/// From the owner to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    /// The attachment is complete.
    Attached {
        /// Which attempt was heard.
        attempt: u64,
        /// The newest of the node's proposals that is applied.
        last_applied: u64,
        /// Answers to those that the node said it lacks, in order.
        answers: Vec<(u64, Answer)>,
    },
    /// A proposal's outcome, after it was committed.
    Answer {
        /// Its number.
        sequence: u64,
        /// The outcome.
        answer: Answer,
    },
    /// Soft publications up to this number are taken.
    Taken {
        /// The number.
        number: u64,
    },
    /// Stanzas for sessions of the node.
    Deliver(Delivery),
    /// The log of a key has moved on, without anything for this node's sessions.
    Position {
        /// The key.
        key: BareJid,
        /// The row before; 0: the node's reading of this log begins here.
        previous: u64,
        /// The row.
        seq: u64,
    },
    /// The answer to a question.
    Reply {
        /// The question's number.
        request: u64,
        /// The answer.
        reply: AskReply,
    },
    /// This node doesn't own the partition.
    NotOwner {
        /// Who does, as far as it knows.
        hint: Option<(NodeId, Epoch)>,
    },
    /// Something is missing on the way up: attach again.
    Reattach,
    /// End a session's stream.
    Kick {
        /// Which.
        session: SessionKey,
        /// Why.
        condition: StreamErrorCondition,
    },
    /// Stanzas for sessions of the node that stand in no row, and may be told by more than one owner.
    Told {
        /// The effect that they are of.
        mark: EffectMark,
        /// The stanzas, without a place.
        delivery: Delivery,
    },
    /// A session is on its way from one node to another.
    Moving(Moving),
}

/// What a node is told of a session that goes from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moving {
    /// To the node that has it: settle what its client sent and give it up.
    Yield {
        /// Which session.
        session: SessionKey,
        /// Who wants it.
        to: MoveRequest,
    },
    /// To the node that had it: what was delivered so far is to be handed over, nothing more will be.
    Release {
        /// As it was.
        session: SessionKey,
        /// As it is.
        to: SessionKey,
    },
    /// To the node that has it: nobody wants it any more.
    Stay {
        /// Which session.
        session: SessionKey,
        /// Who wanted it.
        to: SessionKey,
    },
    /// To a node that is to have it, because another one is to be emptied: ask for it.
    Adopt {
        /// Whose session.
        jid: FullJid,
        /// By what it is resumed.
        token: ResumptionToken,
    },
    /// To the node that has it now: what the other one had to hand over.
    Parked(ParkedPart),
}

/// The answer to an [`Ask`].
#[allow(
    clippy::large_enum_variant,
    reason = "most answers are replies, and each exists once, on its way"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskReply {
    /// To a query.
    Reply(Reply),
    /// The resource is the session's.
    Bound,
    /// It is not.
    Refused(Box<StanzaError>),
    /// The session is this node's: as the owner knows it.
    Moved(Box<SessionState>),
}

/// Stanzas for the sessions of one node: one frame however many recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Whose log or room this belongs to.
    pub key: BareJid,
    /// Its place in the key's log; `None`: soft, in no log.
    pub place: Option<Place>,
    /// The stanzas.
    pub items: Vec<DeliveryItem>,
    /// Sessions of this node that are now in the room, or no longer, as of this place. Without a place: they are not in
    /// the room and take themselves for it; their node knows under which nickname, and tells them.
    pub notes: Vec<OccupantNote>,
}

/// A session of the node has entered or left the delivery's room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupantNote {
    /// The session.
    pub session: FullJid,
    /// In the room from here on, or out of it.
    pub inside: bool,
    /// The nickname, `room/nick`'s resource, when inside.
    pub nick: String,
}

/// A place in a key's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The row before; `None`: the node's reading of this log begins here.
    pub previous: Option<u64>,
    /// The row.
    pub seq: u64,
}

/// One stanza for several sessions: `head` + the recipient's JID + `tail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryItem {
    /// Up to and with the opening quote of `to`; the whole stanza where `to` is fixed.
    pub head: Bytes,
    /// From the closing quote of `to`; `None`: `head` is the whole stanza.
    pub tail: Option<Bytes>,
    /// To which sessions; number 0: whatever stream holds the address.
    pub targets: Vec<(FullJid, u64)>,
    /// The row of the user's log whose delivery this is; its acknowledgement moves the cursor.
    pub row: Option<u64>,
}

/// From an owner to the owner of another partition (or to every node: [`Across::OwnerHint`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Across {
    /// An outbox entry to be applied.
    OutboxPropose {
        /// The partition that sends.
        from: PartitionId,
        /// The entry's number on that way.
        sequence: u64,
        /// What is to be applied.
        command: Command,
    },
    /// The outcome of an outbox entry. The header's partition is the one that asked.
    OutboxAnswer {
        /// The partition that answers.
        by: PartitionId,
        /// The entry's number.
        sequence: u64,
        /// `None`: done.
        refused: Option<Box<StanzaError>>,
    },
    /// Entries are missing before what arrived: send again from here. The header's partition is the one that sends entries.
    OutboxHole {
        /// The partition that misses them.
        by: PartitionId,
        /// The next number expected.
        expected: u64,
    },
    /// Presence of a contact.
    Presence {
        /// For which users.
        targets: Vec<BareJid>,
        /// The presence, without `to`.
        stanza: Stanza,
        /// What it must not overtake.
        behind: Option<Behind>,
    },
    /// RFC 6121 §4.3: `from` asks for the presence of these.
    Probe {
        /// Who asks.
        from: BareJid,
        /// Whose presence.
        targets: Vec<BareJid>,
    },
    /// A stanza without durability for the user in its `to`.
    Stanza {
        /// The stanza.
        stanza: Stanza,
        /// What it must not overtake.
        behind: Option<Behind>,
    },
    /// To every node: this partition has a new owner.
    OwnerHint {
        /// The owner.
        owner: NodeId,
        /// Since.
        epoch: Epoch,
    },
}

/// The newest outbox entry on the same way that had no answer when soft state was sent: its effects come first, since
/// RFC 6120 §10.1 asks for delivery in order. It goes through the log and soft state doesn't, so the target's owner waits
/// for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The partition that sends.
    pub from: PartitionId,
    /// The entry's number on that way.
    pub sequence: u64,
}

macro_rules! route_body {
    ($body:ident, $name:literal) => {
        impl Record for $body {
            const VERSION: u8 = 1;
            const NAME: &'static str = $name;
        }

        impl $body {
            /// The body of a frame.
            ///
            /// # Errors
            /// [`CodecError::TooLong`] over [`BODY_BYTES_MAX`].
            pub fn encode(&self) -> Result<Bytes, CodecError> {
                codec::encode_frame(self, BODY_BYTES_MAX).map(Bytes::from)
            }

            /// What the body of a frame says.
            ///
            /// # Errors
            /// When the bytes are of an unknown version, too many, or something else.
            pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                codec::decode_frame(bytes, BODY_BYTES_MAX)
            }
        }
    };
}

route_body!(Up, "link-up");
route_body!(Down, "link-down");

impl Down {
    /// The body of a frame in the layout of a version: the lower one of what the pool is at and what was agreed on the
    /// connection. The first counts: where a frame is carried on by another node, no connection knows its reader.
    /// `now_ms`: this node's clock.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] over [`BODY_BYTES_MAX`].
    pub fn encode_as(&self, version: u16, now_ms: u64) -> Result<Bytes, CodecError> {
        #[cfg(any(test, feature = "next-version"))]
        if version >= 2 {
            return dated::encode(self, now_ms);
        }
        let _ = (version, now_ms);
        self.encode()
    }

    /// What the body of a frame says, in the layout of any version that this build supports, and when it was said, by the
    /// sender's clock in ms since 1970.
    ///
    /// # Errors
    /// When the bytes are of an unknown version, too many, or something else.
    pub fn decode_dated(bytes: &[u8]) -> Result<(Down, Option<u64>), CodecError> {
        #[cfg(any(test, feature = "next-version"))]
        if bytes.first() == Some(&2) {
            return dated::decode(bytes);
        }
        Ok((Down::decode(bytes)?, None))
    }
}
route_body!(Across, "link-across");

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
