//! Who may do what: bearer tokens and roles, as arguments that handlers ask for.
//!
//! | | operator | support | auditor |
//! |---|---|---|---|
//! | [`See`]: status, nodes, accounts, metrics | yes | yes | yes |
//! | [`Inspect`]: operators, tokens, the audit log | yes | – | yes |
//! | [`ChangeUsers`]: accounts and passwords | yes | yes | – |
//! | [`Operate`]: nodes, tokens, operators | yes | – | – |
//!
//! What a request shows is a bearer token, or the cookie of who has signed in with one to the console page; the cookie is good only
//! from that page ([`crate::same_origin`]), and a bearer token goes before it.
//!
//! Who has the token of the node's own data folder is an operator, whatever the pool says: so nobody is locked out.

use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use subtle::ConstantTimeEq;

use crate::error::ControlError;
use crate::report::access::{Identity, Role};
use crate::same_origin;
use crate::sign_in::name_of;
use crate::sign_in::register::{Name, SignIns};

/// The secret that makes somebody an operator. `Debug` does not show it.
#[derive(Clone)]
pub struct ControlToken(String);

/// The text is too weak to be a token or could not travel in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is {} to {} printable ASCII characters without white space",
    ControlToken::LENGTH_MIN,
    ControlToken::LENGTH_MAX
)]
pub struct ControlTokenError;

impl ControlToken {
    /// Fewer characters could be guessed.
    pub const LENGTH_MIN: usize = 32;
    /// More characters serve nothing.
    pub const LENGTH_MAX: usize = 256;

    /// Checks a token.
    ///
    /// # Errors
    /// If it is too short, too long or no word of printable ASCII.
    pub fn new(text: &str) -> Result<ControlToken, ControlTokenError> {
        let length = (Self::LENGTH_MIN..=Self::LENGTH_MAX).contains(&text.len());
        if length && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(ControlToken(text.to_owned()))
        } else {
            Err(ControlTokenError)
        }
    }

    /// Whether this is the token. Takes the same time wherever the two differ.
    fn is(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlToken(…)")
    }
}

/// Tells whose token it is.
pub(crate) type Identify = Box<dyn Fn(&str) -> Option<Identity>>;

/// The rules of one control port.
pub(crate) struct Access {
    pub(crate) token: ControlToken,
    /// Who has that token.
    pub(crate) root: String,
    /// Whose token another one is.
    pub(crate) identify: Identify,
    pub(crate) health_open: bool,
    pub(crate) metrics_open: bool,
    /// Who is signed in to the console page.
    pub(crate) sign_ins: Arc<Mutex<SignIns>>,
}

/// What a request shows.
pub(crate) enum Credential {
    /// A token.
    Bearer(String),
    /// The name of a sign-in.
    SignedIn {
        name: Name,
        /// A person asks, and not a clock.
        by_person: bool,
    },
}

impl Access {
    /// Whose credential it is, now.
    pub(crate) fn who(&self, credential: &Credential) -> Option<Identity> {
        match credential {
            Credential::Bearer(token) => self.who_has(token),
            Credential::SignedIn { name, by_person } => {
                let token = self.sign_ins().token(name, *by_person, Instant::now())?;
                self.who_has(&token)
            }
        }
    }

    fn who_has(&self, token: &str) -> Option<Identity> {
        if self.token.is(token.as_bytes()) {
            return Some(Identity {
                name: self.root.clone(),
                role: Role::Operator,
            });
        }
        (self.identify)(token)
    }

    pub(crate) fn sign_ins(&self) -> MutexGuard<'_, SignIns> {
        self.sign_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that some roles may do.
pub(crate) trait Permission: 'static {
    /// Whether a role may.
    fn allows(role: Role) -> bool;
}

/// To see the pool and its accounts.
pub(crate) struct See;

/// To see who has access, and what was done.
pub(crate) struct Inspect;

/// To change accounts.
pub(crate) struct ChangeUsers;

/// To change the pool, and who has access.
pub(crate) struct Operate;

impl Permission for See {
    fn allows(_: Role) -> bool {
        true
    }
}

impl Permission for Inspect {
    fn allows(role: Role) -> bool {
        matches!(role, Role::Operator | Role::Auditor)
    }
}

impl Permission for ChangeUsers {
    fn allows(role: Role) -> bool {
        matches!(role, Role::Operator | Role::Support)
    }
}

impl Permission for Operate {
    fn allows(role: Role) -> bool {
        role == Role::Operator
    }
}

/// Who asks, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    /// An operator's name, or `root@NODE`.
    pub(crate) name: String,
    /// The address that the request came from.
    pub(crate) from: String,
}

