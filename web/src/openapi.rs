//! `GET /v1/openapi.json`: what this port has, for programs. Made from the handlers themselves; a test holds it against
//! the routes.

use actix_web::HttpResponse;
use actix_web::web::{ServiceConfig, get, head, resource, to};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, OpenApi as Document};
use utoipa::{Modify, OpenApi};

use crate::access::{May, See};
use crate::error::ControlError;
use crate::{
    backups, cluster, health, imports, nodes, operators, sessions, sign_in, status, tokens, users,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster's control port",
        description = "Operates a pool. Every refusal has a `code` for programs and a `message` for people.",
    ),
    security(("token" = [])),
    modifiers(&Token),
    paths(
        health::live,
        health::ready,
        health::metrics,
        status::status,
        status::partitions,
        status::partition_hash,
        users::list,
        users::create,
        users::remove,
        users::set_password,
        nodes::list,
        nodes::addition,
        nodes::one,
        nodes::drain,
        nodes::undrain,
        nodes::remove,
        nodes::replace,
        nodes::progress,
        nodes::events,
        cluster::version,
        cluster::finalize,
        tokens::list,
        tokens::issue,
        tokens::revoke,
        tokens::join,
        operators::list,
        operators::add,
        operators::revoke,
        operators::audit,
        sessions::list,
        sessions::history,
        sign_in::who,
        sign_in::sign_in,
        sign_in::sign_out,
        backups::begin,
        backups::begin_export,
        backups::go_on,
        backups::end,
        backups::capture,
        backups::log_end,
        backups::state,
        backups::rows,
        backups::entries,
        imports::begin,
        imports::piece,
        document,
    ),
)]
struct Api;

/// How requests are authorised.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut Document) {
        let components = document.components.take();
        let builder = components.map_or_else(ComponentsBuilder::new, ComponentsBuilder::from);
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components = Some(builder.security_scheme("token", scheme).build());
    }
}

pub(crate) fn routes(config: &mut ServiceConfig) {
    config.service(
        resource("/v1/openapi.json")
            .route(get().to(document))
            .route(head().to(document))
            .default_service(to(not_allowed)),
    );
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "about",
    responses((status = 200, content_type = "application/json")),
)]
pub(crate) async fn document(_: May<See>) -> HttpResponse {
    HttpResponse::Ok().json(Api::openapi())
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}

#[cfg(test)]
pub(crate) fn all() -> Document {
    Api::openapi()
}
