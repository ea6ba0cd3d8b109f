//! `/v1/operators`: who may operate the pool; and `/v1/audit`: what they did.

use actix_web::HttpResponse;
use actix_web::http::header::LOCATION;
use actix_web::web::{
    Data, Json, Path, Query, ServiceConfig, delete, get, head, post, resource, to,
};

use crate::access::{Inspect, May, Operate};
use crate::backend::{BackendError, ControlBackend};
use crate::error::ControlError;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::access::{AuditPage, AuditQuery, IssuedOperator, NewOperator, OperatorsReport};
use crate::sessions::CONTAINING_BYTES_MAX;

/// Most records on a page of the audit log.
const PAGE_MAX: u32 = 1000;

/// Most bytes of an operator's name.
const NAME_BYTES_MAX: usize = 64;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/operators")
                .route(get().to(list::<B>))
                .route(head().to(list::<B>))
                .route(post().to(add::<B>))
                .default_service(to(|| not_allowed("GET, HEAD, POST"))),
        )
        .service(
            resource("/v1/operators/{name}")
                .route(delete().to(revoke::<B>))
                .default_service(to(|| not_allowed("DELETE"))),
        )
        .service(
            resource("/v1/audit")
                .route(get().to(audit::<B>))
                .route(head().to(audit::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        );
}

/// Lists the operators.
#[utoipa::path(
    get, path = "/v1/operators", tag = "operators",
    responses((status = 200, body = OperatorsReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn list<B: ControlBackend>(_: May<Inspect>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(OperatorsReport {
        operators: backend.operators(),
    })
}

/// Makes an operator. Their token is shown this once.
#[utoipa::path(
    post, path = "/v1/operators", tag = "operators",
    request_body = NewOperator,
    responses((status = 201, body = IssuedOperator), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn add<B: ControlBackend>(
    may: May<Operate>,
    new: Json<NewOperator>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (new, by) = (new.into_inner(), may.actor.name.clone());
    check_name(&new.name)?;
    let what = ("operator.add", format!("{} as {}", new.name, new.role));
    let add = |backend: B| async move { backend.add_operator(new, by).await };
    let operator = recorded(backend.as_ref(), may.actor, what, add).await?;
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, format!("/v1/operators/{}", operator.name)))
        .json(operator))
}

/// Takes an operator's token away.
#[utoipa::path(
    delete, path = "/v1/operators/{name}", tag = "operators",
    params(("name" = String, Path, description = "The operator's name")),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn revoke<B: ControlBackend>(
    may: May<Operate>,
    name: Path<String>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let name = name.into_inner();
    check_name(&name)?;
    let what = ("operator.revoke", name.clone());
    let revoke = |backend: B| async move { backend.revoke_operator(name).await };
    recorded(backend.as_ref(), may.actor, what, revoke).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Reads the audit log, a page at a time.
#[utoipa::path(
    get, path = "/v1/audit", tag = "operators",
    params(AuditQuery),
    responses((status = 200, body = AuditPage), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn audit<B: ControlBackend>(
    _: May<Inspect>,
    query: Query<AuditQuery>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    if query
        .limit
        .is_some_and(|limit| !(1..=PAGE_MAX).contains(&limit))
    {
        return Err(ControlError::Malformed(format!(
            "limit must be 1 to {PAGE_MAX}"
        )));
    }
    let containing = query.containing.as_deref().unwrap_or_default();
    if containing.len() > CONTAINING_BYTES_MAX {
        return Err(ControlError::Malformed(format!(
            "containing must have {CONTAINING_BYTES_MAX} bytes at most"
        )));
    }
    if query.after.is_some() && query.before.is_some() {
        return Err(ControlError::Malformed(
            "after and before don't go together".to_owned(),
        ));
    }
    Ok(HttpResponse::Ok().json(backend.audit(&query)))
}

/// A name is written down before the backend judges it: what could forge a line of the log, or fill it, comes no further.
fn check_name(name: &str) -> Result<(), ControlError> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(letter) {
        return Ok(());
    }
    Err(ControlError::Backend(BackendError::Invalid(format!(
        "an operator's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9, '.', '_' and '-'"
    ))))
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}
