//! Many sessions: accounts made, logged in a few at a time, logged out again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::histogram::Histogram;
use crate::login::{LoggedIn, LoginOptions, log_in, register};
use crate::session::{Handle, Observer, Session};
use crate::target::Target;

/// Sessions of one run.
pub(crate) const SESSIONS_MAX: usize = 100_000;

/// How long one login or registration may take.
pub(crate) const LOGIN_WITHIN: Duration = Duration::from_secs(60);

/// Sessions logged in, in the order of their users.
pub(crate) struct Crowd {
    pub(crate) sessions: Vec<Session>,
    /// How long each login took, from connect to bound, or to its own presence.
    pub(crate) logins: Histogram,
    /// The contacts of each session's user, if rosters were asked for.
    pub(crate) contacts: Vec<Vec<String>>,
}

impl Crowd {
    /// Makes the accounts of the first `users` users where the server makes accounts.
    pub(crate) async fn register(target: &Arc<Target>, users: usize) -> anyhow::Result<()> {
        let known = target.registered.load(Ordering::Relaxed);
        if !target.register || users <= known {
            return Ok(());
        }
        let one = move |target: Arc<Target>, user: usize| async move {
            register(&target, known + user).await
        };
        spread(target, users - known, one).await?;
        target.registered.store(users, Ordering::Relaxed);
        Ok(())
    }

    /// Logs `sessions` users in, one session each.
    pub(crate) async fn log_in(
        target: &Arc<Target>,
        sessions: usize,
        options: LoginOptions,
        observer: Arc<dyn Observer>,
    ) -> anyhow::Result<Crowd> {
        let one = move |target: Arc<Target>, session: usize| async move {
            let start = Instant::now();
            let login = log_in(&target, session, options).await?;
            Ok((login, start.elapsed()))
        };
        let mut logins = Histogram::default();
        let mut crowd: Vec<(usize, LoggedIn)> = Vec::with_capacity(sessions);
        for (index, (login, took)) in spread(target, sessions, one).await? {
            logins.record(took);
            crowd.push((index, login));
        }
        crowd.sort_by_key(|(index, _)| *index);
        let contacts = crowd
            .iter_mut()
            .map(|(_, login)| std::mem::take(&mut login.contacts))
            .collect();
        let start = |(index, login)| Session::start(index, login, Arc::clone(&observer));
        Ok(Crowd {
            sessions: crowd.into_iter().map(start).collect(),
            logins,
            contacts,
        })
    }

    /// The sessions as others see them.
    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.sessions
            .iter()
            .map(|session| Arc::clone(&session.handle))
            .collect()
    }

    /// Sessions whose stream has ended too early.
    pub(crate) fn broken(&self) -> u64 {
        self.sessions
            .iter()
            .filter(|session| session.handle.is_broken())
            .count() as u64
    }

    /// Logs everybody out.
    pub(crate) async fn log_out(self) {
        let mut closing = JoinSet::new();
        for session in self.sessions {
            closing.spawn(session.close());
        }
        while closing.join_next().await.is_some() {}
    }
}

/// Does something for each number below `count`, a few at a time.
async fn spread<T, F, Work>(
    target: &Arc<Target>,
    count: usize,
    work: F,
) -> anyhow::Result<Vec<(usize, T)>>
where
    T: Send + 'static,
    F: Fn(Arc<Target>, usize) -> Work + Clone + Send + 'static,
    Work: Future<Output = anyhow::Result<T>> + Send,
{
    if count > SESSIONS_MAX {
        anyhow::bail!("{count} sessions are more than {SESSIONS_MAX}");
    }
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..target.logins_at_once.clamp(1, count.max(1)) {
        let (target, next, work) = (Arc::clone(target), Arc::clone(&next), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(done);
                }
                let outcome = tokio::time::timeout(LOGIN_WITHIN, work(Arc::clone(&target), number));
                let outcome = outcome
                    .await
                    .map_err(anyhow::Error::from)
                    .and_then(|outcome| outcome);
                done.push((number, outcome.with_context(|| format!("user {number}"))?));
            }
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(done) = workers.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}
