//! A TCP connection that can change its runtime.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::TcpStream;

/// A connected socket. What is read and written is TCP's; whose epoll tells of it can be changed.
pub(crate) struct Socket {
    /// `None` after a move that failed: every use is an error then.
    tcp: Option<TcpStream>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Socket {
        Socket { tcp: Some(tcp) }
    }

    /// From now on the runtime that this is called on tells of the socket. Nobody may wait for it meanwhile.
    ///
    /// # Errors
    /// The system's; the socket is closed then.
    #[cfg(not(feature = "simulation"))]
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        let tcp = self.tcp.take().ok_or(io::ErrorKind::NotConnected)?;
        self.tcp = Some(TcpStream::from_std(tcp.into_std()?)?);
        Ok(())
    }

    /// There is one runtime for everything.
    ///
    /// # Errors
    /// None.
    #[cfg(feature = "simulation")]
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let tcp = self.tcp.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(tcp))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_shutdown(cx)
    }
}
