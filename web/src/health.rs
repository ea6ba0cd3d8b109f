//! `GET /health/live`, `GET /health/ready` and `GET /metrics`, for load balancers and monitoring.
//!
//! Whatever answers GET answers HEAD as well, without the body (RFC 9110 §9.1, §9.3.2).

use actix_web::HttpResponse;
use actix_web::web::{Data, ServiceConfig, get, head, resource, to};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::{HealthReader, MetricsReader};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::report::RefusalReport;

/// OpenMetrics 1.0; Prometheus reads it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/health/live")
                .route(get().to(live))
                .route(head().to(live))
                .default_service(to(not_allowed)),
        )
        .service(
            resource("/health/ready")
                .route(get().to(ready::<B>))
                .route(head().to(ready::<B>))
                .default_service(to(not_allowed)),
        )
        .service(
            resource("/metrics")
                .route(get().to(metrics::<B>))
                .route(head().to(metrics::<B>))
                .default_service(to(not_allowed)),
        );
}

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Live {
    /// Always.
    live: bool,
}

/// The node can serve.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    /// Always: else the answer is a refusal.
    ready: bool,
}

/// The process answers: that is all it says.
#[utoipa::path(
    get, path = "/health/live", tag = "health", security((), ("token" = [])),
    responses((status = 200, body = Live), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn live(_: HealthReader) -> HttpResponse {
    HttpResponse::Ok().json(Live { live: true })
}

/// Whether the node can serve: for load balancers.
#[utoipa::path(
    get, path = "/health/ready", tag = "health", security((), ("token" = [])),
    responses((status = 200, body = Ready), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn ready<B: ControlBackend>(
    _: HealthReader,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    match backend.readiness().refusal() {
        None => Ok(HttpResponse::Ok().json(Ready { ready: true })),
        Some(reason) => Err(ControlError::NotReady(reason)),
    }
}

/// Counters in the text format of OpenMetrics.
#[utoipa::path(
    get, path = "/metrics", tag = "health", security((), ("token" = [])),
    responses(
        (status = 200, content_type = "application/openmetrics-text", body = String),
        (status = "default", body = RefusalReport),
    ),
)]
pub(crate) async fn metrics<B: ControlBackend>(_: MetricsReader, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(METRICS_TYPE)
        .body(backend.metrics())
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}
