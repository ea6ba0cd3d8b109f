//! `/v1/users`: accounts, listed, made, changed and removed.

use actix_web::HttpResponse;
use actix_web::http::header::LOCATION;
use actix_web::web::{
    Data, Json, Path, Query, ServiceConfig, delete, get, head, post, put, resource, to,
};
use serde::Deserialize;
use utoipa::IntoParams;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use crate::access::{ChangeUsers, May, See};
use crate::backend::{BackendError, ControlBackend};
use crate::error::ControlError;
use crate::path::user_path;
use crate::record::recorded;
use crate::report::{NewPassword, NewUser, RefusalReport, UsersPage};

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

/// Which accounts are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Those behind this address.
    after: Option<String>,
    /// At most so many: 1 to 1,000, else 100.
    limit: Option<u32>,
}

/// Lists accounts in the order of their addresses.
#[utoipa::path(
    get, path = "/v1/users", tag = "users",
    params(Page),
    responses((status = 200, body = UsersPage), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn list<B: ControlBackend>(
    _: May<See>,
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

/// Makes an account.
#[utoipa::path(
    post, path = "/v1/users", tag = "users",
    request_body = NewUser,
    responses((status = 201, body = CreatedUser), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn create<B: ControlBackend>(
    may: May<ChangeUsers>,
    new: Json<NewUser>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let NewUser {
        user: address,
        password,
    } = new.into_inner();
    let user = user(&address)?;
    let what = ("user.add", user.as_str().to_owned());
    let made = user.clone();
    let create =
        |backend: B| async move { backend.create_account(made, Password::new(password)).await };
    recorded(backend.as_ref(), may.actor, what, create).await?;
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, user_path(user.as_str())))
        .json(CreatedUser {
            user: user.as_str().to_owned(),
        }))
}

/// An account that was made.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub(crate) struct CreatedUser {
    /// Its address.
    user: String,
}

/// Gives an account another password.
#[utoipa::path(
    put, path = "/v1/users/{jid}/password", tag = "users",
    params(("jid" = String, Path, description = "The user's address")),
    request_body = NewPassword,
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn set_password<B: ControlBackend>(
    may: May<ChangeUsers>,
    jid: Path<String>,
    new: Json<NewPassword>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = user(&jid)?;
    let what = ("user.password", user.as_str().to_owned());
    let password = Password::new(new.into_inner().password);
    let set = |backend: B| async move { backend.set_password(user, password).await };
    recorded(backend.as_ref(), may.actor, what, set).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Removes an account and all that belongs to it.
#[utoipa::path(
    delete, path = "/v1/users/{jid}", tag = "users",
    params(("jid" = String, Path, description = "The user's address")),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn remove<B: ControlBackend>(
    may: May<ChangeUsers>,
    jid: Path<String>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = user(&jid)?;
    let what = ("user.remove", user.as_str().to_owned());
    let remove = |backend: B| async move { backend.remove_account(user).await };
    recorded(backend.as_ref(), may.actor, what, remove).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}

/// The address of a user: a bare JID with a local part.
pub(crate) fn user(text: &str) -> Result<BareJid, ControlError> {
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
