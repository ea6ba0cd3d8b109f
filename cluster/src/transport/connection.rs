//! One established connection: reads frames, drains the queue into writes, and watches for signs of life.
//!
//! Reader, writer and watch run as one task; whichever ends first ends the connection.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior};

use crate::transport::config::LaneLimits;
use crate::transport::control::{Control, is_control};
use crate::transport::event::{Direction, DownReason};
use crate::transport::frame::{Frame, HEADER_BYTES, Header, Lane};
use crate::transport::queue::{Drained, Queue};

/// The queue is drained into writes of at most this size.
const WRITE_BYTES: usize = 64 * 1024;
/// Frames up to this size are read through the buffer, larger ones straight into their own allocation.
const READ_BYTES: usize = 32 * 1024;

/// What a connection needs to know about itself.
pub(crate) struct Role {
    pub(crate) lane: Lane,
    pub(crate) direction: Direction,
    pub(crate) limits: LaneLimits,
    pub(crate) linger: Duration,
}

/// Runs the connection to its end. Every frame but the transport's own signs of life goes to `receive`,
/// whose error ends the connection.
pub(crate) async fn run<S>(
    stream: S,
    queue: &Queue,
    role: &Role,
    receive: impl FnMut(Frame) -> Result<(), DownReason>,
) -> DownReason
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (input, output) = tokio::io::split(stream);
    let signs = Signs::new();
    tokio::select! {
        biased;
        reason = read_frames(input, queue, role, &signs, receive) => reason,
        reason = write_frames(output, queue, &signs) => reason,
        reason = watch(queue, role, &signs) => reason,
        reason = linger(queue, role) => reason,
    }
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut input: R,
    queue: &Queue,
    role: &Role,
    signs: &Signs,
    mut receive: impl FnMut(Frame) -> Result<(), DownReason>,
) -> DownReason {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let space = buffer.get_mut(filled..).unwrap_or_default();
        match input.read(space).await {
            Ok(0) => return DownReason::Eof,
            Ok(count) => filled += count,
            Err(error) => return reason_of(&error),
        }
        signs.read();
        let mut rest = buffer.get(..filled).unwrap_or_default();
        while let Some(bytes) = rest.first_chunk::<HEADER_BYTES>() {
            let header = match Header::read(bytes, role.limits.body_max) {
                Ok(header) => header,
                Err(refusal) => {
                    tracing::warn!(lane = %role.lane, %refusal, "a peer broke the protocol");
                    return DownReason::Protocol;
                }
            };
            let present = rest.len() - HEADER_BYTES;
            if present < header.length && header.length + HEADER_BYTES <= READ_BYTES {
                break;
            }
            rest.advance(HEADER_BYTES);
            // Bodies get allocations of their own size: a slice of the buffer would keep all of it alive
            // for as long as one small message waits somewhere.
            let body = if present >= header.length {
                let body = rest
                    .get(..header.length)
                    .map(Bytes::copy_from_slice)
                    .unwrap_or_default();
                rest.advance(header.length);
                body
            } else {
                let start = std::mem::take(&mut rest);
                match read_large(&mut input, header.length, start, signs).await {
                    Ok(body) => body,
                    Err(reason) => return reason,
                }
            };
            if let Err(reason) = dispatch(header.with_body(body), queue, &mut receive) {
                return reason;
            }
        }
        let left = rest.len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

/// Reads the rest of a body that doesn't fit into the buffer. Its length has been checked.
async fn read_large<R: AsyncRead + Unpin>(
    input: &mut R,
    length: usize,
    start: &[u8],
    signs: &Signs,
) -> Result<Bytes, DownReason> {
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(start);
    while body.len() < length {
        let missing = u64::try_from(length - body.len()).unwrap_or(u64::MAX);
        match (&mut *input).take(missing).read_buf(&mut body).await {
            Ok(0) => return Err(DownReason::Eof),
            Ok(_) => signs.read(),
            Err(error) => return Err(reason_of(&error)),
        }
    }
    Ok(body.into())
}

fn dispatch(
    frame: Frame,
    queue: &Queue,
    receive: &mut impl FnMut(Frame) -> Result<(), DownReason>,
) -> Result<(), DownReason> {
    if !is_control(&frame) {
        return receive(frame);
    }
    match Control::read(&frame) {
        Some(Control::Ping) => {
            // A queue too full even for this is a sign of life the peer will read instead.
            let _ = queue.push_control(Control::Pong.frame(frame.sequence));
            Ok(())
        }
        Some(Control::Goodbye) => Err(DownReason::Goodbye),
        Some(Control::NoReply) => receive(frame),
        Some(Control::Pong) | None => Ok(()),
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut output: W,
    queue: &Queue,
    signs: &Signs,
) -> DownReason {
    let mut batch = Vec::new();
    let mut bytes = BytesMut::new();
    loop {
        let drained = queue.drain(&mut batch, WRITE_BYTES).await;
        let written = match drained {
            Drained::Frames => write_batch(&mut output, &mut batch, &mut bytes, signs).await,
            Drained::End(reason) => {
                Control::Goodbye.frame(0).put_header(&mut bytes);
                // The peer may be gone already; we leave in either case.
                drop(output.write_all(&bytes).await);
                drop(output.shutdown().await);
                return reason;
            }
        };
        if let Err(error) = written {
            return reason_of(&error);
        }
    }
}

/// One write for the whole batch. Only a batch of one frame can be larger than [`WRITE_BYTES`]; it goes
/// out in pieces of that size.
async fn write_batch<W: AsyncWrite + Unpin>(
    output: &mut W,
    batch: &mut Vec<Frame>,
    bytes: &mut BytesMut,
    signs: &Signs,
) -> io::Result<()> {
    let mut is_data = false;
    for frame in batch.drain(..) {
        is_data |= !is_control(&frame);
        frame.put_header(bytes);
        let room = WRITE_BYTES.saturating_sub(bytes.len());
        let (head, tail) = frame.body.split_at(frame.body.len().min(room));
        bytes.extend_from_slice(head);
        for piece in tail.chunks(WRITE_BYTES) {
            output.write_all(bytes).await?;
            bytes.clear();
            bytes.extend_from_slice(piece);
            signs.wrote();
        }
    }
    output.write_all(bytes).await?;
    output.flush().await?;
    bytes.clear();
    if is_data {
        signs.wrote();
    }
    Ok(())
}

/// When something last went each way, in milliseconds since the start.
struct Signs {
    start: Instant,
    read: AtomicU64,
    wrote: AtomicU64,
}

impl Signs {
    fn new() -> Signs {
        Signs {
            start: Instant::now(),
            read: AtomicU64::new(0),
            wrote: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self) {
        self.read.store(self.now(), Ordering::Relaxed);
    }

    fn wrote(&self) {
        self.wrote.store(self.now(), Ordering::Relaxed);
    }

    fn read_age(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.read.load(Ordering::Relaxed)))
    }

    /// Bytes that the peer's kernel took count as a sign of life where queues may be long: a ping behind
    /// megabytes on a slow link is late and yet nobody is dead. Gossip is short, so only reading counts.
    fn life_age(&self, lane: Lane) -> Duration {
        let read = self.read.load(Ordering::Relaxed);
        let sign = if lane == Lane::Gossip {
            read
        } else {
            read.max(self.wrote.load(Ordering::Relaxed))
        };
        Duration::from_millis(self.now().saturating_sub(sign))
    }
}

/// Pings when nothing comes, and ends a connection that shows no life.
async fn watch(queue: &Queue, role: &Role, signs: &Signs) -> DownReason {
    let period = role.limits.ping_interval;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let late = last.elapsed() > period * 2;
        last = Instant::now();
        // We were the one who stood still (a paused machine): what the peer sent meanwhile is still unread.
        if !late && signs.life_age(role.lane) >= role.limits.idle_timeout {
            return DownReason::Timeout;
        }
        if role.direction == Direction::Outgoing && signs.read_age() >= period / 2 {
            // It fails only if the connection ends anyway or the queue is full, which the peer reads from.
            let _ = queue.push_control(Control::Ping.frame(0));
        }
    }
}

/// Once the connection is to be closed, flushing may take only so long.
async fn linger(queue: &Queue, role: &Role) -> DownReason {
    let reason = queue.finished().await;
    tokio::time::sleep(role.linger).await;
    reason
}

fn reason_of(error: &io::Error) -> DownReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => DownReason::Reset,
        io::ErrorKind::UnexpectedEof => DownReason::Eof,
        // `TCP_USER_TIMEOUT` and keepalive end as this.
        io::ErrorKind::TimedOut => DownReason::Timeout,
        _ => DownReason::Io,
    }
}
