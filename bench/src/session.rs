//! A session at work: one task reads and writes, and an observer sees what comes.
//!
//! There may be more than a hundred thousand of them in this process, so an idle one keeps no buffers: reads go through one
//! that all sessions of a thread share, and what is to be written is kept only until it is written.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use xmpp::ns;
use xmpp::scan::{Element, Frame, Framer};
use xmpp::write::XmlWriter;

use crate::login::{LoggedIn, acknowledge};
use crate::wire::Socket;

/// What may wait to be written; a sender with more is told so.
const OUTGOING_MAX: usize = 4096;

/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// Written at once.
const WRITE_BYTES: usize = 16 * 1024;

/// How long the server may take to end a stream that the client ended.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

thread_local! {
    /// What a session of this thread reads, until its framer has it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Sees what sessions receive. Called from many tasks.
pub(crate) trait Observer: Send + Sync + 'static {
    /// A stanza has come.
    fn stanza(&self, session: &Handle, stanza: Element<'_>, at: Instant);
    /// `<a/>`: the server has taken on so many stanzas.
    fn acknowledged(&self, _session: &Handle, _h: u32, _at: Instant) {}
}

/// Sees nothing.
pub(crate) struct Blind;

impl Observer for Blind {
    fn stanza(&self, _session: &Handle, _stanza: Element<'_>, _at: Instant) {}
}

/// What a session is to write.
struct Outgoing {
    waiting: VecDeque<Bytes>,
    /// Stanzas sent since stream management was turned on. Under one lock with what waits, so that numbers and order agree.
    sent: u32,
    /// The end of the stream is to be written behind all that.
    is_closing: bool,
    /// Nothing is written any more.
    is_over: bool,
    /// Whom to wake when there is something to write.
    waker: Option<Waker>,
}

impl Outgoing {
    fn push(&mut self, bytes: Bytes) -> bool {
        let has_room = !self.is_over && !self.is_closing && self.waiting.len() < OUTGOING_MAX;
        if has_room {
            self.waiting.push_back(bytes);
            self.wake();
        }
        has_room
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A session as others see it.
pub(crate) struct Handle {
    /// Its number among all sessions.
    pub(crate) index: usize,
    outgoing: Mutex<Outgoing>,
    /// The stream ended although nobody here ended it.
    broken: AtomicBool,
}

impl Handle {
    fn outgoing(&self) -> std::sync::MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a stanza to be written, and its number (XEP-0198 counts from 1); `None` if too many wait, or the session is
    /// over.
    pub(crate) fn send(&self, stanza: Bytes) -> Option<u32> {
        let mut outgoing = self.outgoing();
        if !outgoing.push(stanza) {
            return None;
        }
        outgoing.sent = outgoing.sent.wrapping_add(1);
        Some(outgoing.sent)
    }

    /// Gives what is no stanza and is not counted.
    pub(crate) fn send_uncounted(&self, element: Bytes) -> bool {
        self.outgoing().push(element)
    }

    /// Whether the stream has ended too early.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// A session and its task.
pub(crate) struct Session {
    pub(crate) handle: Arc<Handle>,
    task: JoinHandle<()>,
}

impl Session {
    /// Sets a session to work.
    pub(crate) fn start(index: usize, login: LoggedIn, observer: Arc<dyn Observer>) -> Session {
        let handle = Arc::new(Handle {
            index,
            outgoing: Mutex::new(Outgoing {
                waiting: VecDeque::new(),
                sent: login.sent,
                is_closing: false,
                is_over: false,
                waker: None,
            }),
            broken: AtomicBool::new(false),
        });
        let (socket, framer) = login.wire.into_parts();
        let working = Working {
            handle: Arc::clone(&handle),
            socket,
            framer,
            received: login.received,
            observer,
            batch: BytesMut::new(),
            is_dirty: false,
            has_said_end: false,
        };
        Session {
            handle,
            task: tokio::spawn(working.run()),
        }
    }

    /// Ends the stream as a client that logs out does.
    pub(crate) async fn close(mut self) {
        {
            let mut outgoing = self.handle.outgoing();
            outgoing.is_closing = true;
            outgoing.wake();
        }
        if tokio::time::timeout(CLOSE_WITHIN, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

struct Working {
    handle: Arc<Handle>,
    socket: Box<dyn Socket>,
    framer: Framer,
    received: Option<u32>,
    observer: Arc<dyn Observer>,
    /// On its way into the socket.
    batch: BytesMut,
    /// Something was written and is not flushed.
    is_dirty: bool,
    has_said_end: bool,
}

impl Working {
    async fn run(mut self) {
        self.frames_at_start();
        let ended = poll_fn(|cx| self.poll(cx)).await;
        let mut outgoing = self.handle.outgoing();
        outgoing.is_over = true;
        outgoing.waiting = VecDeque::new();
        if ended.is_err() && !outgoing.is_closing {
            self.handle.broken.store(true, Ordering::Relaxed);
        }
    }

    /// What came with the login's last bytes. A fault shows again at the first read.
    fn frames_at_start(&mut self) {
        let _ = self.frames();
    }

    /// Reads and writes what can be read and written; ready when the stream is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        let read = self.poll_read(cx)?;
        // What was read may have asked for answers.
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        read.map(Ok)
    }

    /// Ready when the server has ended the stream that was ended here.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            let socket = Pin::new(&mut self.socket);
            let framer = &mut self.framer;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(socket.poll_read(cx, &mut buffer));
                framer.push(buffer.filled());
                Poll::Ready(read.map(|()| buffer.filled().len()))
            });
            if ready!(read)? == 0 {
                return Poll::Ready(Err(anyhow::anyhow!("the server closed the connection")));
            }
            self.frames()?;
        }
    }

    fn frames(&mut self) -> anyhow::Result<()> {
        while let Some(frame) = self.framer.next()? {
            let Frame::Element(element) = frame else {
                bail!("the server ended the stream");
            };
            self.element(element.root(), Instant::now());
        }
        Ok(())
    }

    /// Never ready but with an error: there may always be more to write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            while !self.batch.is_empty() {
                let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.batch))?;
                if written == 0 {
                    return Poll::Ready(Err(anyhow::anyhow!("the connection takes nothing")));
                }
                self.batch.advance(written);
                self.is_dirty = true;
            }
            if !self.take_batch(cx) {
                break;
            }
        }
        // An idle session keeps no buffer.
        self.batch = BytesMut::new();
        if self.is_dirty {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.is_dirty = false;
        }
        Poll::Pending
    }

    /// Fills the batch with what waits; false if nothing does, and then this task is woken for more.
    fn take_batch(&mut self, cx: &Context<'_>) -> bool {
        let mut outgoing = self.handle.outgoing();
        while self.batch.len() < WRITE_BYTES {
            let Some(bytes) = outgoing.waiting.pop_front() else {
                break;
            };
            self.batch.extend_from_slice(&bytes);
        }
        if !self.batch.is_empty() {
            return true;
        }
        outgoing.waiting = VecDeque::new();
        if outgoing.is_closing && !self.has_said_end {
            self.has_said_end = true;
            self.batch.extend_from_slice(b"</stream:stream>");
            return true;
        }
        outgoing.waker = Some(cx.waker().clone());
        false
    }

    fn element(&mut self, element: Element<'_>, at: Instant) {
        match (element.ns(), element.name()) {
            (ns::CLIENT, name) => {
                self.received = self.received.map(|count| count.wrapping_add(1));
                if name == "iq" {
                    self.answer(element);
                }
                self.observer.stanza(&self.handle, element, at);
            }
            (ns::STREAM_MANAGEMENT, "r") => {
                self.handle
                    .send_uncounted(acknowledge(self.received.unwrap_or_default()));
            }
            (ns::STREAM_MANAGEMENT, "a") => {
                if let Some(h) = element.attr("h").and_then(|h| h.parse().ok()) {
                    self.observer.acknowledged(&self.handle, h, at);
                }
            }
            _ => {}
        }
    }

    /// RFC 6120 §8.2.3: each request is answered. The server pings to learn what has come.
    fn answer(&self, iq: Element<'_>) {
        let kind = iq.attr("type");
        if !matches!(kind.as_deref(), Some("get" | "set")) {
            return;
        }
        let is_known =
            iq.child("ping", ns::PING).is_some() || iq.child("query", ns::ROSTER).is_some();
        let mut answer = XmlWriter::new(ns::CLIENT);
        answer
            .start("iq")
            .attr("type", if is_known { "result" } else { "error" });
        answer
            .attr_opt("id", iq.attr("id").as_deref())
            .attr_opt("to", iq.attr("from").as_deref());
        if !is_known {
            answer.start("error").attr("type", "cancel");
            answer.start_ns("service-unavailable", ns::STANZA_ERROR);
        }
        self.handle.send(answer.finish());
    }
}
