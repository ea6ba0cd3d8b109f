//! SASL as a server speaks it (RFC 6120 §6): mechanisms, failures and the arithmetic behind them.
//!
//! Nothing here knows XML. [`crate::stream`] takes the base64 out of `<auth/>` and `<response/>`, hands the
//! bytes to [`scram`] or [`plain`], and turns a [`Refusal`] into `<failure/>`. Credentials come from outside:
//! the exchange stops at the name of a user and goes on with what was found in the account store.
//!
//! ```text
//!  ClientFirst::parse ──► (look up credentials) ──► ClientFirst::challenge ──► ProofExpected::verify ──► v=…
//!  plain::parse ────────► (look up credentials) ──► PasswordCheck::run (slow: off the event loop)
//! ```
//!
//! A user who does not exist is treated in every step like one who does, with [`DecoyKeys`]: same messages,
//! same work, and the same salt on every attempt and on every node.

pub mod plain;
pub mod scram;
mod stored;

pub use plain::{PasswordCheck, PasswordVerdict};
pub use scram::{ClientFirst, ProofExpected};
pub use stored::{DecoyKeys, Password, PasswordError, ScramHash, ScramKeys, StoredCredentials};

/// A mechanism a client may choose, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// RFC 5802 with SHA-512.
    ScramSha512,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802, mandatory to implement (RFC 6120 §13.8).
    ScramSha1,
    /// RFC 4616; only where the connection is encrypted.
    Plain,
}

impl Mechanism {
    /// Every mechanism in the order in which it is offered.
    pub const ALL: [Mechanism; 4] = [
        Mechanism::ScramSha512,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1,
        Mechanism::Plain,
    ];

    /// The name in IANA's registry of SASL mechanisms.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::Plain => "PLAIN",
        }
    }

    /// The mechanism of this name; names are compared as sent, since RFC 4422 §3.1 has them in upper case.
    pub fn from_name(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|m| m.name() == name)
    }

    /// The hash function of a SCRAM mechanism; `None` for PLAIN.
    pub fn scram_hash(self) -> Option<ScramHash> {
        match self {
            Mechanism::ScramSha512 => Some(ScramHash::Sha512),
            Mechanism::ScramSha256 => Some(ScramHash::Sha256),
            Mechanism::ScramSha1 => Some(ScramHash::Sha1),
            Mechanism::Plain => None,
        }
    }
}

/// The SASL failure conditions of RFC 6120 §6.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaslCondition {
    /// §6.5.1: the client sent `<abort/>`.
    Aborted,
    /// §6.5.2: the account is disabled for now.
    AccountDisabled,
    /// §6.5.3: the password has to be changed first.
    CredentialsExpired,
    /// §6.5.4: the mechanism is only offered on an encrypted stream.
    EncryptionRequired,
    /// §6.5.5: what should be base64 is not.
    IncorrectEncoding,
    /// §6.5.6: the client asked to act as somebody else.
    InvalidAuthzid,
    /// §6.5.7: no such mechanism is offered.
    InvalidMechanism,
    /// §6.5.8: the mechanism's own syntax is violated.
    MalformedRequest,
    /// §6.5.9: the mechanism is weaker than policy allows for this user.
    MechanismTooWeak,
    /// §6.5.10: wrong name, password or proof; never says which.
    NotAuthorized,
    /// §6.5.11: the server cannot tell now.
    TemporaryAuthFailure,
}

impl SaslCondition {
    /// The name of the element that stands for the condition.
    pub fn name(self) -> &'static str {
        match self {
            SaslCondition::Aborted => "aborted",
            SaslCondition::AccountDisabled => "account-disabled",
            SaslCondition::CredentialsExpired => "credentials-expired",
            SaslCondition::EncryptionRequired => "encryption-required",
            SaslCondition::IncorrectEncoding => "incorrect-encoding",
            SaslCondition::InvalidAuthzid => "invalid-authzid",
            SaslCondition::InvalidMechanism => "invalid-mechanism",
            SaslCondition::MalformedRequest => "malformed-request",
            SaslCondition::MechanismTooWeak => "mechanism-too-weak",
            SaslCondition::NotAuthorized => "not-authorized",
            SaslCondition::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }
}

/// Why an authentication attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer proved that it does not know the password: one of its few tries is gone.
    WrongProof,
    /// Anything else; costs no try, because nothing was guessed.
    Condition(SaslCondition),
}

impl Refusal {
    /// What `<failure/>` says.
    pub fn condition(self) -> SaslCondition {
        match self {
            Refusal::WrongProof => SaslCondition::NotAuthorized,
            Refusal::Condition(condition) => condition,
        }
    }
}

impl From<SaslCondition> for Refusal {
    fn from(condition: SaslCondition) -> Refusal {
        Refusal::Condition(condition)
    }
}

#[cfg(test)]
mod tests;
