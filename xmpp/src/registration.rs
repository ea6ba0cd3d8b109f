//! In-band registration (XEP-0077): accounts made, passwords changed and accounts removed by the client itself.
//!
//! Off by default. Before authentication [`crate::stream`] speaks it, so that an account can be made; after
//! that the session does, for passwords and removal. Fields other than user name and password are not asked
//! for, and whatever else a client sends is ignored.

use bytes::Bytes;

use crate::ns;
use crate::sasl::Password;
use crate::scan::Element;
use crate::stanza_error::Condition;
use crate::write::XmlWriter;

/// What a client asks for with `<query xmlns='jabber:iq:register'/>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationRequest {
    /// iq get: which fields are wanted (§3.1).
    Fields,
    /// iq set with both fields: a new account (§3.1), or a new password once authenticated (§3.3).
    Submit {
        /// The local part of the account's address, as sent.
        username: String,
        /// The password, as sent.
        password: Password,
    },
    /// iq set with `<remove/>`: the end of the account (§3.2).
    Remove,
}

/// Why a request cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// §3.1: a field that was asked for is absent or empty.
    #[error("user name or password is missing")]
    FieldMissing,
    /// §3.2: `<remove/>` does not stand alone.
    #[error("<remove/> is not the only element")]
    RemoveNotAlone,
}

impl RegistrationError {
    /// The stanza error that answers it.
    pub fn condition(self) -> Condition {
        match self {
            RegistrationError::FieldMissing => Condition::NotAcceptable,
            RegistrationError::RemoveNotAlone => Condition::BadRequest,
        }
    }
}

impl RegistrationRequest {
    /// Reads the `<query/>` of an iq; `is_set` tells a set from a get.
    pub fn parse(
        query: Element<'_>,
        is_set: bool,
    ) -> Result<RegistrationRequest, RegistrationError> {
        if !is_set {
            return Ok(RegistrationRequest::Fields);
        }
        if query.child("remove", ns::REGISTER).is_some() {
            return if query.children().count() == 1 {
                Ok(RegistrationRequest::Remove)
            } else {
                Err(RegistrationError::RemoveNotAlone)
            };
        }
        let field = |name| {
            let text = query.child(name, ns::REGISTER)?.text().into_owned();
            (!text.is_empty()).then_some(text)
        };
        let username = field("username").ok_or(RegistrationError::FieldMissing)?;
        let password = field("password").ok_or(RegistrationError::FieldMissing)?;
        Ok(RegistrationRequest::Submit {
            username,
            password: Password::new(password),
        })
    }
}

/// The answer to an iq get. `registered` names the account of a client that has one.
pub fn fields(registered: Option<&str>) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer.start_ns("query", ns::REGISTER);
    match registered {
        Some(username) => {
            writer.start("registered").end().leaf("username", username);
        }
        None => {
            writer
                .leaf("instructions", "Choose a user name and a password.")
                .start("username")
                .end();
        }
    }
    writer.start("password").end().end();
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Document, Limits};

    fn check(
        content: &str,
        is_set: bool,
        expected: Result<RegistrationRequest, RegistrationError>,
    ) {
        let xml = format!("<query xmlns='jabber:iq:register'>{content}</query>");
        let document = Document::parse(Bytes::from(xml), &Limits::default()).unwrap();
        assert_eq!(
            RegistrationRequest::parse(document.root(), is_set),
            expected,
            "{content}"
        );
    }

    #[test]
    fn requests_are_read() {
        let submit = |username: &str, password: &str| {
            Ok(RegistrationRequest::Submit {
                username: username.to_owned(),
                password: Password::new(password),
            })
        };
        let missing = Err(RegistrationError::FieldMissing);
        check("", false, Ok(RegistrationRequest::Fields));
        check("<remove/>", false, Ok(RegistrationRequest::Fields));
        check("<remove/>", true, Ok(RegistrationRequest::Remove));
        check(
            "<remove/><username>bill</username>",
            true,
            Err(RegistrationError::RemoveNotAlone),
        );
        check(
            "<username>bill</username><password>Calliope</password>",
            true,
            submit("bill", "Calliope"),
        );
        check(
            "<password>a &lt; b</password><email/><username>bill</username>",
            true,
            submit("bill", "a < b"),
        );
        check(
            "<username>bill</username><password/>",
            true,
            missing.clone(),
        );
        check("<username/><password>x</password>", true, missing.clone());
        check(
            "<username xmlns='other'>bill</username><password>x</password>",
            true,
            missing.clone(),
        );
        check("", true, missing);
    }

    #[test]
    fn fields_are_told() {
        assert_eq!(
            fields(None),
            "<query xmlns='jabber:iq:register'><instructions>Choose a user name and a password.</instructions>\
             <username/><password/></query>"
        );
        assert_eq!(
            fields(Some("bill")),
            "<query xmlns='jabber:iq:register'><registered/><username>bill</username><password/></query>"
        );
    }

    #[test]
    fn a_password_is_not_shown() {
        let request = RegistrationRequest::Submit {
            username: "bill".to_owned(),
            password: Password::new("Calliope"),
        };
        assert!(!format!("{request:?}").contains("Calliope"));
    }
}
