//! What is remembered of a room: configuration, affiliations, occupants, subject.

use serde::{Deserialize, Serialize};
use xmpp::jid::FullJid;
use xmpp::stanza::Stanza;

use super::depth::LogDepth;

/// XEP-0045 §5.2, in rising order of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Affiliation {
    /// Banned.
    Outcast,
    /// Nothing special.
    None,
    /// May enter a members-only room.
    Member,
    /// May ban and edit members.
    Admin,
    /// May do everything.
    Owner,
}

impl Affiliation {
    /// All of them, in rising order.
    pub const ALL: [Affiliation; 5] = [
        Affiliation::Outcast,
        Affiliation::None,
        Affiliation::Member,
        Affiliation::Admin,
        Affiliation::Owner,
    ];

    /// As it stands in an `<item/>`.
    pub fn name(self) -> &'static str {
        match self {
            Affiliation::Outcast => "outcast",
            Affiliation::None => "none",
            Affiliation::Member => "member",
            Affiliation::Admin => "admin",
            Affiliation::Owner => "owner",
        }
    }

    /// From the attribute of an `<item/>`.
    pub fn from_name(name: &str) -> Option<Affiliation> {
        Affiliation::ALL
            .into_iter()
            .find(|affiliation| affiliation.name() == name)
    }
}

/// XEP-0045 §5.1, in rising order of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Not in the room.
    None,
    /// May read.
    Visitor,
    /// May write.
    Participant,
    /// May kick and grant voice.
    Moderator,
}

impl Role {
    /// All of them, in rising order.
    pub const ALL: [Role; 4] = [
        Role::None,
        Role::Visitor,
        Role::Participant,
        Role::Moderator,
    ];

    /// As it stands in an `<item/>`.
    pub fn name(self) -> &'static str {
        match self {
            Role::None => "none",
            Role::Visitor => "visitor",
            Role::Participant => "participant",
            Role::Moderator => "moderator",
        }
    }

    /// From the attribute of an `<item/>`.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// When it was made, ms since 1970.
    pub created_ms: u64,
    /// New and not yet configured: nobody else gets in. §10.1.
    pub locked: bool,
    /// The configuration.
    pub config: RoomConfig,
    /// The subject's row: its sequence, who set it, the text; empty text at first.
    pub subject: Subject,
    /// The sequence before the first row: rows of an earlier room of this name lie at or below it.
    pub base: u64,
    /// The sequence of the newest row.
    pub head: u64,
    /// Which of its rows stay.
    pub depth: LogDepth,
}

/// A room's subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The nickname that set it.
    pub nick: String,
    /// XEP-0421: of whom set it.
    pub occupant_id: String,
    /// The message with the `<subject/>`; `None` while it was never set.
    pub stanza: Option<Stanza>,
    /// When, ms since 1970.
    pub time_ms: u64,
}

/// What owners configure. §10.2; defaults by `Default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomConfig {
    /// `muc#roomconfig_roomname`
    pub name: String,
    /// `muc#roomconfig_roomdesc`
    pub description: String,
    /// `muc#roomconfig_lang`
    pub lang: String,
    /// `muc#roomconfig_persistentroom`: outlives its last occupant.
    pub persistent: bool,
    /// `muc#roomconfig_publicroom`: listed (else hidden).
    pub public: bool,
    /// `muc#roomconfig_membersonly`
    pub members_only: bool,
    /// `muc#roomconfig_moderatedroom`
    pub moderated: bool,
    /// `muc#roomconfig_passwordprotectedroom` with `muc#roomconfig_roomsecret`
    pub password: Option<Secret>,
    /// `muc#roomconfig_whois`: `true`: everybody sees real JIDs (non-anonymous); else moderators only.
    pub non_anonymous: bool,
    /// `muc#roomconfig_changesubject`: participants may.
    pub change_subject: bool,
    /// `muc#roomconfig_allowinvites`: members may invite into a members-only room.
    pub allow_invites: bool,
    /// `muc#roomconfig_allowpm`: who may send private messages.
    pub private_messages: PrivateMessages,
    /// `muc#maxhistoryfetch`: messages shown on joining at most.
    pub history_max: u32,
    /// `muc#roomconfig_maxusers`; 0: the pool's limit.
    pub occupants_max: u32,
    /// `muc#roomconfig_enablelogging`: messages are archived.
    pub archived: bool,
}

impl Default for RoomConfig {
    /// What an instant room is (§10.1.2): open, listed, semi-anonymous, archived, gone with its last occupant.
    fn default() -> RoomConfig {
        RoomConfig {
            name: String::new(),
            description: String::new(),
            lang: String::new(),
            persistent: false,
            public: true,
            members_only: false,
            moderated: false,
            password: None,
            non_anonymous: false,
            change_subject: false,
            allow_invites: false,
            private_messages: PrivateMessages::Anyone,
            history_max: 30,
            occupants_max: 0,
            archived: true,
        }
    }
}

/// A room's password: never in logs or `Debug` output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `muc#roomconfig_allowpm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrivateMessages {
    /// Everybody.
    Anyone,
    /// Those who may write.
    Participants,
    /// Moderators.
    Moderators,
    /// Nobody.
    None,
}

/// An affiliation on the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffiliationRecord {
    /// Which; never [`Affiliation::None`].
    pub affiliation: Affiliation,
    /// Why.
    pub reason: Option<String>,
}

/// Somebody in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupant {
    /// The session.
    pub jid: FullJid,
    /// The nickname; several sessions of one bare JID may share it.
    pub nick: String,
    /// The role.
    pub role: Role,
    /// The affiliation at the time.
    pub affiliation: Affiliation,
    /// The last presence, without addresses.
    pub presence: Stanza,
    /// The sequence of the join: earlier rows are not this occupant's.
    pub joined: u64,
    /// The node that holds the session.
    pub node: u64,
    /// That node's incarnation.
    pub incarnation: u64,
    /// The session's number on that node.
    pub session: u64,
    /// The generation of the account: whoever has the name later is somebody else.
    pub account: u64,
}
