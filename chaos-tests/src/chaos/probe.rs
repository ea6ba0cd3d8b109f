//! Whether a pool serves, asked from outside: somebody on each node tries to log in and to write something durable, again and
//! again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::ground::LIMIT;
use crate::client::{Client, Login};
use crate::pool::Pool;

/// How long one try may take: a login that was begun while nobody could answer may be stuck for longer than the pool is.
const TRY: Duration = Duration::from_secs(3);

/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Who tries, on a node.
fn name(node: u64) -> String {
    format!("prober-{node}")
}

/// Makes the accounts.
pub(super) async fn prepare(pool: &Pool) -> Result<()> {
    let names: Vec<String> = pool.ids().into_iter().map(name).collect();
    pool.add_users(names.iter().map(String::as_str)).await
}

/// Waits until a write over each node is answered; gives how long each took from now on, in milliseconds.
pub(super) async fn writes(pool: &Pool) -> Result<Vec<u64>> {
    let began = Instant::now();
    let mut tries = JoinSet::new();
    for node in pool.ids() {
        tries.spawn(written(began, pool.login(node, &name(node))));
    }
    let mut took = Vec::new();
    while let Some(one) = tries.join_next().await {
        took.push(one.context("a prober")??);
    }
    Ok(took)
}

/// Tries until it is done.
async fn written(began: Instant, login: Login) -> Result<u64> {
    let mut pace = interval(TRY_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < LIMIT {
        pace.tick().await;
        if let Ok(Ok(())) = timeout(TRY, write(&login)).await {
            return Ok(u64::try_from(began.elapsed().as_millis())?);
        }
    }
    bail!("no write of {} was answered within {LIMIT:?}", login.user)
}

/// Logs in and sets something.
async fn write(login: &Login) -> Result<()> {
    let mut client = Client::connect(login).await?;
    let value = "<query xmlns='jabber:iq:private'><probe xmlns='urn:muster:probe'/></query>";
    client.iq_ok("set", None, value).await.map(drop)
}
