//! `/v1/backups`: a backup, or an export of one user, is begun, its groups are captured, and what was captured is fetched part by part.
//!
//! Nothing is streamed: each part is an answer of about a mebibyte, so that a slow operator's machine holds nothing up, and
//! whoever fetches decides on the pace. What nobody asks for any more is forgotten after two minutes.
//!
//! Beginning is what is written down, so nothing is had under a name that was not begun ([`crate::begun`]). The node that was asked
//! to begin knows the name, no other one: all that follows is asked of it.

use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query, ServiceConfig, delete, get, post, resource, to};

use crate::access::{May, Operate};
use crate::backend::{BackendError, BackupKey, ControlBackend};
use crate::begun::{Begun, Groups};
use crate::error::ControlError;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::backup::{
    BackupBegun, BackupPart, CaptureReport, EndReport, EntriesPart, ExportBegun, RowsPart,
    StatePart,
};

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/backups")
                .route(post().to(begin::<B>))
                .default_service(to(|| not_allowed("POST"))),
        )
        .service(
            resource("/v1/users/{jid}/exports")
                .route(post().to(begin_export::<B>))
                .default_service(to(|| not_allowed("POST"))),
        )
        .service(
            resource("/v1/backups/{id}")
                .route(post().to(go_on::<B>))
                .route(delete().to(end::<B>))
                .default_service(to(|| not_allowed("POST, DELETE"))),
        )
        .service(
            resource("/v1/backups/{id}/groups/{group}")
                .route(post().to(capture::<B>))
                .default_service(to(|| not_allowed("POST"))),
        )
        .service(
            resource("/v1/backups/{id}/groups/{group}/end")
                .route(post().to(log_end::<B>))
                .default_service(to(|| not_allowed("POST"))),
        )
        .service(
            resource("/v1/backups/{id}/groups/{group}/state")
                .route(get().to(state::<B>))
                .default_service(to(|| not_allowed("GET"))),
        )
        .service(
            resource("/v1/backups/{id}/groups/{group}/rows")
                .route(get().to(rows::<B>))
                .default_service(to(|| not_allowed("GET"))),
        )
        .service(
            resource("/v1/backups/{id}/groups/{group}/entries")
                .route(get().to(entries::<B>))
                .default_service(to(|| not_allowed("GET"))),
        );
}

