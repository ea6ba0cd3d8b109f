//! `GET /v1/status`, `GET /v1/partitions` and `GET /v1/partitions/{id}/hash`.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, ServiceConfig, get, head, resource};

use crate::access::Operator;
use crate::backend::ControlBackend;
use crate::error::ControlError;

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

async fn status<B: ControlBackend>(_: Operator, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report())
}

async fn partitions<B: ControlBackend>(_: Operator, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report().partitions)
}

/// Takes as long as the partition is large.
async fn partition_hash<B: ControlBackend>(
    _: Operator,
    partition: Path<u16>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let hash = backend.partition_hash(partition.into_inner()).await?;
    Ok(HttpResponse::Ok().json(hash))
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}
