//! `/v1/imports`: accounts from other servers, piece by piece.
//!
//! That an import begins and that it ends is written down; its pieces are not, there may be millions: but for the first of an operator
//! who did not begin it here. A piece changes nothing but an account whose import has begun and has not come to its end.

use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path, ServiceConfig, post, resource, to};

use crate::access::{May, Operate};
use crate::backend::ControlBackend;
use crate::error::ControlError;
use crate::importers::Importers;
use crate::record::recorded;
use crate::report::RefusalReport;
use crate::report::imports::{ImportPiece, NewImport};
use crate::server::json_config;
use crate::users::user;

/// Bytes in a piece: a message of the largest size, escaped, and a vCard.
const PIECE_BYTES_MAX: usize = 1 << 20;

pub(crate) fn routes<B: ControlBackend>(config: &mut ServiceConfig) {
    config
        .service(
            resource("/v1/imports")
                .route(post().to(begin::<B>))
                .default_service(to(|| not_allowed("POST"))),
        )
        .service(
            resource("/v1/imports/{jid}")
                .app_data(json_config(PIECE_BYTES_MAX))
                .route(post().to(piece::<B>))
                .default_service(to(|| not_allowed("POST"))),
        );
}

/// Makes an account that nobody can log in to yet, or goes on with one; refused where there is one with credentials.
#[utoipa::path(
    post, path = "/v1/imports", tag = "imports",
    request_body = NewImport,
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn begin<B: ControlBackend>(
    may: May<Operate>,
    new: Json<NewImport>,
    importers: Data<Importers>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let user = user(&new.user)?;
    let importer = (may.actor.name.clone(), user.as_str().to_owned());
    let what = ("user.import", user.as_str().to_owned());
    let begin = |backend: B| async move { backend.begin_import(user).await };
    recorded(backend.as_ref(), may.actor, what, begin).await?;
    importers.note(importer, Instant::now());
    Ok(HttpResponse::NoContent().finish())
}

/// Adds a piece to an account that is being imported.
#[utoipa::path(
    post, path = "/v1/imports/{jid}", tag = "imports",
    params(("jid" = String, Path, description = "The user's address")),
    request_body = ImportPiece,
    responses((status = 204), (status = "default", body = RefusalReport)),
)]
pub(crate) async fn piece<B: ControlBackend>(
    may: May<Operate>,
    jid: Path<String>,
    piece: Json<ImportPiece>,
    importers: Data<Importers>,
    backend: Data<B>,
) -> Result<HttpResponse, ControlError> {
    let (user, piece) = (user(&jid)?, piece.into_inner());
    let importer = (may.actor.name.clone(), user.as_str().to_owned());
    let finishes = matches!(piece, ImportPiece::Finish { .. });
    if !finishes && importers.knows(&importer, Instant::now()) {
        backend.import(user, piece).await?;
        return Ok(HttpResponse::NoContent().finish());
    }
    let action = match finishes {
        true => "user.import.finish",
        false => "user.import.piece",
    };
    let what = (action, user.as_str().to_owned());
    let import = |backend: B| async move { backend.import(user, piece).await };
    recorded(backend.as_ref(), may.actor, what, import).await?;
    match finishes {
        true => importers.forget(&importer),
        false => importers.note(importer, Instant::now()),
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn not_allowed(allowed: &'static str) -> Result<HttpResponse, ControlError> {
    Err(ControlError::MethodNotAllowed(allowed))
}
