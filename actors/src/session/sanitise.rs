//! What only servers say is stripped from what clients send (reliability §4).

use bytes::Bytes;
use xmpp::ns;
use xmpp::scan::Element;
use xmpp::write::XmlWriter;

use super::SessionActor;

impl SessionActor {
    /// The stanza's payload without server-owned elements; `None` when there are none.
    pub(super) fn sanitised(&self, stanza: &Element<'_>, to_room: bool) -> Option<Bytes> {
        if !stanza
            .children()
            .any(|child| self.is_server_owned(&child, to_room))
        {
            return None;
        }
        let mut writer = XmlWriter::new(ns::CLIENT);
        for child in stanza
            .children()
            .filter(|child| !self.is_server_owned(child, to_room))
        {
            writer.element(child);
        }
        Some(writer.finish())
    }

    fn is_server_owned(&self, element: &Element<'_>, to_room: bool) -> bool {
        match (element.name(), element.ns()) {
            ("stanza-id", ns::STANZA_ID) | ("delay", ns::DELAY) => {
                let by = if element.name() == "delay" {
                    "from"
                } else {
                    "by"
                };
                // Our domains, our rooms, our accounts: nobody else may speak for them.
                element.attr(by).is_some_and(|by| self.is_ours(&by))
            }
            ("occupant-id", ns::OCCUPANT_ID) => true,
            ("sent" | "received", ns::CARBONS) => true,
            ("result", ns::MAM) => true,
            // To a room it is judged by the room's rules; to users only a room may say it.
            ("x", ns::MUC_USER) => !to_room && !element.is_empty(),
            _ => false,
        }
    }

    fn is_ours(&self, address: &str) -> bool {
        let constants = &self.fabric.settings.constants;
        xmpp::jid::Jid::parse(address).is_ok_and(|jid| {
            jid.domain() == constants.domain || jid.domain() == constants.rooms_domain
        })
    }
}
