//! Who may see what: the bearer token, as arguments that handlers ask for.

use std::fmt;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use subtle::ConstantTimeEq;

use crate::error::ControlError;

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

/// The rules of one control port.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) token: ControlToken,
    pub(crate) health_open: bool,
    pub(crate) metrics_open: bool,
}

/// The request carries the token.
pub(crate) struct Operator;

/// The request may see the node's health.
pub(crate) struct HealthReader;

/// The request may see the node's counters.
pub(crate) struct MetricsReader;

impl FromRequest for Operator {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authorize(request, |_| false).map(|()| Operator))
    }
}

impl FromRequest for HealthReader {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authorize(request, |access| access.health_open).map(|()| HealthReader))
    }
}

impl FromRequest for MetricsReader {
    type Error = ControlError;
    type Future = Ready<Result<Self, ControlError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authorize(request, |access| access.metrics_open).map(|()| MetricsReader))
    }
}

fn authorize(request: &HttpRequest, is_open: fn(&Access) -> bool) -> Result<(), ControlError> {
    // Without rules nobody may do anything.
    let access = request
        .app_data::<Data<Access>>()
        .ok_or(ControlError::Unauthorized)?;
    if is_open(access) {
        return Ok(());
    }
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(ControlError::Unauthorized);
    };
    match bearer(header.as_bytes()) {
        Some(offered) if access.token.is(offered) => Ok(()),
        _ => Err(ControlError::Unauthorized),
    }
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
