//! Two users who see each other: whether the picture is right again once all is healed (P14).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::people::{befriend, online, presence_of};
use tokio::time::Instant;

use crate::story::login;

/// The accounts.
pub const FRIENDS: [&str; 2] = ["romeo", "juliet"];

/// P14: views are right again within this time.
const CONVERGES: Duration = Duration::from_secs(10);

/// Friends, of whom one stays online on a node whatever happens to that.
pub struct Friends {
    romeo: Client,
}

impl Friends {
    /// They meet; Juliet goes again.
    pub async fn meet(romeos: u64, juliets: u64) -> Result<Friends> {
        let [romeo, juliet] = FRIENDS;
        let mut romeo = online(&login(romeos, romeo)).await?;
        let mut juliet = online(&login(juliets, juliet)).await?;
        befriend(&mut romeo, &mut juliet).await?;
        juliet.close().await?;
        Ok(Friends { romeo })
    }

    /// Juliet comes back somewhere and sees of Romeo what is true: that he is there, if his stream has lived; and no ghost of
    /// him, if it has not.
    pub async fn see_the_truth(mut self, via: u64, elsewhere: u64) -> Result<()> {
        let [romeo, juliet] = FRIENDS;
        let ping = format!("<ping xmlns='{}'/>", xmpp::ns::PING);
        let lives = self.romeo.iq_ok("get", None, &ping).await.is_ok();
        let full = self.romeo.jid().as_str().to_owned();
        let mut juliet = Client::connect(&login(via, juliet)).await?;
        juliet.send("<presence/>").await?;
        let shown = last_view(&mut juliet, &full, CONVERGES).await?;
        ensure!(
            shown == lives,
            "P14: {full} is shown as {}, and is {}",
            word(shown),
            word(lives)
        );
        let new = online(&login(elsewhere, romeo)).await?;
        let full = new.jid().as_str().to_owned();
        juliet
            .find("P14: who has come", CONVERGES, |came| {
                presence_of(came, &full, None)
            })
            .await?;
        new.close().await?;
        juliet
            .find("P14: who has gone", CONVERGES, |came| {
                presence_of(came, &full, Some("unavailable"))
            })
            .await?;
        juliet.close().await.context("the end")
    }
}

fn word(there: bool) -> &'static str {
    if there { "there" } else { "gone" }
}

/// Whether somebody was shown as there at the end of a time.
async fn last_view(client: &mut Client, full: &str, time: Duration) -> Result<bool> {
    let deadline = Instant::now() + time;
    let mut there = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(there);
        }
        // Nothing that comes is no error here.
        let Ok(came) = client.next_element(left).await else {
            return Ok(there);
        };
        tracing::debug!(came = came.source(), "seen by a friend");
        if presence_of(&came, full, None).is_some() {
            there = true;
        } else if presence_of(&came, full, Some("unavailable")).is_some() {
            there = false;
        }
    }
}
