//! A session at work: one task reads, one writes, and an observer sees what comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xmpp::ns;
use xmpp::scan::{Element, Frame, Framer};
use xmpp::write::XmlWriter;

use crate::login::{LoggedIn, acknowledge};
use crate::wire::{Reader, Writer};

/// What may wait to be written; a sender with more is told so.
const OUTGOING_MAX: usize = 4096;

/// Read at once.
const READ_BYTES: usize = 4096;

/// Written at once.
const WRITE_BYTES: usize = 16 * 1024;

/// How long the server may take to end a stream that the client ended.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

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

/// What a session's writer is told.
enum Outgoing {
    Bytes(Bytes),
    Close,
}

/// A session as others see it.
pub(crate) struct Handle {
    /// Its number among all sessions.
    pub(crate) index: usize,
    outgoing: mpsc::Sender<Outgoing>,
    /// Stanzas sent since stream management was turned on. Held while one is handed over, so that numbers and order
    /// agree.
    sent: Mutex<u32>,
    /// The stream ended although nobody here ended it.
    broken: AtomicBool,
    closing: AtomicBool,
}

impl Handle {
    /// Hands a stanza to the writer and gives its number (XEP-0198 counts from 1); `None` if too many wait, or the
    /// session is over.
    pub(crate) fn send(&self, stanza: Bytes) -> Option<u32> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        self.outgoing.try_send(Outgoing::Bytes(stanza)).ok()?;
        *sent = sent.wrapping_add(1);
        Some(*sent)
    }

    /// Hands on what is no stanza and is not counted.
    pub(crate) fn send_uncounted(&self, element: Bytes) -> bool {
        self.outgoing.try_send(Outgoing::Bytes(element)).is_ok()
    }

    /// Whether the stream has ended too early.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// A session and its tasks.
pub(crate) struct Session {
    pub(crate) handle: Arc<Handle>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Session {
    /// Sets a session to work.
    pub(crate) fn start(index: usize, login: LoggedIn, observer: Arc<dyn Observer>) -> Session {
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let handle = Arc::new(Handle {
            index,
            outgoing,
            sent: Mutex::new(login.sent),
            broken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let (reader, writer, framer) = login.wire.split();
        let reading = Reading {
            handle: Arc::clone(&handle),
            reader,
            framer,
            received: login.received,
            observer,
        };
        Session {
            handle,
            reader: tokio::spawn(reading.run()),
            writer: tokio::spawn(write(writer, waiting)),
        }
    }

    /// Ends the stream as a client that logs out does.
    pub(crate) async fn close(mut self) {
        self.handle.closing.store(true, Ordering::Relaxed);
        let told = self.handle.outgoing.send(Outgoing::Close).await.is_ok();
        if !told
            || tokio::time::timeout(CLOSE_WITHIN, &mut self.reader)
                .await
                .is_err()
        {
            self.reader.abort();
        }
        self.writer.abort();
    }
}

struct Reading {
    handle: Arc<Handle>,
    reader: Reader,
    framer: Framer,
    received: Option<u32>,
    observer: Arc<dyn Observer>,
}

impl Reading {
    async fn run(mut self) {
        if self.until_end().await.is_err() && !self.handle.closing.load(Ordering::Relaxed) {
            self.handle.broken.store(true, Ordering::Relaxed);
        }
    }

    async fn until_end(&mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            while let Some(frame) = self.framer.next()? {
                let Frame::Element(element) = frame else {
                    anyhow::bail!("the server ended the stream");
                };
                self.element(element.root(), Instant::now());
            }
            let read = self.reader.read(&mut buffer).await?;
            if read == 0 {
                anyhow::bail!("the server closed the connection");
            }
            self.framer.push(buffer.get(..read).unwrap_or_default());
        }
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

async fn write(mut writer: Writer, mut waiting: mpsc::Receiver<Outgoing>) {
    while let Some(mut next) = waiting.recv().await {
        let mut batch = BytesMut::new();
        let ended = loop {
            match next {
                Outgoing::Bytes(bytes) => batch.extend_from_slice(&bytes),
                Outgoing::Close => {
                    batch.extend_from_slice(b"</stream:stream>");
                    break true;
                }
            }
            if batch.len() >= WRITE_BYTES {
                break false;
            }
            match waiting.try_recv() {
                Ok(more) => next = more,
                Err(_) => break false,
            }
        };
        let written = writer.write_all(&batch).await.is_ok() && writer.flush().await.is_ok();
        // A broken connection is seen by the reader, which says so.
        if !written || ended {
            return;
        }
    }
}
