//! Client sockets: accepting, counting unauthenticated streams by address, and the wire a session talks over.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

use crate::connections::Connection;
use crate::fabric::Fabric;

/// What a stream's bytes travel over.
pub enum Wire {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// Nothing: a handshake is under way or has failed.
    Gone,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Wire::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Wire::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Wire::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Wire::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Wire::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Wire::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// A place among the unauthenticated streams of one address; given back when dropped.
pub struct Admission {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Unauthenticated streams by address: beyond the limit connections wait in a queue.
pub struct Doorkeeper {
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// Addresses remembered at once before those without streams are forgotten.
const ADDRESSES_MAX: usize = 4_096;

impl Doorkeeper {
    /// With so many unauthenticated streams an address.
    pub fn new(per_address: usize) -> Doorkeeper {
        Doorkeeper {
            per_address,
            addresses: Mutex::default(),
        }
    }

    fn door(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= ADDRESSES_MAX {
            let all = self.per_address;
            addresses
                .retain(|_, door| door.available_permits() < all || Arc::strong_count(door) > 1);
        }
        Arc::clone(
            addresses
                .entry(address)
                .or_insert_with(|| Arc::new(Semaphore::new(self.per_address))),
        )
    }

    /// Waits for a place; trusted addresses need none.
    pub async fn admit(&self, address: IpAddr, trusted: bool) -> Admission {
        if trusted {
            return Admission { _permit: None };
        }
        let permit = self.door(address).acquire_owned().await;
        Admission {
            _permit: permit.ok(),
        }
    }
}

/// A connection that may negotiate.
pub struct Accepted {
    /// Its socket.
    pub socket: TcpStream,
    /// Where it comes from.
    pub address: IpAddr,
    /// Whether TLS comes first.
    pub direct_tls: bool,
    /// Its place among the address's unauthenticated streams.
    pub admission: Admission,
    /// Its place among the node's connections.
    pub connection: Connection,
}

/// How long a waiting connection may queue for its place.
const QUEUE_MAX: Duration = Duration::from_secs(30);

/// Connections that may queue at once on a listener, all addresses together.
const QUEUED_MAX: usize = 1_024;

/// Connections that were refused, for the log: a flood of them is one line a minute.
#[derive(Debug, Default)]
struct Refusals {
    unsaid: u64,
    said: Option<Instant>,
}

/// How often refusals are said at most.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);

impl Refusals {
    /// Counts one; gives how many are to be said now.
    fn refused(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        let due = self.said.is_none_or(|said| now >= said + REFUSALS_EVERY);
        due.then(|| {
            self.said = Some(now);
            std::mem::take(&mut self.unsaid)
        })
    }
}

fn refused(fabric: &Fabric, refusals: &Mutex<Refusals>, why: &str) {
    fabric.metrics.connections_refused.inc();
    let mut refusals = refusals.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = refusals.refused(Instant::now()) {
        tracing::info!(number, why, "connections refused");
    }
}

fn send_at_once(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

/// Accepts until the node stops; connections are spread over the arbiters.
pub async fn accept(
    fabric: Arc<Fabric>,
    listener: TcpListener,
    direct_tls: bool,
    arbiters: Vec<ArbiterHandle>,
) {
    let doorkeeper = Arc::new(Doorkeeper::new(
        fabric.settings.client.unauthenticated_per_address_max as usize,
    ));
    let queue = Arc::new(Semaphore::new(QUEUED_MAX));
    let refusals = Arc::new(Mutex::new(Refusals::default()));
    let mut turn = 0usize;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The port closes: clients find another node at once.
            () = fabric.connections.stopping() => return,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: others end first, then it goes on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        fabric.metrics.connections.inc();
        send_at_once(&socket);
        let Ok(place) = Arc::clone(&queue).try_acquire_owned() else {
            refused(&fabric, &refusals, "too many wait to be served");
            continue;
        };
        let (fabric, doorkeeper) = (Arc::clone(&fabric), Arc::clone(&doorkeeper));
        let refusals = Arc::clone(&refusals);
        let trusted = fabric.settings.client.is_trusted(address.ip());
        turn = (turn + 1) % arbiters.len().max(1);
        let Some(arbiter) = arbiters.get(turn) else {
            return;
        };
        let connection = fabric.connections.open();
        // On the arbiter from the start: a session's place stays on its thread.
        let spawned = arbiter.spawn_fn(move || {
            actix_rt::spawn(async move {
                let admission = tokio::select! {
                    admission = doorkeeper.admit(address.ip(), trusted) => Some(admission),
                    () = tokio::time::sleep(QUEUE_MAX) => {
                        refused(&fabric, &refusals, "too many of one address do not log in");
                        None
                    }
                    () = fabric.connections.stopping() => None,
                };
                drop(place);
                if let Some(admission) = admission {
                    let accepted = Accepted {
                        socket,
                        address: address.ip(),
                        direct_tls,
                        admission,
                        connection,
                    };
                    crate::negotiation::serve(fabric, accepted).await;
                }
            });
        });
        if !spawned {
            return;
        }
    }
}

/// Binds a client port.
///
/// # Errors
/// Those of the operating system: the port is taken, or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_said_once_a_minute_with_their_number() {
        let begin = Instant::now();
        let mut refusals = Refusals::default();
        let mut check = |seconds, expect| {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(refusals.refused(now), expect, "after {seconds} s");
        };
        check(0, Some(1));
        check(1, None);
        check(59, None);
        check(60, Some(3));
        check(61, None);
        check(200, Some(2));
    }
}
