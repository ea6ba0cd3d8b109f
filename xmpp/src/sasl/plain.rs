//! PLAIN (RFC 4616): the password itself, so only on an encrypted stream.

use std::fmt;

use super::{Password, Refusal, SaslCondition, StoredCredentials};

/// The one message of the mechanism: `[authzid] NUL authcid NUL passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainMessage {
    /// Whom the client wants to act as; empty becomes `None`.
    pub authzid: Option<String>,
    /// The user's name as sent.
    pub username: String,
    /// The password as sent.
    pub password: Password,
}

/// Reads the client's message (RFC 4616 §2).
pub fn parse(message: &[u8]) -> Result<PlainMessage, Refusal> {
    let malformed = Refusal::from(SaslCondition::MalformedRequest);
    let text = std::str::from_utf8(message).map_err(|_| malformed)?;
    let mut parts = text.split('\0');
    let (Some(authzid), Some(username), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed);
    };
    if username.is_empty() || password.is_empty() {
        return Err(malformed);
    }
    Ok(PlainMessage {
        authzid: (!authzid.is_empty()).then(|| authzid.to_owned()),
        username: username.to_owned(),
        password: Password::new(password),
    })
}

/// A password to be compared: the work of one PBKDF2, which the caller does where it blocks nobody.
#[derive(Clone)]
pub struct PasswordCheck {
    password: Password,
    credentials: StoredCredentials,
    known: bool,
}

impl PasswordCheck {
    /// For a user who exists.
    pub fn against(password: Password, credentials: StoredCredentials) -> PasswordCheck {
        PasswordCheck {
            password,
            credentials,
            known: true,
        }
    }

    /// For one who does not: the same work against decoy keys, then always refused.
    pub fn decoy(password: Password, credentials: StoredCredentials) -> PasswordCheck {
        PasswordCheck {
            password,
            credentials,
            known: false,
        }
    }

    /// Compares. Takes milliseconds by design.
    pub fn run(&self) -> PasswordVerdict {
        let matches = self.credentials.verify_plain(&self.password);
        if matches && self.known {
            PasswordVerdict::Right
        } else {
            PasswordVerdict::Wrong
        }
    }
}

impl fmt::Debug for PasswordCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordCheck(…)")
    }
}

/// What a [`PasswordCheck`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordVerdict {
    /// It is the user's password.
    Right,
    /// It is not, or there is no such user.
    Wrong,
}
