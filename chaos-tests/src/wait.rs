//! Waiting for conditions, never for time: every wait has a limit and says what it waited for.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long anything may take that a healthy pool does at once.
pub const PROMPT: Duration = Duration::from_secs(10);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `probe` gives something.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
    }
}

/// Runs something that must end in time.
pub async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(limit, work).await {
        Ok(result) => result.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: not within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_awaited_and_a_limit_is_kept() {
        let mut looks = 0;
        let found = until("three looks", PROMPT, async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await.expect("it comes true"), 3);
        let never = until("never", Duration::from_millis(50), async || None::<()>).await;
        assert!(
            never
                .expect_err("it never comes true")
                .to_string()
                .starts_with("never: not within")
        );
    }
}
