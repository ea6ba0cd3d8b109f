//! What an entity is, can and has (XEP-0030), with extended information (XEP-0128).

use crate::data_form::DataForm;
use crate::jid::Jid;
use crate::ns;
use crate::payload::{PayloadError, required, required_jid};
use crate::scan::Element;
use crate::write::XmlWriter;

/// What an entity is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The category, such as `account`.
    pub category: String,
    /// The type within the category, such as `registered`.
    pub kind: String,
    /// The language of the name.
    pub lang: Option<String>,
    /// A name for people.
    pub name: Option<String>,
}

impl Identity {
    /// An identity without a name.
    pub fn new(category: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            category: category.into(),
            kind: kind.into(),
            lang: None,
            name: None,
        }
    }

    /// Adds a name for people.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// The answer to a disco#info query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiscoInfo {
    /// The node that was asked about.
    pub node: Option<String>,
    /// What the entity is: at least one.
    pub identities: Vec<Identity>,
    /// What it can: at least `disco#info`.
    pub features: Vec<String>,
    /// What else there is to know.
    pub forms: Vec<DataForm>,
}

impl DiscoInfo {
    /// Reads `<query xmlns='…disco#info'/>`.
    pub fn parse(query: Element<'_>) -> Result<Self, PayloadError> {
        let mut info = Self {
            node: node(query),
            ..Self::default()
        };
        for child in query.children() {
            match (child.name(), child.ns()) {
                ("identity", ns::DISCO_INFO) => info.identities.push(Identity {
                    category: required(child, "category", "an identity has a category")?
                        .into_owned(),
                    kind: required(child, "type", "an identity has a type")?.into_owned(),
                    lang: child.lang().map(std::borrow::Cow::into_owned),
                    name: child.attr("name").map(std::borrow::Cow::into_owned),
                }),
                ("feature", ns::DISCO_INFO) => {
                    info.features
                        .push(required(child, "var", "a feature has a name")?.into_owned());
                }
                ("x", ns::DATA_FORM) => info.forms.push(DataForm::parse(child)?),
                _ => {}
            }
        }
        Ok(info)
    }

    /// Writes `<query xmlns='…disco#info'/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("query", ns::DISCO_INFO)
            .attr_opt("node", self.node.as_deref());
        for identity in &self.identities {
            writer
                .start("identity")
                .attr("category", &identity.category)
                .attr("type", &identity.kind);
            writer
                .attr_opt("xml:lang", identity.lang.as_deref())
                .attr_opt("name", identity.name.as_deref())
                .end();
        }
        for feature in &self.features {
            writer.start("feature").attr("var", feature).end();
        }
        for form in &self.forms {
            form.write(writer);
        }
        writer.end();
    }
}

/// An item that belongs to an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoItem {
    /// The item's address.
    pub jid: Jid,
    /// The node at that address.
    pub node: Option<String>,
    /// A name for people.
    pub name: Option<String>,
}

/// The answer to a disco#items query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiscoItems {
    /// The node that was asked about.
    pub node: Option<String>,
    /// The items.
    pub items: Vec<DiscoItem>,
}

impl DiscoItems {
    /// Reads `<query xmlns='…disco#items'/>`.
    pub fn parse(query: Element<'_>) -> Result<Self, PayloadError> {
        let item = |item: Element<'_>| {
            Ok(DiscoItem {
                jid: required_jid(item, "jid", "an item has an address")?,
                node: node(item),
                name: item.attr("name").map(std::borrow::Cow::into_owned),
            })
        };
        let items = query
            .children()
            .filter(|child| child.is("item", ns::DISCO_ITEMS));
        Ok(Self {
            node: node(query),
            items: items.map(item).collect::<Result<_, PayloadError>>()?,
        })
    }

    /// Writes `<query xmlns='…disco#items'/>` up to its items; the caller may add a `<set/>`, and ends it.
    pub fn write_open(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("query", ns::DISCO_ITEMS)
            .attr_opt("node", self.node.as_deref());
        for item in &self.items {
            writer
                .start("item")
                .attr("jid", item.jid.as_str())
                .attr_opt("node", item.node.as_deref());
            writer.attr_opt("name", item.name.as_deref()).end();
        }
    }

    /// Writes `<query xmlns='…disco#items'/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        self.write_open(writer);
        writer.end();
    }
}

/// The node that a query is about.
pub fn node(query: Element<'_>) -> Option<String> {
    query.attr("node").map(std::borrow::Cow::into_owned)
}
