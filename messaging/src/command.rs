//! What may be asked of a partition: the entries of its log.
//!
//! Each command goes to one partition, and [`crate::apply`] is its only validator. What apply may not know (time,
//! randomness, policy, another key's state) the owner or the session's node has put into the command or its batch.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza::Stanza;
use xmpp::stanza_error::StanzaError;

use crate::archive::MessageRecord;
use crate::link_record::LinkOrigin;
use crate::room::command::RoomCommand;
use crate::user::import::{ImportedContact, ImportedItem};
use crate::user::streams::{Counted, StreamNote};

/// One entry of a partition's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// The leader of this term begins to own the partition; the entry's log index is the epoch.
    OwnerBegin {
        /// The owner.
        node: u64,
        /// Its incarnation.
        incarnation: u64,
        /// The owner's clock, ms since 1970.
        time_ms: u64,
    },
    /// Proposals that the owner put together.
    Batch(Batch),
    /// The partition is at this version from here on, if it was not beyond it: an operator has finalised it for the pool.
    Version {
        /// The version.
        version: u32,
    },
}

/// Proposals in the order in which they are applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The epoch in which the batch was made; a batch of another epoch is not applied.
    pub epoch: u64,
    /// The owner's clock, ms since 1970; the state never lets time fall.
    pub time_ms: u64,
    /// The proposals.
    pub proposals: Vec<Proposal>,
}

/// A numbered command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Who numbered it.
    pub origin: LinkOrigin,
    /// The origin's incarnation, 0 for a partition.
    pub incarnation: u64,
    /// Its number, from 1, without holes.
    pub sequence: u64,
    /// What is asked.
    pub command: Command,
}

