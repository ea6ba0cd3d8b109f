//! `/v1/cluster`: the version that the pool is at, and how it comes to the next one.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Query, ServiceConfig, get, head, post, resource, to};

use crate::access::{May, Operate, See};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::cluster::{FinaliseReport, FinaliseRequest, VersionsReport};
use crate::report::nodes::DryRun;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/cluster/version")
                .route(get().to(version::<B>))
                .route(head().to(version::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        )
        .service(
            resource("/v1/cluster/finalize")
                .route(post().to(finalize::<B>))
                .default_service(to(|| not_allowed("POST"))),
        );
}

/// The version that the pool is at, and the build of each member.
#[utoipa::path(
    get, path = "/v1/cluster/version", tag = "cluster",
    responses((status = 200, body = VersionsReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn version<B: ControlBackend>(_: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.versions())
}

/// Brings the pool to a version, for good: builds that do not support it can't take part any more. Refused while a member
/// runs, or ran last, such a build. Asked for again it is the same.
#[utoipa::path(
    post, path = "/v1/cluster/finalize", tag = "cluster",
    params(DryRun),
    request_body = FinaliseRequest,
    responses((status = 200, body = FinaliseReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn finalize<B: ControlBackend>(
    may: May<Operate>,
    dry: Query<DryRun>,
    request: Json<FinaliseRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let FinaliseRequest { version } = *request;
    if dry.dry_run {
        let plan = backend.plan_finalisation(version)?;
        return Ok(HttpResponse::Ok().json(plan));
    }
    let target = match version {
        Some(version) => format!("version {version}"),
        None => "the newest version".to_owned(),
    };
    let what = ("cluster.finalize", target);
    let finalise = move |backend: B| async move { backend.finalise(version).await };
    let report = recorded(backend.as_ref(), may.actor, what, finalise).await?;
    Ok(HttpResponse::Ok().json(report))
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}
