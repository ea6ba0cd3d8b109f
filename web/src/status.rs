//! `GET /v1/status`, `GET /v1/partitions` and `GET /v1/partitions/{id}/hash`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, ServiceConfig, get, head, resource};

use crate::access::{May, See};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::report::{HashReport, PartitionReport, PoolReport, RefusalReport};

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/status")
                .route(get().to(status::<B>))
                .route(head().to(status::<B>))
                .default_service(actix_web::web::to(not_allowed)),
        )
        .service(
            resource("/v1/partitions")
                .route(get().to(partitions::<B>))
                .route(head().to(partitions::<B>))
                .default_service(actix_web::web::to(not_allowed)),
        )
        .service(
            resource("/v1/partitions/{id}/hash")
                .route(get().to(partition_hash::<B>))
                .default_service(actix_web::web::to(not_allowed)),
        );
}

/// The pool as this node sees it.
#[utoipa::path(
    get, path = "/v1/status", tag = "pool",
    responses((status = 200, body = PoolReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn status<B: ControlBackend>(_: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report())
}

/// The partitions as this node sees them.
#[utoipa::path(
    get, path = "/v1/partitions", tag = "pool",
    responses((status = 200, body = [PartitionReport]), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn partitions<B: ControlBackend>(_: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report().partitions)
}

/// What this node's replica of a partition holds. Takes as long as the partition is large.
#[utoipa::path(
    get, path = "/v1/partitions/{id}/hash", tag = "pool",
    params(("id" = u16, Path, description = "The partition's number")),
    responses((status = 200, body = HashReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn partition_hash<B: ControlBackend>(
    _: May<See>,
    partition: Path<u16>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let hash = backend.partition_hash(partition.into_inner()).await?;
    Ok(HttpResponse::Ok().json(hash))
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}