/// What is asked of one key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing: keeps a number's place when its sender took the request back.
    Nothing,
    /// Creates an account; refused with `conflict` where it exists.
    CreateAccount {
        /// The account.
        user: BareJid,
        /// Its credentials.
        credentials: StoredCredentials,
    },
    /// Replaces an account's credentials; `item-not-found` where there is none.
    SetCredentials {
        /// The account.
        user: BareJid,
        /// Its credentials.
        credentials: StoredCredentials,
    },
    /// Removes an account with everything in it: contacts get `unsubscribe` and `unsubscribed`.
    RemoveAccount {
        /// The account.
        user: BareJid,
    },
    /// A durable message of a session: filed in the sender's archive, then on its way through the outbox.
    SendMessage(SendMessage),
    /// A durable message for a user, out of another key's outbox.
    ReceiveMessage(ReceiveMessage),
    /// A copy for the archive of somebody who sent through a room (private messages).
    FileSent {
        /// The sender's account.
        user: BareJid,
        /// The message, with `to` the occupant JID.
        stanza: Stanza,
    },
    /// RFC 6121 §2.3: adds or changes a contact.
    SetContact {
        /// Whose roster.
        user: BareJid,
        /// The contact.
        contact: BareJid,
        /// Its name, if any.
        name: Option<String>,
        /// Its groups.
        groups: Vec<String>,
    },
    /// RFC 6121 §2.5: removes a contact; ends subscriptions both ways.
    RemoveContact {
        /// Whose roster.
        user: BareJid,
        /// The contact.
        contact: BareJid,
    },
    /// RFC 6121 §3: a user's subscription stanza (subscribe, subscribed, unsubscribe, unsubscribed).
    SendSubscription {
        /// The sender's account.
        user: BareJid,
        /// Whom it is for.
        contact: BareJid,
        /// The stanza; `from` is the bare JID.
        stanza: Stanza,
    },
    /// A subscription stanza that arrives at a user.
    ReceiveSubscription {
        /// The recipient's account.
        user: BareJid,
        /// Who sent it.
        contact: BareJid,
        /// The stanza.
        stanza: Stanza,
    },
    /// XEP-0191: blocks.
    Block {
        /// Whose list.
        user: BareJid,
        /// Whom.
        items: Vec<Jid>,
    },
    /// XEP-0191: unblocks; no items: everybody.
    Unblock {
        /// Whose list.
        user: BareJid,
        /// Whom.
        items: Vec<Jid>,
    },
    /// XEP-0049: puts one private element.
    SetPrivate {
        /// Whose.
        user: BareJid,
        /// Its `{namespace}name`.
        name: String,
        /// The element, canonical.
        element: Bytes,
    },
    /// XEP-0054: puts the vCard.
    SetVcard {
        /// Whose.
        user: BareJid,
        /// The `<vCard/>` element, canonical.
        element: Bytes,
    },
    /// Moves a user's delivery cursor forward, never back.
    AdvanceCursor {
        /// Whose.
        user: BareJid,
        /// Every row up to this sequence is delivered.
        delivered: u64,
    },
    /// Lazily: these sessions are up (with node and incarnation), these are gone.
    NoteSessions {
        /// Up: session, node, incarnation.
        up: Vec<(FullJid, u64, u64)>,
        /// Gone.
        down: Vec<FullJid>,
    },
    /// A command of XEP-0045.
    Room(RoomCommand),
    /// The target of an outbox entry has answered: the entry goes, a refusal bounces.
    OutboxAnswered {
        /// The target partition.
        partition: u16,
        /// The entry's sequence on that way.
        sequence: u64,
        /// `None`: done.
        refused: Option<Box<StanzaError>>,
    },
    /// Out of a removed account's partition, to every partition: nothing of it stays in rooms.
    ForgetAccount {
        /// The account.
        user: BareJid,
        /// Its generation.
        generation: u64,
    },
    /// Out of another server: makes an account that nobody can log in to yet, or goes on with one; `conflict` where there is one
    /// with credentials.
    BeginImport {
        /// The account.
        user: BareJid,
    },
    /// Contacts of an account that is being imported: they are put as they are, and nobody is told.
    ImportContacts {
        /// Whose roster.
        user: BareJid,
        /// The contacts.
        contacts: Vec<ImportedContact>,
    },
    /// Rows of the archive of an account that is being imported, with the times at which they were written.
    ImportRows {
        /// Whose log.
        user: BareJid,
        /// How many rows come before these.
        after: u64,
        /// Whether they are still to be delivered.
        waiting: bool,
        /// Times, ms since 1970, which don't fall, and messages.
        rows: Vec<(u64, MessageRecord)>,
    },
    /// The end of an import: from now on the user can log in. `conflict` where the account has other credentials.
    FinishImport {
        /// The account.
        user: BareJid,
        /// Its credentials.
        credentials: StoredCredentials,
    },
    /// What a client would set, of an account that is being imported; `conflict` where it is not.
    ImportItem {
        /// Whose.
        user: BareJid,
        /// What.
        item: ImportedItem,
    },
    /// How many of sessions' stanzas are handled.
    NoteStreams {
        /// Of each session once.
        notes: Vec<StreamNote>,
    },
}

