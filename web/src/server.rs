//! Listening: TLS, limits, headers, and what stands in front of every handler.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::error::{JsonPayloadError, PathError, QueryPayloadError};
use actix_web::http::header::{self, HeaderName};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::web::{Data, JsonConfig, PathConfig, PayloadConfig, QueryConfig, ServiceConfig};
use actix_web::{App, Error, HttpServer, ResponseError, rt, web};
use socket2::{Domain, Socket, Type};

use crate::access::{Access, ControlToken};
use crate::backend::ControlBackend;
use crate::begun::Begun;
use crate::error::ControlError;
use crate::importers::Importers;
use crate::path::is_canonical;
use crate::{
    backups, cluster, console, health, imports, nodes, openapi, operators, sessions, sign_in,
    status, tokens, users,
};

/// What a control port is started with.
pub struct ControlSettings {
    /// Its certificate and key.
    pub tls: rustls::ServerConfig,
    /// What makes somebody an operator, whatever the pool says.
    pub token: ControlToken,
    /// Who that is, for the audit log: `root@NODE`.
    pub root: String,
    /// Whether `/health/…` answers without the token.
    pub health_open: bool,
    /// Whether `/metrics` answers without the token.
    pub metrics_open: bool,
    /// Whether there is the console page.
    pub console: bool,
    /// Connections at once; further ones wait.
    pub connections_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// How long a request's head, or a TLS handshake, may take.
    pub request_timeout: Duration,
}

/// The address of a control port that is not served yet: connections are refused, and no other program gets it.
pub struct ReservedPort {
    address: SocketAddr,
    socket: Socket,
}

impl ReservedPort {
    /// Reserves an address.
    ///
    /// # Errors
    /// If it is taken, or not this machine's.
    pub fn new(address: SocketAddr) -> Result<ReservedPort, ControlServerError> {
        let reserve = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // For connections that have just ended there. On a socket that does not listen yet it would let others in as well.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.set_reuse_address(false)?;
            Ok(socket)
        };
        let reserved = reserve().map_err(|source| ControlServerError::Listen { address, source });
        reserved.map(|socket| ReservedPort { address, socket })
    }

    fn listen(self) -> io::Result<TcpListener> {
        self.socket.set_reuse_address(true)?;
        self.socket.listen(BACKLOG)?;
        Ok(self.socket.into())
    }
}

/// A control port that listens.
pub struct ControlServer {
    address: SocketAddr,
    handle: ServerHandle,
}

/// Why a control port doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum ControlServerError {
    /// The address can't be listened on.
    #[error("the control port cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// No page of another origin is to embed what this port serves.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long requests may still run when the port is closed, in seconds.
const SHUTDOWN_SECONDS: u64 = 3;

impl ControlServer {
    /// Serves the port. Must be called inside an actix system; the port has a thread of its own.
    ///
    /// # Errors
    /// If somebody else listens on the address since it was reserved.
    pub fn start<B: ControlBackend>(
        port: ReservedPort,
        settings: ControlSettings,
        backend: B,
    ) -> Result<ControlServer, ControlServerError> {
        let ControlSettings {
            tls,
            body_bytes_max,
            ..
        } = settings;
        let address = port.address;
        let failed = |source| ControlServerError::Listen { address, source };
        let listener = port.listen().map_err(failed)?;
        let (token, root) = (settings.token, settings.root);
        let (health_open, metrics_open) = (settings.health_open, settings.metrics_open);
        let (console, sign_ins) = (settings.console, Arc::default());
        let (begun, importers) = (Data::<Begun>::default(), Data::<Importers>::default());
        let server = HttpServer::new(move || {
            let operators = backend.clone();
            let access = Access {
                token: token.clone(),
                root: root.clone(),
                identify: Box::new(move |token| operators.identify(token)),
                health_open,
                metrics_open,
                sign_ins: Arc::clone(&sign_ins),
            };
            App::new()
                .app_data(Data::new(access))
                .app_data(Data::new(backend.clone()))
                .app_data(begun.clone())
                .app_data(importers.clone())
                .app_data(json_config(body_bytes_max))
                .app_data(PayloadConfig::new(body_bytes_max))
                .app_data(QueryConfig::default().error_handler(|error, _| bad_query(&error).into()))
                .app_data(PathConfig::default().error_handler(|error, _| bad_path(&error).into()))
                .configure(of_the_pool::<B>)
                .configure(|config| {
                    if console {
                        sign_in::routes(config);
                        console::routes(config);
                    }
                })
                .configure(backups::routes::<B>)
                .configure(imports::routes::<B>)
                .configure(openapi::routes)
                .configure(health::routes::<B>)
                .default_service(web::to(no_such_path))
                .wrap(from_fn(canonical_paths_only))
                .wrap(strict_headers())
        })
        .workers(1)
        .max_connections(settings.connections_max)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(settings.request_timeout)
        .tls_handshake_timeout(settings.request_timeout)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .listen_rustls_0_23(listener, tls)
        .map_err(failed)?;
        let address = server.addrs().first().copied().unwrap_or(address);
        let running = server.run();
        let handle = running.handle();
        rt::spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(%error, "the control port has failed");
            }
        });
        Ok(ControlServer { address, handle })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets running requests end, and stops listening.
    pub async fn stop(self) {
        self.handle.stop(true).await;
    }
}

/// What operators see and do.
fn of_the_pool<B: ControlBackend>(config: &mut ServiceConfig) {
    status::routes::<B>(config);
    users::routes::<B>(config);
    nodes::routes::<B>(config);
    cluster::routes::<B>(config);
    tokens::routes::<B>(config);
    operators::routes::<B>(config);
    sessions::routes::<B>(config);
}

pub(crate) fn json_config(body_bytes_max: usize) -> JsonConfig {
    JsonConfig::default()
        .limit(body_bytes_max)
        .error_handler(move |error, _| {
            match &error {
                JsonPayloadError::ContentType => ControlError::NotJson,
                JsonPayloadError::Overflow { .. }
                | JsonPayloadError::OverflowKnownLength { .. } => {
                    ControlError::TooLarge(body_bytes_max)
                }
                // serde's sentence names a field or a place, never a value.
                JsonPayloadError::Deserialize(error) if error.is_data() => ControlError::Malformed(
                    "the body does not have the fields it should have".to_owned(),
                ),
                _ => ControlError::Malformed("the body is no JSON".to_owned()),
            }
            .into()
        })
}

fn bad_query(error: &QueryPayloadError) -> ControlError {
    ControlError::Malformed(format!("the query does not read: {error}"))
}

fn bad_path(_: &PathError) -> ControlError {
    ControlError::NoSuchPath
}

async fn no_such_path() -> Result<&'static str, ControlError> {
    Err(ControlError::NoSuchPath)
}

async fn canonical_paths_only(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let path = request.uri().path();
    if path == "/" || is_canonical(path) {
        Ok(next.call(request).await?.map_into_boxed_body())
    } else {
        // A response, not an error: errors would go out without the headers.
        Ok(request
            .into_response(ControlError::NoSuchPath.error_response())
            .map_into_boxed_body())
    }
}

/// Answers are for the one who asked; pages that are for browsers say so themselves.
fn strict_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add((header::CACHE_CONTROL, "no-store"))
        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((header::X_FRAME_OPTIONS, "DENY"))
        .add((header::REFERRER_POLICY, "no-referrer"))
        .add((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ))
        .add((RESOURCE_POLICY, "same-origin"))
        .add((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"))
}
