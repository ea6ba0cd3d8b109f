//! Incoming connections: who may enter, and the delivery of what they send.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

use crate::net::{TcpListener, TcpStream};
use crate::node_id::{Incarnation, NodeId};
use crate::transport::calls::Reply;
use crate::transport::connection::{self, Role};
use crate::transport::control::is_control;
use crate::transport::dial;
use crate::transport::event::{Direction, DownReason, PeerEvent};
use crate::transport::frame::{Frame, Lane, flags};
use crate::transport::hello::{Hello, HelloError, Identity, Purpose, Refusal};
use crate::transport::queue::Queue;
use crate::transport::shared::{Alive, Shared, Slot};
use crate::transport::socket::Socket;
use crate::transport::tls;

/// After a failed `accept` (no file descriptors left, say) the port rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why an incoming connection was not let in.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("its certificate is refused: {0}")]
    Certificate(&'static str),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("it broke during the hello: {0}")]
    Broken(#[from] io::Error),
    #[error("its handshake took longer than {0:?}")]
    Timeout(Duration),
}

/// A connection past its hello.
struct Entered {
    stream: TlsStream<Socket>,
    node: NodeId,
    lane: Lane,
    told: Incarnation,
    incarnation: Incarnation,
    protocol: u16,
}

/// Accepts until the transport stops.
pub(crate) async fn accept_all(shared: Arc<Shared>, listener: TcpListener, alive: Alive) {
    let handshakes = Arc::new(Semaphore::new(shared.limits.handshakes_max));
    loop {
        let next = tokio::select! {
            biased;
            () = shared.stopping() => break,
            next = accept_one(&listener, &handshakes) => next,
        };
        match next {
            Ok((tcp, permit)) => {
                tokio::spawn(Box::pin(serve(shared.clone(), tcp, permit, alive.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a cluster connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(alive);
}

async fn accept_one(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = handshakes
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (tcp, _) = listener.accept().await?;
    Ok((tcp, permit))
}

async fn serve(shared: Arc<Shared>, tcp: TcpStream, permit: OwnedSemaphorePermit, alive: Alive) {
    let address = tcp.peer_addr().ok();
    let limit = shared.limits.handshake_timeout;
    let entered = tokio::select! {
        biased;
        () = shared.stopping() => return,
        entered = tokio::time::timeout(limit, Box::pin(handshake(&shared, tcp))) => {
            entered.unwrap_or(Err(Rejected::Timeout(limit)))
        }
    };
    drop(permit);
    match entered {
        Ok(Some(entered)) => {
            let runtime = shared.runtime_of(entered.node, entered.lane).clone();
            runtime.spawn(Box::pin(run_at_home(shared, entered, alive)));
        }
        Ok(None) => {}
        Err(rejected) => tracing::warn!(?address, %rejected, "a cluster connection was not let in"),
    }
}

/// Runs the connection on the runtime of its lane, which is known since the hello only.
async fn run_at_home(shared: Arc<Shared>, mut entered: Entered, alive: Alive) {
    match entered.stream.get_mut().0.move_here() {
        Ok(()) => run(&shared, entered).await,
        Err(error) => tracing::warn!(peer = %entered.node, %error, "a cluster connection broke"),
    }
    drop(alive);
}

/// TLS, then the hello. `None` is a probe, which is over when it is answered. Nothing the peer says is
/// decoded before its certificate has named a member.
async fn handshake(shared: &Shared, tcp: TcpStream) -> Result<Option<Entered>, Rejected> {
    dial::tune(&tcp, shared.limits.user_timeout)?;
    let mut stream = Box::pin(shared.tls().acceptor.accept(Socket::new(tcp)))
        .await
        .map_err(Rejected::Tls)?;
    let node = {
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.ok_or(Rejected::Certificate("there is none"))?;
        tls::certified_node(leaf, &shared.pool).map_err(Rejected::Certificate)?
    };
    let bytes = dial::read_hello(&mut stream).await?;
    let own = shared.identity();
    let verdict = judge(shared, &own, node, &bytes);
    let (code, refusal) = match &verdict {
        Ok((hello, ..)) => (hello.purpose, None),
        Err(HelloError::Refused(refusal, _)) => (0, Some(*refusal)),
        // It doesn't speak our language; an answer would not be understood.
        Err(error) => return Err(error.clone().into()),
    };
    stream
        .write_all(&Hello::answering(&own, code, refusal).encode())
        .await?;
    stream.flush().await?;
    let closing = refusal.is_some() || matches!(verdict, Ok((_, Purpose::Probe, _)));
    if closing {
        stream.shutdown().await?;
    }
    let (hello, purpose, protocol) = verdict?;
    Ok(match purpose {
        Purpose::Probe => None,
        Purpose::Lane(lane) => Some(Entered {
            stream,
            node,
            lane,
            told: own.incarnation,
            incarnation: hello.incarnation,
            protocol,
        }),
    })
}

fn judge(
    shared: &Shared,
    own: &Identity,
    node: NodeId,
    bytes: &[u8],
) -> Result<(Hello, Purpose, u16), HelloError> {
    if node == shared.node || !shared.is_member(node) {
        return Err(HelloError::Refused(Refusal::NotMember, node.to_string()));
    }
    if shared.is_stopping() {
        return Err(HelloError::Refused(Refusal::Stopping, String::new()));
    }
    let hello = Hello::decode(bytes)?;
    let (purpose, protocol) = hello.accept(own, node)?;
    if !shared.note_incarnation(node, hello.incarnation) {
        let detail = format!("{node} says {}", hello.incarnation);
        return Err(HelloError::Refused(Refusal::StaleIncarnation, detail));
    }
    Ok((hello, purpose, protocol))
}

async fn run(shared: &Arc<Shared>, entered: Entered) {
    let Entered {
        stream,
        node,
        lane,
        told,
        incarnation,
        protocol,
    } = entered;
    let limits = *shared.limits.lane(lane);
    let queue = Arc::new(Queue::new(limits.queue_bytes, limits.body_max));
    let slot = shared.slot(node, lane);
    let up = |generation| PeerEvent::Up {
        node,
        lane,
        direction: Direction::Incoming,
        incarnation,
        generation,
        protocol,
    };
    slot.protocol.store(protocol, Ordering::SeqCst);
    let generation = take_turn(shared, &slot, &queue, (node, lane), up);
    // Whoever stopped us, removed the node or changed what we say in hellos before did not see this connection.
    if shared.is_stopping() || shared.is_outdated(lane, told) || !shared.speaks(protocol) {
        queue.finish(DownReason::Local);
    } else if !shared.is_member(node) {
        queue.finish(DownReason::Removed);
    } else if let Some(peer) = shared.peer(node) {
        peer.wake_diallers();
    }
    let role = Role {
        lane,
        direction: Direction::Incoming,
        limits,
        linger: shared.limits.linger,
    };
    let receive = |frame| deliver(shared, &slot, &queue, generation, (node, lane), frame);
    let reason = connection::run(stream, &queue, &role, receive).await;
    queue.close(reason);
    let mut turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
    // If a successor has taken the turn, it has told of our end already.
    if *turn == Some(generation) {
        *turn = None;
        shared.emit(PeerEvent::Down {
            node,
            lane,
            direction: Direction::Incoming,
            generation,
            reason,
        });
    }
}

/// Makes this the connection whose frames count, and ends the one before.
fn take_turn(
    shared: &Shared,
    slot: &Slot,
    queue: &Arc<Queue>,
    (node, lane): (NodeId, Lane),
    up: impl FnOnce(u64) -> PeerEvent,
) -> u64 {
    let mut turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let before = slot
        .queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(queue.clone());
    if let Some(before) = before {
        before.finish(DownReason::Replaced);
    }
    if let Some(generation) = turn.take() {
        let reason = DownReason::Replaced;
        shared.emit(PeerEvent::Down {
            node,
            lane,
            direction: Direction::Incoming,
            generation,
            reason,
        });
    }
    let generation = shared.next_generation();
    *turn = Some(generation);
    shared.emit(up(generation));
    generation
}

fn deliver(
    shared: &Shared,
    slot: &Slot,
    queue: &Arc<Queue>,
    generation: u64,
    (node, lane): (NodeId, Lane),
    mut frame: Frame,
) -> Result<(), DownReason> {
    // What an opener sends is a request or a one-way frame; replies travel the other way.
    if is_control(&frame) || frame.flags & flags::REPLY != 0 {
        return Err(DownReason::Protocol);
    }
    let turn = slot.turn.lock().unwrap_or_else(PoisonError::into_inner);
    if *turn != Some(generation) {
        return Err(DownReason::Replaced);
    }
    let reply =
        (frame.flags & flags::REQUEST != 0).then(|| Reply::over(queue.clone(), frame.sequence));
    frame.flags &= flags::APPLICATION;
    shared.deliver(node, lane, frame, reply)
}
