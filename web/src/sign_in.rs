//! `/v1/sign-in`: the console page exchanges an operator's token for a cookie that no script can read.
//!
//! The cookie is a random name ([`register`]); it is sent back over TLS, to this host and port alone (`__Host-`), and by no
//! request of another site (`SameSite=Strict`); what it may do besides is judged by [`crate::same_origin`]. Programs go on
//! with `Authorization: Bearer`, which goes before any cookie.

pub(crate) mod register;

use std::fmt::Write;
use std::time::Instant;

use actix_web::http::header::{COOKIE, HeaderMap, SET_COOKIE};
use actix_web::web::{Data, Json, ServiceConfig, delete, get, head, post, resource, to};
use actix_web::{HttpRequest, HttpResponse};

use crate::access::{Access, Credential, May, See, from};
use crate::error::ControlError;
use crate::report::RefusalReport;
use crate::report::console::{SignIn, SignedIn};
use crate::same_origin;
use register::Name;

/// The prefix makes browsers refuse it without `Secure` and `Path=/`, or with a `Domain` (RFC 6265bis §4.1.3.2).
const COOKIE_NAME: &str = "__Host-muster";

const COOKIE_RULES: &str = "Path=/; Secure; HttpOnly; SameSite=Strict";

pub(crate) fn routes(config: &mut ServiceConfig) {
    config.service(
        resource("/v1/sign-in")
            .route(get().to(who))
            .route(head().to(who))
            .route(post().to(sign_in))
            .route(delete().to(sign_out))
            .default_service(to(not_allowed)),
    );
}

/// Who asks, and what they may do.
#[utoipa::path(
    get, path = "/v1/sign-in", tag = "console",
    responses((status = 200, body = SignedIn), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn who(may: May<See>) -> HttpResponse {
    HttpResponse::Ok().json(SignedIn {
        name: may.actor.name,
        role: may.role,
    })
}

/// Signs in with a token, for the console page: its cookie stands for the token from then on.
#[utoipa::path(
    post, path = "/v1/sign-in", tag = "console", security(()),
    request_body = SignIn,
    responses((status = 200, body = SignedIn), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn sign_in(
    request: HttpRequest,
    offered: Json<SignIn>,
    access: Data<Access>,
) -> Result<HttpResponse, ControlError> {
    if !same_origin::is_own(request.method(), request.headers()) {
        return Err(ControlError::OtherOrigin);
    }
    let token = offered.into_inner().token;
    let Some(identity) = access.who(&Credential::Bearer(token.clone())) else {
        tracing::warn!(from = %from(&request), "somebody tried to sign in to the console with a wrong token");
        return Err(ControlError::WrongToken);
    };
    let name: Name = rand::random();
    access.sign_ins().add(name, token, Instant::now());
    tracing::info!(who = %identity.name, from = %from(&request), "signed in to the console");
    let cookie = format!("{COOKIE_NAME}={}; {COOKIE_RULES}", hex(&name));
    Ok(HttpResponse::Ok()
        .insert_header((SET_COOKIE, cookie))
        .json(SignedIn {
            name: identity.name,
            role: identity.role,
        }))
}

/// Signs out: the cookie stands for nothing from then on.
#[utoipa::path(
    delete, path = "/v1/sign-in", tag = "console", security(()),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn sign_out(
    request: HttpRequest,
    access: Data<Access>,
) -> Result<HttpResponse, ControlError> {
    if !same_origin::is_own(request.method(), request.headers()) {
        return Err(ControlError::OtherOrigin);
    }
    if let Some(name) = name_of(request.headers()) {
        access.sign_ins().end(&name);
    }
    let cookie = format!("{COOKIE_NAME}=; Max-Age=0; {COOKIE_RULES}");
    Ok(HttpResponse::NoContent()
        .insert_header((SET_COOKIE, cookie))
        .finish())
}

/// The name in a request's cookie; none where there are several.
pub(crate) fn name_of(headers: &HeaderMap) -> Option<Name> {
    let headers = headers.get_all(COOKIE);
    let texts = headers.filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';'));
    let mut values = pairs.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE_NAME).then_some(value)
    });
    match (values.next(), values.next()) {
        (Some(value), None) => unhex(value),
        _ => None,
    }
}

fn hex(name: &Name) -> String {
    name.iter().fold(String::new(), |mut text, byte| {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Name> {
    let mut name = Name::default();
    if text.len() != 2 * name.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in name.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(name)
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD, POST, DELETE"))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_read() {
        let name: Name = std::array::from_fn(|at| at as u8 * 7);
        let good = format!("__Host-muster={}", hex(&name));
        let check = |headers: &[&str], expect: Option<Name>| {
            let mut map = HeaderMap::new();
            for text in headers {
                map.append(COOKIE, HeaderValue::from_str(text).unwrap());
            }
            assert_eq!(name_of(&map), expect, "{headers:?}");
        };
        check(&[&good], Some(name));
        check(&[&format!("a=b; {good}; c=d")], Some(name));
        check(&["a=b", &good], Some(name));
        check(&[], None);
        check(&["a=b"], None);
        check(&[&good, &good], None);
        check(&[&format!("{good}; {good}")], None);
        check(&[&good[..good.len() - 1]], None);
        check(&[&format!("{good}0")], None);
        check(&[&format!("__Host-muster={}", "+1".repeat(32))], None);
        check(&[&good.replace("__Host-", "")], None);
    }
}
