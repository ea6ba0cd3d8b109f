//! Outgoing connections: reach the node, prove who both are, agree on a protocol, keep trying.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::net::{TcpStream, lookup_host};
use crate::node_id::{Incarnation, NodeId};
use crate::transport::connection::{self, Role};
use crate::transport::control::{Control, is_control};
use crate::transport::error::{ConnectError, ProbeError};
use crate::transport::event::{Direction, DownReason, PeerEvent};
use crate::transport::frame::{Frame, Lane, flags};
use crate::transport::hello::{HELLO_BYTES_MAX, Hello, HelloError, Identity, Purpose, Refusal};
use crate::transport::peer::{Outgoing, Peer};
use crate::transport::shared::{Alive, Shared};
use crate::transport::tls;

/// Unsent bytes the kernel may hold per connection: what waits should wait in our queue, where it is
/// counted and where a ping is not behind megabytes.
#[cfg(not(feature = "simulation"))]
const UNSENT_BYTES: u32 = 128 * 1024;

/// A connection that lived this long resets the backoff. One that ends at once (two processes fighting
/// for one id) must not be redialled in a hot loop.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection past its hello.
struct Opened {
    stream: TlsStream<TcpStream>,
    /// What our hello said.
    told: Incarnation,
    /// What theirs said.
    incarnation: Incarnation,
    protocol: u16,
}

/// Keeps one lane to one peer open until the peer is removed or the transport stops.
pub(crate) async fn keep_connected(shared: Arc<Shared>, peer: Arc<Peer>, lane: Lane, alive: Alive) {
    let mut backoff = Backoff::new(&shared);
    let mut last_error = String::new();
    while peer.stopped().is_none() {
        let opened = tokio::select! {
            biased;
            () = peer.stopping() => break,
            opened = Box::pin(open(&shared, peer.node, peer.address(), Purpose::Lane(lane))) => opened,
        };
        let refused = matches!(
            &opened,
            Err(ConnectError::Hello(HelloError::RefusedByPeer(
                Refusal::NotMember,
                _
            )))
        );
        shared.tell_stranger(peer.node, refused);
        match opened {
            Ok(opened) => {
                last_error.clear();
                let since = Instant::now();
                Box::pin(run(&shared, &peer, lane, opened)).await;
                if since.elapsed() >= SETTLED {
                    backoff.reset();
                }
            }
            Err(error) => {
                // One line per change, not one per attempt.
                let error = error.to_string();
                if error != last_error {
                    // The lanes share their fate: one of them says it for all.
                    if lane == Lane::Raft {
                        tracing::warn!(peer = %peer.node, %error, "cannot connect to a peer; retrying");
                    } else {
                        tracing::debug!(peer = %peer.node, %lane, %error, "cannot connect to a peer; retrying");
                    }
                    last_error = error;
                }
            }
        }
        tokio::select! {
            biased;
            () = peer.stopping() => break,
            () = peer.wake[usize::from(lane.code())].notified() => {}
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
    drop(alive);
}

async fn run(shared: &Arc<Shared>, peer: &Peer, lane: Lane, opened: Opened) {
    let generation = shared.next_generation();
    let agreed = (generation, opened.protocol);
    let outgoing = Arc::new(Outgoing::new(&shared.limits, lane, agreed));
    let node = peer.node;
    // Before the event, so that the handler may send from within it.
    peer.set_outgoing(lane, Some(outgoing.clone()));
    shared.emit(PeerEvent::Up {
        node,
        lane,
        direction: Direction::Outgoing,
        incarnation: opened.incarnation,
        generation,
        protocol: opened.protocol,
    });
    // Whoever stopped the peer or changed what we say in hellos before this point did not see the connection.
    if let Some(reason) = peer.stopped() {
        outgoing.queue.finish(reason);
    } else if shared.is_outdated(lane, opened.told) || !shared.speaks(opened.protocol) {
        outgoing.queue.finish(DownReason::Local);
    }
    let role = Role {
        lane,
        direction: Direction::Outgoing,
        limits: *shared.limits.lane(lane),
        linger: shared.limits.linger,
    };
    let reason = connection::run(opened.stream, &outgoing.queue, &role, |frame| {
        take_reply(&outgoing, frame)
    })
    .await;
    peer.set_outgoing(lane, None);
    outgoing.end(reason);
    shared.emit(PeerEvent::Down {
        node,
        lane,
        direction: Direction::Outgoing,
        generation,
        reason,
    });
}

fn take_reply(outgoing: &Outgoing, mut frame: Frame) -> Result<(), DownReason> {
    if is_control(&frame) {
        if Control::read(&frame) == Some(Control::NoReply) {
            outgoing.calls.refuse(frame.sequence);
        }
        return Ok(());
    }
    if frame.flags & flags::REPLY == 0 {
        return Err(DownReason::Protocol);
    }
    frame.flags &= flags::APPLICATION;
    outgoing.calls.complete(frame);
    Ok(())
}

/// One fresh connection with hello, closed at once.
pub(crate) async fn probe(
    shared: &Shared,
    node: NodeId,
    limit: Duration,
) -> Result<(), ProbeError> {
    if node == shared.node {
        return Ok(());
    }
    let peer = shared.peer(node).ok_or(ProbeError::NoPeer(node))?;
    let opening = Box::pin(open(shared, node, peer.address(), Purpose::Probe));
    match timeout(limit, opening).await {
        Ok(opened) => {
            let mut stream = opened?.stream;
            // The answer is what was wanted; how the connection ends doesn't matter.
            drop(timeout(limit, stream.shutdown()).await);
            Ok(())
        }
        Err(_) => Err(ProbeError::Timeout(limit)),
    }
}

async fn open(
    shared: &Shared,
    node: NodeId,
    address: String,
    purpose: Purpose,
) -> Result<Opened, ConnectError> {
    let limits = &shared.limits;
    let unreachable = |source| ConnectError::Unreachable {
        address: address.clone(),
        source,
    };
    let tcp = within(limits.connect_timeout, "connecting", async {
        connect(&address).await.map_err(unreachable)
    })
    .await?;
    tune(&tcp, limits.user_timeout).map_err(unreachable)?;
    within(limits.handshake_timeout, "the handshake", async {
        let name = tls::server_name(node, &shared.pool);
        let mut stream = Box::pin(shared.tls().connector.connect(name, tcp))
            .await
            .map_err(ConnectError::Tls)?;
        let own = shared.identity();
        exchange(&mut stream, shared, &own, node, purpose)
            .await
            .map(|(incarnation, protocol)| Opened {
                stream,
                told: own.incarnation,
                incarnation,
                protocol,
            })
    })
    .await
}

async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    shared: &Shared,
    own: &Identity,
    node: NodeId,
    purpose: Purpose,
) -> Result<(Incarnation, u16), ConnectError> {
    stream
        .write_all(&Hello::opening(own, purpose).encode())
        .await
        .map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let answer = Hello::decode(&read_hello(stream).await.map_err(broken)?)?;
    let checked = answer.check_answer(own, node);
    let is_skew = checked.as_ref().is_err_and(HelloError::is_skew);
    shared.tell_skew(node, is_skew.then_some(answer.protocol));
    let protocol = checked?;
    if !shared.note_incarnation(node, answer.incarnation) {
        let detail = format!("it says {}", answer.incarnation);
        return Err(HelloError::Refused(Refusal::StaleIncarnation, detail).into());
    }
    Ok((answer.incarnation, protocol))
}

/// The bytes of the other end's hello, behind its length; not decoded.
pub(crate) async fn read_hello<R: AsyncRead + Unpin>(input: &mut R) -> io::Result<Vec<u8>> {
    let length = usize::from(input.read_u16().await?);
    if length > HELLO_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a hello is at most 512 bytes",
        ));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// In TLS 1.3 the acceptor's verdict on our certificate arrives only after our end of the handshake.