impl Command {
    /// What it is called, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Nothing => "Nothing",
            Command::CreateAccount { .. } => "CreateAccount",
            Command::SetCredentials { .. } => "SetCredentials",
            Command::RemoveAccount { .. } => "RemoveAccount",
            Command::ForgetAccount { .. } => "ForgetAccount",
            Command::BeginImport { .. } => "BeginImport",
            Command::ImportContacts { .. } => "ImportContacts",
            Command::ImportRows { .. } => "ImportRows",
            Command::FinishImport { .. } => "FinishImport",
            Command::ImportItem { .. } => "ImportItem",
            Command::SendMessage(_) => "SendMessage",
            Command::ReceiveMessage(_) => "ReceiveMessage",
            Command::FileSent { .. } => "FileSent",
            Command::SetContact { .. } => "SetContact",
            Command::RemoveContact { .. } => "RemoveContact",
            Command::SendSubscription { .. } => "SendSubscription",
            Command::ReceiveSubscription { .. } => "ReceiveSubscription",
            Command::Block { .. } => "Block",
            Command::Unblock { .. } => "Unblock",
            Command::SetPrivate { .. } => "SetPrivate",
            Command::SetVcard { .. } => "SetVcard",
            Command::AdvanceCursor { .. } => "AdvanceCursor",
            Command::NoteSessions { .. } => "NoteSessions",
            Command::NoteStreams { .. } => "NoteStreams",
            Command::Room(_) => "Room",
            Command::OutboxAnswered { .. } => "OutboxAnswered",
        }
    }

    /// The key it changes; `None` for what concerns the whole partition.
    pub fn key(&self) -> Option<BareJid> {
        match self {
            Command::CreateAccount { user, .. }
            | Command::SetCredentials { user, .. }
            | Command::RemoveAccount { user }
            | Command::FileSent { user, .. }
            | Command::SetContact { user, .. }
            | Command::RemoveContact { user, .. }
            | Command::SendSubscription { user, .. }
            | Command::ReceiveSubscription { user, .. }
            | Command::Block { user, .. }
            | Command::Unblock { user, .. }
            | Command::SetPrivate { user, .. }
            | Command::SetVcard { user, .. }
            | Command::AdvanceCursor { user, .. }
            | Command::BeginImport { user }
            | Command::ImportContacts { user, .. }
            | Command::ImportRows { user, .. }
            | Command::FinishImport { user, .. }
            | Command::ImportItem { user, .. } => Some(user.clone()),
            Command::SendMessage(message) => Some(message.sender.bare()),
            Command::ReceiveMessage(message) => Some(message.user.clone()),
            Command::Room(command) => Some(command.room.clone()),
            Command::Nothing
            | Command::ForgetAccount { .. }
            | Command::NoteSessions { .. }
            | Command::NoteStreams { .. }
            | Command::OutboxAnswered { .. } => None,
        }
    }
}

// What users store and send isn't shown.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Command::SendMessage(message) => message.fmt(f),
            Command::ReceiveMessage(message) => message.fmt(f),
            Command::Room(command) => command.fmt(f),
            other => f
                .debug_struct(other.name())
                .field("key", &other.key())
                .finish_non_exhaustive(),
        }
    }
}

/// A durable message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMessage {
    /// The session.
    pub sender: FullJid,
    /// Whom it is for: a user's bare or full JID (rooms have [`RoomCommand`]).
    pub to: Jid,
    /// The client's origin-id or, without one, nothing: then a retry isn't recognised.
    pub origin_id: Option<String>,
    /// The message, canonical, stripped of what only servers say; `from` is the session.
    pub stanza: Stanza,
    /// Whether `to`'s domain is served here; if not the message is refused with remote-server-not-found.
    pub local: bool,
    /// Its place in the session's stream, where the log counts that.
    pub counted: Option<Counted>,
}

/// A durable message for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveMessage {
    /// The recipient's account.
    pub user: BareJid,
    /// The message as it goes to the recipient: `from` the sender (or a room or occupant), `to` bare or full.
    pub stanza: Stanza,
    /// Other sessions of the account that are to get it, too: those under one nickname of a room.
    pub also: Vec<FullJid>,
    /// The key whose partition sends it, for blocking: a user or a room.
    pub sender: BareJid,
    /// When the sender's partition committed it, ms since 1970.
    pub time_ms: u64,
}

/// The outcome of a command.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done and committed. `seq`: the row that holds it, 0 if none.
    Done {
        /// The sequence in the key's log.
        seq: u64,
    },
    /// Done, and this is the payload of the iq result.
    Reply(Bytes),
    /// Surely not done.
    Refused(Box<StanzaError>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Done { seq } => f.debug_struct("Done").field("seq", seq).finish(),
            Answer::Reply(payload) => f
                .debug_struct("Reply")
                .field("bytes", &payload.len())
                .finish(),
            Answer::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
        }
    }
}
