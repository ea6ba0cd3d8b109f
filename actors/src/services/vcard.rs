//! XEP-0054: vcard-temp.

use messaging::command::Command;
use messaging::query::Query;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use super::Service;

/// The own vCard.
pub fn own(element: Element<'_>, set: bool, user: &BareJid) -> Service {
    if !set {
        return Service::Query(Box::new(Query::Vcard {
            user: user.clone(),
            asker: user.clone().into(),
        }));
    }
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.element(element);
    Service::Command(Box::new(Command::SetVcard {
        user: user.clone(),
        element: writer.finish(),
    }))
}