/// The request comes from somebody who may do this.
pub(crate) struct May<P> {
    pub(crate) actor: Actor,
    pub(crate) role: Role,
    access: Data<Access>,
    credential: Credential,
    permission: PhantomData<P>,
}

impl<P: Permission> May<P> {
    /// Whether they still may, for answers that go on for long: a token may be revoked meanwhile.
    pub(crate) fn still(&self) -> bool {
        let credential = match &self.credential {
            Credential::SignedIn { name, .. } => &Credential::SignedIn {
                name: *name,
                by_person: false,
            },
            bearer => bearer,
        };
        let identity = self.access.who(credential);
        identity.is_some_and(|identity| P::allows(identity.role))
    }
}

/// The request may see the node's health.
pub(crate) struct HealthReader;

/// The request may see the node's counters.
pub(crate) struct MetricsReader;

impl<P: Permission> FromRequest for May<P> {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(permit::<P>(request))
    }
}

fn permit<P: Permission>(request: &HttpRequest) -> Result<May<P>, ControlError> {
    let (access, credential) = credential(request)?;
    let identity = access.who(&credential).ok_or(ControlError::Unauthorized)?;
    let Identity { name, role } = identity;
    if !P::allows(role) {
        tracing::warn!(%name, %role, path = request.path(), "an operator may not do this");
        return Err(ControlError::Forbidden { who: name, role });
    }
    let from = from(request);
    Ok(May {
        actor: Actor { name, from },
        role,
        access,
        credential,
        permission: PhantomData,
    })
}

/// The address that a request came from.
pub(crate) fn from(request: &HttpRequest) -> String {
    let address = request.peer_addr();
    address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string())
}

impl FromRequest for HealthReader {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(open_or_identified(request, |access| access.health_open).map(|()| HealthReader))
    }
}

impl FromRequest for MetricsReader {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(open_or_identified(request, |access| access.metrics_open).map(|()| MetricsReader))
    }
}

fn open_or_identified(
    request: &HttpRequest,
    is_open: fn(&Access) -> bool,
) -> Result<(), ControlError> {
    let access = request.app_data::<Data<Access>>();
    match access.is_some_and(|access| is_open(access)) {
        true => Ok(()),
        false => {
            let (access, credential) = credential(request)?;
            let known = access.who(&credential).map(drop);
            known.ok_or(ControlError::Unauthorized)
        }
    }
}

/// What the request shows.
fn credential(request: &HttpRequest) -> Result<(Data<Access>, Credential), ControlError> {
    // Without rules nobody may do anything.
    let access = request.app_data::<Data<Access>>();
    let access = access.ok_or(ControlError::Unauthorized)?.clone();
    let headers = request.headers();
    if !headers.contains_key(AUTHORIZATION) {
        let name = name_of(headers).ok_or(ControlError::Unauthorized)?;
        if !same_origin::is_own(request.method(), headers) {
            return Err(ControlError::OtherOrigin);
        }
        let by_person = same_origin::is_by_a_person(headers);
        return Ok((access, Credential::SignedIn { name, by_person }));
    }
    let mut headers = headers.get_all(AUTHORIZATION);
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(ControlError::Unauthorized);
    };
    let offered = bearer(header.as_bytes()).and_then(|token| std::str::from_utf8(token).ok());
    let token = offered.ok_or(ControlError::Unauthorized)?.to_owned();
    Ok((access, Credential::Bearer(token)))
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1); the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_tokens_are_refused() {
        let check = |text: &str, good: bool| {
            assert_eq!(ControlToken::new(text).is_ok(), good, "{text:?}");
        };
        check(&"x".repeat(32), true);
        check(&"x".repeat(256), true);
        check(&"x".repeat(31), false);
        check(&"x".repeat(257), false);
        check("", false);
        check(&format!("{} {}", "x".repeat(20), "y".repeat(20)), false);
        check(&"ä".repeat(20), false);
        check(&format!("{}\n", "x".repeat(40)), false);
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        let token = ControlToken::new(&"ab".repeat(20)).unwrap();
        assert!(token.is("ab".repeat(20).as_bytes()));
        for wrong in ["", "ab", &"ab".repeat(21), &"ba".repeat(20)] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "ControlToken(…)");
    }

    #[test]
    fn bearer_headers() {
        let check = |header: &str, token: Option<&str>| {
            assert_eq!(
                bearer(header.as_bytes()),
                token.map(str::as_bytes),
                "{header:?}"
            );
        };
        check("Bearer abc", Some("abc"));
        check("bearer abc", Some("abc"));
        check("BEARER  abc", Some(" abc"));
        check("Bearer", None);
        check("Basic abcdef", None);
        check("", None);
    }
}
