//! Rooms on the wire (XEP-0045).
//!
//! Affiliations and roles are names here; what they allow is decided by the rules of rooms.

use crate::data_form::DataForm;
use crate::jid::{BareJid, Jid};
use crate::ns;
use crate::payload::{PayloadError, jid, number, required_jid};
use crate::scan::Element;
use crate::timestamp::Timestamp;
use crate::wire_names::wire_names;
use crate::write::XmlWriter;

/// Status codes (§15.6.2).
pub mod status {
    /// Everybody here sees real addresses.
    pub const NON_ANONYMOUS: u16 = 100;
    /// The user's affiliation changed while not in the room.
    pub const AFFILIATION_CHANGED: u16 = 101;
    /// The configuration changed in a way that concerns no privacy.
    pub const CONFIGURATION_CHANGED: u16 = 104;
    /// The presence is the user's own.
    pub const SELF_PRESENCE: u16 = 110;
    /// The room logs what is said.
    pub const LOGGING_ENABLED: u16 = 170;
    /// The room no longer logs what is said.
    pub const LOGGING_DISABLED: u16 = 171;
    /// Real addresses are shown from now on.
    pub const NOW_NON_ANONYMOUS: u16 = 172;
    /// Real addresses are shown to moderators only from now on.
    pub const NOW_SEMI_ANONYMOUS: u16 = 173;
    /// The room has just been created.
    pub const ROOM_CREATED: u16 = 201;
    /// The room gave or changed the nickname.
    pub const NICK_ASSIGNED: u16 = 210;
    /// The user was banned.
    pub const BANNED: u16 = 301;
    /// The user has a new nickname.
    pub const NICK_CHANGED: u16 = 303;
    /// The user was kicked.
    pub const KICKED: u16 = 307;
    /// The user was removed by a change of affiliation.
    pub const AFFILIATION_LOST: u16 = 321;
    /// The user was removed since the room is for members only now.
    pub const MEMBERS_ONLY: u16 = 322;
    /// The user was removed since the service shuts down.
    pub const SHUTDOWN: u16 = 332;
    /// The user was removed for a technical reason.
    pub const TECHNICAL: u16 = 333;
}

wire_names! {
    /// A user's lasting standing (§5.2).
    AffiliationName {
        /// May change everything.
        Owner = "owner",
        /// May change lists and ban.
        Admin = "admin",
        /// May enter rooms for members only.
        Member = "member",
        /// Nothing in particular.
        None = "none",
        /// May not enter.
        Outcast = "outcast",
    }
}

wire_names! {
    /// An occupant's standing for this visit (§5.1).
    RoleName {
        /// May kick and give voice.
        Moderator = "moderator",
        /// May speak.
        Participant = "participant",
        /// May listen.
        Visitor = "visitor",
        /// Not in the room.
        None = "none",
    }
}

/// How much history a user wants on entering (§7.2.13). Nothing said: as the room likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryRequest {
    /// At most so many characters.
    pub chars_max: Option<u32>,
    /// At most so many messages.
    pub stanzas_max: Option<u32>,
    /// Only of the last seconds.
    pub seconds: Option<u32>,
    /// Only since then.
    pub since: Option<Timestamp>,
}

/// The `<x/>` in a presence that enters a room (§7.2). Its Debug output leaves the password out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Join {
    /// The room's password.
    pub password: Option<String>,
    /// How much history is wanted.
    pub history: HistoryRequest,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

impl Join {
    /// Reads `<x xmlns='http://jabber.org/protocol/muc'/>`.
    pub fn parse(x: Element<'_>) -> Result<Self, PayloadError> {
        let password = x
            .child("password", ns::MUC)
            .map(|password| password.text().into_owned());
        let mut join = Self {
            password,
            history: HistoryRequest::default(),
        };
        if let Some(history) = x.child("history", ns::MUC) {
            let count =
                |name: &str| number(history.attr(name), "an amount of history is no number");
            let since = history
                .attr("since")
                .map(|text| Timestamp::parse(&text))
                .transpose();
            join.history = HistoryRequest {
                chars_max: count("maxchars")?,
                stanzas_max: count("maxstanzas")?,
                seconds: count("seconds")?,
                since: since
                    .map_err(|_| PayloadError::malformed("the start of the history is no time"))?,
            };
        }
        Ok(join)
    }
}

/// An `<item/>`: somebody's standing, or a change of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Item {
    /// The lasting standing.
    pub affiliation: Option<AffiliationName>,
    /// The standing for this visit.
    pub role: Option<RoleName>,
    /// The user's address.
    pub jid: Option<Jid>,
    /// The user's nickname.
    pub nick: Option<String>,
    /// Who did it: nickname or address.
    pub actor: Option<Actor>,
    /// Why.
    pub reason: Option<String>,
}

/// Who changed somebody's standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// By nickname.
    Nick(String),
    /// By address, where addresses are shown.
    Jid(BareJid),
}

