//! What is asked of the operating system for client ports and sockets. A simulated network has nothing of it.

#[cfg(not(feature = "simulation"))]
pub use real::{ReservedPort, listen, reserve};
#[cfg(not(feature = "simulation"))]
pub(super) use real::{detach, reattach, tune};
#[cfg(feature = "simulation")]
pub use simulated::{ReservedPort, listen, reserve};
#[cfg(feature = "simulation")]
pub(super) use simulated::{detach, reattach, tune};

#[cfg(not(feature = "simulation"))]
mod real {
    use std::io;
    use std::net::SocketAddr;
    use std::time::Duration;

    use socket2::{Domain, Protocol, Socket, Type};
    use tokio::net::{TcpListener, TcpStream};

    use crate::runtime::ClientSettings;

    /// A port that is this node's, and takes no connections yet.
    pub type ReservedPort = Socket;

    /// Probes of a silent connection until its machine counts as gone.
    const PROBES: u32 = 4;

    /// What is written goes at once. A connection that is silent for a while is probed by the kernel, so that a client whose
    /// machine or network has gone is found out though nobody sends it anything (RFC 6120 §4.6).
    pub(in crate::listener) fn tune(socket: &TcpStream, client: &ClientSettings) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(client.probe_after)
            .with_interval((client.sm_outbound.answer_within / PROBES).max(Duration::from_secs(1)))
            .with_retries(PROBES);
        socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
    }

    /// Leaves this thread's poll.
    pub(in crate::listener) fn detach(socket: TcpStream) -> io::Result<std::net::TcpStream> {
        socket.into_std()
    }

    /// Enters this thread's poll.
    pub(in crate::listener) fn reattach(socket: std::net::TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(socket)
    }

    /// Reserves a client port: no other program gets it, and until [`listen`] connections are refused.
    ///
    /// # Errors
    /// Those of the operating system: the port is taken, or not this machine's.
    pub fn reserve(address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        // For connections that have just ended there. On a socket that does not listen yet it would let others in as well.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_reuse_address(false)?;
        Ok(socket)
    }

    /// Lets clients connect to a reserved port.
    ///
    /// # Errors
    /// Those of the operating system: somebody else listens there since it was reserved.
    pub fn listen(socket: Socket) -> io::Result<TcpListener> {
        socket.set_reuse_address(true)?;
        socket.listen(1_024)?;
        TcpListener::from_std(socket.into())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// With the option that listeners have, two that do not listen yet could both have it.
        #[tokio::test]
        async fn a_reserved_address_is_nobody_elses() {
            let first = reserve("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = first.local_addr().unwrap().as_socket().unwrap();
            let second = reserve(address).map(drop).unwrap_err();
            assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
            assert!(std::net::TcpStream::connect(address).is_err(), "refused");
            let listener = listen(first).unwrap();
            assert!(std::net::TcpStream::connect(address).is_ok());
            drop(listener);
            // A connection has just ended there.
            assert!(reserve(address).and_then(listen).is_ok());
        }

        #[tokio::test]
        async fn silent_connections_are_probed() {
            let folder = tempfile::tempdir().unwrap();
            let client = ClientSettings {
                probe_after: Duration::from_secs(77),
                ..crate::runtime::stage::settings(folder.path()).client
            };
            let listener = listen(reserve("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let (_near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (far, _) = far.unwrap();
            tune(&far, &client).unwrap();
            let socket = socket2::SockRef::from(&far);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), client.probe_after);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
            let probed = socket.tcp_keepalive_interval().unwrap() * PROBES;
            assert_eq!(probed, client.sm_outbound.answer_within);
            assert!(far.nodelay().unwrap());
        }
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr};

    use cluster::net::{TcpListener, TcpStream};
    use futures_util::FutureExt;

    use crate::runtime::ClientSettings;

    /// A port that is this node's, and takes no connections yet.
    pub type ReservedPort = SocketAddr;

    pub(in crate::listener) fn tune(
        socket: &TcpStream,
        _client: &ClientSettings,
    ) -> io::Result<()> {
        socket.set_nodelay(true)
    }

    pub(in crate::listener) fn detach(socket: TcpStream) -> io::Result<TcpStream> {
        Ok(socket)
    }

    pub(in crate::listener) fn reattach(socket: TcpStream) -> io::Result<TcpStream> {
        Ok(socket)
    }

    /// Nobody else is on a simulated machine.
    ///
    /// # Errors
    /// None.
    pub fn reserve(address: SocketAddr) -> io::Result<ReservedPort> {
        Ok(address)
    }

    /// Lets clients connect to a reserved port.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn listen(port: ReservedPort) -> io::Result<TcpListener> {
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.port()));
        // Never waits.
        let bound = TcpListener::bind(all).now_or_never();
        bound.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }
}
