//! From a client's stanza to what is asked of a room. XEP-0045.
//!
//! What only a server may say (`muc#user` beside invitations, occupant ids, the room's stanza ids and delays) is
//! stripped here; what lacks something is a bad request.

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::scan::{Document, Element};
use xmpp::stanza::{IqType, MessageType, PresenceType, Stanza, StanzaKind};

use super::command::{AdminItem, FormFields, HistoryRequest, Invitee, RoomAction};
use super::passing::Passing;
use super::query::RoomQuery;
use super::refusal::Refusal;
use super::state::{Affiliation, Role, Secret};

/// Invitations in one message at most.
const INVITEES_MAX: usize = 100;

/// §7.12: the node under which one's reserved nickname is asked for.
const NODE_RESERVED_NICK: &str = "x-roomuser-item";
/// The node under which allowed traffic is asked for.
const NODE_TRAFFIC: &str = "http://jabber.org/protocol/muc#traffic";

/// What a stanza to a room or an occupant asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomRequest {
    /// A command.
    Action(RoomAction),
    /// A question.
    Query(RoomQuery),
    /// A message that isn't filed.
    Passing(Passing),
    /// Nothing, and it isn't answered: errors, probes, results nobody asked for.
    Ignored,
    /// An iq that isn't about XEP-0045: an archive's page, a ping, a vCard; else service-unavailable.
    Unhandled,
}

/// Who sends, and where the session is held.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The session.
    pub jid: FullJid,
    /// Its node.
    pub node: u64,
    /// The node's incarnation.
    pub incarnation: u64,
    /// The session's number on the node.
    pub session: u64,
}

/// Reads a stanza whose `to` is a room or an occupant.
///
/// # Errors
/// [`Refusal::BadRequest`], [`Refusal::JidMalformed`], [`Refusal::NickMalformed`], [`Refusal::NoSuchItem`].
pub fn parse(stanza: &Stanza, sender: &Sender) -> Result<RoomRequest, Refusal> {
    let Some(to) = &stanza.to else {
        return Err(Refusal::BadRequest);
    };
    let payload = stanza.payload_document().map_err(|_| Refusal::BadRequest)?;
    let to = Target {
        room: to.bare(),
        nick: to.resource().map(str::to_owned),
    };
    match stanza.kind {
        StanzaKind::Message => message(stanza, &payload, to),
        StanzaKind::Presence => presence(stanza, &payload, to, sender),
        StanzaKind::Iq => iq(stanza, &payload, to, sender),
    }
}

struct Target {
    room: BareJid,
    nick: Option<String>,
}

fn find<'a>(payload: &'a Document, name: &str, ns: &str) -> Option<Element<'a>> {
    payload.roots().find(|element| element.is(name, ns))
}

fn presence(
    stanza: &Stanza,
    payload: &Document,
    to: Target,
    sender: &Sender,
) -> Result<RoomRequest, Refusal> {
    let kind = stanza.presence_type();
    let presence = stripped(stanza, payload, &to.room);
    let action = match (kind, to.nick) {
        // §7.2.1: no nickname.
        (PresenceType::Available, None) => return Err(Refusal::NickMalformed),
        (PresenceType::Available, Some(nick)) => match find(payload, "x", ns::MUC) {
            Some(x) => RoomAction::Join {
                nick,
                presence,
                password: x
                    .child("password", ns::MUC)
                    .map(|password| Secret(password.text().into_owned())),
                history: x
                    .child("history", ns::MUC)
                    .map_or(Ok(HistoryRequest::default()), |h| history(&h))?,
                node: sender.node,
                incarnation: sender.incarnation,
                session: sender.session,
            },
            None => RoomAction::Presence { nick, presence },
        },
        (PresenceType::Unavailable, _) => RoomAction::Leave { presence, of: None },
        // §17.3: no other type joins or leaves.
        _ => return Ok(RoomRequest::Ignored),
    };
    Ok(RoomRequest::Action(action))
}

/// §7.2.14.
fn history(element: &Element<'_>) -> Result<HistoryRequest, Refusal> {
    let number = |name: &str| match element.attr(name) {
        Some(value) => value
            .trim()
            .parse::<u32>()
            .map(Some)
            .map_err(|_| Refusal::BadRequest),
        None => Ok(None),
    };
    let since_ms = match element.attr("since") {
        Some(since) => Some(milliseconds(&since).ok_or(Refusal::BadRequest)?),
        None => None,
    };
    Ok(HistoryRequest {
        maxchars: number("maxchars")?,
        maxstanzas: number("maxstanzas")?,
        seconds: number("seconds")?,
        since_ms,
    })
}