impl Item {
    /// Reads `<item/>`, in `muc#admin` or `muc#user`. An unknown affiliation or role is malformed (§9, §10).
    pub fn parse(item: Element<'_>) -> Result<Self, PayloadError> {
        let named = |name: &str| item.attr(name);
        let affiliation = named("affiliation").map(|name| {
            AffiliationName::from_name(&name)
                .ok_or(PayloadError::malformed("the affiliation is unknown"))
        });
        let role = named("role").map(|name| {
            RoleName::from_name(&name).ok_or(PayloadError::malformed("the role is unknown"))
        });
        let actor = item.child("actor", item.ns());
        let actor = match actor.map(|actor| (actor.attr("nick"), actor)) {
            None => None,
            Some((Some(nick), _)) => Some(Actor::Nick(nick.into_owned())),
            Some((None, actor)) => jid(actor, "jid")?.map(|jid| Actor::Jid(jid.bare())),
        };
        Ok(Self {
            affiliation: affiliation.transpose()?,
            role: role.transpose()?,
            jid: jid(item, "jid")?,
            nick: named("nick").map(std::borrow::Cow::into_owned),
            actor,
            reason: reason(item),
        })
    }

    /// Writes `<item/>` in the current namespace.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer.start("item");
        writer.attr_opt("affiliation", self.affiliation.map(AffiliationName::name));
        writer.attr_opt("role", self.role.map(RoleName::name));
        writer
            .attr_opt("jid", self.jid.as_ref().map(Jid::as_str))
            .attr_opt("nick", self.nick.as_deref());
        match &self.actor {
            None => {}
            Some(Actor::Nick(nick)) => {
                writer.start("actor").attr("nick", nick).end();
            }
            Some(Actor::Jid(jid)) => {
                writer.start("actor").attr("jid", jid.as_str()).end();
            }
        }
        if let Some(reason) = &self.reason {
            writer.leaf("reason", reason);
        }
        writer.end();
    }
}

/// Reads the items of `<query xmlns='…muc#admin'/>` (§9, §10).
pub fn parse_admin_query(query: Element<'_>) -> Result<Vec<Item>, PayloadError> {
    let items = query
        .children()
        .filter(|child| child.is("item", ns::MUC_ADMIN));
    items.map(Item::parse).collect()
}

/// Writes `<query xmlns='…muc#admin'/>` with a list.
pub fn write_admin_query<'a>(items: impl IntoIterator<Item = &'a Item>, writer: &mut XmlWriter) {
    writer.start_ns("query", ns::MUC_ADMIN);
    for item in items {
        item.write(writer);
    }
    writer.end();
}

/// Writes `<x xmlns='…muc#user'/>` with an item and status codes, as presences carry it.
pub fn write_user(item: Option<&Item>, codes: &[u16], writer: &mut XmlWriter) {
    writer.start_ns("x", ns::MUC_USER);
    if let Some(item) = item {
        item.write(writer);
    }
    for code in codes {
        writer.start("status").attr("code", &code.to_string()).end();
    }
    writer.end();
}

/// What an owner asks (§10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerRequest {
    /// Show the configuration, or take this one; a cancelled form changes nothing.
    Configure(Option<DataForm>),
    /// Destroy the room (§10.9).
    Destroy(Destroy),
}

/// How a room is destroyed. Its Debug output leaves the password out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Destroy {
    /// Where people shall go instead.
    pub alternative: Option<BareJid>,
    /// The password there.
    pub password: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl std::fmt::Debug for Destroy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destroy")
            .field("alternative", &self.alternative)
            .finish_non_exhaustive()
    }
}

impl OwnerRequest {
    /// Reads `<query xmlns='…muc#owner'/>`.
    pub fn parse(query: Element<'_>) -> Result<Self, PayloadError> {
        let Some(destroy) = query.child("destroy", ns::MUC_OWNER) else {
            return Ok(Self::Configure(DataForm::of_query(query)?));
        };
        Ok(Self::Destroy(Destroy {
            alternative: jid(destroy, "jid")?.map(|jid| jid.bare()),
            password: destroy
                .child("password", ns::MUC_OWNER)
                .map(|password| password.text().into_owned()),
            reason: reason(destroy),
        }))
    }
}

impl Destroy {
    /// Writes `<destroy/>` in the current namespace.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start("destroy")
            .attr_opt("jid", self.alternative.as_ref().map(BareJid::as_str));
        if let Some(password) = &self.password {
            writer.leaf("password", password);
        }
        if let Some(reason) = &self.reason {
            writer.leaf("reason", reason);
        }
        writer.end();
    }
}

/// A mediated invitation or its refusal (§7.8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mediated {
    /// Somebody is invited.
    Invite {
        /// Whom.
        to: Jid,
        /// Why.
        reason: Option<String>,
        /// The thread that the conversation continues, if it does (§7.9).
        continued_thread: Option<Option<String>>,
    },
    /// An invitation is declined.
    Decline {
        /// Who invited.
        to: Jid,
        /// Why not.
        reason: Option<String>,
    },
}

impl Mediated {
    /// Reads the invitations and refusals in `<x xmlns='…muc#user'/>`.
    pub fn parse(x: Element<'_>) -> Result<Vec<Self>, PayloadError> {
        let mut found = Vec::new();
        for child in x.children().filter(|child| child.ns() == ns::MUC_USER) {
            match child.name() {
                "invite" => found.push(Self::Invite {
                    to: required_jid(child, "to", "an invitation says to whom")?,
                    reason: reason(child),
                    continued_thread: child
                        .child("continue", ns::MUC_USER)
                        .map(|thread| thread.attr("thread").map(std::borrow::Cow::into_owned)),
                }),
                "decline" => found.push(Self::Decline {
                    to: required_jid(child, "to", "a refusal says to whom")?,
                    reason: reason(child),
                }),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn reason(element: Element<'_>) -> Option<String> {
    element
        .child("reason", element.ns())
        .map(|reason| reason.text().into_owned())
}
