//! Very many logins: at a rate, or as fast as they go. A session is at work as soon as it is logged in, and its contacts are
//! counted but not kept.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::crowd::LOGIN_WITHIN;
use crate::histogram::Histogram;
use crate::login::{LoginOptions, log_in};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::session::{Observer, Session};
use crate::target::Target;

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Logins that may be under way at once where they come at a rate, so that a slow one does not delay those behind it.
const PACED_AT_ONCE: usize = 256;

/// Those who are logged in.
#[derive(Default)]
pub(crate) struct Logins {
    pub(crate) sessions: Vec<Session>,
    /// From when each was due, or begun, to its own presence.
    pub(crate) took: Histogram,
    /// Those whose roster is not as it was founded.
    pub(crate) wrong_rosters: u64,
}

impl Logins {
    /// Adds others.
    pub(crate) fn merge(&mut self, other: Logins) {
        self.sessions.extend(other.sessions);
        self.took.merge(&other.took);
        self.wrong_rosters += other.wrong_rosters;
    }

    /// Sessions whose stream has ended too early.
    pub(crate) fn broken(&self) -> u64 {
        let broken = self.sessions.iter().filter(|one| one.handle.is_broken());
        broken.count() as u64
    }

    /// In the order of their numbers.
    pub(crate) fn sort(&mut self) {
        self.sessions.sort_by_key(|session| session.handle.index);
    }
}

/// Logs these sessions in. Each must find so many contacts.
pub(crate) async fn run(
    target: &Arc<Target>,
    sessions: Range<usize>,
    pace: Option<Pace>,
    contacts: usize,
    observer: Arc<dyn Observer>,
    progress: &mut Progress,
) -> anyhow::Result<Logins> {
    let (first, start) = (sessions.start, Instant::now());
    let next = Arc::new(AtomicUsize::new(first));
    let mut workers = JoinSet::new();
    let at_once = match pace {
        Some(_) => PACED_AT_ONCE,
        None => target.logins_at_once,
    };
    for _ in 0..at_once.clamp(1, sessions.len().max(1)) {
        let (target, next) = (Arc::clone(target), Arc::clone(&next));
        let (observer, end) = (Arc::clone(&observer), sessions.end);
        workers.spawn(async move {
            let mut done = Logins::default();
            loop {
                let session = next.fetch_add(1, Ordering::Relaxed);
                if session >= end {
                    return anyhow::Ok(done);
                }
                let mut due = Instant::now();
                if let Some(pace) = pace {
                    due = start + pace.due(session - first);
                    tokio::time::sleep_until(due.into()).await;
                }
                one(&target, session, contacts, &observer, due, &mut done).await?;
            }
        });
    }
    let mut all = Logins::default();
    while !workers.is_empty() {
        if let Ok(Some(done)) = tokio::time::timeout(LOOK, workers.join_next()).await {
            all.merge(done??);
        }
        progress.at(next.load(Ordering::Relaxed).min(sessions.end) - first);
    }
    Ok(all)
}

async fn one(
    target: &Target,
    session: usize,
    contacts: usize,
    observer: &Arc<dyn Observer>,
    due: Instant,
    done: &mut Logins,
) -> anyhow::Result<()> {
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let login = tokio::time::timeout(LOGIN_WITHIN, Box::pin(log_in(target, session, options)));
    let login = login.await.map_err(anyhow::Error::from);
    let login = login.and_then(|login| login);
    let login = login.with_context(|| format!("session {session}"))?;
    done.took.record(due.elapsed());
    done.wrong_rosters += u64::from(login.contacts.len() != contacts);
    let session = Session::start(session, login, Arc::clone(observer));
    done.sessions.push(session);
    Ok(())
}