fn broken(error: io::Error) -> ConnectError {
    match error.get_ref() {
        Some(inner) if inner.is::<rustls::Error>() => ConnectError::Tls(error),
        _ => ConnectError::Broken(error),
    }
}

/// Tries the addresses the name stands for, one after the other.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let found: Vec<SocketAddr> = lookup_host(address).await?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The socket options of both ends.
#[cfg(not(feature = "simulation"))]
pub(crate) fn tune(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(user_timeout)
        .with_interval(user_timeout / 4)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// A simulated socket has no options: what they are for, the lanes' pings do alone.
#[cfg(feature = "simulation")]
pub(crate) fn tune(stream: &TcpStream, _user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match timeout(limit, Box::pin(work)).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::Timeout { step, limit }),
    }
}

/// Pauses between attempts: doubling, each drawn from its upper half so that peers don't dial in step.
struct Backoff {
    min: Duration,
    max: Duration,
    pause: Duration,
}

impl Backoff {
    fn new(shared: &Shared) -> Backoff {
        let (min, max) = (shared.limits.backoff_min, shared.limits.backoff_max);
        Backoff {
            min,
            max,
            pause: min,
        }
    }

    fn reset(&mut self) {
        self.pause = self.min;
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.max);
        rand::rng().random_range(pause / 2..=pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_maximum_and_start_again() {
        let mut backoff = Backoff {
            min: Duration::from_millis(20),
            max: Duration::from_millis(100),
            pause: Duration::from_millis(20),
        };
        let mut check = |low: u64, high: u64| {
            let pause = backoff.next();
            assert!(
                (Duration::from_millis(low)..=Duration::from_millis(high)).contains(&pause),
                "{pause:?}"
            );
        };
        check(10, 20);
        check(20, 40);
        check(40, 80);
        check(50, 100);
        check(50, 100);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(20));
    }
}
