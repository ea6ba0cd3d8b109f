//! XEP-0280: carbons, on or off for a session.

use xmpp::scan::Element;
use xmpp::stanza_error::Condition;

use super::Service;

/// `<enable/>` or `<disable/>`.
pub fn own(element: Element<'_>, set: bool) -> Service {
    match set {
        true => Service::Carbons(element.name() == "enable"),
        false => Service::refuse(Condition::BadRequest),
    }
}
