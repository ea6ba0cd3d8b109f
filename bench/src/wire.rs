//! One connection: bytes through TCP or TLS, elements through the scanner.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use xmpp::ns;
use xmpp::scan::{Document, Frame, Framer, Limits};
use xmpp::write::XmlWriter;

use crate::target::{Security, Target};

/// Read at once.
const READ_BYTES: usize = 4096;

/// A stream of bytes, encrypted or not.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection with a stream in it.
pub(crate) struct Wire {
    socket: Box<dyn Socket>,
    framer: Framer,
}

impl Wire {
    /// Connects a session to its node, encrypts if that is wanted, and opens the stream. Gives the features.
    pub(crate) async fn connect(
        target: &Target,
        session: usize,
    ) -> anyhow::Result<(Wire, Document)> {
        let node = target.node(session)?;
        let tcp = connect_tcp(node, target.source(session)).await?;
        match target.security {
            Security::Plain => Wire::over(Box::new(tcp)).open(&target.domain).await,
            Security::Tls => {
                Wire::over(encrypt(tcp, target).await?)
                    .open(&target.domain)
                    .await
            }
            Security::Starttls => {
                let (mut tcp, mut framer) = (tcp, Framer::new(Limits::OWN));
                start_tls(&mut tcp, &mut framer, &target.domain).await?;
                Wire::over(encrypt(tcp, target).await?)
                    .open(&target.domain)
                    .await
            }
        }
    }

    fn over(socket: Box<dyn Socket>) -> Wire {
        Wire {
            socket,
            framer: Framer::new(Limits::OWN),
        }
    }

    async fn open(mut self, domain: &str) -> anyhow::Result<(Wire, Document)> {
        let features = self.restart(domain).await?;
        Ok((self, features))
    }

    /// Opens the stream, or opens it anew after SASL. Gives the features.
    pub(crate) async fn restart(&mut self, domain: &str) -> anyhow::Result<Document> {
        self.framer.reset();
        open_stream(&mut self.socket, &mut self.framer, domain).await
    }

    /// Writes bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// The next element; the end of the stream is an error.
    pub(crate) async fn element(&mut self) -> anyhow::Result<Document> {
        next_element(&mut self.socket, &mut self.framer).await
    }

    /// The connection and what cuts it into elements, for sending and receiving at the same time.
    pub(crate) fn into_parts(self) -> (Box<dyn Socket>, Framer) {
        (self.socket, self.framer)
    }
}

async fn connect_tcp(node: SocketAddr, source: Option<IpAddr>) -> anyhow::Result<TcpStream> {
    let connected = match source {
        Some(source) => {
            let socket = match source {
                IpAddr::V4(_) => TcpSocket::new_v4(),
                IpAddr::V6(_) => TcpSocket::new_v6(),
            };
            let socket = socket.context("no socket")?;
            let bound = socket.bind(SocketAddr::new(source, 0));
            bound.with_context(|| format!("{source}: no free port"))?;
            socket.connect(node).await
        }
        None => TcpStream::connect(node).await,
    };
    let tcp = connected.with_context(|| format!("{node}: no connection"))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn encrypt(tcp: TcpStream, target: &Target) -> anyhow::Result<Box<dyn Socket>> {
    let tls = target
        .tls
        .as_ref()
        .context("TLS needs the server's CA: --ca FILE")?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = connector
        .connect(target.server_name()?, tcp)
        .await
        .context("TLS handshake")?;
    Ok(Box::new(stream))
}

async fn start_tls(tcp: &mut TcpStream, framer: &mut Framer, domain: &str) -> anyhow::Result<()> {
    let features = open_stream(tcp, framer, domain).await?;
    if features.root().child("starttls", ns::TLS).is_none() {
        bail!("the server offers no STARTTLS");
    }
    let mut starttls = XmlWriter::new(ns::CLIENT);
    starttls.start_ns("starttls", ns::TLS);
    tcp.write_all(&starttls.finish()).await?;
    let answer = next_element(tcp, framer).await?;
    if !answer.root().is("proceed", ns::TLS) {
        bail!("the server refused STARTTLS: {}", answer.source());
    }
    Ok(())
}

async fn open_stream<S: Socket>(
    socket: &mut S,
    framer: &mut Framer,
    domain: &str,
) -> anyhow::Result<Document> {
    let header = format!(
        "<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' xmlns='{}' xmlns:stream='{}'>",
        ns::CLIENT,
        ns::STREAM
    );
    socket.write_all(header.as_bytes()).await?;
    socket.flush().await?;
    let features = next_element(socket, framer).await?;
    if !features.root().is("features", ns::STREAM) {
        bail!("the stream did not open: {}", features.source());
    }
    Ok(features)
}

async fn next_element<S: Socket>(socket: &mut S, framer: &mut Framer) -> anyhow::Result<Document> {
    let mut buffer = [0; READ_BYTES];
    loop {
        match framer.next().context("what the server sends is not XML")? {
            Some(Frame::Header(_)) => continue,
            Some(Frame::Element(element)) if element.root().is("error", ns::STREAM) => {
                bail!("stream error: {}", element.source());
            }
            Some(Frame::Element(element)) => return Ok(element),
            Some(Frame::Close) => bail!("the server ended the stream"),
            None => {}
        }
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        framer.push(buffer.get(..read).unwrap_or_default());
    }
}
