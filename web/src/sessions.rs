//! `/v1/sessions`: who is connected here; and `/v1/history`: what the nodes did lately.

use actix_web::HttpResponse;
use actix_web::web::{Data, Query, ServiceConfig, get, head, resource, to};

use crate::access::{May, See};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::report::RefusalReport;
use crate::report::console::{HistoryQuery, HistoryReport, SessionsPage, SessionsQuery};

/// Sessions on a page, unless the query says otherwise.
const PAGE_DEFAULT: u32 = 100;

/// Most sessions on a page.
const PAGE_MAX: u32 = 1000;

/// Most bytes of what addresses are to contain.
pub(crate) const CONTAINING_BYTES_MAX: usize = 128;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/sessions")
                .route(get().to(list::<B>))
                .route(head().to(list::<B>))
                .default_service(to(not_allowed)),
        )
        .service(
            resource("/v1/history")
                .route(get().to(history::<B>))
                .route(head().to(history::<B>))
                .default_service(to(not_allowed)),
        );
}

/// Lists the sessions of the node that is asked, in the order of their addresses.
#[utoipa::path(
    get, path = "/v1/sessions", tag = "pool",
    params(SessionsQuery),
    responses((status = 200, body = SessionsPage), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn list<B: ControlBackend>(
    _: May<See>,
    query: Query<SessionsQuery>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
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
    let after = query.after.as_deref().unwrap_or_default();
    let wanted = limit as usize;
    // One more than asked for tells whether this is the last page.
    let mut sessions = backend.sessions(after, containing, wanted + 1);
    let more = sessions.len() > wanted;
    sessions.truncate(wanted);
    let report = backend.report();
    Ok(HttpResponse::Ok().json(SessionsPage {
        node: report.node,
        total: report.sessions,
        next: sessions.last().filter(|_| more).cloned(),
        sessions,
    }))
}

/// What all nodes did in the last ten minutes, second by second, as the node that is asked has heard.
#[utoipa::path(
    get, path = "/v1/history", tag = "pool",
    params(HistoryQuery),
    responses((status = 200, body = HistoryReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn history<B: ControlBackend>(
    _: May<See>,
    query: Query<HistoryQuery>,
    backend: Data<B>,
) -> HttpResponse {
    HttpResponse::Ok().json(backend.history(query.after.unwrap_or(0)))
}

async fn not_allowed() -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed("GET, HEAD"))
}
