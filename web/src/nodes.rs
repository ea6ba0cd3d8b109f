//! `/v1/nodes`: members, and what operators do with them; `/v1/progress`: how far that has come.

use std::rc::Rc;
use std::time::Duration;

use actix_web::web::{Data, Json, Path, Query, ServiceConfig, get, head, post, resource, to};
use actix_web::{Error, HttpResponse, rt};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;

use crate::access::{May, Operate, See};
use crate::backend::{BackendError, ControlBackend};
use crate::error::ControlError;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::nodes::{
    Addition, DrainRequest, DryRun, NodeOperation, NodeReport, NodesReport, OperationReport,
    ProgressReport, RemoveRequest, ReplaceRequest, TakeAway,
};

/// How often progress is told to who follows it.
const TOLD_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    let only_post = || to(|| not_allowed("POST"));
    config
        .service(
            resource("/v1/nodes")
                .route(get().to(list::<B>))
                .route(head().to(list::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        )
        .service(
            resource("/v1/nodes/addition")
                .route(get().to(addition::<B>))
                .route(head().to(addition::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        )
        .service(
            resource("/v1/nodes/{id}")
                .route(get().to(one::<B>))
                .route(head().to(one::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        )
        .service(
            resource("/v1/nodes/{id}/drain")
                .route(post().to(drain::<B>))
                .default_service(only_post()),
        )
        .service(
            resource("/v1/nodes/{id}/undrain")
                .route(post().to(undrain::<B>))
                .default_service(only_post()),
        )
        .service(
            resource("/v1/nodes/{id}/remove")
                .route(post().to(remove::<B>))
                .default_service(only_post()),
        )
        .service(
            resource("/v1/nodes/{id}/replace")
                .route(post().to(replace::<B>))
                .default_service(only_post()),
        )
        .service(
            resource("/v1/progress")
                .route(get().to(progress::<B>))
                .route(head().to(progress::<B>))
                .default_service(to(|| not_allowed("GET, HEAD"))),
        )
        .service(
            resource("/v1/progress/events")
                .route(get().to(events::<B>))
                .default_service(to(|| not_allowed("GET"))),
        );
}

/// Lists the members.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes",
    responses((status = 200, body = NodesReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn list<B: ControlBackend>(_: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(NodesReport {
        nodes: backend.nodes(),
    })
}

/// A member.
#[utoipa::path(
    get, path = "/v1/nodes/{id}", tag = "nodes",
    params(("id" = u64, Path, description = "The node's id")),
    responses((status = 200, body = NodeReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn one<B: ControlBackend>(
    _: May<See>,
    id: Path<u64>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let mut nodes = backend.nodes().into_iter();
    let node = nodes.find(|node| node.id == *id);
    let node = node.ok_or(ControlError::Backend(BackendError::NoSuch("node")))?;
    Ok(HttpResponse::Ok().json(node))
}

/// What letting a node in would do. Nodes are let in by a token (`POST /v1/tokens`), with which the new machine asks itself.
#[utoipa::path(
    get, path = "/v1/nodes/addition", tag = "nodes",
    params(Addition),
    responses((status = 200, body = OperationReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn addition<B: ControlBackend>(
    _: May<See>,
    wanted: Query<Addition>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (node, steps) = backend.plan_addition(&wanted.address)?;
    Ok(HttpResponse::Ok().json(OperationReport {
        node,
        begun: false,
        steps,
    }))
}

/// Empties a node of leaders and sessions; it keeps its replicas. Asked for again it is the same drain.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/drain", tag = "nodes",
    params(("id" = u64, Path, description = "The node's id"), TakeAway),
    request_body = DrainRequest,
    responses((status = 200, body = OperationReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn drain<B: ControlBackend>(
    may: May<Operate>,
    id: Path<u64>,
    how: Query<TakeAway>,
    request: Json<DrainRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let operation = NodeOperation::Drain {
        sessions_per_second: request.sessions_per_second,
        over_capacity: how.over_capacity,
    };
    operate(may, *id, how.dry_run, operation, &backend).await
}

/// Takes a drain back, or a removal that is not done.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/undrain", tag = "nodes",
    params(("id" = u64, Path, description = "The node's id"), DryRun),
    responses((status = 200, body = OperationReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn undrain<B: ControlBackend>(
    may: May<Operate>,
    id: Path<u64>,
    dry: Query<DryRun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    operate(may, *id, dry.dry_run, NodeOperation::Undrain, &backend).await
}

/// Drains a node, moves its replicas to others, and lets it go for good.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/remove", tag = "nodes",
    params(("id" = u64, Path, description = "The node's id"), TakeAway),
    request_body = RemoveRequest,
    responses((status = 200, body = OperationReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn remove<B: ControlBackend>(
    may: May<Operate>,
    id: Path<u64>,
    how: Query<TakeAway>,
    request: Json<RemoveRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let operation = NodeOperation::Remove {
        dead: request.dead,
        over_capacity: how.over_capacity,
    };
    operate(may, *id, how.dry_run, operation, &backend).await
}

/// Removes a node, dead or alive, and gives its replicas to another one that has joined.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/replace", tag = "nodes",
    params(("id" = u64, Path, description = "The node's id"), TakeAway),
    request_body = ReplaceRequest,
    responses((status = 200, body = OperationReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn replace<B: ControlBackend>(
    may: May<Operate>,
    id: Path<u64>,
    how: Query<TakeAway>,
    request: Json<ReplaceRequest>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let operation = NodeOperation::Replace {
        with: request.with,
        over_capacity: how.over_capacity,
    };
    operate(may, *id, how.dry_run, operation, &backend).await
}

async fn operate<B: ControlBackend>(
    may: May<Operate>,
    node: u64,
    dry_run: bool,
    operation: NodeOperation,
    backend: &Data<B>,
) -> Result<HttpResponse, ControlError> {
    let steps = match backend.plan(node, operation) {
        Ok(steps) => steps,
        Err(error) if dry_run => return Err(error.into()),
        // What can't be planned is refused by who decides, and written down.
        Err(_) => Vec::new(),
    };
    if !dry_run {
        let what = in_words(node, operation);
        let operate = move |backend: B| async move { backend.operate(node, operation).await };
        recorded(backend.as_ref(), may.actor, what, operate).await?;
    }
    Ok(HttpResponse::Ok().json(OperationReport {
        node,
        begun: !dry_run,
        steps,
    }))
}

/// What the audit log says of it.
fn in_words(node: u64, operation: NodeOperation) -> (&'static str, String) {
    let (action, how, over_capacity) = match operation {
        NodeOperation::Drain { over_capacity, .. } => ("node.drain", String::new(), over_capacity),
        NodeOperation::Undrain => ("node.undrain", String::new(), false),
        NodeOperation::Remove {
            dead,
            over_capacity,
        } => {
            let how = if dead { ", dead" } else { "" };
            ("node.remove", how.to_owned(), over_capacity)
        }
        NodeOperation::Replace {
            with,
            over_capacity,
        } => ("node.replace", format!(" with node {with}"), over_capacity),
    };
    let over = if over_capacity { ", over capacity" } else { "" };
    (action, format!("node {node}{how}{over}"))
}

/// How far what is under way has come.
#[utoipa::path(
    get, path = "/v1/progress", tag = "nodes",
    responses((status = 200, body = ProgressReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn progress<B: ControlBackend>(_: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok().json(backend.progress())
}

/// The same, told every second as server-sent events named `progress`, each a `ProgressReport`, until nothing is under
/// way any more, or who asked has lost the right to.
#[utoipa::path(
    get, path = "/v1/progress/events", tag = "nodes",
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = "default", body = RefusalReport),
    ),
)]
pub(crate) async fn events<B: ControlBackend>(may: May<See>, backend: Data<B>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .streaming(told(may, backend))
}

/// What is to be told next.
enum Next {
    Now,
    Later,
    Nothing,
}

fn told<B: ControlBackend>(
    may: May<See>,
    backend: Data<B>,
) -> impl Stream<Item = Result<Bytes, Error>> {
    let may = Rc::new(may);
    unfold(Next::Now, move |next| {
        let (may, backend) = (Rc::clone(&may), backend.clone());
        async move {
            match next {
                Next::Now => {}
                Next::Later => rt::time::sleep(TOLD_EVERY).await,
                Next::Nothing => return None,
            }
            if !may.still() {
                return None;
            }
            let progress = backend.progress();
            let next = match progress.done {
                true => Next::Nothing,
                false => Next::Later,
            };
            let text = serde_json::to_string(&progress).map_err(Error::from);
            let event = text.map(|text| Bytes::from(format!("event: progress\ndata: {text}\n\n")));
            Some((event, next))
        }
    })
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}
