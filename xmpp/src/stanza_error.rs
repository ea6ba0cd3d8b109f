//! Stanza errors: what went wrong with one stanza, and how to tell its sender (RFC 6120 §8.3).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::jid::Jid;
use crate::ns;
use crate::scan::Element;
use crate::stanza::{Stanza, StanzaKind};
use crate::wire_names::wire_names;
use crate::write::XmlWriter;

wire_names! {
    /// What the sender may do about the error (RFC 6120 §8.3.2).
    StanzaErrorType {
        /// Authenticate or get permission, then retry.
        Auth = "auth",
        /// Do not retry.
        Cancel = "cancel",
        /// Go on: it was only a warning.
        Continue = "continue",
        /// Change the request, then retry.
        Modify = "modify",
        /// Retry later.
        Wait = "wait",
    }
}

wire_names! {
    /// The defined conditions of stanza errors (RFC 6120 §8.3.3).
    Condition {
        /// §8.3.3.1: the stanza cannot be understood.
        BadRequest = "bad-request",
        /// §8.3.3.2: something of that name exists already.
        Conflict = "conflict",
        /// §8.3.3.3: known, but not implemented here.
        FeatureNotImplemented = "feature-not-implemented",
        /// §8.3.3.4: the sender lacks permission.
        Forbidden = "forbidden",
        /// §8.3.3.5: the recipient moved for good.
        Gone = "gone",
        /// §8.3.3.6: a fault of the server.
        InternalServerError = "internal-server-error",
        /// §8.3.3.7: there is no such thing.
        ItemNotFound = "item-not-found",
        /// §8.3.3.8: an address is malformed.
        JidMalformed = "jid-malformed",
        /// §8.3.3.9: the stanza breaks a rule the recipient sets.
        NotAcceptable = "not-acceptable",
        /// §8.3.3.10: nobody may do that.
        NotAllowed = "not-allowed",
        /// §8.3.3.11: the sender must authenticate first.
        NotAuthorized = "not-authorized",
        /// §8.3.3.12: the stanza breaks a local policy.
        PolicyViolation = "policy-violation",
        /// §8.3.3.13: the recipient is away for now.
        RecipientUnavailable = "recipient-unavailable",
        /// §8.3.3.14: the recipient is elsewhere for now.
        Redirect = "redirect",
        /// §8.3.3.15: the sender must register first.
        RegistrationRequired = "registration-required",
        /// §8.3.3.16: the remote domain does not exist.
        RemoteServerNotFound = "remote-server-not-found",
        /// §8.3.3.17: the remote domain does not answer.
        RemoteServerTimeout = "remote-server-timeout",
        /// §8.3.3.18: too few resources to serve the request.
        ResourceConstraint = "resource-constraint",
        /// §8.3.3.19: the service is not offered here.
        ServiceUnavailable = "service-unavailable",
        /// §8.3.3.20: the sender must subscribe first.
        SubscriptionRequired = "subscription-required",
        /// §8.3.3.21: none of the others; an application condition tells more.
        UndefinedCondition = "undefined-condition",
        /// §8.3.3.22: understood, but not expected now.
        UnexpectedRequest = "unexpected-request",
    }
}

impl Condition {
    /// The error type that RFC 6120 §8.3.3 associates with the condition; the first, where it names two.
    pub fn default_type(self) -> StanzaErrorType {
        match self {
            Self::BadRequest
            | Self::JidMalformed
            | Self::NotAcceptable
            | Self::PolicyViolation
            | Self::Redirect => StanzaErrorType::Modify,
            Self::Forbidden
            | Self::NotAuthorized
            | Self::RegistrationRequired
            | Self::SubscriptionRequired => StanzaErrorType::Auth,
            Self::RecipientUnavailable
            | Self::RemoteServerTimeout
            | Self::ResourceConstraint
            | Self::UnexpectedRequest => StanzaErrorType::Wait,
            Self::Conflict
            | Self::FeatureNotImplemented
            | Self::Gone
            | Self::InternalServerError
            | Self::ItemNotFound
            | Self::NotAllowed
            | Self::RemoteServerNotFound
            | Self::ServiceUnavailable
            | Self::UndefinedCondition => StanzaErrorType::Cancel,
        }
    }
}

/// An application-specific condition (RFC 6120 §8.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppCondition {
    /// The element's name.
    pub name: Cow<'static, str>,
    /// The element's namespace.
    pub ns: Cow<'static, str>,
}

