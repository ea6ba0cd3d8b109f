//! A session's socket. Reads go through a buffer shared by the arbiter's sessions, so an idle one holds none; writes
//! gather what has piled up while the last one was under way.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};

use super::{Ending, FLUSH_MAX, LEAVE_MAX, SessionActor};
use crate::listener::Wire;
use crate::mailbox::SessionMailbox;

const SCRATCH_BYTES: usize = 16 * 1024;

/// What a client may still send when its stream is over.
pub(crate) const LINGER_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Waits for bytes without holding a buffer meanwhile. Empty: the peer has closed.
async fn read_some(mut reader: ReadHalf<Wire>) -> (ReadHalf<Wire>, io::Result<Bytes>) {
    let result = poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut reader).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled()))),
            }
        })
    })
    .await;
    (reader, result)
}

/// Writes all of it; `mailbox` hears of whatever the socket takes.
async fn write_out(
    writer: &mut WriteHalf<Wire>,
    mut bytes: Bytes,
    mailbox: &SessionMailbox,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = writer.write(&bytes).await?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes.advance(taken);
        mailbox.took(taken);
    }
    writer.flush().await
}

impl SessionActor {
    /// Reads on, if there is room for what comes and no read is under way.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        if self.ending != Ending::No
            || self.leaves_by.is_some()
            || !self.has_room()
            || !self.core.wants_bytes()
        {
            return;
        }
        self.read_once(ctx);
    }

    fn read_once(&mut self, ctx: &mut Context<Self>) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let future = read_some(reader).into_actor(self).map(|(reader, result), actor, ctx| {
            actor.reading = None;
            actor.reader = Some(reader);
            match result {
                Ok(bytes) if actor.is_dropped(bytes.len(), ctx) => {}
                Ok(bytes) if bytes.is_empty() => {
                    actor.lost("the client closed the connection", ctx);
                }
                Ok(bytes) => {
                    let now = Instant::now();
                    actor.bytes_came(bytes.len(), now);
                    actor.core.push_bytes(&bytes, now);
                    actor.effects(ctx);
                    actor.go_on_unread(ctx);
                }
                Err(error) => {
                    tracing::debug!(session = actor.key.number, %error, "the connection failed");
                    actor.lost("the connection failed", ctx);
                }
            }
        });
        self.reading = Some(ctx.spawn(future));
    }

    /// Writes what has gathered, if no write is under way; in one go with what else this turn brings.
    pub(super) fn flush(&mut self, ctx: &mut Context<Self>) {
        if self.out.is_empty() {
            if matches!(self.ending, Ending::Flushing(_)) && self.writing == 0 {
                self.shut_down(ctx);
            }
            return;
        }
        self.mailbox.unwritten(self.out.len());
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        // First polled when every message that has come by now is handled.
        let turn_ends = actix::fut::ready(()).into_actor(self);
        let future = turn_ends
            .then(move |(), actor, _| {
                let bytes = std::mem::take(&mut actor.out).freeze();
                actor.writing = bytes.len();
                actor.mailbox.unwritten(0);
                actor.mailbox.offers(bytes.len());
                let mailbox = Arc::clone(&actor.mailbox);
                let write = async move {
                    let result = write_out(&mut writer, bytes, &mailbox).await;
                    (writer, result)
                };
                write.into_actor(actor)
            })
            .map(|(writer, result): (_, io::Result<()>), actor, ctx| {
                actor.write_task = None;
                actor.writer = Some(writer);
                actor.writing = 0;
                match result {
                    // What was not read for the bytes in the way is read now.
                    Ok(()) if actor.ending == Ending::No => actor.effects(ctx),
                    Ok(()) => actor.flush(ctx),
                    Err(error) => {
                        tracing::debug!(session = actor.key.number, %error, "the connection failed");
                        actor.lost("the connection failed", ctx);
                    }
                }
            });
        self.write_task = Some(ctx.spawn(future));
    }

    /// The client has gone: what it sent before is done in its order, and it goes offline after that.
    pub(super) fn leave(&mut self, ctx: &mut Context<Self>) {
        if self.lanes.is_idle() || self.ending != Ending::No {
            return match self.core.is_closed() && self.ending == Ending::No {
                true => self.close(ctx),
                // The connection is gone, too.
                false => ctx.stop(),
            };
        }
        self.leaves_by.get_or_insert(Instant::now() + LEAVE_MAX);
        // What waited for an acknowledgement need not wait any more, and the outcomes are among it.
        ctx.notify(super::Wake);
        self.flush(ctx);
        self.set_timer(ctx);
    }

    /// Whether what a client that is gone had sent is done.
    pub(super) fn has_left(&self) -> bool {
        self.leaves_by.is_some() && self.ending == Ending::No && self.lanes.is_idle()
    }

    /// The stream is over: what was written goes out, then the connection closes.
    pub(super) fn close(&mut self, ctx: &mut Context<Self>) {
        if self.ending == Ending::No {
            let detached = self.is_detached();
            self.ending = Ending::Flushing(Instant::now() + FLUSH_MAX);
            self.lanes.clear();
            self.archives = None;
            self.say_goodbye();
            // What the client has not acknowledged waits in the log, and what it asked has nobody to be told.
            self.management = None;
            self.resumption = None;
            self.pending.clear();
            if detached {
                return ctx.stop();
            }
            self.flush(ctx);
            self.set_timer(ctx);
        }
    }

    fn shut_down(&mut self, ctx: &mut Context<Self>) {
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let future = async move { writer.shutdown().await }
            .into_actor(self)
            .map(|result, actor, ctx| {
                if let Err(error) = result {
                    tracing::debug!(session = actor.key.number, %error, "the connection did not close cleanly");
                    return ctx.stop();
                }
                let fabric = Arc::clone(&actor.fabric);
                let until = Instant::now() + fabric.streams.negotiation.close;
                actor.ending = Ending::Lingering { until, left: LINGER_BYTES_MAX };
                actor.set_timer(ctx);
                let hurried = async move { fabric.connections.hurry().await };
                ctx.spawn(hurried.into_actor(actor).map(|(), _, ctx| ctx.stop()));
                actor.read_once(ctx);
            });
        ctx.spawn(future);
    }

    /// Whether the stream is over, so that what comes is not looked at. The end of it ends the session.
    fn is_dropped(&mut self, bytes: usize, ctx: &mut Context<Self>) -> bool {
        let Ending::Lingering { left, .. } = &mut self.ending else {
            return false;
        };
        *left = left.saturating_sub(bytes);
        if bytes == 0 || *left == 0 {
            ctx.stop();
        } else {
            self.read_once(ctx);
        }
        true
    }
}
