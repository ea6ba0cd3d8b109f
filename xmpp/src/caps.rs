//! What an entity can, told with its presence (XEP-0115).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::disco::DiscoInfo;
use crate::ns;
use crate::payload::{PayloadError, required};
use crate::scan::Element;
use crate::write::XmlWriter;

/// The `<c/>` in a presence or among stream features.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caps {
    /// The hash algorithm; `sha-1` for all that is checked.
    pub hash: String,
    /// The software.
    pub node: String,
    /// The hash over what the entity is and can.
    pub ver: String,
}

impl Caps {
    /// Reads `<c/>`.
    pub fn parse(element: Element<'_>) -> Result<Self, PayloadError> {
        Ok(Self {
            hash: required(element, "hash", "capabilities name a hash")?.into_owned(),
            node: required(element, "node", "capabilities name a node")?.into_owned(),
            ver: required(element, "ver", "capabilities have a version")?.into_owned(),
        })
    }

    /// The capabilities of an entity whose disco information is known.
    pub fn of(node: impl Into<String>, info: &DiscoInfo) -> Self {
        Self {
            hash: "sha-1".to_owned(),
            node: node.into(),
            ver: verification(info),
        }
    }

    /// The node under which the information can be asked for (§6.2).
    pub fn disco_node(&self) -> String {
        format!("{}#{}", self.node, self.ver)
    }

    /// Writes `<c/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("c", ns::CAPS)
            .attr("hash", &self.hash)
            .attr("node", &self.node)
            .attr("ver", &self.ver)
            .end();
    }
}

/// The verification string, hashed (§5.1). Sorting is by bytes (`i;octet`).
pub fn verification(info: &DiscoInfo) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut identities: Vec<_> = info.identities.iter().collect();
    identities.sort_by_key(|identity| (&identity.category, &identity.kind, &identity.lang));
    parts.extend(identities.iter().map(|identity| {
        let (lang, name) = (
            identity.lang.as_deref().unwrap_or(""),
            identity.name.as_deref().unwrap_or(""),
        );
        format!("{}/{}/{lang}/{name}", identity.category, identity.kind)
    }));
    let mut features: Vec<_> = info.features.clone();
    features.sort_unstable();
    parts.append(&mut features);
    let mut forms: Vec<_> = info
        .forms
        .iter()
        .filter_map(|form| Some((form.form_type()?, form)))
        .collect();
    forms.sort_by_key(|(form_type, _)| *form_type);
    for (form_type, form) in forms {
        parts.push(form_type.to_owned());
        let mut fields: Vec<_> = form
            .fields
            .iter()
            .filter(|field| field.var != "FORM_TYPE")
            .collect();
        fields.sort_by(|a, b| a.var.cmp(&b.var));
        for field in fields {
            parts.push(field.var.clone());
            let mut values = field.values.clone();
            values.sort_unstable();
            parts.append(&mut values);
        }
    }
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(b"<");
    }
    STANDARD.encode(hash.finalize())
}