/// XEP-0082; before 1970 counts as 1970.
fn milliseconds(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
    Some(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

fn message(stanza: &Stanza, payload: &Document, to: Target) -> Result<RoomRequest, Refusal> {
    let kind = stanza.message_type();
    if kind == MessageType::Error {
        return Ok(RoomRequest::Ignored);
    }
    let body = stripped(stanza, payload, &to.room);
    let (is_filed, changes_subject) = (is_filed(payload), changes_subject(payload));
    let origin_id = find(payload, "origin-id", ns::STANZA_ID)
        .and_then(|element| element.attr("id").map(|id| id.into_owned()))
        .filter(|id| !id.is_empty());
    Ok(match (kind, to.nick) {
        // §7.5: a private message is no groupchat message.
        (MessageType::Groupchat, Some(_)) => return Err(Refusal::BadRequest),
        (MessageType::Groupchat, None) if is_filed || changes_subject => {
            RoomRequest::Action(RoomAction::Message {
                stanza: body,
                origin_id,
                changes_subject,
            })
        }
        (MessageType::Groupchat, None) => RoomRequest::Passing(Passing::Groupchat { stanza: body }),
        (_, Some(nick)) if is_filed => RoomRequest::Action(RoomAction::PrivateMessage {
            nick,
            stanza: body,
            origin_id,
        }),
        (_, Some(nick)) => RoomRequest::Passing(Passing::Private { nick, stanza: body }),
        (_, None) => RoomRequest::Action(request_to_room(stanza, payload)?),
    })
}

fn is_filed(payload: &Document) -> bool {
    let hint = |name: &str| find(payload, name, ns::HINTS).is_some();
    let has_body = find(payload, "body", ns::CLIENT).is_some();
    (has_body || hint("store")) && !hint("no-store")
}

/// §8.1.
fn changes_subject(payload: &Document) -> bool {
    let has = |name: &str| find(payload, name, ns::CLIENT).is_some();
    has("subject") && !has("body") && !has("thread")
}

/// Whether a message to a room or an occupant becomes no command: [`RoomRequest::Passing`], or nothing.
pub fn is_passing(message: &Stanza) -> bool {
    let Ok(payload) = message.payload_document() else {
        return false;
    };
    let to_occupant = message.to.as_ref().is_some_and(|to| !to.is_bare());
    match message.message_type() {
        MessageType::Error => true,
        MessageType::Groupchat => !is_filed(&payload) && !changes_subject(&payload),
        _ => to_occupant && !is_filed(&payload),
    }
}

/// A message to the room itself that isn't for everybody: §7.8.2, §7.13, §8.6.
fn request_to_room(stanza: &Stanza, payload: &Document) -> Result<RoomAction, Refusal> {
    if let Some(x) = find(payload, "x", ns::MUC_USER) {
        if let Some(decline) = x.child("decline", ns::MUC_USER) {
            let inviter = jid_attr(&decline, "to")?.ok_or(Refusal::BadRequest)?.bare();
            return Ok(RoomAction::Decline {
                inviter,
                reason: text_of(&decline, "reason", ns::MUC_USER),
            });
        }
        let invitees: Vec<Invitee> = x
            .children()
            .filter(|child| child.is("invite", ns::MUC_USER))
            .map(|i| invitee(&i))
            .collect::<Result<_, _>>()?;
        if invitees.is_empty() || invitees.len() > INVITEES_MAX {
            return Err(Refusal::BadRequest);
        }
        return Ok(RoomAction::Invite {
            invitees,
            id: stanza.id.clone(),
        });
    }
    let form = find(payload, "x", ns::DATA_FORM).ok_or(Refusal::BadRequest)?;
    voice(&form)
}

fn invitee(invite: &Element<'_>) -> Result<Invitee, Refusal> {
    let continued = invite.child("continue", ns::MUC_USER);
    Ok(Invitee {
        jid: jid_attr(invite, "to")?.ok_or(Refusal::BadRequest)?,
        reason: text_of(invite, "reason", ns::MUC_USER),
        continued: continued.map(|element| element.attr("thread").unwrap_or_default().into_owned()),
    })
}

/// §7.13 and §8.6: with `muc#request_allow` it is a moderator's answer.
fn voice(form: &Element<'_>) -> Result<RoomAction, Refusal> {
    if form.attr("type").as_deref() != Some("submit") {
        return Err(Refusal::BadRequest);
    }
    let fields = form_fields(form);
    let value = |var: &str| {
        let field = fields.0.iter().find(|(name, _)| name == var);
        field
            .and_then(|(_, values)| values.first())
            .map(String::as_str)
    };
    if value("FORM_TYPE") != Some(ns::MUC_REQUEST) {
        return Err(Refusal::BadRequest);
    }
    match (
        value("muc#request_allow"),
        value("muc#roomnick"),
        value("muc#role"),
    ) {
        (Some(allow), Some(nick), _) => Ok(RoomAction::GrantVoice {
            nick: nick.to_owned(),
            allow: matches!(allow, "1" | "true"),
        }),
        (None, _, Some("participant")) => Ok(RoomAction::RequestVoice),
        _ => Err(Refusal::BadRequest),
    }
}

fn iq(
    stanza: &Stanza,
    payload: &Document,
    to: Target,
    sender: &Sender,
) -> Result<RoomRequest, Refusal> {
    let kind = stanza.iq_type();
    let (room, asker) = (to.room, sender.jid.clone());
    if let Some(nick) = to.nick {
        let is_get = kind == IqType::Get;
        let is_ping = is_get && find(payload, "ping", ns::PING).is_some();
        let discovery = [ns::DISCO_INFO, ns::DISCO_ITEMS]
            .iter()
            .any(|ns| is_get && find(payload, "query", ns).is_some());
        return Ok(RoomRequest::Query(if is_ping {
            RoomQuery::SelfPing { room, asker, nick }
        } else {
            RoomQuery::OccupantSession {
                room,
                asker,
                nick,
                discovery,
            }
        }));
    }
    let element = payload.roots().next();
    let Some(element) = element.filter(|_| matches!(kind, IqType::Get | IqType::Set)) else {
        return Ok(RoomRequest::Ignored);
    };
    let is_get = kind == IqType::Get;
    if is_get && (element.name(), element.ns()) == ("ping", ns::PING) {
        return Ok(RoomRequest::Query(RoomQuery::Ping { room, asker }));
    }
    if element.name() != "query" {
        return Ok(RoomRequest::Unhandled);
    }
    let query = match element.ns() {
        ns::DISCO_INFO if is_get => match element.attr("node").as_deref() {
            None | Some("") => RoomQuery::Info { room, asker },
            Some(NODE_RESERVED_NICK) => RoomQuery::ReservedNick { room, asker },
            // "If a service does not discard any namespaces, it MUST return service-unavailable".
            Some(NODE_TRAFFIC) => return Ok(RoomRequest::Unhandled),
            Some(_) => return Err(Refusal::NoSuchItem),
        },
        ns::DISCO_ITEMS if is_get => match element.attr("node").as_deref() {
            None | Some("") => RoomQuery::Items { room, asker },
            Some(_) => return Err(Refusal::NoSuchItem),
        },
        ns::MUC_ADMIN if is_get => list_query(&element, room, asker)?,
        ns::MUC_ADMIN => return Ok(RoomRequest::Action(admin(&element)?)),
        ns::MUC_OWNER if is_get => RoomQuery::ConfigurationForm { room, asker },
        ns::MUC_OWNER => return Ok(RoomRequest::Action(owner(&element)?)),
        _ => return Ok(RoomRequest::Unhandled),
    };
    Ok(RoomRequest::Query(query))
}

/// §8.5, §9.2, §9.5, §9.8, §10.5, §10.8: which list is asked for.
fn list_query(query: &Element<'_>, room: BareJid, asker: FullJid) -> Result<RoomQuery, Refusal> {
    let item = query
        .child("item", ns::MUC_ADMIN)
        .ok_or(Refusal::BadRequest)?;
    match (affiliation_attr(&item)?, role_attr(&item)?) {
        (Some(affiliation), None) if affiliation != Affiliation::None => {
            Ok(RoomQuery::Affiliations {
                room,
                asker,
                affiliation,
            })
        }
        (None, Some(role)) if role != Role::None => Ok(RoomQuery::Roles { room, asker, role }),
        _ => Err(Refusal::BadRequest),
    }
}

/// §17.4: a role by nickname, or an affiliation by JID; never both in one item.
fn admin(query: &Element<'_>) -> Result<RoomAction, Refusal> {
    let mut items = Vec::new();
    for element in query
        .children()
        .filter(|child| child.is("item", ns::MUC_ADMIN))
    {
        let item = AdminItem {
            nick: element.attr("nick").map(|nick| nick.into_owned()),
            jid: jid_attr(&element, "jid")?,
            role: role_attr(&element)?,
            affiliation: affiliation_attr(&element)?,
            reason: text_of(&element, "reason", ns::MUC_ADMIN),
        };
        let complete = match (item.role, item.affiliation) {
            (Some(_), None) => item.nick.is_some(),
            (None, Some(_)) => item.jid.is_some() || item.nick.is_some(),
            _ => false,
        };
        if !complete {
            return Err(Refusal::BadRequest);
        }
        items.push(item);
    }
    if items.is_empty() {
        Err(Refusal::BadRequest)
    } else {
        Ok(RoomAction::Admin { items })
    }
}

/// §10.1.2, §10.1.3, §10.2, §10.9.
fn owner(query: &Element<'_>) -> Result<RoomAction, Refusal> {
    if let Some(destroy) = query.child("destroy", ns::MUC_OWNER) {
        return Ok(RoomAction::Destroy {
            alternate: jid_attr(&destroy, "jid")?,
            reason: text_of(&destroy, "reason", ns::MUC_OWNER),
            password: text_of(&destroy, "password", ns::MUC_OWNER).map(Secret),
        });
    }
    let form = query.child("x", ns::DATA_FORM).ok_or(Refusal::BadRequest)?;
    match form.attr("type").as_deref() {
        Some("cancel") => Ok(RoomAction::CancelConfiguration),
        Some("submit") => {
            let fields = form_fields(&form);
            let form_type = fields.0.iter().find(|(var, _)| var == "FORM_TYPE");
            let is_ours = |(_, values): &(String, Vec<String>)| {
                values.first().is_some_and(|v| v == ns::MUC_ROOM_CONFIG)
            };
            if form_type.is_some_and(|field| !is_ours(field)) {
                return Err(Refusal::BadRequest);
            }
            Ok(RoomAction::Configure { fields })
        }
        _ => Err(Refusal::BadRequest),
    }
}

/// The fields of a form, in order; those without a name are left out.
pub(super) fn form_fields(form: &Element<'_>) -> FormFields {
    let fields = form
        .children()
        .filter(|child| child.is("field", ns::DATA_FORM));
    let values = |field: &Element<'_>| {
        let values = field
            .children()
            .filter(|child| child.is("value", ns::DATA_FORM));
        values
            .map(|value| value.text().into_owned())
            .collect::<Vec<_>>()
    };
    FormFields(
        fields
            .filter_map(|field| Some((field.attr("var")?.into_owned(), values(&field))))
            .collect(),
    )
}

fn affiliation_attr(element: &Element<'_>) -> Result<Option<Affiliation>, Refusal> {
    let read = |name: &str| Affiliation::from_name(name).ok_or(Refusal::BadRequest);
    element
        .attr("affiliation")
        .map(|name| read(&name))
        .transpose()
}

fn role_attr(element: &Element<'_>) -> Result<Option<Role>, Refusal> {
    let read = |name: &str| Role::from_name(name).ok_or(Refusal::BadRequest);
    element.attr("role").map(|name| read(&name)).transpose()
}

fn jid_attr(element: &Element<'_>, name: &str) -> Result<Option<Jid>, Refusal> {
    element
        .attr(name)
        .map(|jid| Jid::parse(&jid).map_err(|_| Refusal::JidMalformed))
        .transpose()
}

fn text_of(element: &Element<'_>, name: &str, ns: &str) -> Option<String> {
    let text = element.child(name, ns)?.text().into_owned();
    (!text.is_empty()).then_some(text)
}

/// The stanza without addresses and without what only the room may say.
fn stripped(stanza: &Stanza, payload: &Document, room: &BareJid) -> Stanza {
    // §7.5: the empty `<x/>` marks a private message; everything else in `muc#user` the room says.
    let is_private =
        stanza.kind == StanzaKind::Message && stanza.message_type() != MessageType::Groupchat;
    let is_mark =
        |element: &Element<'_>| is_private && element.is("x", ns::MUC_USER) && element.is_empty();
    let kept = payload
        .roots()
        .filter(|element| is_mark(element) || !is_room_s_word(element, room));
    let mut bytes = BytesMut::with_capacity(stanza.payload.len());
    for element in kept {
        element.write_canonical(&mut bytes, ns::CLIENT);
    }
    let payload: Bytes = bytes.freeze();
    Stanza {
        from: None,
        to: None,
        payload,
        ..stanza.clone()
    }
}

fn is_room_s_word(element: &Element<'_>, room: &BareJid) -> bool {
    let says = |attr: &str| {
        element
            .attr(attr)
            .is_some_and(|by| Jid::parse(&by).is_ok_and(|by| by.bare() == *room))
    };
    match (element.name(), element.ns()) {
        (_, ns::MUC | ns::MUC_USER) => true,
        ("occupant-id", ns::OCCUPANT_ID) => true,
        ("stanza-id", ns::STANZA_ID) => says("by"),
        ("delay", ns::DELAY) => says("from"),
        _ => false,
    }
}
