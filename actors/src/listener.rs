//! Client sockets: accepting, finding out who is behind a balancer, and the wire a session talks over.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster::net::{TcpListener, TcpStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::connections::Connection;
use crate::door::{Admission, TurnedAway};
use crate::fabric::Fabric;
use crate::proxy_protocol::{self, Header};
use crate::threads::ArbiterHandle;

mod ports;

pub use ports::{ReservedPort, listen, reserve};
use ports::{detach, reattach, tune};

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

fn refused(fabric: &Fabric, refusals: &Mutex<Refusals>, why: TurnedAway) {
    fabric.metrics.connections_refused.inc();
    let mut refusals = refusals.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = refusals.refused(Instant::now()) {
        tracing::info!(number, %why, "connections refused");
    }
}

/// Accepts until the node stops; connections are spread over the arbiters.
pub async fn accept(
    fabric: Arc<Fabric>,
    listener: TcpListener,
    direct_tls: bool,
    arbiters: Vec<ArbiterHandle>,
) {
    let refusals = Arc::new(Mutex::new(Refusals::default()));
    let mut turn = 0usize;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The port closes: clients find another node at once.
            () = fabric.connections.stopping() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: others end first, then it goes on.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        fabric.metrics.connections.inc();
        if let Err(error) = tune(&socket, &fabric.settings.client) {
            tracing::debug!(%error, "a client's socket could not be tuned");
        }
        turn = (turn + 1) % arbiters.len().max(1);
        let Some(arbiter) = arbiters.get(turn) else {
            return;
        };
        let came = (socket, peer.ip().to_canonical());
        if !hand_over(&fabric, arbiter, came, direct_tls, &refusals) {
            return;
        }
    }
}

/// Gives a connection to the arbiter that serves it; `false`: that is gone.
fn hand_over(
    fabric: &Arc<Fabric>,
    arbiter: &ArbiterHandle,
    (socket, peer): (TcpStream, IpAddr),
    direct_tls: bool,
    refusals: &Arc<Mutex<Refusals>>,
) -> bool {
    // It leaves this thread's poll and enters that of the arbiter: a thread that only tells another of each packet costs as
    // much as the packet.
    let socket = match detach(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "a client's socket could not be handed over");
            return true;
        }
    };
    let connection = fabric.connections.open();
    let (fabric, refusals) = (Arc::clone(fabric), Arc::clone(refusals));
    // On the arbiter from the start: a session's place stays on its thread.
    arbiter.spawn_fn(move || {
        actix_rt::spawn(async move {
            let socket = match reattach(socket) {
                Ok(socket) => socket,
                Err(error) => {
                    return tracing::warn!(%error, "a client's socket could not be polled");
                }
            };
            let came = (socket, peer);
            if let Some(accepted) = receive(&fabric, came, direct_tls, connection, &refusals).await
            {
                crate::negotiation::serve(fabric, accepted).await;
            }
        });
    })
}

/// Finds out where a connection comes from, and waits for its turn.
async fn receive(
    fabric: &Fabric,
    (mut socket, peer): (TcpStream, IpAddr),
    direct_tls: bool,
    connection: Connection,
    refusals: &Mutex<Refusals>,
) -> Option<Accepted> {
    let client = &fabric.settings.client;
    let address = if client.is_proxy(peer) {
        let named = tokio::select! {
            named = named_by_proxy(fabric, &mut socket) => named,
            () = fabric.connections.stopping() => return None,
        };
        match named {
            Ok(address) => address.unwrap_or(peer),
            Err(error) => {
                fabric.metrics.proxy_headers_bad.inc();
                tracing::debug!(%peer, %error, "a connection without a good PROXY header");
                return None;
            }
        }
    } else {
        peer
    };
    let admitted = tokio::select! {
        admitted = fabric.door.admit(address, client.is_trusted(address)) => admitted,
        () = fabric.connections.stopping() => return None,
    };
    match admitted {
        Ok(admission) => Some(Accepted {
            socket,
            address,
            direct_tls,
            admission,
            connection,
        }),
        Err(why) => {
            refused(fabric, refusals, why);
            None
        }
    }
}

/// Reads a balancer's header, to its last byte and within the limit of a step: whom it speaks for.
async fn named_by_proxy(fabric: &Fabric, socket: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let read = async {
        let mut header = Vec::new();
        loop {
            match proxy_protocol::parse(&header).map_err(io::Error::other)? {
                Header::Needs(more) => {
                    let from = header.len();
                    header.resize(from + more, 0);
                    socket.read_exact(&mut header[from..]).await?;
                }
                Header::Whole(address) => return Ok(address.map(|address| address.to_canonical())),
            }
        }
    };
    let limit = fabric.streams.negotiation.step;
    tokio::time::timeout(limit, read)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