/// What went wrong with a stanza.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("stanza error {condition} ({kind})")]
pub struct StanzaError {
    /// What the sender may do about it.
    pub kind: StanzaErrorType,
    /// What went wrong.
    pub condition: Condition,
    /// A description for people.
    pub text: Option<String>,
    /// A condition of the application's own.
    pub app: Option<Box<AppCondition>>,
    /// Who found the error (RFC 6120 §8.3.1, attribute `by`).
    pub by: Option<Jid>,
    /// The new address; only with [`Condition::Gone`] and [`Condition::Redirect`].
    pub uri: Option<String>,
}

impl StanzaError {
    /// An error of the condition's usual type.
    pub fn new(condition: Condition) -> Self {
        Self {
            kind: condition.default_type(),
            condition,
            text: None,
            app: None,
            by: None,
            uri: None,
        }
    }

    /// The same error with another type.
    pub fn with_kind(mut self, kind: StanzaErrorType) -> Self {
        self.kind = kind;
        self
    }

    /// Adds a description for people.
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Adds a condition of the application's own.
    pub fn with_app(
        mut self,
        name: impl Into<Cow<'static, str>>,
        ns: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.app = Some(Box::new(AppCondition {
            name: name.into(),
            ns: ns.into(),
        }));
        self
    }

    /// Adds who found the error.
    pub fn with_by(mut self, by: impl Into<Jid>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Adds the new address.
    pub fn with_uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// The stanza that tells the sender of `stanza`: addresses swapped, id kept.
    ///
    /// `None` if it must not be answered: an error never is (RFC 6120 §8.3.1), nor is an iq result.
    pub fn reply_to(&self, stanza: &Stanza) -> Option<Stanza> {
        let type_ = stanza.type_.as_deref();
        if type_ == Some("error")
            || (stanza.kind == StanzaKind::Iq && !matches!(type_, Some("get" | "set")))
        {
            return None;
        }
        let mut writer = XmlWriter::new(ns::CLIENT);
        self.write(&mut writer);
        Some(Stanza {
            kind: stanza.kind,
            from: stanza.to.clone(),
            to: stanza.from.clone(),
            id: stanza.id.clone(),
            type_: Some("error".into()),
            lang: None,
            payload: writer.finish(),
        })
    }

    /// Writes the `<error/>` element.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("error", ns::CLIENT)
            .attr("type", self.kind.name());
        writer.attr_opt("by", self.by.as_ref().map(Jid::as_str));
        writer.start_ns(self.condition.name(), ns::STANZA_ERROR);
        if let Some(uri) = &self.uri {
            writer.text(uri);
        }
        writer.end();
        if let Some(text) = &self.text {
            writer.start_ns("text", ns::STANZA_ERROR).text(text).end();
        }
        if let Some(app) = &self.app {
            writer.start_ns(&app.name, &app.ns).end();
        }
        writer.end();
    }

    /// Reads an `<error/>` element. What is unknown or missing becomes `undefined-condition` and `cancel`, since an
    /// error that cannot be read is still an error (RFC 6120 §8.3.3.21).
    pub fn parse(element: Element<'_>) -> Self {
        let defined =
            |child: &Element<'_>| child.ns() == ns::STANZA_ERROR && child.name() != "text";
        let found = element.children().find(defined);
        let condition = found.and_then(|child| Condition::from_name(child.name()));
        let condition = condition.unwrap_or(Condition::UndefinedCondition);
        let kind = element
            .attr("type")
            .and_then(|kind| StanzaErrorType::from_name(&kind));
        let carries_uri = matches!(condition, Condition::Gone | Condition::Redirect);
        let uri = found
            .filter(|_| carries_uri)
            .map(|child| child.text().into_owned());
        let app = element
            .children()
            .find(|child| child.ns() != ns::STANZA_ERROR && child.ns() != ns::CLIENT);
        Self {
            kind: kind.unwrap_or(condition.default_type()),
            condition,
            text: element
                .child("text", ns::STANZA_ERROR)
                .map(|text| text.text().into_owned()),
            app: app.map(|app| {
                Box::new(AppCondition {
                    name: app.name().to_owned().into(),
                    ns: app.ns().to_owned().into(),
                })
            }),
            by: element.attr("by").and_then(|by| Jid::parse(&by).ok()),
            uri: uri.filter(|uri| !uri.is_empty()),
        }
    }
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        Self::new(condition)
    }
}
