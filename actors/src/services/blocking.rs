//! XEP-0191: the blocking command.

use messaging::command::Command;
use messaging::query::Query;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza_error::Condition;

use super::Service;

/// JIDs in one request at most.
const ITEMS_MAX: usize = 1_000;

/// The list, block, unblock.
pub fn own(element: Element<'_>, set: bool, user: &BareJid) -> Service {
    let user = user.clone();
    if !set {
        return match element.name() {
            "blocklist" => Service::Query(Box::new(Query::Blocklist { user })),
            _ => Service::refuse(Condition::BadRequest),
        };
    }
    let mut items = Vec::new();
    for item in element
        .children()
        .filter(|child| child.is("item", ns::BLOCKING))
    {
        let Some(jid) = item.attr("jid") else {
            return Service::refuse(Condition::BadRequest);
        };
        let Ok(jid) = Jid::parse(&jid) else {
            return Service::refuse(Condition::JidMalformed);
        };
        items.push(jid);
    }
    if items.len() > ITEMS_MAX {
        return Service::refuse(Condition::PolicyViolation);
    }
    match element.name() {
        // §3.3: to block nobody is an error; to unblock nobody is to unblock all.
        "block" if items.is_empty() => Service::refuse(Condition::BadRequest),
        "block" => Service::Command(Box::new(Command::Block { user, items })),
        "unblock" => Service::Command(Box::new(Command::Unblock { user, items })),
        _ => Service::refuse(Condition::BadRequest),
    }
}
