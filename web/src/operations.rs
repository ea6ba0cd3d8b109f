//! `/v1/operations`: the members, what is under way, and what an operator wants done with them.

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, ServiceConfig, get, head, post, resource, to};

use crate::access::Operator;
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::report::OperationRequest;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config.service(
        resource("/v1/operations")
            .route(get().to(show::<B>))
            .route(head().to(show::<B>))
            .route(post().to(operate::<B>))
            .default_service(to(|| async {
                Err::<HttpResponse, _>(ControlError::MethodNotAllowed("GET, HEAD, POST"))
            })),
    );
}

async fn show<B: ControlBackend>(_: Operator, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.operations())
}

async fn operate<B: ControlBackend>(
    _: Operator,
    request: Json<OperationRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let request = request.into_inner();
    tracing::info!(?request, "an operator wants the pool changed");
    let done = backend.operate(request).await?;
    Ok(HttpResponse::Ok().json(done))
}
