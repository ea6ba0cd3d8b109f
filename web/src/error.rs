//! Refusals of the control port: the one table from what went wrong to status, word and sentence.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};

use crate::backend::BackendError;
use crate::report::RefusalReport;
use crate::report::access::Role;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No token, or a wrong one; never says which.
    #[error("this needs a token of an operator: Authorization: Bearer …")]
    Unauthorized,
    /// Nobody has the token that somebody wants to sign in with.
    #[error("no operator has this token, or it was revoked")]
    WrongToken,
    /// It has the console's cookie, but does not come from its page.
    #[error("this request did not come from the console's own page")]
    OtherOrigin,
    /// Their role does not allow it.
    #[error("{who} has the role {role}, which may not do this")]
    Forbidden {
        /// Whose token it was.
        who: String,
        /// Their role.
        role: Role,
    },
    /// No such page.
    #[error("there is nothing at this path")]
    NoSuchPath,
    /// The page knows other methods.
    #[error("this path answers to {0} only")]
    MethodNotAllowed(&'static str),
    /// The body or query does not read.
    #[error("{0}")]
    Malformed(String),
    /// The body is too long.
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    /// The body is not JSON.
    #[error("the body must be JSON: Content-Type: application/json")]
    NotJson,
    /// The node cannot serve now.
    #[error("{0}")]
    NotReady(String),
    /// The node refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl ControlError {
    /// The word for programs.
    pub(crate) fn code(&self) -> &str {
        self.row().1
    }

    /// The table.
    fn row(&self) -> (StatusCode, &str) {
        match self {
            ControlError::Backend(error) => of_backend(error),
            ControlError::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            ControlError::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            ControlError::WrongToken => (StatusCode::UNAUTHORIZED, "wrong-token"),
            ControlError::OtherOrigin => (StatusCode::FORBIDDEN, "other-origin"),
            ControlError::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path"),
            ControlError::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed")
            }
            ControlError::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
            ControlError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            ControlError::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json"),
            ControlError::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
        }
    }
}

fn of_backend(error: &BackendError) -> (StatusCode, &str) {
    match error {
        BackendError::Conflict => (StatusCode::CONFLICT, "conflict"),
        BackendError::NotFound | BackendError::NoPartition | BackendError::NoSuch(_) => {
            (StatusCode::NOT_FOUND, "not-found")
        }
        BackendError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        BackendError::Refused { code, .. } => (StatusCode::CONFLICT, code),
        BackendError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        BackendError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "outcome-unknown"),
    }
}

impl ResponseError for ControlError {
    fn status_code(&self) -> StatusCode {
        self.row().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, code) = self.row();
        let mut response = HttpResponse::build(status);
        match self {
            // RFC 9110 §11.6.1
            ControlError::Unauthorized | ControlError::WrongToken => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer realm=\"muster\""));
            }
            // RFC 9110 §15.5.6
            ControlError::MethodNotAllowed(allowed) => {
                response.insert_header((ALLOW, *allowed));
            }
            _ => {}
        }
        response.json(RefusalReport {
            code: code.to_owned(),
            message: self.to_string(),
        })
    }
}
