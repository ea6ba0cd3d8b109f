//! RFC 6121 §2: the roster.

use messaging::command::Command;
use messaging::query::Query;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza_error::Condition;

use super::Service;

/// A roster get or set.
pub fn own(element: Element<'_>, set: bool, user: &BareJid) -> Service {
    if !set {
        let version = element.attr("ver").map(|version| version.into_owned());
        return Service::Query(Box::new(Query::Roster {
            user: user.clone(),
            version,
        }));
    }
    // §2.3.3: exactly one item.
    let mut items = element
        .children()
        .filter(|child| child.is("item", ns::ROSTER));
    let (Some(item), None) = (items.next(), items.next()) else {
        return Service::refuse(Condition::BadRequest);
    };
    let Some(jid) = item.attr("jid") else {
        return Service::refuse(Condition::BadRequest);
    };
    let Ok(jid) = Jid::parse(&jid) else {
        return Service::refuse(Condition::JidMalformed);
    };
    let (user, contact) = (user.clone(), jid.bare());
    // §2.1.2.5: any other `subscription` of a client is ignored.
    if item.attr("subscription").as_deref() == Some("remove") {
        return Service::Command(Box::new(Command::RemoveContact { user, contact }));
    }
    let name = item
        .attr("name")
        .map(|name| name.into_owned())
        .filter(|name| !name.is_empty());
    let groups = item
        .children()
        .filter(|child| child.is("group", ns::ROSTER))
        .map(|group| group.text().into_owned());
    let groups = groups.collect();
    Service::Command(Box::new(Command::SetContact {
        user,
        contact,
        name,
        groups,
    }))
}
