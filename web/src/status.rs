//! `GET /v1/status` and `GET /v1/partitions`.

use actix_web::HttpResponse;
use actix_web::web::{Data, ServiceConfig, get, head, resource};

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
        );
}

async fn status<B: ControlBackend>(_: Operator, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report())
}

async fn partitions<B: ControlBackend>(_: Operator, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.report().partitions)
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}
