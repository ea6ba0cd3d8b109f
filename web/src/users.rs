//! `/v1/users`: accounts, listed, made, changed and removed.

use actix_web::HttpResponse;
use actix_web::http::header::LOCATION;
use actix_web::web::{
    Data, Json, Path, Query, ServiceConfig, delete, get, head, post, put, resource, to,
};
use serde::Deserialize;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::access::Operator;
use crate::backend::{BackendError, ControlBackend};
use crate::error::ControlError;
use crate::path::user_path;
use crate::report::{NewPassword, NewUser, UsersPage};

/// Accounts on a page, unless the query says otherwise.
const PAGE_DEFAULT: u32 = 100;

/// Most accounts on a page.
const PAGE_MAX: u32 = 1000;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/users")
                .route(get().to(list::<B>))
                .route(head().to(list::<B>))
                .route(post().to(create::<B>))
                .default_service(to(|| not_allowed("GET, HEAD, POST"))),
        )
        .service(
            resource("/v1/users/{jid}")
                .route(delete().to(remove::<B>))
                .default_service(to(|| not_allowed("DELETE"))),
        )
        .service(
            resource("/v1/users/{jid}/password")
                .route(put().to(set_password::<B>))
                .default_service(to(|| not_allowed("PUT"))),
        );
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<String>,
    limit: Option<u32>,
}

async fn list<B: ControlBackend>(
    _: Operator,
    page: Query<Page>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ControlError::Malformed(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    let after = page.after.as_deref().map(user).transpose()?;
    // One more than asked for tells whether this is the last page.
    let mut users = backend.list_accounts(after, limit + 1).await?;
    let more = users.len() > limit as usize;
    users.truncate(limit as usize);
    let users: Vec<String> = users.iter().map(|user| user.as_str().to_owned()).collect();
    let next = users.last().filter(|_| more).cloned();
    Ok(HttpResponse::Ok().json(UsersPage { users, next }))
}

async fn create<B: ControlBackend>(
    _: Operator,
    new: Json<NewUser>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let NewUser {
        user: address,
        password,
    } = new.into_inner();
    let user = user(&address)?;
    backend
        .create_account(user.clone(), Password::new(password))
        .await?;
    tracing::info!(%user, "account made by an operator");
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, user_path(user.as_str())))
        .json(Created {
            user: user.as_str(),
        }))
}

#[derive(serde::Serialize)]
struct Created<'a> {
    user: &'a str,
}

async fn set_password<B: ControlBackend>(
    _: Operator,
    jid: Path<String>,
    new: Json<NewPassword>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = user(&jid)?;
    backend
        .set_password(user.clone(), Password::new(new.into_inner().password))
        .await?;
    tracing::info!(%user, "password set by an operator");
    Ok(HttpResponse::NoContent().finish())
}

async fn remove<B: ControlBackend>(
    _: Operator,
    jid: Path<String>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = user(&jid)?;
    backend.remove_account(user.clone()).await?;
    tracing::info!(%user, "account removed by an operator");
    Ok(HttpResponse::NoContent().finish())
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}

/// The address of a user: a bare JID with a local part.
fn user(text: &str) -> Result<BareJid, ControlError> {
    let refused = |reason: &str| {
        ControlError::Backend(BackendError::Invalid(format!(
            "{text:?} is no user: {reason}"
        )))
    };
    let user = BareJid::parse(text).map_err(|error| refused(&error.to_string()))?;
    if user.is_domain() {
        return Err(refused("a user's address is local@domain"));
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_bare_addresses_with_a_local_part() {
        let check = |text: &str, good: bool| assert_eq!(user(text).is_ok(), good, "{text}");
        check("alice@localhost", true);
        check("Alice@LOCALHOST", true);
        check("localhost", false);
        check("alice@localhost/tablet", false);
        check("@localhost", false);
        check("", false);
    }
}
