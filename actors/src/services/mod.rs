//! Requests that a session answers itself or turns into a command or question, one file a feature.

pub mod archive;
pub mod blocking;
pub mod carbons;
pub mod disco;
pub mod ping;
pub mod private;
pub mod register;
pub mod roster;
pub mod software;
pub mod time;
pub mod vcard;

use bytes::Bytes;
use cluster::link::protocol::AskReply;
use messaging::archive::ArchiveIds;
use messaging::command::Command;
use messaging::query::{Query, Reply};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::ns;
use xmpp::sasl::Password;
use xmpp::scan::Element;
use xmpp::stanza_error::{Condition, StanzaError};

use crate::fabric::Fabric;
use crate::link::Outcome;

/// What is to be done about a request.
pub enum Service {
    /// Propose this on the key.
    Command(Box<Command>),
    /// Ask this of the key's owner.
    Query(Box<Query>),
    /// Answer this.
    Answer(Bytes),
    /// Carbons on or off.
    Carbons(bool),
    /// List the rooms of all partitions.
    Rooms,
    /// Change the password.
    ChangePassword(Password),
    /// Remove the account.
    Remove,
    /// Answer this on behalf of another account, if its user lets the asker see it (XEP-0030 §8).
    IfSeen(Result<Bytes, StanzaError>),
    /// Refuse.
    Refuse(StanzaError),
}

impl Service {
    fn refuse(condition: Condition) -> Service {
        Service::Refuse(StanzaError::new(condition))
    }
}

impl<T: Into<Box<Query>>> From<Result<T, StanzaError>> for Service {
    fn from(result: Result<T, StanzaError>) -> Service {
        match result {
            Ok(query) => Service::Query(query.into()),
            Err(error) => Service::Refuse(error),
        }
    }
}

/// A request to the own account.
pub fn own(
    element: Element<'_>,
    set: bool,
    user: &BareJid,
    session: &FullJid,
    ids: &ArchiveIds,
) -> Service {
    match (element.name(), element.ns()) {
        ("query", ns::ROSTER) => roster::own(element, set, user),
        ("query", ns::PRIVATE) => private::own(element, set, user),
        ("vCard", ns::VCARD) => vcard::own(element, set, user),
        ("blocklist" | "block" | "unblock", ns::BLOCKING) => blocking::own(element, set, user),
        ("enable" | "disable", ns::CARBONS) => carbons::own(element, set),
        ("query" | "metadata", ns::MAM) => archive::at(element, set, user, session, ids),
        ("query", ns::DISCO_INFO | ns::DISCO_ITEMS) if !set => match disco::account(element) {
            Ok(payload) => Service::Answer(payload),
            Err(error) => Service::Refuse(error),
        },
        ("query", ns::REGISTER) => register::bound(element, set, user),
        ("ping", ns::PING) if !set => ping::answer(),
        ("query", ns::VERSION) if !set => software::answer(),
        ("time", ns::TIME) if !set => time::answer(),
        ("session", ns::SESSION) => Service::Answer(Bytes::new()),
        _ => Service::refuse(Condition::ServiceUnavailable),
    }
}

/// A request to the server.
pub fn server(element: Element<'_>, set: bool, user: &BareJid, fabric: &Fabric) -> Service {
    match (element.name(), element.ns()) {
        ("query", ns::DISCO_INFO | ns::DISCO_ITEMS) if !set => disco::server(element, fabric),
        ("ping", ns::PING) if !set => ping::answer(),
        ("query", ns::VERSION) if !set => software::answer(),
        ("time", ns::TIME) if !set => time::answer(),
        ("session", ns::SESSION) => Service::Answer(Bytes::new()),
        ("query", ns::REGISTER) => register::bound(element, set, user),
        _ => Service::refuse(Condition::ServiceUnavailable),
    }
}

/// A request to another account's bare JID.
pub fn account(
    element: Element<'_>,
    set: bool,
    account: &BareJid,
    session: &FullJid,
    ids: &ArchiveIds,
) -> Service {
    match (element.name(), element.ns()) {
        ("query", ns::DISCO_INFO | ns::DISCO_ITEMS) if !set => {
            Service::IfSeen(disco::account(element))
        }
        ("ping", ns::PING) if !set => Service::IfSeen(Ok(Bytes::new())),
        ("vCard", ns::VCARD) if !set => Service::Query(Box::new(Query::Vcard {
            user: account.clone(),
            asker: Jid::from(session.clone()),
        })),
        ("query" | "metadata", ns::MAM) => archive::at(element, set, account, session, ids),
        ("vCard", ns::VCARD) | ("query", ns::ROSTER) => Service::refuse(Condition::Forbidden),
        _ => Service::refuse(Condition::ServiceUnavailable),
    }
}

/// A request to the rooms' service.
pub fn rooms(element: Element<'_>, set: bool) -> Service {
    match (element.name(), element.ns()) {
        ("query", ns::DISCO_ITEMS) if !set => Service::Rooms,
        ("query", ns::DISCO_INFO) if !set => disco::rooms_service(element),
        ("ping", ns::PING) if !set => ping::answer(),
        ("query", ns::VERSION) if !set => software::answer(),
        ("time", ns::TIME) if !set => time::answer(),
        _ => Service::refuse(Condition::ServiceUnavailable),
    }
}

/// A request to a room that XEP-0045 says nothing of.
pub fn room(
    element: Element<'_>,
    set: bool,
    room: &BareJid,
    session: &FullJid,
    ids: &ArchiveIds,
) -> Service {
    match (element.name(), element.ns()) {
        ("query" | "metadata", ns::MAM) => archive::at(element, set, room, session, ids),
        _ => Service::refuse(Condition::ServiceUnavailable),
    }
}

/// Answers a request to another account's bare JID. XEP-0191 §3.2: one to somebody whom the user blocks is refused.
///
/// # Errors
/// What the client is told.
pub async fn for_account(
    fabric: &Fabric,
    session: &FullJid,
    account: BareJid,
    service: Service,
) -> Result<Reply, StanzaError> {
    let user = session.bare();
    let jid = Jid::from(account.clone());
    let blocks = Query::Blocks {
        user: user.clone(),
        jid,
    };
    if let Reply::Refused(error) = ask_query(fabric, &user, blocks).await? {
        return Err(*error);
    }
    match service {
        Service::Query(query) => ask_query(fabric, &account, *query).await,
        Service::IfSeen(answer) => {
            let info = Query::AccountInfo {
                user: account.clone(),
                asker: Jid::from(session.clone()),
            };
            match ask_query(fabric, &account, info).await? {
                Reply::Payload(_) => answer.map(Reply::Payload),
                other => Ok(other),
            }
        }
        Service::Refuse(error) => Err(error),
        _ => Err(StanzaError::new(Condition::ServiceUnavailable)),
    }
}

/// Asks a key's owner and waits.
///
/// # Errors
/// What the client is told when nobody answers.
pub async fn ask_query(fabric: &Fabric, key: &BareJid, query: Query) -> Result<Reply, StanzaError> {
    match crate::negotiation::ask(fabric, key, query).await {
        Outcome::Replied(AskReply::Reply(reply)) => Ok(reply),
        Outcome::Replied(AskReply::Refused(error)) => Err(*error),
        _ => Err(crate::negotiation::unavailable_now()),
    }
}
