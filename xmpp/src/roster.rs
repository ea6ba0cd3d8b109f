//! Rosters on the wire (RFC 6121 §2).

use std::collections::BTreeSet;

use crate::jid::BareJid;
use crate::ns;
use crate::payload::{PayloadError, required_jid};
use crate::scan::Element;
use crate::stanza_error::Condition;
use crate::wire_names::wire_names;
use crate::write::XmlWriter;

wire_names! {
    /// Who sees whose presence (§2.1.2.5). `remove` is a request, not a state.
    Subscription {
        /// Nobody.
        None = "none",
        /// The user sees the contact's.
        To = "to",
        /// The contact sees the user's.
        From = "from",
        /// Both.
        Both = "both",
    }
}

/// A contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterItem {
    /// The contact's address.
    pub jid: BareJid,
    /// What the user calls it.
    pub name: Option<String>,
    /// Who sees whose presence.
    pub subscription: Subscription,
    /// The user has asked to see the contact's presence.
    pub ask: bool,
    /// The user has approved a request in advance (§3.4).
    pub approved: bool,
    /// Groups of contacts.
    pub groups: BTreeSet<String>,
}

impl RosterItem {
    /// Writes `<item/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("item", ns::ROSTER)
            .attr("jid", self.jid.as_str());
        writer
            .attr_opt("name", self.name.as_deref())
            .attr("subscription", self.subscription.name());
        writer.attr_opt("ask", self.ask.then_some("subscribe"));
        writer.attr_opt("approved", self.approved.then_some("true"));
        for group in &self.groups {
            writer.leaf("group", group);
        }
        writer.end();
    }

    /// Reads `<item/>` as a server sends it.
    pub fn parse(item: Element<'_>) -> Result<Self, PayloadError> {
        let change = RosterChange::parse_item(item)?;
        let subscription = item.attr("subscription");
        let subscription = subscription
            .and_then(|name| Subscription::from_name(&name))
            .unwrap_or(Subscription::None);
        let approved = item
            .attr("approved")
            .and_then(|text| crate::payload::boolean(&text))
            .unwrap_or(false);
        Ok(Self {
            jid: change.jid,
            name: change.name,
            subscription,
            ask: item.attr("ask").as_deref() == Some("subscribe"),
            approved,
            groups: change.groups,
        })
    }
}

/// Writes the item of a roster push that tells of a removal (§2.5.2).
pub fn write_removed(jid: &BareJid, writer: &mut XmlWriter) {
    writer
        .start_ns("item", ns::ROSTER)
        .attr("jid", jid.as_str())
        .attr("subscription", "remove")
        .end();
}

/// Starts `<query xmlns='jabber:iq:roster'/>`; the caller writes items and ends it.
pub fn start_query(version: Option<&str>, writer: &mut XmlWriter) {
    writer
        .start_ns("query", ns::ROSTER)
        .attr_opt("ver", version);
}

/// What a client asks to change (§2.3, §2.4, §2.5). What only the server may change is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterChange {
    /// The contact's address.
    pub jid: BareJid,
    /// Remove the contact.
    pub remove: bool,
    /// The new name.
    pub name: Option<String>,
    /// The new groups.
    pub groups: BTreeSet<String>,
}

impl RosterChange {
    /// Reads the query of a roster set, which has exactly one item (§2.3.3).
    pub fn parse(query: Element<'_>) -> Result<Self, PayloadError> {
        let mut items = query
            .children()
            .filter(|child| child.is("item", ns::ROSTER));
        match (items.next(), items.next()) {
            (Some(item), None) => Self::parse_item(item),
            _ => Err(PayloadError::malformed("a roster set has one item")),
        }
    }

    fn parse_item(item: Element<'_>) -> Result<Self, PayloadError> {
        let jid = required_jid(item, "jid", "a contact has an address")?.bare();
        let mut groups = BTreeSet::new();
        for group in item
            .children()
            .filter(|child| child.is("group", ns::ROSTER))
        {
            // §2.3.3: the same group twice is a bad request, an empty name not acceptable.
            let name = group.text().into_owned();
            if name.is_empty() {
                return Err(PayloadError::new(
                    Condition::NotAcceptable,
                    "a group has a name",
                ));
            }
            if !groups.insert(name) {
                return Err(PayloadError::malformed("a contact is in each group once"));
            }
        }
        Ok(Self {
            jid,
            remove: item.attr("subscription").as_deref() == Some("remove"),
            name: item
                .attr("name")
                .filter(|name| !name.is_empty())
                .map(std::borrow::Cow::into_owned),
            groups,
        })
    }
}

/// The version of the roster that the client has (§2.6.2); empty if it has none yet.
pub fn version(query: Element<'_>) -> Option<String> {
    query.attr("ver").map(std::borrow::Cow::into_owned)
}
