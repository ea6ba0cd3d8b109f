//! Why a room refuses, and the one table that says it in stanza errors.

use xmpp::stanza_error::{Condition, StanzaError, StanzaErrorType};

use crate::outbox::WAY_FULL;

/// Why a command or a question was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// §7.2.10–7.2.11: there is no such room, or it is new and not yet configured.
    #[error("there is no such room")]
    NoSuchRoom,
    /// There is nobody under that nickname.
    #[error("nobody here has this nickname")]
    NoSuchOccupant,
    /// §7.2.1: no nickname, or one that can't be an occupant's JID.
    #[error("the nickname is missing or malformed")]
    NickMalformed,
    /// §7.2.8 and §7.6: somebody else has the nickname.
    #[error("the nickname is taken")]
    NickTaken,
    /// §7.2.5: a password is required.
    #[error("the password is missing or wrong")]
    PasswordWrong,
    /// §7.2.6: not on the member list.
    #[error("only members may enter")]
    MembersOnly,
    /// §7.2.7: banned.
    #[error("you are banned from this room")]
    Banned,
    /// §7.2.9: no seat is left.
    #[error("the room is full")]
    Full,
    /// §7.4 and §7.5: only occupants may do this.
    #[error("you are not in this room")]
    NotOccupant,
    /// The sender's role or affiliation doesn't allow it.
    #[error("you lack the right to do this")]
    Forbidden,
    /// Nobody of the sender's affiliation may do this to the target.
    #[error("this can't be done to this person")]
    NotAllowed,
    /// §10.1.1: somebody who owns so many rooms makes no more.
    #[error("you own as many rooms as you may")]
    TooManyRooms,
    /// The account of the session was removed.
    #[error("your account has been removed")]
    AccountGone,
    /// §10.4: the last owner can't go; nobody can ban or kick themselves.
    #[error("this can't be done to yourself, or the room would lose its last owner")]
    Conflict,
    /// §10.1.3: the configuration can't be taken over.
    #[error("a value of the form is not acceptable")]
    FormUnacceptable,
    /// The request lacks something or contradicts itself.
    #[error("the request is incomplete or contradicts itself")]
    BadRequest,
    /// An address in the request is malformed.
    #[error("an address is malformed")]
    JidMalformed,
    /// The invited person's domain is not served here.
    #[error("the domain can't be reached")]
    RemoteDomain,
    /// RFC 6120 §8.3.3.18: too much waits on the way to whom it concerns.
    #[error("{}", WAY_FULL)]
    WayFull,
    /// The node of service discovery, or the list, isn't known.
    #[error("there is no such item")]
    NoSuchItem,
}

impl Refusal {
    /// The condition and type of the error; XEP-0045's examples say which.
    pub fn to_stanza_error(self) -> StanzaError {
        use StanzaErrorType::{Auth, Cancel, Modify, Wait};
        let (condition, kind) = match self {
            Refusal::NoSuchRoom | Refusal::NoSuchOccupant | Refusal::NoSuchItem => {
                (Condition::ItemNotFound, Cancel)
            }
            Refusal::NickMalformed | Refusal::JidMalformed => (Condition::JidMalformed, Modify),
            Refusal::NickTaken | Refusal::Conflict => (Condition::Conflict, Cancel),
            Refusal::PasswordWrong | Refusal::AccountGone => (Condition::NotAuthorized, Auth),
            Refusal::MembersOnly => (Condition::RegistrationRequired, Auth),
            Refusal::Banned | Refusal::Forbidden => (Condition::Forbidden, Auth),
            Refusal::Full => (Condition::ServiceUnavailable, Wait),
            Refusal::WayFull => (Condition::ResourceConstraint, Wait),
            Refusal::NotOccupant | Refusal::FormUnacceptable => (Condition::NotAcceptable, Modify),
            Refusal::NotAllowed | Refusal::TooManyRooms => (Condition::NotAllowed, Cancel),
            Refusal::BadRequest => (Condition::BadRequest, Modify),
            Refusal::RemoteDomain => (Condition::RemoteServerNotFound, Cancel),
        };
        StanzaError::new(condition)
            .with_kind(kind)
            .with_text(self.to_string())
    }
}
