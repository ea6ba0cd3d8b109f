//! A stream's bytes: a socket with or without TLS, and the frames that come out of it.
//!
//! [`Wire`] is what both the [`client`](crate::client) and the tests of raw bytes use. It knows no protocol beyond
//! cutting frames.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
#[cfg(not(feature = "simulation"))]
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
#[cfg(feature = "simulation")]
use turmoil::net::TcpStream;
use xmpp::scan::{Document, Frame, Framer, Limits};

use crate::wait::PROMPT;

/// How long connecting and each handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A socket, whatever lies on it.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A socket and the frames that come out of it.
pub struct Wire {
    socket: Box<dyn Socket>,
    framer: Framer,
}

impl Wire {
    /// Connects without TLS.
    pub async fn plain(address: SocketAddr) -> Result<Wire> {
        let connect = timeout(CONNECT_LIMIT, TcpStream::connect(address));
        let socket = connect.await.context("connecting took too long")??;
        socket.set_nodelay(true)?;
        Ok(Wire::over(Box::new(socket)))
    }

    /// Connects without TLS from an address of this machine.
    pub async fn plain_from(from: IpAddr, address: SocketAddr) -> Result<Wire> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let connect = timeout(CONNECT_LIMIT, socket.connect(address));
        let socket = connect.await.context("connecting took too long")??;
        socket.set_nodelay(true)?;
        Ok(Wire::over(Box::new(socket)))
    }

    /// Connects with TLS from the first byte (XEP-0368).
    pub async fn direct_tls(
        address: SocketAddr,
        domain: &str,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Wire> {
        Wire::plain(address).await?.into_tls(domain, tls).await
    }

    fn over(socket: Box<dyn Socket>) -> Wire {
        Wire {
            socket,
            framer: Framer::new(Limits::OWN),
        }
    }

    /// Turns to TLS: what was read before is forgotten.
    pub async fn into_tls(self, domain: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Wire> {
        let name = ServerName::try_from(domain.to_owned())?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let handshake = timeout(CONNECT_LIMIT, connector.connect(name, self.socket));
        Ok(Wire::over(Box::new(
            handshake
                .await
                .context("the TLS handshake took too long")??,
        )))
    }

    /// The stream starts anew on the same socket.
    pub fn restart(&mut self) {
        self.framer.reset();
    }

    /// Writes bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// The next frame; `None` at the end of the socket.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        read_frame(&mut self.socket, &mut self.framer).await
    }

    /// The next frame, within a limit; the end of the socket is an error.
    pub async fn expect(&mut self, what: &str, limit: Duration) -> Result<Frame> {
        match timeout(limit, self.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => bail!("{what}: the socket was closed"),
            Ok(Err(error)) => Err(error.context(what.to_owned())),
            Err(_) => bail!("{what}: nothing came within {limit:?}"),
        }
    }

    /// The next frame, which must be an element.
    pub async fn element(&mut self, what: &str) -> Result<Document> {
        match self.expect(what, PROMPT).await? {
            Frame::Element(document) => Ok(document),
            other => bail!("{what}: came {other:?}"),
        }
    }

    /// Everything that still comes, as bytes, until the peer closes the socket. A reset counts as closed.
    pub async fn rest(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut bytes = vec![0; READ_BYTES];
        let read = async {
            loop {
                match self.socket.read(&mut bytes).await {
                    Ok(0) | Err(_) => return,
                    Ok(len) => all.extend_from_slice(bytes.get(..len).unwrap_or_default()),
                }
            }
        };
        if timeout(limit, read).await.is_err() {
            let seen = String::from_utf8_lossy(&all).into_owned();
            bail!("the socket was not closed within {limit:?}; until then: {seen}");
        }
        Ok(all)
    }

    /// The halves, for a task each, with the framer as it stands.
    pub fn split(self) -> (WireReader, tokio::io::WriteHalf<Box<dyn Socket>>) {
        let (read, write) = tokio::io::split(self.socket);
        (
            WireReader {
                socket: read,
                framer: self.framer,
            },
            write,
        )
    }
}

/// The reading half of a [`Wire`].
pub struct WireReader {
    socket: tokio::io::ReadHalf<Box<dyn Socket>>,
    framer: Framer,
}

impl WireReader {
    /// The next frame; `None` at the end of the socket.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        read_frame(&mut self.socket, &mut self.framer).await
    }
}

/// Reads until there is a frame; `None` at the end of the socket.
async fn read_frame(
    socket: &mut (impl AsyncRead + Unpin),
    framer: &mut Framer,
) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = framer.next()? {
            return Ok(Some(frame));
        }
        let mut bytes = vec![0; READ_BYTES];
        let len = socket.read(&mut bytes).await?;
        if len == 0 {
            return Ok(None);
        }
        framer.push(bytes.get(..len).unwrap_or_default());
    }
}
