//! XEP-0049: private XML storage.

use messaging::command::Command;
use messaging::query::Query;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::stanza_error::Condition;
use xmpp::write::XmlWriter;

use super::Service;

/// §3: one element a request, in a namespace of its own.
pub fn own(element: Element<'_>, set: bool, user: &BareJid) -> Service {
    let mut children = element.children();
    let (Some(child), None) = (children.next(), children.next()) else {
        return Service::refuse(Condition::BadRequest);
    };
    if child.ns() == ns::PRIVATE || child.ns().is_empty() {
        return Service::refuse(Condition::NotAcceptable);
    }
    let name = format!("{{{}}}{}", child.ns(), child.name());
    let mut writer = XmlWriter::new(ns::CLIENT);
    if set {
        writer.element(child);
        let command = Command::SetPrivate {
            user: user.clone(),
            name,
            element: writer.finish(),
        };
        return Service::Command(Box::new(command));
    }
    writer.start_ns(child.name(), child.ns()).end();
    Service::Query(Box::new(Query::Private {
        user: user.clone(),
        name,
        empty: writer.finish(),
    }))
}