/// Begins a backup: gives its name, which this node alone knows, and what a pool that is made of it has to keep.
#[utoipa::path(
    post, path = "/v1/backups", tag = "backups",
    responses((status = 201, body = BackupBegun), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn begin<B: ControlBackend>(
    may: May<Operate>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let of = backend.backup_pool();
    let what = ("backup.begin", of.pool.clone());
    let begin = |backend: B| async move { backend.begin_backup().await };
    let (id, began_ms) = recorded(backend.as_ref(), may.actor, what, begin).await?;
    begun.note(id, Groups::All, Instant::now());
    let id = name(id);
    Ok(HttpResponse::Created().json(BackupBegun { id, began_ms, of }))
}

/// Begins an export of a user: the group is then captured, and its state and the user's rows are fetched, as for a backup.
#[utoipa::path(
    post, path = "/v1/users/{jid}/exports", tag = "backups",
    params(("jid" = String, Path, description = "The user's address")),
    responses((status = 201, body = ExportBegun), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn begin_export<B: ControlBackend>(
    may: May<Operate>,
    jid: Path<String>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = crate::users::user(&jid)?;
    let group = backend.group_of(&user);
    let what = ("user.export", user.as_str().to_owned());
    let begin = |backend: B| async move { backend.begin_backup().await };
    let (id, _) = recorded(backend.as_ref(), may.actor, what, begin).await?;
    begun.note(id, Groups::One(group), Instant::now());
    let id = name(id);
    Ok(HttpResponse::Created().json(ExportBegun { id, group }))
}

/// Says that what was captured is still wanted. Asking for any part says the same to the node that is asked.
#[utoipa::path(
    post, path = "/v1/backups/{id}", tag = "backups",
    params(("id" = String, Path, description = "The backup's name")),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn go_on<B: ControlBackend>(
    _: May<Operate>,
    id: Path<String>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let key = admitted(&begun, &id, None)?;
    backend.backup_goes_on(key, true).await;
    Ok(HttpResponse::NoContent().finish())
}

/// Says that what was captured is wanted no more: the backup is whole, or given up.
#[utoipa::path(
    delete, path = "/v1/backups/{id}", tag = "backups",
    params(("id" = String, Path, description = "The backup's name")),
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn end<B: ControlBackend>(
    _: May<Operate>,
    id: Path<String>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let key = admitted(&begun, &id, None)?;
    begun.forget(key);
    backend.backup_goes_on(key, false).await;
    Ok(HttpResponse::NoContent().finish())
}

/// Captures a group at its owner: state and archive at one index, with all that was acknowledged before.
#[utoipa::path(
    post, path = "/v1/backups/{id}/groups/{group}", tag = "backups",
    params(
        ("id" = String, Path, description = "The backup's name"),
        ("group" = u32, Path, description = "0 is the meta group, 1 + p is that of partition p"),
    ),
    responses((status = 200, body = CaptureReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn capture<B: ControlBackend>(
    _: May<Operate>,
    path: Path<(String, u32)>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (id, group) = path.into_inner();
    let key = admitted(&begun, &id, Some(group))?;
    let report: CaptureReport = backend.backup_capture(key, group).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// Up to where the log of a partition is committed, by its owner. To be asked when all groups have been captured.
#[utoipa::path(
    post, path = "/v1/backups/{id}/groups/{group}/end", tag = "backups",
    params(
        ("id" = String, Path, description = "The backup's name"),
        ("group" = u32, Path, description = "1 + p is that of partition p"),
    ),
    responses((status = 200, body = EndReport), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn log_end<B: ControlBackend>(
    _: May<Operate>,
    path: Path<(String, u32)>,
    begun: Data<Begun>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (id, group) = path.into_inner();
    let key = admitted(&begun, &id, Some(group))?;
    let report: EndReport = backend.backup_end(key, group).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// A part of the state's file of a captured group; empty at its end.
#[utoipa::path(
    get, path = "/v1/backups/{id}/groups/{group}/state", tag = "backups",
    params(
        ("id" = String, Path, description = "The backup's name"),
        ("group" = u32, Path, description = "0 is the meta group, 1 + p is that of partition p"),
        StatePart,
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = RefusalReport),
    ),
)]
pub(crate) async fn state<B: ControlBackend>(
    _: May<Operate>,
    path: Path<(String, u32)>,
    part: Query<StatePart>,
    (begun, backend): (Data<Begun>, Data<B>),
) -> Result<HttpResponse, ControlError> {
    answer(
        (&begun, &backend),
        path,
        BackupPart::State(part.into_inner()),
    )
    .await
}

/// Rows of the archive of a captured partition, as a block of the file of rows.
#[utoipa::path(
    get, path = "/v1/backups/{id}/groups/{group}/rows", tag = "backups",
    params(
        ("id" = String, Path, description = "The backup's name"),
        ("group" = u32, Path, description = "1 + p is that of partition p"),
        RowsPart,
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = RefusalReport),
    ),
)]
pub(crate) async fn rows<B: ControlBackend>(
    _: May<Operate>,
    path: Path<(String, u32)>,
    part: Query<RowsPart>,
    (begun, backend): (Data<Begun>, Data<B>),
) -> Result<HttpResponse, ControlError> {
    answer(
        (&begun, &backend),
        path,
        BackupPart::Rows(part.into_inner()),
    )
    .await
}

/// Entries of a partition's log, as a block of the file of entries.
#[utoipa::path(
    get, path = "/v1/backups/{id}/groups/{group}/entries", tag = "backups",
    params(
        ("id" = String, Path, description = "The backup's name"),
        ("group" = u32, Path, description = "1 + p is that of partition p"),
        EntriesPart,
    ),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = RefusalReport),
    ),
)]
pub(crate) async fn entries<B: ControlBackend>(
    _: May<Operate>,
    path: Path<(String, u32)>,
    part: Query<EntriesPart>,
    (begun, backend): (Data<Begun>, Data<B>),
) -> Result<HttpResponse, ControlError> {
    answer(
        (&begun, &backend),
        path,
        BackupPart::Entries(part.into_inner()),
    )
    .await
}

async fn answer<B: ControlBackend>(
    (begun, backend): (&Begun, &Data<B>),
    path: Path<(String, u32)>,
    part: BackupPart,
) -> Result<HttpResponse, ControlError> {
    let (id, group) = path.into_inner();
    let key = admitted(begun, &id, Some(group))?;
    let bytes = backend.backup_part(key, group, part).await?;
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .body(bytes))
}

fn name(key: BackupKey) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The backup of a name, if it was begun here and is of the group.
fn admitted(begun: &Begun, id: &str, group: Option<u32>) -> Result<BackupKey, ControlError> {
    let key = key(id)?;
    begun.admit(key, group, Instant::now())?;
    Ok(key)
}

/// The backup of a name.
fn key(id: &str) -> Result<BackupKey, ControlError> {
    let missing = ControlError::Backend(BackendError::NoSuch("backup"));
    if id.len() != 32 || !id.is_ascii() {
        return Err(missing);
    }
    let number = u128::from_str_radix(id, 16).map_err(|_| missing)?;
    Ok(number.to_be_bytes())
}

async fn not_allowed(methods: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(methods))
}
