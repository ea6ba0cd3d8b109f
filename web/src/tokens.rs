//! `/v1/tokens`: what lets new nodes join; and `/v1/join`, where they do.

use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Json, Path, ServiceConfig, delete, get, head, post, resource, to};
use actix_web::{HttpRequest, HttpResponse};

use crate::access::{Actor, Inspect, May, Operate, from};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::access::{IssuedToken, NewToken, TokensReport};
use crate::report::join::{JoinReply, JoinRequest};

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/tokens")
                .route(get().to(list::<B>))
                .route(head().to(list::<B>))
                .route(post().to(issue::<B>))
                .default_service(to(|| not_allowed("GET, HEAD, POST"))),
        )
        .service(
            resource("/v1/tokens/{id}")
                .route(delete().to(revoke::<B>))
                .default_service(to(|| not_allowed("DELETE"))),
        )
        .service(
            resource("/v1/join")
                .route(post().to(join::<B>))
                .default_service(to(|| not_allowed("POST"))),
        );
}

/// Lists the tokens that let nodes join, without their secrets.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens",
    responses((status = 200, body = TokensReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn list<B: ControlBackend>(_: May<Inspect>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(TokensReport {
        tokens: backend.tokens(),
    })
}

/// Makes a token that lets one node join. It is shown this once.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens",
    request_body = NewToken,
    responses((status = 201, body = IssuedToken), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn issue<B: ControlBackend>(
    may: May<Operate>,
    new: Json<NewToken>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (new, by) = (new.into_inner(), may.actor.name.clone());
    let what = ("token.add", format!("for {} s", new.ttl_s));
    let issue = |backend: B| async move { backend.issue_token(new, by).await };
    let token = recorded(backend.as_ref(), may.actor, what, issue).await?;
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("/v1/tokens/{}", token.id)))
        .json(token))
}

/// Makes a token useless.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "The token's name")),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn revoke<B: ControlBackend>(
    may: May<Operate>,
    id: Path<String>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let id = id.into_inner();
    let what = ("token.revoke", id.clone());
    let revoke = |backend: B| async move { backend.revoke_token(id).await };
    recorded(backend.as_ref(), may.actor, what, revoke).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Lets a machine join as a new node: its token is what authorises it. The same request again gets the same answer.
#[utoipa::path(
    post, path = "/v1/join", tag = "nodes", security(()),
    request_body = JoinRequest,
    responses((status = 200, body = JoinReply), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn join<B: ControlBackend>(
    asked: HttpRequest,
    request: Json<JoinRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let request = request.into_inner();
    // Strangers leave no record: there would be no end to them.
    let token = backend.check_join(&request).await?;
    let actor = Actor {
        name: format!("token:{token}"),
        from: from(&asked),
    };
    let what = ("node.join", request.address.clone());
    let join = |backend: B| async move { backend.join(request).await };
    let reply = recorded(backend.as_ref(), actor, what, join).await?;
    Ok(HttpResponse::Ok().json(reply))
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}
