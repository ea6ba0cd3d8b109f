//! XEP-0030: service discovery. What is advertised comes from the one registry of features.

use std::sync::Arc;

use bytes::Bytes;
use messaging::query::{Query, Reply};
use messaging::room::query::RoomQuery;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza_error::{Condition, StanzaError};
use xmpp::stream::features::{Place, namespaces_at};
use xmpp::write::XmlWriter;

use super::Service;
use crate::fabric::Fabric;

fn info(identities: &[(&str, &str, &str)], place: Place) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::DISCO_INFO);
    for (category, type_, name) in identities {
        writer
            .start("identity")
            .attr("category", category)
            .attr("type", type_)
            .attr("name", name)
            .end();
    }
    for namespace in namespaces_at(place) {
        writer.start("feature").attr("var", namespace).end();
    }
    writer.end();
    writer.finish()
}

fn no_items() -> Bytes {
    Bytes::from_static(b"<query xmlns='http://jabber.org/protocol/disco#items'/>")
}

/// Nodes are those of others: we have none. An empty name names none.
fn has_node(element: Element<'_>) -> bool {
    element.attr("node").is_some_and(|node| !node.is_empty())
}

/// The server.
pub fn server(element: Element<'_>, fabric: &Fabric) -> Service {
    if has_node(element) {
        return Service::refuse(Condition::ItemNotFound);
    }
    if element.ns() == ns::DISCO_INFO {
        // XEP-0077 even where nobody can make an account in-band: passwords can be changed, and accounts removed.
        return Service::Answer(info(&[("server", "im", "Muster")], Place::DiscoServer));
    }
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::DISCO_ITEMS);
    writer
        .start("item")
        .attr("jid", &fabric.settings.constants.rooms_domain)
        .attr("name", "Rooms")
        .end();
    writer.end();
    Service::Answer(writer.finish())
}

/// What every account answers to those who may ask.
///
/// # Errors
/// `item-not-found` for a node.
pub fn account(element: Element<'_>) -> Result<Bytes, StanzaError> {
    if has_node(element) {
        return Err(StanzaError::new(Condition::ItemNotFound));
    }
    Ok(match element.ns() {
        ns::DISCO_INFO => info(&[("account", "registered", "")], Place::DiscoAccount),
        _ => no_items(),
    })
}

/// The rooms' service.
pub fn rooms_service(element: Element<'_>) -> Service {
    if has_node(element) {
        return Service::refuse(Condition::ItemNotFound);
    }
    Service::Answer(info(&[("conference", "text", "Rooms")], Place::DiscoRooms))
}

/// The rooms of all partitions that the asker may know of. XEP-0045 §6.3.
///
/// # Errors
/// When an owner doesn't answer: half a list would pass for a whole one.
pub async fn rooms(fabric: &Arc<Fabric>, asker: BareJid) -> Result<Bytes, StanzaError> {
    let questions = fabric.partitions.iter().map(|place| {
        let query = Query::Room(RoomQuery::Rooms {
            asker: asker.clone(),
        });
        ask_partition(fabric, place.id, query)
    });
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::DISCO_ITEMS);
    for reply in futures_util::future::join_all(questions).await {
        match reply? {
            Reply::Payload(items) => {
                writer.raw(&items);
            }
            Reply::Refused(error) => return Err(*error),
            _ => return Err(StanzaError::new(Condition::InternalServerError)),
        }
    }
    writer.end();
    Ok(writer.finish())
}

/// Asks a partition's owner, whatever the key.
///
/// # Errors
/// When it doesn't answer.
pub async fn ask_partition(
    fabric: &Fabric,
    partition: cluster::PartitionId,
    query: Query,
) -> Result<Reply, StanzaError> {
    use crate::link::{Caller, Outcome, ToLink};
    use cluster::link::protocol::AskReply;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let unavailable = crate::negotiation::unavailable_now;
    let actors = fabric.actors(partition).ok_or_else(unavailable)?;
    actors
        .link
        .send(ToLink::Ask {
            caller: Caller::Task(sender),
            query: Box::new(query),
        })
        .await
        .map_err(|_| unavailable())?;
    match receiver.await {
        Ok(Outcome::Replied(AskReply::Reply(reply))) => Ok(reply),
        Ok(Outcome::Replied(AskReply::Refused(error))) => Err(*error),
        _ => Err(unavailable()),
    }
}
